"""Logging resumes by itself, in a new fragment of the same run, after wandb-core died or could not write any more.

What the dead fragment has on disk is read from its log; everything sent later is repeated from the journal, with its
steps. Config, summary, aggregates, defined metrics, name, notes, tags, group and job type are carried over; the
program's run object stays the one that it has. Fails softly: rows are counted and kept, and it is tried again.
"""

from __future__ import annotations

import os
import threading
import time
from typing import Any, Dict, List

from . import core, files, footing, tensorboard
from .anatomy import interface_of, messages, module
from .fragment import Fragment
from .journal import Sent
from .memory import time_of
from .notice import say, say_once
from .process import Process
from .room import no_room
from .session import Session
from .tail import FILES, HISTORY, records

RETRY_S = 1.0
RETRY_MOST_S = 30.0

# The program's run object keeps these when it takes over the new one's state: the program holds references to them,
# or they count over all fragments.
KEPT = ("_config", "summary", "_torch_history", "_local_step", "_start_time", "_frozen", "_init_pid")


class Reviver:
    def __init__(self, process: Process) -> None:
        self._process = process
        self._lock = threading.RLock()
        self._busy = False
        self._not_before_s = 0.0
        self._retry_s = RETRY_S
        self.init: Any = None  # wandb's own; set when it is wrapped
        self.bind: Any = None  # puts a session on an interface
        self.after: Any = None  # what has to be done after every init

    def revive(self, session: Session, now: bool = False) -> bool:
        """True if this session can log again."""
        with self._lock:
            if session.broken is None:
                return True
            if self._busy or session.pid != os.getpid() or (time.monotonic() < self._not_before_s and not now):
                return False
            self._busy = True
            try:
                with footing.somewhere(self._process.launch.work):
                    self._revive_all(session.broken)
            except Exception as error:  # noqa: BLE001 - promise 1: then training goes on without logging
                self._put_off(f"{type(error).__name__}: {error}")
            finally:
                self._busy = False
            return session.broken is None

    def _put_off(self, why: str) -> None:
        self._not_before_s = time.monotonic() + self._retry_s
        self._retry_s = min(self._retry_s * 2, RETRY_MOST_S)
        say_once(f"revive {why}", f"logging can't go on now ({why}); rows are counted, training goes on")

    def _revive_all(self, reason: str) -> None:
        """All runs share one wandb-core: when it is replaced, they all move."""
        trouble = self._trouble()
        if trouble is not None:
            self._put_off(trouble)
            return
        sessions = self._process.unfinished()
        for session in sessions:
            session.fail(reason)
        core.kill()  # alive but useless: its writer never recovers from a full disk
        core.abandon()
        for session in sessions:
            with session.lock:
                self._continue(session)
        self._retry_s = RETRY_S
        self.after()

    def _trouble(self) -> Any:
        if not _can_start_beside(module()):
            return "this wandb is too old for it, 0.19.11 or newer can"
        return no_room(self._process.launch.work)

    def _continue(self, session: Session) -> None:
        old, missing = session.fragment, self._read_dead(session)
        reason = session.broken
        with tensorboard.began_at(session.began_s if session.tensorboards else None):
            new = self.init(**_arguments(session, self._process))
        _take_over(session.run, new)
        interface = interface_of(session.run)
        fragment = Fragment(
            self._process.launch,
            session.run,
            predecessor=old.predecessor if old.outside else old.entry,
            overridden=self._process.overridden,
            base_url=self._process.base_url,
            first_step=max(old.rows.step, session.tail.last_step + 1) if session.journal.shared else old.rows.step,
        )
        lost = _close(old, fragment, session, missing)
        told = _told_loss(lost, session)
        session.move(interface, fragment)
        self.bind(interface, session)
        self._process.remember(session)
        _repeat(session, old, missing)
        if old.outside:
            old.remove()
        say(f"logging of run {session.name} was interrupted ({reason}) and goes on in a new fragment" + told)

    def _read_dead(self, session: Session) -> List[Sent]:
        if session.fragment.outside:
            return session.journal.all()  # in the spool it begins anew
        session.tail.advance()
        session.look_for_others()
        record_class = messages().Record
        times_s = set()
        for data in records(session.fragment.log):
            record = record_class.FromString(data)
            session.memory.read(record)
            times_s.add(time_of(record.history))
        if not session.journal.shared:
            return session.journal.missing(session.tail)
        missing = session.journal.sent_after(times_s)
        _move_behind(session.tail.last_step, missing)
        return missing


def _arguments(session: Session, process: Process) -> Dict[str, Any]:
    """The program's own arguments to init, and what became of the run since."""
    run, settings = session.run, session.run._settings
    arguments = {k: v for k, v in session.arguments.items() if k not in ("resume_from", "fork_from", "save_code")}
    config = {key: value for key, value in run._config.as_dict().items() if key != "_wandb"}
    arguments.update(
        id=settings.run_id,
        resume="allow",
        reinit="create_new",
        mode="offline",
        dir=process.launch.work,
        project=settings.project,
        entity=settings.entity,
        name=settings.run_name,
        notes=settings.run_notes,
        tags=settings.run_tags,
        group=settings.run_group,
        job_type=settings.run_job_type,
        config=config,
    )
    process.launch.assert_environment(os.environ)
    return arguments


def _can_start_beside(wandb: Any) -> bool:
    """``reinit="create_new"`` came with 0.19.11."""
    return "create_new" in str(wandb.Settings.model_fields["reinit"].annotation)


def _take_over(run: Any, new: Any) -> None:
    """The program's run object becomes the new run; what it handed out before (config, summary) stays valid."""
    run._console_stop()  # the dead run's wrappers around stdout and stderr
    kept = {name: run.__dict__[name] for name in KEPT if name in run.__dict__}
    run.__dict__.update(new.__dict__)
    run.__dict__.update(kept)
    run._config._set_settings(run._settings)
    library: Any = getattr(run, "_wl", None)
    if hasattr(library, "remove_active_run"):
        library.remove_active_run(new)
        library.add_active_run(run)


def _move_behind(step: int, missing: List[Sent]) -> None:
    """Another process logged into the fragment, too: its rows have taken the steps that ours would have had."""
    rows = [sent for sent in missing if sent.kind == HISTORY]
    shift = max(0, step + 1 - rows[0].step) if rows else 0
    for sent in rows:
        sent.step += shift


def _told_loss(lost: int, session: Session) -> str:
    if session.tensorboards:
        return "; its TensorBoard files are read again from their beginning"
    if session.journal.shared:
        return "; what is lost can't be counted, because another process logged into it as well"
    return f"; {lost} rows are lost" if lost else "; nothing is lost"


def _close(old: Fragment, new: Fragment, session: Session, missing: List[Sent]) -> int:
    """Settle the count of the dead fragment: what it has on disk, and what nobody can repeat any more."""
    on_disk = 0 if old.outside else session.tail.counts.get(HISTORY, 0)
    repeated = len({sent.step for sent in missing if sent.kind == HISTORY})
    lost = max(0, old.rows.begun - on_disk - repeated)
    # One write each, promise first: a death in between counts rows twice, which is told; the reverse would hide them.
    new.promised = repeated
    new.show_life()
    old.rows.begun = on_disk + lost
    old.rows.last_step = session.tail.last_step
    old.end("continued")
    return lost


def _repeat(session: Session, old: Fragment, missing: List[Sent]) -> None:
    interface = session.interface
    for metric in session.memory.metrics.values():
        interface._publish_metric(metric)
    session.publish_summary(session.memory.summary(aggregated=False))
    first = next((sent.step for sent in missing if sent.kind == HISTORY), None)
    if first is not None:
        session.fragment.rows.step = first
    for sent in missing:
        if sent.kind == HISTORY:
            sent.message.step.num, sent.message.action.flush = sent.step, sent.flush
            interface._publish_partial_history(sent.message)
        else:
            if sent.kind == FILES:
                files.carry(session, old.run_dir, [item.path for item in sent.message.files.files])
            interface._publish(sent.message)
    for record in list(session.tensorboards.values()):
        interface._publish(record)
    files.save_again(session, old.run_dir)
    session.correct_summary()
