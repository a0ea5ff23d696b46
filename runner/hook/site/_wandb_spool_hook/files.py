"""Saved files are what they were: policy ``now`` keeps the content at the call, ``live`` and ``end`` that at the end.

wandb leaves links to the originals. Here ``now`` becomes a copy at once (a reflink where the file system can); ``live``
and ``end`` stay links until the run is finished, with something kept aside in case the original is deleted. After
``settle`` no file of the run is a link. The seal does the same for a run whose process died. Fails softly: a file that
can't be copied stays as wandb left it, with one notice.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import os
import shutil
from typing import Any, Dict, Iterator, List, Optional, Tuple

from .anatomy import run_class
from .notice import say, say_once
from .process import Process

FICLONE = 0x40049409
WEIGHTS_SUFFIXES = (".data", "_data")  # beside model.onnx: where the exporters put large weights


def install(process: Process) -> None:
    Run = run_class()
    original = Run.save

    @functools.wraps(original)
    def save(
        self: Any, glob_str: Any = None, base_path: Any = None, policy: Any = "live", *args: Any, **kwargs: Any
    ) -> Any:
        answer = original(self, glob_str, base_path, policy, *args, **kwargs)
        session = process.of(self)
        if session is None or not isinstance(answer, list):
            return answer
        for path in answer:
            _keep(session.saved, path, policy)
        return [*answer, *_save_weights(session, answer, policy)]

    Run.save = save


def _save_weights(session: Any, saved: List[str], policy: str) -> List[str]:
    """An exporter may put the weights of a model into a second file; without it the model is lost."""
    added = []
    for source, path in _weights_beside(saved):
        try:
            if os.path.lexists(path):
                os.unlink(path)
            os.symlink(source, path)
            name = path.rpartition(os.sep + "files" + os.sep)[2]
            session.interface.publish_files({"files": [(name, policy)]})
            _keep(session.saved, path, policy)
        except OSError as error:
            say_once("weights", f"can't save {source}, which holds a model's weights: {error}")
            continue
        say(f"{os.path.basename(source)} holds the weights of a saved .onnx model: it is saved as well")
        added.append(path)
    return added


def _weights_beside(saved: List[str]) -> Iterator[Tuple[str, str]]:
    for path in saved:
        for suffix in WEIGHTS_SUFFIXES:
            source = _sources.get(path, path) + suffix
            if path.endswith(".onnx") and os.path.isfile(source) and path + suffix not in saved:
                yield source, path + suffix


_sources: Dict[str, str] = {}  # of saved files, by their path in the run


def _keep(saved: Dict[str, str], path: str, policy: str) -> None:
    _sources.setdefault(path, os.path.realpath(path))
    if os.path.islink(path):
        _sources[path] = os.path.realpath(path)
    try:
        if policy == "now":
            materialize(path)
            saved.pop(path, None)
        elif os.path.islink(path):
            saved[path] = _set_aside(path)
    except OSError as error:
        say_once(f"save {error.errno}", f"can't keep a copy of {path}: {error}; it stays a link")


def _set_aside(path: str) -> str:
    """For the case that the original is deleted: a hard link costs nothing, across devices it is a copy."""
    run_dir, _, name = path.rpartition(os.sep + "files" + os.sep)
    kept = os.path.join(run_dir, "tmp", "kept", name)
    os.makedirs(os.path.dirname(kept), mode=0o700, exist_ok=True)
    if os.path.lexists(kept):
        os.unlink(kept)
    source = os.path.realpath(path)
    if os.path.isfile(source):
        try:
            os.link(source, kept)
        except OSError:
            copy(source, kept)
    return kept


def settle(session: Any) -> None:
    """Make every file of the run its own: nothing of it may change or vanish with the original any more."""
    files_dir = os.path.join(session.fragment.run_dir, "files")
    for folder, folders, names in os.walk(files_dir):
        for name in names + [name for name in folders if os.path.islink(os.path.join(folder, name))]:
            path = os.path.join(folder, name)
            try:
                materialize(path, session.saved.get(path))
            except OSError as error:
                say_once(f"settle {error.errno}", f"can't copy {path}: {error}; it stays a link")


def materialize(path: str, kept: Optional[str] = None) -> None:
    """Replace a link by what it links to, or by what was kept aside if that is gone. Atomic."""
    linked = os.path.islink(path)
    if not linked and (not os.path.isfile(path) or os.stat(path).st_nlink == 1):
        return
    source = os.path.realpath(path)
    if linked and not os.path.exists(source):
        if kept is None or not os.path.exists(kept):
            return
        source = kept
    temporary = f"{path}.spool-{os.getpid()}"
    if os.path.isdir(source):
        shutil.copytree(source, temporary)
        os.unlink(path)
    else:
        copy(source, temporary)
    os.rename(temporary, path)


def copy(source: str, target: str) -> None:
    with open(source, "rb") as read, open(target, "wb") as write:
        os.fchmod(write.fileno(), 0o600)
        try:
            fcntl.ioctl(write.fileno(), FICLONE, read.fileno())
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            shutil.copyfileobj(read, write, 1024 * 1024)


def forget(session: Any) -> None:
    """The run is finished: what was kept aside is needed no more."""
    session.saved.clear()
    shutil.rmtree(os.path.join(session.fragment.run_dir, "tmp", "kept"), ignore_errors=True)


def carry(session: Any, old_run_dir: str, paths: List[str]) -> None:
    """Files that the dead fragment's log may not name: the new one brings them."""
    for name in paths:
        source = os.path.join(old_run_dir, "files", name)
        target = os.path.join(session.fragment.run_dir, "files", name)
        if os.path.isfile(source) and not os.path.lexists(target):
            os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
            copy(source, target)


def save_again(session: Any, old_run_dir: str) -> None:
    """``live`` and ``end`` files go on in the new fragment; the dead one keeps what they were when it died."""
    waiting = dict(session.saved)
    session.saved.clear()
    for path, kept in waiting.items():
        name = path.rpartition(os.sep + "files" + os.sep)[2]
        target = os.path.join(session.fragment.run_dir, "files", name)
        try:
            source = os.path.realpath(path)
            os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
            os.symlink(source, target)
            materialize(path, kept)
            session.saved[target] = _set_aside(target) if os.path.exists(source) else kept
            session.interface.publish_files({"files": [(name, "end")]})
        except OSError as error:
            say_once(f"save {error.errno}", f"can't save {path} again: {error}")
