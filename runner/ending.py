"""What a person sees when a launch ended: a few lines for each run, and who will sync it.

Reads what the seal wrote, and the log for the shape of its history. Nothing here may fail a launch: a run whose log
can't be read is shown without its shape.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from wandb_spool.spool import alive
from wandb_spool.spool.errors import SpoolError
from wandb_spool.spool.layout import log_path
from wandb_spool.spool.manifest import Manifest, read_manifest
from wandb_spool.spool.queue import Spool
from wandb_spool.spool.states import State
from wandb_spool.spool.syncers import read_syncers
from wandb_spool.spool.words import age, count, size

from .sealing import Sealed
from .trend import Trends, number, read_trends, sparkline

RUNS_SHOWN = 5
KEYS_SHOWN = 8
_SUMMARY_LIMIT_BYTES = 32 << 20


def ending(spool: Spool, sealed: list[Sealed], *, unicode: bool = True) -> Iterator[str]:
    """The lines of the ending block."""
    followed = {manifest.predecessor for item in sealed if (manifest := _manifest(item.run_directory)) is not None}
    for item in sealed[-RUNS_SHOWN:]:
        yield from run_block(item, followed, unicode=unicode)
    if len(sealed) > RUNS_SHOWN:
        yield f"and {count(len(sealed) - RUNS_SHOWN, 'more run')} of this launch: `wandb-spool ls`"
    if any(item.state is State.OPEN for item in sealed):
        yield "nothing is lost: `wandb-spool recover` seals what is open when its writer is gone"
    yield who_syncs(spool)


def run_block(item: Sealed, followed: Collection[str | None] = (), *, unicode: bool = True) -> Iterator[str]:
    """One run: identity and exit, its history and summary, its rows, where it lies.

    `followed`: the entries that another fragment of this launch goes on from.
    """
    manifest = _manifest(item.run_directory)
    yield _headline(item, manifest, followed)
    yield from shape(item.run_directory, unicode=unicode)
    if manifest is not None:
        yield f"  {rows_line(manifest)} · {count(len(manifest.files), 'file')}, {size(manifest.size_bytes)}"
        for change in manifest.changed[:5]:
            yield f"  not kept: {change.get('path')} ({change.get('what')})"
    state = "moved on" if item.state is None else str(item.state)
    yield f"  {item.run_directory} · {state}" + (f" ({item.note})" if item.note else "")


def shape(run_directory: Path, *, unicode: bool = True) -> Iterator[str]:
    """History keys with their sparklines, then what only the summary knows."""
    log = log_path(run_directory)
    if log is None:
        return
    try:
        trends = read_trends(log)
        summary = _summary(log)
    except OSError:
        return
    shown = list(trends.series)[:KEYS_SHOWN]
    rest = {key: value for key, value in summary.items() if key not in trends.series and _plain(key, value)}
    width = max((len(key) for key in [*shown, *list(rest)[: KEYS_SHOWN - len(shown)]]), default=0)
    for key in shown:
        series = trends.series[key]
        last = summary.get(key, series.last)
        yield f"  {key:<{width}}  {sparkline(series.values(), unicode=unicode):<24}  {_last(last)}"
    for key in list(rest)[: KEYS_SHOWN - len(shown)]:
        yield f"  {key:<{width}}  {'':<24}  {number(rest[key])}"
    hidden = max(0, len(trends.series) + len(rest) - KEYS_SHOWN)
    if hidden or not trends.complete:
        yield f"  {_left_out(hidden, trends)}"


def rows_line(manifest: Manifest) -> str:
    """How many rows were logged, kept and lost."""
    if manifest.rows_logged is None:
        return f"{count(manifest.rows_kept, 'row')} kept ({_why_unknown(manifest)})"
    text = f"{count(manifest.rows_logged, 'row')} logged, {manifest.rows_kept} kept, {manifest.rows_lost} lost"
    return text + (f", {count(manifest.calls_refused, 'call')} refused" if manifest.calls_refused else "")


def _why_unknown(manifest: Manifest) -> str:
    if manifest.hook == "absent":
        return "nobody counted what was logged: the hook was not loaded"
    return "nobody can count what was logged: others (a child process, TensorBoard) logged into this run as well"


def who_syncs(spool: Spool, *, now_s: float | None = None) -> str:
    """Whether anybody syncs this spool."""
    syncers = read_syncers(spool)
    passed = syncers[0].age_s(time.time() if now_s is None else now_s) if syncers else None
    if passed is None:
        return f"nobody is syncing this spool: `wandb-spool sync --spool {spool.root}` where there is a network"
    return f"synced from {syncers[0].host}: last pass {age(passed)} ago"


def _headline(item: Sealed, manifest: Manifest | None, followed: Collection[str | None]) -> str:
    if manifest is None:
        sign = alive.read(item.run_directory)
        rows = "" if sign is None else f", {count(sign.rows, 'row')} so far"
        return f"run {item.run_directory.name.rpartition('-')[2]}: not sealed{rows}"
    run_id = manifest.run_id or item.run_directory.name.rpartition("-")[2]
    label = f"{manifest.name} ({run_id})" if manifest.name else run_id
    project = f", project {manifest.project}" if manifest.project else ""
    goes_on = f"{manifest.launch}.{manifest.fragment}" in followed
    return f"run {label}{project}: {'goes on in the next fragment' if goes_on else exit_text(manifest)}"


def exit_text(manifest: Manifest) -> str:
    """How it ended, as far as anybody knows."""
    code = manifest.exit_code
    if code is None:
        return "ended without telling how"
    if manifest.exit_known_from == "record":
        return "finished" if code == 0 else f"failed with exit code {code}"
    if manifest.log_ending == "finished":  # the record told a code that the program did not end with
        return f"failed with exit code {code}"
    return f"ended without an exit record, exit code {code}"


def _manifest(run_directory: Path) -> Manifest | None:
    try:
        return read_manifest(run_directory)[0]
    except (OSError, SpoolError):
        return None


def _summary(log: Path) -> dict[str, object]:
    if log.stat().st_size > _SUMMARY_LIMIT_BYTES:
        return {}
    from wandb_spool.spool.log import facts

    return facts(log).summary


def _plain(key: str, value: object) -> bool:
    return not key.startswith("_") and isinstance(value, (int, float, str, bool))


def _last(value: object) -> str:
    return number(value) if isinstance(value, (int, float)) and not math.isnan(value) else "nan"


def _left_out(hidden: int, trends: Trends) -> str:
    parts = [f"{count(hidden, 'more key')}"] if hidden else []
    if not trends.complete:
        parts.append(f"only the first {trends.rows} rows were read")
    return " · ".join(parts)
