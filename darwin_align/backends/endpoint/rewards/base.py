"""The base of reward dialects: how responses become a request, and how its reply becomes rewards."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeVar

from darwin_align.core.json_types import Json

__all__ = [
    "Form",
    "Item",
    "RewardDialect",
    "UnexpectedReply",
    "Wire",
    "found",
    "in_order",
    "number",
    "ordered_by_index",
    "rows",
    "single_number",
]

T = TypeVar("T")

Form = Literal["ids", "text", "pair", "messages"]
"""How one response is sent: as token ids; as the text that the chat template renders; as the plain texts of the
conversation and the answer; as messages, which the server renders."""

Wire = tuple[str, dict[str, Any]]
"""Path and body of a request."""


class UnexpectedReply(Exception):  # noqa: N818 - the scorer makes an error of it that names the server
    """A reply does not have the shape that the dialect expects."""


@dataclass(frozen=True)
class Item:
    """One response as it is sent. Fields that its form does not need are empty, except the plain texts."""

    form: Form
    question: str = ""
    """The conversation's texts, a blank line between two turns."""
    answer: str = ""
    """The response's text."""
    ids: tuple[int, ...] = ()
    before: str = ""
    """Rendered text up to the answer."""
    after: str = ""
    """Rendered text from the answer on."""
    messages: tuple[Mapping[str, Any], ...] = field(default=(), compare=False)
    """OpenAI's messages, the answer as the last one. (Items of one call share a conversation, so equality of their
    answers is enough.)"""
    open: bool = False
    """Whether the answer's turn is left open."""

    @property
    def text(self) -> str:
        """The whole rendered text."""
        return self.before + self.after


class RewardDialect(ABC):
    """One kind of reward server. Subclass it for another one and pass an instance as ``dialect=``.

    ``request`` returns the path and body for some responses, ``read`` the rewards in the reply, one for each. The
    scorer checks that there are as many rewards as responses and that they are finite.

    >>> class Rerank(RewardDialect):
    ...     name, forms, has_models = "rerank", ("pair",), False
    ...
    ...     def request(self, model, items):
    ...         return "/rerank", {"query": items[0].question, "texts": [item.answer for item in items]}
    ...
    ...     def read(self, data):
    ...         return [number(found(entry, "score")) for entry in in_order(rows(data, "results"))]
    >>> Rerank().request("", [Item("pair", "Hi", "Hello!"), Item("pair", "Hi", "What?")])[1]
    {'query': 'Hi', 'texts': ['Hello!', 'What?']}
    >>> Rerank().read({"results": [{"index": 1, "score": 3.0}, {"index": 0, "score": 2.0}]})
    [2.0, 3.0]
    """

    name: ClassVar[str]
    forms: ClassVar[tuple[Form, ...]] = ()
    """The forms that the server takes, best first."""
    special: bool = True
    """Whether the server adds the tokenizer's special tokens to texts."""
    joins: ClassVar[bool] = False
    """Whether texts are sent in two parts, which the server's tokenizer joins."""
    has_models: ClassVar[bool] = True
    """Whether the server lists its models and requires a model's name in requests."""
    opens: ClassVar[bool] = False
    """Whether a request can leave the last message open."""
    info_path: ClassVar[str | None] = None
    """Where the server reports its limits, see :meth:`most_in`."""
    hint: ClassVar[str] = ""
    """What to check when the server has no such path."""
    caution: ClassVar[str] = ""
    """What a user of this dialect must know, reported once."""

    @abstractmethod
    def request(self, model: str, items: Sequence[Item]) -> Wire:
        """Return the path and the body of a request.

        Args:
            model: the model's name on the server.
            items: the responses, all of one form; no more than :meth:`most`.
        """

    @abstractmethod
    def read(self, data: Json) -> list[float]:
        """Read the rewards, in the order of the request's items.

        Raises:
            UnexpectedReply: the reply has another shape.
        """

    @property
    def calls_address(self) -> bool:
        """Whether requests go to the base URL itself, without a path: then nothing is removed from it."""
        return False

    def most(self, form: Form) -> int | None:
        """The most responses in one request; ``None`` without a limit."""
        return 1 if form == "messages" else None

    def most_in(self, info: Json) -> int | None:  # noqa: ARG002
        """The most responses in one request, read from the reply at :attr:`info_path`."""
        return None

    def tokens(self, data: Json) -> int | None:
        """Tokens that the server read, where its reply reports them."""
        usage = data.get("usage") if isinstance(data, Mapping) else None
        count = usage.get("prompt_tokens") if isinstance(usage, Mapping) else None
        return count if isinstance(count, int) else None


def rows(data: Json, key: str | None = None) -> list[Json]:
    """Return the list that a reply is, or has under a key."""
    value = data if key is None else found(data, key)
    if not isinstance(value, list):
        raise UnexpectedReply(f"{'it' if key is None else repr(key)} is no list")
    return value


def found(data: Json, *path: str | int) -> Json:
    """Return a value inside a reply: names are keys of objects, numbers are indices of lists.

    >>> found({"data": [{"score": 1.5}]}, "data", 0, "score")
    1.5
    """
    value = data
    for step in path:
        known: Json = value if isinstance(value, Mapping if isinstance(step, str) else list) else {}
        try:
            value = known[step]
        except (KeyError, IndexError):
            raise UnexpectedReply(f"{'.'.join(map(str, path))} is missing in it") from None
    return value


def number(value: Json) -> float:
    """Return a JSON number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise UnexpectedReply(f"{str(value)[:40]!r} stands where a number should")
    return float(value)


def single_number(values: Json, of: str) -> float:
    """Return the one number of a list: a reward model has one label."""
    if not isinstance(values, list):
        raise UnexpectedReply(f"{of} is no list")
    if len(values) != 1:
        raise UnexpectedReply(f"{of} holds {len(values)} numbers, and a reward is one: serve a model with num_labels=1")
    return number(values[0])


def in_order(entries: Sequence[Json]) -> list[Json]:
    """Return entries by their ``index``, where they have one."""
    if not any(isinstance(entry, Mapping) and "index" in entry for entry in entries):
        return list(entries)
    return ordered_by_index([found(entry, "index") for entry in entries], entries)


def ordered_by_index(places: Sequence[Json], values: Sequence[T]) -> list[T]:
    """Return values in the order of their places, which must be 0, 1, 2 … in any order.

    >>> ordered_by_index([1, 0], ["b", "a"])
    ['a', 'b']
    """
    wanted = dict(zip(places, values, strict=False)) if all(isinstance(place, int) for place in places) else {}
    if len(places) != len(values) or wanted.keys() != {*range(len(values))}:
        raise UnexpectedReply(f"its {len(values)} rewards have the places {str(list(places))[:60]}")
    return [wanted[place] for place in range(len(values))]
