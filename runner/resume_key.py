"""Which run a restarted job continues. Pure, except `Attempts`, which keeps one small file a launch in the spool.

A restart continues a run only where that is certain:

* *Automatic*, inside a Slurm job. The key is job or array task, step, process of the step, and the command. The first
  attempt derives its run ids from it too, so that the second finds them. The earlier attempt must have had exactly one
  launch with this key and, per rank, exactly one run: a k-fold loop or several trainings in one job never merge.
* *By name* (`--resume-key NAME`), for chained jobs. The person answers for it: the n-th `wandb.init` of each rank
  continues the n-th.

The hook gets `WANDB_SPOOL_RESUME_KEY`: `{"key", "attempt", "named", "predecessor", "ambiguous"}`, and asks `run_id`. A
`WANDB_RUN_ID` or an `id=` of the user's always wins. The run id is `run_id(key, rank, ordinal)`; `rank` is `RANK`, else
`SLURM_PROCID`, else `0`; `ordinal` counts the inits of this process from 0. An *ambiguous* attempt mixes the launch's
name into its key, so it starts runs of its own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wandb_spool.spool import durable
from wandb_spool.spool.errors import SpoolError
from wandb_spool.spool.layout import FORMAT

_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"
RUN_ID_LENGTH = 12  # 62 bits: two of a million runs meet with a probability of one in ten million


@dataclass(frozen=True)
class ResumeKey:
    """What the hook needs to find the run that this launch continues."""

    key: str
    attempt: int
    named: bool
    predecessor: str | None = None  # the launch before this one with the same key
    ambiguous: bool = False  # it can't be told which of several runs is meant: start new ones

    def encode(self) -> str:
        return json.dumps(vars(self), separators=(",", ":"))


def job_key(environ: Mapping[str, str], command: Sequence[str]) -> str | None:
    """The automatic key, or None outside a job that can restart."""
    job = environ.get("SLURM_JOB_ID")
    if environ.get("SLURM_ARRAY_JOB_ID") and environ.get("SLURM_ARRAY_TASK_ID"):
        job = f"{environ['SLURM_ARRAY_JOB_ID']}_{environ['SLURM_ARRAY_TASK_ID']}"
    if not job:
        return None
    # SLURM_CLUSTER_NAME: two clusters that share a file system number their jobs alike.
    parts = [environ.get(name, "") for name in ("SLURM_CLUSTER_NAME", "SLURM_STEP_ID", "SLURM_PROCID")]
    return digest("job", job, *parts, *command)


def name_key(name: str, environ: Mapping[str, str]) -> str:
    """The key of `--resume-key NAME`. Each process of a step has its own."""
    return digest("name", name, environ.get("SLURM_PROCID", ""))


def digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:32]


def rank(environ: Mapping[str, str]) -> str:
    """Which process of a distributed program this is."""
    return environ.get("RANK") or environ.get("SLURM_PROCID") or "0"


def run_id(key: str, rank: str, ordinal: int) -> str:
    """The id of the n-th run of one process: letters and digits, the same for the same arguments."""
    number = int(hashlib.sha256(f"{key}\0{rank}\0{ordinal}".encode()).hexdigest(), 16)
    digits = []
    for _ in range(RUN_ID_LENGTH):
        number, rest = divmod(number, len(_ALPHABET))
        digits.append(_ALPHABET[rest])
    return "".join(digits)


def decide(
    key: str, *, named: bool, restart_count: int, launch: str, earlier: Sequence[Mapping[str, Any]]
) -> ResumeKey:
    """What a launch continues. `earlier`: what `Attempts` keeps of the launches with the same key, oldest first."""
    if named:
        predecessor = str(earlier[-1]["launch"]) if earlier else None
        return ResumeKey(key, len(earlier), True, predecessor)
    previous = [item for item in earlier if int(item.get("restart_count") or 0) < restart_count]
    siblings = [item for item in earlier if int(item.get("restart_count") or 0) == restart_count]
    if not previous and not siblings:
        return ResumeKey(key, 0, False)
    counts = [int(item.get("restart_count") or 0) for item in previous]
    alone = not siblings and len(counts) == len(set(counts))
    if alone:
        return ResumeKey(key, len(previous), False, str(previous[-1]["launch"]))
    return ResumeKey(digest(key, launch), len(previous), False, None, ambiguous=bool(previous))


@dataclass(frozen=True)
class Attempts:
    """The launches that had one key: `<spool>/resume/<key>/<n>.json`, written once each, never changed.

    Of two launches that start at once each gets its own number, without a lock.
    """

    directory: Path

    @classmethod
    def of(cls, spool: Path, key: str) -> Attempts:
        return cls(spool / "resume" / key)

    def earlier(self) -> list[dict[str, Any]]:
        """Oldest first. What can't be read is left out: then a restart starts a run of its own."""
        found: list[tuple[int, dict[str, Any]]] = []
        for path in self.directory.glob("[0-9]*.json"):
            try:
                body = durable.read_json(path)
                found.append((int(path.stem), body))
            except (OSError, ValueError, SpoolError):
                continue
        return [body for _, body in sorted(found, key=lambda item: item[0]) if isinstance(body.get("launch"), str)]

    def add(self, launch: str, restart_count: int, *, mode: int = 0o600) -> None:
        """Note this launch. Raises StorageError."""
        durable.make_directory(self.directory)
        body = {"format": FORMAT, "launch": launch, "restart_count": restart_count}
        number = sum(1 for _ in self.directory.glob("[0-9]*.json"))
        while not durable.create_exclusively(self.directory / f"{number}.json", durable.encode_json(body), mode=mode):
            number += 1
