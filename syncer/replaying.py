"""Replay: deliver a fragment again on purpose, to the same target or to another one.

To the same target, the delivered or quarantined fragment is put back in line by a new entry; to another target the new
entry carries what was asked for. The old entry and its receipt stay as they are. Fails with `UsageError`.
"""

from __future__ import annotations

import secrets
import shlex
import sys
import time
from dataclasses import replace

from wandb_spool.spool import clock
from wandb_spool.spool.entry import Entry, Replay
from wandb_spool.spool.errors import UsageError
from wandb_spool.spool.layout import original_name
from wandb_spool.spool.queue import Place, Spool
from wandb_spool.spool.states import State


def replay(spool: Spool, entry: Entry, state: State, asked: Replay, *, predecessor: str | None = None) -> Place:
    """Make the new entry of a replay; returns its place in `incoming`.

    `predecessor` is the replay of the fragment before, when a run of several fragments is replayed; else the fragment
    stands where its original does. Raises UsageError for what can't be replayed.
    """
    if state in (State.OPEN, State.VOID):
        raise UsageError(f"{entry.name} is {state}: there is nothing sealed to replay")
    if entry.manifest_sha256 is None or not entry.run_directory(spool.root).is_dir():
        raise UsageError(f"{entry.name} holds no data here any more", path=entry.run_directory(spool.root))
    again = replace(
        entry,
        name=f"{original_name(entry.name)}.r{secrets.token_hex(4)}",
        created=clock.iso(time.time()),
        replay=asked,
        target=None,
        receipt=None,
        reason=None,
        mend=None,
        attempts=0,
        refusals=0,
        not_before=None,
        backoff_s=0.0,
        history=(),
        predecessor=predecessor or entry.predecessor,
        extra={key: value for key, value in entry.extra.items() if key not in ("pushed", "skipped")},
    )
    return spool.add(again, State.INCOMING)


def plain_command(spool: Spool, entry: Entry, asked: Replay) -> str:
    """The `wandb sync` command that a person would type for this fragment. It proves nothing."""
    words = [sys.executable, "-m", "wandb", "sync", "--include-synced"]
    for flag, value in (
        ("--entity", asked.entity or entry.entity),
        ("--project", asked.project or entry.project),
        ("--id", asked.run_id),
    ):
        if value:
            words += [flag, value]
    return shlex.join([*words, str(entry.run_directory(spool.root))])
