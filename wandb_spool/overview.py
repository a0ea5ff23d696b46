"""One look that tells the health of a spool: what `wandb-spool status` says.

Light to import: it is what a person types all day, and a hundred thousand delivered runs must not make them wait.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wandb_spool.spool.configuration import Configuration
    from wandb_spool.spool.queue import Spool
    from wandb_spool.survey import Found, Survey

BOUNDS_H = (1, 2, 4, 8, 16, 32, 64, 128, 256)
HEADINGS = ("<1h", "<2h", "<4h", "<8h", "<16h", "<32h", "<64h", "<5d", "<11d", "older")
_IN_REASONS = ("quarantined", "auth")  # their line below tells the same
_CHECKED = 200  # run directories that are looked for: each costs a request on a shared file system


def show(spool_option: str | None, *, json: bool) -> int:
    """Print it; the exit code is 4 when something in the spool is damaged."""
    from wandb_spool.locate import open_spool
    from wandb_spool.output import emit, emit_json
    from wandb_spool.spool.configuration import configuration_paths, load_configuration
    from wandb_spool.survey import Survey

    opened = open_spool(spool_option)
    survey = Survey.of(opened)
    settings = load_configuration(configuration_paths(os.environ))
    body = status(opened, survey, settings, time.time())
    if json:
        emit_json(body)
    else:
        for line in lines(opened, survey, settings, body, time.time()):
            emit(line)
    return survey.exit_code


def status(spool: Spool, survey: Survey, settings: Configuration, now_s: float) -> dict[str, Any]:
    """All that `status --json` says."""
    from wandb_spool.spool.states import WAITING
    from wandb_spool.spool.syncers import read_syncers

    waiting = list(survey.read(WAITING))
    for found in waiting[:_CHECKED]:
        survey.check_directory(found)
    return {
        "spool": str(spool.root),
        "spool_id": spool.spool_id,
        "counts": survey.counts(),
        "ages": _ages(survey, now_s),
        "bytes": _bytes(waiting),
        "rows_waiting": sum(found.entry.rows or 0 for found in waiting),
        "destinations": _destinations(waiting),
        "servers": _servers(spool),
        "attention": _attention(spool, waiting, settings, now_s),
        "reasons": reasons(waiting),
        "transit": _transit(waiting),
        "syncers": [syncer.body for syncer in read_syncers(spool)],
        "problems": list(survey.problems),
    }


def lines(spool: Spool, survey: Survey, settings: Configuration, body: dict[str, Any], now_s: float) -> list[str]:
    """The same for people: where, what needs a person, what lies there, what holds it up, what servers said."""
    from wandb_spool.output import table

    shown = [f"{spool.root} → {_destination_names(settings)} · {_synced(spool, now_s)}"]
    shown += [f"! {item['what']} · {item['mend']}" for item in body["attention"] if item["cause"] not in _IN_REASONS]
    shown.append("")
    rows = _table_rows(body)
    if rows:
        header = ("state", "all", *HEADINGS, "bytes")
        shown += table(header, rows, right=frozenset(range(1, len(header))))
    else:
        shown.append("no runs yet: `wandb-spool run -- python train.py`")
    for reason in body["reasons"]:
        sign = "! " if reason["state"] == "quarantined" or reason["reason"].startswith("auth:") else ""
        shown.append(f"{sign}{reason['state']}: {reason['count']} × {reason['reason']}" + _mend(reason))
    shown += [
        f"transit: {item['count']} × packed into {item['file']} since {item['since']} · `wandb-spool unpack` its "
        f"receipts, or `wandb-spool release --bundle {item['file']}`"
        for item in body["transit"]
    ]
    if body["reasons"] and not survey.damaged:
        shown.append("nothing of this is lost: it stays in the spool until a server has it and was read back")
    shown += [f"for {name}: {_counts_text(counts)}" for name, counts in body["destinations"].items()]
    shown += [_server_line(base_url, said, now_s) for base_url, said in body["servers"].items()]
    shown += [f"PROBLEM {problem}" for problem in survey.problems]
    return shown


def bucket(age_s: float) -> int:
    """Which column of the table an age belongs to; each is twice as wide as the one before."""
    return next((index for index, bound in enumerate(BOUNDS_H) if age_s < bound * 3600), len(BOUNDS_H))


def _ages(survey: Survey, now_s: float) -> dict[str, list[int]]:
    from wandb_spool.survey import age_s

    ages: dict[str, list[int]] = {}
    for state, minutes in survey.minutes().items():
        for minute, number in minutes.items():
            ages.setdefault(state.value, [0] * len(HEADINGS))[bucket(age_s(f"{minute}00", now_s))] += number
    return ages


def _bytes(waiting: list[Found]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for found in waiting:
        total[found.state.value] += found.entry.size_bytes or 0
    return dict(total)


def _destinations(waiting: list[Found]) -> dict[str, dict[str, int]]:
    """How many entries in which state wait for which destination; `default` for those that nobody resolved yet."""
    per: dict[str, Counter[str]] = {}
    for found in waiting:
        entry = found.entry
        asked = entry.replay.destination if entry.replay else None
        name = entry.target.destination if entry.target else asked or entry.base_url or "default"
        per.setdefault(name, Counter())[found.state.value] += 1
    return {name: dict(counts) for name, counts in sorted(per.items())}


def reasons(waiting: list[Found]) -> list[dict[str, Any]]:
    """What holds entries up, by the class with which a reason begins; the newest text of each."""
    groups: dict[tuple[str, str], list[Found]] = {}
    for found in waiting:
        if found.entry.reason:
            groups.setdefault((found.state.value, found.entry.reason.partition(":")[0]), []).append(found)
    return [
        {
            "state": state,
            "count": len(found),
            "example": found[-1].entry.name,
            "reason": found[-1].entry.reason,
            "mend": _named(found[-1].entry.mend, found),
        }
        for (state, _), found in sorted(groups.items())
    ]


def _named(mend: str | None, found: list[Found]) -> str | None:
    """A mend that can be typed as it is, where it is about one run."""
    return mend.replace("RUN", found[0].entry.name) if mend and len(found) == 1 else mend


def _transit(waiting: list[Found]) -> list[dict[str, Any]]:
    """What is on its way in bundles, and since when."""
    bundles: dict[tuple[str, str], list[str]] = {}
    for found in waiting:
        note = found.entry.extra.get("packed")
        if found.state.value == "transit":
            noted = note if isinstance(note, dict) else {}
            bundle = (str(noted.get("file") or "a bundle"), str(noted.get("digest") or ""))
            bundles.setdefault(bundle, []).append(str(noted.get("at") or ""))
    return [
        {"file": file, "digest": digest, "count": len(times), "since": min(times)}
        for (file, digest), times in sorted(bundles.items())
    ]


def _table_rows(body: dict[str, Any]) -> list[list[str]]:
    from wandb_spool.spool.words import size

    rows = []
    for state, number in body["counts"].items():
        if number:
            ages = [str(n) if n else "·" for n in body["ages"].get(state, [])]
            held = body["bytes"].get(state)
            rows.append([state, str(number), *ages, size(held) if held else ""])
    return rows


def _attention(spool: Spool, waiting: list[Found], settings: Configuration, now_s: float) -> list[dict[str, Any]]:
    """What needs a person: the same list that notifications tell."""
    from wandb_spool.syncer.concerns import concerns, room_of
    from wandb_spool.syncer.plan import Known

    found = concerns([Known(item.entry, item.state) for item in waiting], settings, now_s, room_of(spool))
    return [
        {"cause": item.cause.value, "about": item.about, "what": item.what, "mend": item.mend, "number": item.number}
        for item in found
    ]


def _servers(spool: Spool) -> dict[str, dict[str, Any]]:
    """What each server said last, to whichever host asked it last."""
    from wandb_spool.spool.syncers import read_syncers

    latest: dict[str, dict[str, Any]] = {}
    for syncer in read_syncers(spool):
        for base_url, said in syncer.servers.items():
            if base_url not in latest or str(said.get("at")) > str(latest[base_url].get("at")):
                latest[base_url] = {**said, "host": syncer.host}
    return dict(sorted(latest.items()))


def _server_line(base_url: str, said: dict[str, Any], now_s: float) -> str:
    from wandb_spool.spool.clock import seconds
    from wandb_spool.spool.words import age

    asked_s = seconds(said.get("at"))
    when = "" if asked_s is None else f", {age(max(0.0, now_s - asked_s))} ago from {said['host']}"
    what = str(said.get("said") or "answered").replace(f"{base_url} ", "it ").replace(f"{base_url}: ", "")
    return f"{base_url}: {what}{when}"


def _destination_names(settings: Configuration) -> str:
    destinations = settings.destinations
    own = os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai"
    named = [
        f"{name} ({item.base_url or (own if name == 'default' else 'https://api.wandb.ai')})"
        for name, item in destinations.items()
    ]
    return ", ".join(named) or own


def _synced(spool: Spool, now_s: float) -> str:
    from wandb_spool.spool.syncers import read_syncers
    from wandb_spool.spool.words import age

    told = []
    for syncer in read_syncers(spool)[:3]:
        passed = syncer.age_s(now_s)
        when = "at an unknown time" if passed is None else f"{age(passed)} ago"
        told.append(f"synced from {syncer.host} {when}" + (f" ({syncer.result})" if syncer.result else ""))
    return "; ".join(told) or "never synced: `wandb-spool sync`"


def _mend(reason: dict[str, Any]) -> str:
    return f" · {reason['mend']}" if reason["mend"] else ""


def _counts_text(counts: dict[str, int]) -> str:
    return ", ".join(f"{number} {state}" for state, number in counts.items())
