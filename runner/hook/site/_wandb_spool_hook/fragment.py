"""One fragment as this process sees it: where it lies, its rows, its sign of life, its entry.

Guarantees: a row is counted before it is sent, so that a death in between is a counted loss and never a hidden one.
Whatever of the spool can't be written is left out after one notice; the counting goes on.
"""

from __future__ import annotations

import os
import shutil
from typing import Any, Dict, List, Optional

from . import entry
from .alive import Alive
from .launch import Launch
from .notice import say_once
from .rows import Rows

ASIDE = "wandb-spool-aside-"  # a directory that was made for one run while the spool could not be written


class Fragment:
    def __init__(
        self,
        launch: Launch,
        run: Any,
        *,
        predecessor: Optional[str] = None,
        overridden: Optional[List[str]] = None,
        base_url: Optional[str] = None,
        first_step: Optional[int] = None,
        resume_step: Optional[int] = None,
    ) -> None:
        settings = run._settings
        self.log = settings.sync_file
        self.run_dir = os.path.dirname(self.log)
        self.continues = first_step is not None  # goes on where another fragment of this process ended
        self.resume_step = resume_step  # where a run of an earlier launch goes on, if the program names no steps
        self.rows = Rows(first_step or 0)
        self.promised = 0  # rows that are about to be repeated here, and are not counted elsewhere any more
        self.pid = os.getpid()
        self.entry = entry.name_of(launch, os.path.basename(self.run_dir))
        self.predecessor = predecessor
        self.work = launch.work
        self.outside = not launch.contains(self.run_dir)  # until the spool can be written
        self._entry_path = entry.path_of(launch, self.entry)
        self.alive = self._open_alive()
        self.show_life()
        self._write_entry(launch, settings, overridden or [], base_url)

    def _open_alive(self) -> Optional[Alive]:
        try:
            return Alive(os.path.join(self.run_dir, "alive"))
        except OSError as error:
            say_once("alive", f"can't write the sign of life in {self.run_dir}: {error}; rows will not be counted")
            return None

    def _write_entry(self, launch: Launch, settings: Any, overridden: List[str], base_url: Optional[str]) -> None:
        if self.outside:
            say_once(
                "outside",
                f"the spool can't be written now, this run is logged to {self.run_dir}, and moves into the spool as "
                "soon as that can be written; training goes on",
            )
            return
        try:
            entry.write_open(launch, self.run_dir, settings, self.predecessor, overridden, base_url)
        except OSError as error:
            say_once("entry", f"can't write the entry of {self.run_dir}: {error}; training goes on")

    def record_not_done(self, what: Dict[str, str]) -> None:
        """Add to the open entry what the program asked for and nobody can do offline."""
        try:
            entry.add_not_done(self._entry_path, what)
        except (OSError, ValueError):
            pass  # it was said on stderr; the entry may be sealed already

    def call(self, step: Optional[int], flush: Optional[bool]) -> bool:
        """Count one call and show it; false if wandb will refuse it."""
        accepted = self.rows.call(step, flush)
        self.show_life()
        return accepted

    def remove(self) -> None:
        """A fragment outside the spool, after all of it was repeated inside."""
        root = os.path.dirname(os.path.dirname(self.run_dir))
        shutil.rmtree(root if os.path.basename(root).startswith(ASIDE) else self.run_dir, ignore_errors=True)

    def show_life(self) -> None:
        alive = self.alive
        if alive is not None:
            rows = self.rows
            alive.write(max(rows.begun, self.promised), rows.refused, rows.last_step)

    def answers(self) -> bool:
        """Whether the disk takes what is written; who touches one that does not may wait for hours."""
        return self.alive is None or self.alive.answers()

    def end(self, phase: str, exit_code: int = -1) -> None:
        """The last line of this fragment's sign of life."""
        alive = self.alive
        if alive is not None:
            alive.phase, alive.exit_code = phase, exit_code
            alive.end(self.rows.begun, self.rows.refused, self.rows.last_step)
