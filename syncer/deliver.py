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
from pathlib import Path

from wandb_spool import __version__
from wandb_spool.spool import clock
from wandb_spool.spool.configuration import Destination, Limits
from wandb_spool.spool.entry import Entry, Target
from wandb_spool.spool.identity import Identity, current, host_name, start_ticks
from wandb_spool.spool.layout import target_key
from wandb_spool.spool.leases import EXPIRES_S, Lease, LeaseWatch, acquire
from wandb_spool.spool.queue import Place, Spool
from wandb_spool.spool.receipts import append_receipt
from wandb_spool.spool.seal import unsealed_growth
from wandb_spool.spool.states import State

from .addresses import is_loopback
from .failures import DeliveryError, Failure, next_state
from .plan import jittered_s, next_backoff_s
from .push import PushResult, push
from .server import Server
from .standing import Chain, Evidence, Standing, examine, load_chain, look
from .view import Content, OtherRows, View, build

LOOKS_S = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.0, 5.0)
"""Waits between two looks at a server that may show data late; the last one repeats until patience ends."""


@dataclass(frozen=True)
class Account:
    """An open destination: server, key, entity of the key."""

    destination: Destination
    base_url: str
    key: str
    server: Server
    entity: str | None


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


@dataclass(frozen=True)
class Task:
    """One fragment that is due, with its run's other fragments."""

    place: Place
    target: Target
    chain_entries: tuple[Entry, ...]


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


@dataclass
class _Job:
    task: Task
    place: Place
    entry: Entry
    lease: Lease
    chain: Chain
    index: int
    evidence: Evidence
    standing: Standing
    view: View | None = None


def deliver(tasks: Sequence[Task], account: Account, circumstances: Circumstances) -> list[Outcome]:
    """Deliver fragments of different target runs to one destination, clean ones in one process.

    What stays incomplete in a batch is done again alone, so that one culprit neither takes others with it nor lends
    them its error.
    """
    outcomes: list[Outcome] = []
    jobs: list[_Job] = []
    for task in tasks:
        started = _start(task, account, circumstances)
        if isinstance(started, Outcome):
            outcomes.append(started)
        elif started is not None:
            jobs.append(started)
    try:
        outcomes += _finish_all(jobs, account, circumstances)
    finally:
        for job in jobs:
            job.lease.release()
    return outcomes


def _start(task: Task, account: Account, circumstances: Circumstances) -> _Job | Outcome | None:
    """Steps 1 and 2. None when somebody else works on the target run or took the entry."""
    spool, target = circumstances.spool, task.target
    key = target_key(target.base_url, target.entity, target.project, target.run_id)
    lease = acquire(spool, key, circumstances.watch, expires_s=circumstances.lease_expires_s)
    if lease is None:
        return None
    try:
        place = spool.claim(task.place)
    except Exception:
        lease.release()
        raise
    try:
        entry = replace(spool.read(place), target=target)
        if unsealed_growth(spool, entry):
            lease.release()
            spool.move(place, State.OPEN, replace(entry, manifest_sha256=None), why="the log grew after the seal")
            return None
        spool.rewrite(place, entry)  # the target is recorded before the first push
        chain = load_chain(spool.root, [entry if item.name == entry.name else item for item in task.chain_entries])
        index = _index(chain, entry)
        evidence = examine(spool.root, chain.sealed[index])
        standing = look(account.server, target, chain, index, evidence, spool.root)
        return _Job(task, place, entry, lease, chain, index, evidence, standing)
    except DeliveryError as error:
        outcome = _fail(place, spool.read(place), error, circumstances)
        lease.release()
        return outcome


def _index(chain: Chain, entry: Entry) -> int:
    try:
        return chain.index_of(entry)
    except StopIteration as error:
        raise DeliveryError(Failure.DAMAGED, "its manifest is missing or damaged") from error


def _finish_all(jobs: list[_Job], account: Account, circumstances: Circumstances) -> list[Outcome]:
    outcomes: list[Outcome] = []
    to_push: list[_Job] = []
    for job in jobs:
        settled = _settled_without_push(job, circumstances)
        if settled is None:
            to_push.append(job)
        else:
            outcomes.append(settled)
    return outcomes + _push_all(to_push, account, circumstances)


def _settled_without_push(job: _Job, circumstances: Circumstances) -> Outcome | None:
    """What can be said before a push: all is there already, it can't be mended by sending, or it may only be late."""
    standing = job.standing
    if standing.complete and not _left_running(job):
        return _delivered(job, circumstances, pushed=False)
    if standing.rows.conflicting:
        return _fail(job.place, job.entry, DeliveryError(Failure.CONFLICT, standing.missing()), circumstances)
    pushed_s = clock.seconds(str(job.entry.extra.get("pushed") or "")) or 0.0
    if 0 <= circumstances.now_s() - pushed_s < circumstances.limits.late_data_s:
        return _fail(job.place, job.entry, DeliveryError(Failure.NOT_YET, standing.missing()), circumstances)
    return None


def _left_running(job: _Job) -> bool:
    """Whether the server shows a finished run as running: the push before was killed before it could say the end."""
    run = job.standing.run
    newest = job.index == len(job.chain.sealed) - 1
    return (
        newest
        and run is not None
        and run.state == "running"
        and job.evidence.facts.exit_code is not None
        and (job.entry.attempts > 0 and job.entry.extra.get("pushed") is None)
    )


def _push_all(jobs: list[_Job], account: Account, circumstances: Circumstances) -> list[Outcome]:
    """Steps 3 to 6 for a batch; what fails in company is tried again in halves, until the culprit is alone."""
    if not jobs:
        return []
    outcomes: list[Outcome] = []
    with _scratch(circumstances) as scratch:
        built = [job for job in jobs if _build(job, account, scratch, circumstances, outcomes)]
        if not built:
            return outcomes
        circumstances.tell(f"pushing {len(built)} run(s) to {account.base_url}")
        result = push(
            [job.view for job in built if job.view is not None],
            account.destination,
            account.base_url,
            account.key,
            scratch,
            circumstances.environ,
            limits=circumstances.limits,
            keep_going=lambda: _keep_going(built, circumstances),
        )
        again: list[_Job] = []
        for job in built:
            outcome = _judge(job, account, result, circumstances, alone=len(built) == 1)
            if outcome is None:
                again.append(job)
            else:
                outcomes.append(outcome)
    if again and (circumstances.stopping() or len(built) == 1):
        return outcomes + [_interrupted(job, circumstances) for job in again]
    middle = max(1, len(again) // 2) if result.hung else 1
    halves = [again[:middle], again[middle:]] if result.hung else [[job] for job in again]
    for half in halves:
        outcomes += _push_all(half, account, circumstances)
    return outcomes


def _build(job: _Job, account: Account, scratch: Path, circumstances: Circumstances, outcomes: list[Outcome]) -> bool:
    """Step 3; False, with the outcome told, when no push view can be made."""
    spool = circumstances.spool
    age_s = circumstances.now_s() - (job.evidence.facts.start_time_s or 0.0)
    try:
        content = Content(
            rows=job.standing.rows,
            run_exists=job.standing.run is not None,
            send_alerts=age_s < circumstances.limits.alert_age_s and job.entry.attempts == 0,
            others=_other_rows(job, account.server, spool),
            unwanted_files=job.standing.present_files,
        )
        directory = Path(tempfile.mkdtemp(prefix="view-", dir=scratch))
        manifest = job.chain.sealed[job.index].manifest
        job.view = build(spool.root, job.entry, manifest, job.task.target, content, directory)
        job.entry = replace(job.entry, attempts=job.entry.attempts + 1)
        spool.rewrite(job.place, job.entry)
        return True
    except DeliveryError as error:
        outcomes.append(_fail(job.place, job.entry, error, circumstances))
    except OSError as error:
        told = DeliveryError(Failure.INTERRUPTED, f"no push view could be made in {scratch}: {error}")
        outcomes.append(_fail(job.place, job.entry, told, circumstances))
    return False


def _other_rows(job: _Job, server: Server, spool: Spool) -> tuple[OtherRows, ...] | None:
    """The rows of the run's other fragments, for a server that holds rows and does not count them; else None."""
    standing = job.standing
    target = job.task.target
    if standing.run is None or not standing.comparison.server_rows:
        return None
    if server.resumable_lines(target.entity, target.project, target.run_id):
        return None
    others: list[OtherRows] = []
    for index, sealed in enumerate(job.chain.sealed):
        steps = standing.comparison.fragments[index].present_steps
        if index != job.index and steps and sealed.manifest.log_path is not None:
            others.append(OtherRows(sealed.entry.launch_directory(spool.root) / sealed.manifest.log_path, steps))
    return tuple(others)


def _keep_going(jobs: Sequence[_Job], circumstances: Circumstances) -> bool:
    """Renew the leases; False when one is lost or the syncer is told to stop: then the push must die."""
    if circumstances.stopping():
        return False
    return all(not job.lease.due() or job.lease.renew() for job in jobs)


def _judge(
    job: _Job, account: Account, result: PushResult, circumstances: Circumstances, *, alone: bool
) -> Outcome | None:
    """Step 5 and 6 for one fragment; None when it has to be pushed again alone."""
    if not job.lease.renew():
        return _fail(
            job.place, job.entry, DeliveryError(Failure.INTERRUPTED, "the lease on its run was lost"), circumstances
        )
    clean = job.view is not None and job.view.log in result.marked and not result.codes and not result.errors
    try:
        standing = _look_patiently(job, account, circumstances, circumstances.patience_s if clean else 0.0)
    except DeliveryError as error:
        return _unreadable(job, account, error, circumstances)
    job.standing = standing
    if standing.complete:
        return _delivered(job, circumstances, pushed=True)
    if not alone:
        return None
    verdict = classify(standing, result, clean)
    if verdict.failure is Failure.NOT_YET:
        job.entry = _with_extra(job.entry, pushed=clock.iso(circumstances.now_s()))
    return _fail(job.place, job.entry, verdict, circumstances)


def classify(standing: Standing, result: PushResult, clean: bool) -> DeliveryError:
    """The class of failure of a fragment that was pushed alone and is not complete. Pure."""
    missing = standing.missing()
    if result.stopped:
        return DeliveryError(Failure.INTERRUPTED, "the push was stopped")
    if result.hung:
        return DeliveryError(Failure.HANG, "the push made no progress and was ended")
    if standing.rows.conflicting:
        return DeliveryError(Failure.CONFLICT, missing)
    said = _said(result)
    if standing.run is None:
        if 409 in result.codes:
            return DeliveryError(Failure.RUN_DELETED, f"the server has deleted this run{said}")
        if result.codes & {400, 401, 403, 404, 413, 422}:
            return DeliveryError(Failure.REFUSED, f"the server refuses this run{said}")
    if 429 in result.codes:
        return DeliveryError(Failure.RATE, f"the server asks to slow down; {missing}{said}")
    if any(code >= 500 for code in result.codes):
        return DeliveryError(Failure.SERVER_ERROR, f"{missing}{said}")
    if clean:
        return DeliveryError(Failure.NOT_YET, missing)
    if standing.run is None and not result.codes:
        return DeliveryError(Failure.UNREACHABLE, f"`wandb sync` could not create the run{said}")
    return DeliveryError(Failure.PARTIAL, f"{missing}{said}")


def _said(result: PushResult) -> str:
    """What `wandb sync` said, in one phrase."""
    told = [line for line in result.output.splitlines() if "ERROR" in line or "rror" in line] or list(result.errors)
    codes = f" ({', '.join(str(code) for code in sorted(result.codes))})" if result.codes else ""
    return f"{codes}: {' '.join(told[-1].split())[:200]}" if told else codes


def _look_patiently(job: _Job, account: Account, circumstances: Circumstances, patience_s: float) -> Standing:
    waited = 0.0
    step = 0
    while True:
        standing = look(account.server, job.task.target, job.chain, job.index, job.evidence, circumstances.spool.root)
        wait = LOOKS_S[min(step + 1, len(LOOKS_S) - 1)]
        if standing.complete or standing.rows.conflicting or waited + wait > patience_s or circumstances.stopping():
            return standing
        circumstances.sleep(wait)
        waited += wait
        step += 1
        if job.lease.due():
            job.lease.renew()


def _delivered(job: _Job, circumstances: Circumstances, *, pushed: bool) -> Outcome:
    """Step 6. The receipt is durable before the entry moves."""
    sealed, standing, target = job.chain.sealed[job.index], job.standing, job.task.target
    manifest, rows = sealed.manifest, standing.rows
    receipt = append_receipt(
        circumstances.spool,
        {
            "entry": job.entry.name,
            "manifest_sha256": job.entry.manifest_sha256,
            "target": target.as_json(),
            "loopback": is_loopback(target.base_url),
            "level": standing.level,
            "rows_delivered": rows.present,
            "rows_superseded": rows.superseded,
            "rows_lost": "unknown" if manifest.rows_lost is None else manifest.rows_lost,
            "first_step": manifest.first_step,
            "last_step": manifest.last_step,
            "files": len(job.evidence.files),
            "files_by_size_only": standing.unproven_files,
            "files_lost": list(job.evidence.lost_files),
            "artifacts": len(manifest.artifacts) - len(job.evidence.lost_artifacts),
            "artifacts_lost": sorted(job.evidence.lost_artifacts),
            "bytes": manifest.size_bytes,
            "alerts_not_sent": job.view.alerts_dropped if job.view else 0,
            "url": run_url(target),
            "by": host_name(),
            "version": __version__,
        },
        now_s=circumstances.now_s(),
    )
    entry = replace(
        _with_extra(job.entry, pushed=None), receipt=receipt, reason=None, mend=None, not_before=None, backoff_s=0.0
    )
    circumstances.spool.move(job.place, State.DELIVERED, entry, why="read back", now_s=circumstances.now_s())
    return Outcome(
        job.entry.name, target, State.DELIVERED, rows=rows.present, superseded=rows.superseded, pushed=pushed
    )


def run_url(target: Target) -> str:
    """Where a person sees the run (W&B's cloud shows on another host than it takes data on)."""
    host = target.base_url.replace("://api.wandb.ai", "://wandb.ai")
    return f"{host}/{target.entity}/{target.project}/runs/{target.run_id}"


def _unreadable(job: _Job, account: Account, error: DeliveryError, circumstances: Circumstances) -> Outcome:
    """After a push the server could not be read back."""
    if error.failure is Failure.UNREADABLE and account.destination.accept_unverified:
        entry = replace(job.entry, reason=f"unverified: {error.detail}", mend=None)
        circumstances.spool.move(job.place, State.UNVERIFIED, entry, why="sent, not read back")
        return Outcome(job.entry.name, job.task.target, State.UNVERIFIED, error.failure, error.detail, pushed=True)
    return _fail(job.place, job.entry, error, circumstances)


def _interrupted(job: _Job, circumstances: Circumstances) -> Outcome:
    return _fail(job.place, job.entry, DeliveryError(Failure.INTERRUPTED, "the syncer was stopped"), circumstances)


def _fail(place: Place, entry: Entry, error: DeliveryError, circumstances: Circumstances) -> Outcome:
    """Put an entry where its class of failure belongs, with reason, mend and not-before time."""
    failed = failed_entry(entry, error, circumstances.limits, circumstances.rng, circumstances.now_s())
    state = next_state(error.failure, failed.refusals, circumstances.limits.refusals)
    if state is State.QUARANTINED:
        failed = replace(failed, not_before=None)
    circumstances.spool.move(place, state, failed, why=str(error), now_s=circumstances.now_s())
    return Outcome(entry.name, entry.target, state, error.failure, error.detail)


def failed_entry(entry: Entry, error: DeliveryError, limits: Limits, rng: random.Random, now_s: float) -> Entry:
    """The entry after a failure: reason, mend, refusals, not-before. Pure."""
    ceiling = next_backoff_s(entry.backoff_s, limits)
    wait = max(jittered_s(ceiling, rng), error.retry_after_s or 0.0)
    return replace(
        entry,
        reason=str(error),
        mend=error.policy.mend,
        refusals=entry.refusals + (1 if error.policy.refusal else 0),
        backoff_s=ceiling,
        not_before=clock.iso(now_s + wait),
    )


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
