"""Rows are counted exactly as wandb commits them: no loss is hidden, none is invented."""

from __future__ import annotations

import signal

import pytest

from wandb_spool.spool import alive

from .programs import Program, wait_until

# Each is one run of one program: the calls, and how many of them wandb refuses.
CALLS = {
    "implicit steps": ("log(a=1); log(a=2)", 0),
    "empty rows": ("log(); log(a=1); log(); log()", 0),
    "two calls one row": ("log(commit=False, a=1); log(b=2); log(commit=False, c=1)", 0),
    "explicit steps": ("log(step=5, a=1); log(step=5, b=1); log(step=9, a=1)", 0),
    "steps that go back": ("log(step=5, a=1); log(step=4, a=2); log(step=-1, a=2); log(step=6, a=3)", 2),
    "a committed explicit step": ("log(step=3, commit=True, a=1); log(step=3, b=1); log(c=1); log(step=4, d=1)", 2),
    "mixed": ("log(step=3, commit=False, a=1); log(b=1); log(c=1); log(commit=False); log(step=9, e=1)", 0),
    "values wandb cannot encode": ("log(a=object()); log(a=1); log(step=1.5, a=1); log(a=float('nan'))", 0),
    "nothing": ("", 0),
}


def test_every_kind_of_call_is_counted_as_wandb_commits_it(program: Program) -> None:
    calls = {name: code for name, (code, _) in CALLS.items()}
    ended = program.run(
        f"""
        import wandb
        for name, code in {calls!r}.items():
            run = wandb.init(project="p", name=name)
            def log(step=None, commit=None, **values):
                run.log(values, step=step, commit=commit)
            exec(code)
            run.finish()
        """
    )
    assert ended.exit_code == 0, ended.err
    fragments = {fragment.entry["name"]: fragment for fragment in program.fragments()}
    assert fragments.keys() == CALLS.keys()
    for name, (_, refused) in CALLS.items():
        alive, kept = fragments[name].alive, fragments[name].facts
        assert (name, alive.rows, alive.refused) == (name, kept.rows, refused)
        assert (name, alive.step) == (name, -1 if kept.last_step is None else kept.last_step)
        assert alive.phase == "finished" and alive.exit_code == 0


def test_runs_at_once_threads_and_watch_are_counted_each_for_itself(program: Program) -> None:
    pytest.importorskip("torch")
    ended = program.run(
        """
        import threading, torch, wandb
        one = wandb.init(project="p", name="one", reinit="create_new")
        two = wandb.init(project="p", name="two", reinit="create_new")
        threads = [threading.Thread(target=lambda run=run: [run.log({"a": i}) for i in range(200)])
                   for run in (one, two, one, two)]
        [thread.start() for thread in threads]; [thread.join() for thread in threads]
        one.finish(); two.finish()
        run = wandb.init(project="p", name="watched")
        model = torch.nn.Linear(2, 1)
        wandb.watch(model, log="all", log_freq=1)
        for i in range(5):
            model(torch.ones(3, 2)).sum().backward()
            wandb.log({"loss": i})
        """
    )
    assert ended.exit_code == 0, ended.err
    found = {f.entry["name"]: (f.alive.rows, f.facts.rows) for f in program.fragments()}
    assert found == {"one": (400, 400), "two": (400, 400), "watched": (5, 5)}


def test_a_forked_child_never_writes_its_parents_sign_of_life(program: Program) -> None:
    ended = program.run(
        """
        import warnings; warnings.simplefilter("ignore")
        import wandb
        run = wandb.init(project="p", name="parent")
        run.log({"a": 1})
        pid = os.fork()
        if pid == 0:
            import _wandb_spool_hook.alive as alive
            time.sleep(2.5)
            own = wandb.init(project="p", name="child", reinit="create_new")
            own.log({"b": 1}); own.log({"b": 2}); own.finish()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        run.log({"a": 2})
        """
    )
    assert ended.exit_code == 0, ended.err
    found = {f.entry["name"]: f for f in program.fragments()}
    assert found["parent"].alive.rows == found["parent"].facts.rows == 2
    assert found["parent"].alive.pid == found["parent"].entry["writer"]["pid"]
    if "child" in found:
        assert found["child"].alive.rows == found["child"].facts.rows == 2


LOOP = """
import wandb
run = wandb.init(project="p")
print("begun")
for i in range(100000):
    {call}
    time.sleep(0.001)
"""


@pytest.mark.parametrize("after_s", [0.05, 0.6, 1.3])
@pytest.mark.parametrize("call", ["run.log({'a': i})", "run.log({'a': i}, step=i // 3)"])
def test_after_kill_9_what_is_missing_is_counted_and_at_most_a_second(
    program: Program, call: str, after_s: float
) -> None:
    said = "os.pwrite(fd, b'%09d' % ({n}), 0)"
    rows_before, rows_after = (
        ("i", "i + 1") if "step" not in call else ("(i + 2) // 3", "i // 3 + 1")
    )  # rows begun before and after the call, told through a file that survives the kill
    code = LOOP.format(call="; ".join([said.format(n=rows_before), call, said.format(n=rows_after)]))
    code = f"fd = os.open({str(program.home / 'truth')!r}, os.O_RDWR | os.O_CREAT)\n" + code
    program.run_until(code, "begun", signal.SIGKILL, after_s)
    program.wait_for_writers()
    fragment, truth = program.fragment(), int((program.home / "truth").read_bytes())
    alive, kept = fragment.alive, fragment.facts
    assert truth <= alive.rows <= truth + 1  # killed between the count and the call that it counts
    assert 0 <= alive.rows - kept.rows <= 1100
    assert [row.step for row in fragment.rows] == list(range(kept.rows))
    assert alive.phase == "running"


def test_the_sign_of_life_moves_while_nothing_is_logged(program: Program) -> None:
    process = program.start("import wandb; run = wandb.init(project='p'); print('begun'); time.sleep(60)")
    try:
        wait_until(lambda: len(program.fragments()) == 1)
        fragment = program.fragment()
        first = fragment.alive.sequence
        wait_until(lambda: fragment.alive.sequence >= first + 2)
    finally:
        process.kill()
        process.communicate()


GUEST = """
import multiprocessing, wandb
def log(run):
    for i in range(5):
        run.log({"theirs": i})
if __name__ == "__main__":
    run = wandb.init(project="p")
    for i in range(10):
        run.log({"ours": i})
    child = multiprocessing.get_context(sys.argv[1]).Process(target=log, args=(run,))
    child.start(); child.join()
    if sys.argv[2:]:
        time.sleep(2.5); os.kill(core(), signal.SIGKILL)
    for i in range(10, 20):
        run.log({"ours": i})
    run.finish()
"""


@pytest.mark.parametrize("kind", ["fork", "spawn"])
def test_rows_of_a_run_that_a_child_logs_into_are_told_as_unknown(program: Program, kind: str) -> None:
    ended = program.run(GUEST, kind)
    fragment = program.fragment()
    assert ended.exit_code == 0 and fragment.facts.rows == 25, ended.err
    assert alive.rows_logged(fragment.path, fragment.alive) is None


def test_a_run_that_a_child_logs_into_resumes_behind_the_rows_of_both(program: Program) -> None:
    ended = program.run(GUEST, "fork", "and dies")
    first, second = program.fragments()
    assert ended.exit_code == 0, ended.err
    assert [row.step for row in first.rows + second.rows] == list(range(25))
    assert [row.values["ours"] for row in second.rows] == list(range(10, 20))
    assert alive.rows_logged(first.path, first.alive) is None
    assert alive.rows_logged(second.path, second.alive) == 10
    assert any("can't be counted" in line for line in ended.notices)
