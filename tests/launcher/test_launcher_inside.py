"""`wandb_spool.init()`: a launch from inside a program."""

from __future__ import annotations

import subprocess
import sys

from wandb_spool.spool.queue import Spool
from wandb_spool.spool.states import State

from .processes import Launching

LOGS = "for i in range(10): run.log({'x': i})\n"


def python(launching: Launching, code: str, **environ: str) -> subprocess.CompletedProcess[str]:
    more = {"WANDB_SPOOL_DIR": str(launching.spool), "WANDB_SILENT": "true", **environ}
    return subprocess.run(
        [sys.executable, "-c", code],
        env=launching.environment(**more),
        cwd=launching.home,
        capture_output=True,
        text=True,
        timeout=120,
    )


def rows(launching: Launching, state: State = State.INCOMING) -> list[int | None]:
    spool = Spool.open(launching.spool)
    return [spool.read(place).rows for place in launching.entries(state)]


def test_run_is_logged_offline_into_the_spool_and_sealed_when_the_program_ends(launching: Launching) -> None:
    done = python(launching, f"import wandb_spool\nrun = wandb_spool.init(project='p', mode='online')\n{LOGS}")
    assert done.returncode == 0, done.stderr
    assert rows(launching) == [10], done.stderr


def test_program_that_imported_wandb_before_is_taken_over_too(launching: Launching) -> None:
    done = python(launching, f"import wandb, wandb_spool\nrun = wandb_spool.init(project='p')\n{LOGS}run.finish()")
    assert (done.returncode, rows(launching)) == (0, [10]), done.stderr


def test_finished_run_is_sealed_when_the_next_one_begins(launching: Launching) -> None:
    code = (
        f"import wandb_spool\nrun = wandb_spool.init(project='p')\n{LOGS}run.finish()\n"
        "run = wandb_spool.init(project='p')\n"
        "import os, glob; print(len(glob.glob(os.environ['WANDB_SPOOL_DIR'] + '/queue/incoming/*.json')))\n"
        f"{LOGS}"
    )
    done = python(launching, code)
    assert done.stdout.split()[-1] == "1", done.stderr
    assert rows(launching) == [10, 10]
    assert len(launching.launches()) == 1


def test_killed_program_leaves_its_run_for_recover(launching: Launching) -> None:
    dies = "time.sleep(1.5); os.kill(os.getpid(), 9)"
    code = f"import os, time, wandb_spool\nrun = wandb_spool.init(project='p')\n{LOGS}{dies}"
    assert python(launching, code).returncode == -9
    assert len(launching.entries(State.OPEN)) == 1
    words = [sys.executable, "-m", "wandb_spool", "recover", "--spool", str(launching.spool)]
    subprocess.run(words, env=launching.environment(), check=True, capture_output=True, timeout=60)
    assert rows(launching) == [10]


def test_within_a_launcher_it_is_the_launchers_launch(launching: Launching) -> None:
    code = f"import wandb_spool\nrun = wandb_spool.init(project='p')\n{LOGS}"
    done = launching.run(sys.executable, "-c", code, WANDB_SILENT="true")
    assert done.returncode == 0, done.stderr
    assert rows(launching) == [10]
    assert len(launching.launches()) == 1


def test_broken_spool_does_not_stop_the_program(launching: Launching) -> None:
    launching.spool.write_text("a file")
    done = python(launching, f"import wandb_spool\nrun = wandb_spool.init(project='p')\n{LOGS}print('done')")
    assert (done.returncode, done.stdout.split()[-1]) == (0, "done"), done.stderr
    assert "fallback spool" in done.stderr
    launching.spool = launching.home / ".local/state/wandb-spool"
    assert rows(launching) == [10]
