"""The launcher passes on what the command says, and says itself only what a shell would."""

from __future__ import annotations

import subprocess
import sys

import pytest

from .processes import Launching


@pytest.mark.parametrize("code", [0, 1, 7, 125, 255])
def test_exit_code_of_the_command_is_passed_on(launching: Launching, code: int) -> None:
    assert launching.run("sh", "-c", f"exit {code}").returncode == code


@pytest.mark.parametrize(("name", "number"), [("KILL", 9), ("TERM", 15), ("SEGV", 11), ("PIPE", 13)])
def test_death_by_a_signal_becomes_128_plus_its_number(launching: Launching, name: str, number: int) -> None:
    assert launching.run("sh", "-c", f"ulimit -c 0; kill -{name} $$").returncode == 128 + number


def test_command_that_is_not_there_is_127_and_leaves_nothing(launching: Launching) -> None:
    done = launching.run("no-such-command")
    assert done.returncode == 127
    assert done.stderr == "wandb-spool: no-such-command: command not found\n"
    assert launching.launches() == []


def test_file_that_is_no_program_is_126_and_leaves_nothing(launching: Launching) -> None:
    plain = launching.home / "plain"
    plain.write_text("data")
    done = launching.run(str(plain))
    assert done.returncode == 126
    assert "can't be executed: Permission denied" in done.stderr
    assert launching.launches() == []


def test_script_without_an_interpreter_line_runs_as_in_a_shell(launching: Launching) -> None:
    script = launching.home / "train.sh"
    script.write_text('echo "got $1"; exit 3\n')
    script.chmod(0o755)
    done = launching.run(str(script), "x y")
    assert (done.returncode, done.stdout) == (3, "got x y\n")


def test_launch_in_which_no_run_starts_says_nothing_and_leaves_nothing(launching: Launching) -> None:
    done = launching.run("true")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert launching.launches() == []


def test_standard_streams_and_arguments_pass_unchanged(launching: Launching) -> None:
    done = launching.run("python3", "-c", "import sys; print(sys.argv[1:])", "--spool", "--", "a b", "")
    assert done.stdout == "['--spool', '--', 'a b', '']\n"


# glibc's posix_spawn leaves its own two (32 and 33) ignored in what it starts; whoever needs them sets them anew.
OURS = ~(0b11 << 31)


@pytest.mark.parametrize("field", ["SigIgn", "SigBlk"])
def test_command_finds_signals_ignored_and_blocked_as_without_the_launcher(launching: Launching, field: str) -> None:
    words = ["grep", field, "/proc/self/status"]
    bare = subprocess.run(words, env=launching.environment(), capture_output=True, text=True)
    inside = launching.run(*words)
    assert int(inside.stdout.split()[1], 16) & OURS == int(bare.stdout.split()[1], 16) & OURS


def test_launcher_imports_no_command_line_library_and_nothing_of_a_training(launching: Launching) -> None:
    code = (
        "import sys; from wandb_spool.__main__ import main\n"
        f"sys.argv = ['wandb-spool', 'run', '--spool', {str(launching.spool)!r}, '--', 'true']\n"
        "assert main() == 0\n"
        "heavy = {'typer', 'click', 'rich', 'wandb', 'torch', 'numpy', 'asyncio', 'requests', 'platformdirs'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=launching.environment(), capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")
