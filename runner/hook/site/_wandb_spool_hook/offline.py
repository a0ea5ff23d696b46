"""Calls that can't work offline: some become recorded no-ops, the others fail at once and say what to do.

No-ops: ``Artifact.wait`` and ``version``, ``link_artifact``, ``link_model`` (which still logs the model). Refused, with
the call, the line in the program and the remedy: ``use_artifact``, ``use_model``, ``restore``, ``wandb.Api``,
``wandb.sweep``, ``wandb.agent``. Without us these would block for many seconds and then raise something else.
"""

from __future__ import annotations

import os
import sys
import types
from typing import Any, Callable

from .anatomy import part, run_class
from .importing import when_imported
from .notice import say_once
from .process import Process

HERE = os.path.dirname(os.path.abspath(__file__))
UNSYNCED = "unsynced"

REMEDIES = {
    "use_artifact": "fetch it where there is a network (`wandb artifact get NAME`) and give the program the path",
    "use_model": "fetch it where there is a network (`wandb artifact get NAME`) and give the program the path",
    "restore": "copy the file here beforehand and open it by its path",
    "Api": "`wandb_spool.spool.open_run(DIRECTORY)` reads a run that is in the spool, without a server; ask for what "
    "only the server has where there is a network",
    "sweep": "create the sweep where there is a network; runs of a sweep work offline with WANDB_SWEEP_ID",
    "agent": "draw the parameters beforehand (WANDB_SWEEP_PARAM_PATH) and start the runs one by one",
}


def install(wandb: Any, process: Process) -> None:
    Run = run_class()
    for name in ("use_artifact", "use_model", "restore"):
        if hasattr(Run, name):
            setattr(Run, name, _refuse_for(process, name, getattr(Run, name)))
    for name, owners in (("restore", ()), ("sweep", (wandb.sdk,)), ("agent", ())):
        if hasattr(wandb, name):
            refusing = _refusing(name)
            for owner in (wandb, *owners):
                setattr(owner, name, refusing)
    when_imported("wandb.apis.public", _refuse_api)
    _soften_links(Run, process)
    when_imported("wandb.sdk.artifacts.artifact", lambda module: _soften_artifact(module.Artifact))
    _honour_config_assignment(wandb)


def caller() -> str:
    """File and line of the program's own code."""
    wandb_dir = os.path.dirname(os.path.abspath(sys.modules["wandb"].__file__ or ""))
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith((HERE, wandb_dir)):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def refusal(name: str, args: Any = ()) -> Exception:
    shown = ", ".join(repr(argument)[:60] for argument in args)
    usage_error: Any = sys.modules["wandb"].errors.UsageError
    error: Exception = usage_error(
        f"wandb-spool: {name}({shown}) at {caller()} needs the W&B server, and this program logs offline. "
        f"Remedy: {REMEDIES[name]}."
    )
    return error


def _refusing(name: str) -> Callable[..., Any]:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise refusal(name, args)

    refuse.__name__ = name
    return refuse


def _refuse_for(process: Process, name: str, original: Any) -> Callable[..., Any]:
    """A disabled run keeps its own behaviour."""

    def refuse(self: Any, *args: Any, **kwargs: Any) -> Any:
        if process.of(self) is None and getattr(self, "disabled", False):
            return original(self, *args, **kwargs)
        raise refusal(name, args)

    refuse.__name__ = name
    return refuse


def _refuse_api(module: Any) -> None:
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        raise refusal("Api")

    module.Api.__init__ = __init__


def _soften_links(Run: Any, process: Process) -> None:
    def link_artifact(self: Any, artifact: Any, target_path: Any = None, *args: Any, **kwargs: Any) -> None:
        _not_done(process, self, "link_artifact", getattr(artifact, "name", "?"), target_path)

    def link_model(
        self: Any, path: Any, registered_model_name: Any = None, name: Any = None, aliases: Any = None, **kwargs: Any
    ) -> Any:
        artifact = self.log_artifact(path, name=name, type="model", aliases=aliases)
        _not_done(process, self, "link_model", getattr(artifact, "name", str(path)), registered_model_name)

    Run.link_artifact, Run.link_model = link_artifact, link_model


def _not_done(process: Process, run: Any, call: str, what: Any, target: Any) -> None:
    say_once(
        f"{call} {what} {target}",
        f"{call} at {caller()} is NOT done: {what} can be linked to {target} only after its delivery",
    )
    session = process.of(run)
    if session is not None:
        session.fragment.record_not_done({"call": call, "artifact": str(what), "target": str(target)})


def _soften_artifact(artifact_class: Any) -> None:
    not_logged = part("artifacts.exceptions").ArtifactNotLoggedError
    wait, version = artifact_class.wait, artifact_class.version

    def wait_offline(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return wait(self, *args, **kwargs)
        except not_logged:
            say_once("wait", "Artifact.wait() does nothing offline: the artifact waits in the spool")
            return self

    def version_offline(self: Any) -> Any:
        try:
            return version.fget(self)
        except not_logged:
            say_once("version", f"an artifact has no version before its delivery; .version is {UNSYNCED!r}")
            return UNSYNCED

    artifact_class.wait, artifact_class.version = wait_offline, property(version_offline)
    artifact_class.link = _artifact_link


def _artifact_link(self: Any, target_path: Any, *args: Any, **kwargs: Any) -> None:
    say_once(
        f"link {target_path}",
        f"Artifact.link at {caller()} is NOT done: {target_path} can be linked only after the delivery",
    )


def _honour_config_assignment(wandb: Any) -> None:
    """``wandb.config = {...}`` after init, as three public tutorials have it, would record nothing."""

    class Module(types.ModuleType):
        def __setattr__(self, name: str, value: Any) -> None:
            run = self.__dict__.get("run")
            if name == "config" and isinstance(value, dict) and run is not None:
                run.config.update(value, allow_val_change=True)
                return
            super().__setattr__(name, value)

    wandb.__class__ = Module
