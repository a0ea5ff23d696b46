"""`wandb-spool export`: what was logged, as files that every tool opens."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wandb_spool.parameters import RunsArgument, SpoolOption

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wandb_spool.spool.exporting import Piece
    from wandb_spool.spool.queue import Spool
    from wandb_spool.survey import Found


_MOST_LINES = 20


def command(
    runs: RunsArgument,
    spool: SpoolOption = None,
    kind: Annotated[
        str, typer.Option("--format", metavar="FORMAT", help="parquet (needs pyarrow) or jsonl.")
    ] = "parquet",
    out: Annotated[str, typer.Option("--out", "-o", metavar="DIR", help="A directory a run is made here.")] = ".",
    fragments: Annotated[
        bool, typer.Option("--fragments", help="Keep the rows that a restart superseded, with columns that tell.")
    ] = False,
    artifacts: Annotated[
        bool, typer.Option("--artifacts/--no-artifacts", help="Copy the files of artifacts too.")
    ] = True,
) -> None:
    """Write history, system metrics, console, config, summary, files and artifacts, without wandb and a server.

    RUN may also be a run directory or .wandb file anywhere.
    """
    from wandb_spool.bundling import PARTLY
    from wandb_spool.output import complain, emit
    from wandb_spool.spool.errors import UsageError
    from wandb_spool.spool.exporting import Format, export_run
    from wandb_spool.spool.words import count

    try:
        wanted = Format(kind)
    except ValueError as error:
        raise UsageError(f"there is no format {kind!r}", hint="--format parquet or --format jsonl") from error
    root = Path(os.path.abspath(os.path.expanduser(out)))
    missing = 0
    for directory, pieces in _runs(spool, runs):
        done = export_run(pieces, root / directory, wanted, fragments=fragments, artifacts=artifacts)
        superseded = f" ({count(done.rows_superseded, 'row')} superseded)" if done.rows_superseded else ""
        copied = f", {count(done.artifact_files, 'file')} of artifacts" if done.artifact_files else ""
        emit(f"{done.directory}: {count(done.rows, 'row')}{superseded}, {count(done.files, 'file')}{copied}")
        missing += len(done.missing)
        for line in done.missing[:_MOST_LINES]:
            complain(line)
        if len(done.missing) > _MOST_LINES:
            complain(f"… and {len(done.missing) - _MOST_LINES} more, listed in {done.directory / 'run.json'}")
    raise typer.Exit(PARTLY if missing else 0)


def _runs(option: str | None, texts: list[str]) -> Iterator[tuple[str, list[Piece]]]:
    """Each run that is meant: the name of its directory, and its fragments in their order."""
    from wandb_spool.locate import open_spool
    from wandb_spool.lookup import find_run
    from wandb_spool.spool.errors import SpoolMissingError
    from wandb_spool.spool.exporting import Piece
    from wandb_spool.spool.run_reader import open_run
    from wandb_spool.survey import Survey

    survey = None
    seen: set[str] = set()
    for text in texts:
        elsewhere = os.path.exists(os.path.expanduser(text))
        try:
            survey = survey or Survey.of(open_spool(option))
        except SpoolMissingError:
            if not elsewhere:
                raise
        if survey is None or (elsewhere and not _within(text, survey.spool)):
            reader = open_run(text)
            yield _directory(reader.run_id or reader.directory.name, seen), [Piece(reader.directory.name, reader)]
            continue
        found = find_run(survey, text)
        yield _directory(found[0].entry.run_id or found[0].entry.fragment, seen), _pieces(survey.spool, found)


def _within(text: str, spool: Spool) -> bool:
    return Path(os.path.realpath(os.path.expanduser(text))).is_relative_to(os.path.realpath(spool.root))


def _pieces(spool: Spool, found: list[Found]) -> list[Piece]:
    """The fragments that have a log, each once, in the order of the run; what a person discarded is left out."""
    from wandb_spool.spool.errors import UsageError
    from wandb_spool.spool.exporting import Piece
    from wandb_spool.spool.run_reader import open_run
    from wandb_spool.spool.states import State
    from wandb_spool.syncer.plan import run_order

    kept = [item for item in found if item.state not in (State.VOID, State.DISCARDED)] or found
    pieces: dict[str, Piece] = {}
    for entry in run_order([item.entry for item in kept]):
        try:
            pieces.setdefault(entry.fragment, Piece(entry.fragment, open_run(entry.run_directory(spool.root))))
        except UsageError:
            if len(kept) == 1:
                raise
    return list(pieces.values())


def _directory(name: str, seen: set[str]) -> str:
    """A name for the run's directory; ids come from logs that anybody may have written."""
    plain = re.sub(r"[^\w.-]", "_", name).lstrip(".") or "run"
    unique, number = plain, 2
    while unique in seen:
        unique, number = f"{plain}-{number}", number + 1
    seen.add(unique)
    return unique
