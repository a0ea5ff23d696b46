"""Every class of failure, driven through the real `wandb sync` against the rehearsal server.

For each: the state, the reason and the mend that a person reads, what is counted, the exit code, and that the run is
delivered whole when the cause is gone.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from wandb_spool.spool import clock
from wandb_spool.spool.configuration import Destination
from wandb_spool.spool.entry import Replay
from wandb_spool.spool.layout import log_path
from wandb_spool.spool.queue import Spool
from wandb_spool.spool.states import State
from wandb_spool.syncer.failures import POLICIES, Failure
from wandb_spool.syncer.rehearsal import Fault, FaultKind, RehearsalServer
from wandb_spool.syncer.replaying import replay

from .foreign import ForeignServer
from .fragments import Fragments, Templates
from .syncing import QUICK, Syncing

STATUS = FaultKind.STATUS


@dataclass(frozen=True)
class Case:
    """A fault of the server, and what becomes of a fragment under it."""

    failure: Failure
    fault: Fault
    exit_code: int
    attempts: int
    says: str = ""
    shape: str = "tiny"

    @property
    def name(self) -> str:
        status = self.fault.status if self.fault.kind is STATUS else self.fault.kind.value
        return f"{self.fault.endpoint}-{status}"


CASES = (
    Case(Failure.CAPTIVE_PORTAL, Fault(FaultKind.HTML), 75, 0, "web page"),
    Case(Failure.UNREACHABLE, Fault(FaultKind.RESET_BEFORE), 75, 0),
    Case(Failure.RATE, Fault(STATUS, status=429, retry_after_s=30), 75, 0, "slow down"),
    Case(Failure.SERVER_ERROR, Fault(STATUS, status=503), 75, 0, "503"),
    Case(Failure.RATE, Fault(STATUS, "file_stream", status=429), 3, 1, "slow down"),
    Case(Failure.SERVER_ERROR, Fault(STATUS, "graphql:UpsertBucket", status=500), 3, 1, "no such run (500)"),
    Case(Failure.SERVER_ERROR, Fault(STATUS, "file_stream", status=502), 3, 1, "20 of 20 rows"),
    Case(Failure.SERVER_ERROR, Fault(STATUS, "graphql:HistoryPage", status=504), 3, 1, "504"),
    Case(Failure.SERVER_ERROR, Fault(STATUS, "upload", status=500), 3, 1, "model.bin", "rich"),
    Case(Failure.UNREACHABLE, Fault(FaultKind.RESET_BEFORE, "file_stream"), 3, 1, "20 of 20 rows"),
    Case(Failure.REFUSED, Fault(STATUS, "graphql:UpsertBucket", status=400), 3, 1, "(400)"),
    Case(Failure.REFUSED, Fault(STATUS, "graphql:UpsertBucket", status=403), 3, 1, "(403)"),
    Case(Failure.REFUSED, Fault(STATUS, "graphql:UpsertBucket", status=404), 3, 1, "(404)"),
    Case(Failure.RUN_DELETED, Fault(STATUS, "graphql:UpsertBucket", status=409), 3, 1, "deleted"),
    Case(Failure.REFUSED, Fault(STATUS, "graphql:Run", status=403), 3, 0, "may not read"),
    Case(Failure.PARTIAL, Fault(STATUS, "file_stream", status=413), 3, 1, "20 of 20 rows"),
    Case(Failure.PARTIAL, Fault(STATUS, "graphql:CreateRunFiles", status=403), 3, 1, "model.bin", "rich"),
    Case(Failure.PARTIAL, Fault(STATUS, "graphql:CreateArtifact", status=403), 3, 1, "artifacts model", "rich"),
    Case(Failure.PARTIAL, Fault(STATUS, "artifact_upload", status=403), 3, 1, "artifacts model", "rich"),
    Case(Failure.UNREADABLE, Fault(STATUS, "graphql:Run", status=400), 3, 0, "can't answer Run"),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_each_class_of_failure_is_told_counted_and_mended(syncing: Syncing, fragments: Fragments, case: Case) -> None:
    name = fragments.add(case.shape)
    syncing.server.set_faults([case.fault])
    result = syncing.once(patience_s=0.2)
    entry, policy = fragments.entry(name), POLICIES[case.failure]
    assert (entry.reason or "").startswith(f"{case.failure}: "), entry.reason
    assert case.says in (entry.reason or "")
    assert (fragments.state(name), entry.mend) == (policy.state.value, policy.mend)
    assert (entry.attempts, entry.refusals) == (case.attempts, int(policy.refusal))
    assert result.exit_code == case.exit_code
    assert entry.receipt is None

    syncing.server.clear_faults()
    if policy.state is State.QUARANTINED:
        fragments.spool.move(fragments.place(name), State.INCOMING, replace(entry, refusals=0))
    assert syncing.until_done().exit_code == 0
    assert fragments.state(name) == "delivered"
    report = syncing.server.report().run(entry.run_id or "")
    assert report.once_and_in_place and report.state == "finished"
    assert set(report.uploads.values()) <= {1, 2}


def test_a_server_that_is_down_costs_no_attempts_and_no_wait_once_it_is_back(
    syncing: Syncing, fragments: Fragments
) -> None:
    syncing.limits = replace(QUICK, backoff_first_s=3600.0, backoff_cap_s=3600.0)
    names = [fragments.add("tiny") for _ in range(3)]
    syncing.server.down()
    for _ in range(3):
        done = syncing.run("sync")
        assert done.returncode == 75
        assert done.stdout.count("could not be used") == 1, "one outage, one message"
    assert "unreachable: " in (fragments.entry(names[0]).reason or "")
    assert all((entry.attempts, entry.refusals) == (0, 0) for entry in map(fragments.entry, names))
    syncing.server.up()
    assert syncing.once().exit_code == 0, "the outage is over: nothing waits for a backoff"
    assert [fragments.state(name) for name in names] == ["delivered"] * 3


def test_a_server_that_goes_down_in_the_middle_of_a_batch_is_asked_no_more(
    syncing: Syncing, fragments: Fragments
) -> None:
    names = [fragments.add("tiny") for _ in range(12)]
    syncing.server.set_faults([Fault(FaultKind.DOWN, "file_stream", nth=3, seconds=600.0)])
    began = time.monotonic()
    result = syncing.once()
    assert time.monotonic() - began < 60, "a batch of twelve waited for a dead server twelve times"
    assert result.exit_code == 3 and len(result.outages) == 1
    assert all(entry.refusals == 0 for entry in map(fragments.entry, names))
    syncing.server.clear_faults()
    syncing.server.up()
    assert syncing.until_done().exit_code == 0
    for name in names:
        run = syncing.server.report().run(fragments.entry(name).run_id or "")
        assert run.steps == tuple(range(20)) and run.once_and_in_place and run.state == "finished"


def test_a_wrong_key_pauses_the_destination_with_one_message_and_the_right_one_mends_it(
    syncing: Syncing, fragments: Fragments
) -> None:
    names = [fragments.add("tiny") for _ in range(3)]
    done = syncing.run("sync", WANDB_API_KEY="f" * 40)
    assert done.returncode == 3
    assert done.stdout.count("could not be used") == 1 and "f" * 40 not in done.stdout + done.stderr
    entry = fragments.entry(names[0])
    assert "auth: " in (entry.reason or "") and "key" in (entry.mend or "")
    assert not syncing.sent()
    assert syncing.run("sync").returncode == 0
    assert [fragments.state(name) for name in names] == ["delivered"] * 3


@pytest.mark.parametrize(("key", "says"), [(None, "no API key"), ("short", "not a W&B key")], ids=["none", "short"])
def test_without_a_usable_key_one_line_says_so_and_nothing_is_lost(
    syncing: Syncing, fragments: Fragments, key: str | None, says: str
) -> None:
    name = fragments.add("tiny")
    done = syncing.run("sync", WANDB_API_KEY=key or "")
    assert done.returncode == 3 and says in done.stdout and "Traceback" not in done.stderr
    assert fragments.state(name) == "deferred"


def test_a_private_certificate_authority_is_told_apart_from_the_key_and_mended_by_ca(
    spool: Spool, templates: Templates, home: Path, tmp_path: Path, private_ca: tuple[Path, Path]
) -> None:
    fragments = Fragments(spool, templates)
    name = fragments.add("rich")
    with RehearsalServer(tmp_path / "tls", tls=private_ca) as server:
        syncing = Syncing(spool, server, home)
        assert syncing.once().exit_code == 75
        entry = fragments.entry(name)
        assert (entry.reason or "").startswith("tls: ") and "ca" in (entry.mend or "") and "key" in (entry.mend or "")
        assert (fragments.state(name), entry.attempts) == ("deferred", 0)
        syncing.destination = Destination("default", ca=private_ca[0])
        assert syncing.until_done().exit_code == 0
    assert fragments.state(name) == "delivered"


def test_a_run_that_was_deleted_on_the_server_is_set_aside_and_replayed_under_a_new_id(
    syncing: Syncing, fragments: Fragments
) -> None:
    fragments.add("front", "gone")
    assert syncing.once().exit_code == 0
    syncing.server.delete_run("rehearsal", "delivery", "gone")
    second, other = fragments.add("rear", "gone"), fragments.add("tiny")
    assert syncing.once().exit_code == 3
    entry = fragments.entry(second)
    assert fragments.state(second) == "quarantined" and (entry.reason or "").startswith("run deleted: ")
    assert "--id" in (entry.mend or "")
    assert fragments.state(other) == "delivered", "one deleted run blocked another"
    done = syncing.run("replay", second, "--id", "anew")
    assert done.returncode == 0, done.stderr
    assert sorted(syncing.values("anew")) == list(range(80, 180))
    assert fragments.state(second) == "quarantined", "a replay never touches the old entry"


def test_what_stays_missing_is_quarantined_after_the_limit_and_named(syncing: Syncing, fragments: Fragments) -> None:
    syncing.limits = replace(QUICK, refusals=2)
    name = fragments.add("rich")
    syncing.server.set_faults([Fault(STATUS, "upload", status=403)])
    states = []
    for _ in range(2):
        syncing.once(everything=True, patience_s=0.1)
        states.append(fragments.state(name))
    assert states == ["deferred", "quarantined"]
    entry = fragments.entry(name)
    assert "model.bin" in (entry.reason or "") and "403" in (entry.reason or "")
    assert (entry.attempts, entry.refusals) == (2, 2)


def _flip_in_the_middle(log: Path) -> None:
    content = bytearray(log.read_bytes())
    content[len(content) // 2] ^= 0xFF
    log.write_bytes(content)


def _tear(log: Path) -> None:
    os.truncate(log, log.stat().st_size - 3000)


@pytest.mark.parametrize("damage", [_flip_in_the_middle, _tear], ids=["a flipped bit", "a torn tail"])
def test_a_log_that_was_damaged_before_the_seal_is_salvaged_delivered_and_its_loss_told(
    syncing: Syncing, fragments: Fragments, damage: Callable[[Path], None]
) -> None:
    def hurt(log: Path) -> None:
        damage(log)
        _alive(log.parent, rows=1000)

    name = fragments.add("thousand", damage=hurt)
    assert syncing.once().exit_code == 0
    receipt = fragments.entry(name).receipt or {}
    assert receipt["rows_lost"] > 0 and receipt["rows_delivered"] + receipt["rows_lost"] == 1000
    steps = syncing.steps(fragments.entry(name).run_id or "")
    assert len(steps) == receipt["rows_delivered"]


def _alive(run_directory: Path, *, rows: int) -> None:
    """The hook's last word, as the launcher's template has it."""
    from wandb_spool.spool.alive import Alive

    sign = Alive(9, rows, 0, rows - 1, "finished", 0, 1)
    (run_directory / "alive").write_bytes(sign.encode())


def _overwrite(directory: Path, files: Path) -> None:
    files.write_bytes(b"other bytes")


def _empty_the_log(directory: Path, files: Path) -> None:
    log = log_path(directory)
    assert log is not None
    os.truncate(log, 0)


def _remove_a_file(directory: Path, files: Path) -> None:
    files.unlink()


def _link_out(directory: Path, files: Path) -> None:
    files.unlink()
    files.symlink_to("/etc/passwd")


def _make_a_fifo(directory: Path, files: Path) -> None:
    files.unlink()
    os.mkfifo(files)


def _change_the_manifest(directory: Path, files: Path) -> None:
    manifest = directory / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"rows_kept": 12', '"rows_kept": 11'))


def _garble_the_manifest(directory: Path, files: Path) -> None:
    (directory / "manifest.json").write_text("not JSON")


def _remove_the_run(directory: Path, files: Path) -> None:
    shutil.rmtree(directory)


@pytest.mark.parametrize(
    ("harm", "failure"),
    [
        (_overwrite, Failure.TAMPERED),
        (_empty_the_log, Failure.TAMPERED),
        (_remove_a_file, Failure.TAMPERED),
        (_change_the_manifest, Failure.TAMPERED),
        (_link_out, Failure.UNSAFE),
        (_make_a_fifo, Failure.UNSAFE),
        (_garble_the_manifest, Failure.DAMAGED),
        (_remove_the_run, Failure.VANISHED),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_changed_after_the_seal_is_quarantined_and_nothing_of_it_is_sent(
    syncing: Syncing, fragments: Fragments, harm: Callable[[Path, Path], None], failure: Failure
) -> None:
    name = fragments.add("rich")
    directory = fragments.entry(name).run_directory(fragments.spool.root)
    harm(directory, directory / "files" / "model.bin")
    result = syncing.once()
    assert (fragments.state(name), result.exit_code) == ("quarantined", 3)
    entry = fragments.entry(name)
    assert (entry.reason or "").startswith(f"{failure}: ") and entry.mend == POLICIES[failure].mend
    assert not syncing.sent()


def test_a_hanging_push_is_killed_with_all_its_processes_and_a_good_run_beside_it_is_delivered(
    syncing: Syncing, fragments: Fragments
) -> None:
    from wandb_spool.syncer.progress import tree

    syncing.limits = replace(QUICK, no_progress_s=3.0)
    hanging, good = fragments.add("rich"), fragments.add("tiny")
    syncing.server.set_faults([Fault(FaultKind.HANG, "artifact_upload")])
    result = syncing.once()
    assert fragments.state(good) == "delivered"
    entry = fragments.entry(hanging)
    assert fragments.state(hanging) == "deferred" and (entry.reason or "").startswith("hang: ")
    assert (entry.refusals, result.exit_code) == (0, 3)
    left = [process.cmdline() for process in tree(os.getpid())[1:]]
    assert not [words for words in left if any("wandb" in word for word in words)], left
    syncing.server.clear_faults()
    assert syncing.until_done().exit_code == 0
    assert syncing.server.report().run(entry.run_id or "").once_and_in_place


@pytest.mark.parametrize("accepted", [False, True])
def test_a_server_that_cant_be_read_back_is_never_believed_unless_a_person_said_so(
    syncing: Syncing, fragments: Fragments, accepted: bool
) -> None:
    syncing.destination = Destination("default", accept_unverified=accepted)
    name = fragments.add("tiny")
    syncing.server.set_faults([Fault(STATUS, "graphql:Run", status=400)])
    result = syncing.once(patience_s=0.2)
    assert fragments.state(name) == ("unverified" if accepted else "deferred")
    assert result.exit_code == (0 if accepted else 3)
    assert fragments.entry(name).receipt is None
    syncing.server.clear_faults()
    if accepted:
        assert len(syncing.steps(fragments.entry(name).run_id or "")) == 20


def test_data_that_is_shown_late_is_waited_for_and_not_sent_again(syncing: Syncing, fragments: Fragments) -> None:
    syncing.server.set_behaviour(late_s=4.0)
    name = fragments.add("rich")
    result = syncing.once(patience_s=0.3)
    entry = fragments.entry(name)
    assert (fragments.state(name), result.exit_code) == ("deferred", 3)
    assert (entry.reason or "").startswith("not yet visible: ") and (entry.attempts, entry.refusals) == (1, 0)
    sent = syncing.sent()
    assert syncing.once(everything=True, patience_s=0.1).exit_code == 3, "it is still not shown"
    _wait(lambda: syncing.once(everything=True).exit_code == 0)
    assert fragments.state(name) == "delivered" and syncing.sent() == sent


def test_a_server_that_accepts_and_forgets_is_found_out(syncing: Syncing, fragments: Fragments) -> None:
    syncing.limits = replace(QUICK, late_data_s=0.01, refusals=2)
    syncing.server.set_behaviour(late_s=1e6)
    name = fragments.add("tiny")
    for _ in range(4):
        syncing.once(everything=True, patience_s=0.1)
    entry = fragments.entry(name)
    assert fragments.state(name) == "quarantined"
    assert "never shown" in (entry.reason or "") and "20 of 20 rows" in (entry.reason or "")


def test_other_values_at_the_same_steps_are_a_conflict_and_nothing_is_overwritten(
    syncing: Syncing, fragments: Fragments, templates: Templates, tmp_path: Path
) -> None:
    elsewhere = Fragments(Spool.create(tmp_path / "other"), templates)
    elsewhere.add("rear", "same")
    replace(syncing, spool=elsewhere.spool).once()
    before = syncing.values("same")
    name = fragments.add("third", "same")
    syncing.once()
    assert fragments.state(name) == "quarantined"
    assert (fragments.entry(name).reason or "").startswith("conflict: ")
    assert syncing.values("same") == before


def test_a_held_predecessor_keeps_its_successor_waiting_until_it_is_released_or_skipped(
    syncing: Syncing, fragments: Fragments
) -> None:
    first, second = fragments.add("front", "run"), fragments.add("rear", "run")
    fragments.spool.move(fragments.place(first), State.HELD)
    syncing.once()
    entry = fragments.entry(second)
    assert fragments.state(second) == "deferred" and (entry.reason or "").startswith(f"waits: for {first}")
    assert "--skip" in (entry.mend or "") and not syncing.sent()
    assert syncing.run("release", "--skip", first).returncode == 0
    assert syncing.once().exit_code == 0
    assert (fragments.state(first), fragments.state(second)) == ("held", "delivered")
    assert sorted(syncing.values("run")) == list(range(80, 180))
    fragments.spool.move(fragments.place(first), State.INCOMING)
    assert syncing.once().exit_code == 0
    assert sorted(syncing.values("run")) == list(range(180))


def test_a_void_or_open_predecessor_blocks_nobody(syncing: Syncing, fragments: Fragments) -> None:
    void = fragments.add("front", "run", damage=lambda log: os.truncate(log, 7))
    assert fragments.state(void) == "void"
    second = fragments.add("rear", "run")
    open_one = fragments.add("front", "other", seal=False)
    (fragments.entry(open_one).run_directory(fragments.spool.root) / "alive").unlink()  # its writer is this process
    third = fragments.add("rear", "other")
    syncing.once()
    assert [fragments.state(name) for name in (void, second, third)] == ["void", "delivered", "delivered"]
    assert fragments.state(open_one) == "open"


def test_a_limit_of_the_server_is_respected_for_as_long_as_it_says(syncing: Syncing, fragments: Fragments) -> None:
    name = fragments.add("tiny")
    syncing.server.set_faults([Fault(STATUS, "graphql:Viewer", status=429, retry_after_s=120)])
    syncing.once()
    not_before = clock.seconds(fragments.entry(name).not_before) or 0.0
    assert 100 < not_before - time.time() <= 240
    asked = syncing.server.report(rows=False).requests["graphql:Viewer"]
    syncing.limits = replace(QUICK, backoff_cap_s=3600.0)
    assert syncing.once().exit_code == 0
    assert syncing.server.report(rows=False).requests["graphql:Viewer"] == asked


@pytest.mark.parametrize("skew_s", [-86400.0, 86400.0])
def test_a_clock_that_jumps_delays_nothing_for_long(syncing: Syncing, fragments: Fragments, skew_s: float) -> None:
    name = fragments.add("tiny")
    syncing.server.set_faults([Fault(STATUS, "file_stream", status=500)])
    syncing.once(patience_s=0.1)
    entry = fragments.entry(name)
    moved = fragments.spool.claim(fragments.place(name))
    later = clock.iso(time.time() + skew_s)
    fragments.spool.rewrite(moved, replace(entry, not_before=later, extra={**entry.extra, "pushed": later}))
    fragments.spool.release(moved, State.DEFERRED)
    syncing.limits = replace(QUICK, late_data_s=0.2)
    syncing.server.clear_faults()
    _wait(lambda: syncing.once().exit_code == 0)
    assert fragments.state(name) == "delivered"


@pytest.fixture
def foreign(syncing: Syncing) -> Iterator[ForeignServer]:
    with ForeignServer(syncing.server.base_url) as server:
        yield server


@pytest.mark.parametrize("lacks", ["historyLineCount", "displayName", "fileCount", "teams"])
def test_a_server_that_does_not_know_a_field_is_asked_for_less(
    syncing: Syncing, fragments: Fragments, foreign: ForeignServer, lacks: str
) -> None:
    foreign.unknown = lacks
    name = fragments.add("rich")
    syncing.environ["WANDB_BASE_URL"] = foreign.base_url
    result = syncing.once()
    assert result.exit_code == 0, result.outcomes
    receipt = fragments.entry(name).receipt or {}
    assert receipt["level"] == "rows"


def test_files_without_a_checksum_are_proven_by_size_and_the_receipt_says_so(
    syncing: Syncing, fragments: Fragments
) -> None:
    syncing.server.set_behaviour(file_md5=False)
    name = fragments.add("rich")
    assert syncing.once().exit_code == 0
    receipt = fragments.entry(name).receipt or {}
    assert receipt["files_by_size_only"] == receipt["files"] > 0


def test_a_history_that_cant_be_read_is_judged_by_its_count_and_the_receipt_says_so(
    syncing: Syncing, fragments: Fragments
) -> None:
    name = fragments.add("tiny")
    syncing.server.set_faults([Fault(STATUS, "graphql:HistoryPage", status=400)])
    assert syncing.once().exit_code == 0
    assert (fragments.entry(name).receipt or {})["level"] == "counts"
    assert "rows counted there, not read back" in syncing.told[-1]


def test_alerts_go_out_once_and_old_ones_not_at_all(syncing: Syncing, fragments: Fragments) -> None:
    young = fragments.add("rich")
    syncing.server.set_faults([Fault(STATUS, "upload", status=403)])
    syncing.once(patience_s=0.1)
    syncing.server.clear_faults()
    assert syncing.until_done().exit_code == 0
    assert len(syncing.server.report().alerts) == 1, "an alert was sent again with the second push"
    assert (fragments.entry(young).receipt or {})["alerts_not_sent"] == 0
    old = fragments.add("rich")
    syncing.limits = replace(QUICK, alert_age_s=0.001)
    assert syncing.once().exit_code == 0
    assert len(syncing.server.report().alerts) == 1
    assert (fragments.entry(old).receipt or {})["alerts_not_sent"] == 1


def test_a_replay_to_another_project_carries_everything_and_leaves_the_first_delivery(
    syncing: Syncing, fragments: Fragments
) -> None:
    name = fragments.add("rich")
    assert syncing.once().exit_code == 0
    entry = fragments.entry(name)
    again = replay(
        fragments.spool, entry, State.DELIVERED, Replay(entity="team", project="elsewhere", run_id="another")
    )
    assert syncing.once().exit_code == 0
    assert (fragments.state(name), fragments.state(again.name)) == ("delivered", "delivered")
    assert fragments.entry(name).receipt == entry.receipt
    runs = syncing.server.report().runs
    moved = runs["team", "elsewhere", "another"]
    assert len(moved.steps) == 12 and sorted(item.type for item in moved.artifacts) == ["model", "run_table"]
    assert {"model.bin"} <= set(moved.files)
    printed = syncing.run("replay", name, "--print", "--project", "third")
    assert printed.returncode == 0 and "sync" in printed.stdout and "third" in printed.stdout


def _wait(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.2)
