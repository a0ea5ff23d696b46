"""Several people, one spool, one account that syncs it: all of it is the group's, nobody reads through the syncer."""

from __future__ import annotations

import grp
import hashlib
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from wandb_spool.spool.entry import Entry
from wandb_spool.spool.layout import log_path
from wandb_spool.spool.log import move_artifacts, rewrite
from wandb_spool.spool.manifest import MANIFEST_NAME
from wandb_spool.spool.queue import Spool
from wandb_spool.spool.states import State
from wandb_spool.syncer.rehearsal import DEFAULT_ENTITY, RehearsalServer

from .users import ADA, BOB, SERVICE, STRANGER, User, a_group, common_ground, interpreter, runs

SECRET = "the service account's own words"

PROGRAM = """
import sys, wandb
name = sys.argv[1]
with open("model.bin", "w") as stream:
    stream.write("weights of " + name)
run = wandb.init(project="group", entity=sys.argv[2] or None, id=name)
run.save("model.bin", policy="end")
artifact = wandb.Artifact("model-" + name, "model")
artifact.add_file("model.bin")
run.log_artifact(artifact)
for step in range(5):
    run.log({"loss": step})
run.finish()
"""


@dataclass
class Group:
    base: Path
    root: Path
    name: str
    ada: User
    bob: User
    service: User
    stranger: User

    @property
    def spool(self) -> Spool:
        return Spool.open(self.root)

    def train(self, user: User, name: str, entity: str = DEFAULT_ENTITY, umask: int = 0o077) -> None:
        user.spool("run", "-q", "--spool", str(self.root), "--", user.python, "-c", PROGRAM, name, entity, umask=umask)

    def sync(self, server: RehearsalServer, code: int | None = 0) -> str:
        words = ("sync", "--all", "--patience", "5", "--spool", str(self.root))
        return self.service.spool(*words, code=code, environ=server.environment())

    def entries(self, state: State) -> dict[str, Entry]:
        return {str(entry.run_id): entry for entry in map(self.spool.read, self.spool.places(state))}


@pytest.fixture
def group() -> Iterator[Group]:
    if os.getuid() != 0:
        pytest.skip("needs root to be several users")
    name = a_group()
    with common_ground() as base:
        os.chmod(base, 0o777)
        python = interpreter(base / "python")
        if not runs(python):
            pytest.skip("other users can't run this Python")
        made = Group(
            base=base,
            root=base / "spool",
            name=name,
            ada=User.make(base, python, ADA, name),
            bob=User.make(base, python, BOB, name),
            service=User.make(base, python, SERVICE, name),
            stranger=User.make(base, python, STRANGER),
        )
        made.ada.spool("init", str(made.root), "--group", name, "--no-remember", umask=0o077)
        yield made


def test_several_people_write_and_one_account_delivers(group: Group, rehearsal: RehearsalServer) -> None:
    group.train(group.ada, "from-ada")
    group.train(group.bob, "from-bob", umask=0o022)
    group.sync(rehearsal)
    delivered = group.entries(State.DELIVERED)
    authors = {run_id: (entry.receipt or {})["author"] for run_id, entry in delivered.items()}
    assert authors == {"from-ada": str(ADA), "from-bob": str(BOB)}
    report = rehearsal.report()
    assert {key[2]: list(run.steps) for key, run in report.runs.items()} == {
        "from-ada": [0, 1, 2, 3, 4], "from-bob": [0, 1, 2, 3, 4],
    }  # fmt: skip


def test_everything_is_the_groups_and_nobody_elses(group: Group, rehearsal: RehearsalServer) -> None:
    group.train(group.ada, "from-ada", umask=0o077)
    group.train(group.bob, "from-bob", umask=0o022)
    group.sync(rehearsal)
    gid = grp.getgrnam(group.name).gr_gid
    wrong = []
    for path in [group.root, *group.root.rglob("*")]:
        if path.is_symlink():
            continue  # wandb's `latest-run` and `debug.log`; a link has no mode
        status = path.stat()
        wanted = 0o2770 if path.is_dir() else 0o660
        if (stat.S_IMODE(status.st_mode), status.st_gid) != (wanted, gid):
            wrong.append(f"{stat.S_IMODE(status.st_mode):o} {status.st_gid} {path.relative_to(group.root)}")
    assert wrong == []
    assert "no permission" in group.stranger.spool("status", "--spool", str(group.root), code=None)


def test_run_without_an_entity_is_refused_with_a_reason_and_its_author_mends_it(
    group: Group, rehearsal: RehearsalServer
) -> None:
    group.train(group.ada, "nobodys", entity="")
    group.sync(rehearsal, code=3)
    entry = group.entries(State.DEFERRED)["nobodys"]
    assert "names no entity" in (entry.reason or "")
    assert not rehearsal.report().runs
    group.ada.spool("edit", "nobodys", "--entity", DEFAULT_ENTITY, "--spool", str(group.root))
    group.sync(rehearsal)
    assert set(group.entries(State.DELIVERED)) == {"nobodys"}


def test_another_member_may_hold_and_release_what_he_did_not_make(group: Group) -> None:
    group.train(group.ada, "from-ada")
    group.bob.spool("hold", "from-ada", "--spool", str(group.root))
    group.service.spool("release", "from-ada", "--spool", str(group.root))
    assert set(group.entries(State.INCOMING)) == {"from-ada"}


def secret_of(user: User) -> Path:
    path = user.home / "secret.txt"
    path.write_text(SECRET)
    path.chmod(0o600)
    os.chown(path, user.uid, user.uid)
    return path


def arrived(rehearsal: RehearsalServer) -> bytes:
    return b"".join(path.read_bytes() for path in rehearsal.data_dir.rglob("*") if path.is_file())


def reseal(entry: Entry, spool: Spool) -> None:
    """As an author can who writes the manifest and the entry by hand: its own lies are consistent."""
    run_directory = entry.run_directory(spool.root)
    body = json.loads((run_directory / MANIFEST_NAME).read_text())
    launch = entry.launch_directory(spool.root)
    for item in body["files"]:
        content = (launch / item["path"]).read_bytes()
        item.update(size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    content = (json.dumps(body, indent=1) + "\n").encode()
    (run_directory / MANIFEST_NAME).write_bytes(content)
    (place,) = spool.places(State.INCOMING)
    owned = spool.claim(place)
    spool.rewrite(owned, replace(entry, manifest_sha256=hashlib.sha256(content).hexdigest()))
    spool.release(owned, State.INCOMING)


def test_log_that_names_the_syncers_own_file_does_not_send_it(group: Group, rehearsal: RehearsalServer) -> None:
    secret = secret_of(group.service)
    group.train(group.ada, "attack")
    entry = group.entries(State.INCOMING)["attack"]
    log = log_path(entry.run_directory(group.root))
    assert log is not None
    rewrite(log, log.with_suffix(".new"), move_artifacts(lambda path: str(secret) if path else path))
    log.with_suffix(".new").replace(log)
    os.chown(log, ADA, -1)
    reseal(entry, group.spool)
    group.sync(rehearsal, code=None)
    assert SECRET.encode() not in arrived(rehearsal)
    assert not group.entries(State.DELIVERED)


@pytest.mark.parametrize("what", ["file", "directory"])
def test_link_in_anothers_run_is_never_followed(group: Group, rehearsal: RehearsalServer, what: str) -> None:
    secret = secret_of(group.service)
    group.train(group.ada, "attack")
    entry = group.entries(State.INCOMING)["attack"]
    files = entry.run_directory(group.root) / "files"
    if what == "file":
        (files / "model.bin").unlink()
        (files / "model.bin").symlink_to(secret)
    else:
        # A directory link, and a manifest that tells the digest of what it shows.
        elsewhere = group.service.home / "files"
        files.rename(files.with_name("old"))
        elsewhere.mkdir()
        for path in files.with_name("old").rglob("*"):
            if path.is_file():
                (elsewhere / path.name).write_bytes(SECRET.encode())
        files.symlink_to(elsewhere)
        reseal(entry, group.spool)
    group.sync(rehearsal, code=None)
    assert SECRET.encode() not in arrived(rehearsal)
    assert not group.entries(State.DELIVERED)


def test_anothers_launch_in_a_spool_of_ones_own_is_refused(group: Group, rehearsal: RehearsalServer) -> None:
    private = group.base / "private"
    group.service.spool("init", str(private), "--no-remember")
    words = ("run", "-q", "--spool", str(private), "--", group.service.python, "-c", PROGRAM, "planted", DEFAULT_ENTITY)
    group.service.spool(*words)
    spool = Spool.open(private)
    (place,) = spool.places(State.INCOMING)
    launch = spool.read(place).launch_directory(private)
    os.chown(launch, ADA, -1)
    launch.chmod(0o777)
    group.service.spool("sync", "--spool", str(private), code=3, environ=rehearsal.environment())
    (place,) = spool.places(State.QUARANTINED)
    assert f"belongs to {ADA}, and this spool is not a shared one" in (spool.read(place).reason or "")
    assert not rehearsal.report().runs


def plant(group: Group, entry: Entry, name: str, path: str) -> None:
    """An entry of Ada's making that leads elsewhere."""
    planted = replace(entry, name=f"{name}.{entry.fragment}", launch=name, path=path, project="stolen")
    os.chown(group.spool.add(planted, State.INCOMING).path, ADA, -1)


def private_launch(group: Group, name: str) -> Path:
    """The launch directory of a run in the service account's own spool, whose model is its secret."""
    private = group.service.home / "spool"
    program = PROGRAM.replace('"weights of " + name', repr(SECRET))
    group.service.spool("init", str(private), "--no-remember")
    words = ("run", "-q", "--spool", str(private), "--", group.service.python, "-c", program, name, DEFAULT_ENTITY)
    group.service.spool(*words)
    (launch,) = private.glob("runs/*/*")
    return launch


@pytest.mark.parametrize("linked", ["launch", "month"])
def test_link_to_the_syncers_own_spool_sends_nothing_of_it(
    group: Group, rehearsal: RehearsalServer, linked: str
) -> None:
    launch = private_launch(group, "attack")
    private = Spool.open(launch.parents[2])
    (place,) = private.places(State.INCOMING)
    entry = private.read(place)
    month = group.root / "runs" / launch.parent.name
    if linked == "launch":
        month.mkdir(exist_ok=True)
        (month / launch.name).symlink_to(launch)
        os.lchown(month / launch.name, ADA, -1)
    else:
        month.symlink_to(launch.parent)
        os.lchown(month, ADA, -1)
    plant(group, entry, entry.launch, entry.path)
    group.sync(rehearsal, code=None)
    assert SECRET.encode() not in arrived(rehearsal) and not rehearsal.report().runs
    assert "is a link, in a spool that others write to" in (group.entries(State.QUARANTINED)["attack"].reason or "")


def test_entry_that_leads_to_anothers_run_is_refused(group: Group, rehearsal: RehearsalServer) -> None:
    group.train(group.bob, "from-bob")
    entry = group.entries(State.INCOMING)["from-bob"]
    plant(group, entry, entry.launch[:-8] + "00000000", entry.path)
    group.sync(rehearsal, code=3)
    assert "is not the fragment it stands for" in (group.entries(State.QUARANTINED)["from-bob"].reason or "")
    assert {key[1] for key in rehearsal.report().runs} == {"group"}


def test_manifest_that_names_a_file_outside_sends_nothing(group: Group, rehearsal: RehearsalServer) -> None:
    secret = secret_of(group.service)
    group.train(group.ada, "attack")
    entry = group.entries(State.INCOMING)["attack"]
    manifest = entry.run_directory(group.root) / MANIFEST_NAME
    body = json.loads(manifest.read_text())
    outside = os.path.relpath(secret, entry.launch_directory(group.root))
    digest = hashlib.sha256(secret.read_bytes()).hexdigest()
    body["files"].append({**body["files"][0], "path": outside, "size_bytes": len(SECRET), "sha256": digest})
    content = (json.dumps(body) + "\n").encode()
    manifest.write_bytes(content)
    (place,) = group.spool.places(State.INCOMING)
    owned = group.spool.claim(place)
    group.spool.rewrite(owned, replace(entry, manifest_sha256=hashlib.sha256(content).hexdigest()))
    group.spool.release(owned, State.INCOMING)
    group.sync(rehearsal, code=None)
    assert SECRET.encode() not in arrived(rehearsal) and not group.entries(State.DELIVERED)


def test_edit_by_another_member_is_refused_and_an_overlay_of_his_making_stops_the_run(
    group: Group, rehearsal: RehearsalServer
) -> None:
    group.train(group.bob, "from-bob")
    words = ("edit", "from-bob", "--project", "stolen", "--spool", str(group.root))
    assert "is somebody else's" in group.service.spool(*words, code=2)
    group.bob.spool("edit", "from-bob", "--add-tag", "x", "--spool", str(group.root))
    (overlay,) = group.spool.paths.edits.glob("*.json")
    os.chown(overlay, STRANGER, -1)
    group.sync(rehearsal, code=3)
    assert "somebody else wrote the edit" in (group.entries(State.DEFERRED)["from-bob"].reason or "")
    assert not rehearsal.report().runs


def test_fifos_in_the_place_of_files_hold_up_nobody(group: Group, rehearsal: RehearsalServer) -> None:
    group.train(group.ada, "from-ada")
    group.train(group.bob, "attack")
    for name in ("receipts/202601/x.jsonl", "adopted/x.jsonl", "syncers/x.json", "edits/x.json", "leases/x.json"):
        path = group.root / name
        path.parent.mkdir(exist_ok=True)
        os.mkfifo(path)
    run_directory = group.entries(State.INCOMING)["attack"].run_directory(group.root)
    for name in (next(run_directory.glob("*.wandb")).name, "alive"):
        (run_directory / name).unlink(missing_ok=True)
        os.mkfifo(run_directory / name)
    group.sync(rehearsal, code=None)
    assert set(group.entries(State.DELIVERED)) == {"from-ada"}
    for words in (("status",), ("ls",), ("prune", "--dry-run"), ("recover",), ("verify",)):
        group.service.spool(*words, "--spool", str(group.root), code=None)


def test_directory_that_lost_its_setgid_bit_loses_no_run(group: Group, rehearsal: RehearsalServer) -> None:
    (group.root / "runs").chmod(0o770)
    group.train(group.ada, "from-ada")
    group.train(group.bob, "from-bob")
    group.sync(rehearsal, code=None)
    aside = list(group.bob.home.rglob("*-from-bob.json"))  # where he may write: told, not lost
    assert sorted(run_id for state in State for run_id in group.entries(state)) == [
        "from-ada",
        *([] if aside else ["from-bob"]),
    ]
