"""Addresses of servers. Pure."""

from __future__ import annotations

from urllib.parse import urlsplit


def same_server(one: str, other: str) -> bool:
    """Whether two addresses name the same server."""
    return one.rstrip("/").lower() == other.rstrip("/").lower()


def is_loopback(base_url: str) -> bool:
    """Whether a server is on this machine: a rehearsal, whose receipts never permit `prune` by themselves."""
    host = urlsplit(base_url).hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")
