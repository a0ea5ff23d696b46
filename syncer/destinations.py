"""Where a fragment goes, and with which key.

What a fragment's log names stands; what it leaves open comes from its destination, and for the destination `default`
what the configuration leaves open comes from the syncer's own WANDB_BASE_URL, WANDB_ENTITY and WANDB_API_KEY. Keys are
read when they are needed, from the environment, a file of mode 0600 or netrc, and are never part of an error, a log
line or a `repr`. Fails with `DeliveryError` (configuration): one line, with the mend.
"""

from __future__ import annotations

import netrc
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from wandb_spool.spool.configuration import Configuration, Destination
from wandb_spool.spool.entry import Entry, Target

from .addresses import same_server
from .failures import DeliveryError, Failure

CLOUD = "https://api.wandb.ai"
DEFAULT = "default"
DEFAULT_PROJECT = "uncategorized"
_KEY = re.compile(r"^[\w-]+$")
_KEY_LENGTH = 40


@dataclass(frozen=True)
class Route:
    """The destination of a fragment with everything but the entity of the key filled in."""

    destination: Destination
    base_url: str
    entity: str | None
    project: str
    run_id: str


def route(entry: Entry, configuration: Configuration, environ: Mapping[str, str]) -> Route:
    """Where this fragment goes. Raises DeliveryError (configuration) when that can't be known."""
    if entry.run_id is None:
        raise DeliveryError(Failure.DAMAGED, "the log names no run")
    asked = entry.replay
    if entry.target is not None:
        destination = _recorded(entry.target, entry.base_url, configuration, environ)
        target = entry.target
        return Route(destination, destination.base_url or CLOUD, target.entity, target.project, target.run_id)
    destination = _choose(asked.destination if asked else None, entry.base_url, configuration, environ)
    return Route(
        destination,
        destination.base_url or CLOUD,
        (asked.entity if asked else None) or entry.entity or destination.entity,
        (asked.project if asked else None) or entry.project or destination.project or DEFAULT_PROJECT,
        (asked.run_id if asked else None) or entry.run_id,
    )


def default_destination(configuration: Configuration, environ: Mapping[str, str]) -> Destination:
    """The destination `default`, completed from the syncer's environment."""
    given = configuration.destinations.get(DEFAULT, Destination(DEFAULT))
    base_url = given.base_url or environ.get("WANDB_BASE_URL") or CLOUD
    return replace(given, base_url=base_url.rstrip("/"), entity=given.entity or environ.get("WANDB_ENTITY") or None)


def _recorded(
    target: Target, base_url: str | None, configuration: Configuration, environ: Mapping[str, str]
) -> Destination:
    """The destination that was recorded before the first push, at the address that it has now.

    A destination is its name: a server that moved keeps it. One that is no longer configured, and one whose address was
    the run's own, is served at the recorded address.
    """
    if target.destination == DEFAULT and (base_url is None or same_server(base_url, target.base_url)):
        default = default_destination(configuration, environ)
        return default if base_url is None else replace(default, base_url=target.base_url)
    found = configuration.destinations.get(target.destination)
    return found if found and found.base_url else Destination(target.destination, base_url=target.base_url)


def _choose(
    asked: str | None, base_url: str | None, configuration: Configuration, environ: Mapping[str, str]
) -> Destination:
    default = default_destination(configuration, environ)
    if asked is not None:
        if asked == DEFAULT:
            return default
        if asked not in configuration.destinations:
            raise DeliveryError(
                Failure.CONFIGURATION,
                f"no destination is called {asked!r}: add [destination.{asked}] to the configuration",
            )
        found = configuration.destinations[asked]
        return replace(found, base_url=found.base_url or CLOUD)
    if base_url is None or same_server(base_url, default.base_url or CLOUD):
        return default
    matching = [
        destination
        for destination in configuration.destinations.values()
        if destination.base_url and same_server(destination.base_url, base_url)
    ]
    if len(matching) > 1:
        names = ", ".join(destination.name for destination in matching)
        raise DeliveryError(
            Failure.CONFIGURATION,
            f"several destinations have the address {base_url} ({names}): choose one with `wandb-spool replay"
            " RUN --destination NAME`",
        )
    return matching[0] if matching else Destination(urlsplit(base_url).netloc, base_url=base_url.rstrip("/"))


def api_key(destination: Destination, environ: Mapping[str, str]) -> str:
    """The key of a destination. Raises DeliveryError (auth) when there is none or it can't be one.

    Order: the destination's `key_file`; WANDB_API_KEY for `default` and for the server of WANDB_BASE_URL; netrc.
    """
    base_url = destination.base_url or CLOUD
    if destination.key_file is not None:
        return _checked(_from_file(destination.key_file), f"the key in {destination.key_file}")
    own = destination.name == DEFAULT or same_server(environ.get("WANDB_BASE_URL") or CLOUD, base_url)
    if own and environ.get("WANDB_API_KEY"):
        return _checked(environ["WANDB_API_KEY"].strip(), "WANDB_API_KEY")
    found = _from_netrc(base_url, environ)
    if found is not None:
        return _checked(found, "the key in netrc")
    raise DeliveryError(
        Failure.AUTH, f"no API key for {base_url}: set WANDB_API_KEY, or `key_file` in [destination.{destination.name}]"
    )


def _checked(key: str, where: str) -> str:
    if not _KEY.match(key) or len(key) < _KEY_LENGTH:
        raise DeliveryError(
            Failure.AUTH, f"{where} is not a W&B key ({_KEY_LENGTH} or more letters, digits, `-` and `_`)"
        )
    return key


def _from_file(path: Path) -> str:
    try:
        mode = path.stat().st_mode
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise DeliveryError(Failure.AUTH, f"others may read {path}: `chmod 600 {path}`")
        return path.read_text().strip()
    except OSError as error:
        raise DeliveryError(Failure.AUTH, f"can't read the key file {path}: {os.strerror(error.errno or 0)}") from error


def _from_netrc(base_url: str, environ: Mapping[str, str]) -> str | None:
    path = Path(environ.get("NETRC") or Path(environ.get("HOME") or Path.home()) / ".netrc")
    host = urlsplit(base_url).hostname
    if host is None or not path.is_file():
        return None
    try:
        found = netrc.netrc(str(path)).authenticators(host)
    except (netrc.NetrcParseError, OSError) as error:
        raise DeliveryError(Failure.AUTH, f"can't read {path}: {getattr(error, 'msg', error)}") from error
    return found[2] if found else None
