"""Deliver fragments: the six steps of DESIGN, for a batch that shares one `wandb sync` process.

1 lease on the target run → 2 read back → 3 push view → 4 push → 5 read back the run → 6 receipt, `delivered`; anything
else becomes *deferred*, *quarantined* or *unverified* with a reason. `wandb sync` is never believed. A fragment leaves
`deliver` in exactly one state, whatever happens; a crash leaves it in `active`, from where it is put back.
"""

from __future__ import annotations

import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from wandb_spool.spool import clock, repairs
from wandb_spool.spool.configuration import Destination, Limits
from wandb_spool.spool.entry import Entry, Target
from wandb_spool.spool.errors import LostRaceError, SpoolError
from wandb_spool.spool.identity import Identity, current, host_name, start_ticks
from wandb_spool.spool.layout import target_key
from wandb_spool.spool.leases import EXPIRES_S, Lease, LeaseWatch, acquire
from wandb_spool.spool.log import LogReader, Record, RecordKind
from wandb_spool.spool.queue import Place, Spool
from wandb_spool.spool.receipts import append_receipt
from wandb_spool.spool.seal import unsealed_growth
from wandb_spool.spool.states import State
from wandb_spool.spool.version import VERSION

from .addresses import is_loopback
from .failures import DeliveryError, Failure, next_state
from .keeping import Keeper
from .meter import Meter, Phase
from .plan import jittered_s, next_backoff_s
from .push import PushResult, Trouble, push
from .server import Server
from .standing import (
    Chain,
    Evidence,
    Sealed,
    Standing,
    check_log,
    examine,
    kept_attributes,
    load_chain,
    look,
    settle,
    unread,
)  # fmt: skip
from .view import Content, OtherRows, Settled, View, build

LOOKS_S = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.0, 5.0)
"""Waits between two looks at a server that may show data late; the last one repeats until patience ends."""


@dataclass(frozen=True)
class Account:
    """An open destination: server, key, entity of the key."""

    destination: Destination
    base_url: str
    key: str = field(repr=False)
    server: Server
    entity: str | None
    outages: list[DeliveryError] = field(default_factory=list)
    """Why it stopped answering; from the first one on it is not asked any more in this pass."""


@dataclass(frozen=True)
class Circumstances:
    """What a delivery depends on and does not decide."""

    spool: Spool
    limits: Limits
    environ: Mapping[str, str]
    watch: LeaseWatch
    patience_s: float
    scratch: Path | None = None
    lease_expires_s: float = EXPIRES_S
    stopping: Callable[[], bool] = lambda: False
    now_s: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep
    rng: random.Random = field(default_factory=random.Random)
    tell: Callable[[str], None] = lambda line: None
    meter: Meter = field(default_factory=Meter)


@dataclass(frozen=True)
class Task:
    """One fragment that is due, with its run's other fragments."""

    place: Place
    target: Target
    chain_entries: tuple[Entry, ...]
    aside: frozenset[str] = frozenset()
    """Of them those that were set aside."""


@dataclass(frozen=True)
class Outcome:
    """What became of one fragment in this pass."""

    entry: str
    target: Target | None
    state: State
    failure: Failure | None = None
    reason: str | None = None
    rows: int = 0
    superseded: int = 0
    pushed: bool = False
    level: str = "rows"
    """Of a delivered one: whether its rows were compared, or only counted."""


@dataclass
class _Job:
    task: Task
    place: Place
    entry: Entry
    lease: Lease
    settled: bool = False
    view: View | None = None
    found: _Found | None = None
    whole: bool = False
    """Whether its push writes all lines of the run anew."""

    @property
    def known(self) -> _Found:
        assert self.found is not None
        return self.found


@dataclass
class _Found:
    """What step 2 found out."""

    chain: Chain
    index: int
    evidence: Evidence
    standing: Standing

    @property
    def newest(self) -> bool:
        return self.chain.is_newest(self.index)

    @property
    def delivered_before(self) -> tuple[str, ...]:
        """The entries of the run's other fragments that have a receipt."""
        others = (sealed for index, sealed in enumerate(self.chain.sealed) if index != self.index)
        return tuple(sealed.entry.name for sealed in others if sealed.entry.receipt)


@dataclass
class Delivery:
    """One batch on its way. `outcomes` holds what became of it, also when `run` raises."""

    account: Account
    circumstances: Circumstances
    outcomes: list[Outcome] = field(default_factory=list)
    elsewhere: int = 0
    """Fragments on whose run another syncer works."""

    def __post_init__(self) -> None:
        self._keeper = Keeper(self.circumstances.stopping, self.circumstances.meter.tick)

    def run(self, tasks: Sequence[Task]) -> None:
        """Deliver fragments of different target runs to one destination, clean ones in one process.

        Raises SpoolError when the spool can't be written; everything is back in the queue then.
        """
        jobs: list[_Job] = []
        self.circumstances.meter.enter(Phase.CHECKING, len(tasks), self.account.base_url)
        try:
            with _scratch(self.circumstances) as private:
                for task in tasks:
                    job = self._take(task)
                    if job is not None:
                        jobs.append(job)
                        self._guarded(job, lambda job: self._look_first(job, private))
                self._push_all([job for job in jobs if not job.settled])
        finally:
            for job in jobs:
                self._let_go(job)

    def _take(self, task: Task) -> _Job | None:
        """Step 1. None when somebody else works on the target run or took the entry, or when it is time to stop."""
        circumstances, target = self.circumstances, task.target
        if circumstances.stopping():
            return None
        key = target_key(target.base_url, target.entity, target.project, target.run_id)
        lease = acquire(circumstances.spool, key, circumstances.watch, expires_s=circumstances.lease_expires_s)
        if lease is None:
            self.elsewhere += 1
            return None
        try:
            place = circumstances.spool.claim(task.place)
            job = _Job(task, place, replace(circumstances.spool.read(place), target=target), lease)
        except LostRaceError:
            lease.release()
            return None
        except (SpoolError, FileNotFoundError):
            lease.release()
            raise
        self._keeper.add(lease)
        return job

    def _let_go(self, job: _Job) -> None:
        """Whatever happened: the entry is in the queue and the lease is free."""
        if not job.settled:
            try:
                self._put_back(job)
            except SpoolError as error:
                self.circumstances.tell(f"{job.entry.name} stays in active for now: {error}")
        self._keeper.remove(job.lease)
        job.lease.release()

    def _put_back(self, job: _Job) -> None:
        """Nothing was decided: the entry goes back whence it came."""
        origin = job.place.origin or State.DEFERRED
        self.circumstances.spool.release(job.place, origin)
        job.settled = True

    def _guarded(self, job: _Job, step: Callable[[_Job], None]) -> None:
        """Do one step for one fragment; a failure of its own settles it."""
        try:
            step(job)
        except DeliveryError as error:
            self._fail(job, error)

    # -- before the push ---------------------------------------------------------------------------------------------

    def _look_first(self, job: _Job, private: Path) -> None:
        """Step 2, and what can be said without a push."""
        spool = self.circumstances.spool
        if unsealed_growth(spool, job.entry):
            self._reopen(job)
            return
        spool.rewrite(job.place, job.entry)  # the target is recorded before the first push
        entries = [job.entry if item.name == job.entry.name else item for item in job.task.chain_entries]
        chain = load_chain(spool.root, entries, private, self._keeper.tick, aside=job.task.aside)
        try:
            index = chain.index_of(job.entry)
        except StopIteration as error:
            raise _without_manifest(spool.root, job.entry) from error
        sealed = chain.sealed[index]
        if job.entry.manifest_sha256 not in (None, sealed.digest):
            raise DeliveryError(Failure.TAMPERED, "the manifest is not the one that was sealed")
        evidence = settle(examine(spool.root, sealed, self._keeper.tick), chain, index)
        job.found = _Found(chain, index, evidence, self._first_look(job, chain, index, evidence))
        self._settle_without_push(job)

    def _first_look(self, job: _Job, chain: Chain, index: int, evidence: Evidence) -> Standing:
        """A server that can't be read back is pushed to where a person accepted that: as if nothing were there."""
        try:
            return self._ask(job, chain, index, evidence)
        except DeliveryError as error:
            if error.failure is not Failure.UNREADABLE or not self.account.destination.accept_unverified:
                raise
            return unread(chain, index, self.circumstances.spool.root)

    def _reopen(self, job: _Job) -> None:
        entry = replace(job.entry, manifest_sha256=None)
        self.circumstances.spool.move(job.place, State.OPEN, entry, why="the log grew after the seal")
        job.settled = True

    def _settle_without_push(self, job: _Job) -> None:
        """All is there already, or it can't be mended by sending, or it may only be late."""
        standing = job.known.standing
        if self._complete(job) and not _left_running(job):
            self._deliver(job, pushed=False)
        elif standing.rows.conflicting:
            raise DeliveryError(Failure.CONFLICT, standing.missing())
        elif job.entry.extra.get("pushed") is not None and not self._complete(job):
            self._wait_for_late_data(job)

    def _complete(self, job: _Job) -> bool:
        """Whether the fragment is there, and no other one of its run was undone by a push that wrote the run anew."""
        standing = job.known.standing
        undone = standing.undone and repairs.is_marked(self.circumstances.spool, job.task.target)
        return standing.complete and not undone

    def _wait_for_late_data(self, job: _Job) -> None:
        """The last push looked well. Until the limit nothing is sent again; then it counts as a refusal."""
        now = self.circumstances.now_s()
        pushed_s = clock.seconds(str(job.entry.extra["pushed"])) or 0.0
        if pushed_s > now:  # the clock went back: count from here
            pushed_s = now
            job.entry = _with_extra(job.entry, pushed=clock.iso(now))
        if now - pushed_s < self.circumstances.limits.late_data_s:
            raise DeliveryError(Failure.NOT_YET, job.known.standing.missing())
        job.entry = _with_extra(job.entry, pushed=None)
        if job.entry.refusals + 1 >= self.circumstances.limits.refusals:
            raise DeliveryError(Failure.PARTIAL, f"accepted, and never shown: {job.known.standing.missing()}")
        job.entry = replace(job.entry, refusals=job.entry.refusals + 1)

    def _ask(self, job: _Job, chain: Chain, index: int, evidence: Evidence) -> Standing:
        """Look at the server. What fails for one run only must not pause the destination, and the reverse."""
        account = self.account
        if account.outages:
            raise account.outages[0]
        try:
            root = self.circumstances.spool.root
            return look(account.server, job.task.target, chain, index, evidence, root, self._keeper.tick)
        except DeliveryError as error:
            if not error.policy.breaker:
                raise
            raise self._whose_fault(error) from error

    def _whose_fault(self, error: DeliveryError) -> DeliveryError:
        try:
            self.account.server.account()
        except DeliveryError as outage:
            if outage.policy.breaker:
                self.account.outages.append(outage.everywhere())
                return outage
        if error.failure is Failure.AUTH:
            return DeliveryError(Failure.REFUSED, f"the key is good and may not read this run ({error.detail})")
        return error

    # -- the push ----------------------------------------------------------------------------------------------------

    def _push_all(self, jobs: list[_Job]) -> None:
        """Steps 3 to 6; what `wandb sync` left undone in company without a word is tried again alone."""
        if not jobs or self.circumstances.stopping():
            return
        with _scratch(self.circumstances) as scratch:
            for job in jobs:
                self._guarded(job, lambda job: self._build(job, scratch))
            built = [job for job in jobs if not job.settled]
            if not built:
                return
            self.circumstances.tell(f"pushing {len(built)} run(s) to {self.account.base_url}")
            result = self._push(built, scratch)
        if result.stopped:
            self._stop(built)
            return
        again = self._judge_all(built, result)
        if result.hung:
            middle = (len(again) + 1) // 2
            for half in (again[:middle], again[middle:]):
                self._push_all(half)
        else:
            for job in again:
                self._push_all([job])

    def _push(self, jobs: Sequence[_Job], scratch: Path) -> PushResult:
        meter = self.circumstances.meter

        def keep_going() -> bool:
            return not self.circumstances.stopping() and self._keeper.renew()

        rows = sum(job.entry.rows or 0 for job in jobs)
        meter.enter(Phase.PUSHING, len(jobs), self.account.base_url, rows, sum(map(_to_send_bytes, jobs)))
        return push(
            [job.view for job in jobs if job.view is not None],
            self.account.destination,
            self.account.base_url,
            self.account.key,
            scratch,
            self.circumstances.environ,
            limits=self.circumstances.limits,
            keep_going=keep_going,
            outlives_s=self.circumstances.lease_expires_s / 2,
            sent=meter.sent,
        )

    def _build(self, job: _Job, scratch: Path) -> None:
        """Step 3."""
        spool, found = self.circumstances.spool, job.known
        send_alerts = _send_alerts(job, self.circumstances)
        job.whole = _must_be_whole(found, self.account.server, job.task.target)
        content = Content(
            rows=found.standing.rows,
            whole=job.whole,
            others=_other_rows(found, spool.root, whole=job.whole, tick=self._keeper.tick),
            run_exists=found.standing.run is not None,
            settled=None if found.newest else _settled(found),
            send_alerts=send_alerts,
            unwanted_files=found.standing.present_files | found.standing.superseded_files,
            attributes=_attributes(found),
        )
        if job.whole and found.delivered_before and not repairs.is_marked(spool, job.task.target):
            repairs.mark(spool, job.task.target, job.entry.name, found.delivered_before)
        try:
            directory = Path(tempfile.mkdtemp(prefix="view-", dir=scratch))
            manifest = found.chain.sealed[found.index].manifest
            job.view = build(spool.root, job.entry, manifest, job.task.target, content, directory, self._keeper.tick)
        except OSError as error:
            raise DeliveryError(Failure.INTERRUPTED, f"no push view could be made in {scratch}: {error}") from error
        job.entry = replace(job.entry, attempts=job.entry.attempts + 1)
        if send_alerts and manifest.alerts:
            job.entry = _with_extra(job.entry, alerts="sent")
        spool.rewrite(job.place, job.entry)

    def _stop(self, jobs: Sequence[_Job]) -> None:
        """The push was ended by us. A lease that was lost is told; entries go back as they were, with the attempt."""
        for job in jobs:
            if not self.circumstances.stopping():
                self._fail(job, DeliveryError(Failure.INTERRUPTED, "the lease on its run, or of its batch, was lost"))

    def _judge_all(self, jobs: Sequence[_Job], result: PushResult) -> list[_Job]:
        """Steps 5 and 6; returns those that have to be pushed again alone. All share one patience."""
        alone = len(jobs) == 1
        self.circumstances.meter.enter(Phase.READING_BACK, len(jobs), self.account.base_url)
        deadline_s = time.monotonic() + self.circumstances.patience_s
        waiting = list(jobs)
        again: list[_Job] = []
        for wait_s in _waits():
            late: list[_Job] = []
            for job in waiting:
                verdict = self._judge(job, result)
                if verdict is None:
                    continue
                if verdict.failure is Failure.NOT_YET and time.monotonic() + wait_s < deadline_s:
                    late.append(job)
                elif not alone and _needs_solitude(job, result):
                    again.append(job)
                else:
                    self._give_up(job, verdict)
            if not late or self.circumstances.stopping():
                break
            waiting = late
            self.circumstances.sleep(wait_s)
            self._keeper.renew()
        return again

    def _judge(self, job: _Job, result: PushResult) -> DeliveryError | None:
        """Read back one fragment; None when it is settled."""
        if not job.lease.renew():
            self._fail(job, DeliveryError(Failure.INTERRUPTED, "the lease on its run was lost"))
            return None
        found = job.known
        try:
            found.standing = self._ask(job, found.chain, found.index, found.evidence)
        except DeliveryError as error:
            self._unreadable(job, error)
            return None
        if self._complete(job):
            self._deliver(job, pushed=True)
            return None
        assert job.view is not None
        marked = job.view.log in result.marked
        return classify(found.standing, result, result.trouble(job.view.log), marked)

    def _give_up(self, job: _Job, verdict: DeliveryError) -> None:
        if verdict.failure is Failure.NOT_YET:
            job.entry = _with_extra(job.entry, pushed=clock.iso(self.circumstances.now_s()))
        if job.known.standing.run is None:
            job.entry = _with_extra(job.entry, alerts=None)  # no run, no alert
        self._fail(job, verdict)

    def _unreadable(self, job: _Job, error: DeliveryError) -> None:
        """After a push the server could not be read back."""
        if error.failure is not Failure.UNREADABLE or not self.account.destination.accept_unverified:
            self._fail(job, error)
            return
        entry = replace(job.entry, reason=f"unverified: {error.detail}", mend=None)
        self.circumstances.spool.move(job.place, State.UNVERIFIED, entry, why="sent, not read back")
        job.settled = True
        self.outcomes.append(
            Outcome(job.entry.name, job.task.target, State.UNVERIFIED, error.failure, error.detail, pushed=True)
        )

    # -- the end -----------------------------------------------------------------------------------------------------

    def _deliver(self, job: _Job, *, pushed: bool) -> None:
        """Step 6. The receipt is durable before the entry moves."""
        spool, now = self.circumstances.spool, self.circumstances.now_s()
        receipt = append_receipt(spool, receipt_of(job.entry, job.task.target, job.known), now_s=now)
        entry = _with_extra(job.entry, pushed=None, alerts=None)
        entry = replace(entry, receipt=receipt, reason=None, mend=None, not_before=None, backoff_s=0.0)
        if not job.known.standing.undone:
            repairs.clear(spool, job.task.target)
        spool.move(job.place, State.DELIVERED, entry, why="read back", now_s=now)
        job.settled = True
        rows = job.known.standing.rows
        self.outcomes.append(
            Outcome(
                job.entry.name, job.task.target, State.DELIVERED,
                rows=rows.present, superseded=rows.superseded, pushed=pushed,
                level=job.known.standing.level,
            )
        )  # fmt: skip

    def _fail(self, job: _Job, error: DeliveryError) -> None:
        """Put an entry where its class of failure belongs, with reason, mend and not-before time."""
        circumstances = self.circumstances
        if error.failure is Failure.INTERRUPTED and circumstances.stopping():
            return  # nothing was decided: it goes back whence it came
        failed = failed_entry(job.entry, error, circumstances.limits, circumstances.rng, circumstances.now_s())
        state = next_state(error.failure, failed.refusals, circumstances.limits.refusals)
        if state is State.QUARANTINED:
            failed = replace(failed, not_before=None)
        circumstances.spool.move(job.place, state, failed, why=str(error), now_s=circumstances.now_s())
        job.settled = True
        self.outcomes.append(
            Outcome(job.entry.name, job.entry.target, state, error.failure, error.detail, pushed=job.view is not None)
        )


def _to_send_bytes(job: _Job) -> int:
    """About what a push carries: the files of its view, and the staged bytes of artifacts that are missing."""
    assert job.view is not None
    within = [path.stat().st_size for path in job.view.directory.rglob("*") if path.is_file()]
    manifest = job.known.chain.sealed[job.known.index].manifest
    staged = [item.size_bytes for item in manifest.files if item.kind == "staged"]
    return sum(within) + (sum(staged) if job.known.standing.missing_artifacts else 0)


def _waits() -> Iterator[float]:
    yield from LOOKS_S
    while True:
        yield LOOKS_S[-1]


def _without_manifest(root: Path, entry: Entry) -> DeliveryError:
    if not entry.run_directory(root).is_dir():
        return DeliveryError(Failure.VANISHED, f"the run directory {entry.path} is gone")
    return DeliveryError(Failure.DAMAGED, "its manifest is missing or damaged")


def _needs_solitude(job: _Job, result: PushResult) -> bool:
    """Whether only a push of its own can tell what is wrong: a batch hung, or said nothing about this run."""
    assert job.view is not None
    return result.hung or (not result.trouble(job.view.log) and job.view.log not in result.marked)


def _left_running(job: _Job) -> bool:
    """Whether the server shows a finished run as running: the push before was killed before it could say the end."""
    found = job.known
    run = found.standing.run
    return (
        found.newest
        and run is not None
        and run.state == "running"
        and found.evidence.facts.exit_code is not None
        and job.entry.attempts > 0
        and job.entry.extra.get("pushed") is None
    )


def _send_alerts(job: _Job, circumstances: Circumstances) -> bool:
    """Alerts go out once, with the first push, and not when they are old news."""
    facts = job.known.evidence.facts
    newest_s = max(facts.alert_times_s, default=facts.start_time_s or 0.0)
    young = circumstances.now_s() - newest_s < circumstances.limits.alert_age_s
    return young and job.entry.extra.get("alerts") is None


def _must_be_whole(found: _Found, server: Server, target: Target) -> bool:
    """Whether a push has to carry all rows of the run: the server does not count the lines that it holds.

    Then the client writes from the first line on. (A run without rows is not resumed either, because the client refuses
    to resume what is not counted.) What nobody here could send again must not be replaced.
    """
    standing = found.standing
    counted = standing.comparison.server_rows and server.resumable_lines(target.entity, target.project, target.run_id)
    if standing.run is None or counted:
        return False
    if standing.comparison.unknown:
        raise DeliveryError(
            Failure.CONFLICT,
            f"the server holds {standing.comparison.unknown} rows of this run that are not in this spool, and counts no"
            " lines: a push would replace them",
        )
    return True


def _other_rows(
    found: _Found, root: Path, *, whole: bool, tick: Callable[[], None] = lambda: None
) -> tuple[OtherRows, ...]:
    """The rows of the run's other fragments that a push has to carry too.

    What was delivered and is gone is sent again, whatever took it; to a server that does not count its lines, also what
    is there. A log that is not what was sealed is not sent.
    """
    others: list[OtherRows] = []
    for index, sealed in enumerate(found.chain.sealed):
        rows = found.standing.comparison.fragments[index]
        steps = tuple(
            steps
            for steps, owed in ((rows.present_steps, whole), (rows.missing_steps, bool(sealed.entry.receipt)))
            if owed and steps
        )
        if index == found.index or not steps or sealed.log is None:
            continue
        try:
            check_log(root, sealed, tick)
        except DeliveryError:
            if whole and rows.present_steps:
                raise
            continue
        others.append(OtherRows(sealed.log, steps))
    return tuple(others)


def _settled(found: _Found) -> Settled:
    """What the newest fragment says; of one that was pruned here, what the server shows."""
    own, newest, run = found.evidence.facts, found.evidence.settled, found.standing.run
    if newest is not None:
        texts = {name: getattr(newest, name) for name in ("display_name", "group", "job_type", "notes")}
        attributes: dict[str, object] = {name: text for name, text in texts.items() if text}
        config, summary = newest.config, newest.summary
        attributes["tags"] = newest.tags or own.tags
    else:
        shown = (run.config if run else None) or {}
        config = {key: _config_value(value) for key, value in shown.items()}
        summary = (run.summary if run else None) or {}
        attributes = {}
    return Settled(
        {**own.config, **config},
        {**own.summary, **summary},
        attributes,
        found.chain.exit_code,
        newest is None or newest.console_lines > 0,
        None if newest is None else _environment(found.chain.newest_after(found.index)),
    )


def _environment(sealed: Sealed | None) -> Record | None:
    """It stands at the log's begin."""
    if sealed is None or sealed.log is None:
        return None
    with LogReader(sealed.log, salvage=True) as reader:
        return next((record for record in islice(reader, 100) if record.kind == RecordKind.ENVIRONMENT), None)


def _config_value(shown: object) -> object:
    return shown["value"] if isinstance(shown, dict) and "value" in shown else shown


def _attributes(found: _Found) -> dict[str, object]:
    """What the push says of the run beside its log: what a person changed, here or on the server."""
    run, facts = found.standing.run, found.evidence.facts
    kept = {} if run is None else kept_attributes(run, found.chain, found.index, facts)
    return {**kept, **found.evidence.edit.attributes(kept.get("tags", facts.tags))}


def classify(standing: Standing, result: PushResult, trouble: Trouble, marked: bool) -> DeliveryError:
    """The class of failure of a fragment that was pushed and is not complete. Pure."""
    missing = standing.missing()
    said = _said(result, trouble)
    if standing.rows.conflicting:
        return DeliveryError(Failure.CONFLICT, missing)
    if result.hung:
        return DeliveryError(Failure.HANG, f"the push made no progress and was ended; {missing}")
    if standing.run is None and 409 in trouble.codes:
        return DeliveryError(Failure.RUN_DELETED, f"the server has deleted this run{said}")
    if 429 in trouble.codes:
        return DeliveryError(Failure.RATE, f"the server asks to slow down; {missing}{said}")
    if any(code >= 500 for code in trouble.codes):
        return DeliveryError(Failure.SERVER_ERROR, f"{missing}{said}")
    if standing.run is None and trouble.codes:
        return DeliveryError(Failure.REFUSED, f"the server refuses this run{said}")
    if not trouble and marked:
        return DeliveryError(Failure.NOT_YET, missing)
    if not trouble.codes:
        return _without_answer(trouble, result, missing, said)
    return DeliveryError(Failure.PARTIAL, f"{missing}{said}")


def _without_answer(trouble: Trouble, result: PushResult, missing: str, said: str) -> DeliveryError:
    """Errors that no server gave: the way there, or `wandb sync` itself."""
    if trouble.says("x509", "tls:", "certificate"):
        return DeliveryError(Failure.TLS, f"{missing}{said}")
    if trouble.says("invalid character '<'"):
        return DeliveryError(Failure.CAPTIVE_PORTAL, f"{missing}{said}")
    if trouble.says("dial ", "connection re", "EOF", "timeout", "deadline exceeded", "no such host", "broken pipe"):
        return DeliveryError(Failure.UNREACHABLE, f"{missing}{said}")
    if result.exit_code:
        return DeliveryError(Failure.INTERRUPTED, f"`wandb sync` ended with {result.exit_code}{said}")
    return DeliveryError(Failure.PARTIAL, f"{missing}{said}")


def _said(result: PushResult, trouble: Trouble) -> str:
    """What `wandb sync` said, in one phrase."""
    told = trouble.errors or tuple(line for line in result.output.splitlines() if "rror" in line)
    codes = f" ({', '.join(str(code) for code in sorted(trouble.codes))})" if trouble.codes else ""
    return f"{codes}: {' '.join(told[0].split())[:200]}" if told else codes


def receipt_of(entry: Entry, target: Target, found: _Found) -> dict[str, object]:
    """What was read back, for the receipt."""
    manifest, standing, evidence = found.chain.sealed[found.index].manifest, found.standing, found.evidence
    return {
        "entry": entry.name,
        "manifest_sha256": entry.manifest_sha256,
        "target": target.as_json(),
        "loopback": is_loopback(target.base_url),
        "level": standing.level,
        "rows_delivered": standing.rows.present,
        "rows_superseded": standing.rows.superseded,
        "rows_nan_as_null": standing.rows.altered,
        "rows_lost": "unknown" if manifest.rows_lost is None else manifest.rows_lost,
        "first_step": manifest.first_step,
        "last_step": manifest.last_step,
        "files": len(evidence.files),
        "files_by_size_only": standing.unproven_files,
        "files_lost": list(evidence.lost_files),
        "artifacts": len(manifest.artifacts) - len(evidence.lost_artifacts),
        "artifacts_lost": sorted(evidence.lost_artifacts),
        "bytes": manifest.size_bytes,
        "alerts_not_sent": 0 if entry.extra.get("alerts") == "sent" else manifest.alerts,
        "url": run_url(target),
        "by": host_name(),
        "author": evidence.author,
        "version": VERSION,
    }


def run_url(target: Target) -> str:
    """Where a person sees the run (W&B's cloud shows on another host than it takes data on)."""
    host = target.base_url.replace("://api.wandb.ai", "://wandb.ai")
    return f"{host}/{target.entity}/{target.project}/runs/{target.run_id}"


def failed_entry(entry: Entry, error: DeliveryError, limits: Limits, rng: random.Random, now_s: float) -> Entry:
    """The entry after a failure: reason, mend, refusals, not-before. Pure."""
    refusals = entry.refusals + (1 if error.policy.refusal else 0)
    failed = replace(entry, reason=str(error), mend=error.policy.mend, refusals=refusals)
    if error.destination_wide:  # it is due as soon as its destination answers, or when the server said
        wait_s = error.retry_after_s
        later_s = None if wait_s is None else now_s + wait_s + jittered_s(wait_s, rng)
        return replace(failed, not_before=None if later_s is None else clock.iso(later_s))
    ceiling = next_backoff_s(entry.backoff_s, limits)
    wait_s = max(jittered_s(ceiling, rng), error.retry_after_s or 0.0)
    return replace(failed, backoff_s=ceiling, not_before=clock.iso(now_s + wait_s))


def _with_extra(entry: Entry, **changes: str | None) -> Entry:
    extra = {**entry.extra, **changes}
    return replace(entry, extra={key: value for key, value in extra.items() if value is not None})


@contextmanager
def _scratch(circumstances: Circumstances) -> Iterator[Path]:
    """A private directory on the syncer's own disk, gone afterwards; what a killed syncer left there goes first."""
    parent = circumstances.scratch or Path(tempfile.gettempdir())
    _sweep(parent)
    here = current()
    directory = tempfile.mkdtemp(prefix=f"{_scratch_prefix(here)}{here.pid}-{here.start_ticks}-", dir=parent)
    try:
        yield Path(directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _scratch_prefix(identity: Identity) -> str:
    """Only a process of this pid namespace can tell whether the owner of such a directory lives."""
    return f"wandb-spool-push-{''.join(filter(str.isdigit, identity.pid_ns))}-"


def _sweep(parent: Path) -> None:
    prefix = _scratch_prefix(current())
    for directory in parent.glob(f"{prefix}*"):
        pid, _, rest = directory.name.removeprefix(prefix).partition("-")
        if pid.isdigit() and str(start_ticks(int(pid))) != rest.partition("-")[0]:
            shutil.rmtree(directory, ignore_errors=True)  # another user's stays: it can't be removed
