"""Where a launch goes when its spool can't be used: training is not stopped for it.

Tried in order: the spool that was asked for, the user's state directory, a directory of the user's own below the
temporary one. What was wrong with each is kept for the warning. Guarantees: never raises for a broken spool; a
directory that belongs to somebody else is never used.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wandb_spool.spool.configuration import user_state_spool
from wandb_spool.spool.errors import SpoolError
from wandb_spool.spool.launches import Launch
from wandb_spool.spool.queue import Spool


@dataclass(frozen=True)
class Chosen:
    """The launch that was made, if any, and why the places before it were passed over."""

    launch: Launch | None
    passed_over: tuple[tuple[Path, str], ...] = ()
    temporary: bool = False


def candidates(asked: Path, environ: Mapping[str, str]) -> list[tuple[Path, bool]]:
    """Places to try, each with whether it is only temporary."""
    places = [(asked, False)]
    state = user_state_spool(environ)
    if state != asked:
        places.append((state, False))
    places.append((temporary_spool(environ), True))
    return places


def temporary_spool(environ: Mapping[str, str]) -> Path:
    """A directory below the temporary one that is the user's own, now and later."""
    parent = Path(environ.get("TMPDIR") or "/tmp")
    usual = parent / f"wandb-spool-{os.getuid()}"
    try:
        found = os.lstat(usual)
    except OSError:
        return usual
    ours = found.st_uid == os.getuid() and os.path.isdir(usual) and not os.path.islink(usual)
    return usual if ours else parent / f"{usual.name}-{secrets.token_hex(4)}"


def choose(
    places: Sequence[tuple[Path, bool]],
    create: Callable[[Spool], Launch],
    *,
    reach: Callable[[Path], bool] = lambda root: True,
) -> Chosen:
    """Make the launch in the first place that answers (`reach`) and can hold it."""
    passed_over: list[tuple[Path, str]] = []
    for root, temporary in places:
        if not reach(root):
            passed_over.append((root, f"the file system of {root} does not answer"))
            continue
        try:
            launch = create(Spool.create(root))
        except SpoolError as error:
            passed_over.append((root, str(error)))
        except OSError as error:
            passed_over.append((root, f"{error.strerror or error}: {root}"))
        else:
            return Chosen(launch, tuple(passed_over), temporary)
    return Chosen(None, tuple(passed_over))


def warning(chosen: Chosen) -> list[str]:
    """What the person is told when the launch is not where it was asked to be."""
    if not chosen.passed_over:
        return []
    lines = [f"WARNING: {reason}" for _, reason in chosen.passed_over]
    if chosen.launch is None:
        return [*lines, "Training runs all the same, WITHOUT LOGGING: nothing can be written anywhere."]
    root = chosen.launch.spool.root
    lines.append(f"Training runs all the same and is logged to the fallback spool {root}.")
    if chosen.temporary:
        lines.append("That is a temporary directory of this machine: move it to a lasting place before it is cleaned.")
    return [*lines, f"To deliver it: wandb-spool sync --spool {root}"]
