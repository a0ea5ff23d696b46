"""Sealed fragments without training: small logs in wandb's format, sealed by the real seal."""

from __future__ import annotations

import json
import os
import random
from dataclasses import dataclass, field
from pathlib import Path

from wandb_spool.spool.entry import Entry
from wandb_spool.spool.launches import Launch
from wandb_spool.spool.log import LogWriter
from wandb_spool.spool.log.wire import integer_field, length_field, text_field
from wandb_spool.spool.queue import Place, Spool
from wandb_spool.spool.seal import seal_fragment

_HISTORY, _RUN, _EXIT = 2, 17, 18


@dataclass
class Fabric:
    """Makes fragments in one spool; the same seed makes the same bytes."""

    spool: Spool
    random: random.Random = field(default_factory=lambda: random.Random(7))
    made: int = 0

    @classmethod
    def in_new_spool(cls, root: Path) -> Fabric:
        return cls(Spool.create(root))

    def launch(self) -> Launch:
        return Launch.create(self.spool, ["python", "train.py"])

    def sealed(
        self,
        run_id: str = "",
        *,
        files: dict[str, bytes] | None = None,
        launch: Launch | None = None,
        rows: int = 3,
        hold: bool = False,
    ) -> Place:
        """A fragment with a log of some rows and some saved files, sealed."""
        self.made += 1
        run_id = run_id or f"run{self.made:05d}"
        launch = launch or self.launch()
        directory = launch.paths.wandb / f"offline-run-20261121_0450{self.made:02d}-{run_id}"
        (directory / "files").mkdir(parents=True)
        write_log(directory / f"run-{run_id}.wandb", run_id, rows)
        for name, content in (files if files is not None else {"saved.bin": self.random.randbytes(3000)}).items():
            path = directory / "files" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        entry = Entry(
            name=f"{launch.name}.{directory.name}",
            launch=launch.name,
            fragment=directory.name,
            path=directory.relative_to(self.spool.root).as_posix(),
            created=f"2026-11-21T04:50:{self.made:02d}.000Z",
            run_id=run_id,
        )
        return seal_fragment(self.spool, self.spool.add(entry), hold=hold)


def write_log(path: Path, run_id: str, rows: int, *, first_step: int = 0) -> None:
    with LogWriter(path) as log:
        log.write(record(1, _RUN, text_field(1, run_id) + text_field(3, "gap")))
        for number in range(rows):
            step = first_step + number
            items = [item("loss", 1 / (step + 1.5)), item("epoch", step // 10), item("_step", step)]
            body = b"".join(length_field(1, each) for each in items) + length_field(2, integer_field(1, step))
            log.write(record(2 + number, _HISTORY, body))
        log.write(record(2 + rows, _EXIT, b""))


def item(key: str, value: object) -> bytes:
    return length_field(2, key.encode()) + length_field(16, json.dumps(value).encode())


def record(num: int, kind: int, content: bytes) -> bytes:
    return integer_field(1, num) + length_field(kind, content)


def tree(root: Path) -> dict[str, bytes]:
    """Every file below a directory, by its relative path."""
    return {
        os.path.relpath(os.path.join(parent, name), root): Path(parent, name).read_bytes()
        for parent, _, names in os.walk(root)
        for name in names
    }
