"""Any program, unchanged: every run one fragment, every row kept, nothing left behind, nothing reached for."""

from __future__ import annotations

import json
import sys

from .harness import World, need, whole

TRAIN = """
import sys, wandb
run = wandb.init(project="p", name=sys.argv[1], mode="online")
for step in range(int(sys.argv[2])):
    run.log({"loss": 1 / (step + 1)})
run.finish()
"""


def test_what_tries_to_leave_is_counted(world: World) -> None:
    code = "import socket; [socket.socket(2, kind).connect_ex(('192.0.2.1', 9)) for kind in (1, 2)]"
    seen = world.bare(sys.executable, "-c", code + "\nsocket.gethostbyname_ex('api.example.org')")
    assert (seen.exit_code, seen.left, set(seen.names)) == (1, 2, {"api.example.org"})


def test_module_with_a_sitecustomize_of_the_users_own(world: World) -> None:
    world.write("pkg/__init__.py", "")
    world.write("pkg/train.py", TRAIN + "import sitecustomize; print(sitecustomize.MINE)")
    world.write("own/sitecustomize.py", "MINE = 'the user is served'")
    ended = world.run(sys.executable, "-m", "pkg.train", "of-a-package", "40", PYTHONPATH=str(world.work / "own"))
    whole(ended)
    (run,) = world.sealed()
    assert run.counts == (40, 40, 0)
    assert run.manifest.overridden == ("mode=online",)
    assert ended.loopback == 0 and "the user is served" in ended.out


def test_shell_script_that_starts_several_trainings(world: World) -> None:
    world.write("train.py", TRAIN)
    script = world.write(
        "job.sh",
        f"""
        {sys.executable} train.py first 10 || exit 3
        {sys.executable} train.py aside 20 &
        {sys.executable} train.py second 30 | cat
        {sys.executable} -c "import wandb; print('evaluated')"
        wait
        {sys.executable} -c "import wandb; wandb.init(project='p', name='third').log({{'a': 1}}); 1 / 0"
        """,
    )
    ended = world.run("bash", str(script))
    whole(ended, exit_code=1)
    runs = {run.manifest.name: run for run in world.sealed()}
    assert {name: run.counts for name, run in runs.items()} == {
        "first": (10, 10, 0),
        "second": (30, 30, 0),
        "aside": (20, 20, 0),
        "third": (1, 1, 0),
    }
    assert [runs[name].manifest.exit_code for name in ("first", "aside", "second", "third")] == [0, 0, 0, 1]
    assert len(world.launches()) == 1 and ended.loopback == 0


def test_program_that_starts_no_run_leaves_nothing(world: World) -> None:
    whole(world.run(sys.executable, "-c", "import wandb; wandb.login(); wandb.Settings(); wandb.setup()"))
    disabled = "import wandb; r = wandb.init(mode='disabled'); r.log({'a': 1}); r.finish()"
    whole(world.run(sys.executable, "-c", disabled))
    assert world.launches() == [] and world.sealed() == []


def test_forked_and_spawned_children_log_runs_of_their_own(world: World) -> None:
    world.write(
        "children.py",
        """
        import multiprocessing, os, sys, time
        import wandb

        def train(name, rows):
            run = wandb.init(project="p", group="family", name=name)
            for row in range(rows):
                run.log({"row": row})
            run.finish()

        def only_works(name, rows):
            sum(range(100_000))

        def dies(name, rows):
            run = wandb.init(project="p", group="family", name=name)
            run.log({"row": 0})
            time.sleep(1.5)  # what is younger than a second may be lost with its process
            os._exit(7)

        if __name__ == "__main__":
            parent = wandb.init(project="p", group="family", name="parent")
            parent.log({"row": 0})
            for kind in ("fork", "spawn"):
                context = multiprocessing.get_context(kind)
                work = ((train, 5), (train, 6), (only_works, 0), (dies, 0))
                children = [
                    context.Process(target=what, args=(f"{kind}-{n}", rows)) for n, (what, rows) in enumerate(work)
                ]
                for child in children:
                    child.start()
                    parent.log({"row": 1})
                for child in children:
                    child.join()
                print(kind, [child.exitcode for child in children])
            parent.log({"row": 2})
        """,
    )
    ended = world.run(sys.executable, "children.py")
    whole(ended)
    assert ended.out.count("[0, 0, 0, 7]") == 2, ended.out + ended.err
    runs = {run.manifest.name: run for run in world.sealed()}
    assert {name: run.counts for name, run in runs.items()} == {
        "parent": (10, 10, 0),
        **{f"{kind}-{n}": (rows, rows, 0) for kind in ("fork", "spawn") for n, rows in ((0, 5), (1, 6), (3, 1))},
    }
    told = {name: (run.manifest.exit_code, run.manifest.exit_known_from) for name, run in runs.items()}
    assert told.pop("fork-3") == told.pop("spawn-3") == (None, "unknown"), "nobody saw how they ended"
    assert set(told.values()) == {(0, "record")}
    assert ended.loopback == 0


def test_notebook_run_by_jupyter_execute(world: World) -> None:
    need("nbclient", "ipykernel")
    cells = [
        "import wandb\nrun = wandb.init(project='p', name='closed')",
        "for step in range(7):\n    run.log({'loss': step})",
        "run.finish()",
        "run = wandb.init(project='p', name='left open', mode='online')\nrun.log({'a': 1}); run.log({'a': 2})",
    ]
    notebook = {
        "nbformat": 4,
        "nbformat_minor": 5,
        "metadata": {},
        "cells": [
            {"cell_type": "code", "id": f"c{n}", "metadata": {}, "outputs": [], "execution_count": None, "source": text}
            for n, text in enumerate(cells)
        ],
    }
    world.write("work.ipynb", json.dumps(notebook))
    whole(world.run("jupyter", "execute", "work.ipynb"))
    closed, open_ = world.sealed()
    assert closed.counts == (7, 7, 0) and open_.counts == (2, 2, 0)
