"""`wandb-spool env`: what `run` would set, for launchers that drop or never see its environment."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping
from enum import Enum
from typing import Annotated

import typer

from wandb_spool.parameters import SpoolOption


class Format(str, Enum):
    sh = "sh"
    deepspeed = "deepspeed"
    apptainer = "apptainer"
    ray = "ray"
    json = "json"


def command(
    spool: SpoolOption = None,
    format: Annotated[Format, typer.Option("--format", help="For whom.")] = Format.sh,
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="The runs' display name.")] = None,
    resume_key: Annotated[
        str | None,
        typer.Option("--resume-key", metavar="NAME", help="Launches with the same NAME continue each other's runs."),
    ] = None,
) -> None:
    """Print what `run` would set.

    Inside a launch these are its own variables; outside a new launch is made, whose runs the syncer (or
    `wandb-spool recover`) seals when their writers are gone.

    sh: `eval "$(wandb-spool env)"` · deepspeed: lines for `.deepspeed_env` · apptainer: exports for a container ·
    ray: a runtime_env · json
    """
    print("\n".join(lines(format, variables(spool, name, resume_key))))


def variables(spool: str | None, name: str | None, resume_key: str | None) -> dict[str, str]:
    """The variables of this launch, or of a new one."""
    from wandb_spool.runner.environment import launch_environment
    from wandb_spool.runner.hook import HOOK_DIR

    launch, root = os.environ.get("WANDB_SPOOL_LAUNCH"), os.environ.get("WANDB_SPOOL_DIR")
    if launch and root and spool is None and os.path.isdir(launch):
        from pathlib import Path

        staged = os.environ.get("WANDB_SPOOL_STAGE")
        made = launch_environment(
            os.environ,
            spool=Path(root),
            launch=Path(launch),
            hook=HOOK_DIR,
            name=name,
            stage=Path(staged) if staged else None,
        )
        kept = {
            key: os.environ[key]
            for key in ("WANDB_SPOOL_ENTRY_DEFAULTS", "WANDB_SPOOL_RESUME_KEY")
            if key in os.environ
        }
        return {**made.variables, **kept}
    return _new_launch(spool, name, resume_key)


def _new_launch(spool: str | None, name: str | None, resume_key: str | None) -> dict[str, str]:
    from wandb_spool.locate import locate
    from wandb_spool.output import complain
    from wandb_spool.runner.cache_place import cache_variables
    from wandb_spool.runner.launch import LaunchRequest, environment_of
    from wandb_spool.spool.launches import Launch
    from wandb_spool.spool.queue import Spool

    located = locate(spool, os.environ)
    if located.warning:
        complain(located.warning)
    request = LaunchRequest(command=(), spool=located.root, name=name, resume_key=resume_key)
    # No launcher lives beside these runs: `env` tells `recover` not to wait for one.
    extra = {"made_by": "env", "base_url": os.environ.get("WANDB_BASE_URL") or None}
    launch = Launch.create(Spool.create(located.root), (), extra=extra)
    changes = environment_of(launch, request, os.environ)
    if changes.overridden:
        complain(f"overridden for this launch: {', '.join(changes.overridden)}")
    return {**changes.variables, **cache_variables(os.environ)}


def lines(format: Format, variables: Mapping[str, str]) -> list[str]:
    """The variables as the launcher wants them."""
    if format is Format.json:
        return [json.dumps(dict(variables), indent=1)]
    if format is Format.ray:
        return [json.dumps({"env_vars": dict(variables)}, indent=1)]
    if format is Format.deepspeed:
        return [f"{key}={value}" for key, value in variables.items()]
    if format is Format.apptainer:
        return _apptainer(variables)
    return [f"export {key}={shlex.quote(value)}" for key, value in variables.items()]


def _apptainer(variables: Mapping[str, str]) -> list[str]:
    """Exports that reach into a container, and the directories that it must see."""
    hook = variables["PYTHONPATH"].split(os.pathsep)[0]
    places = [variables["WANDB_SPOOL_DIR"], variables.get("WANDB_SPOOL_STAGE", "")]
    binds = [os.environ.get("APPTAINER_BIND", ""), *places, f"{hook}:{hook}:ro"]
    exports = {f"APPTAINERENV_{key}": value for key, value in variables.items()}
    exports["APPTAINER_BIND"] = ",".join(filter(None, binds))
    return [f"export {key}={shlex.quote(value)}" for key, value in exports.items()]
