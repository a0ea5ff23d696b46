"""docs/errors.md is what the code says."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from wandb_spool.spool import bundle_index, configuration, errors
from wandb_spool.spool.errors import SpoolError

DOCS = Path(__file__).parents[2] / "docs"


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_errors", DOCS / "generate_errors.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


def test_page_is_what_the_code_says() -> None:
    written = (DOCS / "errors.md").read_text(encoding="utf-8")
    assert written == generator().text(), "python docs/generate_errors.py"


def test_every_class_of_error_is_explained_with_its_exit_code() -> None:
    explained = generator().CLASSES
    known = {**vars(errors), **vars(bundle_index), **vars(configuration)}
    for name, kind in known.items():
        if isinstance(kind, type) and issubclass(kind, SpoolError) and kind is not SpoolError:
            assert explained[name][0] == kind.exit_code, name


def test_templates_tell_what_is_filled_in() -> None:
    import ast

    call = ast.parse("f'no {path.name} in {root}' + 'x'", mode="eval").body
    assert generator()._template(call) == "no ‹name› in ‹root›x"
