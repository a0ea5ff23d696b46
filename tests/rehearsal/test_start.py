"""Starting, stopping, killing and steering a rehearsal server."""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from wandb_spool.syncer.rehearsal import Fault, FaultKind, RehearsalServer, Report, serve

from .clients import gql, make_run, post, rows, send, stream


def test_importing_the_package_loads_neither_the_web_libraries_nor_wandb() -> None:
    heavy = "{'starlette', 'uvicorn', 'graphql', 'wandb'}"
    code = f"import sys, wandb_spool.syncer.rehearsal; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_fresh_server_has_a_key_that_the_client_accepts_and_nothing_to_report(
    rehearsal: RehearsalServer,
) -> None:
    assert len(rehearsal.api_key) >= 40
    assert rehearsal.report().runs == {}


def test_a_directory_and_a_port_serve_one_server_only(rehearsal: RehearsalServer, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="another rehearsal server"):
        RehearsalServer(rehearsal.data_dir).start()
    with pytest.raises(OSError):
        RehearsalServer(tmp_path / "second", rehearsal.port)


def test_the_port_stays_ours_during_an_outage(rehearsal: RehearsalServer) -> None:
    rehearsal.down()
    rehearsal.down()
    rehearsal.up()
    rehearsal.up()
    assert send("GET", f"{rehearsal.base_url}/healthz").status == 200


def test_a_report_goes_through_json_unchanged(rehearsal: RehearsalServer) -> None:
    make_run(rehearsal, "r")
    stream(rehearsal, "r", 0, rows(0, 5))
    stream(rehearsal, "r", 5, [{**rows(0, 1)[0], "_step": 9}])
    over_http = send("GET", f"{rehearsal.base_url}/rehearsal/report")
    assert Report.from_json(json.loads(over_http.body)) == rehearsal.report()
    bare = Report.from_json(json.loads(send("GET", f"{rehearsal.base_url}/rehearsal/report?rows=0").body))
    assert (bare.run("r").rows, bare.run("r").row_count) == ((), 6)


def test_the_server_is_steered_over_its_own_port(rehearsal: RehearsalServer) -> None:
    make_run(rehearsal, "r")
    assert post(rehearsal, "/rehearsal/behaviour", {"file_md5": False}).body["file_md5"] is False
    assert post(rehearsal, "/rehearsal/behaviour", {"fil_md5": False}).status == 400
    assert post(rehearsal, "/rehearsal/behaviour", {"duplicates": "perhaps"}).status == 400
    fault = {"kind": "status", "status": 503, "endpoint": "graphql", "times": 1}
    assert post(rehearsal, "/rehearsal/faults", [fault]).body["faults"] == [fault]
    assert make_run(rehearsal, "r").status == 503
    assert send("DELETE", f"{rehearsal.base_url}/rehearsal/faults").status == 200
    accounts = [{"key": "k" * 40, "entity": "ann"}]
    assert post(rehearsal, "/rehearsal/accounts", accounts).body == {"accounts": 1}
    assert gql(rehearsal, "{viewer{entity}}", key="k" * 40)["viewer"]["entity"] == "ann"
    run = {"entity": "rehearsal", "project": "p", "run_id": "r"}
    assert post(rehearsal, "/rehearsal/delete_run", run).status == 200
    assert make_run(rehearsal, "r").status == 409


def test_an_outage_that_was_asked_for_over_the_port_ends_by_itself(rehearsal: RehearsalServer) -> None:
    make_run(rehearsal, "r")
    assert post(rehearsal, "/rehearsal/down", {"seconds": 0.2, "restart": True}).status == 200
    with pytest.raises(OSError):
        send("GET", f"{rehearsal.base_url}/healthz")
    assert _eventually_answers(rehearsal.base_url)
    assert stream(rehearsal, "r", 0, rows(0, 2)).status == 200


def test_a_private_certificate_is_served(tmp_path: Path) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject, *files]
    made = subprocess.run(command, capture_output=True, check=False)
    if made.returncode != 0:
        pytest.skip("needs the openssl command with -addext")
    with RehearsalServer(tmp_path / "d", tls=(certificate, key)) as server:
        assert server.base_url.startswith("https://127.0.0.1:")
        code = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1] + '/healthz').status)"
        environment = {**os.environ, "SSL_CERT_FILE": str(certificate)}
        ask = [sys.executable, "-c", code, server.base_url]
        assert subprocess.run(ask, env=environment, capture_output=True, text=True).stdout.strip() == "200"
        environment.pop("SSL_CERT_FILE")
        assert (
            "CERTIFICATE_VERIFY_FAILED" in subprocess.run(ask, env=environment, capture_output=True, text=True).stderr
        )


# ---- in the foreground -----------------------------------------------------------------------------------------

SERVE = """
import sys
from pathlib import Path
from wandb_spool.syncer.rehearsal import serve
sys.exit(serve(int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]) if len(sys.argv) > 3 else None))
"""


@contextmanager
def _foreground(port: int, data: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    command = [sys.executable, "-c", SERVE, str(port), str(data), *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        lines = [process.stdout.readline() for _ in range(2)]
        assert all(line.startswith("export ") for line in lines), lines
        yield process, dict(line.removeprefix("export ").rstrip("\n").split("=", 1) for line in lines)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def _eventually_answers(base_url: str) -> bool:
    for _ in range(200):
        try:
            return send("GET", f"{base_url}/healthz").status == 200
        except OSError:
            time.sleep(0.02)
    return False


class _Remote:
    """A server in another process, for the helpers that take a `RehearsalServer`."""

    def __init__(self, exported: dict[str, str]) -> None:
        self.base_url, self.api_key = exported["WANDB_BASE_URL"], exported["WANDB_API_KEY"]

    def report(self) -> Report:
        return Report.from_json(json.loads(send("GET", f"{self.base_url}/rehearsal/report").body))


def test_the_foreground_server_prints_exactly_two_lines_to_export_and_stops_on_a_signal(tmp_path: Path) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        with _foreground(0, tmp_path / "d") as (process, exported):
            assert list(exported) == ["WANDB_BASE_URL", "WANDB_API_KEY"]
            assert send("GET", exported["WANDB_BASE_URL"] + "/healthz").status == 200
            process.send_signal(number)
            assert process.wait(20) == 0
            assert process.stdout is not None and process.stdout.read() == ""


def test_a_faults_file_is_obeyed_and_a_wrong_one_refused(tmp_path: Path) -> None:
    faults = tmp_path / "faults.json"
    faults.write_text(json.dumps([{"kind": "status", "status": 418, "endpoint": "graphql", "nth": 2}]))
    with _foreground(0, tmp_path / "d", str(faults)) as (_, exported):
        remote = _Remote(exported)
        assert [make_run(remote, "r").status for _ in range(3)] == [200, 418, 200]
    faults.write_text("{}")
    with pytest.raises(ValueError, match="faults"):
        serve(0, tmp_path / "d", faults)


def test_kill_9_at_any_time_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    """Rounds of streaming, each ended by SIGKILL while a request is under way."""
    generator = random.Random(5)
    acknowledged, port = 0, 0
    for _ in range(4):
        with _foreground(port, tmp_path / "d") as (process, exported):
            remote = _Remote(exported)
            port = int(exported["WANDB_BASE_URL"].rpartition(":")[2])
            make_run(remote, "r")
            steps = remote.report().run("r").steps
            assert steps[:acknowledged] == tuple(range(acknowledged))
            assert remote.report().run("r").once_and_in_place
            killer = subprocess.Popen(["sh", "-c", f"sleep {generator.uniform(0.05, 0.3):.3f}; kill -9 {process.pid}"])
            try:
                while True:
                    assert stream(remote, "r", acknowledged, rows(acknowledged, acknowledged + 50)).status == 200
                    acknowledged += 50
            except (OSError, http.client.HTTPException):
                pass  # the kill
            killer.wait()
    with RehearsalServer(tmp_path / "d") as server:
        run = server.report().run("r")
        assert run.row_count >= acknowledged > 0
        assert run.steps[:acknowledged] == tuple(range(acknowledged))
        assert run.once_and_in_place


def test_what_is_kept_is_readable_by_its_owner_only(rehearsal: RehearsalServer) -> None:
    make_run(rehearsal, "r")
    stream(rehearsal, "r", 0, rows(0, 1))
    assert stat.S_IMODE(rehearsal.data_dir.stat().st_mode) & 0o077 == 0


def test_faults_can_be_given_at_the_start(tmp_path: Path) -> None:
    fault = Fault(FaultKind.STATUS, "graphql", nth=1, status=500)
    with RehearsalServer(tmp_path / "d", faults=[fault]) as server:
        assert [make_run(server, "r").status for _ in range(2)] == [500, 200]
