"""One pass of the syncer: put back what the dead left, look at every entry, plan, deliver. Keeps nothing in memory.

The same pass is `wandb-spool sync` and one turn of the daemon. A pass never raises for a run: a bad entry becomes a
problem that is told, the rest goes on. It raises only when the spool itself can't be used.
"""

from __future__ import annotations

import random
import socket
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from wandb_spool.spool import clock, durable
from wandb_spool.spool.configuration import Configuration, Destination
from wandb_spool.spool.edits import as_edited
from wandb_spool.spool.entry import Entry, Target
from wandb_spool.spool.errors import LostRaceError, SpoolError, StorageError
from wandb_spool.spool.identity import host_name
from wandb_spool.spool.layout import run_ids
from wandb_spool.spool.leases import EXPIRES_S, LeaseWatch
from wandb_spool.spool.names import wrong_target
from wandb_spool.spool.observations import (
    load_lease_watch,
    load_observations,
    save_lease_watch,
    save_observations,
)
from wandb_spool.spool.queue import Place, Spool
from wandb_spool.spool.recover import Observations, put_back_abandoned, recover, reopen_grown
from wandb_spool.spool.states import State
from wandb_spool.spool.version import VERSION

from .authors import require_known_author
from .deliver import Account, Circumstances, Delivery, Outcome, Task, failed_entry
from .destinations import CLOUD, Route, api_key, route
from .failures import DeliveryError, Failure
from .meter import Meter, Moving
from .pace import Pace, after_push, after_refusal, batch_runs, load_pace, pause_left_s, rate_wait_s, save_pace
from .plan import Known, Waiting, candidates, first_of_run
from .repairing import send_again
from .runs import chain_of, run_key, set_aside
from .server import Server

BATCH_RUNS = 32
BATCH_BYTES = 64 << 20
"""A push of more than this is heavy: it goes alone, and when nothing light is due."""
_SERVERS_KEPT = 20
_SCANNED = frozenset(State) - {State.DELIVERED, State.DISCARDED, State.ACTIVE}


@dataclass
class PassResult:
    """What one pass did."""

    outcomes: list[Outcome] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    outages: dict[str, str] = field(default_factory=dict)
    """Destinations that did not answer, or refused the key, and what they said."""
    answered: set[str] = field(default_factory=set)
    """Destinations that did, also those that refused the key: trying again by itself won't help there."""
    elsewhere: int = 0
    """Fragments on which another syncer works."""
    stopped: bool = False
    waiting: int = 0
    """Entries whose not-before time has not come, or that wait for a predecessor."""
    next_due: str | None = None
    """The earliest not-before time of those."""
    recovered: int = 0
    planned: list[tuple[str, str]] = field(default_factory=list)
    """For a dry run: entry and target."""
    left: tuple[Known, ...] = ()
    """What is not delivered after the pass, as it was seen."""
    unreadable: list[str] = field(default_factory=list)
    """Entries that can't be read (among the problems too)."""
    broken: str | None = None
    """Why the spool could not be used at all; for callers that outlive it."""
    disk_full: bool = False

    def count(self, state: State) -> int:
        return sum(1 for outcome in self.outcomes if outcome.state is state)

    @classmethod
    def of_failure(cls, error: Exception) -> PassResult:
        """A pass that could not use the spool."""
        return cls(broken=str(error), disk_full=isinstance(error, StorageError) and error.full)

    @property
    def eventful(self) -> bool:
        """Whether something happened that may need a person."""
        grave = (outcome.state is State.QUARANTINED or outcome.failure is Failure.AUTH for outcome in self.outcomes)
        return self.broken is not None or bool(self.unreadable) or any(grave)

    @property
    def exit_code(self) -> int:
        """0 done, 3 partly, 75 when no due destination answered at all (DESIGN, exit codes)."""
        unfinished = [outcome for outcome in self.outcomes if outcome.state not in (State.DELIVERED, State.UNVERIFIED)]
        if self.outages and not self.answered:
            return 75
        return 3 if unfinished or self.outages or self.problems else 0


@dataclass(frozen=True)
class Options:
    """What a caller wants of a pass."""

    only: frozenset[str] | None = None
    """Names of entries; None means all. Named entries ignore their not-before time."""
    everything: bool = False
    dry_run: bool = False
    patience_s: float = 20.0
    stale_after_s: float = 60.0
    lease_expires_s: float = EXPIRES_S
    thorough: bool = False
    """Look for run directories without an entry in every launch, and not only in those that have none at all."""
    sweep: bool = True
    """Look for entries in two directories and for runs without an entry; the daemon does it now and then only."""
    scratch: Path | None = None
    light_only: bool = False
    """Leave what is heavy to somebody else: a daemon's helper, beside a push that takes long."""


def sync_once(
    spool: Spool,
    configuration: Configuration,
    environ: Mapping[str, str],
    options: Options | None = None,
    *,
    watch: LeaseWatch | None = None,
    tell: Callable[[str], None] = lambda line: None,
    show: Callable[[Moving], None] = lambda moving: None,
    stopping: Callable[[], bool] = lambda: False,
    now_s: Callable[[], float] = time.time,
) -> PassResult:
    """One pass over what is due. Raises SpoolError when the spool can't be read or written."""
    options = options or Options()
    result = PassResult()
    circumstances = Circumstances(
        spool=spool,
        limits=configuration.limits,
        environ=environ,
        watch=load_lease_watch(spool) if watch is None else watch,
        patience_s=options.patience_s,
        scratch=options.scratch,
        lease_expires_s=options.lease_expires_s,
        stopping=stopping,
        now_s=now_s,
        rng=random.Random(),
        tell=tell,
        meter=Meter(show),
    )
    if not options.dry_run:
        _housekeeping(spool, options, result, tell)
    turn = _Pass(circumstances, configuration, options, result)
    try:
        turn.run()
    finally:
        turn.close()
        circumstances.meter.rest()
        if watch is None:
            save_lease_watch(spool, circumstances.watch)
        if not options.dry_run:
            _sign(spool, result, now_s())
    return result


def _housekeeping(spool: Spool, options: Options, result: PassResult, tell: Callable[[str], None]) -> None:
    for line in spool.repair() if options.sweep else ():
        tell(line)
        result.problems.append(line)
    seen = load_observations(spool)
    observations = Observations(seen)
    put_back_abandoned(spool, observations, stale_after_s=2 * options.lease_expires_s)
    reopen_grown(spool)
    for item in recover(
        spool, observations, stale_after_s=options.stale_after_s, thorough=options.thorough if options.sweep else None
    ):
        if item.state is not State.OPEN:
            result.recovered += 1
            tell(f"recovered {item.entry}: {item.why}")
    save_observations(spool, observations.seen)
    send_again(spool, tell)


def _told(outcome: Outcome) -> str:
    where = "" if outcome.target is None else f" → {outcome.target.path}"
    if outcome.state is State.DELIVERED:
        superseded = f", {outcome.superseded} superseded" if outcome.superseded else ""
        proven = "read back" if outcome.level == "rows" else "counted there, not read back"
        return f"delivered {outcome.entry}{where}: {outcome.rows} rows {proven}{superseded}"
    return f"{outcome.state} {outcome.entry}{where}: {outcome.failure}: {outcome.reason}"


class _Pass:
    """The state of one pass: every entry is read once, and again only when it was worked on or is new."""

    def __init__(
        self, circumstances: Circumstances, configuration: Configuration, options: Options, result: PassResult
    ) -> None:
        self._circumstances = circumstances
        self._spool = circumstances.spool
        self._configuration = configuration
        self._options = options
        self._result = result
        self._known: dict[str, Known] = {}
        self._served: set[str] = set()
        self._accounts: dict[tuple[str, str], Account | DeliveryError] = {}
        self._routes: dict[str, tuple[Entry, Route]] = {}
        """Where entries were found to go: to find that out costs several looks at the disk, for each of a backlog."""
        self._paces: dict[str, Pace] = {}
        self._pace_s: float | None = None
        """Seconds after which some rate allows the next push; None when nothing waits for that."""

    def run(self) -> None:
        self._known = _read_all(self._spool, self._result)
        while not self._circumstances.stopping():
            batches = self._next_batches()
            if not batches and self._pace_s is None:
                break
            if not batches:
                self._circumstances.sleep(min(1.0, self._pace_s or 0.0))
            for key, tasks in batches.items():
                self._served.update(task.place.name for task in tasks)
                self._serve(key, tasks)
            self._look_again()
        self._result.left = tuple(self._known.values())
        self._result.stopped = self._circumstances.stopping()

    def close(self) -> None:
        for opened in self._accounts.values():
            if isinstance(opened, Account):
                opened.server.close()

    def _serve(self, key: tuple[str, str], tasks: Sequence[Task]) -> None:
        account = self._accounts[key]
        if not isinstance(account, Account):
            return
        if self._options.dry_run:
            self._result.planned += [(task.place.name, f"{account.base_url}/{task.target.path}") for task in tasks]
            return
        delivery = Delivery(account, self._circumstances)
        try:
            delivery.run(tasks)
        finally:
            self._keep_pace(account, delivery.outcomes)
            self._result.elsewhere += delivery.elsewhere
            for outcome in delivery.outcomes:
                self._circumstances.meter.settled(1, outcome.rows)
                self._result.outcomes.append(outcome)
                self._circumstances.tell(_told(outcome))
        if account.outages:
            account.server.close()
            self._accounts[key] = account.outages[0]
            self._result.outages[account.base_url] = str(account.outages[0])

    def _keep_pace(self, account: Account, outcomes: Sequence[Outcome]) -> None:
        """After a push: when the next one may be."""
        pace, now_s = self._pace(account.base_url), self._circumstances.now_s()
        pushed = sum(1 for outcome in outcomes if outcome.pushed)
        if any(outcome.failure is Failure.RATE for outcome in outcomes):
            asked = [outage.retry_after_s for outage in account.outages if outage.failure is Failure.RATE]
            pace = after_refusal(pace, asked[0] if asked else None, now_s)
        elif pushed:
            pace = after_push(pace, pushed, account.destination.rate, now_s)
        self._set_pace(account.base_url, pace)

    def _set_pace(self, base_url: str, pace: Pace) -> None:
        if pace != self._pace(base_url):
            self._paces[base_url] = pace
            save_pace(base_url, pace)

    def _pace(self, base_url: str) -> Pace:
        if base_url not in self._paces:
            self._paces[base_url] = load_pace(base_url)
        return self._paces[base_url]

    def _must_wait(self, item: Known, found: Route) -> bool:
        """Whether a server wants to be left alone for now. `--all` and named runs ask it all the same."""
        options, now_s, pace = self._options, self._circumstances.now_s(), self._pace(found.base_url)
        if options.dry_run:
            return False
        if not (options.everything or options.only) and pause_left_s(pace, now_s):
            self._result.waiting += 1
            until = clock.iso(pace.paused_s)
            self._result.next_due = min(self._result.next_due or until, until)
            return True
        wait_s = rate_wait_s(pace, found.destination.rate, now_s)
        if wait_s:
            self._pace_s = min(self._pace_s or wait_s, wait_s)
        return wait_s > 0

    def _look_again(self) -> None:
        """What was worked on has moved, and new work may have come: it need not wait for the end of a backlog."""
        if self._options.dry_run:
            return
        done = {outcome.entry: outcome.state for outcome in self._result.outcomes}
        for name in self._served & self._known.keys():
            state = done.get(name)
            if state is not None and state is not self._known[name].state:
                self._refresh(name, state)
        for place in self._spool.places(State.INCOMING):
            if place.name not in self._known:
                self._read(place)

    def _refresh(self, name: str, state: State) -> None:
        if state is State.DELIVERED:
            del self._known[name]  # its run finds it among the delivered ones
        else:
            self._read(Place(name, state, str(self._spool.paths.entry(state, name))))

    def _read(self, place: Place) -> None:
        known = _read_one(self._spool, place, self._result)
        if known is not None:
            self._known[place.name] = known

    # -- planning ----------------------------------------------------------------------------------------------------

    def _next_batches(self) -> dict[tuple[str, str], list[Task]]:
        """What to deliver next, by destination; empty when the pass is done."""
        wanted = self._wanted()
        wanted = [item for item in wanted if self._can_route(item)]
        siblings, run_of = _siblings(self._spool, self._known, wanted)
        chosen, waiting = first_of_run(wanted, siblings, run_of)
        for held_up in waiting:
            self._served.add(held_up.known.entry.name)
            self._result.waiting += 1
            if not self._options.dry_run:
                _say_waiting(held_up, self._circumstances)
        self._pace_s = None
        batches: dict[tuple[str, str], list[Task]] = {}
        size_bytes: Counter[tuple[str, str]] = Counter()
        for item in sorted(chosen, key=_is_heavy):
            _, found = self._routes[item.entry.name]
            key = (found.destination.name, found.base_url)
            batch = batches.get(key, [])
            full = len(batch) >= batch_runs(found.destination.rate, BATCH_RUNS)
            heavy = batch and size_bytes[key] + (item.entry.size_bytes or 0) > BATCH_BYTES
            if full or heavy or self._must_wait(item, found):
                continue
            task = self._task(item, siblings[run_of[item.entry.name]])
            if task is not None and task.target not in {other.target for other in batch}:
                batches.setdefault(key, []).append(task)  # another one for the same target takes its turn later
                size_bytes[key] += item.entry.size_bytes or 0
        return batches

    def _can_route(self, item: Known) -> bool:
        """Whether it is known where an entry goes; what can't be sent anywhere is set aside."""
        entry = item.entry
        before = self._routes.get(entry.name)
        try:
            if before is None or before[0] is not entry:
                self._routes[entry.name] = entry, self._route(entry)
        except DeliveryError as error:
            self._defer(item, error)
            return False
        return True

    def _route(self, entry: Entry) -> Route:
        """Where a fragment goes, with what a person edited. Names that W&B would refuse are not sent at all."""
        require_known_author(self._spool, entry)
        try:
            found = route(as_edited(self._spool.root, entry), self._configuration, self._circumstances.environ)
        except SpoolError as error:
            raise DeliveryError(Failure.CONFIGURATION, str(error)) from error
        wrong = wrong_target(found.entity, found.project, found.run_id)
        if wrong is not None:
            raise DeliveryError(Failure.REFUSED, f"{wrong}; nothing was sent")
        return found

    def _wanted(self) -> list[Known]:
        options, limits, now = self._options, self._circumstances.limits, self._circumstances.now_s()
        due = candidates(self._known.values(), now, limits, everything=options.everything or bool(options.only))
        names = {item.entry.name for item in due}
        later = [
            item.entry
            for item in self._known.values()
            if item.state is State.DEFERRED and item.entry.name not in names | self._served
        ]
        self._result.waiting = len(later)
        self._result.next_due = min((entry.not_before for entry in later if entry.not_before), default=None)
        wanted = [
            item
            for item in due
            if item.entry.name not in self._served
            and (options.only is None or item.entry.name in options.only)
            and not (options.light_only and _is_heavy(item))
        ]
        self._circumstances.meter.due(len(self._served) + len(wanted))
        return wanted

    def _task(self, item: Known, siblings: Sequence[Known]) -> Task | None:
        """None for what is not sent now: its destination doesn't answer, or a person moved it since it was planned."""
        planned, found = self._routes.pop(item.entry.name)
        if not self._can_route(item) or self._routes[item.entry.name] != (planned, found):
            return None
        account = self._account(found)
        if isinstance(account, DeliveryError):
            self._defer(item, account)
            return None
        entity = found.entity or (None if self._spool.group else account.entity)
        if entity is None:
            what = "the run names no entity, and a shared spool's syncer does not take its own"
            self._defer(item, DeliveryError(Failure.CONFIGURATION, what))
            return None
        target = Target(found.destination.name, found.base_url, entity, found.project, found.run_id)
        place = Place(item.entry.name, item.state, str(self._spool.paths.entry(item.state, item.entry.name)))
        return Task(place, target, chain_of(siblings, item.entry, target), set_aside(siblings))

    def _account(self, found: Route) -> Account | DeliveryError:
        """Probe a destination once per pass."""
        key = (found.destination.name, found.base_url)
        if key not in self._accounts:
            self._accounts[key] = opened = _open(found, self._circumstances.environ)
            if isinstance(opened, DeliveryError):
                self._result.outages[found.base_url] = str(opened)
                if opened.failure is Failure.RATE:
                    now_s = self._circumstances.now_s()
                    pace = after_refusal(self._pace(found.base_url), opened.retry_after_s, now_s)
                    self._set_pace(found.base_url, pace)
            if isinstance(opened, Account) or opened.failure is Failure.AUTH:
                self._result.answered.add(found.base_url)
        return self._accounts[key]

    def _defer(self, item: Known, error: DeliveryError) -> None:
        """Defer an entry that was not tried. One that is deferred for the same outage already is left where it is."""
        self._served.add(item.entry.name)
        entry = item.entry
        self._result.outcomes.append(Outcome(entry.name, None, error.policy.state, error.failure, error.detail))
        same = item.state is State.DEFERRED and entry.reason == str(error) and entry.not_before is None
        if self._options.dry_run or same:
            return
        circumstances = self._circumstances
        failed = failed_entry(entry, error, circumstances.limits, circumstances.rng, circumstances.now_s())
        _move(item, error.policy.state, failed, circumstances, str(error))


def _is_heavy(item: Known) -> bool:
    return (item.entry.size_bytes or 0) > BATCH_BYTES


def _read_all(spool: Spool, result: PassResult) -> dict[str, Known]:
    known: dict[str, Known] = {}
    for name, place in spool.scan(_SCANNED).items():
        found = _read_one(spool, place, result)
        if found is not None:
            known[name] = found
    return known


def _read_one(spool: Spool, place: Place, result: PassResult) -> Known | None:
    try:
        return Known(spool.read(place), place.state)
    except FileNotFoundError:
        return None
    except SpoolError as error:
        if str(error) not in result.problems:
            result.problems.append(str(error))
            result.unreadable.append(str(error))
        return None


def _siblings(
    spool: Spool, known: Mapping[str, Known], wanted: Sequence[Known]
) -> tuple[dict[str, list[Known]], dict[str, str]]:
    """All fragments of the runs that are due, also the delivered ones (found by the run id in their names)."""
    run_of = {item.entry.name: run_key(item.entry) for item in wanted}
    runs = set(run_of.values())
    siblings: dict[str, list[Known]] = {run: [] for run in runs}
    for item in known.values():
        run = run_key(item.entry)
        if run in runs:
            siblings[run].append(item)
    if not wanted:
        return siblings, run_of
    ids = {item.entry.run_id for item in wanted} | {item.entry.replay.run_id for item in wanted if item.entry.replay}
    for place in spool.places(State.DELIVERED):
        if not ids.isdisjoint(run_ids(place.name)) or ".r" in place.name:
            try:
                entry = spool.read(place)
            except (FileNotFoundError, SpoolError):
                continue
            run = run_key(entry)
            if run in runs and entry.name not in known:
                siblings[run].append(Known(entry, State.DELIVERED))
    return siblings, run_of


def _open(found: Route, environ: Mapping[str, str]) -> Account | DeliveryError:
    """Probe a destination once per pass."""
    try:
        key = api_key(found.destination, environ)
        server = open_server(found.destination, found.base_url, key, environ)
        return Account(found.destination, found.base_url, key, server, server.account().entity)
    except DeliveryError as error:
        return error.everywhere()


def open_server(destination: Destination, base_url: str, key: str, environ: Mapping[str, str]) -> Server:
    """The read-back side of a destination. Certificates as `wandb sync` sees them: SSL_CERT_FILE or `ca`."""
    ca = str(destination.ca) if destination.ca else environ.get("SSL_CERT_FILE") or environ.get("REQUESTS_CA_BUNDLE")
    return Server(base_url or CLOUD, key, ca=ca, proxy=destination.proxy, user_agent=f"wandb-spool/{VERSION}")


def _say_waiting(waiting: Waiting, circumstances: Circumstances) -> None:
    reason = f"{Failure.WAITS}: for {waiting.predecessor}, which is {waiting.predecessor_state}"
    item = waiting.known
    if item.entry.reason != reason:
        mend = f"`wandb-spool release {waiting.predecessor}`, or `wandb-spool release --skip {waiting.predecessor}`"
        changed = replace(item.entry, reason=reason, mend=mend, not_before=None)
        _move(item, State.DEFERRED, changed, circumstances, reason)


def _move(item: Known, target: State, entry: Entry, circumstances: Circumstances, why: str) -> None:
    spool = circumstances.spool
    place = Place(item.entry.name, item.state, str(spool.paths.entry(item.state, item.entry.name)))
    try:
        claimed = spool.claim(place)
        spool.move(claimed, target, entry, why=why, now_s=circumstances.now_s())
    except LostRaceError:
        pass  # another syncer has it


def _sign(spool: Spool, result: PassResult, now_s: float) -> None:
    """Say that somebody syncs this spool; a spool that can't be written has more urgent troubles."""
    path = spool.paths.syncers / f"{host_name()}.json"
    body = {
        "format": 1,
        "host": socket.gethostname(),
        "at": clock.iso(now_s),
        "version": VERSION,
        "delivered": result.count(State.DELIVERED),
        "deferred": result.count(State.DEFERRED),
        "quarantined": result.count(State.QUARANTINED),
        "outages": result.outages,
        "servers": {**_servers_before(path), **_servers_now(result, clock.iso(now_s))},
        "exit_code": result.exit_code,
    }
    try:
        durable.write_json(path, body, mode=spool.file_mode)
    except StorageError as error:
        result.problems.append(str(error))


def _servers_now(result: PassResult, at: str) -> dict[str, dict[str, str]]:
    asked = result.answered | result.outages.keys()
    return {url: {"at": at, **({"said": result.outages[url]} if url in result.outages else {})} for url in asked}


def _servers_before(path: Path) -> dict[str, Any]:
    """What servers said in passes before this one: a pass with nothing to do asks none."""
    try:
        before = durable.read_json(path).get("servers")
    except (OSError, ValueError, SpoolError):
        return {}
    return dict(list(before.items())[-_SERVERS_KEPT:]) if isinstance(before, dict) else {}


__all__ = ["Options", "PassResult", "open_server", "run_key", "sync_once"]
