"""Install what keeps a syncer going: unit files, a crontab, the 0600 file with proxy and certificate variables.

Guarantee: a file is replaced as a whole; lines of others in a crontab or in the environment file stay; the key of an
account is never written. Fails with StorageError or UsageError, and then the crontab is as it was.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from wandb_spool.spool import durable
from wandb_spool.spool.configuration import user_configuration_path
from wandb_spool.spool.errors import UsageError, storage_error
from wandb_spool.syncer.units import Service, environment_text, with_block


def configuration_directory(environ: Mapping[str, str]) -> Path:
    return user_configuration_path(environ).parent


def write_units(units: Mapping[str, str], environ: Mapping[str, str]) -> list[Path]:
    """Unit files where the user's systemd looks for them."""
    directory = configuration_directory(environ) / "systemd" / "user"
    durable.make_directory(directory)
    written = []
    for name, text in units.items():
        durable.write(directory / name, text.encode(), mode=0o644)
        written.append(directory / name)
    return written


def write_environment(service: Service, environ: Mapping[str, str]) -> Path:
    """The variables of now, for their owner alone."""
    path = service.environment_file
    try:
        present = path.read_text()
    except FileNotFoundError:
        present = ""
    except OSError as error:
        raise storage_error("read", path, error) from error
    durable.make_directory(path.parent)
    durable.write(path, environment_text(present, environ).encode(), mode=0o600)
    return path


def write_table(program: str, block: str) -> None:
    """Put a block into the table of `crontab` or `scrontab`; both take a whole table from a file."""
    if shutil.which(program) is None:
        raise UsageError(f"there is no `{program}` on this host", hint="print it without --install, and take it there")
    listed = subprocess.run([program, "-l"], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if listed.returncode != 0 and "no crontab" not in listed.stderr.lower():
        raise UsageError(f"`{program} -l` failed: {listed.stderr.strip()[:300]}")
    present = listed.stdout if listed.returncode == 0 else ""
    with tempfile.NamedTemporaryFile("w", prefix="wandb-spool-", suffix=".cron") as stream:
        stream.write(with_block(present, block))
        stream.flush()
        done = subprocess.run([program, stream.name], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise UsageError(f"`{program}` refused the table: {done.stderr.strip()[:300]}")


def lingers(user: str) -> bool:
    """Whether the user's services outlive the last login."""
    return os.path.exists(f"/var/lib/systemd/linger/{user}")
