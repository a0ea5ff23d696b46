"""Which code is measured, and on what: this checkout's own, whatever is installed, and a line that says so.

An editable install points to one checkout. A benchmark that was started from another one would measure that one and
say nothing, so it puts links to its own folders in front of everything (`PYTHONPATH`, also for what it starts).
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TESTS = str(ROOT / "tests")
FOLDERS = ("runner", "spool", "syncer")


def link_farm(root: Path, directory: Path) -> Path:
    """A directory from which `import wandb_spool` finds the code below `root`."""
    package = directory / "wandb_spool"
    package.mkdir(parents=True)
    for source in (*(root / "wandb_spool").iterdir(), *(root / name for name in FOLDERS)):
        (package / source.name).symlink_to(source)
    return directory


def use_this_checkout(directory: Path) -> None:
    """For this process, before it imports anything of the project, and for all that it starts."""
    farm = str(link_farm(ROOT, directory))
    sys.path[:0] = [farm, TESTS]
    kept = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([farm, *([kept] if kept else [])])


def machine() -> str:
    """Cores, memory, kernel, Python and wandb."""
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    parts = [
        f"{os.cpu_count()} cores",
        f"{memory_gb:.0f} GB",
        f"{platform.system()} {platform.release()} {platform.machine()}",
        f"Python {platform.python_version()}",
        f"wandb {metadata.version('wandb')}",
    ]
    return ", ".join(parts)


def commit() -> str:
    """The commit, and whether the tree is as it says; *no commit* where git does not know."""
    try:
        name = _git("rev-parse", "HEAD")
        changed = [line for line in _git("status", "--porcelain").splitlines() if line]
    except (OSError, subprocess.CalledProcessError):
        return "no commit"
    return f"{name}, {f'{len(changed)} paths changed' if changed else 'clean'}"


def _git(*words: str) -> str:
    return subprocess.run(["git", "-C", str(ROOT), *words], check=True, capture_output=True, text=True).stdout.strip()
