"""The rehearsal server as a thing to start: in a thread of this process, or in the foreground.

    with RehearsalServer(tmp_path) as server:
        subprocess.run(["wandb", "sync", run_dir], env={**os.environ, **server.environment()})
        assert server.report().run("abc").steps == tuple(range(100))

It listens on 127.0.0.1 only. `down()` closes the listening socket and breaks every connection, so that clients are
refused; the port stays reserved, and `up()` listens on it again with everything that was acknowledged. Nothing but
the standard library is imported before a server starts.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
import threading
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from wandb_spool.syncer.rehearsal.behaviour import Account, Behaviour
from wandb_spool.syncer.rehearsal.faults import Fault, FaultPlan, load_faults, random_schedule
from wandb_spool.syncer.rehearsal.report import Report
from wandb_spool.syncer.stopping import Wake

if TYPE_CHECKING:
    from wandb_spool.syncer.rehearsal.listener import Listener
    from wandb_spool.syncer.rehearsal.service import Service

START_TIMEOUT_S = 20.0


class RehearsalServer:
    """A W&B service on loopback; a context manager, or `start()` and `stop()`."""

    def __init__(
        self,
        data_dir: Path,
        port: int = 0,
        *,
        faults: Sequence[Fault] | FaultPlan = (),
        behaviour: Behaviour | None = None,
        accounts: Sequence[Account] = (),
        tls: tuple[Path, Path] | None = None,
    ) -> None:
        self.data_dir, self._tls = Path(data_dir), tls
        self._plan = faults if isinstance(faults, FaultPlan) else FaultPlan(faults)
        self._behaviour, self._accounts = behaviour or Behaviour(), tuple(accounts)
        self._placeholder = _reserved_socket(port)
        self.port: int = self._placeholder.getsockname()[1]
        self.base_url: str = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._running: tuple[Service, Listener] | None = None

    # ---- life ------------------------------------------------------------------------------------------

    def start(self) -> RehearsalServer:
        from wandb_spool.syncer.rehearsal.listener import Listener
        from wandb_spool.syncer.rehearsal.service import Service

        try:
            service = Service(self.data_dir, behaviour=self._behaviour, accounts=self._accounts)
        except BaseException:
            self._placeholder.close()
            raise
        service.plan = self._plan
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run_loop, name="rehearsal-server", daemon=True)
        self._thread.start()
        self._running = service, Listener(service, self.port, self._tls)
        self.up()
        return self

    def stop(self) -> None:
        """Close everything; what was acknowledged is on disk already."""
        if self._running is None or self._loop is None or self._thread is None:
            return
        service, listener = self._running
        self._call(listener.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(START_TIMEOUT_S)
        self._loop.close()
        service.close()
        self._placeholder.close()
        self._running = None

    def __enter__(self) -> RehearsalServer:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # ---- for clients -----------------------------------------------------------------------------------

    @property
    def api_key(self) -> str:
        """The key of the default account; the same for every server on this data directory."""
        return self._service.store.key

    def environment(self) -> dict[str, str]:
        """What a W&B client needs to come here."""
        return {"WANDB_BASE_URL": self.base_url, "WANDB_API_KEY": self.api_key}

    # ---- steering --------------------------------------------------------------------------------------

    def down(self) -> None:
        """Refuse connections from now on, and break those that are open."""
        self._call(self._listener.close())

    def up(self) -> None:
        """Listen again."""
        self._call(self._listener.open())

    def restart(self) -> None:
        """Down, forget everything that is not on disk, up."""
        self.down()
        self._service.restart()
        self.up()

    def set_faults(self, faults: Iterable[Fault], *, seed: int = 0) -> None:
        """Replace the plan; requests are counted from one again."""
        self._service.plan = FaultPlan(tuple(faults), seed=seed)

    def clear_faults(self) -> None:
        self.set_faults(())

    def set_behaviour(self, **changes: Any) -> Behaviour:
        """Set switches by name, as in `Behaviour`; returns what now holds."""
        self._service.behaviour = self._service.behaviour.changed(**changes)
        return self._service.behaviour

    def delete_run(self, entity: str, project: str, run_id: str) -> None:
        """As if somebody deleted the run in the browser: from now on it is refused with 409."""
        from wandb_spool.syncer.rehearsal.model import RunKey
        from wandb_spool.syncer.rehearsal.run_changes import delete_run

        with self._service.store.lock:
            delete_run(self._service.store, RunKey(entity, project, run_id))

    def forget_lines(self, run_id: str, *, keep: int) -> None:
        """Lose the lines of a run's history behind the first `keep`, as a server does that stored and dropped them."""
        store = self._service.store
        for key in [key for key in store.runs if key.run_id == run_id]:
            store.history(key).forget(keep, now=store.clock())

    def report(self, *, rows: bool = True) -> Report:
        """What arrived, judged; without `rows` only counts and verdicts."""
        from wandb_spool.syncer.rehearsal.judge import make_report

        return make_report(self._service, rows=rows)

    # ---- inside ----------------------------------------------------------------------------------------

    @property
    def _service(self) -> Service:
        return self._parts()[0]

    @property
    def _listener(self) -> Listener:
        return self._parts()[1]

    def _parts(self) -> tuple[Service, Listener]:
        if self._running is None:
            raise RuntimeError("the rehearsal server was not started")
        return self._running

    def _run_loop(self) -> None:
        assert self._loop is not None
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _call(self, work: Coroutine[Any, Any, None]) -> None:
        assert self._loop is not None
        asyncio.run_coroutine_threadsafe(work, self._loop).result(START_TIMEOUT_S)


def _reserved_socket(port: int) -> socket.socket:
    """Holds the port, without listening, for as long as the server lives: nobody else gets it during an outage."""
    _require_free(port)
    reserved = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    reserved.bind(("127.0.0.1", port))
    return reserved


def _require_free(port: int) -> None:
    """An OSError when somebody listens there: sockets that share a port would share its clients too."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))


def serve(
    port: int,
    data_dir: Path,
    faults_file: Path | None = None,
    *,
    seed: int | None = None,
    behaviour: Mapping[str, Any] | None = None,
    announce: Callable[[str], None] | None = None,
) -> int:
    """Serve in the foreground until SIGINT or SIGTERM; prints the two lines to export once it listens.

    Raises OSError when the port or the directory is taken and ValueError for a faults file or switch that is wrong,
    before anything is printed.
    """
    plan = load_faults(faults_file) if faults_file else FaultPlan()
    if seed is not None:
        plan = FaultPlan([*plan.faults, *random_schedule(seed)], seed=seed)
    stopped = Wake()
    server = RehearsalServer(data_dir, port, faults=plan, behaviour=Behaviour.from_json(behaviour or {}))
    previous = {which: signal.signal(which, lambda *_: stopped.set()) for which in (signal.SIGINT, signal.SIGTERM)}
    try:
        with server:
            for name, value in server.environment().items():
                (announce or _print)(f"export {name}={value}")
            while not stopped.wait(3600.0):
                pass
    finally:
        for which, handler in previous.items():
            signal.signal(which, handler)
    return 0


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
