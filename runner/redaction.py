"""Keys in a command line never reach the spool. Pure.

Replaced are: the value of `WANDB_API_KEY` wherever it stands, what follows a flag or an assignment whose name speaks of
a key, a token, a secret or a password, and W&B's own key form. What is replaced is told apart by nothing: two commands
that differ only in their key look the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

HIDDEN = "[hidden]"

_NAME = re.compile(r"(?i)^-{0,2}[\w.\-]*(?:api[_-]?key|wandb[_-]?key|token|secret|passw(?:or)?d)[\w.\-]*$")
_KEY = re.compile(r"wandb_v\d+_[\w-]{20,}")
_ASSIGNMENT = re.compile(
    r"(?i)(\b[\w.\-]*(?:api[_-]?key|wandb[_-]?key|token|secret|passw(?:or)?d)[\w.\-]*\s*[=:]\s*)\S+"
)
_LOGIN = re.compile(r"(\bwandb\s+login\s+(?:--\S+\s+)*)[\w-]{40,}")
_NOT_SECRET = re.compile(r"^\d+$|^(?i:true|false|none)$|^-")  # `--max-tokens 512`, `--token-dropout true`


def redact(command: Sequence[str], environ: Mapping[str, str]) -> list[str]:
    """The command as it may be recorded."""
    key = environ.get("WANDB_API_KEY") or ""
    shown: list[str] = []
    for index, word in enumerate(command):
        before = command[index - 1] if index else ""
        if before.startswith("-") and "=" not in before and _NAME.match(before) and not _NOT_SECRET.match(word):
            shown.append(HIDDEN)
        else:
            shown.append(_redact_word(word, key))
    return _redact_login(shown)


def _redact_word(word: str, key: str) -> str:
    if len(key) >= 8:
        word = word.replace(key, HIDDEN)
    word = _KEY.sub(HIDDEN, word)
    word = _LOGIN.sub(rf"\g<1>{HIDDEN}", word)
    return _ASSIGNMENT.sub(_hide_value, word)


def _hide_value(match: re.Match[str]) -> str:
    value = match[0][len(match[1]) :]
    return match[0] if _NOT_SECRET.match(value) else match[1] + HIDDEN


def _redact_login(words: list[str]) -> list[str]:
    """`wandb login KEY`, spelled out as words."""
    for index, word in enumerate(words[:-2]):
        if word.rpartition("/")[2] == "wandb" and words[index + 1] == "login":
            return [
                HIDDEN if place > index + 1 and re.fullmatch(r"[\w-]{40,}", later) else later
                for place, later in enumerate(words)
            ]
    return words
