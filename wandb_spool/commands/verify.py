"""`wandb-spool verify`: bytes against manifests; `--remote`: the server against the manifests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from wandb_spool.parameters import JsonOption, SpoolOption
from wandb_spool.spool.states import State

if TYPE_CHECKING:
    from wandb_spool.spool.queue import Spool
    from wandb_spool.survey import Found

SEALED = frozenset(State) - {State.OPEN, State.VOID, State.ACTIVE}


def command(
    runs: Annotated[list[str] | None, typer.Argument(metavar="[RUN…]", help="Default: all that is sealed.")] = None,
    spool: SpoolOption = None,
    remote: Annotated[bool, typer.Option("--remote", help="Read the server back and print the balance.")] = False,
    json: JsonOption = False,
) -> None:
    """Compare every sealed file with its manifest."""
    from wandb_spool.locate import open_spool
    from wandb_spool.lookup import find_runs
    from wandb_spool.output import complain, emit, emit_json
    from wandb_spool.spool.trash import gone_on_purpose
    from wandb_spool.survey import DAMAGED, Survey

    opened = open_spool(spool)
    survey = Survey.of(opened)
    if remote:
        raise typer.Exit(_remote(opened, runs, json=json))
    chosen = find_runs(survey, runs) if runs else list(survey.read(SEALED))
    wrong: dict[str, list[str]] = {}
    for found in chosen:
        gone = gone_on_purpose(opened, found.entry)
        if gone:
            if not json:
                emit(f"{found.entry.name}: {gone}")
            continue
        problems = list(check(opened, found))
        wrong[found.entry.name] = problems
        if not json:
            emit(f"{found.entry.name}: " + ("; ".join(problems) or "as it was sealed"))
    if json:
        emit_json([{"entry": name, "problems": problems} for name, problems in wrong.items()])
    for problem in survey.problems:
        complain(problem)
    raise typer.Exit(DAMAGED if survey.damaged or any(wrong.values()) else 0)


def check(spool: Spool, found: Found) -> Iterator[str]:
    """What differs from the seal."""
    from wandb_spool.spool.errors import SpoolError
    from wandb_spool.spool.manifest import read_manifest

    if found.entry.manifest_sha256 is None:
        yield f"not sealed yet ({found.state})"
        return
    run_directory = found.run_directory(spool)
    try:
        manifest, digest = read_manifest(run_directory)
    except FileNotFoundError:
        yield f"the manifest is gone: {run_directory}"
        return
    except (SpoolError, OSError) as error:
        yield str(error)
        return
    if digest != found.entry.manifest_sha256:
        yield f"the manifest is not the one that was sealed: {run_directory}"
    launch = run_directory.parent.parent
    for item in manifest.files:
        problem = _compare(launch / item.path, item.size_bytes, item.sha256)
        if problem:
            yield f"{item.path}: {problem}"


def _compare(path: object, size_bytes: int, sha256: str) -> str | None:
    """None when the file is what it was. Links are not followed."""
    from pathlib import Path

    from wandb_spool.spool.capture import digest_file
    from wandb_spool.spool.errors import SpoolError

    try:
        size, digest = digest_file(Path(str(path)))
    except FileNotFoundError:
        return "gone"
    except (SpoolError, OSError, ValueError) as error:
        return f"can't be read ({error})"
    if size != size_bytes:
        return f"{size} bytes instead of {size_bytes}"
    return None if digest == sha256 else "other bytes"


def _remote(spool: Spool, runs: list[str] | None, *, json: bool) -> int:
    """The balance against the server; lives with the syncer."""
    from importlib import import_module

    return int(import_module("wandb_spool.balance").verify_remote(spool, runs, json=json))
