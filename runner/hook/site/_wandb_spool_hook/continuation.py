"""Which run this one continues: its id where the launcher recognized a restart, its predecessor, its first step.

Guarantees: an id of the user's own always wins; two trainings of one launch never get one id; what the spool holds of a
run is only read, and anything that can't be read means *no predecessor*.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from typing import Any, Dict, Iterator, List, NamedTuple, Optional

from .anatomy import run_class
from .launch import Launch
from .notice import say_once

_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"
_ID_LENGTH = 12
_STEP = re.compile(rb" step=(-?\d+) ")
_NO_PART = ("void", "discarded")


class Predecessor(NamedTuple):
    """The fragment that a continuing run goes on from."""

    entry: str
    last_step: int
    """-1: it holds no row."""
    open: bool
    """Nobody has sealed it yet: its writer may still live."""


def restart_id(launch: Launch, environ: Any) -> Optional[str]:
    """The id of this run in a launch that may be restarted; None where no restart can be recognized.

    The n-th run of the same command and rank gets the same id in every attempt. Processes of one launch share the
    count through files, so that a script that starts several trainings doesn't merge them. Under a name of the user's
    the command is the program alone: a chained job tells its next link by an argument which checkpoint to load.
    Without a name, attempts after one with several runs of this command (a k-fold loop) start runs of their own:
    nobody can know with which of them the program goes on.
    """
    try:
        given = json.loads(environ.get("WANDB_SPOOL_RESUME_KEY") or "")
        key, named = str(given["key"]), bool(given.get("named"))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    rank = environ.get("RANK") or environ.get("SLURM_PROCID") or "0"
    words = [os.path.basename(word) for word in sys.argv[:1]] if named else sys.argv
    command = hashlib.sha256("\0".join(words).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    ordinal = _next_ordinal(launch, f"{rank}-{command}")
    if ordinal is None:
        return None
    key = f"{key}\0{command}"
    if not named and given.get("attempt") and _earlier_launch_wrote(launch, run_id(key, rank, 1)):
        key = f"{key}\0{launch.name}"
    return run_id(key, rank, ordinal)


def _earlier_launch_wrote(launch: Launch, run: str) -> bool:
    return any(
        name.endswith(f"-{run}.json") and not name.startswith(launch.name)
        for folder, _ in _folders(launch)
        for name in _names(folder)
    )


def _next_ordinal(launch: Launch, who: str) -> Optional[int]:
    folder = os.path.join(launch.path, "hook")
    for ordinal in range(10000):
        try:
            fd = os.open(os.path.join(folder, f".run-{who}-{ordinal}"), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            continue
        except OSError:
            return None
        os.close(fd)
        return ordinal
    return None


def run_id(key: str, rank: str, ordinal: int) -> str:
    """As runner/resume_key.py derives it; tests/hook holds the two against each other."""
    number = int(hashlib.sha256(f"{key}\0{rank}\0{ordinal}".encode()).hexdigest(), 16)
    digits = []
    for _ in range(_ID_LENGTH):
        number, rest = divmod(number, len(_ALPHABET))
        digits.append(_ALPHABET[rest])
    return "".join(digits)


def asked_to_resume(arguments: Dict[str, Any], settings: Any) -> bool:
    """Whether the program (or its environment) asked to go on with an earlier run."""
    resume = arguments.get("resume", getattr(settings, "resume", None))
    return resume not in (None, False, "", "never")


def find_predecessor(launch: Launch, own: str, settings: Any) -> Optional[Predecessor]:
    """The newest fragment of this run in the spool that no other one continues, or None."""
    found = [body for body in _same_run(launch, settings) if body["entry"] != own]
    followed = {body.get("predecessor") for body in found}
    tails = [body for body in found if body["entry"] not in followed]
    if not tails:
        return None
    last = max(tails, key=lambda body: (str(body.get("created")), str(body["entry"])))
    return Predecessor(str(last["entry"]), _last_step_before(launch, last, found), bool(last.get("open")))


def _last_step_before(launch: Launch, body: Dict[str, Any], among: List[Dict[str, Any]]) -> int:
    """The last step of a fragment or, if it holds no row, of the nearest one before it that does.

    Slurm's SIGTERM ends wandb-core as well; the exit record of a preempted job then lies in a fragment of its own.
    """
    by_entry = {other["entry"]: other for other in among}
    for _ in among:
        step = _last_step(os.path.join(launch.spool, str(body.get("path"))))
        if step >= 0 or body.get("predecessor") not in by_entry:
            return step
        body = by_entry[body["predecessor"]]
    return -1


def _same_run(launch: Launch, settings: Any) -> Iterator[Dict[str, Any]]:
    of_this_run = re.compile(f".*-{re.escape(settings.run_id)}(-[0-9]+)?$")  # wandb numbers those of one second
    for folder, state in _folders(launch):
        for name in _names(folder):
            stem = name[: -len(".json")].partition("~")[0]
            if not name.endswith(".json") or not of_this_run.match(stem):
                continue
            try:
                with open(os.path.join(folder, name)) as file:
                    body = json.load(file)
                if not body.get("replay") and all(
                    _same(body, settings, one) for one in ("run_id", "project", "entity")
                ):
                    yield dict(body, entry=stem, open=state == "open")
            except (OSError, ValueError, AttributeError):
                continue


def _same(body: Dict[str, Any], settings: Any, name: str) -> bool:
    mine, theirs = getattr(settings, name, None), body.get(name)
    return not mine or not theirs or mine == theirs


def _folders(launch: Launch) -> Iterator[Any]:
    queue = os.path.join(launch.spool, "queue")
    for state in _names(queue):
        folder = os.path.join(queue, state)
        if state == "delivered":
            for month in _names(folder):
                yield os.path.join(folder, month), state
        elif state not in _NO_PART:
            yield folder, state


def _names(folder: str) -> List[str]:
    try:
        return [name for name in os.listdir(folder) if not name.startswith(".")]
    except OSError:
        return []


def _last_step(run_dir: str) -> int:
    """The greatest step that its manifest or its sign of life tells."""
    steps = [-1]
    try:
        with open(os.path.join(run_dir, "manifest.json")) as file:
            steps.append(json.load(file).get("last_step"))
    except (OSError, ValueError, AttributeError):
        pass
    try:
        with open(os.path.join(run_dir, "alive"), "rb") as file:
            match = _STEP.search(file.read(256))
        steps.append(int(match.group(1)) if match else -1)
    except OSError:
        pass
    return max(step for step in steps if isinstance(step, int))


def install(process: Any) -> None:
    """`run.step` of a resumed run is the step at which it goes on, also before its first row."""
    Run = run_class()
    original = Run.step.fget

    def step(self: Any) -> Any:
        session = process.of(self)
        if session is not None and session.step_to_come is not None:
            return session.step_to_come
        return original(self)

    Run.step = Run.step.getter(step)


def show_resumed(run: Any) -> None:
    """`if run.resumed: load the checkpoint` must hold offline too."""
    try:
        run._settings.resumed = True
    except Exception:  # noqa: BLE001, S110 - a wandb that keeps it elsewhere
        pass


def tell(predecessor: Predecessor, settings: Any) -> None:
    if predecessor.open:
        say_once(
            "second writer",
            f"run {settings.run_id} has a fragment that is not sealed ({predecessor.entry}): if its process still "
            "lives, both write one run; each keeps its own fragment, and the later one counts where they overlap",
        )
