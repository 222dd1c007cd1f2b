"""Any JSON server: a request template, and where in the answer the rewards are."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from darwin_align.backends.endpoint.rewards.base import (
    Form,
    Item,
    RewardDialect,
    Unread,
    Wire,
    by_place,
    found,
    number,
    rows,
)
from darwin_align.core.errors import ConfigError
from darwin_align.core.record import did_you_mean

__all__ = ["JsonMapping", "picked"]

_ITS_OWN: dict[str, Form] = {"ids": "ids", "text": "text", "messages": "messages", "response": "pair"}
"""Placeholders that differ between the responses of one call, and the form that fills them."""
_NAMES = ("model", "prompt", *_ITS_OWN)
_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_EACH = "{each}"


class JsonMapping(RewardDialect):
    """Says how a server of your own is asked and read.

    A string that is nothing but a placeholder becomes the thing itself; within a longer string it becomes text:

    * ``{prompt}``: the conversation's texts, a blank line between two turns;
    * ``{response}``: the answer's text;
    * ``{text}``: both in the reward model's chat template, for which the scorer needs ``tokenizer=…``;
    * ``{ids}``: the same as token ids;
    * ``{messages}``: OpenAI's messages, the answer as the last one;
    * ``{model}``: the scorer's ``model``.

    An object ``{"{each}": template}`` becomes a list with one entry for each response of a batch. Without one, every
    response is a request of its own.

    Args:
        path: behind the base URL, e.g. ``"/score"``.
        request: the request's body.
        reward: where the rewards are: names and list places joined by dots, ``*`` for every entry of a list.
        index: where the places of the rewards in the request are, if the server sorts them.
        special: whether the server's tokenizer adds special tokens to ``{text}``, so that no BOS must be sent.

    Raises:
        ConfigError: an unknown placeholder, an answer that is never sent, or a path that cannot fit the request.

    >>> rerank = JsonMapping(
    ...     "/rerank",
    ...     request={"query": "{prompt}", "texts": {"{each}": "{response}"}},
    ...     reward="results.*.score",
    ...     index="results.*.index",
    ... )
    >>> rerank.request("", [Item("pair", "Hi", "Hello!"), Item("pair", "Hi", "What?")])[1]
    {'query': 'Hi', 'texts': ['Hello!', 'What?']}
    >>> rerank.read({"results": [{"index": 1, "score": 3.0}, {"index": 0, "score": 2.0}]})
    [2.0, 3.0]
    """

    name: ClassVar[str] = "mapping"
    has_models: ClassVar[bool] = False

    def __init__(
        self, path: str, request: Mapping[str, Any], reward: str, *, index: str | None = None, special: bool = True
    ) -> None:
        self.path, self.template, self.reward, self.index, self.special = path, request, reward, index, special
        outside, inside = list(_placeholders(request, inside=False)), list(_placeholders(request, inside=True))
        self._used = frozenset(outside + inside)
        self._batch = bool(inside)
        _check(self._used, outside if inside else [])
        if self._batch and not all("*" in where.split(".") for where in (reward, index) if where is not None):
            raise ConfigError("the request has {each}, so reward (and index) need a * where the answer has a list")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.path!r}, reward={self.reward!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, JsonMapping) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((self.path, self.reward))

    @property
    def calls_address(self) -> bool:
        """Where its path is empty."""
        return not self.path

    def takes(self) -> tuple[Form, ...]:
        """What its placeholders need."""
        return (next(form for name, form in _ITS_OWN.items() if name in self._used),)

    def most(self, form: Form) -> int | None:  # noqa: ARG002
        """One, or as many as wanted where the template has ``{each}``."""
        return None if self._batch else 1

    def request(self, model: str, items: Sequence[Item]) -> Wire:
        """Fill the template.

        Raises:
            ConfigError: it has ``{model}``, and the scorer has none.
        """
        if not model and "model" in self._used:
            raise ConfigError("the request template has {model}: give the scorer a model=…")
        each = [_values(model, item) for item in items]
        body = _filled(self.template, each[0], each)
        return self.path, body

    def read(self, data: Any) -> list[float]:
        """Follow the path to the rewards."""
        rewards = [number(value) for value in picked(data, self.reward)]
        if self.index is None:
            return rewards
        return by_place(picked(data, self.index), rewards)


def picked(data: Any, path: str) -> list[Any]:
    """Return what a dotted path leads to.

    >>> picked({"results": [{"score": 1}, {"score": 2}]}, "results.*.score")
    [1, 2]
    >>> picked([[0.5]], "0.0")
    [0.5]
    """
    values = [data]
    for step in path.split(".") if path else ():
        if step == "*":
            values = [entry for value in values for entry in rows(value)]
        else:
            values = [_step(value, step, path) for value in values]
    return values


def _step(value: Any, step: str, path: str) -> Any:
    try:
        return found(value, int(step) if isinstance(value, list) and step.isdigit() else step)
    except Unread:
        raise Unread(f"it has nothing at {path!r} ({step!r} is missing)") from None


def _placeholders(template: Any, *, inside: bool, here: bool = False) -> Iterator[str]:
    """Names in a template: those inside of ``{each}``, or those outside."""
    if isinstance(template, str) and here == inside:
        yield from _PLACEHOLDER.findall(template)
    elif isinstance(template, Mapping):
        if _is_each(template):
            if here:
                raise ConfigError("the request template has {each} inside of {each}")
            yield from _placeholders(template[_EACH], inside=inside, here=True)
        else:
            for value in template.values():
                yield from _placeholders(value, inside=inside, here=here)
    elif isinstance(template, Sequence) and not isinstance(template, str):
        for value in template:
            yield from _placeholders(value, inside=inside, here=here)


def _is_each(template: Mapping[str, Any]) -> bool:
    if _EACH in template and len(template) > 1:
        raise ConfigError('{each} stands alone in its object: {"{each}": template}')
    return _EACH in template


def _check(used: frozenset[str], outside: Sequence[str]) -> None:
    if unknown := sorted(used - {*_NAMES}):
        raise ConfigError(
            f"the request template has the placeholder {{{unknown[0]}}}: {did_you_mean(unknown[0], _NAMES)}"
        )
    if not used & _ITS_OWN.keys():
        raise ConfigError(
            "the request template never sends the answer: it needs {response}, {text}, {ids} or {messages}"
        )
    if several := sorted(used & (_ITS_OWN.keys() - {"response"}))[1:]:
        raise ConfigError(f"the request template has {{{several[0]}}} beside another whole input: send one of them")
    if strays := sorted({*outside} & _ITS_OWN.keys()):
        raise ConfigError(f"the request template has {{{strays[0]}}} outside of {{each}}: it differs between responses")


def _values(model: str, item: Item) -> dict[str, Any]:
    return {
        "model": model,
        "prompt": item.question,
        "response": item.answer,
        "text": item.text,
        "ids": list(item.ids),
        "messages": list(item.messages),
    }


def _filled(template: Any, values: Mapping[str, Any], each: Sequence[Mapping[str, Any]]) -> Any:
    if isinstance(template, str):
        if (whole := _PLACEHOLDER.fullmatch(template)) is not None:
            return values[whole[1]]
        return _PLACEHOLDER.sub(lambda match: str(values[match[1]]), template)
    if isinstance(template, Mapping):
        if _is_each(template):
            return [_filled(template[_EACH], own, each) for own in each]
        return {name: _filled(value, values, each) for name, value in template.items()}
    if isinstance(template, Sequence):
        return [_filled(value, values, each) for value in template]
    return template
