"""The training command as a child process: start it, give it the signals that it did not get, wait for its end.

Guarantees: the command starts with the signal mask and dispositions that the launcher was started with, in the
launcher's process group and terminal. One thread, no handler: signals are blocked and fetched one by one, so that
nothing can interrupt anything. Fails with `NotStarted`, which carries the shell's exit code for it (126, 127).
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from .signals import FORWARDED, WATCHED, Witness, needs_forwarding, origin

IDLE_S = 5.0


class NotStarted(Exception):
    """The command could not be started."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True)
class Command:
    """A running command."""

    pid: int
    witness: Witness


def block_signals() -> set[int]:
    """Block what `attend` fetches; returns the mask that was there before."""
    return {int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)}


def unblock_signals(mask: set[int], *, ignore: frozenset[signal.Signals] = FORWARDED - {signal.SIGINT}) -> None:
    """After the command ended: only Ctrl-C may still interrupt; a SIGTERM at this point was meant for the command."""
    for number in ignore:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def start(command: Sequence[str], environ: Mapping[str, str], mask: set[int]) -> Command:
    """Start the command. Raises NotStarted."""
    witness = Witness()
    witness.start()
    try:
        return Command(_spawn(list(command), environ, mask), witness)
    except NotStarted:
        witness.stop()
        raise


def _spawn(command: list[str], environ: Mapping[str, str], mask: set[int]) -> int:
    try:
        return _spawn_file(command[0], command, environ, mask)
    except OSError as error:
        if error.errno == errno.ENOEXEC:  # a script without `#!`: a shell would run it, so does this
            return _spawn_file("/bin/sh", ["sh", shutil.which(command[0]) or command[0], *command[1:]], environ, mask)
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            raise NotStarted(f"{command[0]}: command not found", 127) from error
        raise NotStarted(f"{command[0]}: can't be executed: {error.strerror}", 126) from error


def _spawn_file(file: str, words: list[str], environ: Mapping[str, str], mask: set[int]) -> int:
    # Python ignores these two for itself; an ignored signal would stay ignored in the command.
    return os.posix_spawnp(file, words, environ, setsigmask=mask, setsigdef=[signal.SIGPIPE, signal.SIGXFSZ])


def attend(
    command: Command,
    *,
    on_idle: Callable[[], None],
    idle_s: float = IDLE_S,
) -> int:
    """Wait until the command ended; returns its exit code, 128+n for death by signal n.

    `on_idle` is called every few seconds. It must not touch a file system that may hang.
    """
    try:
        while True:
            ended = _reap(command.pid)
            if ended is not None:
                return ended
            info = signal.sigtimedwait(WATCHED, idle_s)
            if info is None:
                command.witness.refresh()
                on_idle()
            elif info.si_signo != signal.SIGCHLD:
                _pass_on(command, info)
    finally:
        command.witness.stop()


def _pass_on(command: Command, info: signal.struct_siginfo) -> None:
    same_group = _same_group(command.pid)
    where = origin(info.si_code)
    witnessed = same_group and where.value == "process" and command.witness.saw(info.si_signo)
    if needs_forwarding(where, witnessed=witnessed, same_group=same_group):
        try:
            os.kill(command.pid, info.si_signo)
        except (ProcessLookupError, PermissionError):  # ended meanwhile, or changed its user
            pass


def _same_group(pid: int) -> bool:
    try:
        return os.getpgid(pid) == os.getpgrp()
    except ProcessLookupError:
        return True


def _reap(wanted: int) -> int | None:
    """Collect every child that ended: as process 1 of a container the launcher inherits strangers' children."""
    result: int | None = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return result
        if pid == 0:
            return result
        if pid == wanted:
            result = exit_code(status)


def exit_code(status: int) -> int:
    """The shell's number for a wait status."""
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
