"""Real file systems of a test's own: a small tmpfs, an ext4 in a file. Root is needed; elsewhere the test skips."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

_EXT4_IOC_SHUTDOWN = 0x8004587D
_NO_LOG_FLUSH = 2


def _need(*programs: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may mount a file system")
    for program in programs:
        if shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is None:
            pytest.skip(f"{program} is not there")


def _mount(*words: str) -> None:
    done = subprocess.run(["mount", *words], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"can't mount here: {done.stderr.strip()}")


@contextmanager
def tmpfs(directory: Path, options: str) -> Iterator[Path]:
    """A tmpfs with these options, mounted on `directory`."""
    _need("mount", "umount")
    directory.mkdir(parents=True, exist_ok=True)
    _mount("-t", "tmpfs", "-o", options, "tmpfs", str(directory))
    try:
        yield directory
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


@contextmanager
def read_only(directory: Path) -> Iterator[Path]:
    """A directory whose bytes may be read and not written, also not by root."""
    _need("mount", "umount")
    _mount("--bind", str(directory), str(directory))
    try:
        _mount("-o", "remount,ro,bind", str(directory))
        yield directory
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


@contextmanager
def file_server(directory: Path) -> Iterator[tuple[Path, subprocess.Popen[bytes]]]:
    """A file system with a server, and that server: who stops it (SIGSTOP) makes every access wait."""
    _need("bindfs", "umount")
    real, mount = directory / "real", directory / "mount"
    real.mkdir()
    mount.mkdir()
    options = "attr_timeout=0,entry_timeout=0,negative_timeout=0"
    server = subprocess.Popen(["bindfs", "-f", "-o", options, str(real), str(mount)])
    try:
        while not os.path.ismount(mount):
            if server.poll() is not None:
                pytest.skip("bindfs can't mount here")
            time.sleep(0.02)
        yield mount, server
    finally:
        server.send_signal(signal.SIGCONT)
        subprocess.run(["umount", "-l", str(mount)])
        server.terminate()
        server.wait(10)


@contextmanager
def network_clients(real: Path, *mounts: Path) -> Iterator[None]:
    """One directory mounted several times through FUSE: like clients of a file server, each deaf to what others do."""
    _need("bindfs", "umount")
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("there is no /dev/fuse")
    mounted = []
    try:
        for mount in mounts:
            mount.mkdir(parents=True)
            words = ["bindfs", "-o", "attr_timeout=0,entry_timeout=0,negative_timeout=0", str(real), str(mount)]
            done = subprocess.run(words, capture_output=True, text=True)
            if done.returncode != 0:
                pytest.skip(f"bindfs can't mount here: {done.stderr.strip()}")
            mounted.append(mount)
        yield
    finally:
        for mount in mounted:
            subprocess.run(["umount", "-l", str(mount)], check=True)


def fill(directory: Path, *, leave_bytes: int = 0) -> Path:
    """Use up all bytes of a file system but the last `leave_bytes`."""
    ballast = directory / "ballast"
    with ballast.open("wb", buffering=0) as stream:
        try:
            while stream.write(b"\0" * 4096) == 4096:
                pass
        except OSError:
            pass
        stream.truncate(max(0, stream.tell() - leave_bytes))
    return ballast


@dataclass
class Disk:
    """An ext4 in a file, of which the power can be cut."""

    image: Path
    at: Path

    @classmethod
    def make(cls, directory: Path, size_mb: int = 16) -> Disk:
        _need("mkfs.ext4", "mount", "umount", "losetup")
        disk = cls(directory / "disk.img", directory / "disk")
        disk.at.mkdir(parents=True)
        with disk.image.open("wb") as stream:
            stream.truncate(size_mb << 20)
        path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
        words = ["mkfs.ext4", "-q", "-m", "0", "-F", str(disk.image)]
        subprocess.run(words, check=True, env={**os.environ, "PATH": path})
        disk.mount()
        return disk

    def mount(self) -> None:
        # Neither delayed commits of half an hour nor a writer's luck may decide what survives.
        _mount("-o", "loop,commit=600", str(self.image), str(self.at))

    def cut_power(self) -> None:
        """From here on nothing reaches the disk, not even what the kernel holds already."""
        fd = os.open(self.at, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(fd, _EXT4_IOC_SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))
        except OSError as error:
            pytest.skip(f"this kernel can't cut the power of an ext4: {error}")
        finally:
            os.close(fd)

    def unmount(self) -> None:
        subprocess.run(["umount", str(self.at)], check=True)
        while self._loops():  # the kernel lets the loop device go a moment later; two on one file would not agree
            time.sleep(0.01)

    def _loops(self) -> str:
        words = ["losetup", "--associated", str(self.image)]
        path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
        return subprocess.run(words, check=True, capture_output=True, text=True, env={"PATH": path}).stdout

    def after_power_loss(self) -> Path:
        """Cut the power, boot, look at the disk."""
        self.cut_power()
        self.unmount()
        self.mount()
        return self.at
