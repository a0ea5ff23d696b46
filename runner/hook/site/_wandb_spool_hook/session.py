"""One run of the program, through all its fragments: counts, sends, and notices when nothing arrives any more.

Guarantees: sending never blocks training for long and never raises. While nothing can be sent (``broken``), rows are
counted and kept in the journal; ``revive`` repeats them in a new fragment.
"""

from __future__ import annotations

import os
import threading
import time
from typing import Any, Dict, Optional, Tuple

from . import core, shared, tensorboard
from .anatomy import messages
from .fragment import Fragment
from .journal import Journal, Sent
from .memory import Memory
from .notice import forget
from .room import no_room
from .sender import Sender, Stuck
from .tail import HISTORY, Tail, records

COMMIT = object()  # marks the one call that is no call of the program
# The disk was full for a moment: wandb-core's writer never recovers from that, however much room there is since.
STANDS_STILL = "the log stands still though there is room"
STUCK_S = 5.0  # ten times the flush interval: a committed row that is not on disk by then needs a reason

# Records besides rows that a new fragment would have to repeat, by their field in Record.
REPEATED = {"summary": 3, "files": 6, "artifact": 8, "alert": 10, "metric": 12, "use_artifact": 25}


class Session:
    def __init__(self, run: Any, interface: Any, fragment: Fragment, arguments: Dict[str, Any]) -> None:
        self.run = run
        self.interface = interface
        self.arguments = arguments  # of the program's own wandb.init
        self.pid = os.getpid()
        self.began_s = tensorboard.start_s(run)
        self.lock = threading.RLock()  # reentrant: a SIGTERM handler may finish the run in the middle of a call
        self.finished = False
        self.memory = Memory()
        self.broken: Optional[str] = None
        self.live: Optional[Memory] = None  # aggregates over all fragments, once there is more than one
        self.saved: Dict[str, Any] = {}  # files.py: what was saved, by its name in the run
        self.tensorboards: Dict[str, Any] = {}  # by directory: the record that makes wandb-core read its event files
        self._begin(fragment)

    def _begin(self, fragment: Fragment) -> None:
        self.fragment = fragment
        self.tail = Tail(fragment.log)
        self.journal = Journal()
        self.sender = Sender(self.interface)
        self._counts: Dict[str, int] = {}
        self._first_row = fragment.continues
        self._resume_step = fragment.resume_step
        self._next_probe_s = 0.0
        self._stood_bytes = -1  # the log's size at the last probe, while rows waited
        self._log_inode = _inode(fragment.log)

    def move(self, interface: Any, fragment: Fragment) -> None:
        """Go on in another fragment."""
        self.interface = interface
        self.broken = None
        self.live = self.memory.fork()
        self._begin(fragment)

    @property
    def name(self) -> str:
        return str(self.run._settings.run_id)

    @property
    def step_to_come(self) -> Optional[int]:
        """The step of the first row of a resumed run that has none yet; wandb-core doesn't know it."""
        return self._resume_step

    # -- what the program logs ---------------------------------------------------------------------------------------

    def row(self, history: Any) -> None:
        """Count one call of ``log`` and keep it; settle its step where wandb-core could not know it."""
        rows = self.fragment.rows
        step = history.step.num if history.HasField("step") else None
        flush = history.action.flush if history.HasField("action") else None
        if self._resume_step is not None and step is None:
            rows.step, self._first_row = self._resume_step, True
        self._resume_step = None
        if not self.fragment.call(step, flush):
            return
        flush = step is None if flush is None else flush
        at = rows.last_step
        if self._first_row:
            # A new wandb-core begins at step 0; the run does not.
            history.step.num, history.action.flush = at, flush
            self._first_row = False
        self.journal.add(Sent(HISTORY, history, rows.begun, 0, at, flush))
        if self.live is not None:
            self.live.log(history)

    def correct_summary(self) -> None:
        """After a resumption wandb-core's own aggregates know only its fragment's rows."""
        if self.live is not None and self.broken is None:
            self.publish_summary(self.live.aggregated())

    def commit_open_row(self) -> None:
        """Commit what ``finish`` would commit, so that a last correction of the summary comes after it."""
        if self.live is None or not self.fragment.rows.open or self.broken is not None:
            return
        history = messages().PartialHistoryRequest()
        history.action.flush = True
        self.fragment.rows.call(None, True)
        self.interface._publish_partial_history(history, COMMIT)

    def send(self, record: Any, original: Any, nowait: bool) -> None:
        kind = record.WhichOneof("record_type")
        if kind in REPEATED:
            self._counts[kind] = self._counts.get(kind, 0) + 1
            self.journal.add(Sent(REPEATED[kind], record, self.fragment.rows.begun, self._counts[kind]))
        elif kind == "tbrecord":
            self.tensorboards[record.tbrecord.log_dir] = record
            shared.mark(self.fragment.run_dir)
            self.look_for_others()
        if self.broken is not None or (nowait and self.sender.stalled):
            return
        try:
            self.sender.send(record, original, nowait)
            if self.sender.stalled and self.journal.is_full():
                raise Stuck("wandb-core takes nothing any more")
        except Exception as error:  # noqa: BLE001 - whatever broke, the journal has the call
            self.fail(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)

    def publish_summary(self, values: Dict[Tuple[str, ...], str]) -> None:
        """Set values (JSON by path) as ``run.summary[...] = ...`` does."""
        if not values:
            return
        record = messages().SummaryRecord()
        for path, value in values.items():
            item = record.update.add()
            item.value_json = value
            if len(path) == 1:
                item.key = path[0]
            else:
                item.nested_key.extend(path)
        self.interface._publish_summary(record)

    def remembered_summary(self) -> Dict[str, Any]:
        """The summary from what is on disk and under way, for as long as wandb-core can't be asked."""
        memory, record_class = Memory(), messages().Record
        for record in records(self.fragment.log):
            memory.read(record_class.FromString(record))
        for sent in self.journal.missing(self.tail):
            if sent.kind == HISTORY:
                memory.log(sent.message)
            else:
                memory.read(sent.message)
        return memory.nested_summary()

    def note(self, error: Exception) -> None:
        """An answer that never came means nothing while wandb-core lives."""
        if core.is_dead() or isinstance(error, (ConnectionError, BrokenPipeError)):
            self.fail(f"{type(error).__name__}: {error}")

    def fail(self, reason: str) -> None:
        if self.broken is None and not self.finished:
            self.broken = reason

    # -- what the heart does once a second ---------------------------------------------------------------------------

    def beat(self) -> None:
        self.fragment.show_life()
        if self.finished or self.broken is not None or not self.fragment.answers():
            return
        if core.is_dead():
            self.fail("wandb-core died")
            return
        self.look_for_others()
        if self.tail.advance() and not self.fragment.outside:
            self.journal.prune(self.tail)
        self._look_for_trouble()
        if not self.sender.stalled:
            forget("stalled")

    def look_for_others(self) -> bool:
        """Whether rows come from elsewhere as well."""
        self.journal.shared = self.journal.shared or shared.is_shared(self.fragment.run_dir)
        return self.journal.shared

    def look_for_room(self) -> None:
        """A run that had to begin outside moves into the spool, if all of it is still in memory."""
        if self.fragment.outside and not self.journal.dropped and no_room(self.fragment.work) is None:
            self.fail("the spool could not be written until now")

    def _look_for_trouble(self) -> None:
        if _inode(self.fragment.log) != self._log_inode:
            self.fail("the log was removed")
            return
        if os.path.exists(os.path.join(self.fragment.run_dir, "manifest.json")):
            self.fail("the fragment was sealed")
            return
        if time.monotonic() < self._next_probe_s:
            return
        if self.fragment.outside:
            self._next_probe_s = time.monotonic() + STUCK_S
            self.look_for_room()
            return
        waiting_s = self.journal.waiting_since_s()
        if waiting_s is None or time.monotonic() - waiting_s < STUCK_S or core.is_stopped():
            self._stood_bytes = -1
            return
        self._next_probe_s = time.monotonic() + STUCK_S
        trouble = no_room(os.path.dirname(self.fragment.run_dir))
        if trouble is None and self.tail.size_bytes() == self._stood_bytes:
            trouble = STANDS_STILL
        self._stood_bytes = self.tail.size_bytes()
        if trouble is not None:
            self.fail(trouble)


def _inode(path: str) -> int:
    try:
        return os.stat(path).st_ino
    except OSError:
        return -1
