"""What this process knows of its runs: the one mutable registry of the hook. A forked child starts without any."""

from __future__ import annotations

import os
from typing import Any, Dict, List, Optional

from .alive import heart
from .launch import Launch
from .session import Session


class Process:
    def __init__(self, launch: Launch) -> None:
        self.launch = launch
        self.overridden: List[str] = []
        self.base_url: Optional[str] = None
        self._sessions: List[Session] = []
        self._last_entries: Dict[str, str] = {}

    def add(self, session: Session) -> None:
        self._sessions.append(session)
        self.remember(session)
        heart.add(session.beat)

    def remember(self, session: Session) -> None:
        self._last_entries[session.name] = session.fragment.entry

    def end(self, session: Session) -> None:
        session.finished = True
        heart.remove(session.beat)

    def wrote(self, entry: str) -> bool:
        """Whether this process wrote that fragment."""
        return entry in self._last_entries.values()

    def of(self, run: Any) -> Optional[Session]:
        for session in self.here():
            if session.run is run:
                return session
        return None

    def here(self) -> List[Session]:
        return [session for session in self._sessions if session.pid == os.getpid()]

    def unfinished(self) -> List[Session]:
        return [session for session in self.here() if not session.finished]

    def disks_answer(self) -> bool:
        return all(session.fragment.answers() for session in self.here())
