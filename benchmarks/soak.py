"""Trainings and syncers under random faults and kills, one attack after another, and one daemon beside them all.

    python benchmarks/soak.py --schedules 200 --minutes 60 --report docs/evidence/soak.md     # until both are reached
    python benchmarks/soak.py --seed 17 --schedules 1 --keep      # one attack again, and what it left

Each number is an attack (`tests/proof/schedules.py`): some runs, until at least five faults of the server have struck
and at least one process was killed; then recovery, delivery and the judge. Each is a process of its own. Beside them
one daemon that nobody kills serves a spool of its own from the first attack to the last. Exit code 1 when the judge
finds anything missing, doubled, moved or in conflict, or when an attack breaks; the seeds of those are printed.

It measures the checkout that it lies in, whatever is installed; the report says which commit that was.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

from checkout import TESTS, commit, machine, use_this_checkout

ATTACK_LIMIT_S = 600.0
DAEMON_ENDS_WITHIN_S = 400.0


def main() -> int:
    """Attack until the time and the number are reached; print what happened."""
    wanted = _arguments()
    if wanted.part is not None:
        return _play_part(wanted)
    directory = Path(tempfile.mkdtemp(prefix="soak-", dir=wanted.scratch))
    _own_home(directory)
    stands = commit()
    started = time.monotonic()
    try:
        _part(directory, "templates", 0)
        daemon = None if wanted.no_daemon else _start_part(directory, "daemon", wanted.seed)
        results = _attacks(wanted, directory, started)
        if daemon is not None:
            results.append(_end_daemon(daemon, directory))
    except KeyboardInterrupt:
        print(f"interrupted; what was played lies in {directory}", file=sys.stderr)
        return 130
    report = "\n".join(_report(results, time.monotonic() - started, wanted, stands))
    print(report)
    if wanted.report:
        wanted.report.parent.mkdir(parents=True, exist_ok=True)
        wanted.report.write_text(report + "\n")
    good = bool(results) and all(result["good"] for result in results)
    if good and not wanted.keep:
        shutil.rmtree(directory, ignore_errors=True)
    else:
        print(f"\nwhat was played lies in {directory}", file=sys.stderr)
    return 0 if good else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1, help="the first attack's number")
    parser.add_argument("--schedules", type=int, help="at least so many attacks")
    parser.add_argument("--minutes", type=float, help="at least for so long; default 3 when no number is given")
    parser.add_argument("--jobs", type=int, default=2, help="attacks at a time; most of each is waiting for processes")
    parser.add_argument("--no-daemon", action="store_true", help="without the daemon beside the attacks")
    parser.add_argument("--keep", action="store_true", help="keep what was played also when all is well")
    parser.add_argument("--report", type=Path, help="write the report here as well")
    parser.add_argument("--scratch", type=Path, help="where to play it")
    parser.add_argument("--part", choices=("templates", "attack", "daemon"), help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    if wanted.minutes is None and wanted.schedules is None:
        wanted.minutes = 3.0
    if wanted.schedules == 1:
        wanted.no_daemon = True
    return wanted


def _own_home(directory: Path) -> None:
    """Nothing of the person who runs this takes part, and nothing of it is touched."""
    for name in [name for name in os.environ if name.startswith(("WANDB", "XDG"))]:
        del os.environ[name]
    (directory / "home").mkdir()
    os.environ["HOME"] = str(directory / "home")
    os.environ["WANDB_SPOOL_CACHE_DIR"] = str(directory / "cache")
    use_this_checkout(directory / "checkout")


# -- the parts, each a process of its own ----------------------------------------------------------------------------


def _start_part(directory: Path, part: str, seed: int) -> subprocess.Popen[bytes]:
    words = [sys.executable, __file__, "--part", part, "--seed", str(seed), "--scratch", str(directory)]
    with (directory / f"{part}-{seed}.log").open("wb") as told:
        return subprocess.Popen(words, stdout=told, stderr=told, start_new_session=True)


def _part(directory: Path, part: str, seed: int, limit_s: float = ATTACK_LIMIT_S) -> dict[str, Any]:
    """Play one part; its result, or how it broke."""
    process = _start_part(directory, part, seed)
    try:
        process.wait(limit_s)
    except subprocess.TimeoutExpired:
        return _broken(process, directory, part, seed, f"was not done after {limit_s:.0f} s")
    if process.returncode != 0:
        return _broken(process, directory, part, seed, f"ended with {process.returncode}")
    return dict(json.loads(_result_of(directory, part, seed).read_text()))


def _broken(process: subprocess.Popen[bytes], directory: Path, part: str, seed: int, how: str) -> dict[str, Any]:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()
    told = (directory / f"{part}-{seed}.log").read_text(errors="replace").strip().splitlines()
    if part == "templates":
        raise SystemExit("\n".join(told))
    last = f"{how}: {told[-1] if told else 'it said nothing'}"
    line = f"BROKEN {part}, seed {seed}: {last}"
    return {"part": part, "seed": seed, "good": False, "broken": last, "line": line, "told": "\n".join(told[-30:])}


def _result_of(directory: Path, part: str, seed: int) -> Path:
    return directory / f"{part}-{seed}.json"


def _attacks(wanted: argparse.Namespace, directory: Path, started: float) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = []

    def enough(seed: int) -> bool:
        number = seed >= wanted.seed + (wanted.schedules or 0)
        return number and time.monotonic() - started >= (wanted.minutes or 0.0) * 60

    def one(seed: int) -> None:
        result = _part(directory, "attack", seed)
        results.append(result)
        print(result["line"], flush=True)
        if result["good"] and not wanted.keep:
            shutil.rmtree(directory / f"attack-{seed}", ignore_errors=True)

    seeds = count(wanted.seed)

    def one_after_another() -> None:
        for seed in seeds:  # each seed goes to one of the threads
            if enough(seed):
                return
            one(seed)

    with ThreadPoolExecutor(wanted.jobs) as pool:
        for job in [pool.submit(one_after_another) for _ in range(wanted.jobs)]:
            job.result()
    return sorted(results, key=lambda result: int(result["seed"]))


def _end_daemon(process: subprocess.Popen[bytes], directory: Path) -> dict[str, Any]:
    """Let it deliver what it has, and look what it did."""
    (directory / "enough").touch()
    seed = int(process.args[process.args.index("--seed") + 1])  # type: ignore[index,union-attr,arg-type]
    try:
        process.wait(DAEMON_ENDS_WITHIN_S)
    except subprocess.TimeoutExpired:
        return _broken(process, directory, "daemon", seed, "did not get done")
    if process.returncode != 0:
        return _broken(process, directory, "daemon", seed, f"ended with {process.returncode}")
    return dict(json.loads(_result_of(directory, "daemon", seed).read_text()))


def _play_part(wanted: argparse.Namespace) -> int:
    """In a process of a part: play it and leave its result."""
    sys.path.insert(0, TESTS)
    from delivery.fragments import Templates
    from proof.schedules import attack
    from proof.steady import serve

    directory, seed = Path(wanted.scratch), int(wanted.seed)
    logged = directory / "templates"
    if wanted.part == "templates":
        logged.mkdir()
        Templates.log(logged)
        body: dict[str, Any] = {}
    elif wanted.part == "attack":
        body = attack(seed, directory / f"attack-{seed}", Templates.open(logged)).as_json()
    else:
        body = serve(seed, directory / "daemon", Templates.open(logged), (directory / "enough").exists).as_json()
    result = _result_of(directory, wanted.part, seed)
    result.write_text(json.dumps({**body, "part": wanted.part}))
    return 0


# -- the report ------------------------------------------------------------------------------------------------------


def _report(
    results: Sequence[dict[str, Any]], seconds: float, wanted: argparse.Namespace, stands: str
) -> Iterator[str]:
    attacks = [result for result in results if result["part"] == "attack"]
    whole = [result for result in attacks if "broken" not in result]
    yield f"# Soak: {len(attacks)} fault schedules in {seconds / 60:.1f} minutes"
    yield ""
    yield f"`{_command(wanted)}`, {time.strftime('%Y-%m-%d %H:%M', time.gmtime())} UTC."
    yield f"Machine: {machine()}."
    yield f"Commit: {stands}."
    yield ""
    yield "Each schedule is drawn from its seed, beginning with the one above: some runs of real logs, in three of ten"
    yield "also a real training that is attacked; then rounds of more runs, new faults and kills, until enough struck."
    yield ""
    yield "| | |"
    yield "|---|---|"
    yield from (f"| {name} | {value} |" for name, value in _rows(whole, len(attacks)))
    yield from _daemon_lines([result for result in results if result["part"] == "daemon"])
    bad = [result for result in results if not result["good"]]
    if bad:
        yield ""
        yield "## Not clean"
    for result in bad:
        again = f"python benchmarks/soak.py --seed {result['seed']} --schedules 1 --keep"
        yield f"\n* {result['part']}, seed {result['seed']}: {result.get('broken') or result['line']}. Again: `{again}`"
        yield from (f"  {line}" for line in str(result.get("told", "")).splitlines())


def _command(wanted: argparse.Namespace) -> str:
    asked = [f"--seed {wanted.seed}"]
    asked += [f"--schedules {wanted.schedules}"] if wanted.schedules else []
    asked += [f"--minutes {wanted.minutes:g}"] if wanted.minutes else []
    asked += ["--no-daemon"] if wanted.no_daemon else []
    return f"python benchmarks/soak.py {' '.join(asked)} --jobs {wanted.jobs}"


def _rows(whole: Sequence[dict[str, Any]], played: int) -> Iterator[tuple[str, object]]:
    def total(name: str) -> int:
        return sum(int(result["verdict"][name]) for result in whole)

    struck: Counter[str] = sum((Counter(result["struck"]) for result in whole), Counter())
    kills = Counter(kill.partition(" at ")[0] for result in whole for kill in result["kills"])
    hard = sum(bool(result["hard"]) for result in whole)
    clean = sum(bool(result["clean"]) for result in whole)
    yield "schedules with at least 5 faults struck and 1 kill", f"{hard} of {played}"
    yield "schedules that ended clean", f"{clean} of {played}"
    yield "delivered by", _counted(Counter(str(result["syncer"]) for result in whole))
    yield "faults struck", f"{sum(struck.values())}: {_counted(struck)}"
    yield "requests that they hit", sum(int(result["requests_hit"]) for result in whole)
    yield "kills by victim", f"{sum(kills.values())}: {_counted(kills)}"
    yield "trainings that were killed", sum(int(result["killed_trainings"]) for result in whole)
    yield "runs", total("runs")
    yield "rows logged", total("rows_logged")
    yield "rows delivered, read back by step and value", total("delivered")
    yield "rows superseded by a restart", total("superseded")
    yield "files, byte for byte", total("files")
    yield "rows lost in the last second before a death, counted", total("lost")
    yield "**lost beyond the counted second**", total("missing") + sum(int(result["beyond"]) for result in whole)
    yield "**doubled**", total("doubled")
    yield "**moved**", total("moved")
    yield "**in conflict** (another value on the server)", total("conflicting")


def _daemon_lines(daemons: Sequence[dict[str, Any]]) -> Iterator[str]:
    for result in daemons:
        if "broken" in result:
            continue
        yield ""
        yield "## The daemon beside them"
        yield ""
        yield f"One `wandb-spool daemon` that nobody killed, for {result['seconds'] / 60:.1f} minutes; its pushes were."
        yield ""
        yield "| | |"
        yield "|---|---|"
        yield from (f"| {name} | {value} |" for name, value in _daemon_rows(result))


def _daemon_rows(result: dict[str, Any]) -> Iterator[tuple[str, object]]:
    verdict, (first_mb, last_mb) = result["verdict"], result["memory_mb"]
    yield "one process from begin to end, gone on SIGTERM with exit code 0", "yes"
    yield "faults struck", f"{sum(result['struck'].values())}: {_counted(Counter(result['struck']))}"
    yield "kills", f"{len(result['kills'])}: {_counted(Counter(result['kills']))}"
    yield "runs", verdict["runs"]
    yield "rows logged", verdict["rows_logged"]
    yield "rows delivered, read back by step and value", verdict["delivered"]
    yield "rows superseded by a restart", verdict["superseded"]
    yield "missing, doubled, moved, in conflict", ", ".join(str(verdict[name]) for name in _JUDGED)
    yield "its memory after the first runs, and at the end", f"{first_mb:.0f} MB, {last_mb:.0f} MB"
    yield "its own processor time", f"{result['cpu_s']:.0f} s"


_JUDGED = ("missing", "doubled", "moved", "conflicting")


def _counted(counter: Counter[str]) -> str:
    return ", ".join(f"{count} × {name}" for name, count in counter.most_common())


if __name__ == "__main__":
    sys.exit(main())
