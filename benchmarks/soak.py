"""Trainings and a syncer under random faults and kills, one attack after another, for a chosen time.

    python benchmarks/soak.py --schedules 200
    python benchmarks/soak.py --minutes 60 --report docs/evidence/soak.md
    python benchmarks/soak.py --seed 17 --schedules 1        # one attack again

Each number is an attack (`tests/proof/schedules.py`): some runs, at least five faults of the server, at least one kill,
then recovery, delivery and the judge. Exit code 1 when the judge finds anything missing, doubled or moved; the numbers
of those attacks are printed.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from delivery.fragments import Templates
from proof.schedules import Result, attack


def main() -> int:
    """Attack until the time or the number is reached; print what happened."""
    wanted = _arguments()
    directory = Path(tempfile.mkdtemp(prefix="soak-", dir=wanted.scratch))
    started = time.monotonic()
    results: list[Result] = []
    broken: list[str] = []
    try:
        _own_home(directory)
        templates = Templates.log(_made(directory / "templates"))
        for seed in _seeds(wanted, started):
            place = directory / f"attack-{seed}"
            try:
                result = attack(seed, place, templates, faults=wanted.faults)
            except Exception as error:  # noqa: BLE001 - an attack that breaks is a finding, and the soak goes on
                broken.append(f"seed {seed}: {type(error).__name__}: {error}")
                print(broken[-1], flush=True)
                continue
            results.append(result)
            print(_line(result), flush=True)
            if result.clean:
                shutil.rmtree(place, ignore_errors=True)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
    finally:
        if all(result.clean for result in results) and not broken:
            shutil.rmtree(directory, ignore_errors=True)
    report = "\n".join(_report(results, broken, time.monotonic() - started, wanted))
    print(report)
    if wanted.report:
        wanted.report.parent.mkdir(parents=True, exist_ok=True)
        wanted.report.write_text(report + "\n")
    return 0 if results and not broken and all(result.clean for result in results) else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1, help="the first attack's number")
    parser.add_argument("--schedules", type=int, help="how many attacks")
    parser.add_argument("--minutes", type=float, help="for how long; default 3 when no number is given")
    parser.add_argument("--faults", type=int, default=8, help="faults an attack, at least 5")
    parser.add_argument("--report", type=Path, help="write the table here as well")
    parser.add_argument("--scratch", type=Path, help="where to play it")
    return parser.parse_args()


def _seeds(wanted: argparse.Namespace, started: float) -> Iterator[int]:
    minutes = wanted.minutes if wanted.minutes or wanted.schedules else 3.0
    seed = wanted.seed
    while (wanted.schedules is None or seed < wanted.seed + wanted.schedules) and (
        minutes is None or time.monotonic() - started < minutes * 60
    ):
        yield seed
        seed += 1


def _own_home(directory: Path) -> None:
    """Nothing of the person who runs this takes part, and nothing of it is touched."""
    for name in [name for name in os.environ if name.startswith(("WANDB", "XDG"))]:
        del os.environ[name]
    os.environ["HOME"] = str(_made(directory / "home"))
    os.environ["WANDB_SPOOL_CACHE_DIR"] = str(directory / "cache")


def _made(directory: Path) -> Path:
    directory.mkdir(parents=True)
    return directory


def _line(result: Result) -> str:
    verdict = result.verdict
    word = "ok" if result.clean else "FAILED"
    return (
        f"{word:6} seed {result.seed:<6} {verdict.runs} runs {verdict.rows_logged:>5} rows "
        f"{sum(result.struck.values()):>2} faults {len(result.kills)} kills  lost {verdict.lost} "
        f"doubled {verdict.doubled} moved {verdict.moved}  {result.seconds:.1f} s"
    ) + ("" if result.clean else f"\n{result}")


def _report(results: list[Result], broken: list[str], seconds: float, wanted: argparse.Namespace) -> Iterator[str]:
    struck: Counter[str] = sum((result.struck for result in results), Counter())
    kills = Counter(kill.partition(" at ")[0] for result in results for kill in result.kills)
    verdicts = [result.verdict for result in results]
    yield f"# Soak: {len(results)} attacks in {seconds / 60:.1f} minutes"
    yield ""
    asked = f"--schedules {wanted.schedules}" if wanted.schedules else f"--minutes {wanted.minutes or 3:g}"
    yield f"`python benchmarks/soak.py --seed {wanted.seed} {asked} --faults {wanted.faults}`. Machine:"
    yield f"{os.cpu_count()} cores, {_memory_gb():.0f} GB, {platform.system()} {platform.machine()},"
    yield f"Python {platform.python_version()}."
    yield ""
    yield "| | |"
    yield "|---|---|"
    yield f"| runs | {sum(verdict.runs for verdict in verdicts)} |"
    yield f"| rows logged | {sum(verdict.rows_logged for verdict in verdicts)} |"
    yield f"| rows delivered, read back | {sum(verdict.delivered for verdict in verdicts)} |"
    yield f"| superseded by a restart | {sum(verdict.superseded for verdict in verdicts)} |"
    yield f"| files, byte for byte | {sum(verdict.files for verdict in verdicts)} |"
    yield f"| faults that struck | {sum(struck.values())}: {_counted(struck)} |"
    yield f"| kills | {sum(kills.values())}: {_counted(kills)} |"
    yield f"| lost, counted (killed trainings: their last second) | {sum(verdict.lost for verdict in verdicts)} |"
    yield f"| missing | {sum(verdict.missing for verdict in verdicts)} |"
    yield f"| doubled | {sum(verdict.doubled for verdict in verdicts)} |"
    yield f"| moved | {sum(verdict.moved for verdict in verdicts)} |"
    failed = [str(result.seed) for result in results if not result.clean]
    yield f"| attacks that did not end clean | {len(failed) + len(broken)} {', '.join(failed)} |"
    yield from (f"\n{line}" for line in broken)


def _counted(counter: Counter[str]) -> str:
    return ", ".join(f"{count} × {name}" for name, count in counter.most_common())


def _memory_gb() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9


if __name__ == "__main__":
    sys.exit(main())
