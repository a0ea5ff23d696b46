"""Whether a directory can be written. Asked in a thread of its own: a file server may not answer for hours."""

from __future__ import annotations

import os
import threading
from typing import Dict, List, Optional, Tuple

PROBE_BYTES = 256 * 1024
PATIENCE_S = 10.0  # a busy parallel file system takes seconds to put the probe on its disks
NO_ANSWER = "its file system does not answer"

_asked: Dict[Tuple[int, str], threading.Thread] = {}  # by process (a forked child has no threads) and folder


def no_room(folder: str) -> Optional[str]:
    """Why nothing can be written here; None if it can. Waits once for a disk that does not answer, not each time."""
    key = (os.getpid(), folder)
    hanging = _asked.get(key)
    if hanging is not None and hanging.is_alive():
        return NO_ANSWER
    found: List[Optional[str]] = []
    thread = threading.Thread(target=lambda: found.append(_probe(folder)), name="wandb-spool-probe", daemon=True)
    try:
        thread.start()
    except RuntimeError:
        return _probe(folder)  # the interpreter ends and starts no thread any more
    _asked[key] = thread
    thread.join(PATIENCE_S)
    return found[0] if found else NO_ANSWER


def _probe(folder: str) -> Optional[str]:
    path = os.path.join(folder, f".probe-{os.getpid()}")
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, bytes(PROBE_BYTES))
            os.fsync(fd)
            short = os.fstat(fd).st_size < PROBE_BYTES
        finally:
            os.close(fd)
            os.unlink(path)
    except OSError as error:
        return error.strerror or str(error)
    return "no space left on the device" if short else None
