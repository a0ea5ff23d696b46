"""Damage is told in one line each, and the rest is still shown."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from wandb_spool.spool.states import State

from .command_line import CommandLine


def run_directory(command_line: CommandLine, number: int = 0) -> Path:
    spool = command_line.spool
    return spool.read(command_line.places()[number]).run_directory(spool.root)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff\xfe", b'{"format": 1}', b'{"format": 1, "path": "/etc"}'])
def test_entry_that_is_no_json_is_a_problem_and_the_others_are_listed(two_runs: CommandLine, body: bytes) -> None:
    two_runs.places()[0].path.write_bytes(body)
    listed = two_runs("ls", "--json", code=4)
    assert '"run_id": "beta"' in listed.stdout and '"run_id": "alpha"' not in listed.stdout
    (problem,) = listed.stderr.splitlines()
    assert "the entry is damaged" in problem and "`wandb-spool recover` writes the entry anew" in problem
    assert two_runs.json("status", code=4)["counts"]["incoming"] == 2
    assert "PROBLEM the entry is damaged" in two_runs("status", code=4).stdout


def test_entry_of_a_newer_format_is_a_problem(two_runs: CommandLine) -> None:
    two_runs.places()[0].path.write_text('{"format": 2}')
    assert "format 2" in two_runs("ls", code=4).stderr


def test_manifest_that_is_no_json_is_told_and_the_entry_is_shown(two_runs: CommandLine) -> None:
    (run_directory(two_runs) / "manifest.json").write_text("{")
    done = two_runs("show", "alpha", code=4)
    assert "run the alpha" in done.stdout
    assert "the manifest is damaged" in done.stderr
    assert "manifest" in two_runs("verify", "alpha", code=4).stdout
    two_runs("verify", "beta")


def test_run_directory_that_vanished_is_told_with_both_ways_out(two_runs: CommandLine) -> None:
    shutil.rmtree(run_directory(two_runs))
    problem = two_runs("ls", code=4).stderr
    assert "the run directory" in problem and "is gone" in problem
    assert "backup" in problem and "wandb-spool discard" in problem
    assert two_runs("status", code=4).stdout.count("PROBLEM") == 1
    assert "beta" in two_runs("ls", code=4).stdout


def test_entry_in_two_directories_is_shown_once_where_it_stands_and_recover_mends_it(two_runs: CommandLine) -> None:
    place = two_runs.places()[0]
    copy = two_runs.spool.paths.entry(State.HELD, place.name)
    shutil.copy(place.path, copy)
    listed = two_runs("ls", "--json")
    assert listed.stdout.count('"run_id": "alpha"') == 1
    assert "lies in incoming, held; held stands" in listed.stderr
    two_runs("recover")
    assert not place.path.exists() and copy.exists()
    assert two_runs("ls").stderr == ""


def test_files_that_are_no_entries_are_nobodys_business(two_runs: CommandLine) -> None:
    incoming = two_runs.spool.paths.queue(State.INCOMING)
    for name in (".tmp-123", ".nfs0001", "notes.txt", "README"):
        (incoming / name).write_text("x")
    assert two_runs.counts() == {"incoming": 2}


def test_name_with_control_characters_does_not_reach_the_terminal(two_runs: CommandLine) -> None:
    place = two_runs.places()[0]
    text = place.path.read_text().replace('"the alpha"', '"\\u001b[31mred\\u0007"')
    place.path.write_text(text)
    shown = two_runs("ls").stdout + two_runs("show", "alpha").stdout
    assert "\x1b" not in shown and "\x07" not in shown


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda path: path.write_bytes(b""), "0 bytes instead of"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\xff"), "other bytes"),
        (lambda path: path.unlink(), "gone"),
        (lambda path: (path.unlink(), path.symlink_to("/etc/passwd")), "can't be read"),
    ],
    ids=["emptied", "changed", "removed", "replaced by a link"],
)
def test_verify_tells_a_file_that_is_not_what_was_sealed(two_runs: CommandLine, damage: object, told: str) -> None:
    assert callable(damage)
    damage(next(run_directory(two_runs).glob("*.wandb")))
    done = two_runs("verify", code=4)
    alpha, beta = done.stdout.splitlines()
    assert told in alpha
    assert beta.endswith("as it was sealed")


def test_verify_tells_a_manifest_that_was_replaced(two_runs: CommandLine) -> None:
    path = run_directory(two_runs) / "manifest.json"
    path.write_text(path.read_text().replace('"rows_kept": 10', '"rows_kept": 9'))
    assert "the manifest is not the one that was sealed" in two_runs("verify", code=4).stdout


def test_verify_ignores_what_a_person_added(two_runs: CommandLine) -> None:
    (run_directory(two_runs) / "files/config.yaml").write_text("x")
    (run_directory(two_runs) / "notes.txt").write_text("x")
    two_runs("verify")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_entry_is_a_problem(two_runs: CommandLine) -> None:
    two_runs.places()[0].path.chmod(0)
    assert "no permission" in two_runs("ls", code=4).stderr


def test_open_run_whose_writer_died_is_shown_and_recovered(two_runs: CommandLine) -> None:
    """The entry, moved back to *open*, has a writer that is long gone."""
    place = two_runs.places()[0]
    (run_directory(two_runs) / "manifest.json").unlink()
    place.path.rename(two_runs.spool.paths.entry(State.OPEN, place.name))
    assert "10 rows so far" in two_runs("show", "alpha").stdout
    assert two_runs("hold", "alpha", code=2).stderr.count("is still open") == 1
    assert "sealed" in two_runs("recover").stdout
    assert two_runs.counts() == {"incoming": 2}
