"""`service` writes what systemd, cron and Slurm accept, pins it to this host, and keeps the key out of all of it."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
from pathlib import Path

import pytest

from wandb_spool.spool.queue import Spool
from wandb_spool.syncer import units
from wandb_spool.syncer.rehearsal import RehearsalServer
from wandb_spool.syncer.units import Service

from .conftest import Operator

KEY = "k" * 40
ODD = 'odd %h $HOME "quoted" back\\slash'


def everything_below(directory: Path) -> str:
    return "\n".join(path.read_text() for path in sorted(directory.rglob("*")) if path.is_file())


def verified(paths: list[Path], tmp_path: Path) -> None:
    """Both the exit code and every word on stderr count: systemd only warns of what it ignores."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not here")
    environ = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path), "SYSTEMD_LOG_LEVEL": "warning"}
    words = ["systemd-analyze", "--user", "verify", "--man=no", *map(str, paths)]
    done = subprocess.run(words, capture_output=True, text=True, env=environ, timeout=60)
    if "Failed to initialize manager" in done.stderr or "Failed to connect" in done.stderr:
        pytest.skip(f"systemd-analyze can't run here: {done.stderr.strip()}")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("kind", ["systemd", "timer"])
def test_installed_units_are_clean_pinned_and_without_the_key(operator: Operator, tmp_path: Path, kind: str) -> None:
    done = operator("service", kind, "--install", WANDB_API_KEY=KEY, HTTPS_PROXY="http://me:p$w@proxy:3128")
    directory = operator.home / ".config/systemd/user"
    paths = sorted(directory.iterdir())
    text = everything_below(directory)
    assert f"ConditionHost={socket.gethostname()}" in text and "proxy:3128" not in text
    assert KEY not in text + done.stdout + done.stderr + everything_below(operator.home / ".config")
    assert "WANDB_API_KEY is not passed on" in done.stderr and "systemctl --user enable --now" in done.stdout
    verified(paths, tmp_path)


def test_the_environment_file_is_private_keeps_its_owners_lines_and_reads_the_same_in_a_shell(
    operator: Operator,
) -> None:
    proxy = 'http://me:p$w`x"y\\z@proxy:3128'
    operator("service", "systemd", "--install", HTTPS_PROXY=proxy)
    (path,) = (operator.home / ".config").glob("*.env")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_text(path.read_text() + f"WANDB_API_KEY={KEY}\n")
    operator("service", "systemd", "--install", HTTPS_PROXY=proxy, SSL_CERT_FILE="/etc/ca.pem")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    script = f'set -a; . "{path}"; printf "%s\\n" "$HTTPS_PROXY" "$WANDB_API_KEY" "$SSL_CERT_FILE"'
    shown = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True, env={})
    assert shown.stdout.splitlines() == [proxy, KEY, "/etc/ca.pem"]


@pytest.mark.parametrize("kind", ["systemd", "timer", "crontab", "scrontab"])
def test_without_install_it_only_prints(operator: Operator, kind: str) -> None:
    done = operator("service", kind)
    assert str(operator.spool.root) in done.stdout and "nothing was written" in done.stderr
    assert not (operator.home / ".config").exists()


def test_units_for_odd_paths_are_clean(tmp_path: Path) -> None:
    odd = tmp_path / ODD
    service = Service("wandb-spool-odd", odd, Path(shutil.which("sh") or "/bin/sh"), "host", odd / "x.env")
    made = {"odd.service": units.daemon_unit(service), "odd-sync.service": units.sync_unit(service)}
    made["odd-sync.timer"] = units.timer_unit(service)
    for name, text in made.items():
        (tmp_path / name).write_text(text)
    verified([tmp_path / name for name in made], tmp_path)


CRONTAB = """#!/bin/sh
if [ "$1" = -l ]; then cat "$HOME/table" 2>/dev/null || { echo "no crontab for me" >&2; exit 1; }; exit; fi
cp "$1" "$HOME/table"
"""


@pytest.mark.parametrize("program", ["crontab", "scrontab"])
def test_a_table_keeps_the_lines_of_others_and_gets_one_block_however_often(operator: Operator, program: str) -> None:
    programs = operator.home / "bin"
    programs.mkdir()
    (programs / program).write_text(CRONTAB)
    (programs / program).chmod(0o755)
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    table = operator.home / "table"
    operator("service", program, "--install", PATH=path)
    first = table.read_text()
    table.write_text(f"MAILTO=me\n{first}0 3 * * * backup\n")
    operator("service", program, "--install", "--interval", "7", PATH=path)
    assert table.read_text() == f"MAILTO=me\n{first.replace('*/5', '*/7')}0 3 * * * backup\n"
    assert ("#SCRON --dependency=singleton" in first) is (program == "scrontab")


def test_the_line_for_cron_really_syncs_with_the_variables_of_the_file(
    tmp_path: Path, rehearsal: RehearsalServer, operator: Operator
) -> None:
    spool = Spool.create(tmp_path / ODD)
    operator.spool = spool
    operator("service", "systemd", "--install", code=0, **rehearsal.environment())  # makes the file
    (file,) = (operator.home / ".config").glob("*.env")
    file.write_text(f"{file.read_text()}WANDB_API_KEY={rehearsal.api_key}\n")
    (line,) = [line for line in operator("service", "crontab").stdout.splitlines() if line.startswith("*/5 ")]
    command = line.split(" ", 5)[5].replace("\\%", "%")
    done = subprocess.run(["sh", "-c", command], env=operator.environment(), timeout=60)
    assert done.returncode == 0
    assert list(spool.paths.syncers.glob("*.json")), "nobody synced"


def test_a_control_character_and_a_missing_program_are_mistakes_of_usage(operator: Operator) -> None:
    operator("service", "systemd", "--install", code=2, HTTPS_PROXY="http://x\ny")
    operator("service", "scrontab", "--install", code=2, PATH="/nowhere")
    operator("service", "launchd", code=2)
    operator("service", "timer", "--interval", "0", code=2)
