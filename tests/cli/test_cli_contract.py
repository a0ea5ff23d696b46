"""Names, exit codes and `--json` are a contract; a mistake is one line."""

from __future__ import annotations

import subprocess
import sys
from typing import get_type_hints

import pytest

from wandb_spool.commands import offered, run
from wandb_spool.run_arguments import FLAGS, VALUES, RunArguments, parse
from wandb_spool.spool.states import State

from .command_line import CommandLine

STATES = [
    "open", "incoming", "active", "deferred", "held", "transit", "quarantined", "unverified", "void", "discarded",
    "delivered",
]  # fmt: skip


def test_help_is_grouped_and_imports_nothing_heavy(empty: CommandLine) -> None:
    shown = empty("--help").stdout
    for panel in ("Daily", "Mend", "Operate", "Practise"):
        assert panel in shown


@pytest.mark.parametrize("words", [["--help"], ["status"], ["ls"], ["--version"]])
def test_commands_that_look_import_neither_wandb_nor_torch(two_runs: CommandLine, words: list[str]) -> None:
    code = (
        "import sys; from wandb_spool.__main__ import main\n"
        f"sys.argv = ['wandb-spool', *{words!r}]\n"
        "main()\n"
        "print(sorted({'wandb', 'torch', 'numpy', 'sqlite_utils', 'starlette'} & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=two_runs.environment(), capture_output=True, text=True, timeout=60
    )
    assert done.stderr == "[]\n"


@pytest.mark.parametrize("name", [module.name for module in offered()])
def test_every_command_that_is_offered_explains_itself(empty: CommandLine, name: str) -> None:
    if name == "train":
        pytest.importorskip("torch", reason="the reference pipeline's own help needs what it trains with")
    shown = empty(name, "--help").stdout
    assert f"wandb-spool {name}" in shown


@pytest.mark.parametrize(
    "words",
    [
        ["no-such-command"],
        ["ls", "--no-such-option"],
        ["show"],
        ["run"],
        ["run", "--no-such-option", "--", "true"],
        ["run", "--spool"],
        ["ls", "--state", "nowhere"],
        ["show", "no-such-run"],
        ["hold", "no-such-run"],
        ["init"],
        ["env", "--format", "yaml"],
        ["show", ""],
        ["ls", "--spool", ""],
        ["ls", "--spool", sys.executable],
        ["--spool", "x", "ls"],
        ["adopt", ""],
        ["adopt", sys.executable],
        ["adopt", "--copy", "--move", "."],
        ["init", ""],
        ["init", sys.executable],
        ["service"],
        ["prune", "--older-than", "-3d"],
        ["rehearse", "--port", "700000"],
        ["rehearse", "--faults", "/no/such/file"],
    ],
)
def test_mistake_is_one_clear_line_and_exit_code_2(empty: CommandLine, words: list[str]) -> None:
    done = empty(*words, code=2)
    assert done.stdout == ""
    assert done.stderr.startswith("wandb-spool: ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("words", [["status"], ["ls"], ["show", "x"], ["hold", "x"], ["recover"], ["verify"]])
def test_missing_spool_is_exit_code_2_and_nothing_is_made(empty: CommandLine, words: list[str]) -> None:
    missing = empty.root.parent / "missing"
    done = empty(*words, "--spool", str(missing), code=2)
    assert f"no such spool directory: {missing} · `wandb-spool init {missing}` makes one" in done.stderr
    assert not missing.exists()


def test_directory_that_is_no_spool_is_exit_code_2(empty: CommandLine) -> None:
    assert "not a spool" in empty("status", "--spool", str(empty.home), code=2).stderr


def test_spool_of_a_newer_format_is_exit_code_4(empty: CommandLine) -> None:
    empty.spool.paths.marker.write_text('{"format": 99}')
    assert "format 99" in empty("status", code=4).stderr


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 0}', '{"format": "x"}'])
def test_mend_of_a_spool_json_that_cant_be_read_works(empty: CommandLine, text: str) -> None:
    empty.spool.paths.marker.write_text(text)
    marker = empty.root / "spool.json"
    told = empty("ls", code=4).stderr
    assert f"move it away and let `wandb-spool init {empty.root}` make it anew" in told
    marker.unlink()
    empty("init", str(empty.root), "--no-remember")
    empty("ls")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("spol = '/x'", "`spool`?"),
        ("spool = ''", "is empty"),
        ("spool = '$NO_SUCH_VARIABLE/x'", "is not set here"),
        ("[destination.default]\nbase_ur = 'https://x'", "`base_url`?"),
    ],
)
def test_slip_in_the_configuration_is_one_line_with_what_was_meant(empty: CommandLine, text: str, told: str) -> None:
    path = empty.home / ".config" / "wandb-spool.toml"
    path.parent.mkdir()
    path.write_text(text)
    (line,) = empty("ls", WANDB_SPOOL_DIR="", code=2).stderr.splitlines()
    assert told in line and str(path) in line


def test_nobody_who_named_no_spool_is_told_to_make_one_in_a_small_home(empty: CommandLine) -> None:
    told = empty("ls", WANDB_SPOOL_DIR="", code=2).stderr
    assert "no spool is named" in told and "`wandb-spool init DIR`" in told


def test_status_json_counts_every_state(two_runs: CommandLine) -> None:
    body = two_runs.json("status")
    assert list(body["counts"]) == STATES == [state.value for state in State]
    assert body["counts"]["incoming"] == 2
    assert body["spool"] == str(two_runs.root)
    assert body["rows_waiting"] == 30


def test_ls_json_has_the_promised_keys(two_runs: CommandLine) -> None:
    first, second = two_runs.json("ls")
    promised = {"fragment", "run_id", "project", "entity", "state", "reason", "attempts", "rows", "url"}
    assert promised <= set(first)
    assert [(item["run_id"], item["rows"]) for item in (first, second)] == [("alpha", 10), ("beta", 20)]
    assert (first["project"], first["state"], first["attempts"], first["url"]) == ("digits", "incoming", 0, None)
    assert first["fragment"].startswith("offline-run-")


def test_show_json_adds_manifest_attempts_and_receipt(two_runs: CommandLine) -> None:
    body = two_runs.json("show", "beta")
    manifest = body["manifest"]
    promised = {"rows_logged", "rows_kept", "rows_lost", "calls_refused", "last_step", "exit_code", "files"}
    assert promised <= set(manifest)
    assert (manifest["rows_logged"], manifest["rows_lost"], manifest["last_step"]) == (20, 0, 19)
    assert body["receipt"] is None
    assert body["attempts"] == 0


def test_show_draws_history_and_summary(two_runs: CommandLine) -> None:
    shown = two_runs("show", "beta", PYTHONIOENCODING="utf-8").stdout
    assert "run the beta (beta) · incoming" in shown
    assert "nested.a" in shown and "▁" in shown and "█" in shown
    assert "best" in shown
    assert "20 rows logged, 20 kept, 0 lost" in shown


def test_show_draws_in_plain_letters_where_the_terminal_has_no_others(two_runs: CommandLine) -> None:
    shown = two_runs("show", "beta", PYTHONIOENCODING="ascii").stdout
    assert shown.isascii()
    assert "20 rows logged" in shown


def test_first_line_of_status_tells_path_destination_and_who_synced(two_runs: CommandLine) -> None:
    first = two_runs("status", WANDB_BASE_URL="https://w.example").stdout.splitlines()[0]
    assert first == f"{two_runs.root} → https://w.example · never synced: `wandb-spool sync`"


def test_reader_that_leaves_is_no_error(two_runs: CommandLine) -> None:
    words = f"{sys.executable} -m wandb_spool ls | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", words], env=two_runs.environment(), capture_output=True, text=True, timeout=60)
    assert done.stderr == ""


def test_unexpected_error_is_one_line_that_says_where_its_traceback_is(empty: CommandLine) -> None:
    code = (
        "import sys; from wandb_spool import cli, survey\n"
        "survey.Survey.of = classmethod(lambda *_: 1 / 0)\n"
        "sys.exit(cli.answer(['ls']))"
    )
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, env=empty.environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    kept = line.rpartition(" ")[2]
    with open(kept) as stream:
        assert "ZeroDivisionError" in stream.read()
    import os

    os.unlink(kept)


# -- the two readers of `run`'s arguments ------------------------------------------------------------------------------


def test_fast_reader_of_run_knows_every_option_of_the_full_one() -> None:
    declared = set(get_type_hints(run.command)) - {"command", "return"}
    assert declared == set(FLAGS.values()) | set(VALUES.values())


@pytest.mark.parametrize(
    ("words", "read"),
    [
        (["--", "a", "--hold"], RunArguments(("a", "--hold"))),
        (["a", "-x"], RunArguments(("a", "-x"))),
        (["--spool", "/s", "--hold", "--", "a"], RunArguments(("a",), "/s", hold=True)),
        (["--spool=/s", "-q", "a"], RunArguments(("a",), "/s", quiet=True)),
        (["--name", "n", "--resume-key=k", "--require-spool", "--", "--odd"],
         RunArguments(("--odd",), None, True, resume_key="k", name="n")),
        (["--help"], None),
        (["--unknown", "--", "a"], None),
        (["--hold"], None),
        (["--spool"], None),
        (["--spool", "", "--", "a"], None),
        ([], None),
    ],
)  # fmt: skip
def test_fast_reader_of_run(words: list[str], read: RunArguments | None) -> None:
    assert parse(words) == read


def test_full_reader_runs_the_same_command(empty: CommandLine) -> None:
    code = "import sys; from wandb_spool.cli import answer; sys.exit(answer(sys.argv[1:]))"
    words = [sys.executable, "-c", code, "run", "--hold", "--", "sh", "-c", "echo $0 $1; exit 3", "--hold", "--", "x"]
    done = subprocess.run(words, env=empty.environment(), capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (3, "--hold --\n")


@pytest.mark.parametrize("words", [["status"], ["ls", "--json"], ["--version"], ["version"]])
def test_output_that_cannot_be_written_is_one_line(two_runs: CommandLine, words: list[str]) -> None:
    spool = [] if words[-1].endswith("version") else ["--spool", str(two_runs.root)]
    command = [sys.executable, "-m", "wandb_spool", *words, *spool]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, env=two_runs.environment(), stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "can't be written: No space left" in done.stderr
    closed = subprocess.run(["sh", "-c", 'exec "$@" >&-', "sh", *command], env=two_runs.environment(), stderr=-1)
    assert (closed.returncode, closed.stderr) == (0, b"")
