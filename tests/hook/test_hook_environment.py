"""The hook fits into other people's interpreters."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from wandb_spool.runner.hook import HOOK_DIR

from .programs import Program

MODULES = sorted(HOOK_DIR.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_the_hook_is_python_3_8_and_standard_library_only(path: Path) -> None:
    tree = ast.parse(path.read_text(), feature_version=(3, 8))
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module or ""]
        for name in names:
            top = name.partition(".")[0]
            assert top in sys.stdlib_module_names | {"_wandb_spool_hook"}, f"{path.name} imports {name}"


def test_the_next_sitecustomize_still_runs_and_is_the_one_that_is_imported(program: Program) -> None:
    theirs = program.home / "theirs"
    theirs.mkdir()
    (theirs / "sitecustomize.py").write_text("import builtins; builtins.theirs = __file__")
    program.environ["PYTHONPATH"] = f"{HOOK_DIR}:{theirs}"
    ended = program.run(
        "print(theirs); import sitecustomize; print(sitecustomize.__file__, '_wandb_spool_hook' in sys.modules)"
    )
    assert ended.out.split() == [str(theirs / "sitecustomize.py")] * 2 + ["True"]


def test_a_sitecustomize_that_raises_is_told_by_python_as_ever_and_harms_nothing(program: Program) -> None:
    theirs = program.home / "theirs"
    theirs.mkdir()
    (theirs / "sitecustomize.py").write_text("raise RuntimeError('theirs')")
    program.environ["PYTHONPATH"] = f"{HOOK_DIR}:{theirs}"
    ended = program.run("print('goes on')")
    assert ended.exit_code == 0 and "goes on" in ended.out and "theirs" in ended.err


def test_a_programs_own_modules_are_not_hidden(program: Program) -> None:
    for name in ("runner", "spool", "syncer", "files", "core", "alive", "process", "session"):
        (program.home / f"{name}.py").write_text(f"mine = {name!r}")
    ended = program.run(
        """
        import wandb
        import runner, spool, syncer, files, core, alive, process, session
        run = wandb.init(project="p"); run.log({"a": 1})
        print(runner.mine, spool.mine, syncer.mine, files.mine, alive.mine)
        """
    )
    assert "runner spool syncer files alive" in ended.out, ended.err
    assert program.fragment().facts.rows == 1


def test_a_broken_environment_never_breaks_the_interpreter(program: Program) -> None:
    program.environ.update(WANDB_SPOOL_LAUNCH="/proc/nonexistent/x", WANDB_SPOOL_ENTRY_DEFAULTS="{not json")
    program.environ["WANDB_DIR"] = str(program.home)
    ended = program.run(
        "import wandb; run = wandb.init(project='p'); run.log({'a': 1}); run.finish(); print('trained')"
    )
    assert ended.exit_code == 0 and "trained" in ended.out, ended.err
    assert ended.notices


def test_the_hook_can_be_installed_inside_a_program_that_has_imported_wandb_already(program: Program) -> None:
    program.environ["PYTHONPATH"] = ""
    ended = program.run(
        """
        import wandb
        from wandb_spool.runner import hook
        assert hook.install() and hook.install()
        run = wandb.init(project="p", mode="online"); run.log({"a": 1}); run.finish()
        """
    )
    assert ended.exit_code == 0, ended.err
    assert program.fragment().facts.rows == 1 and program.fragment().alive.rows == 1


def test_the_durable_write_of_the_hook_is_that_of_the_spool(program: Program) -> None:
    from wandb_spool.spool import durable

    value = {"format": 1, "text": "ü", "none": None, "list": [1, 2.5]}
    durable.write_json(program.home / "spool.json", value)
    subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; sys.path.insert(0, sys.argv[1]); from _wandb_spool_hook.durable import write_json; "
            "write_json(sys.argv[2], {'format': 1, 'text': 'ü', 'none': None, 'list': [1, 2.5]})",
            str(HOOK_DIR),
            str(program.home / "hook.json"),
        ],
        check=True,
    )
    ours, theirs = program.home / "hook.json", program.home / "spool.json"
    assert ours.read_bytes() == theirs.read_bytes()
    assert ours.stat().st_mode == theirs.stat().st_mode
    assert not list(program.home.glob(".tmp-*"))
