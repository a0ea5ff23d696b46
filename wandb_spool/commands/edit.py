"""`wandb-spool edit`: change what a run is called before it is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from wandb_spool.parameters import JsonOption, RunsArgument, SpoolOption

if TYPE_CHECKING:
    from wandb_spool.spool.edits import Edit
    from wandb_spool.spool.queue import Spool
    from wandb_spool.survey import Found, Survey


def command(
    runs: RunsArgument,
    spool: SpoolOption = None,
    name: Annotated[str | None, typer.Option("--name", help="The run's display name.")] = None,
    project: Annotated[str | None, typer.Option("--project", help="The project to send it to.")] = None,
    entity: Annotated[str | None, typer.Option("--entity", help="The account or team to send it to.")] = None,
    group: Annotated[str | None, typer.Option("--group", help="The group of the run.")] = None,
    job_type: Annotated[str | None, typer.Option("--job-type", help="The job type of the run.")] = None,
    notes: Annotated[str | None, typer.Option("--notes", help="The notes of the run.")] = None,
    add_tag: Annotated[list[str] | None, typer.Option("--add-tag", metavar="TAG", help="May be repeated.")] = None,
    remove_tag: Annotated[
        list[str] | None, typer.Option("--remove-tag", metavar="TAG", help="May be repeated.")
    ] = None,
    reset: Annotated[bool, typer.Option("--reset", help="Forget every edit of these runs.")] = False,
    json: JsonOption = False,
) -> None:
    """Change runs before they are sent. The sealed bytes stay as they are; the server gets what you say here.

    An empty text takes a value away. A change holds for all fragments of a run. Without a change the present edit is
    shown.
    """
    from wandb_spool.locate import open_spool
    from wandb_spool.lookup import find_runs
    from wandb_spool.output import emit_json
    from wandb_spool.spool.edits import Edit
    from wandb_spool.survey import Survey

    asked = Edit(name, project, entity, group, job_type, notes, tuple(add_tag or ()), tuple(remove_tag or ()))
    _require_sensible(asked, reset=reset)
    opened = open_spool(spool)
    survey = Survey.of(opened)
    code = 0
    shown: list[dict[str, object]] = []
    for chosen in _by_run(find_runs(survey, runs)):
        edit = _edit_run(opened, survey, chosen, asked, reset=reset)
        if edit is None:
            code = 2
        else:
            shown.append(_shown(chosen, edit, quiet=json))
    if json:
        emit_json(shown)
    raise typer.Exit(code)


def _require_sensible(asked: Edit, *, reset: bool) -> None:
    from wandb_spool.spool.errors import UsageError
    from wandb_spool.spool.names import wrong_tag, wrong_target

    if asked and reset:
        raise UsageError("--reset forgets all edits; say it alone")
    wrong = wrong_target(asked.entity, asked.project, None)
    wrong = wrong or next(filter(None, map(wrong_tag, (*asked.add_tags, *asked.remove_tags))), None)
    if wrong:
        raise UsageError(f"W&B would refuse that: {wrong}", hint="nothing was changed")


def _by_run(found: list[Found]) -> list[list[Found]]:
    from wandb_spool.spool.edits import edit_key

    runs: dict[str, list[Found]] = {}
    for item in found:
        runs.setdefault(edit_key(item.entry), []).append(item)
    return list(runs.values())


def _edit_run(spool: Spool, survey: Survey, chosen: list[Found], asked: Edit, *, reset: bool) -> Edit | None:
    """The edit that holds now for one run; None when it was refused, which is told."""
    import getpass

    from wandb_spool.output import complain
    from wandb_spool.spool.edits import Edit, load_edit, save_edit

    entry = chosen[0].entry
    if not asked and not reset:
        return load_edit(spool.root, entry)
    refused = _not_ours(spool, chosen) or _refusal(chosen, asked, reset=reset)
    if refused:
        complain(f"{entry.run_id} {refused}; nothing was changed")
        return None
    edit = Edit() if reset else asked.over(load_edit(spool.root, entry))
    save_edit(spool, entry, edit, by=getpass.getuser())
    for found in chosen:
        _forget_target(survey, found)
    _warn_of_bundles(chosen)
    return edit


def _warn_of_bundles(chosen: list[Found]) -> None:
    """What is packed goes as it was packed."""
    from wandb_spool.output import complain
    from wandb_spool.spool.states import State

    for found in chosen:
        if found.state is State.TRANSIT:
            complain(
                f"{found.entry.name} is packed already and goes as it was then: to carry the edit, "
                f"`wandb-spool release {found.entry.name} --transit`, then `wandb-spool pack` into another file"
            )


def _not_ours(spool: Spool, chosen: list[Found]) -> str | None:
    """In a group's spool a run is changed by its author, or by who owns the spool."""
    import os

    for found in chosen:
        launch = found.entry.launch_directory(spool.root)
        try:
            owners = {launch.lstat().st_uid, spool.root.lstat().st_uid, 0}
            if spool.group is not None and os.getuid() not in owners:
                return "is somebody else's: its author edits it"
        except OSError:
            continue
    return None


def _refusal(chosen: list[Found], asked: Edit, *, reset: bool) -> str | None:
    """Why this run can't be edited any more."""
    from wandb_spool.spool.states import State

    states = {found.state for found in chosen}
    entry = chosen[0].entry
    if State.DELIVERED in states or State.UNVERIFIED in states:
        return (
            f"is delivered, at least a part of it: change it in W&B, or send it again with `wandb-spool replay"
            f" {entry.run_id} --no-sync` and edit that"
        )
    if State.ACTIVE in states:
        return "is being delivered right now"
    if (asked.project or asked.entity or reset) and any(map(_went_somewhere, chosen)):
        return (
            "was pushed before, perhaps in part, so it can't go elsewhere: `wandb-spool replay"
            f" {entry.run_id} --project … --entity …` sends it there as well"
        )
    return None


def _went_somewhere(found: Found) -> bool:
    """Whether some of it may have arrived. What a server refused as a whole did not."""
    return bool(found.entry.attempts) and not (found.entry.reason or "").startswith("refused:")


def _forget_target(survey: Survey, found: Found) -> None:
    """A target to which nothing went is resolved again, now with the edit."""
    from dataclasses import replace

    from wandb_spool.output import complain
    from wandb_spool.spool.errors import LostRaceError
    from wandb_spool.spool.states import State

    if _went_somewhere(found) or found.state in (State.OPEN, State.DISCARDED, State.VOID):
        return
    if found.entry.target is None and not found.entry.not_before:
        return
    try:
        owned = survey.spool.claim(found.place)
        entry = survey.spool.read(owned)
        survey.spool.rewrite(owned, replace(entry, target=None, not_before=None, attempts=0))
        survey.spool.release(owned, found.state)
    except LostRaceError:
        complain(f"{found.entry.name} is being delivered right now: it may go as it was")


def _shown(chosen: list[Found], edit: Edit, *, quiet: bool) -> dict[str, object]:
    from wandb_spool.output import emit

    changes = {key: value for key, value in vars(edit).items() if value not in (None, ())}
    body: dict[str, object] = {"run_id": chosen[0].entry.run_id, "fragments": [item.entry.name for item in chosen]}
    if not quiet:
        told = ", ".join(f"{key} {value!r}" if isinstance(value, str) else f"{key} {', '.join(value)}"
                         for key, value in changes.items())  # fmt: skip
        aside = sorted({found.state.value for found in chosen if found.state.value in ("held", "quarantined")})
        then = f" · it is {aside[0]}: `wandb-spool release {chosen[0].entry.run_id}` sends it" if aside else ""
        emit(f"{chosen[0].entry.run_id}: {told or 'as it was logged'}{then}")
    return {**body, "edit": changes}
