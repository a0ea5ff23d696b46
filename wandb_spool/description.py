"""An entry as `ls --json` and `show --json` give it. The keys are a contract."""

from __future__ import annotations

from typing import Any

from wandb_spool.spool import alive
from wandb_spool.spool.errors import SpoolError
from wandb_spool.spool.manifest import read_manifest
from wandb_spool.spool.queue import Spool
from wandb_spool.spool.states import State
from wandb_spool.spool.trash import gone_on_purpose

from .survey import Found


def brief(found: Found) -> dict[str, Any]:
    """One line of `ls --json`."""
    entry = found.entry
    target = entry.target
    return {
        "fragment": entry.fragment,
        "entry": entry.name,
        "launch": entry.launch,
        "path": entry.path,
        "run_id": entry.run_id,
        "name": entry.display_name,
        "project": entry.project,
        "entity": entry.entity,
        "state": found.state.value,
        "reason": entry.reason,
        "mend": entry.mend,
        "attempts": entry.attempts,
        "refusals": entry.refusals,
        "not_before": entry.not_before,
        "rows": entry.rows,
        "size_bytes": entry.size_bytes,
        "created": entry.created,
        "command": entry.command,
        "predecessor": entry.predecessor,
        "destination": target.destination if target else (entry.replay.destination if entry.replay else None),
        "target": None if target is None else target.as_json(),
        "url": (entry.receipt or {}).get("url"),
    }


def full(spool: Spool, found: Found) -> dict[str, Any]:
    """`show --json`: everything that the spool knows of one fragment."""
    run_directory = found.run_directory(spool)
    body = brief(found)
    body["manifest"], body["problem"] = _manifest(spool, found)
    sign = alive.read(run_directory) if found.state is State.OPEN else None
    body["alive"] = None if sign is None else vars(sign)
    body["history"] = list(found.entry.history)
    body["receipt"] = found.entry.receipt
    return body


def _manifest(spool: Spool, found: Found) -> tuple[dict[str, Any] | None, str | None]:
    try:
        return read_manifest(found.run_directory(spool))[0].as_json(), None
    except FileNotFoundError:
        sealed = found.entry.manifest_sha256 is not None and found.state is not State.OPEN
        sealed = sealed and gone_on_purpose(spool, found.entry) is None
        return None, "the manifest or the run directory is gone" if sealed else None
    except (SpoolError, OSError) as error:
        return None, str(error)
