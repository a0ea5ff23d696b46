"""`wandb-spool service`: what keeps a syncer going without anybody at a terminal."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Annotated

import typer

from wandb_spool.parameters import SpoolOption

if TYPE_CHECKING:
    from wandb_spool.syncer.units import Service


class Kind(str, Enum):
    systemd = "systemd"
    timer = "timer"
    crontab = "crontab"
    scrontab = "scrontab"


def command(
    kind: Annotated[Kind, typer.Argument(help="systemd: the daemon; the others run `sync` now and then.")],
    spool: SpoolOption = None,
    install: Annotated[bool, typer.Option("--install", help="Write it, and say what is left to do.")] = False,
    interval_min: Annotated[
        int, typer.Option("--interval", metavar="MINUTES", min=1, max=59, help="Between two passes of `sync`.")
    ] = 5,
) -> None:
    """Print (or with --install write) what starts the syncer on this host: systemd units, or a line for cron."""
    import os

    from wandb_spool.output import complain
    from wandb_spool.syncer.units import crontab_block, scrontab_block

    service = _service(spool, interval_min)
    tables = {Kind.crontab: crontab_block, Kind.scrontab: scrontab_block}
    texts = {kind.value: tables[kind](service)} if kind in tables else _units(kind, service)
    if not install:
        _show(service, texts)
        complain(f"nothing was written; `wandb-spool service {kind.value} --install` does")
    else:
        _install(kind, service, texts)
    if os.environ.get("WANDB_API_KEY"):
        complain(
            "the key of WANDB_API_KEY is not passed on: put it into netrc, into a `key_file` of the destination, or as"
            f" WANDB_API_KEY=… into {service.environment_file} (mode 0600)"
        )


def _service(spool: str | None, interval_min: int) -> Service:
    import os
    import socket
    import sys
    from pathlib import Path

    from wandb_spool.keeping_going import configuration_directory
    from wandb_spool.locate import open_spool
    from wandb_spool.syncer.units import Service

    opened = open_spool(spool)
    name = f"wandb-spool-{opened.spool_id[:8]}"
    return Service(
        name=name,
        spool=opened.root,
        interpreter=Path(os.path.abspath(sys.executable)),
        host=socket.gethostname(),
        environment_file=configuration_directory(os.environ) / f"{name}.env",
        interval_min=interval_min,
    )


def _units(kind: Kind, service: Service) -> dict[str, str]:
    from wandb_spool.syncer.units import daemon_unit, sync_unit, timer_unit

    if kind is Kind.systemd:
        return {f"{service.name}.service": daemon_unit(service)}
    name = f"{service.name}-sync"
    return {f"{name}.service": sync_unit(service), f"{name}.timer": timer_unit(service)}


def _show(service: Service, texts: dict[str, str]) -> None:
    from wandb_spool.output import emit

    for name, text in texts.items():
        emit(f"# {name}")
        for line in text.splitlines():
            emit(line)
        emit()
    emit(f"# proxy and certificates stand in {service.environment_file} (mode 0600), which --install makes")


def _install(kind: Kind, service: Service, texts: dict[str, str]) -> None:
    import getpass
    import os

    from wandb_spool.keeping_going import lingers, write_environment, write_table, write_units
    from wandb_spool.output import emit

    if kind in (Kind.crontab, Kind.scrontab):
        write_table(kind.value, texts[kind.value])
        written = [f"{kind.value} of this user", str(write_environment(service, os.environ))]
        after = [f"`{kind.value} -l` shows it; `wandb-spool status` tells what it did"]
    else:
        written = [str(path) for path in write_units(texts, os.environ)]
        written.append(str(write_environment(service, os.environ)))
        started = list(texts)[-1]
        after = [
            "systemctl --user daemon-reload",
            f"systemctl --user enable --now {started}",
            f"journalctl --user -u {started} -f",
        ]
        if not lingers(getpass.getuser()):
            after.insert(2, "loginctl enable-linger    # or it ends with your last login")
    for path in written:
        emit(f"wrote {path}")
    emit("next:")
    for line in after:
        emit(f"  {line}")
