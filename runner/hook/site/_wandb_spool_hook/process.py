"""What this process knows of its runs: the one mutable registry of the hook."""

from __future__ import annotations

import os
from typing import Any, Dict, List, Optional

from .fragment import Fragment
from .launch import Launch


class Session:
    """One run of the program, through all its fragments."""

    def __init__(self, run: Any, fragment: Fragment, arguments: Dict[str, Any]) -> None:
        self.run = run
        self.fragment = fragment
        self.arguments = arguments  # of the program's own wandb.init
        self.pid = os.getpid()
        self.finished = False


class Process:
    """Sessions of this process; a forked child starts without any."""

    def __init__(self, launch: Launch) -> None:
        self.launch = launch
        self.overridden: List[str] = []
        self.base_url: Optional[str] = None
        self._sessions: List[Session] = []
        self._last_entries: Dict[str, str] = {}

    def add(self, session: Session) -> None:
        self._sessions.append(session)
        self.remember(session)

    def remember(self, session: Session) -> None:
        self._last_entries[str(session.run._settings.run_id)] = session.fragment.entry

    def predecessor(self, run_id: str) -> Optional[str]:
        """The fragment that this run wrote before: in this process, or what the launcher knows of."""
        earlier = self.launch.defaults.get("predecessor_of") or {}
        return self._last_entries.get(run_id) or earlier.get(run_id)

    def of(self, run: Any) -> Optional[Session]:
        for session in self._sessions:
            if session.run is run and session.pid == os.getpid():
                return session
        return None

    def sessions_here(self) -> List[Session]:
        return [s for s in self._sessions if s.pid == os.getpid()]

    def unfinished(self) -> List[Session]:
        return [s for s in self._sessions if not s.finished and s.pid == os.getpid()]
