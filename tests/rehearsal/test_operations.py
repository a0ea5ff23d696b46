"""Every GraphQL document that the installed wandb carries is either understood or on a list of what is out of scope.

A new wandb release that asks for something else makes this red, with the name of what it asks for.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from graphql import parse, validate

from wandb_spool.syncer.rehearsal.graph import schema

wandb = pytest.importorskip("wandb", minversion="0.31.0", reason="reads the documents out of wandb 0.31 or newer")

# What a rehearsal has no use for: sweeps, launch queues, registries, teams, automations, custom charts, rewinding.
OUT_OF_SCOPE = re.compile(
    r"Sweep|Queue|Registr|Team|Invite|ServiceAccount|UserFromAdmin|ApiKey|AgentRuns|Portfolio|CollectionTag|"
    r"ArtifactSequence|Unlink|Linked|CustomChart|DefaultResourceConfig|RewindRun|OrgFeatureFlags"
)


def _generated() -> Iterator[tuple[str, str]]:
    for module in ("wandb.apis._generated", "wandb.sdk.artifacts._generated", "wandb.sdk.internal._generated"):
        operations = importlib.import_module(f"{module}.operations")
        for name in operations.__all__:
            yield name, getattr(operations, name)


def _compiled() -> Iterator[tuple[str, str]]:
    """The documents inside wandb-core, which is where `wandb sync` sends from."""
    binary = (Path(wandb.__file__).parent / "bin" / "wandb-core").read_bytes()
    for match in re.finditer(rb"\n(?:query|mutation) (\w+) ?[({]", binary):
        text = binary[match.start() : match.start() + 6000].decode("utf-8", "replace")
        yield match[1].decode(), _complete(text)


def _complete(text: str) -> str:
    """An operation and the fragments behind it: up to where no further fragment follows a closing brace."""
    depth = 0
    for position, character in enumerate(text):
        depth += {"{": 1, "}": -1}.get(character, 0)
        closed = character == "}" and depth == 0
        if closed and not text[position + 1 :].lstrip().startswith("fragment "):
            return text[: position + 1]
    return text


def _plain(name: str) -> str:
    """`DELETE_TEAM_GQL` and `DeleteTeam` alike as `DeleteTeam`."""
    return "".join(part.title() for part in name.removesuffix("_GQL").split("_")) if name.isupper() else name


DOCUMENTS = dict([*_generated(), *_compiled()])
IN_SCOPE = sorted(name for name in DOCUMENTS if not OUT_OF_SCOPE.search(_plain(name)))


def test_the_documents_of_the_client_were_found() -> None:
    expected = {"UpsertBucket", "RunResumeStatus", "CreateArtifact", "HistoryPage", "GET_VIEWER_GQL"}
    assert expected <= set(IN_SCOPE)


@pytest.mark.parametrize("name", IN_SCOPE)
def test_a_document_of_the_client_is_understood(name: str) -> None:
    assert [error.message for error in validate(schema(), parse(DOCUMENTS[name]))] == []
