"""Each run goes to its server with its account, or says why not; a key is seen by nobody."""

from __future__ import annotations

from pathlib import Path

import pytest
from delivery.fragments import Fragments
from delivery.syncing import why

from wandb_spool.spool.queue import Spool
from wandb_spool.syncer.rehearsal import Account, RehearsalServer

from .configured import Person


@pytest.fixture
def person(home: Path, spool: Spool) -> Person:
    return Person(home, spool)


def runs(server: RehearsalServer) -> set[str]:
    return {"/".join(key) for key in server.report(rows=False).runs}


def test_cloud_and_self_hosted_at_once(
    fragments: Fragments, person: Person, cloud: RehearsalServer, hosted: RehearsalServer, ada: Account
) -> None:
    own = person.key_file("key2", hosted.api_key)
    person.configure(
        f'[destination.default]\nbase_url = "{cloud.base_url}"\nkey_file = "{person.key_file("key", ada.key)}"\n'
        f'[destination.hosted]\nbase_url = "{hosted.base_url}"\nkey_file = "{own}"\n'
    )
    fragments.add("tiny", "to-the-cloud")
    fragments.add("tiny", "to-the-team", entity="lab")
    fragments.add("tiny", "to-our-own", base_url=hosted.base_url)
    person.sync()
    assert runs(cloud) == {"ada/delivery/to-the-cloud", "lab/delivery/to-the-team"}
    assert runs(hosted) == {"rehearsal/delivery/to-our-own"}
    for words in (["ls", "--json"], ["status", "--json"], ["show", "to-our-own", "--json"], ["ls"], ["status"]):
        person(words[0], *words[1:])
    for key in (ada.key, hosted.api_key):
        assert person.seen_by_others(key) == []


def test_two_accounts_on_one_server_are_two_destinations(
    fragments: Fragments, person: Person, cloud: RehearsalServer, ada: Account, bob: Account
) -> None:
    person.configure(
        f'[destination.default]\nbase_url = "{cloud.base_url}"\nkey_file = "{person.key_file("key", ada.key)}"\n'
        f'[destination.bob]\nbase_url = "{cloud.base_url}"\nkey_file = "{person.key_file("key2", bob.key)}"\n'
    )
    name = fragments.add("tiny", "run-1")
    person.sync()
    person("replay", name, "--destination", "bob")
    assert runs(cloud) == {"ada/delivery/run-1", "bob/delivery/run-1"}


def test_two_keys_that_match_are_an_error_and_never_luck(
    fragments: Fragments, person: Person, cloud: RehearsalServer, hosted: RehearsalServer, ada: Account, bob: Account
) -> None:
    person.configure(
        f'[destination.default]\nbase_url = "{hosted.base_url}"\n'
        f'[destination.ada]\nbase_url = "{cloud.base_url}"\nkey_file = "{person.key_file("key", ada.key)}"\n'
        f'[destination.bob]\nbase_url = "{cloud.base_url}"\nkey_file = "{person.key_file("key2", bob.key)}"\n'
    )
    name = fragments.add("tiny", "run-2", base_url=cloud.base_url)
    person.sync(code=None)
    told = why(fragments.entry(name))
    assert fragments.state(name) == "deferred" and "ada, bob" in told and "--destination NAME" in told
    assert runs(cloud) == set()


def test_entity_that_the_key_cant_write_to_is_told_and_nothing_is_sent(
    fragments: Fragments, person: Person, cloud: RehearsalServer, bob: Account
) -> None:
    name = fragments.add("tiny", "run-3", entity="ada")
    person.sync(code=3, environ={"WANDB_BASE_URL": cloud.base_url, "WANDB_API_KEY": bob.key})
    assert fragments.state(name) == "quarantined"
    told = why(fragments.entry(name))
    assert told.startswith("refused: ") and "--entity" in told
    assert runs(cloud) == set()
    assert person.seen_by_others(bob.key) == []
    person("edit", name, "--entity", "bob")
    person("release", name)
    person.sync(environ={"WANDB_BASE_URL": cloud.base_url, "WANDB_API_KEY": bob.key})
    assert runs(cloud) == {"bob/delivery/run-3"}


def test_project_that_does_not_exist_yet_is_made(
    fragments: Fragments, person: Person, cloud: RehearsalServer, bob: Account
) -> None:
    fragments.add("tiny", "run-4", project="brand-new")
    person.sync(environ={"WANDB_BASE_URL": cloud.base_url, "WANDB_API_KEY": bob.key})
    assert runs(cloud) == {"bob/brand-new/run-4"}


def test_netrc_with_several_machines_gives_each_server_its_key(
    fragments: Fragments, person: Person, cloud: RehearsalServer, hosted: RehearsalServer, ada: Account
) -> None:
    """Two servers on two names of this machine: netrc knows hosts, not ports."""
    local = cloud.base_url.replace("127.0.0.1", "localhost")
    person.netrc(("api.wandb.ai", "x" * 40), ("localhost", ada.key), ("127.0.0.1", hosted.api_key))
    person.configure(
        f'[destination.default]\nbase_url = "{local}"\n[destination.own]\nbase_url = "{hosted.base_url}"\n'
    )
    fragments.add("tiny", "run-5")
    fragments.add("tiny", "run-6", base_url=hosted.base_url)
    person.sync()
    assert runs(cloud) == {"ada/delivery/run-5"}
    assert runs(hosted) == {"rehearsal/delivery/run-6"}
    assert person.seen_by_others(ada.key) == []


def test_key_file_that_others_may_read_is_refused(
    fragments: Fragments, person: Person, cloud: RehearsalServer, ada: Account
) -> None:
    path = person.key_file("key", ada.key, 0o644)
    person.configure(f'[destination.default]\nbase_url = "{cloud.base_url}"\nkey_file = "{path}"\n')
    name = fragments.add("tiny", "run-7")
    told = person.sync(code=3)
    assert f"others may read {path}: `chmod 600 {path}`" in told
    assert fragments.state(name) == "deferred"
    path.chmod(0o600)
    person.sync()
    assert runs(cloud) == {"ada/delivery/run-7"}


@pytest.mark.parametrize("key", ["", "short", "spaces in the key " * 4, "k" * 40])
def test_no_key_or_a_wrong_one_pauses_the_destination_and_is_not_shown(
    fragments: Fragments, person: Person, cloud: RehearsalServer, key: str
) -> None:
    name = fragments.add("tiny", "run-8")
    environ = {"WANDB_API_KEY": key} if key else {}
    told = person.sync(code=3, environ={"WANDB_BASE_URL": cloud.base_url, **environ})
    assert "key" in told and fragments.state(name) == "deferred"
    assert fragments.entry(name).attempts == 0
    if key:
        assert person.seen_by_others(key) == []


def test_destination_that_nobody_configured_is_one_clear_reason(
    fragments: Fragments, person: Person, cloud: RehearsalServer
) -> None:
    person.configure('[destination.default]\nbase_url = "http://127.0.0.1:9"\n')
    name = fragments.add("tiny", "run-9", base_url=cloud.base_url)
    told = person.sync(code=3)
    assert f"no API key for {cloud.base_url}" in told
    assert fragments.state(name) == "deferred"


def test_names_in_the_environment_that_wandb_refuses_are_told_before_the_training(person: Person) -> None:
    told = person("run", "--", "true", WANDB_PROJECT="a/b", WANDB_ENTITY="fine")
    assert "WARNING: W&B will refuse WANDB_PROJECT: a project can't contain '/': 'a/b'" in told


def test_key_in_a_configuration_file_is_refused(person: Person) -> None:
    person.configure('[destination.default]\napi_key = "' + "s" * 40 + '"\n')
    told = person.sync(code=2)
    assert "a key does not belong here" in told
    assert "s" * 40 not in told
