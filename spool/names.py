"""Names that W&B takes. The rules are those of wandb's own client (0.31); a server may have more. Pure.

Each function returns what is wrong in one phrase, or None.
"""

from __future__ import annotations

PROJECT_CHARACTERS = "/\\#?%:"
RUN_ID_CHARACTERS = ":;,#?/'"
NAME_LIMIT = 128
TAG_LIMIT = 64


def wrong_project(project: str) -> str | None:
    """What is wrong with the name of a project."""
    return _wrong("a project", project, PROJECT_CHARACTERS)


def wrong_entity(entity: str) -> str | None:
    """What is wrong with the name of an account or a team, as far as it can't be part of an address."""
    return _wrong("an entity", entity, PROJECT_CHARACTERS)


def wrong_run_id(run_id: str) -> str | None:
    """What is wrong with a run's id."""
    return _wrong("a run id", run_id, RUN_ID_CHARACTERS)


def wrong_tag(tag: str) -> str | None:
    """What is wrong with a tag."""
    if 1 <= len(tag) <= TAG_LIMIT:
        return None
    return f"a tag has 1 to {TAG_LIMIT} characters, {_shown(tag)} has {len(tag)}"


def wrong_target(entity: str | None, project: str | None, run_id: str | None) -> str | None:
    """The first thing that is wrong with where a run should go; None stands for what is not decided yet."""
    checks = ((wrong_entity, entity), (wrong_project, project), (wrong_run_id, run_id))
    return next((wrong for check, name in checks if name is not None and (wrong := check(name))), None)


def _wrong(what: str, name: str, forbidden: str) -> str | None:
    if not name.strip():
        return f"{what} needs a name"
    if len(name) > NAME_LIMIT:
        return f"{what} has at most {NAME_LIMIT} characters, {_shown(name)} has {len(name)}"
    if name != name.strip():
        return f"{what} neither begins nor ends with a space: {_shown(name)}"
    found = sorted({character for character in name if character in forbidden or ord(character) < 32})
    if found:
        return f"{what} can't contain {' '.join(map(repr, found))}: {_shown(name)}"
    return None


def _shown(name: str) -> str:
    return repr(name if len(name) <= 40 else name[:37] + "…")
