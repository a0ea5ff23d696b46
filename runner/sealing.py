"""The end of the launcher's work: seal the fragments of its launch.

A fragment is sealed when its writer is gone. While the command still runs, one that finished is sealed by a forked
child of the keeper, of the lowest priority, so that nobody waits for it; at the end the rest is sealed here.
What can't be sealed (its log is still held open, the disk is full) stays *open* with its reason, for `recover`; nothing
raises.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from wandb_spool.spool import alive
from wandb_spool.spool.errors import LostRaceError, SpoolError
from wandb_spool.spool.launches import Launch
from wandb_spool.spool.queue import Place
from wandb_spool.spool.states import State

_OVER = frozenset({"finished", "failed", "continued"})
_HOOKLESS_POLLS = 2  # a run directory without a sign of life for so long has no hook


@dataclass(frozen=True)
class Sealed:
    """What became of one fragment."""

    run_directory: Path
    state: State | None  # None: somebody else moved it
    note: str | None = None


@dataclass
class Sealer:
    """Seals the fragments of one launch. Not reentrant; one thread."""

    launch: Launch
    done: dict[str, State] = field(default_factory=dict)
    _child: int = 0
    _tried: set[str] = field(default_factory=set)
    _seen_without_life: dict[str, int] = field(default_factory=dict)

    # -- while the command runs --------------------------------------------------------------------------------------

    def poll(self) -> None:
        """Look for a fragment that is finished. Costs a directory listing and a read of each `alive`."""
        try:
            for directory in self.launch.paths.fragments():
                if directory.name not in self._tried and not self._is_sealing():
                    self._consider(directory)
        except (OSError, SpoolError):
            pass  # the spool is out of reach for now; the end of the launch looks again

    def _consider(self, directory: Path) -> None:
        sign = alive.read(directory)
        if sign is None:
            self._note_hookless(directory)
        elif sign.phase in _OVER and _free(self.launch, directory):
            self._seal_in_child(directory)

    def _note_hookless(self, directory: Path) -> None:
        """Give a run without a hook its open entry, so that `status` shows it while it trains."""
        polls = self._seen_without_life.get(directory.name, 0) + 1
        self._seen_without_life[directory.name] = polls
        if polls == _HOOKLESS_POLLS:
            self._open_place(directory)

    def _seal_in_child(self, directory: Path) -> None:
        self._tried.add(directory.name)
        self._child = os.fork()
        if self._child:
            return
        try:
            os.nice(19)
            self._seal(directory)
        except BaseException:  # noqa: BLE001, S110 - a forked copy of the launcher must end here, whatever happens
            pass
        finally:
            os._exit(0)

    def _is_sealing(self) -> bool:
        if self._child and os.waitpid(self._child, os.WNOHANG) != (0, 0):
            self._child = 0
        return self._child != 0

    def seal_finished(self) -> None:
        """Seal here and now what is finished: for a launch that is a thread of a program, which can't be forked."""
        try:
            for directory in self.launch.paths.fragments():
                sign = alive.read(directory)
                if (
                    directory.name not in self.done
                    and sign is not None
                    and sign.phase in _OVER
                    and _free(self.launch, directory)
                ):
                    self._seal(directory)
        except (OSError, SpoolError):
            pass  # the end of the program looks again

    # -- after the command -------------------------------------------------------------------------------------------

    def finish(self, *, timeout_s: float, process: tuple[int, int] | None = None) -> list[Sealed]:
        """Seal what is left; waits at most `timeout_s` in all for logs that are still held open.

        `process`: pid and exit code of the command, for the fragment that this very process wrote.
        """
        deadline = time.monotonic() + timeout_s
        return [self._finish_one(directory, deadline, process) for directory in self.launch.paths.fragments()]

    def _finish_one(self, directory: Path, deadline: float, process: tuple[int, int] | None) -> Sealed:
        state = self._state(directory)
        if state not in (None, State.OPEN):
            return Sealed(directory, state)
        if not _free(self.launch, directory, max(0.0, deadline - time.monotonic())):
            self._open_place(directory)
            return Sealed(directory, State.OPEN, "a process still writes its log")
        sign = alive.read(directory)
        code = process[1] if process is not None and sign is not None and sign.pid == process[0] else None
        return self._seal(directory, code)

    def _seal(self, directory: Path, process_exit_code: int | None = None) -> Sealed:
        from wandb_spool.spool.seal import seal_fragment

        try:
            place = self._open_place(directory)
            if place is None:
                return Sealed(directory, self._state(directory))
            moved = seal_fragment(self.launch.spool, place, process_exit_code=process_exit_code)
        except LostRaceError:
            return Sealed(directory, None, "somebody else seals it")
        except (SpoolError, OSError) as error:
            return Sealed(directory, State.OPEN, f"can't be sealed yet: {error}")
        self.done[directory.name] = moved.state
        return Sealed(directory, moved.state)

    def _open_place(self, directory: Path) -> Place | None:
        """The open entry of a fragment, made if there is none at all; None when it is past *open* already."""
        spool = self.launch.spool
        name = f"{self.launch.name}.{directory.name}"
        path = spool.paths.entry(State.OPEN, name)
        if path.exists():
            return Place(name, State.OPEN, str(path))
        if spool.find(name) is not None:
            return None
        from wandb_spool.spool.recover import open_entry

        try:
            return spool.add(open_entry(spool, self.launch, directory))
        except SpoolError:
            return None  # no room; `recover` makes it later

    def _state(self, directory: Path) -> State | None:
        known = self.done.get(directory.name)
        if known is not None:
            return known
        try:
            place = self.launch.spool.find(f"{self.launch.name}.{directory.name}")
        except SpoolError:
            return None
        return None if place is None else place.state


def _free(launch: Launch, directory: Path, timeout_s: float = 0.0) -> bool:
    """Whether no process of this host holds the log open, waiting for it up to `timeout_s`."""
    from wandb_spool.spool.seal import wait_for_writers
    from wandb_spool.spool.staging import writers_log

    log = writers_log(launch, directory)
    return log is None or wait_for_writers(log, timeout_s)
