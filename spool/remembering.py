"""A spool that remembers the entries that it read, for a process that looks at the same ones again and again.

A pure cache: an entry is read anew whenever its file is another one (every write makes a new file: inode, size and time
of change). What is no longer looked at is forgotten by `forget_unseen`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from .entry import Entry
from .queue import Place, Spool

_Mark = tuple[int, int, int]


@dataclass(frozen=True)
class RememberingSpool(Spool):
    """A spool with a memory."""

    _memory: dict[str, tuple[_Mark, Entry]] = field(default_factory=dict, compare=False, repr=False)
    _seen: set[str] = field(default_factory=set, compare=False, repr=False)

    @classmethod
    def over(cls, spool: Spool) -> RememberingSpool:
        return cls(spool.paths, spool.spool_id, spool.group)

    def read(self, place: Place) -> Entry:
        status = os.stat(place.location)
        mark = (status.st_ino, status.st_size, status.st_mtime_ns)
        self._seen.add(place.location)
        known = self._memory.get(place.location)
        if known is not None and known[0] == mark:
            return known[1]
        entry = super().read(place)
        self._memory[place.location] = (mark, entry)
        return entry

    def forget_unseen(self) -> None:
        """Forget what was not read since the last call."""
        for location in self._memory.keys() - self._seen:
            del self._memory[location]
        self._seen.clear()
