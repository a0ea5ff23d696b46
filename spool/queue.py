"""A spool: its directories, and the one function that moves an entry from state to state.

Guarantee: an entry is in exactly one directory of `queue/` as far as renames are atomic; where a crash or a person left
it in two, `scan` shows the one that stands (`states.standing`) and `repair` removes the others. Adding work needs no
lock. Fails with the errors of `errors.py`; losing a race is `LostRaceError` and means: look again.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from . import clock, durable
from .entry import Entry, read_entry
from .errors import (
    LostRaceError,
    SpoolError,
    SpoolFormatError,
    SpoolMissingError,
    TransitionError,
    UsageError,
    storage_error,
)
from .layout import FORMAT, SpoolPaths, new_token
from .states import State, allowed, standing


class Place(NamedTuple):
    """Where an entry file was seen. A tuple with a text for its path: a hundred thousand of them are listed at once."""

    name: str
    state: State
    location: str
    token: str | None = None
    origin: State | None = None
    """For an entry that this process claimed: the state from which it took it."""
    origin_location: str | None = None

    @property
    def path(self) -> Path:
        return Path(self.location)


@dataclass(frozen=True)
class Spool:
    """An opened spool of format 1."""

    paths: SpoolPaths
    spool_id: str
    group: str | None = None

    @property
    def root(self) -> Path:
        return self.paths.root

    # -- making and opening ------------------------------------------------------------------------------------------

    @classmethod
    def create(cls, root: Path, *, group: str | None = None, now_s: float | None = None) -> Spool:
        """Make a spool in a missing or empty directory, parents included; open it if it is one already.

        Raises UsageError when the directory holds something else, StorageError when it can't be written.
        """
        root = Path(os.path.abspath(root.expanduser()))
        paths = SpoolPaths(root)
        if paths.marker.exists():
            return cls.open(root)
        try:
            strange = root.exists() and any(not name.startswith(".") for name in os.listdir(root))
        except NotADirectoryError as error:
            raise UsageError("a spool needs a directory, this is a file", path=root) from error
        except OSError as error:
            raise storage_error("read the directory", root, error) from error
        if strange and not (root / "queue").is_dir():
            raise UsageError(
                "the directory is not a spool and not empty",
                path=root,
                hint="choose an empty or a new directory",
            )
        durable.make_directory(root)
        _protect(root, group)  # first: what is made in it takes its modes from it
        for state in State:  # first: by them a spool is known that was never finished
            durable.make_directory(paths.queue(state))
        for directory in (paths.runs, paths.leases, paths.edits, paths.receipts, paths.syncers):
            durable.make_directory(directory)
        body = {
            "format": FORMAT,
            "spool_id": secrets.token_hex(16),
            "created": clock.iso(time.time() if now_s is None else now_s),
            "group": group,
        }
        durable.create_exclusively(paths.marker, durable.encode_json(body))  # of two makers, the first decides the id
        return cls.open(root)

    @classmethod
    def open(cls, root: Path) -> Spool:
        """Open an existing spool. Raises SpoolMissingError, SpoolFormatError or StorageError."""
        root = Path(os.path.abspath(root.expanduser()))
        paths = SpoolPaths(root)
        hint = f"`wandb-spool init {root}` makes one, --spool DIR or WANDB_SPOOL_DIR names another"
        if root.is_file():
            raise SpoolMissingError("a spool is a directory, this is a file", path=root, hint="name the directory")
        try:
            body = durable.read_json(paths.marker)
        except (FileNotFoundError, NotADirectoryError) as error:
            what = "not a spool (no spool.json in it)" if root.is_dir() else "no such spool directory"
            raise SpoolMissingError(what, path=root, hint=hint) from error
        except ValueError as error:
            raise SpoolFormatError(
                f"spool.json can't be read ({error})",
                path=paths.marker,
                hint=_anew(root),
            ) from error
        found = body.get("format")
        if not isinstance(found, int) or isinstance(found, bool) or found < 1:
            raise SpoolFormatError("spool.json names no format", path=paths.marker, hint=_anew(root))
        if found > FORMAT:
            raise SpoolFormatError(
                f"the spool is of format {found}, this version of wandb-spool reads format {FORMAT}",
                path=root,
                hint="use a newer wandb-spool; nothing was touched",
            )
        group = body.get("group")
        return cls(paths, str(body.get("spool_id", "")), group if isinstance(group, str) else None)

    # -- looking -----------------------------------------------------------------------------------------------------

    def places(self, state: State) -> Iterator[Place]:
        """Entry files in one directory of the queue, unread and unordered. A missing directory holds none."""
        if state is State.DELIVERED:
            for month in _directories(self.paths.queue(state)):
                yield from self._places_in(month, state)
        else:
            yield from self._places_in(self.paths.queue(state), state)

    @staticmethod
    def _places_in(directory: Path, state: State) -> Iterator[Place]:
        try:
            names = os.listdir(directory)
        except FileNotFoundError:
            return
        except OSError as error:
            raise storage_error("read the directory", directory, error) from error
        prefix = f"{directory}/"
        for file_name in names:  # a hundred thousand of them may have been delivered
            if file_name.endswith(".json") and file_name[0] != ".":
                name, _, token = file_name[:-5].partition("~")
                yield Place(name, state, prefix + file_name, token or None)

    def scan(self, states: frozenset[State] | None = None) -> dict[str, Place]:
        """Each entry once, at the place that stands."""
        found: dict[str, list[Place]] = {}
        for state in State:
            if states is None or state in states:
                for place in self.places(state):
                    found.setdefault(place.name, []).append(place)
        return {name: places[0] if len(places) == 1 else self._standing(places) for name, places in found.items()}

    def find(self, name: str) -> Place | None:
        """Where the entry with this name stands now. One that moves during a listing may be seen in no directory."""
        return self.scan().get(name) or self.scan().get(name)

    def read(self, place: Place) -> Entry:
        """The entry at a place. Raises FileNotFoundError when it moved meanwhile, DamagedError when it is none."""
        return read_entry(place.path, place.name)

    # -- moving ------------------------------------------------------------------------------------------------------

    def add(self, entry: Entry, state: State = State.OPEN) -> Place:
        """Put a new entry into the queue. Adding one that is there already changes nothing."""
        path = self.paths.entry(state, entry.name)
        durable.make_directory(path.parent)
        durable.create_exclusively(path, durable.encode_json(entry.as_json()), mode=self.file_mode)
        return Place(entry.name, state, str(path))

    def claim(self, place: Place, *, token: str | None = None) -> Place:
        """Take an entry for this process: rename it into `active` under a token of ours.

        Raises LostRaceError when somebody else was faster.
        """
        token = token or new_token()
        target = self.paths.entry(State.ACTIVE, place.name, token=token)
        try:
            durable.rename(place.path, target)
        except FileNotFoundError as error:
            # NFS may answer a repeated rename with ENOENT, even to the winner.
            if not target.exists():
                raise LostRaceError(f"{place.name} was taken by somebody else", path=place.path) from error
            durable.sync_move(place.path, target)
        return Place(place.name, State.ACTIVE, str(target), token, place.state, place.location)

    def move(
        self,
        place: Place,
        target: State,
        entry: Entry | None = None,
        *,
        why: str | None = None,
        now_s: float | None = None,
    ) -> Place:
        """The one transition: take the entry, write its new body, rename it into the directory of the new state.

        `entry` is the new body (default: the present one); an event is added to its history. A crash in between leaves
        the entry in `active`, whence `put_back` completes or undoes the move by the last event. Raises TransitionError
        when the table has no such move, LostRaceError when the entry is no longer there, DamagedError when its present
        body can't be read (it stays where it was).
        """
        if not allowed(place.state, target):
            raise TransitionError(f"{place.name} is {place.state}, it can't become {target}")
        now = time.time() if now_s is None else now_s
        owned = place if place.state is State.ACTIVE else self.claim(place)
        body = (entry or self._read_owned(owned)).with_event(
            source=owned.origin or place.state,
            target=target,
            by=f"{socket.gethostname()}:{os.getpid()}",
            now_s=now,
            why=why,
        )
        self.rewrite(owned, body)
        path = self.paths.entry(target, place.name, month=clock.month(now))
        self._finish_move(owned.path, path, body)
        return Place(place.name, target, str(path))

    def _read_owned(self, owned: Place) -> Entry:
        try:
            return self.read(owned)
        except SpoolError:
            if owned.origin is not None:
                self.release(owned, owned.origin)
            raise

    def _finish_move(self, source: Path, target: Path, body: Entry | None) -> None:
        """The second rename of a move. Raises LostRaceError when the entry was taken from its owner meanwhile."""
        durable.make_directory(target.parent)
        try:
            durable.rename(source, target)
        except FileNotFoundError as error:
            if body is None or not _lies_at(target, body):  # after a repeated rename it lies there
                raise LostRaceError("the entry was taken from its owner meanwhile", path=source) from error
            durable.sync_move(source, target)

    def rewrite(self, place: Place, entry: Entry) -> None:
        """Rewrite the body of an entry that this process owns, without moving it.

        Raises LostRaceError when it is no longer there: an owner that slept for too long must not make it anew.
        """
        if place.state is not State.ACTIVE:
            raise TransitionError(f"only the owner of an active entry rewrites it, {place.name} is {place.state}")
        if not place.path.exists():
            raise LostRaceError(f"{place.name} was taken from its owner meanwhile", path=place.path)
        durable.write_json(place.path, entry.as_json(), mode=self.file_mode)

    def put_back(self, place: Place) -> Place:
        """Return an entry whose owner is gone from `active` to the state that its last event names.

        A claim writes no event, so this undoes an interrupted claim and completes an interrupted move.
        """
        entry = self.read(place)
        target = last_state(entry)
        month = clock.month(clock.seconds(entry.history[-1].get("at")) or 0.0) if entry.history else None
        path = self.paths.entry(target, place.name, month=month)
        self._finish_move(place.path, path, entry)
        return Place(place.name, target, str(path))

    def release(self, place: Place, target: State) -> Place:
        """Give a claimed entry back unchanged to the state it came from."""
        came_from = place.origin_location if place.origin is target else None
        path = Path(came_from) if came_from else self.paths.entry(target, place.name)
        self._finish_move(place.path, path, None)
        return Place(place.name, target, str(path))

    def repair(self) -> list[str]:
        """Remove the copies of entries that lie in two directories; returns a line for each.

        An entry that moves while the directories are listed is seen twice too. So a copy is taken like any other entry
        before it is removed, and given back if it turns out to be the only one.
        """
        told: list[str] = []
        for name, places in self._listed().items():
            if len(places) < 2:
                continue
            keep = self._standing(places)
            removed = [place for place in places if place != keep and self._remove_copy(place)]
            if removed:
                told.append(f"{name}: was also in {', '.join(str(p.state) for p in removed)}; {keep.state} stands")
        return told

    def _remove_copy(self, place: Place) -> bool:
        try:
            ours = self.claim(place)
        except LostRaceError:
            return False  # it moved on: there was no second copy
        others = [other for other in self._listed().get(place.name, []) if other.path != ours.path]
        if others and (place.state is State.ACTIVE or self._outranked(place, ours, others)):
            durable.remove(ours.path)
            return True
        self._give_back(ours, place)
        return False

    def _outranked(self, place: Place, ours: Place, others: list[Place]) -> bool:
        as_it_was = Place(place.name, place.state, ours.location)
        return self._standing([*others, as_it_was]) != as_it_was

    def _give_back(self, ours: Place, place: Place) -> None:
        try:
            durable.rename(ours.path, place.path)
        except FileNotFoundError:
            pass  # somebody put it back already

    def _listed(self) -> dict[str, list[Place]]:
        found: dict[str, list[Place]] = {}
        for state in State:
            for place in self.places(state):
                found.setdefault(place.name, []).append(place)
        return found

    def _standing(self, places: list[Place]) -> Place:
        """Of several places of one entry, the one that stands. An unreadable copy carries no receipt."""
        proven = {place.path: self._has_receipt(place) for place in places}
        found = {state: any(proven[p.path] for p in places if p.state is state) for state in State}
        state = standing({state: found[state] for state in {place.state for place in places}})
        candidates = [place for place in places if place.state is state]
        return next((place for place in candidates if proven[place.path]), candidates[0])

    def _has_receipt(self, place: Place) -> bool:
        try:
            return self.read(place).receipt is not None
        except (FileNotFoundError, SpoolError):
            return False

    @property
    def file_mode(self) -> int:
        return 0o660 if self.group else 0o600

    @property
    def directory_mode(self) -> int:
        return 0o2770 if self.group else 0o700


def last_state(entry: Entry) -> State:
    """The state that the entry's last event names; without events, what its manifest says."""
    for event in reversed(entry.history):
        try:
            state = State(event.get("to"))
        except ValueError:
            continue
        if state is not State.ACTIVE:
            return state
    return State.INCOMING if entry.manifest_sha256 else State.OPEN


def _directories(parent: Path) -> list[Path]:
    try:
        return sorted(path for path in parent.iterdir() if path.is_dir() and not path.name.startswith("."))
    except FileNotFoundError:
        return []


def _lies_at(path: Path, body: Entry) -> bool:
    try:
        return durable.read_json(path) == body.as_json()
    except (OSError, ValueError, SpoolError):
        return False


def _anew(root: Path) -> str:
    return (
        "the runs beside it are untouched: restore the file from a backup, or move it away and let"
        f" `wandb-spool init {root}` make it anew"
    )


def _protect(root: Path, group: str | None) -> None:
    """0700, or 2770 for a group on purpose. A file system without modes is not an error."""
    if group is None:
        try:
            root.chmod(0o700)
        except OSError:
            pass
        return
    try:
        shutil.chown(root, group=group)
        root.chmod(0o2770)
    except LookupError as error:
        raise UsageError(f"no such group: {group}", path=root, hint="`id -Gn` lists yours") from error
    except OSError as error:
        hint = f"you must be a member of {group}, and the file system must know groups"
        raise UsageError(f"the spool can't be given to the group {group}", path=root, hint=hint) from error
