"""How a program ends is what its fragment says."""

from __future__ import annotations

import signal
import sys

import pytest

from .programs import Program

LOG = """
import wandb
run = wandb.init(project="p")
for i in range(10):
    run.log({"a": i})
"""


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ("", 0),
        ("sys.exit(7)", 7),
        ("sys.exit('a message')", 1),
        ("1 / 0", 1),
        ("run.finish(exit_code=3)", 0),
        ("raise KeyboardInterrupt", 130),
        ("raise SystemExit(5)", 5),
    ],
)
def test_the_exit_record_tells_how_the_program_ended(program: Program, end: str, code: int) -> None:
    ended = program.run(LOG + end)
    fragment = program.fragment()
    recorded = {"run.finish(exit_code=3)": 3, "raise KeyboardInterrupt": 255}.get(end, code)
    assert ended.exit_code in (code, -signal.SIGINT)
    assert ended.err.count("Traceback") <= 1
    assert fragment.facts.rows == 10
    if end in ("", "raise SystemExit(5)") and sys.version_info < (3, 12):
        # Nobody tells the program; where the launcher knows better, its word counts (tests/launcher).
        assert (fragment.facts.exit_code, fragment.alive.exit_code) == (0, -1)
    else:
        assert fragment.facts.exit_code == fragment.alive.exit_code == recorded
    assert fragment.alive.phase == "finished"


@pytest.mark.parametrize(
    "busy",
    [
        "time.sleep(60)",
        "while True:\n    try:\n        time.sleep(60)\n    except:\n        pass",
        "while True: run.log({'b': 1})",
    ],
    ids=["asleep", "bare except", "logging"],
)
def test_sigterm_becomes_a_clean_finish(program: Program, busy: str) -> None:
    ended = program.run_until(LOG + "print('ready')\n" + busy, "ready", signal.SIGTERM)
    fragment = program.fragment()
    assert ended.exit_code in (143, -signal.SIGTERM)  # by the signal itself where the program swallows SystemExit
    assert fragment.facts.exit_code == 143 and fragment.alive.exit_code == 143
    assert fragment.alive.rows == fragment.facts.rows >= 10


def test_sigterm_during_one_long_call_still_finishes_the_run(program: Program) -> None:
    long_call = "import ctypes; ctypes.PyDLL(None).usleep; ctypes.CDLL(None).sleep(4)"
    ended = program.run_until(LOG + "print('ready')\n" + long_call, "ready", signal.SIGTERM)
    assert ended.exit_code == 143, ended.err
    assert program.fragment().facts.exit_code == 143


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_sigterm_handler_of_the_programs_own_is_respected(program: Program, when: str) -> None:
    handler = "signal.signal(signal.SIGTERM, lambda *a: (print('mine'), sys.exit(9)))\n"
    code = handler + LOG if when == "before" else LOG + handler
    ended = program.run_until(code + "print('ready')\ntime.sleep(60)", "ready", signal.SIGTERM)
    assert ended.exit_code == 9 and "mine" in ended.out
    assert program.fragment().facts.exit_code == 9


def test_a_handler_that_chains_ours_decides_the_end_itself(program: Program) -> None:
    chain = """
found = signal.getsignal(signal.SIGTERM)
def handle(number, frame):
    if callable(found):
        found(number, frame)
    print("saving a checkpoint")
    run.log({"last": 1})
    sys.exit(0)
signal.signal(signal.SIGTERM, handle)
print("ready")
time.sleep(60)
"""
    ended = program.run_until(LOG + chain, "ready", signal.SIGTERM)
    assert ended.exit_code == 0 and "saving a checkpoint" in ended.out
    assert program.fragment().facts.rows == 11


def test_a_forked_worker_dies_of_sigterm_as_it_would_without_us(program: Program) -> None:
    ended = program.run(
        LOG
        + """
pid = os.fork()
if pid == 0:
    time.sleep(60)
os.kill(pid, signal.SIGTERM)
print(os.WTERMSIG(os.waitpid(pid, 0)[1]))
"""
    )
    assert ended.out.split()[-1] == str(int(signal.SIGTERM))
    assert program.fragment().facts.exit_code == 0


CHILDREN = """
import multiprocessing, wandb
def well():
    wandb.init(project="p", name="well").log({"a": 1})
def badly():
    well(); 1 / 0
def with_a_code():
    well(); raise SystemExit(5)
if __name__ == "__main__":
    child = multiprocessing.get_context(sys.argv[2]).Process(target=globals()[sys.argv[1]])
    child.start(); child.join()
    print(child.exitcode)
"""


@pytest.mark.parametrize(("end", "code"), [("well", 0), ("badly", 1), ("with_a_code", 5)])
@pytest.mark.parametrize("kind", ["fork", "spawn"])
def test_a_child_that_never_calls_finish_leaves_a_finished_run(
    program: Program, end: str, code: int, kind: str
) -> None:
    ended = program.run(CHILDREN, end, kind)
    fragment = program.fragment()
    assert ended.out.split() == [str(code)], ended.err
    assert (fragment.facts.rows, fragment.facts.exit_code, fragment.alive.phase) == (1, code, "finished")


def test_workers_of_a_pool_that_is_terminated_leave_finished_runs(program: Program) -> None:
    ended = program.run(
        """
        import multiprocessing, wandb
        def begin():
            global run
            run = wandb.init(project="p")
        def work(n):
            run.log({"n": n}); time.sleep(0.3)
        if __name__ == "__main__":
            with multiprocessing.get_context("fork").Pool(2, begin) as pool:
                while len(os.listdir(os.environ["WANDB_SPOOL_DIR"] + "/queue/open")) < 2:
                    pool.map(work, range(4))
        """
    )
    assert ended.exit_code == 0, ended.err
    assert [fragment.alive.phase for fragment in program.fragments()] == ["finished"] * 2
    assert all(fragment.facts.rows == fragment.alive.rows for fragment in program.fragments())


def test_sigterm_in_the_middle_of_finish_leaves_the_exit_record(program: Program) -> None:
    again = """
import threading
threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGTERM)).start()
run.finish()
time.sleep(60)
"""
    ended = program.run(LOG + again)
    fragment = program.fragment()
    assert ended.exit_code == 143, ended.err
    assert fragment.facts.rows == 10 and fragment.facts.exit_code in (0, 143) and fragment.alive.phase == "finished"
