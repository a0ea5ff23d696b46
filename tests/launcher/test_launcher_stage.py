"""`run --stage`: written on a local disk, carried into the spool; the death of a node costs only a window."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from wandb_spool.spool import alive, identity
from wandb_spool.spool.launches import Launch
from wandb_spool.spool.layout import log_path
from wandb_spool.spool.log import rows
from wandb_spool.spool.manifest import Manifest, read_manifest
from wandb_spool.spool.queue import Spool
from wandb_spool.spool.recover import Observations, recover, reopen_grown
from wandb_spool.spool.seal import seal_fragment
from wandb_spool.spool.staging import Stage, settle
from wandb_spool.spool.states import State
from wandb_spool.syncer.rehearsal import RehearsalServer

from .processes import Launching, children, until

WHOLE = """
import os, sys, wandb
run = wandb.init(project="p", id="staged", mode="online")
open("live.txt", "w").write("first"); run.save("live.txt", policy="live"); open("live.txt", "w").write("last")
for step in range(50):
    run.log({"step": step})
open("model.bin", "wb").write(bytes(range(256)) * 100)
artifact = wandb.Artifact("model", type="model"); artifact.add_file("model.bin"); run.log_artifact(artifact)
run.log({"table": wandb.Table(columns=["a"], data=[[1]])})
run.finish()
print(os.environ["WANDB_DIR"])
"""

WAITS = """
import os, time, wandb
run = wandb.init(project="p")
for step in range(20):
    run.log({"step": step})
open(run.dir + "/kept.txt", "w").write("a finished file")
print("logged", os.getpid(), flush=True)
while not os.path.exists("go"):
    time.sleep(0.05)
for step in range(20):
    run.log({"step": 20 + step})
run.finish()
"""


@pytest.fixture
def stage(tmp_path: Path) -> Path:
    return tmp_path / "local disk"


def begin(launching: Launching, stage: Path) -> tuple[subprocess.Popen[str], int, Path]:
    """A staged training that has logged 20 rows, which are in the spool; its pid, and its run directory there."""
    launcher = launching.start(sys.executable, "-c", WAITS, options=["--stage", str(stage)])
    assert launcher.stdout is not None
    line = launcher.stdout.readline().split()
    assert line[:1] == ["logged"], launcher.stderr and launcher.stderr.read()

    def carried() -> Path | None:
        for log in launching.spool.glob("runs/*/*/wandb/*/*.wandb"):
            if sum(1 for _ in rows(log)) >= 20 and (log.parent / "files" / "kept.txt").exists():
                return log.parent
        return None

    found = until(carried, "20 rows and a finished file in the spool")
    assert found is not None
    return launcher, int(line[1]), found


def sealed(launching: Launching) -> tuple[Path, Manifest]:
    (place,) = launching.entries(State.INCOMING)
    directory = Spool.open(launching.spool).read(place).run_directory(launching.spool)
    return directory, read_manifest(directory)[0]


def recovered(launching: Launching) -> list[str]:
    spool = Spool.open(launching.spool)
    reopen_grown(spool)
    return [item.why for item in recover(spool, Observations(), writers_timeout_s=10.0)]


def end(launcher: subprocess.Popen[str], *pids: int) -> None:
    """Kill a launcher with everything that it started, and wait for wandb-core to follow."""
    own = [*children(launcher.pid), *(child for pid in pids for child in children(pid)), *pids, launcher.pid]
    for pid in own:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    launcher.communicate()
    until(lambda: all(identity.start_ticks(pid) is None for pid in own), "their death")


def test_staged_run_is_delivered_whole_when_the_local_disk_is_gone(launching: Launching, stage: Path) -> None:
    done = launching.run(sys.executable, "-c", WHOLE, options=["--stage", str(stage)])
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().startswith(str(stage)), "wandb wrote on the local disk"
    assert f"staged in {stage}" in done.stderr and "up to 5 s" in done.stderr
    directory, manifest = sealed(launching)
    assert (manifest.rows_logged, manifest.rows_kept, manifest.changed, manifest.provisional) == (51, 51, (), False)
    assert (directory / "files" / "live.txt").read_text() == "last"
    assert list(stage.iterdir()) == [], "what is sealed is removed from the stage"
    shutil.rmtree(stage)
    with RehearsalServer(launching.home / "server") as server:
        synced = subprocess.run(
            [sys.executable, "-m", "wandb_spool", "sync", "--spool", str(launching.spool)],
            env=launching.environment(**server.environment(), WANDB_SPOOL_CACHE_DIR=str(launching.home / "cache")),
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert synced.returncode == 0, synced.stdout + synced.stderr
        run = server.report().run("staged")
    assert run.row_count == 51
    model = next(artifact for artifact in run.artifacts if artifact.name == "model")
    assert model.state == "COMMITTED" and model.files["model.bin"].size_bytes == 25600


def test_a_staged_training_is_seen_to_live_by_others_and_a_killed_launcher_costs_nothing(
    launching: Launching, stage: Path
) -> None:
    launcher, trainer, directory = begin(launching, stage)
    sign = alive.read(directory)
    assert sign is not None and sign.rows == 20
    until(lambda: (now := alive.read(directory)) is not None and now.sequence > sign.sequence, "a sign of life")
    os.kill(launcher.pid, signal.SIGKILL)
    launcher.wait()
    until(lambda: (now := alive.read(directory)) is not None and now.sequence > sign.sequence + 3, "one after that")
    assert recovered(launching) == ["its writer lives"]
    (launching.home / "go").touch()
    until(lambda: identity.start_ticks(trainer) is None, "the end of the training")
    until(lambda: not launching.entries(State.OPEN) or "sealed" in str(recovered(launching)), "the seal")
    _, manifest = sealed(launching)
    assert (manifest.rows_logged, manifest.rows_kept, manifest.exit_code) == (40, 40, 0)
    assert list(stage.iterdir()) == []
    launcher.communicate()


def test_a_dead_node_and_a_purged_disk_cost_what_was_not_carried_and_that_is_told(
    launching: Launching, stage: Path
) -> None:
    launcher, trainer, directory = begin(launching, stage)
    end(launcher, trainer)
    shutil.rmtree(stage)
    assert recovered(launching) == ["sealed: its writer is dead"]
    _, manifest = sealed(launching)
    assert manifest.rows_kept == 20 and manifest.rows_logged == 20
    (told,) = manifest.changed
    assert told["path"] == f"wandb/{directory.name}"
    assert told["what"].startswith("missing: its stage on ") and "the last 5" in told["what"]
    listed = {item.path.rpartition("/")[2] for item in manifest.files}
    assert "kept.txt" in listed, "a finished file had been carried too"


def test_node_that_comes_back_with_its_disk_brings_the_rest(launching: Launching, stage: Path) -> None:
    launcher, trainer, _ = begin(launching, stage)
    for pid in (launcher.pid, *children(launcher.pid)):
        if pid != trainer:
            os.kill(pid, signal.SIGSTOP)  # nothing more is carried
    (launching.home / "go").touch()
    (source,) = stage.glob("*/wandb/offline-*/*.wandb")
    until(lambda: sum(1 for _ in rows(source)) == 40, "the end of the training")
    end(launcher, trainer)
    # As another host saw it: only what had been carried by then.
    entries = launching.entries(State.OPEN)
    (local,) = stage.iterdir()
    hidden = local.with_name("out of sight")
    local.rename(hidden)
    spool = Spool.open(launching.spool)
    seal_fragment(spool, entries[0], provisional=True, follow_links=False)
    _, before = sealed(launching)
    assert before.provisional and before.rows_kept == 20 and before.changed
    hidden.rename(local)
    recovered(launching)
    _, after = sealed(launching)
    assert (after.rows_logged, after.rows_kept, after.changed) == (40, 40, ())
    assert list(stage.iterdir()) == []


def test_bringing_in_can_be_killed_anywhere_and_repeated(launching: Launching, stage: Path) -> None:
    """Whatever a kill left of it, the next time makes it what it is on the stage."""
    launcher, trainer, directory = begin(launching, stage)
    end(launcher, trainer)
    launch = Launch.at(Spool.open(launching.spool), directory.parent.parent)
    local = Stage.of(launch)
    assert local is not None
    source = log_path(local.paths.wandb / directory.name)
    carried = directory / (source.name if source else "")
    assert source is not None
    wanted = source.read_bytes()
    states = {
        "shorter": wanted[: len(wanted) // 2],
        "longer": wanted + b"more",
        "other": b"\0" * len(wanted),
        "empty": b"",
    }
    for name, content in states.items():
        carried.write_bytes(content)
        (directory / ".tmp-0123456789ab").write_bytes(b"half a copy")
        shutil.rmtree(directory / "files", ignore_errors=True)
        settle(local, directory.name)
        assert carried.read_bytes() == wanted, name
        assert (directory / "files" / "kept.txt").read_text() == "a finished file"
    shutil.rmtree(directory)
    settle(local, directory.name)
    assert carried.read_bytes() == wanted
    assert recovered(launching) == ["sealed: its writer is dead"]
    _, manifest = sealed(launching)
    assert (manifest.rows_kept, manifest.changed) == (20, ())


def test_disk_that_is_purged_under_the_training_does_not_stop_it(launching: Launching, stage: Path) -> None:
    launcher, _, directory = begin(launching, stage)
    (local,) = stage.iterdir()
    shutil.rmtree(local)
    time.sleep(2.5)  # the hook looks every second
    (launching.home / "go").touch()
    _, told = launcher.communicate(timeout=60)
    assert launcher.returncode == 0, told
    spool = Spool.open(launching.spool)
    found = [spool.read(place) for place in launching.entries(State.INCOMING)]
    manifests = [read_manifest(entry.run_directory(spool.root))[0] for entry in found]
    assert not launching.entries(State.OPEN)
    assert sum(manifest.rows_kept for manifest in manifests) >= 40, told
    purged = next(manifest for manifest in manifests if manifest.fragment == directory.name)
    assert purged.changed, "what of it could not be carried is told"


def test_stage_of_a_launcher_that_was_killed_after_the_seal_goes_with_the_next_one(
    launching: Launching, stage: Path
) -> None:
    code = "import os, shutil, wandb; run = wandb.init(project='p'); run.log({'a': 1}); run.finish()"
    keeps = code + "; shutil.copytree(os.environ['WANDB_DIR'], 'left')"
    assert launching.run(sys.executable, "-c", keeps, options=["--stage", str(stage)]).returncode == 0
    (launch,) = launching.launches()
    left = stage / f"wandb-spool-{launch.name}"
    shutil.copytree(launching.home / "left", left, symlinks=True)
    (stage / "wandb-spool-of-somebody-else").mkdir()
    launcher, trainer, _ = begin(launching, stage)
    assert not left.exists() and len(list(stage.iterdir())) == 2, "what is not ours stays, and what is in use"
    assert launching.run("true", options=["--stage", str(stage)]).returncode == 0
    assert len(list(stage.iterdir())) == 2
    end(launcher, trainer)
    assert recovered(launching) == ["sealed: its writer is dead"]
    assert [path.name for path in stage.iterdir()] == ["wandb-spool-of-somebody-else"]


def test_command_that_starts_no_run_leaves_nothing_on_the_stage(launching: Launching, stage: Path) -> None:
    assert launching.run("true", options=["--stage", str(stage)]).returncode == 0
    assert list(stage.iterdir()) == [] and launching.launches() == []


def test_stage_that_cannot_be_made_is_told_and_the_spool_is_used(launching: Launching, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no directory")
    code = "import wandb; run = wandb.init(project='p'); run.log({'a': 1}); run.finish()"
    for place in (str(tmp_path / "file"), ""):
        done = launching.run(sys.executable, "-c", code, options=["--stage", place])
        assert done.returncode == 0, done.stderr
        assert "to the spool directly" in done.stderr
    assert len(launching.entries(State.INCOMING)) == 2


def test_launch_in_a_staged_launch_is_its_own(launching: Launching, stage: Path) -> None:
    inner = launching.command(sys.executable, "-c", "import os; print(os.environ['WANDB_DIR'])")
    done = launching.run(*inner, options=["--stage", str(stage)])
    assert done.stdout.strip().startswith(str(launching.spool)), done.stdout
    shown = launching.run(
        sys.executable, "-m", "wandb_spool", "env", "--format", "json", options=["--stage", str(stage)]
    )
    variables = json.loads(shown.stdout)
    assert variables["WANDB_DIR"] == variables["WANDB_SPOOL_STAGE"] and variables["WANDB_DIR"].startswith(str(stage))
