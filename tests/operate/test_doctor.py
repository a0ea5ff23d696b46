"""`doctor` tells every trouble apart, names its mend, and never shows a key."""

from __future__ import annotations

import json
import os
import shutil
import time
from email.utils import formatdate
from pathlib import Path

import pytest

from wandb_spool.spool.queue import Spool
from wandb_spool.spool.states import State
from wandb_spool.syncer import doctor
from wandb_spool.syncer.doctor import Check, Verdict
from wandb_spool.syncer.rehearsal import Fault, FaultKind, RehearsalServer

from .conftest import Operator


def checks(operator: Operator, code: int, **more: str) -> dict[str, Check]:
    body = json.loads(operator("doctor", "--json", code=code, **more).stdout)
    assert body["ok"] is (code == 0)
    return {
        item["name"]: Check(item["name"], Verdict(item["verdict"]), item["what"], item["mend"])
        for item in body["checks"]
    }


def test_a_healthy_place_is_green_one_line_a_check_and_the_key_is_not_shown(
    operator: Operator, rehearsal: RehearsalServer
) -> None:
    done = operator("doctor", code=0, **rehearsal.environment())
    assert rehearsal.api_key not in done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert all(line[:2] in ("✓ ", "! ") for line in lines), lines
    named = {line[2:].partition(":")[0] for line in lines}
    assert {"configuration", "spool", "place", "modes", "file system", "room", "markers", "wandb"} <= named
    assert {"key default", "server default", "clock", "proxy", "syncer"} <= named
    assert list(operator.spool.paths.queue(State.INCOMING).iterdir()) == [], "the probe file was left behind"


@pytest.mark.parametrize(
    ("fault", "says", "mend"),
    [
        (Fault(FaultKind.HTML), "captive portal: ", "log in there"),
        (Fault(FaultKind.STATUS, status=401), "auth: ", "set a valid key"),
        (Fault(FaultKind.STATUS, status=503), "server error: ", "tried again"),
        (Fault(FaultKind.STATUS, status=429), "rate limit: ", "slows down"),
        (Fault(FaultKind.RESET_BEFORE), "unreachable: ", "tried again"),
    ],
    ids=lambda value: value.kind.value + str(value.status) if isinstance(value, Fault) else "",
)
def test_ways_in_which_a_server_does_not_answer_are_told_apart(
    operator: Operator, rehearsal: RehearsalServer, fault: Fault, says: str, mend: str
) -> None:
    rehearsal.set_faults([fault])
    server = checks(operator, 1, **rehearsal.environment())["server default"]
    assert server.verdict is Verdict.BAD and server.what.startswith(says) and mend in server.mend


def test_a_private_certificate_is_told_as_one_and_mended_by_ca(
    operator: Operator, tmp_path: Path, private_ca: tuple[Path, Path]
) -> None:
    with RehearsalServer(tmp_path / "tls", tls=private_ca) as server:
        told = checks(operator, 1, **server.environment())["server default"]
        assert told.what.startswith("tls: ") and "`ca`" in told.mend and "key is not the problem" in told.mend
        operator.configure(f'[destination.default]\nca = "{private_ca[0]}"\n')
        assert checks(operator, 0, **server.environment())["server default"].verdict is Verdict.OK


def test_a_missing_key_and_a_key_file_that_others_may_read_are_bad(
    operator: Operator, rehearsal: RehearsalServer
) -> None:
    assert "no API key" in checks(operator, 1, WANDB_BASE_URL=rehearsal.base_url)["key default"].what
    key_file = operator.home / "key"
    key_file.write_text(rehearsal.api_key)
    key_file.chmod(0o644)
    operator.configure(f'[destination.lab]\nbase_url = "{rehearsal.base_url}"\nkey_file = "{key_file}"\n')
    told = checks(operator, 1)["key lab"]
    assert "others may read" in told.what and f"chmod 600 {key_file}" in told.what
    key_file.chmod(0o600)
    assert checks(operator, 0)["server lab"].verdict is Verdict.OK


def test_what_is_wrong_with_the_spool_is_told_with_its_mend(operator: Operator, rehearsal: RehearsalServer) -> None:
    root = operator.spool.root
    root.chmod(0o755)
    marker = root / "runs/202601/launch/wandb/offline-run-1/run-1.wandb.synced"
    marker.parent.mkdir(parents=True)
    marker.touch()
    (operator.spool.paths.queue(State.INCOMING) / "20260101T000000-host-0123abcd.offline-run-1.json").write_text("{")
    told = checks(operator, 1, **rehearsal.environment(), TMPDIR=str(root.parent))
    assert told["modes"].verdict is Verdict.WARN and f"chmod 700 {root}" in told["modes"].mend
    assert told["markers"].verdict is Verdict.WARN and "wandb clean" in told["markers"].mend
    assert told["place"].verdict is Verdict.WARN and "init" in told["place"].mend
    assert told["spool"].verdict is Verdict.BAD and told["spool"].mend
    root.chmod(0o777)
    assert checks(operator, 1, **rehearsal.environment())["modes"].verdict is Verdict.BAD


def test_a_spool_that_is_not_there_and_a_broken_configuration_do_not_end_the_other_checks(
    operator: Operator, rehearsal: RehearsalServer
) -> None:
    operator.configure("destination = [")
    shutil.rmtree(operator.spool.root)
    told = checks(operator, 1, **rehearsal.environment())
    assert told["configuration"].verdict is Verdict.BAD and told["spool"].verdict is Verdict.BAD
    assert "init" in told["spool"].mend
    assert told["server default"].verdict is Verdict.OK


def test_an_unknown_option_is_a_mistake_of_usage(operator: Operator) -> None:
    operator("doctor", "--nonsense", code=2)


def test_proxies_are_shown_without_who_logs_in_there(operator: Operator, rehearsal: RehearsalServer) -> None:
    secret = "http://me:hunter2@proxy.invalid:3128"
    done = operator(
        "doctor", code=0, **rehearsal.environment(), HTTPS_PROXY=secret, http_proxy="me:hunter2@proxy.invalid:1"
    )
    assert "proxy.invalid:3128" in done.stdout and "hunter2" not in done.stdout + done.stderr
    gone = checks(operator, 1, **rehearsal.environment(), SSL_CERT_FILE="/nowhere/ca.pem")["proxy"]
    assert gone.verdict is Verdict.BAD and "SSL_CERT_FILE" in gone.mend


@pytest.mark.parametrize(("offset_s", "verdict"), [(0, Verdict.OK), (-290, Verdict.OK), (400, Verdict.WARN)])
def test_a_clock_that_differs_by_more_than_five_minutes_is_told(offset_s: float, verdict: Verdict) -> None:
    now_s = time.time()
    (told,) = doctor.clock_check("https://x", formatdate(now_s - offset_s, usegmt=True), now_s)
    assert told.verdict is verdict
    assert not list(doctor.clock_check("https://x", None, now_s)) + list(doctor.clock_check("https://x", "?", now_s))


def test_room_is_judged_by_what_is_left() -> None:
    verdicts = [doctor.judge_room("room", left, "", 100, 10).verdict for left in (100, 99, 9)]
    assert verdicts == [Verdict.OK, Verdict.WARN, Verdict.BAD]


LUSTRE = "/scratch 5120* 4096 8192 6d23h 17 0 0 -\n"
QUOTA = """Disk quotas for user me (uid 1000):
     Filesystem  blocks   quota   limit   grace   files   quota   limit   grace
/dev/sda1  991  0  1000  0  5  0  0  0
"""


def test_what_quota_programs_print_is_understood_and_nothing_is_made_of_nothing() -> None:
    lustre, quota = doctor.quota_line(LUSTRE), doctor.quota_line(QUOTA)
    assert (lustre, quota) == ((5120, 8192, 17, 0), (991, 1000, 5, 0))
    assert lustre is not None and doctor.judge_quota(lustre).verdict is Verdict.OK
    assert quota is not None and doctor.judge_quota(quota).verdict is Verdict.BAD
    assert doctor.judge_quota((95, 100, 1, 0)).verdict is Verdict.WARN
    assert doctor.quota_line("Disk quotas for user me (uid 1000): none\n") is None


def test_a_quota_program_that_answers_is_asked(operator: Operator, rehearsal: RehearsalServer) -> None:
    programs = operator.home / "bin"
    programs.mkdir()
    (programs / "quota").write_text(f"#!/bin/sh\ncat <<'E'\n{QUOTA}E\n")
    (programs / "quota").chmod(0o755)
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    assert "files" not in checks(operator, 1, **rehearsal.environment(), PATH=path)["quota"].what


@pytest.mark.parametrize(
    ("found", "verdict"), [("0.31.0", Verdict.OK), ("1.0", Verdict.OK), ("0.30.1", Verdict.BAD), (None, Verdict.BAD)]
)
def test_a_wandb_that_is_too_old_to_deliver_with_is_told(found: str | None, verdict: Verdict) -> None:
    assert doctor.wandb_version(found).verdict is verdict


def test_a_group_may_read_its_shared_spool(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path / "spool")
    (tmp_path / "spool").chmod(0o2770)
    assert doctor.modes(spool).verdict is Verdict.BAD
    shared = Spool(spool.paths, spool.spool_id, "staff")
    assert doctor.modes(shared).verdict is Verdict.OK
    spool.root.chmod(0o770)
    lost = doctor.modes(shared)
    assert lost.verdict is Verdict.BAD and "chmod g+s" in lost.mend
