"""The open entry of a fragment, and the marker of a hooked process.

Raises OSError; the callers decide what that means.
"""

from __future__ import annotations

import json
import os
import time
from typing import Any, Dict, List, Optional

from . import identity
from .durable import write_json
from .launch import Launch


def now() -> str:
    seconds = time.time()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{int(seconds % 1 * 1000):03d}Z"


def leave_marker(launch: Launch) -> None:
    folder = os.path.join(launch.path, "hook")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    marker = os.path.join(folder, f"{os.getpid()}-{identity.start_ticks()}")
    os.close(os.open(marker, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))


def name_of(launch: Launch, fragment: str) -> str:
    return f"{launch.name}.{fragment}"


def path_of(launch: Launch, name: str) -> str:
    return os.path.join(launch.spool, "queue", "open", name + ".json")


def write_open(
    launch: Launch,
    run_dir: str,
    settings: Any,
    predecessor: Optional[str],
    overridden: List[str],
    base_url: Optional[str],
) -> str:
    """Write queue/open/<launch>.<fragment>.json; the entry's name."""
    fragment = os.path.basename(run_dir)
    name = name_of(launch, fragment)
    body = _body(launch, run_dir, fragment, settings)
    body["predecessor"] = predecessor
    body["base_url"] = base_url or body["base_url"]
    body["overridden"] = overridden
    path = path_of(launch, name)
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    write_json(path, body)
    return name


def add_not_done(path: str, what: Dict[str, str]) -> None:
    """Rewrite our own open entry; while this process lives nobody else does."""
    with open(path) as file:
        body = json.load(file)
    body.setdefault("not_done", []).append(what)
    write_json(path, body)


def _body(launch: Launch, run_dir: str, fragment: str, settings: Any) -> Dict[str, Any]:
    return {
        "format": 1,
        "launch": launch.name,
        "fragment": fragment,
        "path": launch.place_in_spool(run_dir),
        "run_id": getattr(settings, "run_id", None),
        "project": getattr(settings, "project", None),
        "entity": getattr(settings, "entity", None),
        "name": getattr(settings, "run_name", None),
        "base_url": launch.defaults.get("base_url"),
        "created": now(),
        "writer": identity.writer(),
        "predecessor": None,
        "command": launch.defaults.get("command"),
        "manifest_sha256": None,
        "rows": None,
        "size_bytes": None,
        "attempts": 0,
        "refusals": 0,
        "not_before": None,
        "backoff_s": 0,
        "reason": None,
        "mend": None,
        "target": None,
        "replay": None,
        "receipt": None,
        "history": [],
    }
