"""``wandb.init`` stays offline and in the spool, whatever the program says; each overridden value is named once.

Guarantees: ``disabled`` stays disabled; an init that fails for any reason gives the program a run object that does
nothing, with one notice. KeyboardInterrupt and SystemExit pass.
"""

from __future__ import annotations

import inspect
import logging
import os
import re
import tempfile
from typing import Any, Dict, Optional

from . import continuation, core, entry, footing, names
from .anatomy import interface_of, part, singleton
from .counting import bind
from .finishing import finish_at_exit
from .fragment import ASIDE, Fragment
from .notice import say, say_once
from .process import Process
from .revive import Reviver
from .room import no_room
from .session import Session
from .terminate import Terminator

SUMMARY_PATIENCE_S = 5
PROJECT_LENGTH = 128  # wandb refuses more
EXTRAS = ("sync_tensorboard", "tensorboard", "monitor_gym")


def install(wandb: Any, process: Process, terminator: Terminator, reviver: Reviver) -> None:
    wandb_init = part("wandb_init")
    original = wandb_init.init
    initializer = Initializer(original, process, terminator, reviver)
    reviver.init, reviver.bind, reviver.after = original, bind, initializer.after_start

    # A function, not a bound method: inspect, functools.wraps and pickling by name see what they saw before.
    def init(*args: Any, **kwargs: Any) -> Any:
        return initializer(args, kwargs)

    init.__name__, init.__qualname__ = "init", "init"
    init.__doc__, init.__module__ = original.__doc__, original.__module__
    init.__wrapped__ = original  # type: ignore[attr-defined]
    for owner in (wandb_init, wandb.sdk, wandb):
        owner.init = init


class Initializer:
    def __init__(self, original: Any, process: Process, terminator: Terminator, reviver: Reviver) -> None:
        self._original = original
        self._signature = inspect.signature(original)
        self._process = process
        self._terminator = terminator
        self._reviver = reviver

    def __call__(self, args: Any, kwargs: Any) -> Any:
        with footing.somewhere(self._process.launch.work):
            return self._start(args, kwargs)

    def _start(self, args: Any, kwargs: Any) -> Any:
        try:
            arguments = dict(self._signature.bind(*args, **kwargs).arguments)
        except TypeError as error:
            return self._without_logging(error, {})
        mode = self._wanted_mode(arguments)
        if mode == "disabled":
            return self._original(**arguments)
        self._take_over(arguments, mode)
        self._recognize_restart(arguments)
        _forget_dead_service()
        self._replace_dead_core()
        self._step_aside(arguments)
        try:
            run = self._begin(arguments)
            self._track(run, arguments)
        except Exception as error:  # noqa: BLE001 - logging must never stop training
            return self._without_logging(error, arguments)
        return run

    def _wanted_mode(self, arguments: Dict[str, Any]) -> Optional[str]:
        """What wandb would resolve: argument, settings of the call, settings of ``wandb.setup``, environment."""
        settings = arguments.get("settings")
        mode = arguments.get("mode") or _explicit(settings, "mode")
        if mode is None:
            mode = _explicit(getattr(singleton(), "_settings", None), "mode") or os.environ.get("WANDB_MODE")
            if os.environ.get("WANDB_MODE") == "disabled":
                mode = "disabled"
        return str(mode) if mode else None

    def _take_over(self, arguments: Dict[str, Any], mode: Optional[str]) -> None:
        process, settings = self._process, arguments.get("settings")
        if mode not in (None, "offline", "dryrun"):
            self._override("mode", mode)
        folder = arguments.get("dir") or _explicit(settings, "root_dir")
        if folder is not None and os.path.abspath(str(folder)) != process.launch.work:
            self._override("dir", folder)
        for name, value in (("WANDB_DIR", process.launch.work), ("WANDB_DATA_DIR", process.launch.data_dir)):
            found = os.environ.get(name)
            if found and found != value:
                self._override(name, found)
        process.launch.assert_environment(os.environ)
        arguments["mode"], arguments["dir"] = "offline", process.launch.work

    def _recognize_restart(self, arguments: Dict[str, Any]) -> None:
        """A restarted job goes on with the runs of its first attempt, unless the user names the run."""
        named = arguments.get("id") or _explicit(arguments.get("settings"), "run_id") or os.environ.get("WANDB_RUN_ID")
        if named:
            return
        found = continuation.restart_id(self._process.launch, os.environ)
        if found is not None:
            arguments["id"] = found
            if not arguments.get("resume"):
                arguments["resume"] = "allow"

    def _override(self, name: str, value: Any) -> None:
        said = f"{name}={value}"
        if said not in self._process.overridden:
            self._process.overridden.append(said)
            say(f"{said} is overridden: this run is logged offline into the spool ({self._process.launch.work})")

    def _begin(self, arguments: Dict[str, Any]) -> Any:
        """wandb's own init; where that fails, without what can be left out."""
        try:
            return self._original(**arguments)
        except Exception as error:  # noqa: BLE001 - raised below, unless a mend helps
            return self._begin_mended(arguments, error)

    def _begin_mended(self, arguments: Dict[str, Any], error: Exception) -> Any:
        mends = []
        for mend in (_mend_project, self._leave_out):
            told = mend(arguments, error)
            if told is None:
                continue
            mends.append(told)
            try:
                run = self._original(**arguments)
            except Exception as again:  # noqa: BLE001 - raised below, unless the next mend helps
                error = again
                continue
            for line in mends:
                say_once(line, line)
            return run
        raise error

    def _leave_out(self, arguments: Dict[str, Any], error: Exception) -> Optional[str]:
        """What needs another package. The program's own rows are worth a run without it; what to say of it, or None."""
        asked = [name for name in EXTRAS if name in self._signature.parameters and _is_asked_for(name, arguments)]
        arguments.update(dict.fromkeys(asked, False))
        if not asked:
            return None
        return f"{' and '.join(asked)} can't work here ({_one_line(error)}): this run is logged without it"

    def _step_aside(self, arguments: Dict[str, Any]) -> None:
        """Where the spool can't be written, begin elsewhere; the run moves into the spool when it can be."""
        if no_room(self._process.launch.work) is None:
            return
        try:
            arguments["dir"] = tempfile.mkdtemp(prefix=ASIDE)
        except OSError:
            pass  # no room anywhere; what init says to that is told

    def _replace_dead_core(self) -> None:
        if not core.is_dead():
            return
        for session in self._process.unfinished():
            session.fail("wandb-core died")
            self._reviver.revive(session)
        if core.is_dead():
            core.abandon()

    def _track(self, run: Any, arguments: Dict[str, Any]) -> None:
        process = self._process
        interface = interface_of(run)
        if process.of(run) is not None or interface is None:
            return  # wandb returned the run that is active already
        before = _before(process, run, arguments)
        fragment = Fragment(
            process.launch,
            run,
            predecessor=None if before is None else before.entry,
            overridden=process.overridden,
            base_url=process.base_url,
            resume_step=_resume_step(before, arguments, run._settings),
        )
        if fragment.resume_step is not None:
            continuation.show_resumed(run)
        session = Session(run, interface, fragment, arguments)
        bind(interface, session)
        process.add(session)
        names.ensure(run)
        _shorten_patience(run._settings)
        _quiet_log_files(process)
        self.after_start()

    def after_start(self) -> None:
        """A new wandb-core has registered its own exit handler, which must run after ours."""
        finish_at_exit(self._process)
        self._terminator.install()

    def _without_logging(self, error: Exception, arguments: Dict[str, Any]) -> Any:
        say_once(
            "init",
            f"wandb.init failed ({type(error).__name__}: {error}); training goes on, this run is NOT logged",
        )
        for kept in (("project", "name", "config"), ("config",), ()):
            try:
                return self._original(mode="disabled", **{k: arguments[k] for k in kept if k in arguments})
            except Exception:  # noqa: BLE001 - what was wrong with the arguments is wrong here, too
                continue
        return self._original(mode="disabled")


def _before(process: Process, run: Any, arguments: Dict[str, Any]) -> Optional[continuation.Predecessor]:
    """The fragment that this run continues, in this program or in an earlier launch."""
    own = entry.name_of(process.launch, os.path.basename(os.path.dirname(run._settings.sync_file)))
    before = continuation.find_predecessor(process.launch, own, run._settings)
    if before is not None and not process.wrote(before.entry):
        continuation.tell(before, run._settings)
    return before


def _resume_step(before: Optional[continuation.Predecessor], arguments: Dict[str, Any], settings: Any) -> Optional[int]:
    """The step at which a program goes on that asked to resume and names no steps itself."""
    if before is None or before.last_step < 0 or not continuation.asked_to_resume(arguments, settings):
        return None
    return before.last_step + 1


def _mend_project(arguments: Dict[str, Any], error: Exception) -> Optional[str]:
    """wandb refuses some names; a run under another name is better than none. What to say of it, or None."""
    given = arguments.get("project") or _explicit(arguments.get("settings"), "project")
    given = str(given or os.environ.get("WANDB_PROJECT") or "")
    mended = re.sub(r"[/\\#?%:]", "-", given)[:PROJECT_LENGTH]
    if mended == given:
        return None
    arguments["project"] = mended
    if os.environ.get("WANDB_PROJECT") == given:
        os.environ["WANDB_PROJECT"] = mended
    return f"{given!r} is no project name that W&B takes: logged as {mended!r}; `wandb-spool edit` can change it"


def _is_asked_for(name: str, arguments: Dict[str, Any]) -> bool:
    """In the call, its settings, those of ``wandb.setup``, or the environment."""
    if arguments.get(name) is not None:
        return bool(arguments[name])
    if _explicit(arguments.get("settings"), name) or _explicit(getattr(singleton(), "_settings", None), name):
        return True
    return os.environ.get("WANDB_" + name.upper(), "").lower() in ("1", "true")


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def _shorten_patience(settings: Any) -> None:
    """Reading the summary waits for wandb-core's answer, by default for a minute."""
    try:
        settings.summary_timeout = min(settings.summary_timeout, SUMMARY_PATIENCE_S)
    except Exception:  # noqa: BLE001, S110 - a wandb without that setting
        pass


def _quiet_log_files(process: Process) -> None:
    """wandb's debug.log: on a full disk Python would print a stack trace for each line, on a hung one wait."""
    for handler in logging.getLogger("wandb").handlers:
        handler.handleError = lambda record: None  # type: ignore[method-assign]
        handler.addFilter(lambda record: process.disks_answer())


def _explicit(settings: Any, name: str) -> Any:
    """A value that was set on a Settings object or dict; None where it is only the default."""
    if isinstance(settings, dict):
        return settings.get(name)
    return getattr(settings, name, None) if name in getattr(settings, "model_fields_set", ()) else None


def _forget_dead_service() -> None:
    """A child process inherits the address of its parent's wandb-core; if that is gone, init would fail."""
    token = os.environ.get("WANDB_SERVICE")
    if not token:
        return
    path = token.partition("-unix-")[2]
    if path and not os.path.exists(path):
        os.environ.pop("WANDB_SERVICE", None)
