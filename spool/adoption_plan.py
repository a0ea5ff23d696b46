"""What is to become of each run directory that was found: decided before anything is touched.

Known ones are not taken twice, older copies of one log not beside the newer one, restarts go in the order of their
starts, and what is doubtful is put together with the reason, for a person or for `held`. Reads logs where two of them
have to be compared; changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

from . import clock
from .adoptions import Adoption
from .entry import Entry
from .errors import SpoolError
from .found_runs import FoundRun, Verdict, is_prefix, last_time_of_log_s
from .manifest import read_manifest
from .queue import Place, Spool
from .restarts import Doubt, Piece, doubts, in_order
from .states import State
from .trash import freed

_NO_PART = frozenset({State.VOID, State.DISCARDED})


class Fate(Enum):
    """What is done with a run directory."""

    ADOPT = "adopt"
    KNOWN = "adopted before"
    GREW = "grew since"
    SAME = "a copy of another"
    WRITING = "still written"


@dataclass(frozen=True)
class Decision:
    """The fate of one run directory, with what a person should know about it."""

    run: FoundRun
    fate: Fate
    detail: str | None = None


@dataclass(frozen=True)
class Group:
    """Run directories of one run, in their order, and what is doubtful about it."""

    runs: tuple[FoundRun, ...]
    predecessor: str | None = None
    """The entry of this run that is in the spool already and comes before all of them."""
    doubts: tuple[Doubt, ...] = ()

    @property
    def doubtful(self) -> str | None:
        if not self.doubts:
            return None
        return "; ".join(f"{doubt.later}: {doubt.why} ({doubt.earlier})" for doubt in self.doubts[:3])


@dataclass
class Plan:
    """What would be done."""

    groups: list[Group] = field(default_factory=list)
    left: list[Decision] = field(default_factory=list)

    @property
    def wanted(self) -> list[FoundRun]:
        return [run for group in self.groups for run in group.runs]


def plan(spool: Spool | None, found: Sequence[FoundRun], adoptions: Mapping[str, Adoption]) -> Plan:
    """Decide; `spool` is None when there is none yet."""
    places = {} if spool is None else spool.scan()
    made = Plan()
    fresh: list[FoundRun] = []
    for run in found:
        decision = _known(run, adoptions.get(run.identity), places, spool)
        if decision is None:
            fresh.append(run)
        else:
            made.left.append(decision)
    fresh = _without_copies(fresh, made)
    siblings = _siblings(spool, places, {run.run_id for run in fresh if run.run_id})
    made.groups = [_group(runs, siblings.get(key, [])) for key, runs in _by_run(fresh).items()]
    return made


def _known(
    run: FoundRun, adoption: Adoption | None, places: Mapping[str, Place], spool: Spool | None
) -> Decision | None:
    if run.verdict is Verdict.WRITING:
        return Decision(run, Fate.WRITING, "a process writes it, or it changed within the last minute")
    if adoption is None or spool is None:
        return None
    place = places.get(adoption.entry)
    if place is None and not adoption.done:
        return None  # that adoption never came to its end
    if place is not None and place.state is State.DISCARDED and _is_freed(spool, place):
        return None  # thrown away for good: adopting it again is the only way back
    if run.log_bytes <= adoption.log_bytes:
        return Decision(run, Fate.KNOWN, adoption.entry)
    if place is None or place.state is State.DISCARDED:
        return None
    detail = (
        f"the log grew by {run.log_bytes - adoption.log_bytes} bytes since it was adopted as {adoption.entry}: "
        f"`wandb-spool discard {adoption.entry}`, then adopt it again"
    )
    return Decision(run, Fate.GREW, detail)


def _is_freed(spool: Spool, place: Place) -> bool:
    try:
        return freed(spool.read(place)) is not None
    except (FileNotFoundError, SpoolError):
        return False


def _without_copies(fresh: Iterable[FoundRun], made: Plan) -> list[FoundRun]:
    """Of several copies of one log only the longest; those that went different ways all stay, as doubtful."""
    kept: dict[str, list[FoundRun]] = {}
    for run in sorted(fresh, key=lambda run: (-run.log_bytes, str(run.path))):
        longest = kept.setdefault(run.identity, [])
        if longest and run.log is not None and longest[0].log is not None and is_prefix(run.log, longest[0].log):
            made.left.append(Decision(run, Fate.SAME, str(longest[0].path)))
        else:
            longest.append(run)
    return sorted((run for runs in kept.values() for run in runs), key=lambda run: str(run.path))


def _by_run(fresh: Iterable[FoundRun]) -> dict[tuple[str, str | None, str | None], list[FoundRun]]:
    grouped: dict[tuple[str, str | None, str | None], list[FoundRun]] = {}
    for run in fresh:
        grouped.setdefault((run.run_id or f"no run: {run.path}", run.project, run.entity), []).append(run)
    return grouped


def _group(runs: Sequence[FoundRun], siblings: Sequence[Piece]) -> Group:
    if len(runs) == 1 and not siblings:
        return Group(tuple(runs))
    timed = [replace(run, ended_s=_last_time_s(run)) for run in runs]
    by_key = {str(run.path): run for run in timed}
    ordered = in_order([*(_piece(run) for run in timed), *siblings])
    doubtful = tuple(doubt for doubt in doubts(ordered) if doubt.earlier in by_key or doubt.later in by_key)
    first = next(index for index, piece in enumerate(ordered) if piece.key in by_key)
    between = any(piece.key not in by_key for piece in ordered[first:])
    if between and not doubtful:
        last, newest = ordered[-2:]
        doubtful = (Doubt(last.key, newest.key, "fragments of this run that are in the spool already come after it"),)
    return Group(
        tuple(by_key[piece.key] for piece in ordered if piece.key in by_key),
        predecessor=ordered[first - 1].key if first else None,
        doubts=doubtful,
    )


def _last_time_s(run: FoundRun) -> float | None:
    """When it was last heard of. A log that vanishes meanwhile tells nothing."""
    try:
        return None if run.log is None else last_time_of_log_s(run.log)
    except OSError:
        return None


def _piece(run: FoundRun) -> Piece:
    return Piece(str(run.path), run.started_s, run.ended_s, run.first_step, run.last_step, run.resume)


def _siblings(
    spool: Spool | None, places: Mapping[str, Place], run_ids: set[str]
) -> dict[tuple[str, str | None, str | None], list[Piece]]:
    """The fragments of these runs that are in the spool already. Found by the id in their directory's name."""
    found: dict[tuple[str, str | None, str | None], list[Piece]] = {}
    if spool is None:
        return found
    for name, place in places.items():
        if place.state in _NO_PART or name.partition(".")[2].split("-", 3)[-1].partition(".r")[0] not in run_ids:
            continue
        try:
            entry = spool.read(place)
        except (FileNotFoundError, SpoolError):
            continue
        if entry.replay is None and entry.run_id:
            found.setdefault((entry.run_id, entry.project, entry.entity), []).extend(_pieces(spool, entry))
    return found


def _pieces(spool: Spool, entry: Entry) -> Iterator[Piece]:
    started_s = clock.seconds(entry.created)
    try:
        manifest, _ = read_manifest(entry.run_directory(spool.root))
        log = None if manifest.log_path is None else entry.launch_directory(spool.root) / manifest.log_path
        ended_s = None if log is None else last_time_of_log_s(log)
        yield Piece(entry.name, started_s, ended_s, manifest.first_step, manifest.last_step)
    except (OSError, SpoolError):
        yield Piece(entry.name, started_s, None, None, None)  # still open, or pruned: only its start is known
