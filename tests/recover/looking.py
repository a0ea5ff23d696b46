"""Somebody who looks after a spool: `recover` as often as it takes, in this process or where it sees less."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from wandb_spool.spool.entry import Entry
from wandb_spool.spool.log import rows
from wandb_spool.spool.manifest import Manifest, read_manifest
from wandb_spool.spool.queue import Spool
from wandb_spool.spool.recover import Observations, Recovered, recover, reopen_grown
from wandb_spool.spool.states import State

STALE_S = 3.0
"""Stands for the minute of the real thing: longer than a heart pauses on a slow machine."""

ELSEWHERE = """
import json, sys, time
from pathlib import Path
from wandb_spool.spool.queue import Spool
from wandb_spool.spool.recover import Observations, recover
spool, seen = Spool.open(Path(sys.argv[1])), Observations()
for _ in range(int(sys.argv[2])):
    told = recover(spool, seen, stale_after_s=float(sys.argv[3]), writers_timeout_s=0.1)
    print(json.dumps([[str(item.state), item.why] for item in told]), flush=True)
    time.sleep(0.5)
"""


class Looking:
    """One observer in this process."""

    def __init__(self, root: Path) -> None:
        self.spool = Spool.open(root)
        self.observations = Observations()

    def once(self, stale_after_s: float = STALE_S) -> list[Recovered]:
        reopen_grown(self.spool)
        return recover(self.spool, self.observations, stale_after_s=stale_after_s, writers_timeout_s=0.5)

    def until_sealed(self, timeout_s: float = 40.0) -> list[Recovered]:
        """Look again and again until nothing is open; returns what was sealed."""
        deadline = time.monotonic() + timeout_s
        sealed: list[Recovered] = []
        while True:
            told = self.once()
            sealed += [item for item in told if item.state is not State.OPEN]
            if not list(self.spool.places(State.OPEN)):
                return sealed
            assert time.monotonic() < deadline, told
            time.sleep(0.3)

    def sealed(self) -> list[tuple[Entry, Manifest]]:
        """In the order of their starts."""
        found = [self.spool.read(place) for place in self.spool.places(State.INCOMING)]
        found.sort(key=lambda entry: (entry.created, entry.name))
        return [(entry, read_manifest(entry.run_directory(self.spool.root))[0]) for entry in found]

    def steps(self) -> list[int]:
        """Every row of every sealed fragment."""
        found: list[int] = []
        for entry, manifest in self.sealed():
            assert manifest.log_path is not None
            found += [row.step for row in rows(entry.launch_directory(self.spool.root) / manifest.log_path)]
        return found


def in_pid_namespace(*command: str) -> list[str]:
    """The command where it sees no process but its own. Skips where that can't be."""
    words = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    probes = [words, [words[0], "--map-root-user", *words[1:]]]
    for probe in probes:
        try:
            if subprocess.run([*probe, "true"], capture_output=True).returncode == 0:
                return [*probe, *command]
        except FileNotFoundError:
            break
    pytest.skip("no pid namespace can be made here (`unshare --pid` is refused)")


def look_from_elsewhere(root: Path, times: int) -> list[list[list[str]]]:
    """What an observer in another pid namespace says, every half second."""
    command = in_pid_namespace(sys.executable, "-c", ELSEWHERE, str(root), str(times), str(STALE_S))
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]
