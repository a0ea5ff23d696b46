"""The command gets every signal once: neither twice, nor never."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from wandb_spool.runner.signals import Origin, needs_forwarding

from .processes import Launching, children, until

# Writes a line for each signal that it gets, and ends on the second SIGUSR2 or when its input ends.
COUNTER = """
import os, signal, sys, time
def note(number, frame):
    print(signal.Signals(number).name, flush=True)
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCONT):
    signal.signal(number, note)
def end(number, frame):
    os._exit(5)
signal.signal(signal.SIGUSR2, end)
print("ready", os.getpid(), flush=True)
while True:
    time.sleep(0.05)
"""


class Counting:
    """A launcher whose command counts its signals."""

    def __init__(self, launching: Launching, *before: str) -> None:
        self.launcher = launching.start(*before, sys.executable, "-c", COUNTER)
        assert self.launcher.stdout is not None
        self.pid = int(self.launcher.stdout.readline().split()[1])

    def seen(self, settle_s: float = 0.6) -> list[str]:
        """What the command got. A second copy of a signal would come within the witness's patience."""
        time.sleep(settle_s)
        os.kill(self.pid, signal.SIGUSR2)
        out, _ = self.launcher.communicate(timeout=60)
        assert self.launcher.returncode == 5
        return out.split()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1"])
def test_signal_to_the_launcher_alone_reaches_the_command_once(launching: Launching, name: str) -> None:
    counting = Counting(launching)
    os.kill(counting.launcher.pid, signal.Signals[name])
    assert counting.seen() == [name]


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1"])
def test_signal_to_the_process_group_reaches_the_command_once(launching: Launching, name: str) -> None:
    counting = Counting(launching)
    os.killpg(counting.launcher.pid, signal.Signals[name])
    assert counting.seen() == [name]


def test_signal_to_every_process_of_a_step_reaches_the_command_once(launching: Launching) -> None:
    """As Slurm's slurmstepd does: SIGCONT and SIGTERM, one process after the other."""
    counting = Counting(launching)
    for number in (signal.SIGCONT, signal.SIGTERM):
        for pid in (counting.launcher.pid, *children(counting.launcher.pid)):
            os.kill(pid, number)
    assert counting.seen().count("SIGTERM") == 1


def test_signals_one_after_the_other_to_the_launcher_alone_all_arrive(launching: Launching) -> None:
    counting = Counting(launching)
    for _ in range(3):
        os.kill(counting.launcher.pid, signal.SIGUSR1)
        time.sleep(0.3)
    assert counting.seen() == ["SIGUSR1"] * 3


def test_command_in_a_process_group_of_its_own_gets_what_the_group_of_the_launcher_gets(launching: Launching) -> None:
    counting = Counting(launching, "setsid", "--wait")
    own_group = os.getpgid(counting.pid) != os.getpgid(counting.launcher.pid)
    if not own_group or children(counting.launcher.pid).count(counting.pid) == 0:
        # `setsid --wait` forks: the direct child stays in the launcher's group and dies of the signal.
        os.kill(counting.pid, signal.SIGKILL)
        counting.launcher.communicate(timeout=60)
        pytest.skip("this setsid forks")
    os.killpg(counting.launcher.pid, signal.SIGTERM)
    assert counting.seen() == ["SIGTERM"]


def test_interrupt_at_the_terminal_reaches_the_command_once(launching: Launching) -> None:
    out = launching.home / "signals"
    code = COUNTER.replace("flush=True)", f"flush=True, file=open({str(out)!r}, 'a'))")
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(launching.home)
        os.execve(sys.executable, launching.command(sys.executable, "-c", code), launching.environment())
    until(lambda: out.exists() and "ready" in out.read_text(), "the command to start")
    os.write(terminal, b"\x03")
    until(lambda: "SIGINT" in out.read_text(), "the interrupt")
    time.sleep(0.4)
    command = int(out.read_text().split()[1])
    os.kill(command, signal.SIGUSR2)
    while True:
        try:
            if not os.read(terminal, 4096):
                break
        except OSError:
            break
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 5
    assert out.read_text().split()[2:] == ["SIGINT"]


def test_nothing_of_the_launcher_outlives_it(launching: Launching) -> None:
    """Not even when it is killed: the witness ends with it, and only the command goes on."""
    counting = Counting(launching)
    witnesses = [pid for pid in children(counting.launcher.pid) if pid != counting.pid]
    assert len(witnesses) == 1
    counting.launcher.kill()
    until(lambda: not Path(f"/proc/{witnesses[0]}").exists(), "the witness to end")
    assert Path(f"/proc/{counting.pid}").exists()
    os.kill(counting.pid, signal.SIGKILL)
    counting.launcher.communicate(timeout=60)


def test_output_pipe_closes_with_the_command(launching: Launching) -> None:
    """Nothing that the launcher starts holds it: `wandb-spool run … | tee log` ends with the command."""
    launcher = launching.start("sh", "-c", "echo out; exec >&- 2>&-; sleep 0.1")
    assert launcher.stdout is not None
    assert launcher.stdout.read() == "out\n"
    assert launcher.wait(timeout=60) == 0
    launcher.communicate()


def test_ignored_hangup_stays_ignored(launching: Launching) -> None:
    """`nohup wandb-spool run …` survives the end of its terminal, and so does the command."""
    words = ["nohup", *launching.command("sh", "-c", "grep SigIgn /proc/self/status; kill -HUP $PPID $$; echo on")]
    done = subprocess.run(words, env=launching.environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    ignored, alive = done.stdout.splitlines()
    assert int(ignored.split()[1], 16) & 1
    assert alive == "on"


@pytest.mark.parametrize(
    ("origin", "witnessed", "same_group", "forwarded"),
    [
        (Origin.KERNEL, False, True, False),
        (Origin.KERNEL, False, False, True),
        (Origin.PROCESS, False, True, True),
        (Origin.PROCESS, True, True, False),
        (Origin.PROCESS, False, False, True),
    ],
)
def test_only_what_the_command_did_not_get_is_forwarded(
    origin: Origin, witnessed: bool, same_group: bool, forwarded: bool
) -> None:
    assert needs_forwarding(origin, witnessed=witnessed, same_group=same_group) is forwarded
