"""Whatever the program says, it stays offline and in the spool, and what was overridden is named once."""

from __future__ import annotations

import pytest

from .programs import Program

COUNT_CONNECTIONS = """
import socket
attempts = []
def audit(event, args):
    if event == "socket.connect" and args[0].family != socket.AF_UNIX or event == "socket.getaddrinfo":
        attempts.append((event, args))
sys.addaudithook(audit)
"""


@pytest.mark.parametrize(
    ("code", "named"),
    [
        ('run = wandb.init(mode="online", dir=".", project="p")', ["mode=online", "dir=."]),
        ('run = wandb.init(settings=wandb.Settings(mode="online"), project="p")', ["mode=online"]),
        ('os.environ["WANDB_MODE"] = "online"; run = wandb.init(project="p")', ["mode=online"]),
        ('os.environ["WANDB_DATA_DIR"] = "/tmp/x"; run = wandb.init(project="p")', ["WANDB_DATA_DIR=/tmp/x"]),
        ('wandb.setup(settings=wandb.Settings(mode="online")); run = wandb.init(project="p")', ["mode=online"]),
    ],
)
def test_a_program_that_asks_for_the_network_is_kept_offline_and_in_the_spool(
    program: Program, code: str, named: list[str]
) -> None:
    ended = program.run(
        COUNT_CONNECTIONS + "import wandb\n" + code + "\nrun.log({'a': 1}); run.finish(); print(attempts)"
    )
    fragment = program.fragment()
    assert ended.exit_code == 0 and ended.out.strip().endswith("[]")
    assert fragment.facts.rows == 1
    assert fragment.entry["overridden"] == named
    assert [sum(f" {name} is overridden" in line for line in ended.notices) for name in named] == [1] * len(named)


def test_login_answers_as_logged_in_without_network_or_prompt(program: Program) -> None:
    ended = program.run(
        COUNT_CONNECTIONS
        + """
        import wandb
        os.environ["WANDB_MODE"] = "online"
        assert wandb.login() is True and wandb.login(key="x" * 40, relogin=True) is True
        assert wandb.login(host="https://wandb.example.org") is True
        wandb.init(project="p").finish()
        assert not attempts, attempts
        """.replace("\n        ", "\n")
    )
    assert ended.exit_code == 0, ended.err
    assert program.fragment().entry["base_url"] == "https://wandb.example.org"
    assert not list(program.home.glob(".netrc"))


@pytest.mark.parametrize(
    "code",
    [
        'wandb.init(mode="disabled")',
        'wandb.init(settings=wandb.Settings(mode="disabled"))',
        'os.environ["WANDB_MODE"] = "disabled"; wandb.init()',
    ],
)
def test_disabled_stays_disabled(program: Program, code: str) -> None:
    ended = program.run(f"import wandb\n{code}\nwandb.log({{'a': 1}})\nassert wandb.run.disabled")
    assert ended.exit_code == 0, ended.err
    assert program.fragments() == []
    assert not list(program.launch.glob("wandb/offline-run-*"))


def test_the_open_entry_says_who_writes_what_and_where(program: Program) -> None:
    program.run(
        """
        import wandb
        run = wandb.init(project="p", entity="e", id="abcd1234", name="n")
        print(os.getpid())
        """
    )
    entry = program.fragment().entry
    assert (entry["run_id"], entry["project"], entry["entity"], entry["name"]) == ("abcd1234", "p", "e", "n")
    assert entry["launch"] == program.launch.name and entry["command"] == "python train.py"
    assert entry["writer"]["start_ticks"] > 0 and entry["predecessor"] is None
    assert next((program.launch / "hook").iterdir()).name == (
        f"{entry['writer']['pid']}-{entry['writer']['start_ticks']}"
    )
    assert next((program.spool / "queue" / "open").iterdir()).stat().st_mode & 0o777 == 0o600


def test_a_run_that_is_begun_again_names_its_earlier_fragment_as_predecessor(program: Program) -> None:
    program.run(
        """
        import wandb
        for part in range(2):
            with wandb.init(project="p", id="same", resume="allow") as run:
                run.log({"part": part})
        """
    )
    first, second = program.fragments()
    assert second.entry["predecessor"] == f"{first.entry['launch']}.{first.entry['fragment']}"


def test_without_a_launch_the_hook_does_nothing(program: Program) -> None:
    program.environ["WANDB_SPOOL_LAUNCH"] = ""
    ended = program.run(
        """
        import _wandb_spool_hook
        assert not _wandb_spool_hook.install({})
        assert "_wandb_spool_hook.patching" not in sys.modules
        import wandb
        wandb.init(project="p").finish()
        """
    )
    assert ended.exit_code == 0, ended.err
    assert program.fragments() == []


def test_a_failing_init_gives_a_run_that_does_nothing_and_one_notice(program: Program) -> None:
    ended = program.run(
        """
        import wandb
        run = wandb.init(project="p" * 5000, nonsense=1)
        run.log({"a": 1}); wandb.log({"a": 2}); run.summary["x"] = 1; run.finish()
        print("trained")
        """
    )
    assert ended.exit_code == 0 and "trained" in ended.out, ended.err
    assert len(ended.notices) == 1 and "NOT logged" in ended.notices[0]


def test_wandb_that_cannot_be_imported_is_the_programs_own_error(program: Program) -> None:
    (program.home / "wandb").mkdir()
    (program.home / "wandb" / "__init__.py").write_text("raise ImportError('broken install')")
    ended = program.run("import wandb")
    assert ended.exit_code == 1
    assert "ImportError: broken install" in ended.err and not ended.notices


def test_the_name_of_a_run_is_never_none_and_stands_in_the_log(program: Program) -> None:
    ended = program.run(
        """
        import wandb
        run = wandb.init(project="p")
        print(run.name, wandb.run.name)
        """
    )
    name, again = ended.out.split()[-2:]
    assert name == again == program.fragment().facts.display_name == program.fragment().entry["name"]
    assert name.count("-") == 2


@pytest.mark.parametrize(("name", "taken"), [("my/proj:x", "my-proj-x"), ("p" * 300, "p" * 128)])
@pytest.mark.parametrize("by", ["argument", "environment"])
def test_a_project_name_that_wandb_refuses_costs_no_row(program: Program, name: str, taken: str, by: str) -> None:
    if by == "environment":
        program.environ["WANDB_PROJECT"] = name
    argument = f"project={name!r}" if by == "argument" else ""
    ended = program.run(f"import wandb; run = wandb.init({argument}); run.log({{'a': 1}}); print(run.project)")
    fragment = program.fragment()
    assert ended.exit_code == 0 and fragment.facts.rows == 1, ended.err
    assert fragment.facts.project == fragment.entry["project"] == taken
    assert sum("no project name" in line for line in ended.notices) == 1


@pytest.mark.parametrize("extra", ["sync_tensorboard", "monitor_gym"])
def test_a_package_that_an_option_needs_and_is_not_there_costs_the_option_and_no_row(
    program: Program, extra: str
) -> None:
    ended = program.run(
        f"""
        class Absent:
            def find_spec(self, name, path, target=None):
                if name.partition(".")[0] in ("tensorboard", "tensorboardX", "torch", "tensorflow", "gym", "gymnasium"):
                    raise ModuleNotFoundError(f"No module named {{name!r}}")
        sys.meta_path.insert(0, Absent())
        import wandb
        for i in range(2):
            run = wandb.init(project="p", config={{"lr": 1}}, {extra}=True)
            for i in range(3):
                run.log({{"loss": i}})
            run.finish()
        print("trained")
        """
    )
    assert ended.exit_code == 0 and "trained" in ended.out, ended.err
    assert [len(fragment.rows) for fragment in program.fragments()] == [3, 3]
    assert all(f"{extra} can't work here" in line and "logged without it" in line for line in ended.notices)
    assert len(ended.notices) == 1
