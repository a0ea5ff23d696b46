"""Sealed fragments and a syncer, as the tests of delivery have them."""

from __future__ import annotations

from delivery.conftest import fragments, home, spool, syncing, templates

__all__ = ["fragments", "home", "spool", "syncing", "templates"]
