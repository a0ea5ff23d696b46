"""``wandb.login`` answers as if logged in, without network and without a prompt. No key is kept anywhere."""

from __future__ import annotations

import os
from typing import Any

from .anatomy import part
from .process import Process


def install(wandb: Any, process: Process) -> None:
    wandb_login = part("wandb_login")

    def login(key: Any = None, relogin: Any = None, host: Any = None, *args: Any, **kwargs: Any) -> bool:
        if host:
            process.base_url = str(host)
        return os.environ.get("WANDB_MODE") != "disabled"

    login.__doc__, login.__module__ = wandb_login.login.__doc__, wandb_login.login.__module__
    for owner in (wandb_login, wandb.sdk, wandb):
        owner.login = login
