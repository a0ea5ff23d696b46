"""Who holds a log open is found without touching anybody else's files."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from mounts import file_server

from wandb_spool.spool.identity import holders


@pytest.mark.timeout(60)
def test_a_file_server_that_hangs_elsewhere_holds_up_nobody_who_asks_for_the_writers_of_a_log(tmp_path: Path) -> None:
    log = tmp_path / "run-abc.wandb"
    with file_server(tmp_path) as (mount, server), (mount / "elsewhere").open("w"), log.open("w"):
        server.send_signal(signal.SIGSTOP)
        assert holders(log) == [os.getpid()]
        server.send_signal(signal.SIGCONT)
    assert holders(log) == []


def test_a_writer_is_found_by_any_path_and_after_the_file_was_removed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    log = tmp_path / "run-abc.wandb"
    with log.open("w"):
        assert holders(tmp_path / "link" / "run-abc.wandb") == [os.getpid()]
        (tmp_path / "aside").mkdir()
        os.link(log, tmp_path / "aside" / "run-abc.wandb")
        log.unlink()
        assert holders(tmp_path / "aside" / "run-abc.wandb") == [os.getpid()]
