"""Two people and a service account on one machine, as processes with user ids of their own. Needs root."""

from __future__ import annotations

import grp
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ADA, BOB, SERVICE, STRANGER = 64001, 64002, 64003, 64004


def interpreter(at: Path) -> str:
    """A Python with this one's packages that every user can run: this one's may lie in somebody's home."""
    system = f"/usr/bin/python{sys.version_info[0]}.{sys.version_info[1]}"
    if runs(sys.executable) or not os.path.exists(system):
        return sys.executable
    subprocess.run([system, "-m", "venv", "--without-pip", str(at)], check=True, capture_output=True)
    (site_packages,) = at.glob("lib/python*/site-packages")
    line = f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})"
    (site_packages / "packages.pth").write_text(line + "\n")
    return str(at / "bin" / "python")


def runs(python: str) -> bool:
    """Whether another user can run this Python with everything that is needed."""
    try:
        done = subprocess.run(
            [python, "-c", "import wandb, wandb_spool.spool.queue"],
            user=ADA,
            group=ADA,
            extra_groups=[],
            cwd="/",
            env={"HOME": "/", "PATH": os.environ["PATH"]},
            capture_output=True,
        )
    except OSError:
        return False
    return done.returncode == 0


def a_group() -> str:
    """A group that exists and is not root's."""
    return next(found.gr_name for found in grp.getgrall() if found.gr_gid != 0)


@contextmanager
def common_ground() -> Iterator[Path]:
    """A directory that every user can reach."""
    base = Path(tempfile.mkdtemp(prefix="wandb-spool-group-", dir="/tmp"))
    base.chmod(0o755)
    try:
        yield base
    finally:
        shutil.rmtree(base, ignore_errors=True)


@dataclass(frozen=True)
class User:
    """One account with a home of its own."""

    uid: int
    home: Path
    groups: tuple[int, ...]
    python: str

    @classmethod
    def make(cls, base: Path, python: str, uid: int, *groups: str) -> User:
        home = base / f"home-{uid}"
        home.mkdir(mode=0o700)
        os.chown(home, uid, uid)
        return cls(uid, home, tuple(grp.getgrnam(name).gr_gid for name in groups), python)

    def __call__(
        self, *words: str, code: int | None = 0, umask: int = 0o022, environ: dict[str, str] | None = None
    ) -> str:
        kept = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "HOME": str(self.home), "USER": f"u{self.uid}"}
        if os.environ.get("PYTHONPATH"):
            kept["PYTHONPATH"] = os.environ["PYTHONPATH"]
        done = subprocess.run(
            words,
            user=self.uid,
            group=self.uid,
            extra_groups=list(self.groups),
            umask=umask,
            env={**kept, "TMPDIR": str(self.home), "WANDB_SILENT": "true", **(environ or {})},
            cwd=self.home,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
        )
        assert code is None or done.returncode == code, (done.returncode, done.stdout)
        return done.stdout

    def spool(
        self, *words: str, code: int | None = 0, umask: int = 0o022, environ: dict[str, str] | None = None
    ) -> str:
        return self(self.python, "-m", "wandb_spool", *words, code=code, umask=umask, environ=environ)
