"""All checks of `wandb-spool doctor`, in the order in which a person would make them.

Goes on after what is wrong: only a spool that can't be opened leaves out what needs one. Fails with nothing; a
configuration that can't be understood is a check that is bad.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from wandb_spool.locate import locate
from wandb_spool.overview import reasons
from wandb_spool.spool.configuration import Configuration, configuration_paths, load_configuration
from wandb_spool.spool.errors import SpoolError
from wandb_spool.spool.queue import Spool
from wandb_spool.spool.states import WAITING, State
from wandb_spool.spool.syncers import read_syncers
from wandb_spool.spool.words import age, count
from wandb_spool.survey import Found, Survey
from wandb_spool.syncer import doctor
from wandb_spool.syncer.doctor import Check, Verdict, bad, ok, warn

if TYPE_CHECKING:
    from wandb_spool.spool.entry import Entry

NOTHING_TO_DO = "nothing to do"
SYNC_OVERDUE_S = 24 * 3600.0
_LOOKED_AT = 200  # entries and run directories that are read: each costs a request on a shared file system
_SIGNS = {Verdict.OK: "✓", Verdict.WARN: "!", Verdict.BAD: "✗"}


def checkup(option: str | None, environ: Mapping[str, str], *, notify: bool = False) -> Iterator[Check]:
    """Every check, one after the other as they are made; with `notify` a message is sent too."""
    settings, told = _configuration(environ)
    yield told
    waiting: list[Entry] = []
    try:
        spool = Spool.open(locate(option, environ).root)
    except SpoolError as error:
        yield _refused("spool", error, "`wandb-spool init DIR` makes one")
    else:
        survey = Survey.of(spool)
        found = list(survey.read(WAITING))
        waiting = [item.entry for item in found[:_LOOKED_AT]]
        yield from _spool(spool, survey, found, environ)
        yield doctor.notifications(settings, environ)
        if notify:
            yield from doctor.try_notifications(spool, settings, environ, time.time())
    yield doctor.wandb_version(doctor.installed_wandb())
    servers = doctor.destinations(settings, waiting, environ)
    yield from doctor.proxies(environ, [(item, base_url) for (_, base_url), item in servers.items()])
    for (_, base_url), destination in servers.items():
        yield from doctor.reach(destination, base_url, environ, time.time())


def line(check: Check) -> str:
    mend = f" · {check.mend}" if check.mend else ""
    return f"{_SIGNS[check.verdict]} {check.name}: {check.what}{mend}"


def _configuration(environ: Mapping[str, str]) -> tuple[Configuration, Check]:
    try:
        settings = load_configuration(configuration_paths(environ))
    except SpoolError as error:
        return Configuration(), _refused("configuration", error, "mend the file")
    return settings, ok("configuration", ", ".join(map(str, settings.sources)) or "none: the defaults")


def _refused(name: str, error: SpoolError, otherwise: str) -> Check:
    where = "" if error.path is None else f": {error.path}"
    return bad(name, f"{error.what}{where}", error.hint or otherwise)


def _spool(spool: Spool, survey: Survey, waiting: list[Found], environ: Mapping[str, str]) -> Iterator[Check]:
    for found in waiting[:_LOOKED_AT]:
        survey.check_directory(found)
    yield from _damage(spool.root, survey)
    yield doctor.place(spool.root, environ)
    yield doctor.modes(spool)
    yield doctor.file_system(spool)
    yield from doctor.room(spool)
    yield from doctor.quota(spool)
    yield doctor.markers(spool)
    yield _synced(spool, waiting)
    yield from _held_up(waiting)
    yield from _set_aside(survey, waiting)


def _damage(root: Path, survey: Survey) -> Iterator[Check]:
    if not survey.problems:
        yield ok("spool", f"{root} opens, {len(survey.places)} entries")
    for problem in survey.problems:
        what, _, mend = problem.partition(" · ")
        yield bad("spool", what, mend or "bring the file back from a backup; `wandb-spool recover` tidies the rest")


def _synced(spool: Spool, waiting: list[Found]) -> Check:
    mend = "`wandb-spool sync` now; `wandb-spool service systemd` or `crontab` keeps it going"
    syncers = read_syncers(spool)
    if not syncers:
        return warn("syncer", "nobody ever synced this spool", mend) if waiting else ok("syncer", "nothing to sync yet")
    latest = syncers[0]
    passed_s = latest.age_s(time.time())
    when = "at an unknown time" if passed_s is None else f"{age(passed_s)} ago"
    result = f" ({latest.result})" if latest.result else ""
    what = f"{latest.host} synced {when}{result}"
    late = waiting and (passed_s is None or passed_s > SYNC_OVERDUE_S)
    return warn("syncer", what, mend) if late else ok("syncer", what)


def _held_up(waiting: list[Found]) -> Iterator[Check]:
    """What keeps fragments from being delivered, one line a class of failure."""
    for group in reasons([item for item in waiting if item.state is State.DEFERRED]):
        what = f"{count(group['count'], 'run waits', 'runs wait')}, nothing is lost: {group['reason']}"
        mend = group["mend"] or "`wandb-spool show RUN` tells more"
        if mend.startswith(NOTHING_TO_DO):
            yield ok("deferred", f"{what} ({mend})")
        else:
            yield warn("deferred", what, mend)


def _set_aside(survey: Survey, waiting: list[Found]) -> Iterator[Check]:
    counts = survey.counts()
    number = counts[State.QUARANTINED.value]
    for group in reasons([item for item in waiting if item.state is State.QUARANTINED]):
        what = f"{count(group['count'], 'run was', 'runs were')} set aside, {group['example']}: {group['reason']}"
        yield warn("quarantined", what, group["mend"] or "`wandb-spool show RUN` tells the mend, then `release RUN`")
    if counts[State.HELD.value]:
        yield warn(
            "held", f"{counts[State.HELD.value]} set aside by a person", "`wandb-spool release RUN` lets them go"
        )
    if not number and not counts[State.HELD.value]:
        yield ok("set aside", "nothing is held or quarantined")
