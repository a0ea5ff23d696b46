"""`wandb-spool adopt`: take existing run directories into the spool."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from wandb_spool.parameters import JsonOption, SpoolOption

if TYPE_CHECKING:
    from collections.abc import Callable

    from wandb_spool.spool.queue import Spool


def command(
    directories: Annotated[list[str], typer.Argument(metavar="DIR…", help="Searched to any depth.")],
    spool: SpoolOption = None,
    copy: Annotated[bool, typer.Option("--copy", help="Change nothing of yours (the default).")] = False,
    move: Annotated[bool, typer.Option("--move", help="Take the run directories away from where they are.")] = False,
    in_place: Annotated[
        bool,
        typer.Option("--in-place", help="Move without copying a byte, and leave a link at each old place."),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Ask the server about runs that bear a `.synced` marker.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Take `offline-run-*` and half-uploaded `run-*` directories into the spool, and say what each is worth.

    Finds them by their logs, also nested in the output folders of Hydra and Lightning. Nothing is sent from here. Runs
    that are still written are left alone; running it again adopts nothing twice.
    """
    import os

    from wandb_spool import adoption
    from wandb_spool.locate import absolute, locate
    from wandb_spool.output import emit, emit_json
    from wandb_spool.spool.adopting import Mode
    from wandb_spool.spool.errors import UsageError
    from wandb_spool.spool.queue import Spool

    if copy + move + in_place > 1:
        raise UsageError("--copy, --move and --in-place exclude each other")
    mode = Mode.MOVE if move else Mode.IN_PLACE if in_place else Mode.COPY
    root = locate(spool, os.environ).root
    opened = Spool.open(root) if (root / "spool.json").exists() else None
    if opened is not None and not dry_run:
        _finish(opened)
    work = adoption.survey([absolute(directory) for directory in directories], opened, root, mode)
    if check:
        _check(work)
    if not json:
        for line in adoption.report(work):
            emit(line)
    if not dry_run:
        adoption.require(work)
        with _progress(len(work.plan.wanted)) as advance:
            adoption.bring_in(opened or Spool.create(root), work, adoption.ask, advance)
    if json:
        emit_json(adoption.as_json(work, dry_run=dry_run))
    else:
        for line in adoption.outcome(work, dry_run=dry_run):
            emit(line)
    raise typer.Exit(0 if dry_run else adoption.exit_code(work))


def _finish(spool: Spool) -> None:
    """What an earlier call that was killed left."""
    from wandb_spool.output import complain
    from wandb_spool.spool.adoption_rests import clear
    from wandb_spool.spool.words import count

    rests = clear(spool)
    if rests.sealed:
        complain(f"an earlier adopt was interrupted: {count(rests.sealed, 'run')} that had come in is sealed now")
    if rests.removed:
        complain("an earlier adopt was interrupted: its unfinished copies are removed, and begun anew")


def _check(work: object) -> None:
    from importlib import import_module

    import_module("wandb_spool.adoption_check").check(work)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, nothing elsewhere."""
    import sys

    if not sys.stderr.isatty() or not total:
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("adopting", total=total)
        yield lambda done: bar.advance(task, done)
