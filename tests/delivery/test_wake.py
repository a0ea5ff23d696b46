"""Waking: by events where they come, by polling where they don't; a deaf watcher costs latency only."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from wandb_spool.syncer import wake
from wandb_spool.syncer.wake import Watcher, file_system_of, needs_polling

WAIT_S = 20.0
MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:40 / /scratch rw shared:2 - lustre 10.0.0.1@tcp:/scratch rw
31 22 0:41 / /home rw shared:3 - nfs4 server:/home rw
32 31 0:42 / /home/ada/a\\040b rw shared:4 - fuse.sshfs ada@host: rw
33 22 0:43 / /tmp rw - tmpfs tmpfs rw
"""


def test_the_file_system_of_a_path_decides_how_it_is_watched() -> None:
    seen = {
        path: file_system_of(Path(path), MOUNTS) for path in ("/x", "/scratch/x", "/home/x", "/home/ada/a b/x", "/tmp")
    }
    assert list(seen.values()) == ["ext4", "lustre", "nfs4", "fuse.sshfs", "tmpfs"]
    assert [needs_polling(kind) for kind in seen.values()] == [False, True, True, True, False]
    assert file_system_of(Path("/x"), "no such table") == "unknown"


def _arrives(directory: Path, name: str) -> None:
    """As an entry does: written under a name with a dot, renamed."""
    (directory / f".tmp-{name}").write_text("{}")
    (directory / f".tmp-{name}").rename(directory / name)


@pytest.mark.parametrize("polling", [False, True])
def test_an_entry_that_arrives_wakes(tmp_path: Path, polling: bool) -> None:
    watcher = Watcher([tmp_path], poll_s=0.1)
    watcher.polling = polling
    watcher.start()
    try:
        assert watcher.alive()
        _arrives(tmp_path, "entry.json")
        assert watcher.event.wait(WAIT_S)
    finally:
        watcher.stop()
    assert not list(tmp_path.glob(f"{wake.PROBE_PREFIX}*"))


def test_a_watcher_whose_directory_went_away_and_came_back_can_be_started_again(tmp_path: Path) -> None:
    directory = tmp_path / "incoming"
    watcher = Watcher([directory], poll_s=0.1)
    watcher.start()  # nothing is there yet: no error, the scan goes on
    assert not watcher.alive()
    directory.mkdir()
    watcher.start()
    try:
        assert watcher.alive()
        _arrives(directory, "entry.json")
        assert watcher.event.wait(WAIT_S)
    finally:
        watcher.stop()


@pytest.fixture
def two_sights(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """One directory as two hosts of a network file system see it: neither is told of the other's changes."""
    if shutil.which("bindfs") is None or not Path("/dev/fuse").exists():
        pytest.skip("bindfs or /dev/fuse is not here")
    real = tmp_path / "real"
    real.mkdir()
    sights = (tmp_path / "one", tmp_path / "other")
    for sight in sights:
        sight.mkdir()
        options = "attr_timeout=0,entry_timeout=0,negative_timeout=0"
        if subprocess.run(["bindfs", "-o", options, str(real), str(sight)], capture_output=True).returncode:
            pytest.skip("bindfs can't mount here")
    yield sights
    for sight in sights:
        subprocess.run(["umount", "-l", str(sight)], check=False)


def test_what_another_host_puts_on_a_network_file_system_wakes_too(two_sights: tuple[Path, Path]) -> None:
    here, there = two_sights
    watcher = Watcher([here], poll_s=0.2)
    assert watcher.polling
    watcher.start()
    try:
        _arrives(there, "entry.json")
        assert watcher.event.wait(WAIT_S)
    finally:
        watcher.stop()


SIGNALS_ALL_THE_TIME = """
import signal, time
from wandb_spool.syncer.stopping import Wake
wake, woken = Wake(), 0
signal.signal(signal.SIGALRM, lambda *_: wake.set())
signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
end_s = time.monotonic() + 2
while time.monotonic() < end_s:
    wake.clear()
    woken += wake.wait(0.001)
signal.setitimer(signal.ITIMER_REAL, 0)
print("woken" if woken else "never")
"""


def test_a_signal_may_wake_the_daemon_whatever_it_interrupts() -> None:
    """`threading.Event` waits for itself here for ever."""
    done = subprocess.run(
        [sys.executable, "-c", SIGNALS_ALL_THE_TIME], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "woken\n"
