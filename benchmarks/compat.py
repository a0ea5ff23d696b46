"""Which Pythons and releases of wandb a training may have: docs/compat.md is what this prints.

    python benchmarks/compat.py [--write] [--python python3.10 …] [--wandb 0.31.0 …]

Makes a virtual environment for each pair, with that wandb and nothing of ours, and runs a training with it under
`wandb-spool run` in another interpreter: this one. What is counted is read from the manifest, and from a rehearsal
server after a delivery by this environment's wandb. Needs a package index.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wandb_spool.spool.manifest import Manifest, read_manifest
from wandb_spool.spool.queue import Spool
from wandb_spool.spool.states import State
from wandb_spool.syncer.rehearsal import RehearsalServer

PYTHONS = ("python3.10", "python3.11", "python3.12", "python3.13")
WANDBS = ("0.19.11", "0.22.3", "0.31.0")
ROWS = 50

PROGRAM = f"""
import sys, wandb
run = wandb.init(project="compat", name="a", mode="online", dir="/nowhere", config={{"python": sys.version}})
for step in range({ROWS}):
    run.log({{"loss": 1 / (step + 1)}})
open("kept.txt", "w").write("content")
run.save("kept.txt")
artifact = wandb.Artifact("model", "model")
artifact.add_file("kept.txt")
run.log_artifact(artifact)
run.finish()
"""

KILLED = """
import os, signal, subprocess, sys, time, wandb
run = wandb.init(project="compat")
for step in range(50):
    run.log({"loss": step})
    if step == 25:
        time.sleep(1)
        for pid in subprocess.run(["pgrep", "-P", str(os.getpid())], capture_output=True, text=True).stdout.split():
            if b"wandb" in open(f"/proc/{pid}/cmdline", "rb").read():
                os.kill(int(pid), signal.SIGKILL)
run.finish()
"""


@dataclass(frozen=True)
class Result:
    """What one way of running came to."""

    hook: str
    rows_logged: int | None
    rows_kept: int
    delivered: int
    files: int
    artifacts: int
    note: str = ""

    def cells(self) -> tuple[str, ...]:
        logged = "unknown" if self.rows_logged is None else str(self.rows_logged)
        return (
            self.hook,
            logged,
            str(self.rows_kept),
            str(self.delivered),
            str(self.files),
            str(self.artifacts),
            self.note,
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--python", nargs="*", default=PYTHONS)
    parser.add_argument("--wandb", nargs="*", default=WANDBS)
    parser.add_argument("--venvs", type=Path, help="keep the environments here")
    parser.add_argument("--write", action="store_true", help="write docs/compat.md")
    asked = parser.parse_args()
    lines = list(document(asked.python, asked.wandb, asked.venvs))
    text = "\n".join(lines) + "\n"
    print(text)
    if asked.write:
        (Path(__file__).parents[1] / "docs" / "compat.md").write_text(text, encoding="utf-8")
    return 0


def document(pythons: Sequence[str], wandbs: Sequence[str], venvs: Path | None) -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="wandb-spool-compat-") as scratch:
        at = Path(scratch)
        environments = {
            (python, wandb): environment(venvs or at / "venvs", python, wandb) for python in pythons for wandb in wandbs
        }
        yield from _head()
        for (python, wandb), interpreter in environments.items():
            result = "no environment could be made" if interpreter is None else train(at, [str(interpreter)])
            yield _row((python, wandb), result)
        newest = next((item for item in reversed(environments.values()) if item is not None), None)
        if newest is not None:
            yield from _ways(at, newest)
    yield from _words()


def _head() -> Iterator[str]:
    yield "# What a training may run with"
    yield ""
    yield "Output of `benchmarks/compat.py`; don't edit it by hand. Each line is a training of"
    yield f'{ROWS} rows, a saved file and an artifact, whose code says `mode="online"` and `dir="/nowhere"`, in an'
    yield "environment with that wandb and nothing of ours, started by `wandb-spool run` in another one, delivered and"
    yield "read back."
    yield ""
    yield "| Python | wandb | hook | rows logged | rows kept | rows delivered | files | artifacts | |"
    yield "|---|---|---|---|---|---|---|---|---|"


def _words() -> Iterator[str]:
    yield ""
    yield "*Rows logged* is what the start-up hook counted in the training process; *unknown* where it could not load:"
    yield "then the run is still offline and in the spool, and a loss can't be counted. The syncer's own environment"
    yield "needs wandb 0.31 or newer."


def _row(names: tuple[str, ...], result: Result | str) -> str:
    cells = ("", "", "", "", "", "", result) if isinstance(result, str) else result.cells()
    return f"| {' | '.join((*names, *cells))} |"


# -- environments --------------------------------------------------------------------------------------------------


def environment(venvs: Path, python: str, wandb: str) -> Path | None:
    """The interpreter of a virtual environment with this wandb; None where it can't be made."""
    found = shutil.which(python)
    if found is None:
        return None
    at = venvs / f"{python}-wandb-{wandb}"
    interpreter = at / "bin" / "python"
    if not (at / "ready").exists():
        try:
            subprocess.run([found, "-m", "venv", str(at)], check=True, capture_output=True)
            words = [str(interpreter), "-m", "pip", "install", "-q", "--disable-pip-version-check", f"wandb=={wandb}"]
            subprocess.run(words, check=True, capture_output=True)
        except (subprocess.CalledProcessError, OSError) as error:
            print(f"{python} with wandb {wandb}: {getattr(error, 'stderr', error)!r}"[:500], file=sys.stderr)
            return None
        (at / "ready").touch()
    return interpreter


# -- one training --------------------------------------------------------------------------------------------------


def scrubbed(home: Path, **more: str) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("WANDB", "SLURM", "XDG", "PYTHON")) and "PROXY" not in name.upper()
    }
    return {**kept, "HOME": str(home), "WANDB_SPOOL_CACHE_DIR": str(home / "cache"), "WANDB_SILENT": "true", **more}


def ours(*words: str) -> list[str]:
    return [sys.executable, "-m", "wandb_spool", *words]


def train(at: Path, interpreter: Sequence[str], *, program: str = PROGRAM, note: str = "") -> Result | str:
    """Run the program under the launcher; deliver what it logged."""
    work = Path(tempfile.mkdtemp(dir=at))
    words = ours("run", "-q", "--spool", str(work / "spool"), "--", *interpreter, "-c", program)
    done = subprocess.run(words, env=scrubbed(work), cwd=work, capture_output=True, text=True, timeout=300)
    if done.returncode:
        return f"ends with {done.returncode}: {_last(done.stderr)}"
    return judged(work, note)


def judged(work: Path, note: str = "") -> Result | str:
    """Deliver a spool to a rehearsal server and count."""
    spool = Spool.open(work / "spool")
    with RehearsalServer(work / "server") as server:
        words = ours("sync", "--patience", "10", "--spool", str(work / "spool"))
        done = subprocess.run(
            words, env=scrubbed(work, **server.environment()), cwd=work, capture_output=True, text=True, timeout=300
        )
        delivered = [spool.read(place) for place in spool.places(State.DELIVERED)]
        if not delivered:
            return f"not delivered: {_last(done.stdout + done.stderr)}"
        report = server.report()
        rows = sum(len(run.steps) for run in report.runs.values())
    manifests = [read_manifest(entry.run_directory(spool.root))[0] for entry in delivered]
    return _result(manifests, rows, [entry.receipt or {} for entry in delivered], note)


def _result(manifests: Sequence[Manifest], rows: int, receipts: Sequence[Mapping[str, object]], note: str) -> Result:
    logged = [manifest.rows_logged for manifest in manifests]
    return Result(
        hook=manifests[0].hook,
        rows_logged=None if any(number is None for number in logged) else sum(number or 0 for number in logged),
        rows_kept=sum(manifest.rows_kept for manifest in manifests),
        delivered=rows,
        files=sum(int(str(receipt.get("files") or 0)) for receipt in receipts),
        artifacts=sum(int(str(receipt.get("artifacts") or 0)) for receipt in receipts),
        note=note,
    )


def _last(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return " ".join(lines[-1].split())[:160].replace("|", "/") if lines else "without a word"


# -- other ways to start -------------------------------------------------------------------------------------------


def _ways(at: Path, interpreter: Path) -> Iterator[str]:
    yield ""
    yield "Ways to start, with the newest of them:"
    yield ""
    yield "| way | hook | rows logged | rows kept | rows delivered | files | artifacts | |"
    yield "|---|---|---|---|---|---|---|---|"
    plain = PROGRAM.replace('mode="online", dir="/nowhere", ', "")
    yield _row(("`python`, wandb-core killed in mid-run",), train(at, [str(interpreter)], program=KILLED))
    yield _row(("`python -I`, which loads no hook",), train(at, [str(interpreter), "-I"], program=plain))
    yield _row(("an empty environment and `wandb-spool env`",), empty_environment(at, interpreter))
    yield _row(
        ("a container's root with nothing of ours, `wandb-spool env --format apptainer`",), container(at, interpreter)
    )
    yield _row(("conda",), conda(at))


def empty_environment(at: Path, interpreter: Path) -> Result | str:
    """As after `sbatch --export=NONE`: only what `env` prints is there."""
    work = Path(tempfile.mkdtemp(dir=at))
    environ = scrubbed(work)
    printed = subprocess.run(ours("env", "--spool", str(work / "spool"), "--format", "json"), env=environ, check=True,
                             capture_output=True, text=True).stdout  # fmt: skip
    bare = {"PATH": "/usr/bin:/bin", "HOME": str(work), **json.loads(printed)}
    subprocess.run([str(interpreter), "-c", PROGRAM], env=bare, cwd=work, check=True, capture_output=True, timeout=120)
    subprocess.run(ours("recover", "--spool", str(work / "spool")), env=environ, check=True, capture_output=True)
    return judged(work)


def container(at: Path, interpreter: Path) -> Result | str:
    """A chroot in namespaces of its own: it sees the system, an interpreter, the spool, the hook; not our packages."""
    if os.getuid() != 0 or shutil.which("unshare") is None:
        return "not tried here: needs root and unshare"
    work = Path(tempfile.mkdtemp(dir=at))
    environ = scrubbed(work)
    printed = subprocess.run(ours("env", "--spool", str(work / "spool"), "--format", "json"), env=environ, check=True,
                             capture_output=True, text=True).stdout  # fmt: skip
    variables = json.loads(printed)
    hook = variables["PYTHONPATH"].split(os.pathsep)[0]
    root = work / "root"
    real = Path(os.path.realpath(interpreter)).parents[1]
    seen = [
        "/usr",
        "/lib",
        "/lib64",
        "/bin",
        "/etc",
        "/dev",
        str(real),
        str(interpreter.parents[1]),
        str(work / "spool"),
        hook,
    ]
    mounts = "".join(f'mkdir -p "{root}{path}" && mount --rbind "{path}" "{root}{path}" && ' for path in seen
                     if os.path.isdir(path))  # fmt: skip
    assignments = " ".join(f"{name}={_quoted(value)}" for name, value in variables.items())
    script = (
        f'{mounts} mkdir -p "{root}/proc" "{root}/tmp" "{root}/sys" && mount -t proc proc "{root}/proc" && '
        f'chroot "{root}" /usr/bin/env -i PATH=/usr/bin:/bin HOME=/tmp {assignments} '
        f'sh -c \'cd /tmp && exec "$0" -c "$1"\' {_quoted(str(interpreter))} {_quoted(PROGRAM)}'
    )
    words = ["unshare", "--mount", "--net", "--pid", "--fork", "sh", "-c", script]
    done = subprocess.run(words, env=environ, cwd=work, capture_output=True, text=True, timeout=120)
    if done.returncode:
        return f"ends with {done.returncode}: {_last(done.stderr)}"
    subprocess.run(
        ours("recover", "--wait", "--spool", str(work / "spool")), env=environ, check=True, capture_output=True
    )
    return judged(work, "sealed by `recover`: its writer was in another pid namespace")


def _quoted(text: str) -> str:
    import shlex

    return shlex.quote(text)


def conda(at: Path) -> Result | str:
    found = shutil.which("conda") or shutil.which("micromamba")
    if found is None:
        return "not tried here: no conda"
    prefix = at / "conda"
    subprocess.run(
        [found, "create", "-y", "-q", "-p", str(prefix), "python=3.12", "pip"], check=True, capture_output=True
    )
    python = prefix / "bin" / "python"
    subprocess.run([str(python), "-m", "pip", "install", "-q", f"wandb=={WANDBS[-1]}"], check=True, capture_output=True)
    return train(at, [str(python)])


if __name__ == "__main__":
    sys.exit(main())
