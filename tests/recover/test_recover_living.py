"""A run that is alive is never sealed for good; what the dead left is found, wherever the observer stands."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from launcher.processes import Launching, children, until

from wandb_spool.spool import alive, identity, observations
from wandb_spool.spool.entry import Entry
from wandb_spool.spool.log import rows
from wandb_spool.spool.recover import Observations, judge, orphans
from wandb_spool.spool.seal import seal_fragment
from wandb_spool.spool.states import State

from .looking import STALE_S, Looking, in_pid_namespace, look_from_elsewhere

TRAIN = """
import os, sys, time, wandb
run = wandb.init(project="p", settings=wandb.Settings(silent=True))
for step in range(20):
    run.log({"step": step})
print("logged", os.getpid(), flush=True)
go, at = sys.argv[1] + "/go", 20
while not os.path.exists(go):
    if os.path.exists(sys.argv[1] + "/busy"):
        for at in range(at, at + 100):
            run.log({"step": at})
        at += 1
    time.sleep(0.05)
for step in range(at, at + 20):
    run.log({"step": step})
run.finish()
"""
LOGGED = 20


def begin(launching: Launching, *around: str) -> tuple[subprocess.Popen[str], int, Path]:
    """A training that has logged 20 rows and waits for the file `go`; its pid as it sees it, and its log."""
    launcher = launching.start(*around, sys.executable, "-c", TRAIN, str(launching.home))
    assert launcher.stdout is not None
    line = launcher.stdout.readline().split()
    assert line[:1] == ["logged"], launcher.stderr and launcher.stderr.read()
    log = next(launching.spool.glob("runs/*/*/wandb/*/*.wandb"))
    until(lambda: sum(1 for _ in rows(log)) >= LOGGED, "the log to be flushed")
    return launcher, int(line[1]), log


def kill(*pids: int) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    for pid in pids:
        until(lambda pid=pid: identity.start_ticks(pid) is None, f"the death of {pid}")  # type: ignore[misc]


def test_training_that_logs_nothing_for_long_is_left_alone_from_everywhere(launching: Launching) -> None:
    launcher, _, _ = begin(launching)
    looking = Looking(launching.spool)
    times = int(1.5 * STALE_S / 0.5) + 1
    for told in look_from_elsewhere(launching.spool, times):
        ((state, why),) = told
        assert (state, why) == ("open", "its writer is on another host or out of sight; it is watched")
    (item,) = looking.once(stale_after_s=0.0)
    assert (item.state, item.why) == (State.OPEN, "its launcher lives and will seal it")
    (launching.home / "go").touch()
    launcher.communicate(timeout=60)
    ((_, manifest),) = looking.sealed()
    assert (manifest.rows_logged, manifest.rows_kept, manifest.provisional) == (40, 40, False)


def test_stopped_training_is_left_alone_and_if_it_looked_dead_from_elsewhere_every_row_is_kept(
    launching: Launching,
) -> None:
    launcher, trainer, _ = begin(launching)
    stopped = [trainer, *children(trainer)]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    looking = Looking(launching.spool)
    (item,) = looking.once(stale_after_s=0.0)
    assert item.state is State.OPEN, "on its own host nothing is guessed"
    seen = look_from_elsewhere(launching.spool, int(STALE_S / 0.5) + 3)
    assert seen[0][0][0] == "open"
    assert "sealed provisionally" in str(seen), "from elsewhere it is as dead as can be seen"
    ((_, manifest),) = looking.sealed()
    assert manifest.provisional
    for pid in stopped:
        os.kill(pid, signal.SIGCONT)
    (launching.home / "go").touch()
    launcher.communicate(timeout=60)
    looking.until_sealed()
    assert sorted(set(looking.steps())) == list(range(40))
    assert not launching.entries(State.OPEN)


def test_writer_in_a_pid_namespace_of_its_own_is_watched_and_sealed_when_it_is_dead(launching: Launching) -> None:
    launcher, _, log = begin(launching, *in_pid_namespace())
    launcher.send_signal(signal.SIGKILL)  # else the launcher, which lives here, would answer for it
    launcher.wait(60)
    looking = Looking(launching.spool)
    until_s = time.monotonic() + 1.5 * STALE_S
    while time.monotonic() < until_s:
        (item,) = looking.once()
        assert (item.state, item.why) == (State.OPEN, "its writer is on another host or out of sight; it is watched")
        time.sleep(0.3)
    kill(*identity.holders(log), *outside(launching))
    told = looking.until_sealed()
    assert "gave no sign of life" in told[0].why
    ((_, manifest),) = looking.sealed()
    assert (manifest.rows_logged, manifest.rows_kept, manifest.provisional) == (LOGGED, LOGGED, True)
    launcher.communicate()


def outside(launching: Launching) -> list[int]:
    """The training's processes, by the pids that they have here."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid():
            try:
                words = (process / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if str(launching.home).encode() in words and b"-c" in words and b"unshare" not in words[0]:
                found.append(int(process.name))
    return found


def test_launcher_and_training_both_killed(launching: Launching) -> None:
    launcher, trainer, _ = begin(launching)
    launcher.kill()
    launcher.wait()
    kill(trainer)
    (item,) = Looking(launching.spool).until_sealed()
    assert item.why == "sealed: its writer is dead"
    ((_, manifest),) = Looking(launching.spool).sealed()
    assert (manifest.rows_logged, manifest.rows_lost) == (LOGGED, 0)
    assert (manifest.exit_known_from, manifest.provisional) == ("unknown", False)
    launcher.communicate()


def test_dead_node_is_known_by_its_next_boot_or_by_its_silence(launching: Launching) -> None:
    """The entry of a dead writer is given another boot, then another host: what a node's death leaves."""
    launcher, trainer, log = begin(launching)
    launcher.kill()
    launcher.wait()
    looking = Looking(launching.spool)
    (place,) = looking.spool.places(State.OPEN)
    entry = looking.spool.read(place)
    assert entry.writer is not None
    rebooted = replace(entry, writer=replace(entry.writer, boot_id="of yesterday"))
    elsewhere = replace(entry, writer=replace(entry.writer, host="n7"))
    assert not judge(looking.spool, rebooted, Observations(), 0.0).lives
    seen = Observations()
    for now_s in (0.0, 59.0):
        assert judge(looking.spool, elsewhere, seen, now_s, stale_after_s=60.0).lives
        (log.parent / "alive").read_bytes()
        sequence = seen.seen[entry.name][0]
        until(lambda: advanced(looking, elsewhere, sequence), "a heartbeat")  # noqa: B023
    assert judge(looking.spool, elsewhere, seen, 119.0, stale_after_s=60.0).lives, "it beat meanwhile"
    kill(trainer)
    assert judge(looking.spool, elsewhere, seen, 120.0, stale_after_s=60.0).lives
    assert not judge(looking.spool, elsewhere, seen, 180.0, stale_after_s=60.0).lives
    launcher.communicate()


def advanced(looking: Looking, entry: Entry, sequence: int) -> bool:
    sign = alive.read(entry.run_directory(looking.spool.root))
    return sign is not None and sign.sequence > sequence


def test_clock_that_is_set_means_nothing(launching: Launching, tmp_path: Path) -> None:
    """What was seen is dated by the monotonic clock of this boot; another boot's observations are forgotten."""
    launching.run("true")
    spool = Looking(launching.spool).spool
    os.environ["WANDB_SPOOL_CACHE_DIR"] = str(tmp_path / "cache")
    try:
        seen = Observations()
        assert not seen.stood_still("e", 7, 1000.0, stale_after_s=60.0)
        assert not seen.stood_still("e", 7, 3.0, stale_after_s=60.0), "a clock that goes back begins anew"
        assert not seen.stood_still("e", 7, 62.0, stale_after_s=60.0)
        observations.save_observations(spool, seen.seen)
        assert observations.load_observations(spool) == {"e": (7, 3.0)}
        (cache,) = (tmp_path / "cache").iterdir()
        cache.write_text(cache.read_text().replace(identity.boot_id(), "another boot"))
        assert observations.load_observations(spool) == {}
    finally:
        del os.environ["WANDB_SPOOL_CACHE_DIR"]


def test_log_that_grows_after_a_provisional_seal_reopens_it(launching: Launching) -> None:
    """A trainer on a host that can't be reached is stopped, seems dead, and goes on."""
    launcher, trainer, log = begin(launching)
    launcher.kill()
    launcher.wait()
    stopped = [*children(trainer), trainer]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    looking = Looking(launching.spool)
    entry = seen_from_another_host(looking, log.parent.parent.parent / "launch.json")
    sign = alive.read(log.parent)
    assert sign is not None
    seen = Observations({entry.name: (sign.sequence, 0.0)})
    verdict = judge(looking.spool, entry, seen, 60.0, stale_after_s=60.0)
    assert (verdict.lives, verdict.certain) == (False, False)
    (place,) = looking.spool.places(State.OPEN)
    # `recover` itself would see here, and not there, that wandb-core holds the log open.
    seal_fragment(looking.spool, place, provisional=True, follow_links=False)
    ((_, manifest),) = looking.sealed()
    assert manifest.provisional and manifest.rows_kept == LOGGED
    for pid in stopped:
        os.kill(pid, signal.SIGCONT)
    (launching.home / "go").touch()
    until(lambda: identity.start_ticks(trainer) is None, "the end of the training")
    looking.until_sealed()
    assert sorted(set(looking.steps())) == list(range(40))
    launcher.communicate()


def seen_from_another_host(looking: Looking, record: Path) -> Entry:
    """Rewrite the one open entry and its launch as if they came from host n7."""
    (place,) = looking.spool.places(State.OPEN)
    owned = looking.spool.claim(place)
    entry = looking.spool.read(owned)
    assert entry.writer is not None
    moved = replace(entry, writer=replace(entry.writer, host="n7"))
    looking.spool.rewrite(owned, moved)
    looking.spool.release(owned, State.OPEN)
    record.write_text(record.read_text().replace(f'"host": "{entry.writer.host}"', '"host": "n7"'))
    return moved


def test_run_without_hook_and_launcher_is_watched_by_the_size_of_its_log(launching: Launching) -> None:
    """`wandb-spool env` and an interpreter that takes no hook: nothing shows life but the log."""
    line = f'eval "$({sys.executable} -m wandb_spool env --spool {launching.spool})"; exec "$@"'
    words = ["sh", "-c", line, "-", sys.executable, "-I", "-c", TRAIN, str(launching.home)]
    with subprocess.Popen(
        words,
        env=launching.environment(),
        cwd=launching.home,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as trainer:
        assert trainer.stdout is not None
        assert trainer.stdout.readline().startswith("logged")
        looking = Looking(launching.spool)
        (launching.home / "busy").touch()
        (item,) = looking.once()
        assert (item.state, item.why) == (State.OPEN, "a process of this host still holds the log open")
        for told in look_from_elsewhere(launching.spool, int(1.5 * STALE_S / 0.5)):
            ((state, _),) = told
            assert state == "open"
        (launching.home / "go").touch()
        assert trainer.wait(60) == 0
    (item,) = looking.until_sealed()
    ((_, manifest),) = looking.sealed()
    assert manifest.hook == "absent" and manifest.rows_kept >= 40


def test_run_directory_without_an_entry_gets_one(launching: Launching) -> None:
    launcher, trainer, _ = begin(launching)
    (place,) = launching.entries(State.OPEN)
    launcher.kill()
    launcher.wait()
    kill(trainer)
    place.path.unlink()
    looking = Looking(launching.spool)
    assert [made.name for made in orphans(looking.spool)] == [place.name]
    looking.until_sealed()
    ((_, manifest),) = looking.sealed()
    assert manifest.rows_kept == LOGGED
    launcher.communicate()


def test_torn_and_damaged_log_is_salvaged_and_the_original_stays(launching: Launching) -> None:
    launcher, trainer, log = begin(launching)
    (launching.home / "busy").touch()
    until(lambda: log.stat().st_size > 100_000, "a log of several blocks")
    launcher.kill()
    launcher.wait()
    kill(trainer)
    until(lambda: not identity.holders(log), "wandb-core to end")
    damaged = bytearray(log.read_bytes())
    damaged[40_000:40_100] = b"\xff" * 100  # in the second block
    damaged = damaged[:-5]
    log.write_bytes(damaged)
    looking = Looking(launching.spool)
    looking.until_sealed()
    ((_, manifest),) = looking.sealed()
    assert manifest.log_ending == "damaged" and manifest.log_damage
    assert manifest.rows_logged is not None and manifest.rows_lost == manifest.rows_logged - manifest.rows_kept
    assert 0 < manifest.rows_lost < manifest.rows_logged / 2, "records behind the damaged block count as well"
    assert log.read_bytes() == bytes(damaged)
    launcher.communicate()
