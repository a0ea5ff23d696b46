"""`wandb-spool pack`: everything that waits, in one file that crosses the gap on a disk."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wandb_spool.parameters import SpoolOption

if TYPE_CHECKING:
    from wandb_spool.spool.bundle_index import Carried
    from wandb_spool.spool.bundle_pack import Left, Packed
    from wandb_spool.spool.queue import Spool
    from wandb_spool.survey import Found, Survey


def command(
    runs: Annotated[list[str] | None, typer.Argument(metavar="[RUN…]", help="Default: all that waits.")] = None,
    out: Annotated[
        str | None, typer.Option("--out", "-o", metavar="FILE", help="The bundle, NAME.tar.zst; `-` is a pipe.")
    ] = None,
    spool: SpoolOption = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="TIME", help="Only what was launched since: 2026-11-21, 3d, 12h.")
    ] = None,
    max_size: Annotated[
        str | None, typer.Option("--max-size", metavar="SIZE", help="Make several bundles, none larger: 4G, 700MB.")
    ] = None,
    receipts: Annotated[
        bool, typer.Option("--receipts", help="Pack the receipts of runs that came by a bundle, for the way back.")
    ] = False,
    sent: Annotated[
        str | None,
        typer.Option("--sent", metavar="FILE", help="Read a finished bundle back (`-`: stdin) and mark its runs."),
    ] = None,
    trust_pipe: Annotated[
        bool, typer.Option("--trust-pipe", help="With `--out -`: mark the runs when the pipe has taken everything.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be packed.")] = False,
) -> None:
    """Pack what is sealed and not delivered into a bundle; packed runs are in transit until a receipt or a release."""
    from wandb_spool.bundling import since_s, size_bytes
    from wandb_spool.locate import open_spool
    from wandb_spool.spool.errors import UsageError

    opened = open_spool(spool)
    if sent is not None:
        raise typer.Exit(_sent(opened, sent))
    if out is None:
        raise UsageError("name the bundle", hint="`wandb-spool pack --out /media/disk/runs.tar.zst`")
    earliest_s = None if since is None else since_s(since, time.time())
    limit = None if max_size is None else size_bytes(max_size)
    if receipts:
        raise typer.Exit(_pack_receipts(opened, runs, out, earliest_s, dry_run=dry_run))
    if out == "-" and (limit is not None or sys.stdout.isatty()):
        raise UsageError("`--out -` writes one bundle into a pipe; it can't be divided and a terminal can't take it")
    raise typer.Exit(
        _pack_runs(opened, runs, out, earliest_s, limit_bytes=limit, trust_pipe=trust_pipe, dry_run=dry_run)
    )


def _pack_runs(
    spool: Spool,
    runs: list[str] | None,
    out: str,
    earliest_s: float | None,
    *,
    limit_bytes: int | None,
    trust_pipe: bool,
    dry_run: bool,
) -> int:
    from wandb_spool.bundling import PARTLY, say, say_left
    from wandb_spool.output import complain
    from wandb_spool.spool.bundle_pack import divide, plan
    from wandb_spool.spool.words import count
    from wandb_spool.survey import Survey

    pipe = out == "-"
    target = Path(os.path.abspath(os.path.expanduser(out)))
    finished = 0 if pipe or dry_run else _finish_interrupted(spool, target)
    survey = Survey.of(spool)
    chosen, left = _choose(survey, runs, earliest_s)
    made = plan(spool, [found.entry for found in chosen])
    groups, too_large = divide(made.carried, limit_bytes)
    left += made.left + too_large
    if dry_run:
        return _say_plan(groups, left)
    for problem in survey.problems:
        complain(problem)
    if groups and not pipe and len(groups) == 1 and limit_bytes is None and os.path.lexists(target):
        complain(
            f"{target} is whole; {count(sum(len(group) for group in groups), 'fragment')} came since: choose another "
            "--out for them"
        )
        return PARTLY
    several = len(groups) > 1 or limit_bytes is not None
    packed_any = False
    for group in groups:
        if pipe:
            packed_any |= _write_pipe(spool, group, left, trust_pipe=trust_pipe)
        else:
            path = _free(target) if several else target
            packed_any |= _write(spool, group, path, left)
    if not packed_any and not finished and not left:
        say("nothing waits to be packed", to_stderr=pipe)
    return say_left(left) or (4 if survey.damaged else 0)


def _choose(survey: Survey, runs: list[str] | None, earliest_s: float | None) -> tuple[list[Found], list[Left]]:
    """What is to be packed. What a person named and can't be packed is told, everything else passes in silence."""
    from wandb_spool.lookup import find_runs
    from wandb_spool.output import complain
    from wandb_spool.spool.bundle_pack import PACKABLE, PACKABLE_BY_NAME, Left
    from wandb_spool.spool.states import State
    from wandb_spool.spool.words import count

    if runs:
        named = find_runs(survey, runs)
        left = [
            Left(found.entry.name, _REFUSALS.get(found.state, f"is {found.state}, it was left"))
            for found in named
            if found.state not in PACKABLE_BY_NAME
        ]
        found = [item for item in named if item.state in PACKABLE_BY_NAME]
    else:
        left, found = [], list(survey.read(PACKABLE))
        held = survey.counts()[State.HELD.value]
        if held:
            complain(f"{count(held, 'fragment')} held by a person: left where they are; name them to pack them")
    if earliest_s is not None:
        found = [item for item in found if _launched_s(item) >= earliest_s]
    return found, left


_REFUSALS = {
    "open": "is still open; `wandb-spool recover` seals it if its writer is gone",
    "transit": "is packed already; `wandb-spool release --transit` takes it back",
    "delivered": "is delivered already",
    "void": "holds nothing that could be delivered",
}


def _launched_s(found: Found) -> float:
    from wandb_spool.survey import age_s

    now_s = time.time()
    return now_s - age_s(found.entry.name, now_s)


def _write(spool: Spool, carried: list[Carried], path: Path, left: list[Left]) -> bool:
    from wandb_spool.bundling import progress
    from wandb_spool.output import emit
    from wandb_spool.spool.bundle_pack import write_bundle
    from wandb_spool.spool.words import count, size

    with progress(f"packing {path.name}") as bar:
        packed, differing = write_bundle(spool, carried, path, bar)
    left += differing
    if packed is None:
        return False
    fragments = count(len(packed.index.fragments), "fragment")
    emit(f"{path}: {fragments}, {size(packed.size_bytes)}, digest {packed.digest}")
    _mark(spool, packed, left)
    return True


def _write_pipe(spool: Spool, carried: list[Carried], left: list[Left], *, trust_pipe: bool) -> bool:
    from wandb_spool.bundling import progress, say
    from wandb_spool.spool.bundle_pack import write_pipe
    from wandb_spool.spool.errors import StorageError
    from wandb_spool.spool.words import count, size

    stream = os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)

    def sink(data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[stream.write(view) :]

    try:
        with progress("packing into the pipe") as bar:
            packed, differing = write_pipe(spool, carried, sink, bar)
        stream.close()
    except BrokenPipeError as error:
        raise StorageError("the other end of the pipe is gone; nothing was marked, pack again") from error
    except OSError as error:  # standard output may be a file on a full disk
        raise StorageError(f"can't write the bundle: {error.strerror}; nothing was marked, pack again") from error
    left += differing
    if packed is None:
        return False
    fragments = count(len(packed.index.fragments), "fragment")
    say(f"into the pipe: {fragments}, {size(packed.size_bytes)}, digest {packed.digest}", to_stderr=True)
    if trust_pipe:
        _mark(spool, packed, left, to_stderr=True)
    else:
        say(
            "the runs stay where they are until the bundle is known to be safe: read it back with "
            "`… | wandb-spool pack --sent -`",
            to_stderr=True,
        )
    return True


def _mark(spool: Spool, packed: Packed, left: list[Left], *, to_stderr: bool = False) -> None:
    from wandb_spool.bundling import say
    from wandb_spool.spool.bundle_pack import mark_packed
    from wandb_spool.spool.words import count

    moved = mark_packed(spool, packed, now_s=time.time())
    left += moved.left
    line = (
        f"{count(len(moved.names), 'entry', 'entries')} → transit: neither packed nor pushed again until a receipt "
        "comes back (`wandb-spool unpack`) or `wandb-spool release --transit`"
    )
    say(line, to_stderr=to_stderr)


def _free(target: Path) -> Path:
    """The first numbered name that is not taken."""
    from wandb_spool.spool.bundle_pack import numbered

    number = 1
    while os.path.lexists(numbered(target, number)):
        number += 1
    return numbered(target, number)


def _finish_interrupted(spool: Spool, target: Path) -> int:
    """Complete what a `pack` with the same name began: its bundles are whole, and some entries did not move."""
    from wandb_spool.output import emit
    from wandb_spool.spool.bundle_index import BundleError, Kind
    from wandb_spool.spool.bundle_pack import numbered, read_index_of, waiting_entries
    from wandb_spool.spool.errors import UsageError

    finished, number = 0, 1
    paths = [target]
    while os.path.lexists(numbered(target, number)):
        paths.append(numbered(target, number))
        number += 1
    for path in paths:
        if not os.path.lexists(path):
            continue
        try:
            index, _ = read_index_of(path)
        except BundleError as error:
            hint = "choose another --out"
            raise UsageError("the file is there already and no bundle", path=path, hint=hint) from error
        if index.spool_id != spool.spool_id or index.kind is not Kind.RUNS:
            raise UsageError("the file is there already and another bundle", path=path, hint="choose another --out")
        if waiting_entries(spool, index):
            emit(f"{path} was packed before, and its runs were not marked: it is checked, and they are")
            _sent(spool, str(path))
            finished += 1
    return finished


def _sent(spool: Spool, file: str) -> int:
    """Read a bundle back to its last byte, then move what it carries to *transit*."""
    from wandb_spool.bundling import progress, say_left
    from wandb_spool.spool.bundle_index import BundleError
    from wandb_spool.spool.bundle_pack import Packed, naming, open_bundle, verify_bundle

    path = None if file == "-" else Path(os.path.abspath(os.path.expanduser(file)))
    stream = sys.stdin.buffer if path is None else open_bundle(path)
    with stream, naming("standard input" if path is None else str(path)), progress("checking") as bar:
        index, digest = verify_bundle(stream, progress=bar)
        if index.spool_id != spool.spool_id:
            raise BundleError("it was packed in another spool")
    left: list[Left] = []
    _mark(spool, Packed(path, digest, index, index.size_bytes), left)
    return say_left(left)


def _say_plan(groups: list[list[Carried]], left: list[Left]) -> int:
    from wandb_spool.bundling import say_left
    from wandb_spool.output import emit
    from wandb_spool.spool.words import count, size

    for number, carried in enumerate(groups, 1):
        total = sum(member.size_bytes for item in carried for member in item.members)
        emit(f"bundle {number}: {count(len(carried), 'fragment')}, {size(total)}")
        for item in carried:
            for entry in item.entries:
                emit(f"  {entry.name}  {size(sum(member.size_bytes for member in item.members))}")
    if not groups:
        emit("nothing waits to be packed")
    return say_left(left)


def _pack_receipts(spool: Spool, runs: list[str] | None, out: str, earliest_s: float | None, *, dry_run: bool) -> int:
    from wandb_spool.lookup import find_runs
    from wandb_spool.output import emit
    from wandb_spool.spool import clock
    from wandb_spool.spool.bundle_receipts import carried_here, pack_receipts
    from wandb_spool.spool.errors import UsageError
    from wandb_spool.spool.states import State
    from wandb_spool.spool.words import count
    from wandb_spool.survey import Survey

    if out == "-":
        raise UsageError("receipts are small; pack them into a file")
    survey = Survey.of(spool)
    found = find_runs(survey, runs) if runs else list(survey.read([State.DELIVERED]))
    entries = [
        item.entry
        for item in found
        if item.state is State.DELIVERED
        and item.entry.receipt is not None
        and carried_here(item.entry, spool)
        and (earliest_s is None or (clock.seconds(item.entry.receipt.get("at")) or 0.0) >= earliest_s)
    ]
    if not entries:
        emit("no run that came by a bundle has a receipt yet: `wandb-spool status`, `wandb-spool sync`")
        return 0
    if dry_run:
        for entry in entries:
            emit(entry.name)
        return 0
    packed = pack_receipts(spool, entries, Path(os.path.abspath(os.path.expanduser(out))))
    emit(f"{packed.path}: {count(len(entries), 'receipt')}, digest {packed.digest}")
    emit("carry it back and `wandb-spool unpack` it where the runs were packed")
    return 0
