"""`python -m wandb_spool.syncer.apprise_notifier [FILE]`: hand a message on standard input to apprise.

A process of its own, so that a service that hangs is ended from outside. The addresses, one a line, come from FILE or
from WANDB_SPOOL_NOTIFY_URLS; they hold secrets, so that a failure is told with their number and kinds only. Exit code 0
when all took the message.
"""

from __future__ import annotations

import json
import logging
import os
import stat
import sys
from pathlib import Path


def main() -> int:
    logging.disable(logging.CRITICAL)  # apprise logs addresses
    try:
        import apprise
    except ImportError:
        print("apprise is not installed: pip install 'wandb-spool[notify]'", file=sys.stderr)
        return 1
    try:
        addresses = _addresses(sys.argv[1:])
    except OSError as error:
        print(error.strerror, file=sys.stderr)
        return 1
    body = json.load(sys.stdin)
    refused = []
    for address in addresses:
        service = apprise.Apprise()
        if not service.add(address) or not service.notify(
            title=f"wandb-spool: {body['cause']}", body=body["text"], body_format=apprise.NotifyFormat.TEXT
        ):
            refused.append(address.partition(":")[0])
    if refused or not addresses:
        print(f"{len(refused)} of {len(addresses)} addresses failed ({', '.join(refused)})", file=sys.stderr)
        return 1
    return 0


def _addresses(words: list[str]) -> list[str]:
    if words:
        path = Path(words[0])
        if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise OSError(1, "others may read the file of addresses: chmod 600")
        text = path.read_text()
    else:
        text = os.environ.get("WANDB_SPOOL_NOTIFY_URLS", "")
    lines = [line.strip() for line in text.splitlines()]
    return [word for line in lines if line and not line.startswith("#") for word in line.split()]


if __name__ == "__main__":
    sys.exit(main())
