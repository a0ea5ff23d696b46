"""The real command with a configuration file, as a person who has several accounts."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path

from delivery.fragments import scrubbed

from wandb_spool.spool.queue import Spool


def _without_certificates(environ: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in environ.items() if "CERT" not in name and "CA_BUNDLE" not in name}


@dataclass
class Person:
    """A home with a configuration, and what its processes showed to others."""

    home: Path
    spool: Spool
    shown: list[str] = field(default_factory=list)
    command_lines: set[bytes] = field(default_factory=set)

    def configure(self, text: str) -> None:
        path = self.home / ".config" / "wandb-spool.toml"
        path.parent.mkdir(exist_ok=True)
        path.write_text("[limits]\nbackoff_first_s = 0.001\nbackoff_cap_s = 0.002\n" + text)

    def key_file(self, name: str, key: str, mode: int = 0o600) -> Path:
        path = self.home / name
        path.write_text(key + "\n")
        path.chmod(mode)
        return path

    def netrc(self, *machines: tuple[str, str]) -> None:
        path = self.home / ".netrc"
        path.write_text("".join(f"machine {host}\n  login user\n  password {key}\n" for host, key in machines))
        path.chmod(0o600)

    def __call__(self, *words: str, code: int | None = 0, **environ: str) -> str:
        return self.with_environment(environ, *words, code=code)

    def with_environment(self, environ: dict[str, str], *words: str, code: int | None = 0) -> str:
        process = subprocess.Popen(
            [sys.executable, "-m", "wandb_spool", words[0], "--spool", str(self.spool.root), *words[1:]],
            env={**_without_certificates(scrubbed(self.home)), **environ},
            cwd=self.home,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        done = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(done,))
        watcher.start()
        told = process.communicate(timeout=120)[0]
        done.set()
        watcher.join()
        self.shown.append(told)
        assert code is None or process.returncode == code, (process.returncode, told)
        return told

    def sync(self, *, code: int | None = 0, environ: dict[str, str] | None = None) -> str:
        return self.with_environment(environ or {}, "sync", "--all", "--patience", "5", code=code)

    def _watch(self, done: threading.Event) -> None:
        """What `ps` shows of every process meanwhile."""
        while not done.wait(0.02):
            for name in filter(str.isdigit, os.listdir("/proc")):
                try:
                    self.command_lines.add(Path(f"/proc/{name}/cmdline").read_bytes())
                except OSError:
                    continue

    def seen_by_others(self, key: str) -> list[str]:
        """Where a key can be read: spool files, output, command lines, caches. Its own file doesn't count."""
        needle = key.encode()
        found = [str(path) for path in self.spool.root.rglob("*") if path.is_file() and needle in path.read_bytes()]
        found += [
            str(path)
            for path in self.home.rglob("*")
            if path.is_file() and path.name not in (".netrc", "key", "key2") and needle in path.read_bytes()
        ]
        found += [f"output {number}" for number, told in enumerate(self.shown) if key in told]
        found += [str(line) for line in self.command_lines if needle in line]
        return found
