"""A person who never saw the project can tell from `status` and `doctor` alone what is wrong and what to type next."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from wandb_spool.cli import build
from wandb_spool.spool.entry import Replay
from wandb_spool.spool.layout import log_path
from wandb_spool.spool.queue import Spool
from wandb_spool.spool.states import State
from wandb_spool.syncer.failures import POLICIES, Failure
from wandb_spool.syncer.rehearsal import Fault, FaultKind, RehearsalServer

from .fragments import Fragments
from .syncing import QUICK, Syncing

STATUS = FaultKind.STATUS


@dataclass
class Trouble:
    """How one class of failure comes about, and the words that a person must find."""

    failure: Failure
    cause: str
    command: str
    fault: Fault | None = None
    environ: dict[str, str] = field(default_factory=dict)
    """Of the syncer, in that one pass."""
    make: Callable[[Syncing, Fragments, str], None] = lambda syncing, fragments, name: None
    shape: str = "tiny"


def tamper(syncing: Syncing, fragments: Fragments, name: str) -> None:
    log = log_path(fragments.entry(name).run_directory(fragments.spool.root))
    assert log is not None
    log.write_bytes(log.read_bytes()[:-1] + b"?")


def lose(syncing: Syncing, fragments: Fragments, name: str) -> None:
    shutil.rmtree(fragments.entry(name).run_directory(fragments.spool.root))


def lose_manifest(syncing: Syncing, fragments: Fragments, name: str) -> None:
    (fragments.entry(name).run_directory(fragments.spool.root) / "manifest.json").unlink()


def link_out(syncing: Syncing, fragments: Fragments, name: str) -> None:
    directory = fragments.entry(name).run_directory(fragments.spool.root) / "files"
    file = next(path for path in directory.rglob("*") if path.is_file())
    file.unlink()
    file.symlink_to("/etc/passwd")


def hold_the_first(syncing: Syncing, fragments: Fragments, name: str) -> None:
    first = fragments.add("front", "chain")
    fragments.add("rear", "chain")
    fragments.spool.move(fragments.place(first), State.HELD)


def other_values(syncing: Syncing, fragments: Fragments, name: str) -> None:
    """Somebody else sent another run under the same id."""
    elsewhere = Fragments(Spool.create(syncing.home / "other"), fragments.templates)
    elsewhere.add("rear", fragments.entry(name).run_id)
    replace(syncing, spool=elsewhere.spool).once()


def no_key(syncing: Syncing, fragments: Fragments, name: str) -> None:
    syncing.environ["WANDB_API_KEY"] = ""


def impatient(syncing: Syncing, fragments: Fragments, name: str) -> None:
    syncing.limits = replace(QUICK, no_progress_s=2.0)


def late(syncing: Syncing, fragments: Fragments, name: str) -> None:
    syncing.server.set_behaviour(late_s=600.0)


def no_such_destination(syncing: Syncing, fragments: Fragments, name: str) -> None:
    entry = fragments.entry(name)
    fragments.spool.move(fragments.place(name), State.HELD, replace(entry, replay=Replay(destination="elsewhere")))
    fragments.spool.move(fragments.place(name), State.INCOMING)


TROUBLES = (
    Trouble(Failure.UNREACHABLE, "unreachable", "wandb-spool doctor", Fault(FaultKind.RESET_BEFORE)),
    Trouble(Failure.CAPTIVE_PORTAL, "web page", "log in there", Fault(FaultKind.HTML)),
    Trouble(Failure.AUTH, "no API key", "WANDB_API_KEY", make=no_key),
    Trouble(Failure.AUTH, "401", "WANDB_API_KEY", Fault(STATUS, status=401)),
    Trouble(Failure.RATE, "slow down", "nothing to do", Fault(STATUS, status=429)),
    Trouble(Failure.SERVER_ERROR, "503", "nothing to do", Fault(STATUS, status=503)),
    Trouble(Failure.REFUSED, "(404)", "wandb-spool replay", Fault(STATUS, "graphql:UpsertBucket", status=404)),
    Trouble(Failure.RUN_DELETED, "deleted", "--id NEW_ID", Fault(STATUS, "graphql:UpsertBucket", status=409)),
    Trouble(Failure.PARTIAL, "20 of 20 rows", "wandb-spool show", Fault(STATUS, "file_stream", status=413)),
    Trouble(Failure.CONFLICT, "other values", "--id NEW_ID", make=other_values, shape="third"),
    Trouble(Failure.DAMAGED, "manifest", "wandb-spool verify", make=lose_manifest),
    Trouble(Failure.TAMPERED, "its content was changed", "wandb-spool release", make=tamper),
    Trouble(Failure.UNSAFE, "no regular file", "wandb-spool verify", make=link_out),
    Trouble(Failure.VANISHED, "is gone", "wandb-spool discard", make=lose),
    Trouble(Failure.HANG, "no progress", "nothing to do", Fault(FaultKind.HANG, "file_stream"), make=impatient),
    Trouble(Failure.UNREADABLE, "can't answer", "accept_unverified", Fault(STATUS, "graphql:Run", status=400)),
    Trouble(Failure.NOT_YET, "20 of 20 rows", "nothing to do", make=late),
    Trouble(Failure.CONFIGURATION, "no destination is called", "mend the configuration", make=no_such_destination),
    Trouble(Failure.INTERRUPTED, "`wandb sync` ended with 1", "nothing to do", environ={"PYTHONHOME": "/nowhere"}),
    Trouble(Failure.WAITS, "which is held", "wandb-spool release", make=hold_the_first),
)


def test_every_command_and_option_that_a_mend_names_is_there() -> None:
    """A person at two in the morning types what they read."""
    application = build([])
    commands: dict[str, Any] = getattr(get_command(application), "commands")  # noqa: B009 - the library's own class
    for failure, policy in POLICIES.items():
        for typed in re.findall(r"`wandb-spool ([^`]*)`", policy.mend):
            name, *words = typed.split()
            assert name in commands, (failure, typed)
            known = {option for parameter in commands[name].params for option in parameter.opts}
            assert {word for word in words if word.startswith("--")} <= known, (failure, typed)


@pytest.mark.parametrize("trouble", TROUBLES, ids=lambda trouble: f"{trouble.failure.name}-{trouble.cause}")
def test_status_and_doctor_name_the_cause_and_the_next_command(
    syncing: Syncing, fragments: Fragments, trouble: Trouble
) -> None:
    name = fragments.add(trouble.shape)
    if trouble.fault is not None:
        syncing.server.set_faults([trouble.fault])
    trouble.make(syncing, fragments, name)
    replace(syncing, environ={**syncing.environ, **trouble.environ}).once(patience_s=0.2)
    tell_it(syncing, trouble)


def test_a_certificate_that_nobody_knows_is_named_and_not_the_key(
    syncing: Syncing, fragments: Fragments, private_ca: tuple[Path, Path], tmp_path: Path
) -> None:
    fragments.add("tiny")
    with RehearsalServer(tmp_path / "tls", tls=private_ca) as server:
        syncing = replace(syncing, server=server)
        syncing.once()
        tell_it(syncing, Trouble(Failure.TLS, "certificate", "set `ca`"))


def tell_it(syncing: Syncing, trouble: Trouble) -> None:
    told = syncing.run("status")
    line = next((line for line in told.stdout.splitlines() if f"× {trouble.failure}: " in line), "")
    assert trouble.cause in line and trouble.command in line, told.stdout
    quarantined = POLICIES[trouble.failure].state is State.QUARANTINED
    assert line.startswith("! ") == (quarantined or trouble.failure is Failure.AUTH), "the sign that a person is needed"
    assert "RUN" not in line, "what is to be typed can be copied"
    assert "nothing of this is lost" in told.stdout or trouble.failure is Failure.VANISHED
    checked = syncing.run("doctor")
    found = [line for line in checked.stdout.splitlines() if trouble.cause in line and trouble.command in line]
    assert found, checked.stdout
    if quarantined or trouble.failure is Failure.AUTH:
        assert any(line.startswith(("! ", "✗ ")) for line in found)
    assert not checked.stderr and not told.stderr
