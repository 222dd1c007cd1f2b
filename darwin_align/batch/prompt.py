"""One prompt of a batch: read from a row, and known by its key."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import astuple, dataclass, fields
from functools import cached_property
from hashlib import sha256
from typing import Any

from darwin_align.core.errors import ConfigError, RequestError
from darwin_align.core.setting_names import explain_unknown
from darwin_align.langchain.settings import SETTINGS

__all__ = ["REQUEST_FIELDS", "BadPromptError", "Fields", "Prompt", "as_json", "digest_of"]

REQUEST_FIELDS = (
    "tools", "tool_choice", "parallel_tool_calls", "response_format", "stop", "grounded", "grounded_in",
)  # fmt: skip
"""Fields of a row that go into the request as they are."""
_KNOWN_SETTINGS = SETTINGS | {"mutator", "selector", "stop"}


class BadPromptError(RequestError):
    """A row that no run can answer: the row must change."""


@dataclass(frozen=True)
class Fields:
    """Names of a row's fields.

    >>> Fields(prompt="question").prompt
    'question'
    """

    prompt: str = "prompt"
    messages: str = "messages"
    id: str = "id"
    seed: str = "seed"
    settings: str = "settings"

    def __post_init__(self) -> None:
        names = [*astuple(self), *REQUEST_FIELDS]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigError(f"two fields of a row cannot both be called {twice[0]!r}: give each another name")

    @cached_property
    def names(self) -> frozenset[str]:
        """Every field that is read."""
        return frozenset((*astuple(self), *REQUEST_FIELDS))


_OWN = tuple(field.name for field in fields(Fields))


@dataclass(frozen=True)
class Prompt:
    """The request of one row.

    >>> prompt = Prompt.read({"id": 7, "prompt": "How do I brew green tea?", "settings": {"cycles": 1}}, line=3)
    >>> prompt.key, prompt.settings
    ('7', {'cycles': 1})
    """

    key: str
    """The row's id, or its line's number and the digest's beginning."""
    line: int
    digest: str
    """Of conversation, settings and request fields: equal rows have equal digests."""
    conversation: str | list[dict[str, Any]]
    settings: dict[str, Any]
    request: dict[str, Any]
    """Those of :data:`REQUEST_FIELDS` that the row has."""
    seed: int | None = None

    @classmethod
    def read(cls, row: Mapping[str, Any], *, line: int, names: Fields = Fields()) -> Prompt:
        """Read a row. A field that is ``None`` is not there.

        Raises:
            BadPromptError: the row cannot be answered; the reason states what to change.
        """
        given = {name: row.get(getattr(names, name)) for name in _OWN}
        _refuse_strays(row, names)
        conversation = _conversation(given["prompt"], given["messages"], row, names)
        settings, seed = _settings(given["settings"], names.settings), _seed(given["seed"], names.seed)
        if seed is not None and "seed" in settings:
            raise BadPromptError(f"the seed is given twice, as {names.seed!r} and in {names.settings!r}: give it once")
        seed = _seed(settings.pop("seed", None), "seed") if seed is None else seed
        request = {name: row[name] for name in REQUEST_FIELDS if row.get(name) is not None}
        digest = digest_of([conversation, settings, request, seed])
        key = _key(given["id"], names.id)
        return cls(key or f"{line}-{digest[:12]}", line, digest, conversation, settings, request, seed)


def as_json(value: object) -> str:
    r"""Compact JSON of one line, also for readers that end a line at other characters than the line feed.

    >>> as_json({"answer": "a\u2028b"})
    '{"answer":"a\\u2028b"}'
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for char in "\x85\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text


def digest_of(value: object) -> str:
    """A digest of plain JSON data.

    Raises:
        BadPromptError: it contains something that cannot be encoded as UTF-8 JSON.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return sha256(text.encode()).hexdigest()[:32]
    except UnicodeEncodeError:
        raise BadPromptError("it holds half of a surrogate pair, which is no character: take it out") from None
    except (TypeError, ValueError) as error:
        raise BadPromptError(f"it holds something that is no JSON ({error})") from None
    except RecursionError:
        raise BadPromptError("it is nested too deeply") from None


def _refuse_strays(row: Mapping[str, Any], names: Fields) -> None:
    # A further column is normal in data; an ignored setting would be a wrong answer.
    strays = (row.keys() & _KNOWN_SETTINGS) - names.names
    if strays := {name for name in strays if row[name] is not None}:
        raise BadPromptError(f"{min(strays)!r} is a setting: put it into an object, {names.settings!r}")


def _conversation(
    prompt: object, messages: object, row: Mapping[str, Any], names: Fields
) -> str | list[dict[str, Any]]:
    if prompt is not None and messages is not None:
        raise BadPromptError(f"it has {names.prompt!r} and {names.messages!r}: give one of them")
    if prompt is None and messages is None:
        has = ", ".join(sorted(map(str, row))[:8]) or "nothing"
        raise BadPromptError(
            f"it has neither {names.prompt!r} nor {names.messages!r} (it has {has}): name the field to read"
        )
    if messages is None:
        if not isinstance(prompt, str) or not prompt.strip():
            raise BadPromptError(f"{names.prompt!r} is {_shown(prompt)}: give a text")
        return prompt
    if not isinstance(messages, list) or not messages or not all(isinstance(turn, dict) for turn in messages):
        raise BadPromptError(
            f"{names.messages!r} is {_shown(messages)}: give a list of objects with 'role' and 'content'"
        )
    return [_turn(turn, f"{names.messages}[{i}]") for i, turn in enumerate(messages)]


def _turn(turn: dict[str, Any], place: str) -> dict[str, Any]:
    turn = {name: value for name, value in turn.items() if value is not None}
    if not isinstance(turn.get("role"), str):
        raise BadPromptError(f"{place} has no 'role': give 'system', 'user', 'assistant' or 'tool'")
    if not isinstance(turn.setdefault("content", ""), (str, list)):
        raise BadPromptError(f"the content of {place} is {_shown(turn['content'])}: give a text, or a list of blocks")
    return turn


def _settings(given: object, name: str) -> dict[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise BadPromptError(f'{name!r} is {_shown(given)}: give an object, e.g. {{"cycles": 1}}')
    if unknown := sorted(given.keys() - _KNOWN_SETTINGS):
        raise BadPromptError(f"unknown setting {unknown[0]!r}: {explain_unknown(unknown[0], _KNOWN_SETTINGS, '')}")
    return {setting: value for setting, value in given.items() if value is not None}


def _seed(given: object, name: str) -> int | None:
    if given is not None and (isinstance(given, bool) or not isinstance(given, int)):
        raise BadPromptError(f"{name!r} is {_shown(given)}: give a whole number")
    return given


def _key(given: object, name: str) -> str | None:
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, (str, int)) or given == "":
        raise BadPromptError(f"{name!r} is {_shown(given)}: give a text or a whole number")
    digest_of(given)  # refuses what JSON cannot encode
    return str(given)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
