"""A person is told once a day what needs them, by any way they set up, and no way of telling ever hurts a delivery."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from wandb_spool.spool import clock
from wandb_spool.spool.configuration import Configuration, ConfigurationError, Limits, Notify, load_configuration
from wandb_spool.spool.entry import Entry
from wandb_spool.spool.queue import Spool
from wandb_spool.spool.states import State
from wandb_spool.syncer.concerns import Cause, Concern, Room, concerns
from wandb_spool.syncer.notifying import Told, Way, message, tell_by
from wandb_spool.syncer.plan import Known
from wandb_spool.syncer.rehearsal import Fault, FaultKind, RehearsalServer

from .conftest import Operator

LOGGED = "import wandb; run = wandb.init(project='p', id='one'); run.log({'x': 1}); run.finish()"
NOW_S = 1_800_000_000.0
HOUR_S = 3600.0


def program(directory: Path, text: str) -> Path:
    path = directory / "notifier"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def refused_run(operator: Operator, rehearsal: RehearsalServer) -> None:
    operator("run", "-q", "--", "python", "-c", LOGGED, code=0, WANDB_SILENT="true")
    rehearsal.set_faults([Fault(FaultKind.STATUS, "graphql:UpsertBucket", status=409)])


def test_a_quarantine_is_told_once_with_its_mend_and_not_again_by_the_next_pass(
    operator: Operator, rehearsal: RehearsalServer
) -> None:
    told = operator.home / "told"
    notifier = program(operator.home, f'printf "%s\\n" "$1" >> {told}.args; cat >> {told}; env >> {told}.env')
    operator.configure(f'[notify]\ncommand = "{notifier} {{text}}"\n')
    refused_run(operator, rehearsal)
    for _ in range(2):
        operator("sync", "--patience", "1", code=None, **rehearsal.environment())
    body = json.loads(told.read_text())
    assert (body["cause"], body["about"], body["number"]) == ("quarantined", "run deleted", 1)
    assert body["entries"][0] in body["mend"] and "replay" in body["mend"] and "--id" in body["mend"]
    assert (told.with_suffix(".args")).read_text().rstrip("\n") == body["text"]
    env = told.with_suffix(".env").read_text()
    assert rehearsal.api_key not in env and f"WANDB_SPOOL_NOTIFY_TEXT={body['text']}" in env


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("/nowhere/at/all", "could not be started"),
        ("sh -c 'echo broken >&2; exit 3'", "ended with 3: broken"),
        ("sleep 60", "did not end in time"),
    ],
    ids=["missing", "failing", "hanging"],
)
def test_a_notifier_that_is_missing_fails_or_hangs_costs_one_line_and_no_delivery(
    operator: Operator, rehearsal: RehearsalServer, command: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator.configure(f'[notify]\ncommand = "{command}"\n')
    refused_run(operator, rehearsal)
    done = operator("sync", "--patience", "1", code=3, **rehearsal.environment())
    warnings = [line for line in done.stderr.splitlines() if "warning: a notification" in line]
    assert len(warnings) == 1 and says in warnings[0]
    again = operator("sync", code=None, **rehearsal.environment())
    assert "warning: a notification" not in again.stderr, "what failed is not tried again at once"


def test_one_message_a_cause_and_day_whoever_asks_and_after_a_failure_again_later(tmp_path: Path) -> None:
    now = [NOW_S]
    one, other = (Told([tmp_path / "shared", tmp_path / host], lambda: now[0]) for host in ("a", "b"))
    assert [one.claim("auth:x"), other.claim("auth:x"), other.claim("auth:y")] == [True, False, True]
    for hours, expected in ((1, False), (19, False), (26, True)):
        now[0] = NOW_S + hours * HOUR_S
        assert other.claim("auth:x") is expected, hours
    other.failed("auth:x")
    assert not one.claim("auth:x")
    now[0] += 2 * HOUR_S
    assert one.claim("auth:x") and not other.claim("auth:x")
    now[0] -= 48 * HOUR_S  # the clock went back: no flood
    assert [one.claim("auth:x"), one.claim("auth:x")] == [True, False]


def test_a_spool_that_can_not_be_written_is_remembered_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    told = Told([tmp_path / "file" / "told", tmp_path / "own"], lambda: NOW_S)
    assert [told.claim("disk:"), told.claim("disk:")] == [True, False]
    assert [Told([tmp_path / "file" / "told", tmp_path / "own"], lambda: NOW_S).claim("disk:")] == [False]
    nowhere = Told([tmp_path / "file" / "told"], lambda: NOW_S)
    assert [nowhere.claim("disk:"), nowhere.claim("disk:")] == [True, False]


def entry(name: str, hours: float, **changes: Any) -> Entry:
    created = clock.iso(NOW_S - hours * HOUR_S)
    queued = ({"at": created, "from": "open", "to": "incoming", "by": "x"},)
    return replace(Entry(name, "launch", name, f"runs/{name}", created, history=queued), **changes)


def found(*known: Known, purge_days: float | None = None, room: Room | None = None) -> list[Concern]:
    settings = Configuration(purge_days=purge_days, limits=Limits(stuck_s=24 * HOUR_S))
    return concerns(known, settings, NOW_S, room)


def test_what_is_young_and_waits_for_its_turn_needs_nobody() -> None:
    assert not found(
        Known(entry("a", 1), State.INCOMING),
        Known(entry("b", 20, reason="unreachable: x"), State.DEFERRED),
        Known(entry("c", 999), State.OPEN),
        Known(entry("d", 999), State.HELD),
        room=Room(1 << 40, None),
        purge_days=999,
    )


def test_each_cause_is_told_apart_by_its_class_with_the_number_and_the_next_command() -> None:
    told = found(
        Known(entry("a", 1, reason="auth: no", mend="set a key"), State.DEFERRED),
        Known(entry("b", 99, reason="auth: no", mend="set a key"), State.DEFERRED),
        Known(entry("c", 30, reason="tls: bad", mend="set `ca`"), State.DEFERRED),
        Known(entry("d", 30), State.INCOMING),
        Known(entry("e", 1, reason="conflict: other", mend="`wandb-spool replay RUN`"), State.QUARANTINED),
        Known(entry("f", 1, reason="vanished: gone"), State.QUARANTINED),
        purge_days=8,
        room=Room(5 << 20, 50_000),
    )
    keys = ["disk:", "auth:the server", "quarantined:conflict", "quarantined:vanished", "purge:",
            "undelivered:tls", "undelivered:"]  # fmt: skip
    assert [concern.key for concern in told] == keys
    by_key = {concern.key: concern for concern in told}
    assert by_key["auth:the server"].number == 2 and by_key["quarantined:conflict"].mend == "`wandb-spool replay e`"
    assert by_key["purge:"].entries == ("b",) and "wandb-spool sync --all" in by_key["purge:"].mend
    assert "30 h" in by_key["undelivered:tls"].what and by_key["undelivered:"].mend == "`wandb-spool sync`"
    assert all("wandb-spool" in concern.mend or "key" in concern.mend for concern in told)


def test_text_of_a_run_is_one_word_and_never_a_command(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path / "spool")
    evil = Concern(Cause.QUARANTINED, "$(touch pwned); `touch pwned`\n-rf 'x", "mend")
    way = Way("it", (str(program(tmp_path, f'echo "$#" > {tmp_path}/count; cat > {tmp_path}/body')), "{text}"))
    assert tell_by(way, message(evil, spool, NOW_S), {"PATH": "/usr/bin:/bin"}) is None
    assert (tmp_path / "count").read_text() == "1\n"
    assert "\n" not in json.loads((tmp_path / "body").read_text())["text"]
    assert not list(tmp_path.rglob("pwned"))


class _Hook(BaseHTTPRequestHandler):
    bodies: list[dict[str, Any]]
    code = 200

    def do_POST(self) -> None:
        self.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(self.code)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_apprise_is_told_by_addresses_of_a_private_file_and_they_appear_nowhere(operator: Operator) -> None:
    pytest.importorskip("apprise")
    bodies: list[dict[str, Any]] = []
    server = HTTPServer(("127.0.0.1", 0), type("Hook", (_Hook,), {"bodies": bodies}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    urls = operator.home / "urls"
    urls.write_text(f"# mine\njson://me:hunter2@127.0.0.1:{server.server_port}/\n")
    urls.chmod(0o644)
    operator.configure(f'[notify]\nurls_file = "{urls}"\n')
    open_to_all = operator("doctor", "--notify", code=1).stdout
    assert f"chmod 600 {urls}" in open_to_all and not bodies
    urls.chmod(0o600)
    told = operator("doctor", "--notify", code=None).stdout
    assert "✓ notification: apprise took a test message" in told
    assert bodies[0]["title"] == "wandb-spool: test" and "this is a test" in bodies[0]["message"]
    server.shutdown()
    server.server_close()
    failed = operator("doctor", "--notify", code=None)
    assert "✗ notification: apprise: it ended with 1: 1 of 1 addresses failed (json)" in failed.stdout
    assert "hunter2" not in told + failed.stdout + failed.stderr


def test_doctor_tells_whether_anybody_is_told(operator: Operator) -> None:
    assert "✓ notifications: off" in operator("doctor", code=None).stdout
    operator.configure('[notify]\ncommand = "no-such-program-here {text}"\n')
    assert "✗ notifications: there is no program `no-such-program-here`" in operator("doctor", code=1).stdout
    operator.configure('[notify]\ncommand = ["true", "{text}"]\n')
    assert "✓ notification: `true` took" in operator("doctor", "--notify", code=None).stdout


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[notify]\nurls = ["json://x"]', "mode 0600"),
        ('[notify]\ncommand = "a \'b"', "can't be split"),
        ("[notify]\ncommand = 3", "not a text"),
        ('[notify]\nmail = "x"', "unknown here"),
        ("notify = 1", "not a table"),
        ("purge_days = 0", "above 0"),
    ],
)
def test_what_can_not_be_understood_is_said_with_its_key(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "c.toml"
    path.write_text(text)
    with pytest.raises(ConfigurationError) as raised:
        load_configuration([path])
    assert says in str(raised.value)


def test_words_and_files_of_the_configuration_are_read(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('purge_days = 30\n[notify]\ncommand = "mail -s \'a run\' me"\nurls_file = "urls"\n')
    read = load_configuration([path])
    assert read.notify == Notify(("mail", "-s", "a run", "me"), tmp_path / "urls") and read.purge_days == 30


def test_a_hanging_notifier_leaves_no_process(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path / "spool")
    way = Way("it", (str(program(tmp_path, f"echo $$ > {tmp_path}/pid; sleep 60 & wait")),))
    said = tell_by(way, message(Concern(Cause.TEST, "a", "b"), spool, NOW_S), {"PATH": "/usr/bin:/bin"}, timeout_s=1)
    assert said == "it did not end in time"
    pid = (tmp_path / "pid").read_text().strip()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
