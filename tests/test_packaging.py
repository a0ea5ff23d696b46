"""What is installed is what the folders hold, under one name, and starts without the heavy parts."""

from __future__ import annotations

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
FOLDERS = ("wandb_spool", "runner", "spool", "syncer")
NETWORK = frozenset(
    {"asyncio", "ftplib", "http", "httpx", "requests", "smtplib", "socketserver", "ssl", "starlette", "urllib",
     "urllib3", "uvicorn", "wandb", "xmlrpc"}
)  # fmt: skip


def packages_in_folders() -> set[str]:
    found = set()
    for folder in FOLDERS:
        for init in (ROOT / folder).rglob("__init__.py"):
            parts = init.parent.relative_to(ROOT).parts
            if "site" not in parts:  # the hook's modules are data: they belong to another interpreter
                found.add(".".join(parts if folder == "wandb_spool" else ("wandb_spool", *parts)))
    return found


def test_every_folder_is_in_the_package_list() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert sorted(declared) == sorted(packages_in_folders())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The built wheel; from a copy, so that nothing is left in the checkout."""
    import shutil

    directory = tmp_path_factory.mktemp("wheel")
    source = directory / "source"
    source.mkdir()
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, source)
        else:
            (source / name).touch()
    words = [sys.executable, "-c", "import setuptools.build_meta as b, sys; print(b.build_wheel(sys.argv[1]))"]
    done = subprocess.run([*words, str(directory)], cwd=source, capture_output=True, text=True)
    if done.returncode != 0 and "No module named 'setuptools'" in done.stderr:
        pytest.skip("setuptools is not there: no wheel can be built without a network")
    assert done.returncode == 0, done.stderr
    return zipfile.ZipFile(directory / done.stdout.split()[-1])


def test_wheel_holds_every_module_and_nothing_at_the_top_but_its_own_name(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    assert {name.partition("/")[0] for name in names if not name.partition("/")[0].endswith(".dist-info")} == {
        "wandb_spool"
    }
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*.py"):
            relative = path.relative_to(ROOT).as_posix()
            installed = relative if folder == "wandb_spool" else f"wandb_spool/{relative}"
            assert installed in names, f"{relative} is not in the wheel"
    assert "wandb_spool/py.typed" in names


def test_nobody_can_import_a_part_by_its_bare_name(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    """A user's own runner.py beside train.py is theirs."""
    wheel.extractall(tmp_path / "site")
    code = """
import importlib, sys
sys.path[:] = [p for p in sys.path if "site-packages" not in p] + [sys.argv[1]]
sys.meta_path[:] = [f for f in sys.meta_path if "__editable__" not in getattr(f, "__module__", "")]
for name in ("runner", "spool", "syncer"):
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        continue
    sys.exit(f"{name} can be imported")
import wandb_spool.spool.queue
assert wandb_spool.spool.queue.__file__.startswith(sys.argv[1]), wandb_spool.spool.queue.__file__
"""
    words = [sys.executable, "-S", "-c", code, str(tmp_path / "site")]
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run(words, cwd=tmp_path, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_spool_has_no_network_code() -> None:
    for path in (ROOT / "spool").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                named = {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                named = {(node.module or "").partition(".")[0]}
            else:
                continue
            assert not named & NETWORK, f"{path.relative_to(ROOT)} imports {named & NETWORK}"


@pytest.mark.parametrize("words", [["--help"], ["status"], ["ls"], ["init", "made"]], ids=lambda words: words[0])
def test_what_people_type_often_starts_without_wandb_and_torch(tmp_path: Path, words: list[str]) -> None:
    code = """
import sys
from wandb_spool.spool.queue import Spool
from pathlib import Path
Spool.create(Path("spool"))
from wandb_spool.__main__ import main
sys.argv = ["wandb-spool", *sys.argv[1:]]
try:
    code = main()
except SystemExit as end:
    code = end.code
assert not code, code
heavy = {"wandb", "torch", "numpy", "starlette", "uvicorn", "graphql"} & set(sys.modules)
sys.exit(f"imported {heavy}" if heavy else 0)
"""
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "WANDB_SPOOL_DIR": str(tmp_path / "spool")}
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=tmp_path, env=environ, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
