"""How the rehearsal server says no: an HTTP status and the sentence that W&B's client shows."""

from __future__ import annotations


class Refused(Exception):
    """The request is refused with this HTTP status; nothing was stored."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


def not_found(what: str) -> Refused:
    return Refused(404, f"could not find {what}")


def permission_denied() -> Refused:
    return Refused(403, "permission denied")


def deleted_run(path: str) -> Refused:
    return Refused(409, f"run {path} was previously created and deleted; try a new run name")
