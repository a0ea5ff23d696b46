"""The demonstration: an outage, a training, a delivery, a proof. Everything in it is the real thing but W&B's cloud.

Exit code 0 only if every claim that it prints is true; each step that is not ends it with what was expected and seen.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from wandb_spool.balance import print_balances
from wandb_spool.output import complain, emit
from wandb_spool.speaking import tell
from wandb_spool.spool.configuration import Configuration
from wandb_spool.spool.queue import Spool
from wandb_spool.spool.states import State
from wandb_spool.survey import Survey
from wandb_spool.syncer.balance import RunBalance, balances
from wandb_spool.syncer.plan import Known
from wandb_spool.syncer.rehearsal import RehearsalServer
from wandb_spool.syncer.service import Options, PassResult, sync_once
from wandb_spool.syncing import require_wandb, summarise

_NEEDED = ("torch", "torchvision", "onnx", "onnxscript", "tqdm", "mlxtend")


class Disproved(Exception):
    """A claim of the demonstration was not true."""


def demonstrate(directory: Path | None, epochs: int) -> int:
    """Play it; 0 when everything was true, 1 when not, 2 when something is missing to play it."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        complain(f"the demo trains a real model and lacks {', '.join(missing)}: pip install 'wandb-spool[train]'")
        return 2
    require_wandb()
    started = time.monotonic()
    root = Path(directory or tempfile.mkdtemp(prefix="wandb-spool-demo-")).absolute()
    spool_root = root / "spool"
    if (spool_root / "spool.json").exists():
        complain(f"{root} holds a demo already: choose another --dir")
        return 2
    try:
        with RehearsalServer(root / "service") as server:
            balance = _play(root, spool_root, server, epochs)
    except Disproved as error:
        complain(f"the demo failed: {error}. What it made is in {root}")
        return 1
    emit()
    took_s = time.monotonic() - started
    emit(f"All of it is true, in {took_s:.0f} s: {balance.delivered} rows logged, delivered and read back by step and")
    emit(f"value, {balance.files} files and {balance.artifacts} artifacts by digest. Lost: 0.")
    emit()
    emit("Where to look next:")
    emit(f"  wandb-spool show {balance.run_id} --spool {spool_root}")
    emit("  wandb-spool init DIR            a spool of your own, and the two lines for your batch script")
    emit("  wandb-spool rehearse            the stand-in service, to try your own script and your own outages")
    emit(f"  rm -r {root}            when you have seen enough")
    return 0


def _play(root: Path, spool_root: Path, server: RehearsalServer, epochs: int) -> RunBalance:
    environ = _environment(root, server)
    _title(1, "A W&B service starts, and goes down: an outage.")
    server.down()
    emit(f"{server.base_url} is down")
    _title(2, "A model is trained meanwhile. It logs to a spool on disk.")
    _train(root, spool_root, environ, epochs)
    spool = Spool.open(spool_root)
    _title(3, "What is in the spool?")
    _run(["status", "--spool", str(spool_root)], environ)
    _expect(Survey.of(spool).counts()[State.INCOMING.value] == 1, "one fragment waits, sealed")
    _title(4, "The syncer tries, and defers politely. No attempt is counted, nothing is lost.")
    deferred = _sync(spool, environ)
    _expect(deferred.exit_code == 75, f"the pass ends as *temporary* (75), not {deferred.exit_code}")
    _expect(deferred.count(State.DEFERRED) == 1, "the run is deferred")
    _title(5, "The outage ends.")
    server.up()
    emit(f"{server.base_url} is up")
    _title(6, "The syncer delivers, reads the server back, and writes a receipt.")
    delivered = _sync(spool, environ)
    _expect(delivered.exit_code == 0, f"the pass ends as *done* (0), not {delivered.exit_code}")
    _expect(delivered.count(State.DELIVERED) == 1, "the run is delivered")
    again = _sync(spool, environ)
    _expect(not again.outcomes, "a second pass sends nothing")
    _title(7, "The balance: what was logged against what the server holds.")
    return _prove(spool, server, environ)


def _prove(spool: Spool, server: RehearsalServer, environ: Mapping[str, str]) -> RunBalance:
    known = [Known(found.entry, found.state) for found in Survey.of(spool).read()]
    found = balances(spool, known, Configuration(), environ)
    print_balances(found)
    _expect(len(found) == 1, "there is one run")
    balance = found[0]
    _expect(balance.holds, "the balance holds")
    _expect(balance.logged_known and balance.rows_logged > 0, "the rows were counted in the training process")
    _expect(balance.delivered == balance.rows_logged, "every logged row is on the server, by step and value")
    _expect(balance.lost == 0 and balance.doubled == 0, "no row is lost, none doubled")
    told = next(iter(server.report().runs.values()))
    _expect(len(told.rows) == balance.rows_logged, f"the service counts {balance.rows_logged} rows itself")
    _expect(not told.doubled and not told.moved, "the service saw no row twice and none on another step")
    _expect(balance.artifacts > 0 and balance.files > 0, "files and artifacts arrived")
    return balance


def _environment(root: Path, server: RehearsalServer) -> dict[str, str]:
    """The user's environment without anything of W&B's in it; the key is the rehearsal server's own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    own = {"XDG_CONFIG_HOME": str(root / "home"), "WANDB_SPOOL_CACHE_DIR": str(root / "cache")}
    return {**kept, **own, **server.environment()}


def _train(root: Path, spool_root: Path, environ: Mapping[str, str], epochs: int) -> None:
    out_dir = root / "model"
    training = {name: value for name, value in environ.items() if not name.startswith("WANDB_API")}
    words = ["train", "--spool", str(spool_root), "--project", "demo", "--epochs", str(epochs)]
    _run([*words, "--out-dir", str(out_dir)], {**training, "WANDB_SILENT": "true"})
    # The next training would overwrite its model files; the sealed ones must not care.
    for path in out_dir.glob("*"):
        if path.is_file():
            path.write_bytes(b"overwritten by the next training")


def _run(words: list[str], environ: Mapping[str, str]) -> None:
    emit(f"$ wandb-spool {' '.join(words)}")
    sys.stdout.flush()
    code = subprocess.run([sys.executable, "-m", "wandb_spool", *words], env=dict(environ)).returncode
    _expect(code == 0, f"`wandb-spool {words[0]}` ends with 0, not {code}")


def _sync(spool: Spool, environ: Mapping[str, str]) -> PassResult:
    emit(f"$ wandb-spool sync --spool {spool.root}")
    result = sync_once(spool, Configuration(), environ, Options(), tell=tell)
    summarise(result)
    return result


def _title(number: int, text: str) -> None:
    emit()
    emit(f"({number}) {text}")
    sys.stdout.flush()


def _expect(true: bool, claim: str) -> None:
    if not true:
        raise Disproved(f"expected that {claim}")
