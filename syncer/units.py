"""The texts that keep a syncer going: systemd user units, a crontab line, an scrontab block. Pure.

No text ever holds a key: variables that a service needs (proxy, certificates, where W&B is) stand in a file of mode
0600 that the texts name, and the key stays in netrc, in a destination's `key_file`, or is put into that file by its
owner. Raises UsageError for a path that can't be written into such a file (control characters).
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wandb_spool.spool.errors import UsageError

# What decides the way out and the place of the configuration. Never a key.
KEPT = (
    "HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY", "https_proxy", "http_proxy", "all_proxy", "no_proxy",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE",
    "WANDB_BASE_URL", "WANDB_ENTITY", "WANDB_SPOOL_CACHE_DIR", "XDG_CONFIG_HOME", "NETRC",
)  # fmt: skip


@dataclass(frozen=True)
class Service:
    """What is to be kept going: which spool, by which interpreter, on which host, how often."""

    name: str
    spool: Path
    interpreter: Path
    host: str
    environment_file: Path
    interval_min: int = 5

    def __post_init__(self) -> None:
        for text in (self.spool, self.interpreter, self.environment_file, self.host):
            if any(not character.isprintable() for character in str(text)):
                raise UsageError("a character that can't be written into a unit", path=str(text))

    def words(self, command: str) -> list[str]:
        return [str(self.interpreter), "-m", "wandb_spool", command, "--spool", str(self.spool)]


def daemon_unit(service: Service) -> str:
    """The syncer for ever, on this host alone: a home directory is often shared by several."""
    return f"""\
[Unit]
Description=Deliver runs from {_percent(str(service.spool))} to W&B
Documentation=man:systemd.service(5)
ConditionHost={service.host}
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
ExecStart={_exec(service.words("daemon"))}
EnvironmentFile=-{_percent(str(service.environment_file))}
UMask=0077
Restart=on-failure
RestartSec=60
KillMode=mixed
TimeoutStopSec=20

[Install]
WantedBy=default.target
"""


def sync_unit(service: Service) -> str:
    """One pass. What waits for a server or a person (3, 75) is no failure of the service; `status` tells it."""
    return f"""\
[Unit]
Description=Deliver runs from {_percent(str(service.spool))} to W&B once
Documentation=man:systemd.service(5)
ConditionHost={service.host}

[Service]
Type=oneshot
ExecStart={_exec(service.words("sync"))}
EnvironmentFile=-{_percent(str(service.environment_file))}
UMask=0077
SuccessExitStatus=3 75
KillMode=mixed
TimeoutStopSec=20
"""


def timer_unit(service: Service) -> str:
    """When: some minutes after the last pass ended, so that a long one is never doubled."""
    return f"""\
[Unit]
Description=Deliver runs from {_percent(str(service.spool))} to W&B every {service.interval_min} minutes
Documentation=man:systemd.timer(5)
ConditionHost={service.host}

[Timer]
OnActiveSec=1min
OnUnitInactiveSec={service.interval_min}min
RandomizedDelaySec=30s

[Install]
WantedBy=timers.target
"""


def crontab_block(service: Service) -> str:
    """Passes may overlap: no two syncers ever send the same run. What each did stands in `status`."""
    return _block(service, [f"{_every(service)} {_cron(_shell(service))}"])


def scrontab_block(service: Service) -> str:
    """The same as a Slurm job; `singleton` keeps a long pass from being doubled."""
    options = (
        f"--job-name={service.name}",
        "--time=01:00:00",
        "--cpus-per-task=1",
        "--mem=2G",
        "--dependency=singleton",
        "--output=/dev/null",
    )
    lines = ["# add `#SCRON --partition=NAME` for nodes that reach the server"]
    lines += [f"#SCRON {option}" for option in options]
    return _block(service, [*lines, f"{_every(service)} {_cron(_shell(service))}"])


def with_block(table: str, block: str) -> str:
    """A crontab with this block, in the place of an older one of the same service."""
    first, *_, last = lines = block.splitlines()
    old = table.splitlines()
    if first in old and last in old[old.index(first) :]:
        start = old.index(first)
        end = old.index(last, start)
        return "\n".join([*old[:start], *lines, *old[end + 1 :], ""])
    return "\n".join([*old, *lines, ""])


def environment_text(present: str, environ: Mapping[str, str]) -> str:
    """The environment file with the variables of now; lines of other variables are its owner's and stay."""
    now = {name: environ[name] for name in KEPT if environ.get(name)}
    kept = [line for line in present.splitlines() if line.partition("=")[0].strip() not in now]
    return "".join(f"{line}\n" for line in [*kept, *(f"{name}={_quoted(value)}" for name, value in now.items())])


def _block(service: Service, lines: Sequence[str]) -> str:
    return "\n".join([f"# begin {service.name}", *lines, f"# end {service.name}", ""])


def _every(service: Service) -> str:
    return f"*/{service.interval_min} * * * *"


def _shell(service: Service) -> str:
    source = shlex.quote(str(service.environment_file))
    return f"set -a; [ ! -r {source} ] || . {source}; {shlex.join(service.words('sync'))} >/dev/null 2>&1"


def _cron(command: str) -> str:
    return command.replace("%", "\\%")  # cron reads % as the end of a line, also within quotes


def _quoted(value: str) -> str:
    """In double quotes, as both systemd and a shell read them."""
    if any(not character.isprintable() for character in value):
        raise UsageError("a variable for the service holds a control character", hint="set it without, then again")
    for character in '\\"`$':
        value = value.replace(character, f"\\{character}")
    return f'"{value}"'


def _exec(words: Sequence[str]) -> str:
    """A command line of systemd: specifiers and variables are not expanded, blanks are kept."""
    program, *rest = words
    return " ".join([_word(_percent(program)), *(_word(_percent(word).replace("$", "$$")) for word in rest)])


def _word(text: str) -> str:
    plain = all(character.isalnum() or character in "-_./+=:@,%$" for character in text)
    return text if plain and text else '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _percent(text: str) -> str:
    return text.replace("%", "%%")
