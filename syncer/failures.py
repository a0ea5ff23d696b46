"""The classes of failure: what each means for an entry, what it says and how a person mends it.

One table (`POLICIES`) decides; docs/operations.md shows it. `DeliveryError` carries a class and the detail of one case.
Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from wandb_spool.spool.states import State


class Failure(str, Enum):
    """Why a fragment was not delivered in this pass."""

    UNREACHABLE = "unreachable"
    TLS = "tls"
    CAPTIVE_PORTAL = "captive portal"
    AUTH = "auth"
    RATE = "rate limit"
    SERVER_ERROR = "server error"
    REFUSED = "refused"
    RUN_DELETED = "run deleted"
    PARTIAL = "partial"
    CONFLICT = "conflict"
    NOT_YET = "not yet visible"
    DAMAGED = "damaged"
    TAMPERED = "tampered"
    UNSAFE = "unsafe"
    VANISHED = "vanished"
    HANG = "hang"
    UNREADABLE = "cannot be read back"
    CONFIGURATION = "configuration"
    WAITS = "waits"
    INTERRUPTED = "interrupted"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Policy:
    """What the program does about a class of failure, and what a person can do."""

    state: State
    refusal: bool  # counts against the limit on refusals; lost answers and unreachability never do
    breaker: bool  # the whole destination pauses, not only this run
    mend: str


POLICIES: dict[Failure, Policy] = {
    Failure.UNREACHABLE: Policy(
        State.DEFERRED,
        False,
        True,
        "nothing to do: it is tried again by itself; if it lasts, `wandb-spool doctor` tests the way out",
    ),
    Failure.TLS: Policy(
        State.DEFERRED,
        False,
        True,
        "set `ca` of the destination, or SSL_CERT_FILE, to the certificate authority of the server; the key is not the"
        " problem",
    ),
    Failure.CAPTIVE_PORTAL: Policy(
        State.DEFERRED,
        False,
        True,
        "something between here and W&B answers with a web page: log in there, or set `proxy`",
    ),
    Failure.AUTH: Policy(
        State.DEFERRED,
        False,
        True,
        "set a valid key (WANDB_API_KEY, `key_file` or netrc), then `wandb-spool sync --all`",
    ),
    Failure.RATE: Policy(State.DEFERRED, False, True, "nothing to do: the syncer slows down by itself"),
    Failure.SERVER_ERROR: Policy(State.DEFERRED, False, True, "nothing to do: it is tried again by itself"),
    Failure.REFUSED: Policy(
        State.QUARANTINED,
        True,
        False,
        "mend what the reason says, then `wandb-spool release RUN`; or send it elsewhere with `wandb-spool replay RUN`"
        " and --entity, --project or --id",
    ),
    Failure.RUN_DELETED: Policy(
        State.QUARANTINED,
        True,
        False,
        "`wandb-spool replay RUN --id NEW_ID` sends it as a new run; or `wandb-spool discard RUN`",
    ),
    Failure.PARTIAL: Policy(
        State.DEFERRED,
        True,
        False,
        "the rest is sent at the next attempt, or after `wandb-spool release RUN` if it was set aside;"
        " `wandb-spool show RUN` lists what is missing",
    ),
    Failure.CONFLICT: Policy(
        State.QUARANTINED,
        False,  # found by the read-back: the server refused nothing
        False,
        "the server holds other values at these steps: `wandb-spool replay RUN --id NEW_ID` sends this run beside it",
    ),
    Failure.NOT_YET: Policy(
        State.DEFERRED, False, False, "nothing to do: the server shows data late; it is asked again"
    ),
    Failure.DAMAGED: Policy(
        State.QUARANTINED,
        False,
        False,
        "`wandb-spool verify RUN` tells which file: bring it back from a backup, then `wandb-spool release RUN`",
    ),
    Failure.TAMPERED: Policy(
        State.QUARANTINED,
        False,
        False,
        "files changed after the seal: bring them back from a backup, then `wandb-spool release RUN`; or"
        " `wandb-spool discard RUN`",
    ),
    Failure.UNSAFE: Policy(
        State.QUARANTINED,
        False,
        False,
        "nothing was sent: `wandb-spool verify RUN` tells which files; put the"
        " real ones in their place, then `wandb-spool release RUN`",
    ),
    Failure.VANISHED: Policy(
        State.QUARANTINED,
        False,
        False,
        "put the run directory back, then `wandb-spool release RUN`; or `wandb-spool discard RUN`",
    ),
    Failure.HANG: Policy(
        State.DEFERRED, False, False, "nothing to do: the push was ended and is tried again; the rest is not held up"
    ),
    Failure.UNREADABLE: Policy(
        State.DEFERRED,
        False,
        False,
        "`accept_unverified = true` in the destination takes the server's word for it; then `wandb-spool sync --all`",
    ),
    Failure.CONFIGURATION: Policy(
        State.DEFERRED, False, False, "mend the configuration, then `wandb-spool sync --all`"
    ),
    Failure.WAITS: Policy(State.DEFERRED, False, False, "mend its predecessor, or `wandb-spool release --skip RUN`"),
    Failure.INTERRUPTED: Policy(State.DEFERRED, False, False, "nothing to do: it is tried again"),
}

OUTAGES = frozenset(failure for failure, policy in POLICIES.items() if policy.breaker)
"""Failures of a destination and not of a run: they pause it, and a pass that saw nothing else exits with 75."""


class DeliveryError(Exception):
    """One fragment, or a whole destination, could not be served."""

    destination_wide = False
    """Nothing at all could be done with the destination; no run was tried."""

    def __init__(self, failure: Failure, detail: str, *, retry_after_s: float | None = None) -> None:
        self.failure = failure
        self.detail = detail
        self.retry_after_s = retry_after_s
        super().__init__(f"{failure}: {detail}")

    def everywhere(self) -> DeliveryError:
        """This error as one of the whole destination."""
        self.destination_wide = True
        return self

    @property
    def policy(self) -> Policy:
        return POLICIES[self.failure]


def next_state(failure: Failure, refusals: int, limit: int) -> State:
    """The state after one more failure. `refusals` counts this one if it is a refusal; only refusals reach `limit`."""
    policy = POLICIES[failure]
    return State.QUARANTINED if policy.refusal and refusals >= limit else policy.state
