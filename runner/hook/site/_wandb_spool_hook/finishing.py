"""``finish`` ends: with a dead, a stopped or a busy wandb-core, and when the program ends without calling it.

Guarantees: it never raises and never hangs; a wandb-core that makes no progress is killed and the run finished by a
new one. When it returns, the exit record is on disk, or nothing more can be written (and that was told): a disk that
does not answer is waited for no longer than a wandb-core that stands still. A run that is
open when the program ends is finished with the program's exit code. One case is told and not mended: under Python 3.12,
which starts no thread while the interpreter ends, a wandb-core that turns out dead or stopped only then, in a program
that did not call ``finish``, can't be replaced.
"""

from __future__ import annotations

import atexit
import functools
import os
import sys
import time
from typing import Any, List, Optional

from . import core, deferral, files, footing
from .alive import heart
from .anatomy import module, part, run_class
from .exits import code_of
from .exits import exit_code as program
from .notice import say
from .process import Process
from .revive import Reviver
from .room import NO_ANSWER, no_room
from .session import STANDS_STILL, Session
from .tail import EXIT

STANDSTILL_S = 20.0  # no byte in any log for so long: a hung disk, or a wandb-core that will not answer
STOPPED_S = 3.0  # a stopped process makes no progress at all
LAST_BYTES_S = 2.0
UNTOLD = -1  # an exit code in the sign of life


def install(process: Process, reviver: Reviver) -> None:
    Run = run_class()
    original = Run._finish

    def _finish(self: Any, exit_code: Optional[int] = None) -> Any:
        session = process.of(self)
        if session is None or session.finished:
            return original(self, exit_code)
        return Finisher(process, reviver, original).finish(session, exit_code)

    Run._finish = _finish
    _guard_teardown(process)
    core.guard_teardown()
    core.quiet_asyncio()


def _guard_teardown(process: Process) -> None:
    """``wandb.teardown`` finishes what is open, and speaks to wandb-core, which may be dead."""
    setup, wandb = part("wandb_setup"), module()
    original = setup.teardown

    @functools.wraps(original)
    def teardown(exit_code: Optional[int] = None) -> None:
        finish_all(process, exit_code)
        with Watch(process):
            try:
                if core.is_dead():
                    core.abandon()
                original(exit_code)
            except Exception:  # noqa: BLE001 - promise 1; the runs are finished, nothing is left to lose
                core.abandon()

    for owner in (setup, wandb, wandb.sdk):
        owner.teardown = teardown
    wandb._teardown = teardown


class Finisher:
    def __init__(self, process: Process, reviver: Reviver, original: Any) -> None:
        self._process = process
        self._reviver = reviver
        self._original = original

    def finish(self, session: Session, exit_code: Optional[int]) -> None:
        deferral.enter()  # a SIGTERM that arrives now must not leave the run without its exit record
        try:
            with footing.somewhere(self._process.launch.work):
                self._finish(session, exit_code)
        finally:
            deferral.leave()

    def _finish(self, session: Session, exit_code: Optional[int]) -> None:
        if not _wait_for_the_disk(session):
            # wandb-core is left alive: it writes what it has when the disk answers again, and ends with this process.
            session.fail(NO_ANSWER)
            core.abandon()
            _leave(session.run)
            self._end(session, exit_code)
            return
        session.look_for_room()
        for _ in range(2):
            if core.is_dead():
                session.fail("wandb-core died")
            if session.broken is not None and not self._reviver.revive(session, now=True):
                break
            with session.lock:
                session.commit_open_row()
                session.correct_summary()
            files.settle(session)
            if self._try(session, exit_code) and _wait_for_exit_record(session):
                break
        if session.broken is not None:
            _leave(session.run)
        files.settle(session)  # again: the run may have moved to another fragment meanwhile
        files.forget(session)
        self._end(session, exit_code)

    def _try(self, session: Session, exit_code: Optional[int]) -> bool:
        with Watch(self._process):
            try:
                self._original(session.run, exit_code)
                return True
            except Exception as error:  # noqa: BLE001 - promise 1; a new wandb-core gets one more chance
                if _ended_all_the_same(session):
                    return True
                session.fail(f"finish: {type(error).__name__} {error}".strip())
                return False

    def _end(self, session: Session, asked: Optional[int]) -> None:
        self._process.end(session)
        code = asked or getattr(session.run, "_exit_code", None) or 0
        if code == 0 and program.ending and not program.certain:
            code = UNTOLD
        session.fragment.end("finished" if session.broken is None else "failed", code)
        if session.fragment.outside:
            kept = session.fragment.run_dir
            say(f"run {session.name} could not be logged into the spool. Afterwards: wandb-spool adopt {kept}")
        if session.broken is not None:
            missing = session.fragment.rows.begun - session.tail.rows
            most = "up to " if session.broken == NO_ANSWER else ""  # wandb-core may write them yet
            say(f"run {session.name} ends without {most}{max(0, missing)} of its rows: {session.broken}")


def _wait_for_the_disk(session: Session) -> bool:
    end_s = time.monotonic() + min(STANDSTILL_S, program.patience_s)
    session.fragment.show_life()
    while not session.fragment.answers():
        if time.monotonic() > end_s:
            return False
        time.sleep(0.05)
    return True


def _ended_all_the_same(session: Session) -> bool:
    """wandb's last words (to a closed terminal, say) come behind the exit record, before wandb-core is let go."""
    run = session.run
    try:
        run._wl.assert_service().inform_finish(run_id=run._settings.run_id)
        _wait_for_exit_record(session)
    except Exception:  # noqa: BLE001 - a dead wandb-core, or a wandb that lets it go in another way
        return False
    if not session.tail.counts.get(EXIT):
        return False
    _leave(run)
    return True


def _wait_for_exit_record(session: Session) -> bool:
    """wandb answers before the last bytes are written; who kills the process group now must not lose them."""
    tail, since_s = session.tail, time.monotonic()
    while not tail.counts.get(EXIT):
        if tail.advance():
            since_s = time.monotonic()
        elif core.is_dead() or time.monotonic() - since_s > LAST_BYTES_S:
            trouble = no_room(os.path.dirname(session.fragment.run_dir))
            if trouble is None and session.journal.waiting_since_s() is not None:
                trouble = STANDS_STILL
            if trouble is not None:
                session.fail(trouble)
            return trouble is None
        time.sleep(0.002)
    return True


def _leave(run: Any) -> None:
    """What of ``finish`` needs no wandb-core: give the streams and the globals back."""
    try:
        run._is_finished = True
        run._console_stop()
        run._wl.remove_active_run(run)
        if sys.modules["wandb"].run is run:
            part("lib.module").unset_globals()
    except Exception:  # noqa: BLE001, S110 - a wandb that keeps these elsewhere
        pass


class Watch:
    """Kills a wandb-core under which no log grows any more, so that whoever waits for it goes on.

    Lives in the heart's thread: Python 3.12 starts no thread while the interpreter ends.
    """

    def __init__(self, process: Process) -> None:
        self._process = process
        self._seen = self._sizes()
        self._since_s = time.monotonic()

    def __enter__(self) -> Watch:
        heart.add(self._beat)
        return self

    def __exit__(self, *error: object) -> None:
        heart.remove(self._beat)

    def _beat(self) -> None:
        found = self._sizes()
        if found != self._seen:
            self._seen, self._since_s = found, time.monotonic()
        patience_s = STOPPED_S if core.is_stopped() else min(STANDSTILL_S, program.patience_s)
        if time.monotonic() - self._since_s > patience_s:
            core.kill()

    def _sizes(self) -> List[int]:
        return [session.tail.size_bytes() for session in self._process.unfinished() if session.fragment.answers()]


def finish_at_exit(process: Process) -> None:
    """Run before wandb's own exit handler: the one that was registered last runs first."""
    atexit.unregister(_at_exit)
    atexit.register(_at_exit, process)
    _finish_at_the_end_of_a_child(process)


def _finish_at_the_end_of_a_child(process: Process) -> None:
    """A child of multiprocessing ends without Python's exit handlers; its module has some of its own."""
    found, util = sys.modules.get("multiprocessing.process"), sys.modules.get("multiprocessing.util")
    if found is not None and util is not None and found.parent_process() is not None:
        util.Finalize(None, _child_ends, args=(process,), exitpriority=100)


def _child_ends(process: Process) -> None:
    finish_all(process, code_of(sys.exc_info()[1], program.code))


def _at_exit(process: Process) -> None:
    program.ending = True
    finish_all(process)
    Watch(process).__enter__()  # wandb's own exit handler waits for wandb-core without a limit


def finish_all(process: Process, code: Optional[int] = None) -> None:
    for session in process.unfinished():
        session.run.finish(exit_code=program.code if code is None else code)
