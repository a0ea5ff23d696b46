"""Where a launch writes: room, visibility and a file server that does not answer are looked at before training."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mounts import file_server, fill, tmpfs

from wandb_spool.runner.preflight import LOW_BYTES, Disk, Guard, concerns, filesystem, look
from wandb_spool.spool.states import State

from .processes import Launching

ROOM = Disk("ext4", 1 << 40, 1 << 20)
MOUNTS = [
    "22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw",
    "31 22 0:27 / /scratch rw - lustre 10.0.0.1@tcp:/scratch rw",
    "32 22 0:28 / /scratch/a\\040b rw - tmpfs tmpfs rw",
    "33 22 0:29 / /home rw master:7 - nfs4 server:/home rw",
    "a line of another kernel",
]


def test_the_file_system_of_a_path_is_that_of_its_nearest_mount() -> None:
    found = [filesystem(MOUNTS, path) for path in ("/scratch/me", "/scratch/a b/x", "/scratcher", "/home", "/")]
    assert found == ["lustre", "tmpfs", "ext4", "nfs4", "ext4"]
    assert filesystem([], "/anything") == ""


@pytest.mark.parametrize(
    ("disk", "environ", "words"),
    [
        (ROOM, {}, None),
        (ROOM, {"SLURM_JOB_ID": "7"}, "a disk of this node (ext4)"),
        (Disk("tmpfs", 1 << 40, None), {"SLURM_JOB_ID": "7"}, "this node's memory"),
        (Disk("lustre", 1 << 40, None), {"SLURM_JOB_ID": "7"}, None),
        (Disk("a kind of tomorrow", 1 << 40, 0), {"PBS_JOBID": "7"}, "room for only 0 more files"),
        (
            Disk("nfs4", LOW_BYTES - 1, 9),
            {},
            "rows are lost; it has room for only 9 more files",
        ),
        (None, {"SLURM_JOB_ID": "7"}, None),
    ],
)
def test_one_line_says_what_may_become_a_problem(disk: Disk | None, environ: dict[str, str], words: str | None) -> None:
    told = concerns(Path("/spool"), disk, environ)
    if words is None:
        assert told is None
    else:
        assert told is not None and told.startswith("WARNING: the spool /spool ") and words in told and "\n" not in told


def test_small_disk_is_told_before_training_and_a_full_one_early_and_once(launching: Launching, tmp_path: Path) -> None:
    with tmpfs(tmp_path / "small", "size=64m") as small:
        launching.spool = small / "spool"
        done = launching.run("true", SLURM_JOB_ID="7")
        (line,) = [line for line in done.stderr.splitlines() if "WARNING" in line]
        assert "free: when it is full" in line and "this node's memory" in line and done.returncode == 0
        disk = look(small)
        assert disk is not None and disk.kind == "tmpfs" and disk.free_bytes <= 64 << 20
    large = 2 * LOW_BYTES + (64 << 20)
    with tmpfs(tmp_path / "large", f"size={large}") as disk_of_its_own:
        guard = Guard(disk_of_its_own)
        assert guard.look() is None
        fd = os.open(disk_of_its_own / "ballast", os.O_WRONLY | os.O_CREAT)
        try:
            os.posix_fallocate(fd, 0, LOW_BYTES + (128 << 20))
        except OSError as error:
            pytest.skip(f"this host has no room for the test: {error}")
        finally:
            os.close(fd)
        told = guard.look()
        assert told is not None and "training goes on" in told
        assert guard.look() is None


def test_full_disk_is_passed_over_for_the_fallback(launching: Launching, tmp_path: Path) -> None:
    with tmpfs(tmp_path / "full", "size=4m") as full:
        fill(full, leave_bytes=100_000)
        launching.spool = full / "spool"
        done = launching.run("sh", "-c", 'echo "$WANDB_SPOOL_DIR"')
        assert done.returncode == 0
        assert done.stdout.strip() == str(launching.home / ".local/state/wandb-spool")
        assert "fallback spool" in done.stderr


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, subprocess.Popen[bytes]]]:
    with file_server(tmp_path) as served:
        yield served


@pytest.fixture
def hung(served: tuple[Path, subprocess.Popen[bytes]]) -> Path:
    """A file system whose server has stopped: every access waits."""
    mount, server = served
    server.send_signal(signal.SIGSTOP)
    return mount


RUN = (
    "import os, sys; from pathlib import Path; from wandb_spool.runner.launch import LaunchRequest, run\n"
    "request = LaunchRequest(tuple(sys.argv[2:]), Path(sys.argv[1]), first_touch_s=1.0)\n"
    "sys.exit(run(request, os.environ))"
)


def test_file_server_that_does_not_answer_holds_up_nobody(launching: Launching, hung: Path) -> None:
    code = "import wandb; run = wandb.init(project='p'); run.log({'a': 1}); run.finish()"
    words = [sys.executable, "-c", RUN, str(hung / "spool"), sys.executable, "-c", code]
    started = time.monotonic()
    done = subprocess.run(words, env=launching.environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - started < 60
    assert f"the file system of {hung / 'spool'} does not answer" in done.stderr
    launching.spool = launching.home / ".local/state/wandb-spool"
    assert len(launching.entries(State.INCOMING)) == 1


def test_file_server_that_stops_while_the_command_runs_holds_up_neither_signals_nor_the_end(
    launching: Launching, served: tuple[Path, subprocess.Popen[bytes]]
) -> None:
    mount, server = served
    code = (
        "import os, signal, sys, time, wandb\n"
        "wandb.init(project='p').log({'a': 1})\n"
        "print('ready', flush=True); time.sleep(8)\n"  # past the first look of the launcher's keeper
        "signal.signal(signal.SIGTERM, lambda *a: os._exit(9)); print('waits', flush=True); time.sleep(600)\n"
    )
    words = [sys.executable, "-c", RUN, str(mount / "spool"), sys.executable, "-c", code]
    said = launching.home / "said"
    with said.open("w") as stderr:  # no pipe: wandb-core hangs with the file server, and would hold it open
        launcher = subprocess.Popen(
            words, env=launching.environment(), stdout=subprocess.PIPE, stderr=stderr, text=True
        )
    assert launcher.stdout is not None and launcher.stdout.readline() == "ready\n"
    server.send_signal(signal.SIGSTOP)
    assert launcher.stdout.readline() == "waits\n"
    launcher.send_signal(signal.SIGTERM)
    assert launcher.wait(60) == 9
    launcher.stdout.close()
    assert "does not answer; nothing is lost: `wandb-spool recover` seals" in said.read_text()


LOGGING = """
import sys, time, wandb
run = wandb.init(project="p")
for i in range(200):
    run.log({"a": i})
    if i == 50:
        time.sleep(1.5)  # on the disk, and proven
        print("stop", flush=True)
        sys.stdin.readline()
print("logged", flush=True)
sys.stdin.readline()
if sys.argv[1:]:
    import _wandb_spool_hook.finishing as finishing
    finishing.STANDSTILL_S = 1.0
run.finish()
print("trained", flush=True)
"""


@pytest.mark.parametrize("comes_back", [True, False], ids=["comes back", "stays away"])
def test_file_server_that_stops_blocks_neither_log_nor_the_end_and_costs_no_row_if_it_comes_back(
    launching: Launching, served: tuple[Path, subprocess.Popen[bytes]], comes_back: bool
) -> None:
    mount, server = served
    launching.spool = mount / "spool"
    command = launching.command(sys.executable, "-c", LOGGING, *([] if comes_back else ["impatient"]))
    pipe, said = subprocess.PIPE, launching.home / "said"
    with said.open("w") as errors:  # no pipe: wandb-core hangs with the file server, and would hold it open
        launcher = subprocess.Popen(
            command, env=launching.environment(), stdin=pipe, stdout=pipe, stderr=errors, cwd=launching.home, text=True
        )
    assert launcher.stdin is not None and launcher.stdout is not None
    out = launcher.stdout

    def go_on_after(line: str) -> None:
        while (seen := out.readline().strip()) != line:
            assert seen or launcher.poll() is None, said.read_text()

    go_on_after("stop")
    server.send_signal(signal.SIGSTOP)
    launcher.stdin.write("\n")
    launcher.stdin.flush()
    go_on_after("logged")
    if comes_back:
        server.send_signal(signal.SIGCONT)
    launcher.stdin.write("\n")
    launcher.stdin.flush()
    go_on_after("trained")
    server.send_signal(signal.SIGCONT)
    assert launcher.wait(60) == 0
    launcher.stdin.close()
    out.close()
    assert "does not answer; training goes on" in said.read_text()
    (sealed,) = launching.spool.glob("runs/*/*/wandb/offline-run-*/manifest.json")
    manifest = json.loads(sealed.read_text())
    if comes_back:
        assert (manifest["rows_logged"], manifest["rows_kept"], manifest["rows_lost"]) == (200, 200, 0)
