"""A run is never nameless: ``run.name`` is None offline, and every program that writes to ``ckpt/{run.name}`` would
write to ``ckpt/None``.

The name follows from the run id, so that all fragments of a run agree, and it is in the log from the first record.
"""

from __future__ import annotations

import hashlib
from typing import Any

from .anatomy import part

ADJECTIVES = [
    "amber",
    "bold",
    "brisk",
    "calm",
    "clear",
    "cosmic",
    "crisp",
    "deep",
    "eager",
    "early",
    "fair",
    "fine",
    "fleet",
    "fresh",
    "gentle",
    "glad",
    "golden",
    "grand",
    "happy",
    "hidden",
    "honest",
    "icy",
    "jolly",
    "keen",
    "kind",
    "late",
    "light",
    "lively",
    "lucky",
    "lunar",
    "mellow",
    "mild",
    "misty",
    "modest",
    "neat",
    "noble",
    "olive",
    "patient",
    "plain",
    "polar",
    "proud",
    "quick",
    "quiet",
    "rapid",
    "rare",
    "royal",
    "rustic",
    "sage",
    "silent",
    "silver",
    "sleek",
    "smooth",
    "solar",
    "steady",
    "still",
    "stout",
    "sunny",
    "swift",
    "tidy",
    "vivid",
    "warm",
    "wild",
    "wise",
    "young",
]
NOUNS = [
    "anchor",
    "aspen",
    "badger",
    "beacon",
    "birch",
    "breeze",
    "brook",
    "canyon",
    "cedar",
    "cliff",
    "cloud",
    "comet",
    "coral",
    "crane",
    "creek",
    "dawn",
    "delta",
    "dune",
    "eagle",
    "elm",
    "ember",
    "falcon",
    "fern",
    "field",
    "fjord",
    "forest",
    "fox",
    "glacier",
    "grove",
    "harbor",
    "hawk",
    "heron",
    "hill",
    "island",
    "lagoon",
    "lake",
    "lark",
    "lynx",
    "maple",
    "meadow",
    "mesa",
    "moon",
    "moss",
    "oak",
    "orbit",
    "otter",
    "owl",
    "pine",
    "plain",
    "pond",
    "quartz",
    "rain",
    "reef",
    "ridge",
    "river",
    "robin",
    "sail",
    "shore",
    "spruce",
    "star",
    "stone",
    "storm",
    "trail",
    "valley",
    "willow",
]


def name_for(run_id: str) -> str:
    digest = int.from_bytes(hashlib.sha256(run_id.encode("utf-8", "replace")).digest()[:8], "big")
    digest, number = divmod(digest, 10000)
    digest, noun = divmod(digest, len(NOUNS))
    return f"{ADJECTIVES[digest % len(ADJECTIVES)]}-{NOUNS[noun]}-{number}"


def install() -> None:
    wandb_init = part("wandb_init")
    original = getattr(wandb_init._WandbInit, "set_run_id", None)
    if original is None:
        return  # an older wandb: ``ensure`` names the run after init

    def set_run_id(self: Any, settings: Any, *args: Any, **kwargs: Any) -> Any:
        answer = original(self, settings, *args, **kwargs)
        if not settings.run_name and settings.run_id:
            settings.run_name = name_for(settings.run_id)
        return answer

    wandb_init._WandbInit.set_run_id = set_run_id


def ensure(run: Any) -> None:
    if not run.name:
        run.name = name_for(str(run.id))
