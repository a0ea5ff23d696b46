"""`adopt --check`: ask the server about runs that bear a `.synced` marker. Only reads, on both sides."""

from __future__ import annotations

import os
from collections.abc import Iterator

from wandb_spool.adoption import Adoptable, Work
from wandb_spool.spool.entry import Entry
from wandb_spool.spool.found_runs import FoundRun
from wandb_spool.spool.log import rows
from wandb_spool.syncer.compare import LoggedRow, StepDigest, compare
from wandb_spool.syncer.destinations import Route, api_key, route
from wandb_spool.syncer.failures import DeliveryError
from wandb_spool.syncer.server import Server
from wandb_spool.syncer.service import open_server
from wandb_spool.syncer.standing import logged_row, step_digest
from wandb_spool.syncing import configuration


def check(work: Work) -> None:
    """Fill in `work.checked` for every marked run that would be adopted."""
    settings = configuration()
    servers: dict[tuple[str, str], Server] = {}
    for run in work.plan.wanted:
        if not run.marked or run.log is None:
            continue
        try:
            found = route(_entry(run), settings, os.environ)
            key = (found.destination.name, found.base_url)
            if key not in servers:
                servers[key] = open_server(
                    found.destination, found.base_url, api_key(found.destination, os.environ), os.environ
                )
            work.checked[str(run.path)] = _ask(servers[key], found, run)
        except DeliveryError as error:
            work.checked[str(run.path)] = Adoptable(None, f"not checked: {error}")
    for server in servers.values():
        server.close()


def _entry(run: FoundRun) -> Entry:
    return Entry(
        name="", launch="", fragment="", path="", created="", run_id=run.run_id, project=run.project, entity=run.entity
    )


def _ask(server: Server, found: Route, run: FoundRun) -> Adoptable:
    entity = found.entity or server.account().entity
    if entity is None:
        return Adoptable(None, "not checked: the run names no entity and the key has none")
    where = (entity, found.project, found.run_id)
    if server.run(*where) is None:
        return Adoptable(False, "the server has no such run")

    def fetch(first_step: int, end_step: int, limit: int) -> list[StepDigest]:
        return [step_digest(row) for row in server.history(*where, first_step, end_step, limit)]

    compared = compare([_rows(run)], [None], fetch).fragments[0]
    told = f"{compared.present} of {compared.total} rows are on the server"
    return Adoptable(compared.present == compared.total, told)


def _rows(run: FoundRun) -> Iterator[LoggedRow]:
    assert run.log is not None
    return map(logged_row, rows(run.log, salvage=True))
