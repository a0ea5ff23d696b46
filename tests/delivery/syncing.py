"""The syncer as these tests use it: a pass in this process, or the real command as a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from wandb_spool.spool.configuration import Configuration, Destination, Limits
from wandb_spool.spool.entry import Entry
from wandb_spool.spool.queue import Spool
from wandb_spool.syncer.balance import RunBalance, balances
from wandb_spool.syncer.plan import Known
from wandb_spool.syncer.rehearsal import RehearsalServer
from wandb_spool.syncer.service import Options, PassResult, sync_once

from .fragments import scrubbed

QUICK = Limits(backoff_first_s=0.001, backoff_cap_s=0.002, late_data_s=600.0, push_retries=1, push_retry_wait_s=0.05)
"""Every fault ends soon, and what is deferred is due at once."""

SENDING = ("file_stream", "upload", "artifact_upload", "graphql:UpsertBucket", "graphql:CreateRunFiles",
           "graphql:CreateArtifact", "graphql:NotifyScriptableRunAlert")  # fmt: skip


@dataclass
class Syncing:
    """A syncer with an account on a rehearsal server."""

    spool: Spool
    server: RehearsalServer
    home: Path
    limits: Limits = QUICK
    destination: Destination = field(default_factory=lambda: Destination("default"))
    environ: dict[str, str] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)

    def environment(self, **more: str) -> dict[str, str]:
        return scrubbed(self.home, **{**self.server.environment(), **self.environ, **more})

    def configuration(self) -> Configuration:
        return Configuration(destinations={"default": self.destination}, limits=self.limits)

    def once(self, options: Options | None = None, **changes: Any) -> PassResult:
        """One pass in this process. Patient for two seconds unless told otherwise."""
        options = replace(options or Options(patience_s=2.0), **changes)
        return sync_once(self.spool, self.configuration(), self.environment(), options, tell=self.told.append)

    def until_done(self, passes: int = 6) -> PassResult:
        """Passes until nothing is left to do."""
        result = self.once(everything=True)
        for _ in range(passes):
            if result.exit_code == 0:
                break
            result = self.once(everything=True)
        return result

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "wandb_spool", words[0], "--spool", str(self.spool.root), *words[1:]]

    def run(self, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
        """The real command line."""
        self.write_configuration()
        return subprocess.run(
            self.command(*words),
            env=self.environment(**more),
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=120,
        )

    def start(self, *words: str, **more: str) -> subprocess.Popen[str]:
        """The real command line in a process group of its own, as a shell starts a job."""
        self.write_configuration()
        return subprocess.Popen(
            self.command(*words),
            env=self.environment(**more),
            cwd=self.home,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def write_configuration(self) -> None:
        """The limits of this syncer as a person would write them."""
        path = self.home / ".config" / "wandb-spool.toml"
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [f"{name} = {value}" for name, value in vars(self.limits).items()]
        lines += ["[destination.default]", f"accept_unverified = {str(self.destination.accept_unverified).lower()}"]
        path.write_text("\n".join(["[limits]", *lines, ""]))

    def sent(self) -> dict[str, int]:
        """How many requests that change something the server got so far."""
        requests = self.server.report(rows=False).requests
        return {name: requests[name] for name in SENDING if requests.get(name)}

    def steps(self, run_id: str) -> list[int]:
        return list(self.server.report().run(run_id).steps)

    def values(self, run_id: str, key: str = "loss") -> dict[int, Any]:
        return {step: row.get(key) for step, row in self.server.report().run(run_id).rows}


def kill_group(process: subprocess.Popen[Any], number: int = signal.SIGKILL) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        pass
    process.wait(30)


def outcome_of(result: PassResult, name: str) -> Any:
    """The last outcome of one entry in a pass."""
    return [outcome for outcome in result.outcomes if outcome.entry == name][-1]


def balance(syncing: Syncing) -> list[RunBalance]:
    """The balance of every run, with the server read back."""
    known = [Known(syncing.spool.read(place), place.state) for place in syncing.spool.scan().values()]
    return balances(syncing.spool, known, syncing.configuration(), syncing.environment())


def why(entry: Entry) -> str:
    return f"{entry.reason} · {entry.mend}"
