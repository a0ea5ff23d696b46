"""The balance: for every run, what was logged against what a server holds. The judge of everything else.

rows logged = delivered + waiting (in the spool, whatever the state) + superseded + discarded + lost. With the server
read back, *delivered* is what is there now, by step and value; what a receipt claims and the server lacks is *missing*,
and then the balance does not hold. Reads only; decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from wandb_spool.spool import alive
from wandb_spool.spool.configuration import Configuration
from wandb_spool.spool.entry import Entry
from wandb_spool.spool.errors import SpoolError
from wandb_spool.spool.manifest import Manifest, read_manifest
from wandb_spool.spool.queue import Spool
from wandb_spool.spool.states import WAITING, State
from wandb_spool.spool.trash import freed

from .destinations import api_key, route
from .failures import DeliveryError
from .plan import Known, run_order
from .runs import chain_of, run_key, set_aside
from .server import Server
from .service import open_server
from .standing import examine, load_chain, look, settle


@dataclass
class RunBalance:
    """One run (one target), over all its fragments."""

    run_id: str | None
    project: str | None
    entity: str | None
    target: str | None = None
    fragments: int = 0
    rows_logged: int = 0
    logged_known: bool = True
    delivered: int = 0
    waiting: int = 0
    superseded: int = 0
    discarded: int = 0
    lost: int = 0
    missing: int = 0
    doubled: int = 0
    conflicting: int = 0
    foreign: int = 0
    server_rows: int | None = None
    files: int = 0
    artifacts: int = 0
    lost_before_seal: list[str] = field(default_factory=list)
    """Files that were gone or changed before they could be sealed, and artifacts that miss one."""
    wrong: list[str] = field(default_factory=list)
    """What the server lacks or holds otherwise, and what kept it from being asked."""
    unasked: bool = False

    @property
    def holds(self) -> bool:
        """Whether every logged row is accounted for, and the server holds what the receipts say."""
        accounted = self.delivered + self.waiting + self.superseded + self.discarded + self.lost
        return not self.wrong and not self.missing and not self.conflicting and self.rows_logged == accounted

    def as_json(self) -> dict[str, object]:
        return {**vars(self), "holds": self.holds}


def balances(
    spool: Spool,
    known: Sequence[Known],
    configuration: Configuration,
    environ: Mapping[str, str],
    *,
    remote: bool = True,
) -> list[RunBalance]:
    """The balance of every run among the entries. A server that can't be asked is told in `wrong`, never raised."""
    runs: dict[str, list[Known]] = {}
    for item in known:
        runs.setdefault(run_key(item.entry), []).append(item)
    servers: dict[str, Server | DeliveryError] = {}
    try:
        return [_of_run(spool, items, configuration, environ, servers, remote) for items in runs.values()]
    finally:
        for server in servers.values():
            if isinstance(server, Server):
                server.close()


def _of_run(
    spool: Spool,
    items: Sequence[Known],
    configuration: Configuration,
    environ: Mapping[str, str],
    servers: dict[str, Server | DeliveryError],
    remote: bool,
) -> RunBalance:
    items = _one_of_each(items)
    first = items[0].entry
    balance = RunBalance(first.run_id, first.project, first.entity)
    manifests: dict[str, Manifest] = {}
    for item in items:
        _count(spool, item, balance, manifests)
    done = run_order([item.entry for item in items if item.state is State.DELIVERED])
    for entry in done:
        balance.target = balance.target or (entry.target.path if entry.target else None)
        if remote and entry.name in manifests:
            _ask(spool, entry, items, configuration, environ, servers, balance)
        else:
            _believe(entry, balance)
    return balance


def _one_of_each(items: Sequence[Known]) -> list[Known]:
    """Of a fragment and its replays to the same target the one that tells how it stands: rows are counted once."""

    def rank(item: Known) -> tuple[int, str, str]:
        order = (item.state is State.DELIVERED, item.state in WAITING, True).index(True)
        return order, item.entry.created, item.entry.name

    chosen: dict[str, Known] = {}
    for item in sorted(items, key=rank):
        chosen.setdefault(item.entry.path, item)
    return list(chosen.values())


def _count(spool: Spool, item: Known, balance: RunBalance, manifests: dict[str, Manifest]) -> None:
    """What was logged, lost, waits or was discarded, by manifest (or by the sign of life of an open fragment)."""
    balance.fragments += 1
    if item.entry.replay is not None and item.state is State.DISCARDED:
        return  # its rows are counted where they were logged; `prune` may have taken them since
    run_directory = item.entry.run_directory(spool.root)
    try:
        manifest, _ = read_manifest(run_directory)
    except FileNotFoundError:
        _count_unsealed(item, balance, run_directory)
        return
    except (SpoolError, OSError) as error:
        balance.wrong.append(str(error))
        return
    manifests[item.entry.name] = manifest
    kept = manifest.rows_kept
    balance.rows_logged += kept + (manifest.rows_lost or 0)
    balance.logged_known = balance.logged_known and manifest.rows_logged is not None
    balance.lost += manifest.rows_lost or 0
    if item.state is State.DISCARDED:
        balance.discarded += kept
    elif item.state in WAITING:
        balance.waiting += kept
    balance.files += sum(1 for file in manifest.files if file.kind == "file")
    balance.artifacts += sum(1 for item in manifest.artifacts if not item.get("incomplete"))
    balance.lost_before_seal += [f"{item.get('path')}: {item.get('what')}" for item in manifest.changed]
    balance.lost_before_seal += [
        f"artifact {item.get('name')}: incomplete, not sent" for item in manifest.artifacts if item.get("incomplete")
    ]


def _count_unsealed(item: Known, balance: RunBalance, run_directory: Path) -> None:
    note = freed(item.entry)
    if note is not None and item.state is State.DISCARDED:
        _count_freed(note, balance)
        return
    receipt = item.entry.receipt
    if receipt is not None:  # pruned: the receipt is what is left
        lost = receipt.get("rows_lost")
        kept = int(receipt.get("rows_delivered") or 0) + int(receipt.get("rows_superseded") or 0)
        balance.rows_logged += kept + (lost if isinstance(lost, int) else 0)
        balance.lost += lost if isinstance(lost, int) else 0
        return
    logged = alive.rows_logged(run_directory, alive.read(run_directory))
    if logged is None:
        balance.logged_known = False
        if item.state not in (State.OPEN, State.VOID):
            balance.wrong.append(f"{item.entry.name}: the manifest is gone")
        return
    balance.rows_logged += logged
    balance.waiting += logged


def _count_freed(note: Mapping[str, object], balance: RunBalance) -> None:
    """Discarded, and its bytes are gone: what was noted then counts for ever."""
    kept, lost = (value if isinstance(value, int) else 0 for value in (note.get("rows_kept"), note.get("rows_lost")))
    balance.rows_logged += kept + lost
    balance.logged_known = balance.logged_known and note.get("rows_logged") is not None
    balance.discarded += kept
    balance.lost += lost


def _believe(entry: Entry, balance: RunBalance) -> None:
    """Without asking, the receipt."""
    receipt = entry.receipt or {}
    balance.delivered += int(receipt.get("rows_delivered") or 0)
    balance.superseded += int(receipt.get("rows_superseded") or 0)


def _ask(
    spool: Spool,
    entry: Entry,
    items: Sequence[Known],
    configuration: Configuration,
    environ: Mapping[str, str],
    servers: dict[str, Server | DeliveryError],
    balance: RunBalance,
) -> None:
    try:
        if entry.target is None:
            raise SpoolError(f"{entry.name} is delivered, and its entry names no target")
        server = _server(entry, configuration, environ, servers)
        with TemporaryDirectory(prefix="wandb-spool-balance-") as private:
            chain = load_chain(spool.root, chain_of(items, entry, entry.target), Path(private), aside=set_aside(items))
            index = chain.index_of(entry)
            evidence = settle(examine(spool.root, chain.sealed[index]), chain, index)
            standing = look(server, entry.target, chain, index, evidence, spool.root)
    except (DeliveryError, SpoolError, OSError) as error:
        balance.wrong.append(f"{entry.name}: {error}")
        balance.unasked = True
        _believe(entry, balance)
        return
    rows = standing.rows
    balance.delivered += rows.present
    balance.superseded += rows.superseded
    balance.missing += rows.missing
    balance.conflicting += rows.conflicting
    balance.server_rows = standing.comparison.server_rows
    balance.doubled = standing.comparison.doubled
    balance.foreign = standing.comparison.foreign
    if not standing.complete:
        balance.wrong.append(f"{entry.name}: {standing.missing()}")


def _server(
    entry: Entry,
    configuration: Configuration,
    environ: Mapping[str, str],
    servers: dict[str, Server | DeliveryError],
) -> Server:
    found = route(entry, configuration, environ)
    if found.base_url not in servers:
        try:
            key = api_key(found.destination, environ)
            server = open_server(found.destination, found.base_url, key, environ)
            server.account()
            servers[found.base_url] = server
        except DeliveryError as error:
            servers[found.base_url] = error
    opened = servers[found.base_url]
    if isinstance(opened, DeliveryError):
        raise opened
    return opened
