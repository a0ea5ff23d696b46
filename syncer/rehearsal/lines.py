"""The files of W&B's file_stream protocol: lines that are written by line number and outlive the process.

`LineFile.put(offset, lines)` replaces the lines from `offset` on; it never appends where it was not told to. On disk
a file is a sequence of chunks, each one a JSON header (offset, time, sizes) and the bytes of its lines, appended by
one write: once `put` has returned, the death of the process loses nothing. A torn chunk at the end (the process died
within `put`, so nobody was told that it is stored) is cut away when the file is opened. In memory a line costs its
position, its length and its time of arrival, never its text.

`History` adds what `wandb-history.jsonl` needs: the `_step` of every line, reading by step, and the names of the
metrics. A line without an integer `_step` counts under its line number.
"""

from __future__ import annotations

import bisect
import json
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from wandb_spool.syncer.rehearsal.behaviour import DuplicateSteps
from wandb_spool.syncer.rehearsal.rows import kind, parse_row, row_digest, row_step

HOLE = -1  # the length of a line that was skipped by an offset beyond the end


class LineFile:
    """Lines by number; `replaced` counts lines written again with the same content and with another."""

    def __init__(self, path: Path, *, fsync: bool = False) -> None:
        self.path = path
        self.fsync = fsync
        self.received = 0  # lines that arrived, resent ones included
        self.rewritten = 0  # ... of them: with the content that was there already
        self.overwritten = 0  # ... of them: in the place of other content
        self._positions = array("q")
        self._lengths = array("q")
        self._arrivals = array("d")
        self._size_bytes = 0
        if path.exists():
            self._load()

    def __len__(self) -> int:
        return len(self._lengths)

    def put(self, offset: int, lines: Sequence[str], *, now: float, cut_tail: bool = False) -> None:
        """Write `lines` at line number `offset`; durable when it returns."""
        payloads = [line.encode("utf-8", "surrogatepass") for line in lines]
        header = {"offset": offset, "time": now, "cut": cut_tail, "sizes": [len(p) for p in payloads]}
        head = json.dumps(header, separators=(",", ":")).encode() + b"\n"
        self._append(head + b"\n".join(payloads) + b"\n")
        self._place(offset, payloads, self._size_bytes + len(head), now, cut_tail)
        self._size_bytes += len(head) + sum(map(len, payloads)) + max(len(payloads), 1)

    def read(self, numbers: Iterable[int]) -> Iterator[bytes]:
        """The bytes of these lines; holes are left out."""
        if not self.path.exists():
            return
        with self.path.open("rb", buffering=0) as file:
            for number in numbers:
                if self._lengths[number] != HOLE:
                    yield os.pread(file.fileno(), self._lengths[number], self._positions[number])

    def numbers(self, *, before: float | None = None) -> list[int]:
        """The numbers of the lines that are there (and arrived no later than `before`)."""
        if before is None:
            return [n for n, length in enumerate(self._lengths) if length != HOLE]
        return [n for n in self.numbers() if self._arrivals[n] <= before]

    def tail(self, count: int) -> list[str]:
        return [line.decode("utf-8", "replace") for line in self.read(self.numbers()[-count:])]

    def count(self, *, before: float | None = None) -> int:
        """How many lines the file has, holes included; with `before`, how many of them arrived by then."""
        return len(self) if before is None else len(self.numbers(before=before))

    def forget(self, keep: int, *, now: float) -> None:
        """Lose the lines behind the first `keep` (at least one); durable when it returns."""
        if len(self) > keep > 0:
            self.put(keep - 1, self.tail_of(keep - 1), now=now, cut_tail=True)

    def tail_of(self, number: int) -> list[str]:
        """The one line at this number."""
        return [line.decode("utf-8", "replace") for line in self.read([number])]

    def _append(self, blob: bytes) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab", buffering=0) as file:
            written = file.write(blob) or 0
            if written != len(blob):
                file.truncate(self._size_bytes)
                raise OSError(f"short write to {self.path}")
            if self.fsync:
                os.fsync(file.fileno())

    def _place(self, offset: int, payloads: Sequence[bytes], start: int, now: float, cut_tail: bool) -> None:
        self._fill_holes(offset)
        position = start
        for number, payload in enumerate(payloads, start=offset):
            if number < len(self):
                self._replace(number, payload)
                self._positions[number], self._lengths[number] = position, len(payload)
                self._arrivals[number] = now
            else:
                self._positions.append(position)
                self._lengths.append(len(payload))
                self._arrivals.append(now)
            self._placed(number, payload)
            position += len(payload) + 1
        self.received += len(payloads)
        if cut_tail and payloads:
            self._cut(offset + len(payloads))

    def _fill_holes(self, until: int) -> None:
        while len(self) < until:
            self._positions.append(0)
            self._lengths.append(HOLE)
            self._arrivals.append(0.0)
            self._placed(len(self) - 1, None)

    def _cut(self, length: int) -> None:
        del self._positions[length:], self._lengths[length:], self._arrivals[length:]

    def _replace(self, number: int, payload: bytes) -> None:
        old = next(self.read([number]), None)
        if old is None:
            return
        if old == payload or self._equal(number, old, payload):
            self.rewritten += 1
        else:
            self.overwritten += 1
            self._overwritten(number, old, payload)

    def _equal(self, number: int, old: bytes, new: bytes) -> bool:
        """Whether lines of different bytes say the same."""
        return False

    def _overwritten(self, number: int, old: bytes, new: bytes) -> None:
        """A line lost its place to another one."""

    def _placed(self, number: int, payload: bytes | None) -> None:
        """A line (None: a hole) now stands at `number`."""

    def _load(self) -> None:
        with self.path.open("rb") as file:
            total = os.fstat(file.fileno()).st_size
            while head := file.readline():
                chunk = _header(head)
                if chunk is None:
                    break
                sizes = chunk["sizes"]
                body_bytes = sum(sizes) + max(len(sizes), 1)
                if self._size_bytes + len(head) + body_bytes > total:
                    break
                body = file.read(body_bytes)
                start = self._size_bytes + len(head)
                self._place(chunk["offset"], _split(body, sizes), start, chunk["time"], chunk["cut"])
                self._size_bytes = start + body_bytes
        if self._size_bytes != total:
            os.truncate(self.path, self._size_bytes)


class History(LineFile):
    """`wandb-history.jsonl`: lines that can be read by step."""

    def __init__(self, path: Path, *, fsync: bool = False) -> None:
        self.steps = array("q")
        self.keys: dict[str, str] = {}
        self.moved_in_place: list[tuple[int, int]] = []  # a row took its own place, on another step
        self._ascending = True
        self._order: tuple[list[int], list[int]] | None = None  # line numbers by step, and their steps
        super().__init__(path, fsync=fsync)

    def last_step(self, *, before: float | None = None) -> int | None:
        if not len(self):
            return None
        if before is None and self._ascending:
            return self.steps[-1]
        return max((self.steps[n] for n in self.numbers(before=before)), default=None)

    def select(
        self,
        min_step: int | None,
        max_step: int | None,
        duplicates: DuplicateSteps,
        *,
        before: float | None = None,
    ) -> list[int]:
        """Line numbers, by step, with min_step <= step < max_step, as a reader of the history sees them."""
        order, steps = self._by_step()
        low = 0 if min_step is None else bisect.bisect_left(steps, min_step)
        high = len(steps) if max_step is None else bisect.bisect_left(steps, max_step)
        chosen = [order[i] for i in range(low, high)]
        if before is not None:
            chosen = [n for n in chosen if self._arrivals[n] <= before]
        return chosen if self._ascending else self._without_duplicates(chosen, duplicates)

    def _without_duplicates(self, numbers: list[int], duplicates: DuplicateSteps) -> list[int]:
        if duplicates is DuplicateSteps.KEEP:
            return numbers
        seen: dict[int, int] = {}
        for number in numbers:
            if duplicates is DuplicateSteps.REPLACE:
                seen[self.steps[number]] = number
            else:
                seen.setdefault(self.steps[number], number)
        return list(seen.values())

    def _by_step(self) -> tuple[Sequence[int], Sequence[int]]:
        if self._ascending:
            return range(len(self)), self.steps
        if self._order is None:
            order = sorted(self.numbers(), key=lambda n: (self.steps[n], n))
            self._order = order, [self.steps[n] for n in order]
        return self._order

    def _equal(self, number: int, old: bytes, new: bytes) -> bool:
        """The client writes the keys of a row in another order each time."""
        before, after = parse_row(old), parse_row(new)
        same_step = row_step(before, number) == row_step(after, number)
        return same_step and row_digest(before) == row_digest(after)

    def _overwritten(self, number: int, old: bytes, new: bytes) -> None:
        before, after = parse_row(old), parse_row(new)
        steps = row_step(before, number), row_step(after, number)
        if steps[0] != steps[1] and row_digest(before) == row_digest(after):
            self.moved_in_place.append(steps)

    def _cut(self, length: int) -> None:
        super()._cut(length)
        del self.steps[length:]
        self._order = None

    def _placed(self, number: int, payload: bytes | None) -> None:
        row = {} if payload is None else parse_row(payload)
        step = row_step(row, number)
        self._order = None
        if number == len(self.steps):
            self._ascending &= payload is not None and (number == 0 or step > self.steps[-1])
            self.steps.append(step)
        elif self.steps[number] != step:
            self._ascending = False
            self.steps[number] = step
        if not self.keys.keys() >= row.keys():
            for key, value in row.items():
                self.keys.setdefault(key, kind(value))


def _header(line: bytes) -> dict[str, Any] | None:
    try:
        header = json.loads(line)
    except ValueError:
        return None
    return header if isinstance(header, dict) and "sizes" in header else None


def _split(body: bytes, sizes: Sequence[int]) -> list[bytes]:
    lines, position = [], 0
    for size in sizes:
        lines.append(body[position : position + size])
        position += size + 1
    return lines
