"""Saved files."""

from __future__ import annotations

from .session import Session


def settle(session: Session) -> None:
    pass
