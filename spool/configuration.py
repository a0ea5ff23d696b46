"""What a person configured: where the spool is, and the destinations (TOML).

Read from `/etc/wandb-spool.toml`, then the user's own file; the user's value wins, a destination as a whole. A file
that is missing is no error. Everything that can't be understood is a `ConfigurationError`: one line with file and key,
never a guess. Keys of accounts do not belong into it: `key_file` names a file that only its owner may read.

```toml
spool = "/scratch/project/spool"
purge_days = 30              # after so many days the site deletes files where the spool lies

[destination.default]
base_url = "https://api.wandb.ai"
entity = "team"              # where the log names none
project = "uncategorized"    # the same
key_file = "~/.config/wandb-key"
ca = "/etc/ssl/private-ca.pem"
proxy = "http://proxy:3128"
rate = 60                    # runs a minute
accept_unverified = false    # a server that can't be read back

[notify]                     # who is told when a person is needed
command = "notify-send {text}"
urls_file = "~/.config/wandb-spool-urls"   # for apprise, mode 0600

[limits]
refusals = 8
```
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from . import durable
from .errors import StorageError, UsageError, storage_error

SITE_CONFIGURATION = Path("/etc/wandb-spool.toml")
FILE_NAME = "wandb-spool.toml"


class ConfigurationError(UsageError):
    """The configuration says something that can't be understood."""


@dataclass(frozen=True)
class Destination:
    """A server and an account on it."""

    name: str
    base_url: str | None = None
    entity: str | None = None
    project: str | None = None
    key_file: Path | None = None
    ca: Path | None = None
    proxy: str | None = None
    rate: float | None = None  # runs a minute; None: no limit of ours
    accept_unverified: bool = False


@dataclass(frozen=True)
class Limits:
    """How patient the syncer is."""

    refusals: int = 8  # by the server, before a fragment is quarantined; an outage never counts
    backoff_first_s: float = 5.0
    backoff_cap_s: float = 3600.0
    no_progress_s: float = 60.0  # a push without progress for this long is killed
    push_retries: int = 3  # of one request within a push; what is still missing is pushed again after the read-back
    push_retry_wait_s: float = 4.0  # the longest wait between two of them
    late_data_s: float = 600.0  # what a server doesn't show for this long is missing
    pushes: int = 2  # of a daemon at once: one is kept for what is small, so that a large file holds up nobody
    alert_age_s: float = 3600.0  # older alerts are not sent
    stuck_s: float = 86400.0  # what a server does not take for this long needs a person


@dataclass(frozen=True)
class Notify:
    """Who is told when a person is needed. Nobody by default."""

    command: tuple[str, ...] = ()
    urls_file: Path | None = None


@dataclass(frozen=True)
class Configuration:
    """All of it. `sources` are the files that were read."""

    spool: Path | None = None
    destinations: Mapping[str, Destination] = field(default_factory=dict)
    limits: Limits = Limits()
    notify: Notify = Notify()
    purge_days: float | None = None
    """After so many days the site deletes files where the spool lies; None: nobody said."""
    sources: tuple[Path, ...] = ()


def user_configuration_path(environ: Mapping[str, str]) -> Path:
    """`$XDG_CONFIG_HOME/wandb-spool.toml`, by default below `~/.config`."""
    return _user_directory(environ, "XDG_CONFIG_HOME", ".config") / FILE_NAME


def user_state_spool(environ: Mapping[str, str]) -> Path:
    """The spool of a person who named none: `$XDG_STATE_HOME/wandb-spool`, by default below `~/.local/state`."""
    return _user_directory(environ, "XDG_STATE_HOME", ".local/state") / "wandb-spool"


def configuration_paths(environ: Mapping[str, str]) -> tuple[Path, ...]:
    """The files that count, weakest first."""
    return SITE_CONFIGURATION, user_configuration_path(environ)


def load_configuration(paths: Iterable[Path]) -> Configuration:
    """Read the files that exist, a later one over an earlier one. Raises ConfigurationError or StorageError."""
    merged = Configuration()
    for path in paths:
        body = _read(path)
        if body is not None:
            merged = _over(merged, path, body)
    return merged


def remember_spool(path: Path, spool: Path) -> None:
    """Write `spool = "…"` into a configuration file, leaving the rest as it is."""
    body = _read(path)
    text = path.read_text(encoding="utf-8") if body is not None else ""
    line = f"spool = {_quoted(str(spool))}"
    lines = text.splitlines()
    top = next((number for number, old in enumerate(lines) if old.lstrip().startswith("[")), len(lines))
    kept = [old for old in lines[:top] if not _assigns_spool(old)]
    durable.make_directory(path.parent)
    durable.write(path, "\n".join([line, *kept, *lines[top:], ""]).encode())


def _assigns_spool(line: str) -> bool:
    return line.partition("=")[0].strip().strip("\"'") == "spool"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    if any(ord(character) < 32 for character in escaped):
        raise UsageError("a control character in the name of the spool", path=text)
    return f'"{escaped}"'


def _user_directory(environ: Mapping[str, str], variable: str, below_home: str) -> Path:
    named = environ.get(variable)
    if named and os.path.isabs(named):  # the XDG specification: relative values are invalid
        return Path(named)
    return Path(environ.get("HOME") or os.path.expanduser("~")) / below_home


def _read(path: Path) -> dict[str, Any] | None:
    try:
        text = path.read_bytes().decode("utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _readable(path, error) from error
    except UnicodeDecodeError as error:
        raise ConfigurationError("the configuration is not UTF-8", path=path) from error
    import sys

    # Late: the start of a training needs it only where there is a file.
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"the configuration is not TOML ({error})", path=path) from error


def _readable(path: Path, error: OSError) -> StorageError:
    return storage_error("read the configuration", path, error)


def _over(lower: Configuration, path: Path, body: dict[str, Any]) -> Configuration:
    _known(path, "", body, {"spool", "purge_days", "destination", "notify", "limits"})
    spool = _text(path, "spool", body.get("spool"))
    tables = body.get("destination", {})
    if not isinstance(tables, dict):
        raise ConfigurationError("`destination` is not a table; write [destination.default]", path=path)
    found = {name: _destination(path, name, table) for name, table in tables.items()}
    return Configuration(
        spool=_path(spool, path) or lower.spool,
        destinations={**lower.destinations, **found},
        limits=_limits(path, body["limits"]) if "limits" in body else lower.limits,
        notify=_notify(path, body["notify"]) if "notify" in body else lower.notify,
        purge_days=_positive(path, "purge_days", body.get("purge_days")) or lower.purge_days,
        sources=(*lower.sources, path),
    )


def _destination(path: Path, name: str, table: object) -> Destination:
    where = f"destination.{name}"
    if not isinstance(table, dict):
        raise ConfigurationError(f"`{where}` is not a table; write [{where}]", path=path)
    for secret in ("key", "api_key"):
        if secret in table:
            raise ConfigurationError(
                f"`{where}.{secret}`: a key does not belong here",
                path=path,
                hint="put it alone into a file with mode 0600 and name that in `key_file`",
            )
    _known(path, where, table, {item.name for item in fields(Destination)} - {"name"})

    def text(key: str) -> str | None:
        return _text(path, f"{where}.{key}", table.get(key))

    base_url = text("base_url")
    if base_url is not None and not base_url.startswith(("http://", "https://")):
        raise ConfigurationError(f"`{where}.base_url` is no address (https://…): {base_url}", path=path)
    return Destination(
        name=name,
        base_url=base_url.rstrip("/") if base_url else None,
        entity=text("entity"),
        project=text("project"),
        key_file=_path(text("key_file"), path),
        ca=_path(text("ca"), path),
        proxy=text("proxy"),
        rate=_positive(path, f"{where}.rate", table.get("rate")),
        accept_unverified=_boolean(path, f"{where}.accept_unverified", table.get("accept_unverified", False)),
    )


def _notify(path: Path, table: object) -> Notify:
    if not isinstance(table, dict):
        raise ConfigurationError("`notify` is not a table; write [notify]", path=path)
    if "urls" in table:
        raise ConfigurationError(
            "`notify.urls`: such addresses hold secrets and do not belong here",
            path=path,
            hint="put them, one a line, into a file with mode 0600 and name that in `urls_file`",
        )
    _known(path, "notify", table, {item.name for item in fields(Notify)})
    return Notify(
        command=_words(path, "notify.command", table.get("command")),
        urls_file=_path(_text(path, "notify.urls_file", table.get("urls_file")), path),
    )


def _words(path: Path, key: str, value: object) -> tuple[str, ...]:
    """A command as a shell would split it, or as a list of its words. No shell is ever asked."""
    import shlex  # late: the start of a training does not need it

    if isinstance(value, list) and value and all(isinstance(word, str) for word in value) and value[0].strip():
        return tuple(value)
    try:
        return tuple(shlex.split(_text(path, key, value) or ""))
    except ValueError as error:
        raise ConfigurationError(f"`{key}` can't be split into words ({error})", path=path) from error


def _limits(path: Path, table: object) -> Limits:
    if not isinstance(table, dict):
        raise ConfigurationError("`limits` is not a table; write [limits]", path=path)
    names = {item.name for item in fields(Limits)}
    _known(path, "limits", table, names)
    values: dict[str, Any] = {}
    for key, value in table.items():
        number = _positive(path, f"limits.{key}", value)
        if number is not None:
            values[key] = int(number) if isinstance(getattr(Limits, key), int) else number
    return Limits(**values)


def _known(path: Path, where: str, table: Mapping[str, Any], names: set[str]) -> None:
    for key in table:
        if key not in names:
            full = f"{where}.{key}" if where else key
            known = ", ".join(sorted(names))
            raise ConfigurationError(f"`{full}` is unknown here{_meant(key, names)}; known are {known}", path=path)


def _meant(key: str, names: set[str]) -> str:
    import difflib  # late: the start of a training does not need it

    close = difflib.get_close_matches(key, names, n=1)
    return f" (`{close[0]}`?)" if close else ""


def _text(path: Path, key: str, value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise ConfigurationError(f"`{key}` is not a text", path=path)
    if not value.strip():
        raise ConfigurationError(f"`{key}` is empty", path=path, hint="give it a value, or remove the line")
    return value


def _path(value: str | None, source: Path) -> Path | None:
    """`~` and variables are expanded; a relative path is relative to the file that names it."""
    if value is None:
        return None
    expanded = os.path.expandvars(value)
    if "$" in expanded:
        raise ConfigurationError(
            f"a variable in {value!r} is not set here", path=source, hint="set it, or write the path out"
        )
    return source.parent / Path(expanded).expanduser()


def _positive(path: Path, key: str, value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
        raise ConfigurationError(f"`{key}` is not a number above 0", path=path)
    return float(value)


def _boolean(path: Path, key: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise ConfigurationError(f"`{key}` is neither true nor false", path=path)
    return value
