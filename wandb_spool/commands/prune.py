"""`wandb-spool prune`: delete the bytes of what has a receipt, and of what was discarded 14 days ago."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from wandb_spool.parameters import JsonOption, SpoolOption

if TYPE_CHECKING:
    from wandb_spool.spool.pruning import Candidate
    from wandb_spool.spool.trash import Discarded


def command(
    spool: SpoolOption = None,
    older_than: Annotated[
        str, typer.Option("--older-than", metavar="AGE", help="Since the receipt: 12h, 30d, 8w.")
    ] = "30d",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go and what it frees.")] = False,
    rehearsal: Annotated[
        bool, typer.Option("--rehearsal", help="Also what was only delivered to a server on this machine.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    json: JsonOption = False,
) -> None:
    """Delete the bytes of runs that were read back from the server row by row, or discarded 14 days ago.

    Entries and receipts stay, and the balance goes on counting them.
    """
    from wandb_spool.locate import open_spool
    from wandb_spool.output import confirm, emit, emit_json
    from wandb_spool.spool.pruning import candidates, prune
    from wandb_spool.spool.trash import empty, trash
    from wandb_spool.spool.words import count, size

    opened = open_spool(spool)
    found = candidates(opened, older_than_s=seconds_of(older_than), rehearsal=rehearsal)
    thrown = trash(opened)
    listed: list[Candidate | Discarded] = [*found, *thrown]
    going = [item for item in listed if item.kept is None]
    planned = sum(item.size_bytes for item in going)
    freed = 0
    what = f"the bytes of {count(len(going), 'fragment')} ({size(planned)}, and staged artifacts with them)"
    if going and not dry_run and confirm(f"delete {what}?{_undelivered(thrown)}", yes=yes):
        freed = prune(opened, found) + empty(opened, thrown)
    if json:
        kept = [{"entry": item.entry.name, "size_bytes": item.size_bytes, "kept": item.kept} for item in listed]
        emit_json({"freed_bytes": freed, "fragments": kept})
        return
    for item in listed:
        emit(f"{item.entry.name}: {size(item.size_bytes)}{f' stays: {item.kept}' if item.kept else ''}")
    emit(f"freed {size(freed)}" if freed else f"would free {what}" if dry_run else "nothing was deleted")


def _undelivered(thrown: Sequence[Discarded]) -> str:
    """What a person should know before the last copy of something goes."""
    number = sum(1 for item in thrown if item.kept is None and item.entry.receipt is None)
    return f" {number} of them were discarded and never delivered: this is their end." if number else ""


_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def seconds_of(text: str) -> float:
    """`30d` in seconds. Raises UsageError."""
    from wandb_spool.spool.errors import UsageError

    number, unit = text[:-1], text[-1:]
    if unit not in _UNITS_S or not number.isdigit():
        raise UsageError(f"--older-than: {text!r} is no age", hint="write 12h, 30d or 8w")
    return float(int(number) * _UNITS_S[unit])
