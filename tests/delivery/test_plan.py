"""The plan, for whatever entries: nobody is forgotten, nobody overtakes, nobody waits for ever."""

from __future__ import annotations

import random
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from wandb_spool.spool import clock
from wandb_spool.spool.configuration import Limits
from wandb_spool.spool.entry import Entry
from wandb_spool.spool.states import State
from wandb_spool.syncer.compare import cuts
from wandb_spool.syncer.deliver import failed_entry
from wandb_spool.syncer.failures import POLICIES, DeliveryError, Failure, next_state
from wandb_spool.syncer.plan import (
    BLOCKING,
    Known,
    candidates,
    first_of_run,
    interleave,
    is_due,
    jittered_s,
    next_backoff_s,
    run_order,
)

NOW_S = 1_800_000_000.0
LIMITS = Limits()


def entry(number: int, *, predecessor: int | None = None, not_before_s: float | None = None, created: int = 0) -> Entry:
    launch = f"20260101T000000-n1-{number:08x}"
    fragment = "offline-run-20260101_000000-run"
    before = None if predecessor is None else f"20260101T000000-n1-{predecessor:08x}.{fragment}"
    return Entry(
        f"{launch}.{fragment}", launch, fragment, f"runs/202601/{launch}/wandb/{fragment}",
        clock.iso(NOW_S + created), run_id="run", predecessor=before,
        not_before=None if not_before_s is None else clock.iso(not_before_s),
    )  # fmt: skip


@st.composite
def runs(draw: st.DrawFn) -> list[Known]:
    """Fragments of one run with any states, any creation times and any predecessors, circles too."""
    count = draw(st.integers(1, 6))
    states = draw(st.lists(st.sampled_from(list(State)), min_size=count, max_size=count))
    before = draw(st.lists(st.none() | st.integers(0, count), min_size=count, max_size=count))
    created = draw(st.lists(st.integers(0, 3), min_size=count, max_size=count))
    return [
        Known(entry(index, predecessor=before[index], created=created[index]), states[index]) for index in range(count)
    ]


@given(runs())
def test_the_order_of_a_run_holds_each_fragment_once_and_after_its_predecessor(run: list[Known]) -> None:
    entries = [item.entry for item in run]
    ordered = run_order(entries)
    assert sorted(item.name for item in ordered) == sorted(item.name for item in entries)
    assert run_order(list(reversed(entries))) == ordered, "it depends on the order in which they were read"
    position = {item.name: index for index, item in enumerate(ordered)}
    if not _circular(entries):
        assert all(position[item.predecessor] < position[item.name] for item in entries if item.predecessor in position)


def _circular(entries: Sequence[Entry]) -> bool:
    before = {item.name: item.predecessor for item in entries}
    for start in before:
        seen, name = set(), start
        while name in before:
            if name in seen:
                return True
            seen.add(name)
            name = before[name] or ""
    return False


@given(runs())
def test_of_a_run_at_most_one_fragment_goes_and_none_before_one_that_is_still_to_go(run: list[Known]) -> None:
    due = candidates(run, NOW_S, LIMITS, everything=True)
    chosen, waiting = first_of_run(due, {"run": run}, {item.entry.name: "run" for item in run})
    assert len(chosen) <= 1
    ordered = [item.name for item in run_order([item.entry for item in run])]
    states = {item.entry.name: item.state for item in run}
    for item in chosen:
        earlier = ordered[: ordered.index(item.entry.name)]
        assert not [name for name in earlier if states[name] in BLOCKING | {State.INCOMING, State.DEFERRED}]
    assert all(states[item.predecessor] in BLOCKING for item in waiting)


@given(st.lists(st.booleans(), max_size=30))
def test_a_backlog_never_delays_fresh_runs_by_more_than_one_each(fresh: list[bool]) -> None:
    known = [
        Known(entry(index), State.INCOMING if is_fresh else State.DEFERRED) for index, is_fresh in enumerate(fresh)
    ]
    new = [item for item in known if item.state is State.INCOMING]
    ordered = interleave(new, [item for item in known if item.state is State.DEFERRED])
    assert sorted(item.entry.name for item in ordered) == sorted(item.entry.name for item in known)
    for rank, item in enumerate(new):
        assert ordered.index(item) <= 2 * rank + 1


@given(st.floats(-1e9, 1e9))
def test_nothing_waits_longer_than_the_largest_backoff_whatever_a_clock_did(offset_s: float) -> None:
    deferred = entry(1, not_before_s=NOW_S + offset_s)
    waits = not is_due(deferred, NOW_S, LIMITS)
    assert not waits or offset_s <= LIMITS.backoff_cap_s + 1e-3


@given(st.integers(1, 40), st.integers(0, 2**32))
def test_waits_double_to_a_cap_and_spread_over_their_whole_length(failures: int, seed: int) -> None:
    ceiling, before = 0.0, 0.0
    for _ in range(failures):
        before, ceiling = ceiling, next_backoff_s(ceiling, LIMITS)
        assert before <= ceiling <= LIMITS.backoff_cap_s
        assert 0.0 <= jittered_s(ceiling, random.Random(seed)) <= ceiling
    assert ceiling == min(LIMITS.backoff_cap_s, LIMITS.backoff_first_s * 2 ** (failures - 1))


@given(st.sampled_from(list(Failure)), st.integers(0, 20), st.booleans())
def test_only_refusals_are_counted_and_only_they_reach_the_limit(failure: Failure, refusals: int, wide: bool) -> None:
    error = DeliveryError(failure, "told")
    error = error.everywhere() if wide else error
    before = entry(1)
    after = failed_entry(before, error, LIMITS, random.Random(0), NOW_S)
    assert after.refusals == before.refusals + POLICIES[failure].refusal
    assert after.reason == f"{failure}: told" and after.mend
    assert wide == (after.not_before is None)
    state = next_state(failure, refusals, LIMITS.refusals)
    limited = POLICIES[failure].refusal and refusals >= LIMITS.refusals
    assert state is (State.QUARANTINED if limited else POLICIES[failure].state)


@given(st.lists(st.none() | st.integers(0, 50), max_size=6))
def test_a_fragment_is_cut_where_the_earliest_later_fragment_begins(first_steps: list[int | None]) -> None:
    for index, cut in enumerate(cuts(first_steps)):
        later = [step for step in first_steps[index + 1 :] if step is not None]
        assert cut == min(later, default=None)
