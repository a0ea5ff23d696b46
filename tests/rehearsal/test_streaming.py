"""What the server promises about lines: offsets, duplicates, and what it says about them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from wandb_spool.syncer.rehearsal import RehearsalServer, StreamTail

from .clients import gql, make_run, post, rows, send, stream

HISTORY = 'query($n: String!) { project(name: "p") { run(name: $n) { historyLineCount historyKeys %s } } }'


@pytest.fixture
def server(rehearsal: RehearsalServer) -> RehearsalServer:
    assert make_run(rehearsal, "r").status == 200
    return rehearsal


def _history(server: RehearsalServer, arguments: str = "") -> list[dict[str, object]]:
    lines = gql(server, HISTORY % f"history{arguments}", n="r")["project"]["run"]["history"]
    return [json.loads(line) for line in lines]


def test_lines_replace_from_their_offset_and_are_never_appended(server: RehearsalServer) -> None:
    stream(server, "r", 0, rows(0, 10))
    stream(server, "r", 5, rows(5, 12))
    run = server.report().run("r")
    assert run.steps == tuple(range(12))
    assert (run.lines, run.lines_received, run.rewritten, run.overwritten) == (12, 17, 5, 0)
    assert run.once_and_in_place


def test_a_chunk_within_the_file_keeps_or_cuts_what_lies_behind_it(server: RehearsalServer) -> None:
    stream(server, "r", 0, rows(0, 10))
    stream(server, "r", 0, rows(0, 3))
    assert server.report().run("r").lines == 10
    server.set_behaviour(stream_tail=StreamTail.CUT)
    stream(server, "r", 0, rows(0, 3))
    assert server.report().run("r").steps == (0, 1, 2)


def test_a_row_that_comes_again_behind_the_others_is_told_as_doubled(server: RehearsalServer) -> None:
    stream(server, "r", 0, rows(0, 10))
    stream(server, "r", 10, rows(7, 10))
    run = server.report().run("r")
    assert run.doubled == (7, 8, 9)
    assert run.row_count == 10  # a reader of the history does not see them
    assert not run.moved and not run.conflicting


def test_another_value_at_the_same_step_is_told_as_conflicting(server: RehearsalServer) -> None:
    stream(server, "r", 0, rows(0, 4))
    stream(server, "r", 4, [{"loss": 99, "_step": 2, "_timestamp": 7.0}])
    assert server.report().run("r").conflicting == (2,)


def test_the_same_row_on_another_step_is_told_as_moved_and_a_constant_metric_is_not(
    server: RehearsalServer,
) -> None:
    constant = [{"lr": 1, "_step": i, "_timestamp": float(i)} for i in range(5)]
    stream(server, "r", 0, constant)
    assert server.report().run("r").moved == ()
    stream(server, "r", 5, [{**row, "_step": 100 + i} for i, row in enumerate(constant)])
    assert server.report().run("r").moved == tuple((i, 100 + i) for i in range(5))


def test_a_row_that_takes_its_own_place_on_another_step_is_told_as_moved(server: RehearsalServer) -> None:
    stream(server, "r", 0, rows(0, 2))
    stream(server, "r", 1, [{**rows(1, 2)[0], "_step": 41}])
    assert server.report().run("r").moved == ((1, 41),)


def test_a_row_that_gives_way_to_another_one_is_told_as_overwritten(server: RehearsalServer) -> None:
    stream(server, "r", 0, rows(0, 10))
    stream(server, "r", 0, rows(100, 104))
    run = server.report().run("r")
    assert run.overwritten == 4
    assert run.steps == (*range(4, 10), *range(100, 104))


def test_a_row_sent_again_with_its_keys_in_another_order_is_the_same_row(server: RehearsalServer) -> None:
    stream(server, "r", 0, rows(0, 4))
    stream(server, "r", 0, [dict(reversed(row.items())) for row in rows(0, 4)])
    run = server.report().run("r")
    assert (run.rewritten, run.overwritten) == (4, 0)


def test_skipped_line_numbers_are_told_as_holes(server: RehearsalServer) -> None:
    stream(server, "r", 3, rows(3, 5))
    run = server.report().run("r")
    assert (run.holes, run.steps) == (3, (3, 4))


@pytest.mark.parametrize(("switch", "losses"), [("drop", [1, 2]), ("replace", [1, 3]), ("keep", [1, 2, 3])], ids=str)
def test_a_reader_sees_duplicate_steps_as_the_switch_says(
    server: RehearsalServer, switch: str, losses: list[int]
) -> None:
    server.set_behaviour(duplicates=switch)
    stream(server, "r", 0, [{"loss": 1, "_step": 0}, {"loss": 2, "_step": 1}, {"loss": 3, "_step": 1}])
    assert [row["loss"] for row in _history(server)] == losses
    assert [row["loss"] for _, row in server.report().run("r").rows] == losses


def test_history_is_read_by_half_open_step_ranges(server: RehearsalServer) -> None:
    stream(server, "r", 0, [{"loss": 1, "_step": step} for step in (0, 7, 10, 19, 20, 21)])
    assert [row["_step"] for row in _history(server, "(minStep: 7, maxStep: 20)")] == [7, 10, 19]


def test_nothing_is_null_and_infinities_are_json_in_every_answer(server: RehearsalServer) -> None:
    stream(server, "r", 0, [{"loss": float("nan"), "_step": 0}, {"loss": float("-inf"), "_step": 1}])
    sample = 'sampledHistory(specs: ["{\\"keys\\": [\\"loss\\"]}"])'
    data = gql(server, HISTORY % sample, n="r")["project"]["run"]["sampledHistory"]
    assert data == [[{"loss": "NaN"}, {"loss": "-Infinity"}]]
    assert [row["loss"] for _, row in server.report().run("r").rows] == ["NaN", "-Infinity"]


@pytest.mark.parametrize(("switch", "count"), [("reported", 3), ("zero", 0), ("null", None)])
def test_line_counts_are_reported_zero_or_null_when_a_run_is_created_again(
    server: RehearsalServer, switch: str, count: int | None
) -> None:
    stream(server, "r", 0, rows(0, 3))
    server.set_behaviour(line_counts=switch)
    payload = make_run(server, "r").body["data"]["upsertBucket"]
    assert (payload["inserted"], payload["bucket"]["historyLineCount"]) == (False, count)


def test_late_data_is_not_shown_yet_but_writers_are_told_the_truth(server: RehearsalServer) -> None:
    stream(server, "r", 0, rows(0, 3))
    server.set_behaviour(late_s=3600)
    seen = gql(server, HISTORY % "history", n="r")["project"]["run"]
    assert (seen["historyLineCount"], seen["historyKeys"], seen["history"]) == (0, None, [])
    assert make_run(server, "r").body["data"]["upsertBucket"]["bucket"]["historyLineCount"] == 3
    assert server.report().run("r").row_count == 3
    server.set_behaviour(late_s=0)
    assert len(_history(server)) == 3


def test_state_and_exit_code_follow_the_stream(server: RehearsalServer) -> None:
    stream(server, "r", 0, rows(0, 1))
    assert server.report().run("r").state == "running"
    post(server, "/files/rehearsal/p/r/file_stream", {"complete": True, "exitcode": 3})
    assert (server.report().run("r").state, server.report().run("r").exit_code) == ("failed", 3)
    stream(server, "r", 1, rows(1, 2))
    assert server.report().run("r").state == "running"
    post(server, "/files/rehearsal/p/r/file_stream", {"complete": True, "exitcode": 0})
    assert server.report().run("r").state == "finished"


def test_gzip_bodies_are_understood_and_a_torn_one_is_refused(server: RehearsalServer) -> None:
    chunk = {"files": {"wandb-history.jsonl": {"offset": 0, "content": ['{"_step": 0}']}}}
    packed = gzip.compress(json.dumps(chunk).encode())
    url = f"{server.base_url}/files/rehearsal/p/r/file_stream"
    for body, status in ((packed, 200), (packed[:-12], 400), (b"not gzip", 400)):
        answer = send("POST", url, body, key=server.api_key, Content_Encoding="gzip")
        assert answer.status == status
    assert server.report().run("r").steps == (0,)


def test_a_big_body_is_taken_unless_there_is_a_limit(server: RehearsalServer) -> None:
    big = [{"text": "x" * 1000, "_step": i} for i in range(12_000)]
    assert stream(server, "r", 0, big).status == 200
    assert server.report(rows=False).run("r").row_count == 12_000
    server.set_behaviour(max_body_bytes=1_000_000)
    assert stream(server, "r", 0, big).status == 413


@pytest.mark.parametrize(
    "body", [[], {"files": []}, {"files": {"f": {"offset": -1, "content": []}}}, {"files": {"f": {"content": [1]}}}]
)
def test_a_malformed_stream_is_refused_and_stores_nothing(server: RehearsalServer, body: object) -> None:
    assert post(server, "/files/rehearsal/p/r/file_stream", body).status == 400
    assert server.report().run("r").lines == 0


def test_a_restart_from_disk_changes_nothing_that_is_reported(server: RehearsalServer) -> None:
    stream(server, "r", 0, rows(0, 10))
    stream(server, "r", 8, rows(8, 15))
    stream(server, "r", 20, [{**rows(3, 4)[0], "_step": 90}])
    before = server.report()
    server.restart()
    assert server.report().runs == before.runs


def test_a_torn_chunk_at_the_end_is_cut_away_when_the_server_starts(server: RehearsalServer) -> None:
    stream(server, "r", 0, rows(0, 5))
    (log,) = Path(server.data_dir).rglob("wandb-history*")
    whole = log.stat().st_size
    server.down()
    with log.open("ab") as file:
        file.write(b'{"offset":5,"time":0,"cut":false,"sizes":[100]}\n{"_step": 5')
    server.restart()
    assert server.report().run("r").steps == (0, 1, 2, 3, 4)
    assert log.stat().st_size == whole
    stream(server, "r", 5, rows(5, 6))
    server.restart()
    assert server.report().run("r").steps == (0, 1, 2, 3, 4, 5)
