"""What `run` changes in the environment of a training command. Pure.

The spool owns `WANDB_MODE`, `WANDB_DIR`, `WANDB_DATA_DIR` and the flush of the log, and switches telemetry off; every
other `WANDB_*` is the user's. PYTHONPATH is added to, never replaced. No key is ever among the variables.

| variable | meaning |
|---|---|
| `WANDB_SPOOL_DIR`, `WANDB_SPOOL_LAUNCH` | the spool and the launch directory, absolute |
| `WANDB_SPOOL_STAGE` | where wandb writes instead of into the launch directory; only with `--stage`, else empty |
| `WANDB_SPOOL_ENTRY_DEFAULTS` | JSON for the hook's entries: `command`; `base_url` where the user had set one |
| `WANDB_SPOOL_RESUME_KEY` | JSON: see `resume_key.py`; only where a restart can be recognized |
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .redaction import redact

FLUSH_INTERVAL_S = "0.5"
_COMMAND_LIMIT = 4096  # one variable may hold 128 KiB, all of them together share the room with the arguments

OWNED = (
    "WANDB_MODE",
    "WANDB_DIR",
    "WANDB_DATA_DIR",
    "WANDB_X_TRANSACTION_LOG_FLUSH_INTERVAL",
    "WANDB_ERROR_REPORTING",
)


@dataclass(frozen=True)
class LaunchEnvironment:
    """The variables to set, and which of the user's values they override (`NAME=value`)."""

    variables: dict[str, str]
    overridden: tuple[str, ...]

    def applied_to(self, environ: Mapping[str, str]) -> dict[str, str]:
        return {**environ, **self.variables}


def launch_environment(
    environ: Mapping[str, str],
    *,
    spool: Path,
    launch: Path,
    hook: Path,
    command: Sequence[str] = (),
    name: str | None = None,
    resume_key: str | None = None,
    stage: Path | None = None,
) -> LaunchEnvironment:
    """The environment of a command that belongs to a launch."""
    variables = {
        "WANDB_MODE": mode(environ),
        "WANDB_DIR": str(stage or launch),
        "WANDB_DATA_DIR": str((stage or launch) / "data"),
        "WANDB_X_TRANSACTION_LOG_FLUSH_INTERVAL": FLUSH_INTERVAL_S,
        "WANDB_ERROR_REPORTING": "false",
        "PYTHONPATH": with_hook(environ.get("PYTHONPATH"), hook),
        "WANDB_SPOOL_DIR": str(spool),
        "WANDB_SPOOL_LAUNCH": str(launch),
        "WANDB_SPOOL_ENTRY_DEFAULTS": entry_defaults(environ, command),
    }
    if stage is not None or environ.get("WANDB_SPOOL_STAGE"):
        variables["WANDB_SPOOL_STAGE"] = "" if stage is None else str(stage)
    if name is not None:
        variables["WANDB_NAME"] = name
    if resume_key is not None:
        variables["WANDB_SPOOL_RESUME_KEY"] = resume_key
    return LaunchEnvironment(variables, _overridden(environ, variables))


def environment_without_spool(environ: Mapping[str, str]) -> LaunchEnvironment:
    """For the rare case in which nothing at all can be written: no files, no network, no exception from `log`."""
    variables = {"WANDB_MODE": "disabled", "WANDB_ERROR_REPORTING": "false"}
    return LaunchEnvironment(variables, ())


def mode(environ: Mapping[str, str]) -> str:
    """Offline, unless the user switched logging off."""
    return "disabled" if environ.get("WANDB_MODE", "").strip().lower() == "disabled" else "offline"


def with_hook(pythonpath: str | None, hook: Path) -> str:
    """The hook first, once; the rest as it is, empty parts too: Python reads one as the working directory."""
    if not pythonpath:
        return str(hook)
    rest = [part for part in pythonpath.split(os.pathsep) if part != str(hook)]
    return os.pathsep.join([str(hook), *rest])


def entry_defaults(environ: Mapping[str, str], command: Sequence[str]) -> str:
    """What the hook is to write into every entry. A base URL only where the user had set one."""
    defaults: dict[str, str] = {}
    if command:
        defaults["command"] = shlex.join(redact(command, environ))[:_COMMAND_LIMIT]
    if environ.get("WANDB_BASE_URL"):
        defaults["base_url"] = environ["WANDB_BASE_URL"]
    return json.dumps(defaults)


def _overridden(environ: Mapping[str, str], variables: Mapping[str, str]) -> tuple[str, ...]:
    """The user's values that are not what they were. What a launch around this one had set is not the user's."""
    outer = [environ[name] for name in ("WANDB_SPOOL_LAUNCH", "WANDB_SPOOL_STAGE") if environ.get(name)]
    told: list[str] = []
    for key in (*OWNED, "WANDB_NAME"):
        before = environ.get(key)
        if before is None or key not in variables or _same(key, before, variables[key]):
            continue
        if any(before == place or before.startswith(place + "/") for place in outer):
            continue
        told.append(f"{key}={before}")
    return tuple(told)


def _same(key: str, before: str, after: str) -> bool:
    if key == "WANDB_MODE":
        return before.strip().lower() in (after, "dryrun")
    return before == after
