"""What an adoption that was killed left in the spool: sealed where it had come in, taken out where it had not.

Only of adopters that are dead for certain, on this host; those of other hosts are left alone until an `adopt` there.
A run directory that had come in is sealed as it was meant to be. Of one that had not, the copy and its entry go: the
run itself is still where it was, and is adopted like any other. Fails with StorageError; a rest that can't be mended is
left for the next time.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from . import durable
from .adoptions import Adoption, note, unfinished
from .errors import LostRaceError
from .identity import Identity, Life, life
from .launches import Launch
from .layout import ENTRY_NAME
from .queue import Place, Spool
from .recover import Observations, put_back_abandoned
from .seal import seal_fragment
from .states import State


@dataclass
class Rests:
    """What was done about them."""

    sealed: int = 0
    removed: int = 0


def clear(spool: Spool) -> Rests:
    """Finish or undo what dead adopters of this host began."""
    rests = Rests()
    begun = unfinished(spool)
    if not begun:
        return rests
    put_back_abandoned(spool, Observations())
    places = spool.scan()
    launches: dict[str, tuple[Launch, list[Adoption]]] = {}
    for adoption in begun:
        match = ENTRY_NAME.match(adoption.entry)
        if match is not None:
            launch = Launch.at(spool, spool.paths.launch(match["launch"]))
            launches.setdefault(launch.name, (launch, []))[1].append(adoption)
    for launch, adoptions in launches.values():
        writer = Identity.from_json(launch.record().get("writer"))
        if writer is not None and life(writer) is Life.DEAD:
            _clear_launch(spool, launch, adoptions, places, rests)
    return rests


def _clear_launch(
    spool: Spool, launch: Launch, adoptions: Iterable[Adoption], places: dict[str, Place], rests: Rests
) -> None:
    for adoption in adoptions:
        place = places.get(adoption.entry)
        directory = launch.paths.wandb / adoption.entry.partition(".")[2]
        if not directory.is_dir():
            rests.removed += _remove_entry(spool, place)
        elif place is not None:
            _put_link(spool, place, directory)
            rests.sealed += _seal(spool, place)
            note(spool, [replace(adoption, done=True)])
    for copy in launch.paths.wandb.glob(f"{durable.TEMPORARY_PREFIX}*"):
        rests.removed += 1
        shutil.rmtree(copy, ignore_errors=True)
    if not launch.paths.fragments():
        shutil.rmtree(launch.paths.root, ignore_errors=True)


def _remove_entry(spool: Spool, place: Place | None) -> int:
    """An entry without a run directory stands for nothing. One that a person or a bundle moved on stays."""
    if place is None or place.state not in (State.OPEN, State.VOID):
        return 0
    try:
        durable.remove(spool.claim(place).path)
    except LostRaceError:
        return 0
    return 1


def _put_link(spool: Spool, place: Place, directory: Path) -> None:
    """`--in-place` promised one at the old place; a directory that can't be written any more does without."""
    adopted = spool.read(place).extra.get("adopted")
    if isinstance(adopted, dict) and adopted.get("link") and not os.path.lexists(str(adopted["from"])):
        with contextlib.suppress(OSError):
            os.symlink(directory, str(adopted["from"]))


def _seal(spool: Spool, place: Place) -> int:
    if place.state is not State.OPEN:
        return 0
    try:
        seal_fragment(spool, place, hook=False)
    except LostRaceError:
        return 0
    return 1
