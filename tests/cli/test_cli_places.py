"""Where the spool is, what was configured, and `init`."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import pytest

from wandb_spool.locate import locate
from wandb_spool.overview import BOUNDS_H, HEADINGS, bucket
from wandb_spool.spool.configuration import (
    ConfigurationError,
    Destination,
    load_configuration,
    remember_spool,
    user_configuration_path,
)
from wandb_spool.spool.errors import UsageError
from wandb_spool.spool.queue import Spool
from wandb_spool.survey import age_s

from .command_line import CommandLine


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"HOME": str(tmp_path)}


def configure(environ: dict[str, str], text: str) -> Path:
    path = user_configuration_path(environ)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_option_beats_variable_beats_configuration_beats_default(environ: dict[str, str], tmp_path: Path) -> None:
    assert locate(None, environ).root == tmp_path / ".local/state/wandb-spool"
    configure(environ, 'spool = "/configured"')
    assert locate(None, environ).root == Path("/configured")
    environ["WANDB_SPOOL_DIR"] = "/variable"
    assert locate(None, environ).root == Path("/variable")
    assert locate("/option", environ).root == Path("/option")


@pytest.mark.parametrize("variable", ["SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID"])
def test_batch_job_that_names_no_spool_is_warned_loudly(environ: dict[str, str], variable: str) -> None:
    assert locate(None, environ).warning is None
    warning = locate(None, {**environ, variable: "1"}).warning
    assert warning is not None and warning.startswith("WARNING") and "wandb-spool init DIR" in warning
    assert locate("/option", {**environ, variable: "1"}).warning is None


def test_relative_and_home_paths_become_absolute(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    assert locate("a/../b", environ).root == Path("/b")
    configure(environ, 'spool = "~/s"')
    assert locate(None, environ).root == Path("~/s").expanduser()


def test_destinations_are_read_whole_and_the_users_win(tmp_path: Path) -> None:
    site, user = tmp_path / "site.toml", tmp_path / "user.toml"
    site.write_text('[destination.a]\nentity = "x"\nproject = "p"\n[destination.b]\nbase_url = "https://b/"')
    user.write_text('[destination.a]\nentity = "y"\nrate = 30\naccept_unverified = true\n[limits]\nrefusals = 3')
    read = load_configuration([site, user, tmp_path / "missing.toml"])
    assert read.destinations["a"] == Destination("a", entity="y", rate=30.0, accept_unverified=True)
    assert read.destinations["b"].base_url == "https://b"
    assert read.limits.refusals == 3
    assert read.sources == (site, user)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("spool = [", "not TOML"),
        ("spool = 3", "`spool` is not a text"),
        ("spol = 'x'", "`spol` is unknown"),
        ("destination = 3", "`destination` is not a table"),
        ("[destination]\na = 3", "`destination.a` is not a table"),
        ("[destination.a]\nurl = 'x'", "`destination.a.url` is unknown"),
        ("[destination.a]\nbase_url = 'api.example'", "`destination.a.base_url` is no address"),
        ("[destination.a]\nrate = 0", "`destination.a.rate` is not a number above 0"),
        ("[destination.a]\nrate = true", "`destination.a.rate` is not a number above 0"),
        ("[destination.a]\naccept_unverified = 'yes'", "neither true nor false"),
        ("[destination.a]\napi_key = 'abc'", "a key does not belong here"),
        ("[limits]\npatience = 1", "`limits.patience` is unknown"),
        ("[limits]\nrefusals = -1", "`limits.refusals` is not a number above 0"),
    ],
)
def test_configuration_that_cant_be_understood_is_one_line_with_file_and_key(
    tmp_path: Path, text: str, told: str
) -> None:
    path = tmp_path / "c.toml"
    path.write_text(text)
    with pytest.raises(ConfigurationError) as error:
        load_configuration([path])
    assert told in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_configuration_that_is_no_text_is_told(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match="UTF-8"):
        load_configuration([path])


def test_key_is_nowhere_in_the_error_about_it(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('[destination.a]\nkey = "very-secret"')
    with pytest.raises(UsageError) as error:
        load_configuration([path])
    assert "very-secret" not in str(error.value)


@pytest.mark.parametrize(
    "before",
    [
        "",
        'spool = "/old"\n',
        '# mine\nspool="/old"\n\n[destination.a]\nspool_like = "x"\n'.replace('spool_like = "x"', 'entity = "e"'),
    ],
)
def test_remembering_a_spool_changes_nothing_else(tmp_path: Path, before: str) -> None:
    path = tmp_path / "deep" / "c.toml"
    path.parent.mkdir()
    path.write_text(before)
    remember_spool(path, Path('/new "one"'))
    read = load_configuration([path])
    assert read.spool == Path('/new "one"')
    assert ("a" in read.destinations) == ("destination" in before)
    assert ("# mine" in path.read_text()) == ("# mine" in before)


# -- init --------------------------------------------------------------------------------------------------------------


def test_init_makes_a_spool_remembers_it_and_shows_the_lines_for_a_batch_script(empty: CommandLine) -> None:
    made = empty.home / "scratch" / "spool"
    shown = empty("init", str(made)).stdout
    assert Spool.open(made).root == made
    assert f"export WANDB_SPOOL_DIR={made}" in shown and "srun wandb-spool run -- python train.py" in shown
    assert empty("status", WANDB_SPOOL_DIR="").stdout.startswith(str(made))


def test_init_of_a_spool_that_is_there_keeps_it(two_runs: CommandLine) -> None:
    spool_id = two_runs.spool.spool_id
    two_runs("init", str(two_runs.root))
    assert two_runs.spool.spool_id == spool_id
    assert two_runs.counts() == {"incoming": 2}


def test_init_without_a_directory_suggests_scratch_or_project_space(empty: CommandLine, tmp_path: Path) -> None:
    done = empty("init", code=2, SCRATCH=str(tmp_path), WORK="/nowhere")
    assert f"`wandb-spool init {tmp_path / 'wandb-spool'}`" in done.stderr
    assert "nowhere" not in done.stderr


def test_init_in_a_directory_that_holds_something_else_changes_nothing(empty: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/thesis.tex").write_text("")
    assert "not empty" in empty("init", str(tmp_path / "thesis"), code=2).stderr
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["thesis.tex"]


def test_init_warns_where_files_are_purged(empty: CommandLine, tmp_path: Path) -> None:
    assert "purged" in empty("init", str(tmp_path / "s"), SCRATCH=str(tmp_path)).stdout


def test_init_whose_configuration_cant_be_written_says_what_to_set_instead(empty: CommandLine, tmp_path: Path) -> None:
    (empty.home / ".config").write_text("")
    shown = empty("init", str(tmp_path / "s")).stdout
    assert "NOT remembered" in shown and f"export WANDB_SPOOL_DIR={tmp_path / 's'}" in shown


def test_init_for_an_unknown_group_is_a_mistake(empty: CommandLine, tmp_path: Path) -> None:
    assert "no such group" in empty("init", str(tmp_path / "s"), "--group", "no-such-group", code=2).stderr


# -- env ---------------------------------------------------------------------------------------------------------------


def test_commands_that_are_told_mean_the_spool_that_was_asked(two_runs: CommandLine, tmp_path: Path) -> None:
    said = two_runs("show", "nothing-of-this-name", code=2).stderr
    assert "`wandb-spool ls`" in said
    elsewhere = {"WANDB_SPOOL_DIR": str(tmp_path / "another")}
    said = two_runs("show", "nothing-of-this-name", "--spool", str(two_runs.root), code=2, **elsewhere).stderr
    assert f"`wandb-spool ls --spool {two_runs.root}`" in said
    said = two_runs("status", f"--spool={two_runs.root}", WANDB_SPOOL_DIR="", HOME=str(tmp_path / "nobody")).stdout
    assert f"`wandb-spool sync --spool {two_runs.root}`" in said


def test_env_for_a_shell_makes_a_later_program_log_into_the_spool(empty: CommandLine) -> None:
    program = "import wandb; r = wandb.init(project='p', mode='online'); r.log({'a': 1}); r.finish()"
    script = f'eval "$({sys.executable} -m wandb_spool env)" && {sys.executable} -c "$PROGRAM"'
    done = subprocess.run(
        ["sh", "-c", script],
        env=empty.environment(PROGRAM=program, WANDB_SILENT="true"),
        cwd=empty.home,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert empty.counts() == {"open": 1}
    empty("recover")
    assert empty.counts() == {"incoming": 1}


@pytest.mark.parametrize("format", ["sh", "deepspeed", "apptainer", "ray", "json"])
def test_env_names_what_run_would_set_for_every_launcher(empty: CommandLine, format: str) -> None:
    shown = empty("env", "--format", format, WANDB_API_KEY="k" * 40).stdout
    for name in ("WANDB_MODE", "WANDB_DIR", "WANDB_DATA_DIR", "PYTHONPATH", "WANDB_SPOOL_LAUNCH"):
        assert name in shown
    assert "k" * 40 not in shown


def test_env_within_a_launch_is_that_launchs(empty: CommandLine) -> None:
    words = [sys.executable, "-m", "wandb_spool"]
    inner = " ".join([*words, "env", "--format", "json"])
    script = f"{inner}; echo $WANDB_SPOOL_LAUNCH"
    done = empty("run", "--", "sh", "-c", script)
    assert f'"WANDB_SPOOL_LAUNCH": "{done.stdout.splitlines()[-1]}"' in done.stdout


# -- ages --------------------------------------------------------------------------------------------------------------


def test_age_is_that_of_the_launch_and_never_negative() -> None:
    name = "20261121T050000-n1-0a1b2c3d.offline-run-20261121_050001-x"
    at = 1795237200.0  # 2026-11-21T05:00:00Z
    assert age_s(name, at + 90) == 90
    assert age_s(name, at - 90) == 0
    assert age_s("strange", at) == 0


def test_columns_of_ages_double() -> None:
    assert len(HEADINGS) == len(BOUNDS_H) + 1
    assert [b / a for a, b in itertools.pairwise(BOUNDS_H)] == [2.0] * (len(BOUNDS_H) - 1)
    assert [bucket(hours * 3600) for hours in (0, 0.99, 1, 3, 255, 256, 1e6)] == [0, 0, 1, 2, 8, 9, 9]
