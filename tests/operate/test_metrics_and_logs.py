"""What programs read of a syncer: one JSON object a line, and numbers that Prometheus understands."""

from __future__ import annotations

import json
import re
import stat
import subprocess
import time
from pathlib import Path

from wandb_spool.speaking import event_of
from wandb_spool.syncer.metrics import Totals, escaped, metrics_text
from wandb_spool.syncer.rehearsal import Fault, FaultKind, RehearsalServer
from wandb_spool.syncer.service import PassResult

from .conftest import Operator

LOGGED = "import wandb; run = wandb.init(project='p', id='one'); run.log({'x': 1}); run.finish()"
SAMPLE = re.compile(r'[a-z_]+(\{[a-z_]+="([^"\\\n]|\\[\\"n])*"(,[a-z_]+="([^"\\\n]|\\[\\"n])*")*\})? -?[0-9.e+]+')


def log_a_run(operator: Operator) -> None:
    operator("run", "-q", "--", "python", "-c", LOGGED, code=0, WANDB_SILENT="true")


def test_a_sync_logs_one_object_a_line_with_entry_state_and_target(
    operator: Operator, rehearsal: RehearsalServer
) -> None:
    log_a_run(operator)
    rehearsal.set_faults([Fault(FaultKind.STATUS, "graphql:UpsertBucket", status=409)])
    wrong = operator("sync", "--log-json", "--patience", "1", code=3, **rehearsal.environment())
    events = [json.loads(line) for line in wrong.stderr.splitlines()]
    (failed,) = [event for event in events if "failure" in event]
    assert (failed["state"], failed["failure"], failed["level"]) == ("quarantined", "run deleted", "error")
    rehearsal.clear_faults()
    operator("release", failed["entry"])
    done = operator("sync", "--log-json", "--json", code=0, **rehearsal.environment())
    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert all({"at", "level", "event"} <= event.keys() for event in events)
    (delivered,) = [event for event in events if event.get("state") == "delivered"]
    assert delivered["entry"] == failed["entry"] and delivered["target"].endswith("/p/one")
    assert json.loads(done.stdout)["delivered"] == 1


def test_a_line_that_names_no_entry_is_an_event_all_the_same() -> None:
    assert event_of("watching /x: y\nz", 0.0) == {
        "at": event_of("", 0.0)["at"],
        "level": "info",
        "event": "watching /x: y\nz",
    }
    assert event_of("https://x: tls: bad certificate", 0.0)["level"] == "warning"


def test_the_daemon_writes_numbers_after_each_pass(
    operator: Operator, rehearsal: RehearsalServer, tmp_path: Path
) -> None:
    log_a_run(operator)
    path = tmp_path / "spool.prom"
    daemon = subprocess.Popen(
        operator.words("daemon", "--scan", "1", "--log-json", "--metrics", str(path)),
        env=operator.environment(**rehearsal.environment()),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 60
        while not path.exists() or 'state="delivered"' not in path.read_text():
            assert time.monotonic() < deadline and daemon.poll() is None, "no numbers came"
            time.sleep(0.1)
        text = path.read_text()
    finally:
        daemon.terminate()
        _, logged = daemon.communicate(timeout=30)
    assert all(json.loads(line)["event"] for line in logged.splitlines())
    assert 'wandb_spool_outcomes_total{state="delivered",failure=""} 1' in text
    assert "wandb_spool_rows_delivered_total 1" in text and 'wandb_spool_entries{state="incoming"} 0' in text
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert rehearsal.api_key not in text + logged


def test_every_line_is_a_comment_or_a_sample_also_with_odd_addresses() -> None:
    result = PassResult(outages={'http://a"b\\c\nd': "gone"}, answered={"http://e"})
    totals = Totals()
    totals.add(result)
    totals.add(PassResult(broken="gone"))
    lines = metrics_text({"incoming": 3}, totals, result, 1.5e9).splitlines()
    assert all(line.startswith("# ") or SAMPLE.fullmatch(line) for line in lines), lines
    assert 'wandb_spool_destination_up{destination="http://a\\"b\\\\c\\nd"} 0' in lines
    assert "wandb_spool_failed_passes_total 1" in lines
    assert escaped('a\\n"') == 'a\\\\n\\"'


def test_a_directory_that_is_not_there_is_a_mistake_of_usage(operator: Operator) -> None:
    operator("daemon", "--metrics", "/nowhere/at/all.prom", code=2)
