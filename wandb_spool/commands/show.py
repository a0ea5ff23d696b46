"""`wandb-spool show`: everything about one run."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import typer

from wandb_spool.parameters import JsonOption, RunArgument, SpoolOption

if TYPE_CHECKING:
    from wandb_spool.spool.queue import Spool
    from wandb_spool.survey import Found


def command(run: RunArgument, spool: SpoolOption = None, json: JsonOption = False) -> None:
    """One run: the shape of its history, its summary, manifest, attempts and receipt; also while it trains."""
    from wandb_spool.description import full
    from wandb_spool.locate import open_spool
    from wandb_spool.lookup import find_run
    from wandb_spool.output import complain, emit, emit_json
    from wandb_spool.survey import DAMAGED, Survey

    opened = open_spool(spool)
    survey = Survey.of(opened)
    found = find_run(survey, run)
    bodies = [full(opened, item) for item in found]
    if json:
        emit_json(bodies[0] if len(bodies) == 1 else bodies)
    else:
        for number, (item, body) in enumerate(zip(found, bodies, strict=True)):
            for line in ([""] if number else []) + list(lines(opened, item, body)):
                emit(line)
    problems = [str(body["problem"]) for body in bodies if body["problem"]]
    for problem in problems:
        complain(f"{problem} · what is listed above comes from the entry alone")
    raise typer.Exit(DAMAGED if problems or survey.damaged else 0)


def lines(spool: Spool, found: Found, body: dict[str, Any]) -> Iterator[str]:
    """One fragment for people."""
    from wandb_spool.runner.ending import shape

    entry = found.entry
    label = f"{entry.display_name} ({entry.run_id})" if entry.display_name else str(entry.run_id)
    yield f"run {label} · {found.state}" + (f": {entry.reason}" if entry.reason else "")
    if entry.mend:
        yield f"  {entry.mend}"
    unicode = "utf" in (sys.stdout.encoding or "").lower()
    yield from shape(found.run_directory(spool), unicode=unicode)
    yield from _rows(body)
    yield from (f"  {key:<12} {value}" for key, value in _facts(spool, found, body) if value not in (None, "", "None"))
    yield from _history(body)


def _rows(body: dict[str, Any]) -> Iterator[str]:
    from wandb_spool.runner.ending import rows_line
    from wandb_spool.spool.manifest import manifest_from_json

    if body["manifest"]:
        yield f"  {rows_line(manifest_from_json(body['manifest']))}"
    elif body["alive"]:
        sign = body["alive"]
        yield f"  {sign['rows']} rows so far, step {sign['step']}, {sign['phase']} (process {sign['pid']})"


def _facts(spool: Spool, found: Found, body: dict[str, Any]) -> Iterator[tuple[str, object]]:
    from wandb_spool.runner.ending import exit_text
    from wandb_spool.spool.manifest import manifest_from_json
    from wandb_spool.spool.trash import gone_on_purpose
    from wandb_spool.spool.words import count, size

    entry, manifest, receipt = found.entry, body["manifest"], body["receipt"]
    yield "project", "/".join(filter(None, (entry.entity, entry.project)))
    yield "command", _one_line(entry.command)
    yield "started", entry.created
    if manifest:
        yield "ended", exit_text(manifest_from_json(manifest))
        yield (
            "sealed",
            f"{manifest['sealed']} on {manifest['sealed_on']}" + (" provisionally" if manifest["provisional"] else ""),
        )
        yield "log", f"{manifest['log']['ending']}, {count(manifest['log']['records'], 'record')}"
        yield "files", f"{len(manifest['files'])}, {size(sum(item['size_bytes'] for item in manifest['files']))}"
        yield from (("not kept", f"{item.get('path')} ({item.get('what')})") for item in manifest["changed"])
    yield "predecessor", entry.predecessor
    yield "attempts", f"{entry.attempts}, {entry.refusals} refused" if entry.attempts else None
    yield "not before", entry.not_before
    if receipt:
        proven = "read back" if receipt.get("level") == "rows" else "counted there, not read back"
        yield (
            "receipt",
            f"{receipt.get('at')}: {receipt.get('rows_delivered')} rows {proven}, level {receipt.get('level')}",
        )
        yield "url", receipt.get("url")
    yield "directory", found.run_directory(spool)
    yield "bytes", gone_on_purpose(spool, entry)


def _history(body: dict[str, Any]) -> Iterator[str]:
    if body["history"]:
        yield "  history"
    for event in body["history"]:
        why = f" ({event['why']})" if event.get("why") else ""
        yield f"    {event.get('at')}  {event.get('from')} → {event.get('to')}{why}  by {event.get('by')}"


def _one_line(command: str | None) -> str | None:
    text = " ".join(command.split()) if command else None
    return text if text is None or len(text) <= 200 else text[:199] + "…"
