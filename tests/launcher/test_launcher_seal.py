"""What was logged is sealed when its writer is gone, whoever died before; what lives is left alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from wandb_spool.spool.entry import Entry
from wandb_spool.spool.manifest import Manifest, read_manifest
from wandb_spool.spool.queue import Spool
from wandb_spool.spool.states import State

from .processes import Launching, until

LOGS = """
import os, sys, time, wandb
run = wandb.init(project="p", settings=wandb.Settings(silent=True))
for i in range(30):
    run.log({"loss": 1 / (i + 1)})
"""
THEN_WAITS = LOGS + "print('logged', os.getpid(), flush=True)\ntime.sleep(600)\n"


def sealed(launching: Launching, state: State = State.INCOMING) -> list[tuple[Entry, Manifest]]:
    spool = Spool.open(launching.spool)
    found = [spool.read(place) for place in launching.entries(state)]
    return [(entry, read_manifest(entry.run_directory(spool.root))[0]) for entry in found]


def recover(launching: Launching) -> str:
    words = [sys.executable, "-m", "wandb_spool", "recover", "--spool", str(launching.spool)]
    environ = launching.environment(XDG_CACHE_HOME=str(launching.home / "cache"))
    done = subprocess.run(words, env=environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def start_training(launching: Launching, *words: str, options: Sequence[str] = ()) -> tuple[subprocess.Popen[str], int]:
    launcher = launching.start(*words, options=options)
    assert launcher.stdout is not None
    line = launcher.stdout.readline().split()
    assert line[:1] == ["logged"], launcher.stderr and launcher.stderr.read()
    log = next(launching.launches()[0].glob("wandb/*/*.wandb"))
    until(lambda: log.stat().st_size > 1000, "the log to be flushed: what is killed before then holds nothing")
    return launcher, int(line[1])


def test_finished_run_is_sealed_and_everything_is_told(launching: Launching) -> None:
    done = launching.run(sys.executable, "-c", LOGS + "run.summary['best'] = 7\nrun.finish()")
    ((entry, manifest),) = sealed(launching)
    assert (manifest.rows_logged, manifest.rows_kept, manifest.rows_lost) == (30, 30, 0)
    assert (manifest.hook, manifest.exit_code, manifest.exit_known_from) == ("present", 0, "record")
    assert entry.command is not None and entry.command.startswith(sys.executable)
    assert f"({entry.run_id}), project p: finished" in done.stderr
    assert "loss" in done.stderr and "best" in done.stderr
    assert "30 rows logged, 30 kept, 0 lost" in done.stderr
    assert str(entry.run_directory(launching.spool)) in done.stderr
    assert "nobody is syncing this spool" in done.stderr


def test_reserve_is_given_back_and_no_launch_is_left_without_its_record(launching: Launching) -> None:
    launching.run(sys.executable, "-c", LOGS)
    (launch,) = launching.launches()
    assert not (launch / "reserve").exists()
    assert (launch / "launch.json").is_file()


def test_quiet_says_nothing(launching: Launching) -> None:
    done = launching.run(sys.executable, "-c", LOGS, options=["--quiet"])
    assert done.stderr == ""
    assert len(sealed(launching)) == 1


def test_held_run_is_not_due(launching: Launching) -> None:
    launching.run(sys.executable, "-c", LOGS, options=["--hold"])
    assert len(sealed(launching, State.HELD)) == 1
    assert sealed(launching) == []


def test_held_run_whose_launcher_was_killed_is_held_by_whoever_seals_it(launching: Launching) -> None:
    launcher, trainer = start_training(launching, sys.executable, "-c", THEN_WAITS, options=["--hold"])
    launcher.kill()
    launcher.wait(timeout=60)
    os.kill(trainer, signal.SIGKILL)
    launcher.communicate(timeout=60)
    until(lambda: recover(launching) and sealed(launching, State.HELD), "the seal")
    assert sealed(launching) == []


def test_killed_training_is_sealed_with_its_true_exit(launching: Launching) -> None:
    launcher, trainer = start_training(launching, sys.executable, "-c", THEN_WAITS)
    os.kill(trainer, signal.SIGKILL)
    _, told = launcher.communicate(timeout=60)
    assert launcher.returncode == 137, told
    ((_, manifest),) = sealed(launching)
    assert (manifest.exit_code, manifest.exit_known_from) == (137, "process")
    assert manifest.rows_logged == 30
    assert manifest.rows_lost == 30 - manifest.rows_kept
    assert "exit code 137" in told


def test_training_without_the_hook_is_sealed_with_its_rows_unknown(launching: Launching) -> None:
    done = launching.run(sys.executable, "-I", "-c", LOGS + "run.finish()")
    assert done.returncode == 0, done.stderr
    ((entry, manifest),) = sealed(launching)
    assert (manifest.hook, manifest.rows_logged, manifest.rows_kept) == ("absent", None, 30)
    assert manifest.exit_code == 0
    assert entry.run_id == manifest.run_id
    assert "30 rows kept (nobody counted" in done.stderr


def test_finished_run_is_sealed_while_the_program_goes_on(launching: Launching) -> None:
    """A sweep of many runs in one program: the first is delivered while the last still trains."""
    code = LOGS + "run.finish()\nprint('logged', os.getpid(), flush=True)\ntime.sleep(600)\n"
    launcher, trainer = start_training(launching, sys.executable, "-c", code)
    until(lambda: launching.entries(State.INCOMING), "the seal of the finished run")
    assert launcher.poll() is None
    os.kill(trainer, signal.SIGTERM)
    _, told = launcher.communicate(timeout=60)
    ((_, manifest),) = sealed(launching)
    assert (manifest.rows_logged, manifest.rows_lost) == (30, 0)
    assert "incoming" in told


def test_three_runs_of_one_program_are_three_sealed_fragments(launching: Launching) -> None:
    code = "import wandb\nfor k in range(3):\n    r = wandb.init(project='p')\n    r.log({'k': k})\n    r.finish()\n"
    done = launching.run(sys.executable, "-c", code, WANDB_SILENT="true")
    assert [manifest.rows_lost for _, manifest in sealed(launching)] == [0, 0, 0], done.stderr


def test_training_outlives_a_killed_launcher_and_recover_seals_it(launching: Launching) -> None:
    launcher, trainer = start_training(launching, sys.executable, "-c", THEN_WAITS)
    launcher.kill()
    launcher.wait(timeout=60)
    assert "its writer lives" in recover(launching)
    assert len(launching.entries(State.OPEN)) == 1
    os.kill(trainer, signal.SIGKILL)
    until(lambda: not _runs(trainer), "the trainer to die")
    assert "sealed" in recover(launching)
    ((_, manifest),) = sealed(launching)
    assert (manifest.rows_logged, manifest.exit_known_from) == (30, "unknown")
    launcher.communicate()


def test_training_that_goes_on_in_the_background_is_left_open(launching: Launching, tmp_path: Path) -> None:
    script = tmp_path / "job.sh"
    script.write_text(f"{sys.executable} {tmp_path / 'train.py'} >{tmp_path / 'out'} 2>&1 &\necho $!\nsleep 0.1\n")
    (tmp_path / "train.py").write_text(THEN_WAITS)
    waits = f"while ! grep -q logged {tmp_path / 'out'}; do sleep 0.1; done"
    script.write_text(script.read_text() + waits + "\nexit 6\n")
    # The bounded wait for writers is what this test is about, not its length.
    code = (
        "import os, sys; from pathlib import Path; from wandb_spool.runner.launch import LaunchRequest, run\n"
        "request = LaunchRequest(tuple(sys.argv[2:]), Path(sys.argv[1]), writers_timeout_s=0.5)\n"
        "sys.exit(run(request, os.environ))"
    )
    words = [sys.executable, "-c", code, str(launching.spool), "sh", str(script)]
    done = subprocess.run(words, env=launching.environment(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 6
    assert "open (a process still writes its log)" in done.stderr
    assert "wandb-spool recover" in done.stderr
    assert len(launching.entries(State.OPEN)) == 1
    trainer = int(done.stdout.split()[0])
    os.kill(trainer, signal.SIGKILL)
    until(lambda: not _runs(trainer), "the trainer to die")
    recover(launching)
    assert len(sealed(launching)) == 1


def test_launch_directory_that_was_removed_is_told_and_the_exit_code_is_the_commands(launching: Launching) -> None:
    done = launching.run("sh", "-c", 'rm -rf "$WANDB_SPOOL_LAUNCH"; exit 9')
    assert done.returncode == 9
    assert "the launch directory is gone" in done.stderr


def test_interrupt_during_the_seal_keeps_the_exit_code_and_the_run(launching: Launching) -> None:
    """Ctrl-C at somebody who waits for a held log: the launcher ends, `recover` goes on."""
    holder = "import sys, time; f = open(sys.argv[1]); print('held', flush=True); time.sleep(600)"
    launcher, trainer = start_training(launching, sys.executable, "-c", THEN_WAITS)
    log = next(launching.launches()[0].glob("wandb/*/*.wandb"))
    with subprocess.Popen([sys.executable, "-c", holder, str(log)], stdout=subprocess.PIPE, text=True) as held:
        assert held.stdout is not None
        held.stdout.readline()
        os.kill(trainer, signal.SIGKILL)
        until(lambda: not _runs(trainer), "the trainer to die")
        until(lambda: not (log.parent.parent.parent / "reserve").exists(), "the launcher to begin the seal")
        os.kill(launcher.pid, signal.SIGINT)
        _, told = launcher.communicate(timeout=60)
        held.kill()
    assert launcher.returncode == 137, told
    # On a busy machine its patience may end before the signal comes: then it says that the run is not sealed yet.
    assert "interrupted while sealing; nothing is lost" in told or "not sealed" in told, told
    recovered = recover(launching)
    assert len(sealed(launching)) == 1, recovered


def _runs(pid: int) -> bool:
    """Whether a process lives; one that waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def test_exit_that_only_the_launcher_saw_is_what_the_manifest_says(launching: Launching) -> None:
    assert launching.run(sys.executable, "-c", LOGS + "raise SystemExit(5)").returncode == 5
    ((_, manifest),) = sealed(launching)
    assert (manifest.exit_code, manifest.process_exit_code) == (5, 5)


def test_run_that_was_finished_well_before_its_program_failed_is_finished(launching: Launching) -> None:
    done = launching.run(
        sys.executable, "-c", LOGS + "run.finish()\nwandb.init(project='p').log({'a': 1}); sys.exit(4)"
    )
    first, second = sorted((manifest for _, manifest in sealed(launching)), key=lambda manifest: manifest.rows_kept)[
        ::-1
    ]
    assert (first.exit_code, second.exit_code) == (0, 4)
    assert done.stderr.count(": finished") == 1 and done.stderr.count("failed with exit code 4") == 1


def test_init_that_gives_back_the_active_run_leaves_no_second_one(launching: Launching) -> None:
    """wandb makes a run directory before it knows."""
    done = launching.run(sys.executable, "-c", LOGS + "assert wandb.init(project='p') is run; run.log({'a': 1})")
    assert done.returncode == 0, done.stderr
    ((_, manifest),) = sealed(launching)
    assert (manifest.rows_logged, manifest.rows_kept) == (31, 31)
    assert launching.entries(State.VOID) == []


def test_fragment_that_another_one_continues_is_not_told_as_an_end(launching: Launching) -> None:
    code = (
        "import psutil\n"
        "[child.kill() for child in psutil.Process().children() if child.name() == 'wandb-core']\n"
        "time.sleep(0.1)\n"
        "for i in range(30):\n"
        "    run.log({'loss': i})\n"
    )
    done = launching.run(sys.executable, "-c", LOGS + "time.sleep(1.2)\n" + code)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(": goes on in the next fragment") == done.stderr.count("project p: finished") == 1
