"""What `run` changes in an environment, and what it leaves alone."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from wandb_spool.runner.environment import launch_environment, with_hook
from wandb_spool.runner.hook import HOOK_DIR
from wandb_spool.runner.redaction import HIDDEN, redact

from .processes import Launching

HOOK = Path("/hook")
KEY = "0123456789abcdef0123456789abcdef01234567"


def made(
    environ: dict[str, str], command: tuple[str, ...] = ("python", "train.py")
) -> tuple[dict[str, str], list[str]]:
    changes = launch_environment(environ, spool=Path("/s"), launch=Path("/s/runs/m/l"), hook=HOOK, command=command)
    return changes.variables, list(changes.overridden)


@pytest.mark.parametrize(
    ("given", "mode", "told"),
    [
        ({}, "offline", []),
        ({"WANDB_MODE": "offline"}, "offline", []),
        ({"WANDB_MODE": "dryrun"}, "offline", []),
        ({"WANDB_MODE": "online"}, "offline", ["WANDB_MODE=online"]),
        ({"WANDB_MODE": "disabled"}, "disabled", []),
        ({"WANDB_MODE": "Disabled "}, "disabled", []),
    ],
)
def test_logging_is_offline_unless_it_was_switched_off(given: dict[str, str], mode: str, told: list[str]) -> None:
    variables, overridden = made(given)
    assert (variables["WANDB_MODE"], overridden) == (mode, told)


def test_everything_that_is_not_the_spools_stays_the_users() -> None:
    environ = {
        "WANDB_PROJECT": "p",
        "WANDB_SILENT": "true",
        "WANDB_DISABLED": "true",
        "WANDB_RUN_ID": "r",
        "WANDB_NAME": "n",
    }
    variables, overridden = made(environ)
    assert not set(environ) & set(variables)
    assert overridden == []


def test_each_overridden_value_is_named() -> None:
    _, overridden = made({"WANDB_DIR": "/home/me", "WANDB_DATA_DIR": "/d", "WANDB_ERROR_REPORTING": "true"})
    assert overridden == ["WANDB_DIR=/home/me", "WANDB_DATA_DIR=/d", "WANDB_ERROR_REPORTING=true"]


def test_launch_within_a_launch_does_not_call_the_outer_ones_values_the_users() -> None:
    outer, _ = made({})
    inner = launch_environment(
        {**outer}, spool=Path("/s"), launch=Path("/s/runs/m/inner"), hook=HOOK, command=("python",)
    )
    assert inner.overridden == ()
    assert inner.variables["PYTHONPATH"] == "/hook"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, "/hook"),
        ("", "/hook"),
        ("/a:/b", "/hook:/a:/b"),
        (":/a", "/hook::/a"),  # the empty part is the working directory: the program may import from there
        ("/hook:/a", "/hook:/a"),
    ],
)
def test_pythonpath_is_added_to_and_never_replaced(before: str | None, after: str) -> None:
    assert with_hook(before, HOOK) == after


def test_base_url_is_recorded_only_where_the_user_had_set_one() -> None:
    assert json.loads(made({})[0]["WANDB_SPOOL_ENTRY_DEFAULTS"]) == {"command": "python train.py"}
    with_url = made({"WANDB_BASE_URL": "https://w.example"})[0]["WANDB_SPOOL_ENTRY_DEFAULTS"]
    assert json.loads(with_url)["base_url"] == "https://w.example"


@pytest.mark.parametrize(
    "command",
    [
        ("env", f"WANDB_API_KEY={KEY}", "python", "train.py"),
        ("python", "train.py", "--wandb-key", KEY),
        ("python", "train.py", f"--wandb_api_key={KEY}"),
        ("sh", "-c", f"wandb login {KEY} && python train.py"),
        ("wandb", "login", "--relogin", KEY),
        ("python", "train.py", f"http://user:{KEY}@host"),
        ("sh", "-c", f"export WANDB_API_KEY={KEY}; python train.py"),
    ],
)
def test_no_key_is_recorded_with_the_command(command: tuple[str, ...]) -> None:
    environ = {"WANDB_API_KEY": KEY}
    shown = redact(command, environ)
    assert KEY not in " ".join(shown)
    assert HIDDEN in " ".join(shown)
    if "http" not in " ".join(command):
        assert KEY not in " ".join(redact(command, {}))


def test_what_is_no_key_is_recorded_as_it_is() -> None:
    command = (
        "python",
        "train.py",
        "--max-tokens",
        "512",
        "--tokenizer=bert",
        "--token-dropout",
        "true",
        "--lr",
        "0.1",
    )
    shown = redact(command, {})
    assert shown[:4] == ["python", "train.py", "--max-tokens", "512"]
    assert shown[-4:] == ["--token-dropout", "true", "--lr", "0.1"]


def test_key_of_the_user_is_nowhere_in_the_spool(launching: Launching) -> None:
    script = "import wandb; wandb.init(project='p').log({'x': 1})"
    done = launching.run(
        "env",
        f"WANDB_API_KEY={KEY}",
        sys.executable,
        "-c",
        script,
        "--api-key",
        KEY,
        WANDB_API_KEY=KEY,
        WANDB_SILENT="1",
    )
    assert done.returncode == 0, done.stderr
    found = subprocess.run(["grep", "-rlF", KEY, str(launching.spool)], capture_output=True, text=True)
    assert [line for line in found.stdout.splitlines() if "/files/" not in line and not line.endswith(".wandb")] == []


def test_command_sees_exactly_the_environment_that_is_documented(launching: Launching) -> None:
    script = "import json, os; print(json.dumps(dict(os.environ)))"
    done = launching.run(sys.executable, "-c", script, options=["--name", "mine"], PYTHONPATH="/elsewhere")
    seen = json.loads(done.stdout)
    before = launching.environment(PYTHONPATH="/elsewhere")
    changed = {key: value for key, value in seen.items() if before.get(key) != value}
    launch = changed["WANDB_SPOOL_LAUNCH"]
    assert Path(launch).parent.parent.parent == launching.spool
    assert json.loads(changed.pop("WANDB_SPOOL_ENTRY_DEFAULTS")) == {
        "command": shlex.join([sys.executable, "-c", script])
    }
    changed.pop("LC_CTYPE", None)  # Python's own, where the locale is C
    assert changed == {
        "WANDB_MODE": "offline",
        "WANDB_DIR": launch,
        "WANDB_DATA_DIR": f"{launch}/data",
        "WANDB_X_TRANSACTION_LOG_FLUSH_INTERVAL": "0.5",
        "WANDB_ERROR_REPORTING": "false",
        "WANDB_NAME": "mine",
        "PYTHONPATH": f"{HOOK_DIR}:/elsewhere",
        "WANDB_SPOOL_DIR": str(launching.spool),
        "WANDB_SPOOL_LAUNCH": launch,
    }


def test_overridden_value_is_named_once(launching: Launching) -> None:
    done = launching.run("true", WANDB_MODE="online", WANDB_DIR="/elsewhere")
    assert done.stderr == "wandb-spool: overridden for this launch: WANDB_MODE=online, WANDB_DIR=/elsewhere\n"
