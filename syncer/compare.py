"""Compare what fragments hold with what a server holds, row by row.

Pure and streaming: memory is one page of rows, whatever the size of a run. The rules, in one place:

* The restarted trajectory is the true one: the rows of a fragment at or above the first step of a later fragment of
  its run are *superseded* ...
* ... unless the server has them already: what the server holds at a step is never sent again, and then the later
  fragment's row at that step is the one that is superseded. Steps never move.
* A server row whose value is no fragment's value at that step is a *conflict*: it can't be mended by sending.
* A server row at a step of no fragment is *foreign* (an older upload, another writer): told, never touched.

A row is (step, value digest); see `spool.log.canonical` for the digest. A server whose JSON holds no NaN shows null in
its place: such a row has another digest and is the same row, *altered*.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

PAGE_ROWS = 2000
LISTED = 20

StepDigest = tuple[int, bytes]
"""A row of a server."""
LoggedRow = tuple[int, tuple[bytes, ...]]
"""A row of a fragment: its step and its digest, and behind that one under which a server may show it as well."""
Fetch = Callable[[int, int, int], "list[StepDigest]"]
"""(first step, end step, limit) → the server's rows with first <= step < end, at most `limit` of them."""


@dataclass
class FragmentRows:
    """How the rows of one fragment stand. Ranges are of steps; between two steps of one range nothing else lies."""

    total: int = 0
    present: int = 0
    superseded: int = 0
    missing: int = 0
    missing_steps: Steps = field(default_factory=lambda: Steps())
    """What has to be sent."""
    present_steps: Steps = field(default_factory=lambda: Steps())
    """What the server holds of this fragment."""
    conflicting: int = 0
    altered: int = 0
    """Of those that are present: shown with null where NaN or an infinity was logged."""

    @property
    def complete(self) -> bool:
        """Whether every row that this fragment owes is on the server, with its value, on its step."""
        return self.missing == 0 and self.conflicting == 0


@dataclass
class Comparison:
    """How a run stands between its fragments and a server."""

    fragments: list[FragmentRows]
    server_rows: int = 0
    doubled: int = 0
    foreign: int = 0
    unknown: int = 0
    """Rows of the server whose values are in no fragment here: foreign, in conflict, or of a fragment pruned here."""
    conflicts: list[int] = field(default_factory=list)
    """The first steps in conflict."""
    missing: list[int] = field(default_factory=list)
    """The first steps that the server lacks."""


class Steps:
    """A growing set of steps, kept as ranges over what was offered: consecutive members cost one range."""

    def __init__(self) -> None:
        self._ranges: list[list[int]] = []
        self._open = False

    def offer(self, step: int, member: bool) -> None:
        """The next step, in ascending order, and whether it is a member."""
        if not member:
            self._open = False
        elif self._open:
            self._ranges[-1][1] = step
        else:
            self._ranges.append([step, step])
            self._open = True

    def __contains__(self, step: object) -> bool:
        if not isinstance(step, int):
            return False
        low, high = 0, len(self._ranges)
        while low < high:
            middle = (low + high) // 2
            if self._ranges[middle][1] < step:
                low = middle + 1
            else:
                high = middle
        return low < len(self._ranges) and self._ranges[low][0] <= step

    def __bool__(self) -> bool:
        return bool(self._ranges)

    def ranges(self) -> list[tuple[int, int]]:
        """First and last step of each range, both included."""
        return [(first, last) for first, last in self._ranges]


def cuts(first_steps: Sequence[int | None]) -> list[int | None]:
    """For each fragment, in the order of the run, the step from which on later fragments supersede it."""
    result: list[int | None] = [None] * len(first_steps)
    lowest: int | None = None
    for index in range(len(first_steps) - 1, -1, -1):
        result[index] = lowest
        first = first_steps[index]
        if first is not None and (lowest is None or first < lowest):
            lowest = first
    return result


def compare(
    fragments: Sequence[Iterable[LoggedRow]],
    cut_from: Sequence[int | None],
    fetch: Fetch | None,
    *,
    gone: Sequence[tuple[int, int]] = (),
    page_rows: int = PAGE_ROWS,
) -> Comparison:
    """Compare the fragments of one run, in their order, with the server.

    `fetch` is None when the server has no such run. The rows of each fragment come in ascending order of steps. `gone`
    are the step ranges (both ends included) of delivered fragments that were pruned here: what the server holds there
    is theirs.
    """
    comparison = Comparison([FragmentRows() for _ in fragments])
    merged = heapq.merge(*(_tagged(rows, index) for index, rows in enumerate(fragments)))
    begin = 0
    for page, end in _pages(merged, page_rows):
        server = _server_page(fetch, begin, end, page, page_rows, comparison)
        for step, candidates in page.items():
            held = server.pop(step, ())
            theirs = bool(held) and _within(step, gone)
            _judge(step, candidates, held, theirs, cut_from, comparison)
        for step, held in server.items():
            comparison.unknown += len(held)
            comparison.foreign += 0 if _within(step, gone) else len(held)
        begin = end
    return comparison


def _within(step: int, ranges: Sequence[tuple[int, int]]) -> bool:
    return any(first <= step <= last for first, last in ranges)


_END = 1 << 62


def _tagged(rows: Iterable[LoggedRow], index: int) -> Iterator[tuple[int, int, tuple[bytes, ...]]]:
    for step, digests in rows:
        yield step, index, digests


_Page = dict[int, dict[int, tuple[bytes, ...]]]  # step → fragment index → digests


def _pages(merged: Iterator[tuple[int, int, tuple[bytes, ...]]], page_rows: int) -> Iterator[tuple[_Page, int]]:
    """Pages of steps and the step before which each ends; the last one ends at the end of time, and always comes."""
    page: _Page = {}
    for step, index, digests in merged:
        if len(page) >= page_rows and step not in page:
            yield page, step
            page = {}
        page.setdefault(step, {})[index] = digests
    yield page, _END


def _server_page(
    fetch: Fetch | None, begin: int, end: int, page: _Page, page_rows: int, comparison: Comparison
) -> dict[int, tuple[bytes, ...]]:
    if fetch is None:
        return {}
    rows = _fetch_all(fetch, begin, end, page, page_rows)
    found: dict[int, tuple[bytes, ...]] = {}
    for step, digest in rows:
        if step in found:
            comparison.doubled += 1
        found[step] = (*found.get(step, ()), digest)
    comparison.server_rows += len(rows)
    return found


def _fetch_all(fetch: Fetch, begin: int, end: int, page: _Page, page_rows: int) -> list[StepDigest]:
    """The server's rows of a page. A page that comes back full may be a sample of more: it is asked for in halves,
    by the steps that are expected."""
    limit = 2 * page_rows + 1000
    rows = fetch(begin, end, limit)
    if len(rows) < limit:
        return rows
    expected = sorted(step for step in page if begin <= step < end)
    if len(expected) < 2:
        last = max((step for step, _ in rows), default=begin)
        return rows if last + 1 >= end or last < begin else rows + _fetch_rest(fetch, last + 1, end, limit)
    middle = expected[len(expected) // 2]
    lower = {step: page[step] for step in expected if step < middle}
    upper = {step: page[step] for step in expected if step >= middle}
    return _fetch_all(fetch, begin, middle, lower, page_rows) + _fetch_all(fetch, middle, end, upper, page_rows)


def _fetch_rest(fetch: Fetch, begin: int, end: int, limit: int) -> list[StepDigest]:
    """Rows that no fragment expects, in bites; a bound keeps a server that never ends from holding us for ever."""
    rows: list[StepDigest] = []
    for _ in range(1000):
        bite = fetch(begin, end, limit)
        rows += bite
        if len(bite) < limit:
            return rows
        begin = max(step for step, _ in bite) + 1
    return rows


def _judge(
    step: int,
    candidates: Mapping[int, tuple[bytes, ...]],
    on_server: tuple[bytes, ...],
    theirs: bool,
    cut_from: Sequence[int | None],
    comparison: Comparison,
) -> None:
    wanted = _wanted(step, candidates, cut_from)
    winner = _winner(candidates, on_server, wanted)
    for index, digests in candidates.items():
        rows = comparison.fragments[index]
        rows.total += 1
        rows.present_steps.offer(step, index == winner)
        owed = index == wanted and winner is None and not theirs
        rows.missing_steps.offer(step, owed and not on_server)
        if index == winner:
            rows.present += 1
            rows.altered += digests[0] not in on_server
        elif not owed:
            rows.superseded += 1
        elif on_server:
            rows.conflicting += 1
            _list(comparison.conflicts, step)
        else:
            rows.missing += 1
            _list(comparison.missing, step)
    if winner is None:
        comparison.unknown += len(on_server)
    if wanted is None and winner is None and not theirs:
        comparison.foreign += len(on_server)


def _list(steps: list[int], step: int) -> None:
    if len(steps) < LISTED:
        steps.append(step)


def _wanted(step: int, candidates: Iterable[int], cut_from: Sequence[int | None]) -> int | None:
    """The fragment whose row should stand at this step: the last one that is not cut there."""
    for index in sorted(candidates, reverse=True):
        cut = cut_from[index]
        if cut is None or step < cut:
            return index
    return None


def _winner(
    candidates: Mapping[int, tuple[bytes, ...]], on_server: tuple[bytes, ...], wanted: int | None
) -> int | None:
    """The fragment whose row the server holds at this step; if several have that value, the wanted one."""
    matching = [index for index, digests in candidates.items() if any(digest in on_server for digest in digests)]
    if not matching:
        return None
    return wanted if wanted in matching else max(matching)
