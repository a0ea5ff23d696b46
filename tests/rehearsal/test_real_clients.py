"""The real wandb client against the server: online, offline and synced, resumed, and read back through wandb.Api."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from wandb_spool.syncer.rehearsal import RehearsalServer, Report

from .clients import Client

# One program that uses the logging API as people do; it runs online and offline.
TRAIN = """
import os, pathlib, wandb
mode, run_id = os.environ["MODE"], os.environ["RUN_ID"]
run = wandb.init(project="digits", id=run_id, mode=mode, config={"lr": 0.1, "net": {"depth": 2}}, tags=["a"],
                 name="named", notes="why", group="g", job_type="train")
run.define_metric("loss", summary="min")
for i in range(100):
    run.log({"loss": 1 / (i + 1), "nested": {"x": i}, "bad": float("nan") if i == 5 else 1.0})
folder = pathlib.Path("files-" + run_id)
folder.mkdir()
(folder / "weights.bin").write_bytes(bytes(range(256)) * 1000)
(folder / "empty.txt").write_bytes(b"")
run.save(str(folder / "*"), base_path=".")
artifact = wandb.Artifact("model-" + run_id, type="model", metadata={"acc": 0.5})
artifact.add_file(str(folder / "weights.bin"))
artifact.add_file(str(folder / "empty.txt"), name="sub dir/empty file.txt")
run.log_artifact(artifact, aliases=["best"])
run.log({"table": wandb.Table(columns=["n", "t"], data=[[1, "one"], [2, "two"]])})
run.config.update({"late": True})
run.summary["explicit"] = 7
run.alert("attention", "something happened")
print("said on the console")
run.finish(exit_code=0)
"""

READ = """
import hashlib, json, os, pathlib, wandb
api = wandb.Api()
answer = {"entity": api.default_entity, "projects": [p.name for p in api.projects()],
          "runs": sorted(r.id for r in api.runs("rehearsal/digits")),
          "filtered": [r.id for r in api.runs("rehearsal/digits", {"config.lr": 0.1, "display_name": "named"},
                                              order="-created_at", lazy=False)]}
for run_id in ("online", "offline"):
    run = api.run(f"rehearsal/digits/{run_id}")
    pages = list(run.scan_history(page_size=30))
    files = {f.name: [f.size, f.md5] for f in run.files()}
    with run.file(f"files-{run_id}/weights.bin").download(root="down", replace=True) as file:
        downloaded = pathlib.Path(file.name).read_bytes()
    artifacts = {}
    for artifact in run.logged_artifacts():
        place = pathlib.Path(artifact.download(root=f"artifacts/{run_id}/{artifact.type}"))
        names = [str(p.relative_to(place)) for p in place.rglob("*") if p.is_file()]
        artifacts[artifact.type] = {n: hashlib.sha256((place / n).read_bytes()).hexdigest() for n in names}
    model = api.artifact(f"rehearsal/digits/model-{run_id}:best", type="model")
    answer[run_id] = {
        "state": run.state, "name": run.name, "config": run.config, "summary": dict(run.summary._json_dict),
        "tags": run.tags, "group": run.group, "job_type": run.job_type, "notes": run.notes,
        "steps": [row["_step"] for row in pages], "first": {k: pages[0][k] for k in ("loss", "nested")},
        "nan": repr(pages[5]["bad"]),
        "keyed": len(list(run.scan_history(keys=["loss"]))),
        "window": len(list(run.scan_history(min_step=10, max_step=20))),
        "history": len(run.history(pandas=False)), "sampled": len(run.history(samples=10, pandas=False)),
        "sampled_keys": len(run.history(keys=["loss"], pandas=False)), "last": run.lastHistoryStep,
        "files": files, "downloaded": hashlib.sha256(downloaded).hexdigest(), "artifacts": artifacts,
        "model": [model.version, model.metadata, model.size, sorted(model.aliases), model.logged_by().id],
        "model_files": sorted(f.name for f in model.files()),
        "console": [line.content for line in run.console_logs()], "program": (run.metadata or {}).get("python"),
    }
print(json.dumps(answer))
"""

WEIGHTS = hashlib.sha256(bytes(range(256)) * 1000).hexdigest()
NOTHING = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True)
class Story:
    """What happened, told once for all the tests of this module."""

    report: Report
    read: Any
    second_sync: Report


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    home = tmp_path_factory.mktemp("clients")
    with RehearsalServer(home / "server") as server:
        client = Client(home, server)
        client.python(TRAIN, MODE="online", RUN_ID="online")
        client.python(TRAIN, MODE="offline", RUN_ID="offline")
        client.sync(*client.run_directories("offline"))
        report, read = server.report(), client.ask(READ)
        client.sync(*client.run_directories("offline"), options=("--include-synced",))
        yield Story(report, read, server.report())


both = pytest.mark.parametrize("way", ["online", "offline"])


@both
def test_every_row_arrives_once_and_on_its_step(story: Story, way: str) -> None:
    run = story.report.run(way)
    assert run.steps == tuple(range(101))
    assert [row["loss"] for _, row in run.rows[:100]] == [1 / (i + 1) for i in range(100)]
    assert run.once_and_in_place
    assert (run.state, run.exit_code) == ("finished", 0)


@both
def test_config_summary_and_names_arrive_as_they_were_given(story: Story, way: str) -> None:
    run, read = story.report.run(way), story.read[way]
    assert run.config == read["config"] == {"lr": 0.1, "net": {"depth": 2}, "late": True}
    assert run.summary["explicit"] == read["summary"]["explicit"] == 7
    assert run.summary["loss"] == {"min": 0.01}
    assert (run.display_name, run.tags) == ("named", ("a",))
    assert (read["name"], read["group"], read["job_type"], read["notes"]) == ("named", "g", "train", "why")


@both
def test_files_arrive_with_their_bytes_and_come_back_the_same(story: Story, way: str) -> None:
    run, read = story.report.run(way), story.read[way]
    assert run.files[f"files-{way}/weights.bin"] == (256_000, WEIGHTS)
    assert run.files[f"files-{way}/empty.txt"] == (0, NOTHING)
    assert read["downloaded"] == WEIGHTS
    assert {name: size for name, (size, _) in read["files"].items()} == {
        name: file.size_bytes for name, file in run.files.items()
    }
    assert {"config.yaml", "wandb-summary.json", "wandb-metadata.json"} <= run.files.keys()
    assert read["program"]


@both
def test_artifacts_are_committed_whole_and_download_byte_for_byte(story: Story, way: str) -> None:
    artifacts = {artifact.type: artifact for artifact in story.report.run(way).artifacts}
    assert {artifact.state for artifact in artifacts.values()} == {"COMMITTED"}
    model = {"weights.bin": WEIGHTS, "sub dir/empty file.txt": NOTHING}
    assert {path: file.sha256 for path, file in artifacts["model"].files.items()} == model
    read = story.read[way]
    assert read["artifacts"]["model"] == model
    assert read["model"] == ["v0", {"acc": 0.5}, 256_000, ["best", "latest"], way]
    assert read["model_files"] == sorted(model)
    assert list(read["artifacts"]["run_table"]) == ["table.table.json"]


@both
def test_history_reads_the_same_by_every_way_that_the_api_has(story: Story, way: str) -> None:
    read = story.read[way]
    assert read["steps"] == list(range(101))
    assert read["first"] == {"loss": 1, "nested": {"x": 0}}
    assert (read["keyed"], read["window"], read["history"], read["sampled"]) == (100, 10, 101, 10)
    assert (read["sampled_keys"], read["last"]) == (100, 100)


@both
def test_console_output_is_kept_line_by_line(story: Story, way: str) -> None:
    assert "said on the console" in story.read[way]["console"]


def test_lists_of_runs_and_projects_show_both_runs(story: Story) -> None:
    assert story.read["entity"] == "rehearsal"
    assert story.read["projects"] == ["digits"]
    assert story.read["runs"] == ["offline", "online"]
    assert story.read["filtered"] == ["offline", "online"]


def test_the_client_asks_for_nothing_that_the_schema_lacks(story: Story) -> None:
    assert story.second_sync.misunderstood == ()


def test_a_second_full_sync_appends_every_row_again_and_the_report_says_so(story: Story) -> None:
    run = story.second_sync.run("offline")
    assert run.lines == 202  # the server had reported 101 lines, and the client sent all again behind them
    assert run.doubled == tuple(range(101))
    assert run.row_count == 101  # duplicates are not shown
    assert not run.moved  # thanks to the client's .syncstate
    assert len(story.second_sync.alerts) == 3  # online, offline, and again


FRAGMENT = """
import os, wandb
run = wandb.init(project="p", id="job", mode=os.environ.get("MODE", "offline"), resume="allow")
for i in range(int(os.environ["FIRST"]), int(os.environ["END"])):
    run.log({"i": i}, step=i)
run.finish()
"""


@pytest.fixture
def client(tmp_path: Path, rehearsal: RehearsalServer) -> Client:
    home = tmp_path / "home"
    home.mkdir()
    return Client(home, rehearsal)


def test_two_fragments_chain_and_a_forgotten_syncstate_moves_rows_which_is_told(
    client: Client, rehearsal: RehearsalServer
) -> None:
    for first, end in ((0, 100), (100, 150)):
        client.python(FRAGMENT, FIRST=str(first), END=str(end))
        client.sync(client.run_directories("job")[-1])
    run = rehearsal.report().run("job")
    assert [(step, row["i"]) for step, row in run.rows] == [(i, i) for i in range(150)]
    assert run.once_and_in_place
    oldest = client.run_directories("job")[0]
    for marker in oldest.glob("*.wandb.sync*"):
        marker.unlink()
    client.sync(oldest)
    run = rehearsal.report().run("job")
    assert run.moved == tuple((i, 150 + i) for i in range(100))


def test_a_run_resumed_online_goes_on_where_it_ended(client: Client, rehearsal: RehearsalServer) -> None:
    client.python(FRAGMENT, MODE="online", FIRST="0", END="30")
    client.python(FRAGMENT, MODE="online", FIRST="30", END="40")
    run = rehearsal.report().run("job")
    assert [(step, row["i"]) for step, row in run.rows] == [(i, i) for i in range(40)]
    assert run.once_and_in_place


def test_a_wrong_key_and_a_deleted_run_end_in_an_error_line_and_store_nothing(
    client: Client, rehearsal: RehearsalServer
) -> None:
    client.python(FRAGMENT, FIRST="0", END="3")
    (directory,) = client.run_directories("job")
    refused = client.sync(directory, WANDB_API_KEY="f" * 40)
    assert "401" in refused.stderr + refused.stdout
    assert rehearsal.report().runs == {}
    client.sync(directory)
    rehearsal.delete_run("rehearsal", "p", "job")
    refused = client.sync(directory, options=("--include-synced",))
    assert "previously created and deleted" in refused.stderr + refused.stdout
    assert json.dumps(rehearsal.report(rows=False).to_json())
