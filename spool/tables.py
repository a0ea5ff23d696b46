"""Tables of an export: rows are collected into batches; a large table is decoded and written by a process of its own.

To read a log costs about as much as to decode and write what is in it, so a second processor halves the time of a large
export. A table that fits into one batch, and a machine with one processor, need no second process.

Fails with `OSError`, wherever the table is written.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from .columns import Batch, ColumnKind, JsonLines, Parquet, Rows
from .run_reader import Keys

# The other interpreter imports what this one would, wherever it was started.
_PROGRAM = "import sys; sys.path[:] = sys.argv[1:]; from wandb_spool.spool.tables import serve; serve()"


class Table:
    """A file of rows with some leading columns: `add` rows, then `close`; in a `with`, so that nothing runs on."""

    def __init__(self, kind: type[Parquet] | type[JsonLines], path: Path, leading: Mapping[str, ColumnKind]) -> None:
        self._made_of = (kind, path, dict(leading))
        self._sink: _Sink | None = None
        self._rows = Rows()
        self.rows = 0

    def __enter__(self) -> Table:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._sink is not None:
            self._sink.abandon()

    def add(self, leading: tuple[Any, ...], texts: Mapping[bytes, bytes], size_bytes: int) -> None:
        self._rows.add(leading, texts, size_bytes)
        self.rows += 1
        if self._rows.full:
            if self._sink is None:
                self._sink = (_Beside if _processors() > 1 else _Here)(*self._made_of)
            self._flush(self._sink)

    def close(self) -> None:
        self._sink = self._sink or _Here(*self._made_of)
        self._flush(self._sink)
        self._sink.close()

    def _flush(self, sink: _Sink) -> None:
        if self._rows:
            sink.write(self._rows.batch())
        self._rows = Rows()


class _Sink(Protocol):
    """Where batches go."""

    def write(self, batch: Batch) -> None: ...

    def close(self) -> None: ...

    def abandon(self) -> None: ...


class _Here:
    """Decodes and writes in this process."""

    def __init__(self, kind: type[Parquet] | type[JsonLines], path: Path, leading: Mapping[str, ColumnKind]) -> None:
        self._writer = kind(path, leading)
        self._keys = Keys()

    def write(self, batch: Batch) -> None:
        self._writer.write(batch.leading, batch.columns(self._keys), batch.count)

    def close(self) -> None:
        self._writer.close()

    def abandon(self) -> None:
        """Nothing runs on."""


class _Beside:
    """Decodes and writes in a process of its own, which ends with this one."""

    def __init__(self, kind: type[Parquet] | type[JsonLines], path: Path, leading: Mapping[str, ColumnKind]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, *sys.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # an interruption is this process's to handle
        )
        self._send((kind, path, leading))

    def write(self, batch: Batch) -> None:
        self._send(batch)

    def close(self) -> None:
        self._send(None)
        self._hear()

    def abandon(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except BrokenPipeError:
                pass  # what it had not read yet

    def _send(self, message: object) -> None:
        assert self._process.stdin is not None
        try:
            pickle.dump(message, self._process.stdin, pickle.HIGHEST_PROTOCOL)
            self._process.stdin.flush()
        except BrokenPipeError:
            self._hear()

    def _hear(self) -> None:
        """Wait for its last word; raise what went wrong there."""
        assert self._process.stdout is not None
        try:
            error = pickle.load(self._process.stdout)
        except EOFError:
            raise OSError(f"the process that wrote the table ended with code {self._process.wait()}") from None
        if error is not None:
            raise error


def serve() -> None:
    """The other end of `_Beside`: batches on standard input, None or what went wrong on standard output."""
    said: BaseException | None = None
    try:
        sink = _Here(*pickle.load(sys.stdin.buffer))
        while (batch := pickle.load(sys.stdin.buffer)) is not None:
            sink.write(batch)
        sink.close()
    except EOFError:
        return  # whoever wanted the table is gone
    except OSError as error:
        said = error
    sys.stdout.buffer.write(pickle.dumps(said))
    sys.stdout.flush()


def _processors() -> int:
    return len(os.sched_getaffinity(0))
