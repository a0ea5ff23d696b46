"""Faults: which request they strike, and what they do to a plain request and to the real client."""

from __future__ import annotations

import http.client
import json
import urllib.error
from pathlib import Path

import pytest

from wandb_spool.syncer.rehearsal import (
    Fault,
    FaultKind,
    FaultPlan,
    RehearsalServer,
    dump_faults,
    parse_faults,
    random_schedule,
)

from .clients import Client, make_run, rows, send, stream

# ---- which request ---------------------------------------------------------------------------------------


def _struck(plan: FaultPlan, endpoints: list[str]) -> list[int]:
    return [i for i, endpoint in enumerate(endpoints, 1) if plan.next_fault(endpoint)]


@pytest.mark.parametrize(
    ("which", "struck"),
    [
        ({"nth": 3}, [3]),
        ({"nth": 3, "times": 2}, [3, 4]),
        ({"every": 4}, [4, 8]),
        ({"every": 2, "times": 2}, [2, 4]),
        ({}, [1, 2, 3, 4, 5, 6, 7, 8, 9]),
        ({"times": 1}, [1]),
        ({"probability": 0.0}, []),
    ],
)
def test_a_fault_strikes_the_requests_that_it_names(which: dict[str, float], struck: list[int]) -> None:
    plan = parse_faults(json.dumps([{"kind": "refuse", "endpoint": "file_stream", **which}]))
    assert _struck(plan, ["file_stream"] * 9) == struck


def test_a_fault_counts_only_requests_to_its_endpoint_or_operation() -> None:
    plan = FaultPlan([Fault(FaultKind.REFUSE, "graphql:UpsertBucket", nth=2)])
    seen = ["graphql:UpsertBucket", "graphql:Viewer", "upload", "graphql:UpsertBucket"]
    assert _struck(plan, seen) == [4]
    assert _struck(FaultPlan([Fault(FaultKind.REFUSE, "graphql", nth=2)]), seen) == [2]
    assert _struck(FaultPlan([Fault(FaultKind.REFUSE, nth=3)]), seen) == [3]


def test_a_seed_names_a_schedule_and_draws_the_same_requests_again() -> None:
    assert random_schedule(7) == random_schedule(7)
    assert len({random_schedule(seed) for seed in range(50)}) == 50
    half = Fault(FaultKind.REFUSE, probability=0.5)
    first, second = (_struck(FaultPlan([half], seed=1), ["upload"] * 50) for _ in range(2))
    assert first == second
    assert 10 < len(first) < 40


def test_every_random_fault_ends_by_itself_and_goes_through_a_file_unchanged() -> None:
    for seed in range(200):
        schedule = random_schedule(seed)
        assert parse_faults(dump_faults(schedule)).faults == schedule
        assert all(fault.nth is not None for fault in schedule)
        assert all(fault.seconds for fault in schedule if fault.kind in (FaultKind.HANG, FaultKind.DOWN))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[", "not JSON"),
        ('{"faults": 3}', "JSON list"),
        ('[{"kind": "refuse"}, {"kind": "meteor"}]', "fault 2"),
        ('[{"kind": "refuse", "endpont": "any"}]', "endpont"),
        ('[{"kind": "refuse", "endpoint": "moon"}]', "moon"),
        ('[{"kind": "refuse", "nth": 1, "every": 2}]', "one of"),
        ('[{"endpoint": "any"}]', "kind"),
        ('[{"kind": "status", "nth": "first"}]', "nth is a number"),
        ('[{"kind": "status", "status": "500"}]', "status is a number"),
        ('[{"kind": "slow", "seconds": -1}]', "seconds is at least 0"),
        ('[{"kind": "refuse", "probability": 1.5}]', "at most 1"),
        ('{"seed": "x", "faults": []}', "the seed is a whole number"),
    ],
)
def test_a_wrong_faults_file_is_refused_with_the_reason(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_faults(text)


# ---- what happens to one request ----------------------------------------------------------------------------

BROKEN = (ConnectionError, urllib.error.URLError, http.client.HTTPException, TimeoutError)


@pytest.mark.parametrize(
    ("kind", "stored"),
    [("refuse", False), ("reset_before", False), ("reset_after", True), ("truncate", True), ("down", False)],
)
def test_a_broken_connection_leaves_stored_what_the_kind_says(
    rehearsal: RehearsalServer, kind: str, stored: bool
) -> None:
    make_run(rehearsal, "r")
    rehearsal.set_faults([Fault(FaultKind(kind), "file_stream", nth=1, seconds=0.2)])
    with pytest.raises(BROKEN):
        stream(rehearsal, "r", 0, rows(0, 3))
    rehearsal.up()
    assert rehearsal.report().run("r").lines == (3 if stored else 0)
    assert [strike["kind"] for strike in rehearsal.report().struck] == [kind]


def test_an_answered_fault_says_what_it_was_told_to(rehearsal: RehearsalServer) -> None:
    make_run(rehearsal, "r")
    rehearsal.set_faults(
        [
            Fault(FaultKind.STATUS, "file_stream", nth=1, status=429, retry_after_s=3),
            Fault(FaultKind.HTML, "file_stream", nth=2),
            Fault(FaultKind.DUPLICATE, "file_stream", nth=3),
            Fault(FaultKind.SLOW, "file_stream", nth=4, seconds=0.05),
        ]
    )
    limited = stream(rehearsal, "r", 0, rows(0, 3))
    assert (limited.status, limited.headers["retry-after"]) == (429, "3")
    portal = stream(rehearsal, "r", 0, rows(0, 3))
    assert portal.status == 200 and b"<!doctype html>" in portal.body
    assert rehearsal.report().run("r").lines == 0
    assert stream(rehearsal, "r", 0, rows(0, 3)).status == 200
    assert rehearsal.report().run("r").rewritten == 3
    assert stream(rehearsal, "r", 3, rows(3, 4)).status == 200
    assert rehearsal.report().run("r").steps == (0, 1, 2, 3)


def test_a_hanging_request_keeps_nobody_else_waiting(rehearsal: RehearsalServer) -> None:
    make_run(rehearsal, "r")
    rehearsal.set_faults([Fault(FaultKind.HANG, "file_stream", nth=1)])
    connection = http.client.HTTPConnection("127.0.0.1", rehearsal.port, timeout=20)
    connection.request("POST", "/files/rehearsal/p/r/file_stream", b"{}")
    assert make_run(rehearsal, "other").status == 200
    connection.close()


def test_a_rate_limit_is_answered_with_429_and_retry_after(rehearsal: RehearsalServer) -> None:
    rehearsal.set_behaviour(requests_per_s=1, retry_after_s=2)
    answers = [make_run(rehearsal, f"r{i}") for i in range(3)]
    assert 429 in {answer.status for answer in answers}
    limited = next(answer for answer in answers if answer.status == 429)
    assert limited.headers["retry-after"] == "2"


def test_an_outage_refuses_connections_and_loses_nothing(rehearsal: RehearsalServer) -> None:
    make_run(rehearsal, "r")
    stream(rehearsal, "r", 0, rows(0, 3))
    rehearsal.down()
    with pytest.raises(urllib.error.URLError, match="refused"):
        send("GET", f"{rehearsal.base_url}/healthz")
    rehearsal.up()
    assert stream(rehearsal, "r", 3, rows(3, 5)).status == 200
    assert rehearsal.report().run("r").steps == (0, 1, 2, 3, 4)


# ---- what happens to the real client -----------------------------------------------------------------------------

TRAIN = """
import os, pathlib, wandb
pathlib.Path("f.txt").write_text("content")
for k in range(int(os.environ["RUNS"])):
    run = wandb.init(project="p", id=f"run{k}", mode="offline")
    for i in range(50):
        run.log({"i": i})
    run.save("f.txt", base_path=".")
    artifact = wandb.Artifact(f"a{k}", type="data")
    artifact.add_file("f.txt")
    run.log_artifact(artifact)
    run.finish()
"""

# From these the client recovers by itself: after each of these groups the run is whole.
SURVIVED = {
    "statuses": [
        Fault(FaultKind.STATUS, "graphql:UpsertBucket", nth=1, status=500),
        Fault(FaultKind.STATUS, "file_stream", nth=1, status=429, retry_after_s=1),
        Fault(FaultKind.HANG, "artifact_upload", nth=1, seconds=1),
        Fault(FaultKind.STATUS, "upload", nth=1, status=503),
    ],
    "nothing-stored": [
        Fault(FaultKind.REFUSE, "file_stream", nth=1),
        Fault(FaultKind.RESET_BEFORE, "graphql:CreateRunFiles", nth=1),
        Fault(FaultKind.RESET_BEFORE, "artifact_upload", nth=1),
    ],
    "answers-lost": [
        Fault(FaultKind.RESET_AFTER, "graphql:UpsertBucket", nth=1),
        Fault(FaultKind.RESET_AFTER, "graphql:CreateArtifact", nth=1),
        Fault(FaultKind.RESET_AFTER, "upload", nth=1),
        Fault(FaultKind.RESET_AFTER, "file_stream", nth=1),
    ],
    "commit-lost": [
        Fault(FaultKind.RESET_AFTER, "graphql:CommitArtifact", nth=1),
        Fault(FaultKind.SLOW, "file_stream", nth=1, seconds=0.3),
    ],
    "everything-twice": [Fault(FaultKind.DUPLICATE, "any")],
    "outage": [Fault(FaultKind.DOWN, "file_stream", nth=1, seconds=0.5)],
    "restart": [Fault(FaultKind.RESTART, "upload", nth=1, seconds=0.2)],
}

# These end in loss, and `wandb sync` exits 0 all the same (it says so itself: the marker only means that it tried).
LOST = [
    (Fault(FaultKind.STATUS, "file_stream", status=403), "rows"),
    (Fault(FaultKind.STATUS, "upload", status=403), "files"),
    (Fault(FaultKind.STATUS, "graphql:CreateArtifact", status=403), "artifacts"),
    (Fault(FaultKind.HTML, "graphql:UpsertBucket"), "run"),
]


@pytest.fixture(scope="module")
def offline_runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The same small training again and again, one directory for each fault."""
    home = tmp_path_factory.mktemp("offline")
    with RehearsalServer(home / "server") as server:
        client = Client(home, server)
        client.python(TRAIN, RUNS=str(len(SURVIVED) + len(LOST)))
        return [path for k in range(len(SURVIVED) + len(LOST)) for path in client.run_directories(f"run{k}")]


def _client(directory: Path, server: RehearsalServer) -> Client:
    return Client(directory.parent.parent, server)


@pytest.mark.parametrize("index", range(len(SURVIVED)), ids=list(SURVIVED))
def test_the_real_client_gets_over_it_and_the_run_is_whole(
    rehearsal: RehearsalServer, offline_runs: list[Path], index: int
) -> None:
    faults = list(SURVIVED.values())[index]
    rehearsal.set_faults(faults)
    done = _client(offline_runs[index], rehearsal).sync(offline_runs[index])
    run = rehearsal.report().run(f"run{index}")
    assert {strike["endpoint"] for strike in rehearsal.report().struck} == {fault.endpoint for fault in faults}
    assert run.steps == tuple(range(50)), done.stderr
    assert run.once_and_in_place
    assert run.files["f.txt"].size_bytes == 7
    assert [(a.state, list(a.files)) for a in run.artifacts] == [("COMMITTED", ["f.txt"])]
    assert run.state == "finished"


@pytest.mark.parametrize("index", range(len(LOST)), ids=[f"{f.kind.value}-{f.endpoint}" for f, _ in LOST])
def test_what_is_refused_for_good_is_missing_although_the_client_reports_success(
    rehearsal: RehearsalServer, offline_runs: list[Path], index: int
) -> None:
    fault, lost = LOST[index]
    rehearsal.set_faults([fault])
    directory = offline_runs[len(SURVIVED) + index]
    done = _client(directory, rehearsal).sync(directory)
    assert done.returncode == 0
    marked = any(path.name.endswith(".synced") for path in directory.iterdir())
    assert marked == (lost != "run")
    if lost == "run":
        assert rehearsal.report().runs == {}
        return
    run = rehearsal.report().run(f"run{len(SURVIVED) + index}")
    arrived = {"rows": run.row_count > 0, "files": "f.txt" in run.files, "artifacts": bool(run.artifacts)}
    assert arrived == {name: name != lost for name in arrived}
