"""`wandb-spool unpack`: take over what a bundle carries, or the receipts that come home."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from wandb_spool.parameters import SpoolOption

if TYPE_CHECKING:
    from wandb_spool.spool.bundle_unpack import Unpacked
    from wandb_spool.spool.queue import Spool


def command(
    files: Annotated[list[str], typer.Argument(metavar="FILE…", help="Bundles, in any order; `-` is a pipe.")],
    spool: SpoolOption = None,
    digest: Annotated[
        str | None,
        typer.Option("--digest", metavar="HEX", help="The digest that `pack` printed, brought by another way."),
    ] = None,
) -> None:
    """Verify bundles and take them over. Nothing is visible before every byte was checked; twice is once."""
    from wandb_spool.bundling import say_left
    from wandb_spool.locate import locate
    from wandb_spool.output import complain
    from wandb_spool.spool.bundle_unpack import take_back
    from wandb_spool.spool.errors import SpoolError, UsageError
    from wandb_spool.spool.queue import Spool

    if digest is not None and (len(files) != 1 or len(digest) < 8):
        raise UsageError("--digest is for one bundle, and at least 8 of its digits")
    located = locate(spool, os.environ)
    root_existed, existed = located.root.exists(), (located.root / "spool.json").exists()
    code = 0
    results: list[Unpacked] = []
    streams = [(name, _open(name)) for name in files]  # a name that is wrong is told before anything happens
    opened = Spool.create(located.root)
    for name, stream in streams:
        try:
            with stream:
                results.append(_unpack(opened, name, stream, digest))
        except SpoolError as error:
            complain(str(error))
            code = max(code, error.exit_code)
    for result in results:
        code = max(code, _say(opened, result), say_left(result.left))
    if not results and not existed:
        take_back(opened, with_root=not root_existed)  # a refused bundle leaves no trace, not even an empty spool
    raise typer.Exit(code)


def _open(name: str) -> BinaryIO:
    from wandb_spool.spool.bundle_pack import open_bundle

    return sys.stdin.buffer if name == "-" else open_bundle(Path(os.path.expanduser(name)))


def _unpack(spool: Spool, name: str, stream: BinaryIO, digest: str | None) -> Unpacked:
    from wandb_spool.bundling import progress
    from wandb_spool.spool.bundle_pack import naming
    from wandb_spool.spool.bundle_unpack import unpack

    short = "a pipe" if name == "-" else Path(name).name
    with naming(name), progress(f"unpacking {short}") as bar:
        return unpack(spool, stream, name=short, now_s=time.time(), digest=digest, progress=bar)


def _say(spool: Spool, result: Unpacked) -> int:
    """What arrived, and the one next command."""
    from wandb_spool.output import emit
    from wandb_spool.spool.words import count

    if result.receipts is not None:
        return _say_receipts(result)
    for entry in result.arrived:
        emit(f"{entry.name}: {count(entry.rows or 0, 'row')} → incoming")
    for name in result.edited:
        emit(f"{name}: edited as where it was packed")
    for name, state in result.here:
        emit(f"{name}: here already ({state})")
    arrived = count(len(result.arrived), "fragment")
    emit(
        f"{arrived} arrived in {spool.root}, digest {result.digest}"
        + ("; `wandb-spool sync`" if result.arrived else "")
    )
    return 0


def _say_receipts(result: Unpacked) -> int:
    from wandb_spool.bundling import say_left
    from wandb_spool.output import emit
    from wandb_spool.spool.words import count

    receipts = result.receipts
    assert receipts is not None
    for name in receipts.delivered:
        emit(f"{name}: delivered")
    known = f", {len(receipts.known)} were known" if receipts.known else ""
    foreign = f", {receipts.foreign} of other spools" if receipts.foreign else ""
    emit(
        f"{count(len(receipts.delivered), 'fragment')} delivered by receipts that were carried home"
        f"{known}{foreign}; `wandb-spool prune` frees their room"
    )
    return say_left(receipts.left)
