"""The launcher: run any training command unchanged, offline into the spool, and seal what it logged.

Guarantees
* The command runs, whatever is wrong with the spool (unless `require_spool`); its exit code is passed on, 128+n for
  death by signal n. The launcher's own failures are 125 (no spool, and it was required), 126 and 127.
* Every fragment of the launch is sealed when its writer is gone, or stays *open* for `recover` with one line that says
  so. Killing the launcher at any point loses nothing: the command goes on, and `recover` does the rest.
* It waits without using the processor, in one thread, and imports nothing that a training environment could break.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from wandb_spool.spool import alive
from wandb_spool.spool.errors import SpoolError
from wandb_spool.spool.launches import Launch
from wandb_spool.spool.layout import LaunchPaths, log_path
from wandb_spool.spool.queue import Spool
from wandb_spool.spool.states import State

from .child import Command, NotStarted, attend, block_signals, start, unblock_signals
from .environment import LaunchEnvironment, environment_without_spool, launch_environment
from .fallback import candidates, choose, warning
from .hook import HOOK_DIR
from .keeper import Keeper
from .preflight import FIRST_TOUCH_S, answers, concerns, look
from .redaction import redact
from .resume_key import Attempts, ResumeKey, decide, job_key, name_key
from .sealing import Sealed, Sealer

if TYPE_CHECKING:
    from wandb_spool.spool.staging import Stage

NO_SPOOL = 125
WRITERS_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class LaunchRequest:
    """What a person asked for."""

    command: tuple[str, ...]
    spool: Path
    require_spool: bool = False
    hold: bool = False
    resume_key: str | None = None
    name: str | None = None
    quiet: bool = False
    stage: Path | None = None
    first_touch_s: float = FIRST_TOUCH_S
    writers_timeout_s: float = WRITERS_TIMEOUT_S


def run(request: LaunchRequest, environ: Mapping[str, str], *, told: TextIO | None = None) -> int:
    """Run the command to its end; returns the exit code for this process."""
    mask = block_signals()
    say = _Voice(told or sys.stderr)
    places = candidates(request.spool, environ)
    if request.require_spool:
        places = places[:1]
    chosen = choose(
        places,
        lambda spool: make_launch(spool, request, environ),
        reach=lambda root: answers(root, request.first_touch_s),
    )
    for line in warning(chosen):
        say(line)
    if chosen.launch is None and request.require_spool:
        say("the command was not started, because of --require-spool")
        return NO_SPOOL
    stage = None if chosen.launch is None else _prepare(chosen.launch, request, environ, say)
    return _run_in(chosen.launch, stage, request, environ, mask, say)


def _prepare(launch: Launch, request: LaunchRequest, environ: Mapping[str, str], say: _Voice) -> Stage | None:
    """Look at the disk before training, and make the stage that was asked for."""
    concern = concerns(launch.spool.root, look(launch.spool.root), environ)
    if concern is not None:
        say(concern)
    if request.stage is None:
        return None
    from wandb_spool.spool.staging import WINDOW_S, Stage, remove_left_behind

    try:
        stage = Stage.create(request.stage, launch)
        remove_left_behind(request.stage, launch.spool)
    except (SpoolError, OSError) as error:
        say(f"WARNING: no stage can be made: {error}; writing to the spool directly")
        return None
    if not request.quiet:
        say(f"staged in {stage.paths.root}: if this node dies, up to {WINDOW_S:.0f} s of what was logged are lost")
    return stage


def make_launch(spool: Spool, request: LaunchRequest, environ: Mapping[str, str]) -> Launch:
    """The launch directory of one command. No key of anybody's is in its record. Raises StorageError."""
    extra = {"base_url": environ.get("WANDB_BASE_URL") or None, **({"hold": True} if request.hold else {})}
    return Launch.create(spool, redact(request.command, environ), extra=extra)


def resume_key(launch: Launch, request: LaunchRequest, environ: Mapping[str, str]) -> ResumeKey | None:
    """Which runs this launch continues. A spool that can't answer means: new runs."""
    named = request.resume_key is not None
    key = name_key(request.resume_key, environ) if request.resume_key else job_key(environ, request.command)
    if key is None:
        return None
    restart_count = int(environ["SLURM_RESTART_COUNT"]) if environ.get("SLURM_RESTART_COUNT", "").isdigit() else 0
    attempts = Attempts.of(launch.spool.root, key)
    try:
        # A launch that logged nothing is gone; it is nobody's predecessor.
        earlier = [item for item in attempts.earlier() if launch.spool.paths.launch(str(item["launch"])).is_dir()]
        attempts.add(launch.name, restart_count, mode=launch.spool.file_mode)
    except (SpoolError, OSError):
        return None
    return decide(key, named=named, restart_count=restart_count, launch=launch.name, earlier=earlier)


def environment_of(
    launch: Launch, request: LaunchRequest, environ: Mapping[str, str], stage: Stage | None = None
) -> LaunchEnvironment:
    """What a command that belongs to this launch finds in its environment."""
    resumed = resume_key(launch, request, environ)
    return launch_environment(
        environ,
        spool=launch.spool.root,
        launch=launch.paths.root,
        hook=HOOK_DIR,
        command=request.command,
        name=request.name,
        resume_key=None if resumed is None else resumed.encode(),
        stage=None if stage is None else stage.paths.root,
    )


class _Voice:
    """Says a line on stderr. One that can't be written is dropped: the terminal may be gone."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def __call__(self, line: str) -> None:
        try:
            self.stream.write(f"wandb-spool: {line}\n")
            self.stream.flush()
        except (OSError, ValueError, UnicodeError):
            pass

    @property
    def unicode(self) -> bool:
        return "utf" in (self.stream.encoding or "").lower()


def _run_in(
    launch: Launch | None,
    stage: Stage | None,
    request: LaunchRequest,
    environ: Mapping[str, str],
    mask: set[int],
    say: _Voice,
) -> int:
    changes = environment_without_spool(environ) if launch is None else environment_of(launch, request, environ, stage)
    if changes.overridden:
        say(f"overridden for this launch: {', '.join(changes.overridden)}")
    try:
        command = start(request.command, changes.applied_to(environ), mask)
    except NotStarted as error:
        say(str(error))
        if launch is not None:
            _discard_if_empty(launch, stage)
        return error.exit_code
    if launch is None:
        code = attend(command, on_idle=lambda: None)
        say("this launch was not logged: no place could be written")
        return code
    sealer = Sealer(launch)
    code = _attend(command, Keeper(launch, stage), say)
    return _finish(sealer, stage, request, (command.pid, code), mask, say)


def _attend(command: Command, keeper: Keeper, say: _Voice) -> int:
    def on_idle() -> None:
        keeper.start()
        for line in keeper.heard():
            say(line)

    if keeper.stage is not None:
        keeper.start()
    try:
        return attend(command, on_idle=on_idle)
    finally:
        for line in keeper.heard():
            say(line)
        keeper.stop()


def _finish(
    sealer: Sealer,
    stage: Stage | None,
    request: LaunchRequest,
    process: tuple[int, int],
    mask: set[int],
    say: _Voice,
) -> int:
    """Seal and tell. Whatever goes wrong here, the command's exit code is the answer."""
    launch, code = sealer.launch, process[1]
    try:
        if not answers(launch.paths.root, request.first_touch_s):
            say(f"the file system of {launch.paths.root} does not answer; nothing is lost: `wandb-spool recover` seals")
            return code
        if not launch.paths.root.is_dir():
            say(f"the launch directory is gone: {launch.paths.root}. What was logged into it is lost with it")
            return code
        if _discard_if_empty(launch, stage):
            return code
        _import_the_seal()
        unblock_signals(mask)
        launch.free_reserve()
        if stage is not None:
            _carry(stage)
        sealed = sealer.finish(timeout_s=request.writers_timeout_s, process=process)
        if stage is not None and not stage.remove_if_sealed():
            say(f"not all of the stage is sealed, it stays: {stage.paths.root}")
        if not request.quiet:
            _tell(launch, sealed, say)
    except KeyboardInterrupt:
        say(f"interrupted while sealing; nothing is lost: `wandb-spool recover --spool {launch.spool.root}` goes on")
    except Exception as error:  # noqa: BLE001 - the training is over; its exit code must not become ours
        say(f"sealing failed ({error!r}); nothing is lost: `wandb-spool recover --spool {launch.spool.root}` goes on")
    return code


def _carry(stage: Stage) -> None:
    """Once more: from here on every fragment has its place in the spool."""
    from wandb_spool.spool.staging import Mirror

    Mirror(stage).carry()


def _discard_if_empty(launch: Launch, stage: Stage | None) -> bool:
    """Leave nothing behind if no run was started; returns whether that is so."""
    for paths in (launch.paths, *(() if stage is None else (stage.paths,))):
        _drop_what_never_began(launch, paths)
    if _has_runs(launch.paths) or (stage is not None and _has_runs(stage.paths)):
        return False
    if stage is not None:
        stage.remove_if_sealed()
    launch.discard_if_empty()
    return True


def _drop_what_never_began(launch: Launch, paths: LaunchPaths) -> None:
    """wandb makes a run directory before it knows whether there will be a run: an `init` that failed leaves it."""
    empty = [path for path in paths.fragments() if not _began(launch, path)]
    if empty and not launch.is_inhabited():
        for path in empty:
            shutil.rmtree(path, ignore_errors=True)


def _began(launch: Launch, directory: Path) -> bool:
    """Whether there is a log, a sign of life, a file or an entry of it."""
    return (
        log_path(directory) is not None
        or (directory / alive.FILE_NAME).exists()
        or any((directory / "files").glob("*"))
        or launch.spool.paths.entry(State.OPEN, f"{launch.name}.{directory.name}").exists()
    )


def _import_the_seal() -> None:
    """While no signal can come: Python exits by SIGINT, even if it was caught, when that hit the making of a class."""
    from wandb_spool.spool import recover, seal  # noqa: F401

    from . import ending  # noqa: F401


def _has_runs(paths: LaunchPaths) -> bool:
    try:
        return bool(paths.fragments()) or bool(os.listdir(paths.staged))
    except OSError:
        return True  # the launch directory is out of reach; the seal says what is wrong with it


def _tell(launch: Launch, sealed: list[Sealed], say: _Voice) -> None:
    from .ending import ending

    for line in ending(launch.spool, sealed, unicode=say.unicode):
        say(line)
