"""Whether a push still gets anywhere: bytes that its processes read from disk and exchanged with the server.

`wandb sync` and its core talk to each other several times a second for ever, and keep the server's connections alive,
also when nothing moves: measured up to 40 kB/s of writes, 0.4 kB/s of reads and some hundred bytes a second of
heartbeats. So writes are not counted, TCP is asked what the peer really acknowledged, and less than `SLOWEST` is no
progress. Never fails: what can't be measured counts nothing, and then only reads do.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

import psutil

SLOWEST_BYTES_PER_S = 4096.0
"""A push that moves less on average over its whole allowance is a hang (32 kbit/s)."""

_SOCK_DIAG_BY_FAMILY = 20
_REQUEST = struct.Struct("=IHHII" + "BBBBI" + "HH16s16sIII")
_INFO = 2  # INET_DIAG_INFO
_ESTABLISHED = 1 << 1
_BYTES_ACKED, _BYTES_RECEIVED = 120, 128  # offsets in struct tcp_info
_DONE, _ERROR = 3, 2


class Progress:
    """Tells, whenever it is asked, how long a process tree has not moved enough."""

    def __init__(self, pid: int, allowance_s: float, now_s: float) -> None:
        self._pid = pid
        self._wanted_bytes = SLOWEST_BYTES_PER_S * allowance_s
        self._seen: dict[tuple[str, int], int] = {}
        self._total = self._mark = 0
        self._mark_s = now_s
        self.sent_bytes = 0
        """What servers acknowledged so far; what went over connections that began and ended between two looks is not
        seen."""

    def still_s(self, now_s: float) -> float:
        """Seconds since the last progress."""
        for key, count in _counters(self._pid):
            moved = max(0, count - self._seen.get(key, 0))
            self._seen[key] = count
            self._total += moved
            self.sent_bytes += moved if key[0] == "sent" else 0
        if self._total - self._mark >= self._wanted_bytes:
            self._mark, self._mark_s = self._total, now_s
        return now_s - self._mark_s


def tree(pid: int) -> list[psutil.Process]:
    """A process and its descendants; empty when it is gone."""
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.Error:
        return []


def _counters(pid: int) -> Iterator[tuple[tuple[str, int], int]]:
    """Counters that only grow: bytes read by each process, bytes sent and received on each TCP connection."""
    inodes: set[int] = set()
    for process in tree(pid):
        try:
            yield ("process", process.pid), process.io_counters().read_chars
        except (psutil.Error, OSError):
            continue
        inodes.update(_sockets(process.pid))
    if inodes:
        yield from _connections(inodes)


def _sockets(pid: int) -> Iterator[int]:
    try:
        names = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return
    for name in names:
        try:
            link = os.readlink(Path("/proc", str(pid), "fd", name))
        except OSError:
            continue
        if link.startswith("socket:["):
            yield int(link[8:-1])


def _connections(inodes: Iterable[int]) -> Iterator[tuple[tuple[str, int], int]]:
    """What the kernel says of our TCP connections (sock_diag); nothing where it does not answer."""
    wanted = frozenset(inodes)
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4) as asked:  # NETLINK_SOCK_DIAG
                asked.settimeout(1.0)
                asked.send(_question(family))
                yield from _answers(asked, wanted)
        except OSError:
            return


def _question(family: int) -> bytes:
    length = _REQUEST.size
    dump = 0x301  # NLM_F_REQUEST | NLM_F_DUMP
    head = (length, _SOCK_DIAG_BY_FAMILY, dump, 1, 0)
    body = (family, socket.IPPROTO_TCP, 1 << (_INFO - 1), 0, _ESTABLISHED)
    return _REQUEST.pack(*head, *body, 0, 0, b"", b"", 0, 0xFFFFFFFF, 0xFFFFFFFF)


def _answers(asked: socket.socket, wanted: frozenset[int]) -> Iterator[tuple[tuple[str, int], int]]:
    while True:
        data = asked.recv(1 << 17)
        position = 0
        while position + 16 <= len(data):
            length, kind = struct.unpack_from("=IH", data, position)
            if kind in (_DONE, _ERROR) or length < 16:
                return
            found = _connection(data[position + 16 : position + length])
            if found is not None and found[0] in wanted:
                yield ("sent", found[0]), found[1]
                yield ("received", found[0]), found[2]
            position += (length + 3) & ~3
        if not data:
            return


def _connection(message: bytes) -> tuple[int, int, int] | None:
    """Inode, bytes sent and acknowledged, bytes received of one `inet_diag_msg` with its attributes."""
    if len(message) < 72:
        return None
    inode = struct.unpack_from("=I", message, 68)[0]
    position = 72
    while position + 4 <= len(message):
        length, kind = struct.unpack_from("=HH", message, position)
        if length < 4:
            return None
        if kind == _INFO and length >= 4 + _BYTES_RECEIVED + 8:
            acked, received = struct.unpack_from("=QQ", message, position + 4 + _BYTES_ACKED)
            return inode, acked, received
        position += (length + 3) & ~3
    return None
