"""Stand between wandb and its core: every row, every record and every request passes here.

Rows are counted at ``_publish_partial_history``, where ``log``, the hooks of ``watch`` and the integrations all end,
after wandb has encoded the values: what fails earlier was never a row.
"""

from __future__ import annotations

import os
from typing import Any

from . import deferral, shared
from .anatomy import part
from .revive import Reviver
from .session import COMMIT, Session

ATTRIBUTE = "_wandb_spool_session"  # on the interface object: the session that it writes for


class NotLogging(Exception):
    """Nothing can be sent now; the notice was given where it broke."""


def install(reviver: Reviver) -> None:
    shared = part("interface.interface_shared").InterfaceShared
    socket = part("interface.interface_sock").InterfaceSock
    _count_rows(shared, reviver)
    _send_records(socket, reviver)
    _send_requests(socket, reviver)


def bind(interface: Any, session: Session) -> None:
    setattr(interface, ATTRIBUTE, session)


def _session(interface: Any) -> Any:
    """None for what is not ours; a forked child holds its parent's interface, but not its connection."""
    session = getattr(interface, ATTRIBUTE, None)
    return session if session is not None and session.pid == os.getpid() else None


def _count_rows(owner: Any, reviver: Reviver) -> None:
    original = owner._publish_partial_history

    def _publish_partial_history(self: Any, history: Any, mark: Any = None) -> Any:
        session = _session(self)
        if session is None:
            shared.row_of(self)
        if session is None or mark is COMMIT:
            return original(self, history)
        # Threads that log at once must be counted in the order in which they are sent.
        deferral.enter()
        try:
            with session.lock:
                session.row(history)
                original(self, history)
                session.correct_summary()
        finally:
            deferral.leave()
        return None

    owner._publish_partial_history = _publish_partial_history


def _send_records(owner: Any, reviver: Reviver) -> None:
    original = owner._publish

    def _publish(self: Any, record: Any, *args: Any, **kwargs: Any) -> Any:
        session = _session(self)
        if session is None:
            return original(self, record, *args, **kwargs)
        nowait = bool(kwargs.get("nowait"))
        session.send(record, original, nowait)
        if session.broken is not None and not nowait:
            reviver.revive(session)
        return None

    owner._publish = _publish


def _send_requests(owner: Any, reviver: Reviver) -> None:
    original = getattr(owner, "_deliver", None)
    if original is None:
        return  # 0.19 and 0.20 have another way; the guard around the calls has to do

    def _deliver(self: Any, record: Any, *args: Any, **kwargs: Any) -> Any:
        session = _session(self)
        if session is None:
            return original(self, record, *args, **kwargs)
        if session.broken is None:
            try:
                return original(session.interface, record, *args, **kwargs)
            except Exception as error:  # noqa: BLE001 - a dead core: a new one may answer
                session.fail(f"{type(error).__name__}: {error}")
        return _deliver_again(session, reviver, original, record, args, kwargs)

    owner._deliver = _deliver


def _deliver_again(session: Session, reviver: Reviver, original: Any, record: Any, args: Any, kwargs: Any) -> Any:
    if not reviver.revive(session):
        raise NotLogging(session.broken)
    return original(session.interface, record, *args, **kwargs)
