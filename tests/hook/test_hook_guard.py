"""Logging can't stop training; when it can go on, it resumes by itself in a new fragment of the same run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .programs import Ended, Fragment, Program


def steps(fragments: list[Fragment]) -> list[int]:
    return [row.step for fragment in fragments for row in fragment.rows]


def assert_nothing_lost(program: Program, ended: Ended, expected: list[int]) -> list[Fragment]:
    assert ended.exit_code == 0 and "trained" in ended.out, ended.err
    fragments = program.fragments()
    assert steps(fragments) == expected
    assert [fragment.alive.rows for fragment in fragments] == [fragment.facts.rows for fragment in fragments]
    return fragments


RESUMING = """
import wandb
run = wandb.init(project="p", name="named", tags=["t"], group="g", notes="n", job_type="j", config={{"lr": 1}})
run.define_metric("top", summary="max"); run.define_metric("low*", summary="min,mean")
run.config.update({{"late": 2}}); run.summary["best"] = 7
wandb.config["by_item"] = 3
for i in range(100):
    {call}
    if i in {kills}:
        os.kill(core(), signal.SIGKILL)
    time.sleep(0.01)
assert run.summary["best"] == 7 and run.config["lr"] == 1 and run.name == "named"
print("trained")
"""

VALUES = "{'a': i, 'top': -abs(i - 30), 'low1': abs(i - 30)}"


@pytest.mark.parametrize(
    ("call", "kills", "expected"),
    [
        (f"run.log({VALUES})", (50,), list(range(100))),
        (f"run.log({VALUES})", (2, 50, 60, 80), list(range(100))),
        (f"run.log({VALUES}, step=10 * i)", (50,), list(range(0, 1000, 10))),
        (f"run.log({VALUES}, commit=False); wandb.log({{'b': i}})", (50,), list(range(100))),
        (f"run.log({VALUES}, step=i); run.log({{'b': i}}, step=i)", (50, 99), list(range(100))),
    ],
    ids=["implicit", "again and again", "explicit", "commit", "two calls a step, and at the end"],
)
def test_after_the_death_of_wandb_core_every_row_is_there_once(
    program: Program, call: str, kills: tuple[int, ...], expected: list[int]
) -> None:
    ended = program.run(RESUMING.format(call=call, kills=kills))
    fragments = assert_nothing_lost(program, ended, expected)
    assert 2 <= len(fragments) <= len(kills) + 1
    values = {row.step: row.values for fragment in fragments for row in fragment.rows}
    assert [values[step]["a"] for step in expected] == list(range(100))
    assert all(values[step].get("b", i) == i for i, step in enumerate(expected))
    assert [fragment.alive.phase for fragment in fragments] == ["continued"] * (len(fragments) - 1) + ["finished"]
    last = fragments[-1].facts
    assert (last.run_id, last.display_name, last.tags, last.group, last.notes, last.job_type, last.resume) == (
        fragments[0].entry["run_id"], "named", ("t",), "g", "n", "j", True,
    )  # fmt: skip
    assert {key: last.config[key] for key in ("lr", "late", "by_item")} == {"lr": 1, "late": 2, "by_item": 3}
    summary = last.summary
    assert summary["best"] == 7 and summary["a"] == 99
    assert summary["top"] == {"max": 0}
    assert summary["low1"] == {"min": 0, "mean": pytest.approx(sum(abs(i - 30) for i in range(100)) / 100)}
    assert sum("goes on in a new fragment" in line for line in ended.notices) == len(fragments) - 1


def test_a_program_that_dies_of_broken_pipes_does_not_die_with_wandb_core(program: Program) -> None:
    call = f"run.log({VALUES})"
    ended = program.run("signal.signal(signal.SIGPIPE, signal.SIG_DFL)\n" + RESUMING.format(call=call, kills=(50,)))
    assert_nothing_lost(program, ended, list(range(100)))


def test_several_runs_at_once_each_resume(program: Program) -> None:
    ended = program.run(
        """
        import wandb
        runs = [wandb.init(project="p", name=f"run{n}", reinit="create_new") for n in range(3)]
        for i in range(60):
            for run in runs:
                run.log({"a": i})
            if i == 30:
                os.kill(core(), signal.SIGKILL)
            time.sleep(0.01)
        for run in runs:
            run.finish()
        print("trained")
        """
    )
    assert ended.exit_code == 0 and "trained" in ended.out, ended.err
    for number in range(3):
        mine = [fragment for fragment in program.fragments() if fragment.entry["name"] == f"run{number}"]
        assert len(mine) == 2 and sorted(steps(mine)) == list(range(60))


def test_media_files_and_artifacts_of_the_last_second_are_carried_over(program: Program) -> None:
    pytest.importorskip("PIL")
    ended = program.run(
        """
        import numpy, wandb
        run = wandb.init(project="p")
        open("model", "w").write("first"); run.save("model")
        run.log({"a": 1}); time.sleep(1.2)
        run.log({"image": wandb.Image(numpy.zeros((4, 4, 3), dtype="uint8"))})
        artifact = wandb.Artifact("data", "dataset"); artifact.add_file("model"); run.log_artifact(artifact)
        run.alert("title", "text")
        os.kill(core(), signal.SIGKILL)
        open("model", "w").write("last")
        run.log({"a": 2})
        print("trained")
        """
    )
    first, second = assert_nothing_lost(program, ended, [0, 1, 2])
    named = {file.path for fragment in (first, second) for file in fragment.facts.files}
    (image,) = (name for name in named if name.startswith("media/images"))
    assert any((fragment.path / "files" / image).is_file() for fragment in (first, second))
    assert (second.path / "files" / "model").read_text() == "last"
    assert [a.name for f in (first, second) for a in f.facts.artifacts] == ["data"]
    assert first.facts.alerts + second.facts.alerts == 1
    assert not [path for path in second.path.joinpath("files").rglob("*") if path.is_symlink()]


NEEDS_THREADS_AT_EXIT = pytest.mark.skipif(
    sys.version_info[:2] == (3, 12), reason="Python 3.12 starts no thread while it ends; the loss is counted and told"
)


@pytest.mark.parametrize(
    "fate", ["goes on", "stays stopped", pytest.param("ends without finish", marks=NEEDS_THREADS_AT_EXIT)]
)
def test_a_stopped_wandb_core_does_not_block_training(program: Program, fate: str) -> None:
    ended = program.run(
        f"""
        import wandb
        run = wandb.init(project="p")
        run.log({{"a": 0}})
        stopped = core(); os.kill(stopped, signal.SIGSTOP)
        for i in range(1, 8000):
            run.log({{"a": i}})
        run.summary.get("a")
        print("trained", flush=True)
        if {fate!r} == "goes on":
            os.kill(stopped, signal.SIGCONT)
        if {fate!r} != "ends without finish":
            run.finish()
        """
    )
    fragments = assert_nothing_lost(program, ended, list(range(8000)))
    assert len(fragments) == (1 if fate == "goes on" else 2)
    assert sum("does not take what is logged" in line for line in ended.notices) == 1


def test_no_exception_of_any_logging_call_reaches_training(program: Program) -> None:
    ended = program.run(
        """
        import wandb
        run = wandb.init(project="p", config={"lr": 1})
        run.log("no dict"); run.log({1: 2}); run.log({"a": 1}, step="x"); wandb.log(None)
        run.log_artifact("/no/such/file"); run.log_artifact(3); run.alert("t", "x", level="nonsense")
        run.save("/a/b", base_path="/c"); run.define_metric(""); run.define_metric("a*b"); run.watch(3)
        run.config.update({"lr": 2}); run.summary["x"] = object(); run.tags = 3; run.log_model("/no/such")
        try:
            run.config["no such key"]
        except KeyError:
            print("a read raises what it always raised")
        run.log({"a": 1})
        run.finish(); run.log({"after": 1}); wandb.log({"after": 1}) if wandb.run else None
        print("trained")
        """
    )
    assert ended.exit_code == 0 and "trained" in ended.out, ended.err
    assert "a read raises" in ended.out and "Traceback" not in ended.err
    assert program.fragment().facts.rows == program.fragment().alive.rows == 1


def test_a_core_that_died_is_survived_by_every_kind_of_call(program: Program) -> None:
    calls = [
        "run.log({'b': 1})", "run.summary['x'] = 1", "run.summary.get('a')", "run.config.update({'n': 1})",
        "run.name = 'x'", "run.save('f')", "run.log_artifact('f')", "run.define_metric('m')", "run.status()",
        "run.alert('t', 'x')", "wandb.init(project='p', reinit='create_new').finish()", "run.finish()",
        "wandb.teardown()",
    ]  # fmt: skip
    ended = program.run(
        f"""
        import wandb
        open("f", "w").write("x")
        for call in {calls!r}:
            run = wandb.init(project="p", reinit="finish_previous")
            run.log({{"a": 1}})
            dead = core(); os.kill(dead, signal.SIGKILL)
            time.sleep(0.05)
            exec(call)
            run.finish()
        print("trained")
        """
    )
    assert ended.exit_code == 0 and "trained" in ended.out, ended.err
    assert "Traceback" not in ended.err
    assert sum(len(fragment.rows) for fragment in program.fragments()) == len(calls) + 1


@pytest.mark.parametrize("damage", ["removed", "log removed"])
def test_a_launch_directory_that_is_removed_does_not_end_logging(program: Program, damage: str) -> None:
    ended = program.run(
        f"""
        import shutil, wandb
        run = wandb.init(project="p")
        for i in range(300):
            run.log({{"a": i}})
            if i == 100:
                time.sleep(1)
                if {damage!r} == "removed":
                    shutil.rmtree(os.environ["WANDB_SPOOL_LAUNCH"])
                else:
                    os.unlink(run._settings.sync_file)
            time.sleep(0.01)
        print("trained")
        """
    )
    assert ended.exit_code == 0 and "trained" in ended.out, ended.err
    last = program.fragments()[-1]
    assert last.facts.last_step == 299 and last.facts.exit_code == 0
    assert any("removed" in line for line in ended.notices)


@pytest.fixture
def small(program: Program, tmp_path: Path) -> Iterator[Program]:
    """A spool on a device of its own, 16 MiB."""
    mount = tmp_path / "small"
    mount.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", "size=16m,nr_inodes=2000", "none", str(mount)]
    if os.geteuid() != 0 or subprocess.run(mounting).returncode:
        pytest.skip("a full disk needs a tmpfs of its own, and mounting one needs root")
    try:
        yield Program(program.home, mount / "spool")
    finally:
        subprocess.run(["umount", "-l", mount], check=True)


FULL = """
import wandb
run = wandb.init(project="p")
room = os.environ["WANDB_SPOOL_DIR"] + "/filler"
def fill():
    with open(room, "wb", buffering=0) as filler:
        for size in (65536, 1):
            try:
                while True:
                    filler.write(bytes(size))
            except OSError:
                pass
for i in range(750):
    run.log({"a": i, "pad": "x" * 1000})
    time.sleep(0.01)
    if i == 100:
        time.sleep(1); fill()
    if i == FREED:
        os.unlink(room)
print("trained", flush=True)
"""


def test_when_the_disk_has_room_again_logging_resumes_and_nothing_is_lost(small: Program) -> None:
    ended = small.run(FULL.replace("FREED", "680"))
    fragments = assert_nothing_lost(small, ended, list(range(750)))
    assert len(fragments) == 2
    assert sum("No space left" in line for line in ended.notices) == 2  # it began; it is over
    assert "Traceback" not in ended.err


def test_a_disk_that_is_full_for_a_moment_costs_no_row(small: Program) -> None:
    """wandb-core's writer never recovers from it, and nobody who looks later sees that there was no room."""
    ended = small.run(FULL.replace("FREED", "200"))
    fragments = assert_nothing_lost(small, ended, list(range(750)))
    assert len(fragments) == 2
    assert any("stands still though there is room" in line for line in ended.notices)


def test_a_disk_that_stays_full_is_told_at_the_end_with_a_count(small: Program) -> None:
    ended = small.run(FULL.replace("FREED", "-1"))
    assert ended.exit_code == 0 and "trained" in ended.out, ended.err
    fragment = small.fragment()
    kept = len(list(fragment.rows))
    assert fragment.alive.rows == 750 and fragment.alive.phase == "failed" and 90 <= kept < 750
    assert any(f"ends without {750 - kept} of its rows" in line for line in ended.notices)
    assert "Traceback" not in ended.err


FULL_AT_INIT = """
import wandb
spool = os.environ["WANDB_SPOOL_DIR"]
room = spool + "/filler"
if sys.argv[1] == "bytes":
    with open(room, "wb", buffering=0) as filler:
        for size in (65536, 1):
            try:
                while True:
                    filler.write(bytes(size))
            except OSError:
                pass
else:
    os.mkdir(room)
    try:
        for n in range(10 ** 6):
            open(f"{room}/{n}", "w").close()
    except OSError:
        pass
run = wandb.init(project="p", config={"lr": 1})
for i in range(900):
    run.log({"a": i})
    time.sleep(0.01)
    if i == 50:
        import shutil
        os.unlink(room) if sys.argv[1] == "bytes" else shutil.rmtree(room)
assert run.config["lr"] == 1
print("trained", flush=True)
"""


@pytest.mark.parametrize("short_of", ["bytes", "inodes"])
def test_a_run_that_begins_on_a_full_disk_is_logged_once_there_is_room(small: Program, short_of: str) -> None:
    (small.home / "tmp").mkdir()
    small.environ["TMPDIR"] = str(small.home / "tmp")
    ended = small.run(FULL_AT_INIT, short_of)
    assert_nothing_lost(small, ended, list(range(900)))
    assert small.fragments()[-1].facts.config["lr"] == 1
    assert "Traceback" not in ended.err and len(ended.notices) <= 5, ended.err
    assert not list((small.home / "tmp").glob("wandb-spool-*"))


def test_a_spool_that_cannot_be_written_leaves_training_alone(program: Program) -> None:
    shutil.rmtree(program.spool)
    program.spool.write_text("a file where the spool should be")
    ended = program.run(
        """
        import wandb
        run = wandb.init(project="p")
        run.log({"a": 1}); run.summary["x"] = 1; run.finish()
        print("trained")
        """
    )
    assert ended.exit_code == 0 and "trained" in ended.out, ended.err
    assert 1 <= len(ended.notices) <= 4 and "Traceback" not in ended.err


def test_a_hook_that_finds_its_fragment_sealed_starts_a_new_one(program: Program) -> None:
    ended = program.run(
        """
        import wandb
        run = wandb.init(project="p")
        for i in range(90):
            run.log({"a": i})
            if i == 50:
                time.sleep(1.5)
                open(os.path.dirname(run._settings.sync_file) + "/manifest.json", "w").write("{}")
            time.sleep(0.02)
        print("trained")
        """
    )
    fragments = assert_nothing_lost(program, ended, list(range(90)))
    assert len(fragments) == 2


def test_a_working_directory_that_is_removed_costs_no_row(program: Program) -> None:
    ended = program.run(
        """
        import os, shutil, tempfile, wandb
        os.chdir(tempfile.mkdtemp())
        with wandb.init(project="p", id="before") as run:
            run.log({"x": 1})
            shutil.rmtree(os.getcwd())
            run.log({"x": 2})
        run = wandb.init(project="p", id="behind")
        run.log({"x": 3})
        run.finish()
        """
    )
    assert ended.exit_code == 0, ended.err
    assert not [line for line in ended.notices if "rows" in line or "NOT logged" in line]
    found = {part.entry["run_id"]: [row.values["x"] for row in part.rows] for part in program.fragments()}
    assert found == {"before": [1, 2], "behind": [3]}


def test_last_words_that_nobody_can_hear_cost_no_row(program: Program) -> None:
    ended = program.run(
        """
        import wandb
        run = wandb.init(project="p")
        for value in range(5):
            run.log({"x": value})
        sys.stdout.close()
        sys.stderr.close()
        run.finish()
        os.write(1, b"trained")
        """
    )
    assert ended.exit_code == 0 or "trained" in ended.out, ended.err
    (fragment,) = program.fragments()
    assert [row.values["x"] for row in fragment.rows] == list(range(5))
