"""Take out one mechanism at a time, in a copy, and see that an attack notices.

    python benchmarks/mutations.py [--out docs/evidence/mutations.md] [NAME…]

Prints a table, and writes it to `--out` as well. Exit code 1 when an attack stays green without its mechanism, or is
red with everything in place.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from checkout import ROOT, commit, link_farm, machine

PARTS = ("wandb_spool", "runner", "spool", "syncer")


@dataclass(frozen=True)
class Mutation:
    """One mechanism, how it is taken out, and the attack that must go red."""

    name: str
    file: str
    pattern: str
    replacement: str
    attack: str


PROMISES = "tests/proof/test_proof_promises.py::"
MUTATIONS: tuple[Mutation, ...] = (
    Mutation(
        "the read-back", "syncer/deliver.py",
        r"^        return standing\.complete and not undone\n", "        return True\n",
        f"{PROMISES}test_what_the_server_refused_is_never_called_delivered",
    ),
    Mutation(
        "the fsync of the directory", "spool/durable.py",
        r"(    _step\(\"fsync-directory\", path\)\n)", r"\1    return\n",
        "tests/proof/test_proof_power_loss.py",
    ),
    Mutation(
        "the lease", "spool/leases.py",
        r"^    if _create\(lease\):\n        return lease\n", "    _create(lease)\n    return lease\n",
        f"{PROMISES}test_two_syncers_that_deliver_to_one_run_at_once_send_each_row_once",
    ),
    Mutation(
        "the order of fragments", "syncer/plan.py",
        r"    return ordered\n", "    return ordered[::-1]\n",
        f"{PROMISES}test_restarted_trajectory_is_the_true_one_and_fragments_arrive_in_their_order",
    ),
    Mutation(
        "the seeded starting step", "syncer/view.py",
        r"^    Path\(f\"\{log\}\.syncstate\"\)\.write_text.*\n", "",
        f"{PROMISES}test_no_step_moves_when_rows_arrive_behind_later_ones",
    ),
    Mutation(
        "the copy at seal", "spool/capture.py",
        r"(    changes: list\[Change\] = \[\]\n)(    for path in list\(_links)", r"\1    return changes\n\2",
        f"{PROMISES}test_saved_file_that_is_overwritten_after_the_run_arrives_as_it_was",
    ),
    Mutation(
        "the fsync of the file", "spool/durable.py",
        r"(    _step\(\"fsync\", path\)\n        )os\.fsync\(fd\)\n", r"\1pass\n",
        "tests/proof/test_proof_power_loss.py",
    ),
    Mutation(
        "the take before a rewrite", "spool/queue.py",
        r"^        if not place\.path\.exists\(\):\n            raise LostRaceError.*\n", "",
        "tests/spool/test_spool_moves.py",
    ),
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="only mutations whose name contains one of these")
    parser.add_argument("--out", type=Path, help="write what is printed here as well")
    wanted = parser.parse_args()
    lines: list[str] = []

    def say(line: str) -> None:
        lines.append(line)
        print(line, flush=True)

    for line in _heading():
        say(line)
    chosen = [one for one in MUTATIONS if not wanted.names or any(name in one.name for name in wanted.names)]
    unnoticed = [one.name for one in chosen if not _noticed(one, say)]
    say("")
    say(f"{len(chosen) - len(unnoticed)} of {len(chosen)} mutations went red.")
    if wanted.out:
        wanted.out.parent.mkdir(parents=True, exist_ok=True)
        wanted.out.write_text("\n".join([*lines, ""]))
    return 1 if unnoticed else 0


def _heading() -> Iterator[str]:
    yield "# What the attacks notice"
    yield ""
    yield "`python benchmarks/mutations.py` takes out one mechanism at a time, in a copy, and runs an attack on it."
    yield f"{time.strftime('%Y-%m-%d', time.gmtime())}. Machine: {machine()}. Commit: {commit()}."
    yield ""
    yield "| taken out | attack | with it | without it | went red |"
    yield "|---|---|---|---|---|"


def _noticed(one: Mutation, say: Callable[[str], None]) -> bool:
    with tempfile.TemporaryDirectory(prefix="mutation-") as name:
        copy = Path(name)
        _copy(copy)
        whole, _ = _attack(copy, one.attack)
        _take_out(copy, one)
        broken, red = _attack(copy, one.attack)
    noticed = whole == 0 and broken == 1
    shown = one.attack.rpartition("/")[2]
    say(f"| {one.name} | `{shown}` | {_word(whole)} | {_word(broken)} | {', '.join(red)} |")
    return noticed


def _copy(copy: Path) -> None:
    for part in (*PARTS, "tests", "docs"):
        shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__", ".*cache"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    link_farm(copy, copy / "farm")


def _take_out(copy: Path, one: Mutation) -> None:
    path = copy / one.file
    text, count = re.subn(one.pattern, one.replacement, path.read_text(), flags=re.MULTILINE)
    if count == 0:
        raise SystemExit(f"{one.name}: nothing in {one.file} looks like {one.pattern!r}; this table is out of date")
    path.write_text(text)


def _attack(copy: Path, attack: str) -> tuple[int, Sequence[str]]:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-o", "addopts=-ra", "-p", "no:cacheprovider", attack],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy / "farm"), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    red = sorted({line.split("::")[1].split("[")[0].split()[0] for line in done.stdout.splitlines() if _is_red(line)})
    return done.returncode, red


def _is_red(line: str) -> bool:
    return line.startswith(("FAILED ", "ERROR ")) and "::" in line


def _word(code: int) -> str:
    return {0: "green", 1: "red"}.get(code, f"exit {code}")


if __name__ == "__main__":
    sys.exit(main())
