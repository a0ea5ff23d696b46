"""`wandb-spool release`: put back what was set aside."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from wandb_spool.parameters import SpoolOption
from wandb_spool.spool.errors import UsageError
from wandb_spool.spool.states import State

if TYPE_CHECKING:
    from wandb_spool.spool.entry import Entry
    from wandb_spool.survey import Found, Survey

RELEASABLE = frozenset({State.HELD, State.QUARANTINED, State.UNVERIFIED, State.DEFERRED})
BLOCKING = frozenset({State.HELD, State.QUARANTINED, State.TRANSIT})


def command(
    runs: Annotated[
        list[str] | None, typer.Argument(metavar="[RUN…]", help="Fragments, run ids or paths.", show_default=False)
    ] = None,
    spool: SpoolOption = None,
    skip: Annotated[
        bool, typer.Option("--skip", help="Leave them where they are, but let their successors go on without them.")
    ] = False,
    transit: Annotated[
        bool, typer.Option("--transit", help="Take back what was packed, because its bundle will not be delivered.")
    ] = False,
    bundle: Annotated[
        str | None,
        typer.Option(
            "--bundle", metavar="NAME", help="Take back all that went into this bundle (file name or digest)."
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
) -> None:
    """Put back what was held, quarantined or packed, due at once."""
    from wandb_spool.moving import move_all

    if bundle is not None:
        runs = [*(runs or ()), *_of_bundle(spool, bundle)]
    if not runs:
        raise UsageError("name the runs", hint="`wandb-spool ls`")
    if skip:
        raise typer.Exit(_skip(spool, runs))
    if transit or bundle is not None:
        raise typer.Exit(
            move_all(
                spool,
                runs,
                State.INCOMING,
                allowed_from=frozenset({State.TRANSIT}),
                refusals=dict.fromkeys(State, "is not in transit"),
                change=forgiven,
                question=_QUESTION,
                yes=yes,
            )
        )
    code = move_all(spool, runs, State.INCOMING, allowed_from=RELEASABLE, refusals=REFUSALS, change=forgiven)
    raise typer.Exit(code)


_QUESTION = (
    "Take {runs} with {rows} rows back from transit? If the bundle is delivered all the same, that does no harm: "
    "every delivery asks the server first."
)
REFUSALS: dict[State, str] = {
    State.INCOMING: "is due already",
    State.OPEN: "is still open; `wandb-spool recover` seals it if its writer is gone",
    State.DELIVERED: "is delivered; `wandb-spool replay` delivers it again",
    State.DISCARDED: "is discarded; `wandb-spool discard --restore` brings it back",
    State.TRANSIT: "is packed into a bundle; `wandb-spool unpack` of its receipts ends that, or `release --transit`",
}


def forgiven(entry: Entry) -> Entry:
    """Due at once, with a clean record: what a person releases is not set aside again for its past."""
    extra = {key: value for key, value in entry.extra.items() if key != "hold"}
    return replace(entry, reason=None, mend=None, not_before=None, backoff_s=0.0, refusals=0, extra=extra)


def _of_bundle(spool: str | None, name: str) -> list[str]:
    """The entries in transit that went into a bundle, by its file name or the beginning of its digest."""
    from wandb_spool.locate import open_spool
    from wandb_spool.survey import Survey

    found = []
    for item in Survey.of(open_spool(spool)).read([State.TRANSIT]):
        note = item.entry.extra.get("packed")
        digest = str(note.get("digest")) if isinstance(note, dict) else ""
        if isinstance(note, dict) and (note.get("file") == name or (len(name) >= 8 and digest.startswith(name))):
            found.append(item.entry.name)
    if not found:
        raise UsageError(f"nothing in transit went into a bundle called {name}", hint="`wandb-spool status`")
    return found


def _skip(spool: str | None, runs: list[str]) -> int:
    from wandb_spool.locate import open_spool
    from wandb_spool.lookup import find_runs
    from wandb_spool.output import complain, emit
    from wandb_spool.survey import Survey

    opened = open_spool(spool)
    survey = Survey.of(opened)
    blockers = _blockers(survey, find_runs(survey, runs))
    if not blockers:
        complain("nothing of these runs keeps a successor waiting; nothing was done")
        return 2
    for found in blockers:
        owned = opened.claim(found.place)
        entry = opened.read(owned)
        opened.rewrite(owned, replace(entry, extra={**entry.extra, "skipped": True}))
        opened.release(owned, found.state)
        emit(f"{found.entry.name} stays {found.state}; its successors go on without it")
    return 0


def _blockers(survey: Survey, chosen: list[Found]) -> list[Found]:
    """The set-aside fragments of the runs that were named, whichever of their fragments was named."""
    runs = {found.entry.run_id for found in chosen}
    return [found for found in survey.read(BLOCKING) if found.entry.run_id in runs]
