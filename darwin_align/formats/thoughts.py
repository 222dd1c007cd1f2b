"""What a reasoning model thinks before it answers, and where that ends: by tags, or by channels.

A format is found from the chat template and the tokenizer (:mod:`darwin_align.backends.thought_formats`). A state is
read by its token ids, so that its thoughts and its text can be continued, scored and constrained apart.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

__all__ = ["Channels", "Decode", "Mark", "Split", "Tags", "ThoughtFormat", "end_of_thoughts", "without_thoughts"]

Decode = Callable[[Sequence[int]], str]
"""Token ids to text, special tokens included."""

_NAMES = "think|thinking|thought|thoughts|reasoning|seed:think"
_CLOSED = re.compile(
    rf"\s*(?:<\|?({_NAMES})\|?>|\[(THINK)\]|◁(think)▷).*?(?:</\|?\1\|?>|<\|/\1\|>|\[/\2\]|◁/\3▷)\s*", re.DOTALL | re.I
)
_OPENED = re.compile(rf"\s*(?:<\|?(?:{_NAMES})\|?>|\[THINK\]|◁think▷)", re.I)
_END = re.compile(rf"</\|?(?:{_NAMES})\|?>|<\|/(?:{_NAMES})\|>|\[/THINK\]|◁/think▷", re.I)
_FINAL = re.compile(
    r"<\|channel\|>final(?:\s*<\|constrain\|>\w+)?<\|message\|>(.*?)(?:<\|(?:return|end)\|>|\Z)", re.DOTALL
)
_CHANNEL_OF_TEXT = re.compile(r"<\|channel\|>(?:final|commentary)\b")
_WHITE_SPACE = 4
"""Tokens of white space that a model may put before its thoughts."""


def without_thoughts(reply: str) -> str:
    r"""The answer in a reply: a model's thoughts are left out, whole, without their beginning, or without their end.

    >>> without_thoughts("<think>\n1. Do not answer.\n</think>\n1. Explain it.")
    '1. Explain it.'
    >>> without_thoughts("So 7 of 10?</think>9"), without_thoughts("<think>So 7 of 10"), without_thoughts("9")
    ('9', '', '9')
    """
    if final := _FINAL.findall(reply):
        return str(final[-1]).strip()
    if behind := end_of_thoughts(reply):
        return reply[behind:].strip()
    ends = list(_END.finditer(reply))  # of thoughts that the prompt began
    return reply[ends[-1].end() :].strip() if ends else reply


def end_of_thoughts(text: str) -> int:
    r"""Index behind the thoughts that a text begins with, and behind white space after them; 0 if there are none.

    >>> end_of_thoughts("<think>So</think>\n\n9"), end_of_thoughts("<think>So"), end_of_thoughts("9")
    (19, 9, 0)
    """
    at = 0
    while closed := _CLOSED.match(text, at):
        at = closed.end()
    return len(text) if _OPENED.match(text, at) else at


class Split(NamedTuple):
    """A state's parts."""

    text: str
    thoughts: str = ""
    thinking: bool = False
    """Whether the text has not begun."""
    text_from: int = 0
    """Index of the text's first token."""
    ended: int = 0
    """Index behind the thoughts, where white space may come; 0 if there are none, or if they have not ended."""


@dataclass(frozen=True)
class Mark:
    """A piece of text that begins or ends thoughts."""

    text: str
    ids: tuple[int, ...] = ()
    """Its token ids, where they are the same wherever it stands; empty if it is found by its text."""
    spelled: tuple[int, ...] = ()
    """Ids that write it."""

    def within(self, ids: Sequence[int], decode: Decode, start: int = 0) -> tuple[int, int] | None:
        """Where it first stands among ids, as (begin, end): found by its text, from the token that it begins in."""
        if self.ids:
            width = len(self.ids)
            at = next((i for i in _places(ids, self.ids[0], start) if tuple(ids[i : i + width]) == self.ids), None)
            return None if at is None else (at, at + width)
        if self.text not in decode(ids[start:]):
            return None
        end = _least(start, len(ids), lambda k: self.text in decode(ids[start:k]))
        whole = decode(ids[start:end])
        before = whole[: whole.index(self.text)]
        return _least(start, end, lambda k: len(decode(ids[start:k])) > len(before)) - 1, end


def _places(ids: Sequence[int], token: int, start: int) -> Iterator[int]:
    while True:
        try:
            at = ids.index(token, start)
        except ValueError:
            return
        yield at
        start = at + 1


def _least(low: int, high: int, holds: Callable[[int], bool]) -> int:
    """The least number from ``low`` to ``high`` for which a condition holds that goes on to hold."""
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return low


class ThoughtFormat(ABC):
    """How one model's thoughts are told from its text, behind one prompt."""

    @abstractmethod
    def behind(self, prompt: str) -> ThoughtFormat | None:
        """The format of answers to a rendered prompt, which may begin the thoughts; ``None`` if it has ended them."""

    @abstractmethod
    def split(self, ids: Sequence[int], text_of: Decode) -> Split:
        """Take a state apart.

        Args:
            ids: the state.
            text_of: decodes ids without the tokens that frame turns.
        """

    @abstractmethod
    def may_turn(self, ids: Sequence[int]) -> bool:
        """Whether the last id may begin or end a part: if not, the state thinks as it did before that id."""

    @property
    @abstractmethod
    def begin_ids(self) -> tuple[int, ...]:
        """Ids by which the model may begin thoughts where it could also begin its text."""

    @property
    @abstractmethod
    def end_ids(self) -> tuple[int, ...]:
        """Ids that end the thoughts, for thoughts that have become too long."""

    @property
    def ends(self) -> frozenset[int]:
        """Ids that end an answer, besides the template's own."""
        return frozenset()

    @property
    def lead(self) -> tuple[int, ...]:
        """Ids of the white space that the template puts between the thoughts and the text."""
        return ()


@dataclass(frozen=True)
class Tags(ThoughtFormat):
    r"""Thoughts between two tags.

    >>> decode = lambda ids: "".join("<think>|</think>|So.|\n\n|Hi!".split("|")[i] for i in ids)
    >>> tags = Tags(Mark("<think>", (0,)), Mark("</think>", (1,)), decode)
    >>> tags.split([0, 2, 1, 3, 4], decode)
    Split(text='Hi!', thoughts='So.', thinking=False, text_from=4, ended=3)
    >>> tags.behind("Assistant: <think>").split([2], decode)
    Split(text='', thoughts='So.', thinking=True, text_from=1, ended=0)
    """

    begin: Mark
    end: Mark
    decode: Decode
    white_space: tuple[int, ...] = ()
    """Ids that the template puts between the thoughts' end and the text."""
    opened: bool = False
    """Whether the prompt has begun the thoughts."""

    def behind(self, prompt: str) -> Tags | None:
        """The format behind a prompt that ends with one of the tags, or with none."""
        last = prompt.rstrip()
        if last.endswith(self.end.text.rstrip()):
            return None
        return replace(self, opened=last.endswith(self.begin.text.rstrip()))

    def split(self, ids: Sequence[int], text_of: Decode) -> Split:
        """Thoughts are what stands before the end tag; a model that began none has text alone."""
        if (start := self._begun(ids)) is None:
            return Split(text_of(ids))
        end = self.end.within(ids, self.decode, start)
        if end is None:
            return Split("", self._bare(text_of(ids[start:])), thinking=True, text_from=len(ids))
        text_from = end[1]
        while text_from < len(ids) and not self.decode(ids[text_from : text_from + 1]).strip():
            text_from += 1
        if self.end.ids:
            thoughts, text = text_of(ids[start : end[0]]), text_of(ids[text_from:])
        else:  # the mark may share its first and last token with what is around it
            thoughts, _, text = text_of(ids[start:]).partition(self.end.text)
        return Split(text.lstrip(), self._bare(thoughts), text_from=text_from, ended=end[1])

    def split_text(self, state: str) -> Split:
        """Take a state of text apart, as :meth:`split` does one of ids."""
        if not self.opened:
            head = state.lstrip()
            if not head.startswith(self.begin.text):
                return Split(state)
            state = head.removeprefix(self.begin.text)
        thoughts, ended, text = state.partition(self.end.text)
        return Split(text.lstrip(), self._bare(thoughts), thinking=not ended)

    def joined(self, split: Split) -> str:
        """The state of text that was taken apart, up to white space around its parts."""
        if not (split.thoughts or split.thinking) and not (self.opened and split.text):
            return split.text
        begin = "" if self.opened else f"{self.begin.text}\n"
        end = "" if split.thinking else f"\n{self.end.text}\n\n{split.text}"
        return f"{begin}{split.thoughts}{end}"

    def before_thoughts(self, prompt: str) -> str:
        """A rendered prompt without the thoughts that it begins."""
        return prompt.rstrip().removesuffix(self.begin.text) if self.opened else prompt

    def behind_thoughts(self, turn: str) -> str:
        """A rendered turn from its text on."""
        thought = turn.lstrip().startswith(self.begin.text) and self.end.text in turn
        return turn.partition(self.end.text)[2].lstrip() if thought else turn

    def _bare(self, thoughts: str) -> str:
        return thoughts.strip().removeprefix(self.begin.text).strip()  # some models repeat the tag of the prompt

    def _begun(self, ids: Sequence[int]) -> int | None:
        """Index of the first id of the thoughts; ``None`` if the state begins with none."""
        if self.opened:
            return 0
        head = ids[: _WHITE_SPACE + (len(self.begin.ids) or len(self.begin.text))]
        found = self.begin.within(head, self.decode)
        if found is None or self.decode(ids[: found[0]]).strip():
            return None
        return found[1]

    def may_turn(self, ids: Sequence[int]) -> bool:
        """Whether a mark may end with the last id."""
        for mark in (self.begin, self.end):
            if mark.ids and tuple(ids[-len(mark.ids) :]) == mark.ids:
                return True
            if not mark.ids and mark.text.rstrip()[-1] in self.decode(ids[-1:]):
                return True
        return False

    @property
    def begin_ids(self) -> tuple[int, ...]:
        """The begin tag's, where they are always the same and the prompt has not begun the thoughts."""
        return () if self.opened else self.begin.ids

    @property
    def end_ids(self) -> tuple[int, ...]:
        """The end tag's."""
        return self.end.spelled or self.end.ids

    @property
    def lead(self) -> tuple[int, ...]:
        """The white space, as the template has it."""
        return self.white_space


@dataclass(frozen=True)
class Channels(ThoughtFormat):
    """Messages of several channels in one turn: ``final`` and ``commentary`` are text, all others are thoughts.

    A message to a recipient is a tool call: it is text as the model wrote it, marks included.
    """

    start: int
    channel: int
    message: int
    end: int
    answer: tuple[int, ...]
    """Ids that end a message of thoughts and begin that of the answer."""
    decode: Decode
    stops: frozenset[int] = frozenset()
    """Ids that end an answer: the last message's, and a call's."""
    body: bool = False
    """Whether the prompt has begun a message of thoughts."""

    def behind(self, prompt: str) -> Channels | None:
        """The format behind a prompt that begins the turn, or its thoughts."""
        if prompt.endswith("<|channel|>final<|message|>"):
            return None
        return replace(self, body=prompt.endswith("<|channel|>analysis<|message|>"))

    def split(self, ids: Sequence[int], text_of: Decode) -> Split:
        """Thoughts are the bodies of messages that are no text; the text begins with the first message that is."""
        if not (self.body or self._framed(ids)):
            return Split(text_of(ids))
        thoughts: list[str] = []
        texts: list[str] = []
        text_from = len(ids)
        for header, first, last in self._messages(ids):
            head = self.decode(ids[header.start : header.stop])
            if "to=" in head:
                texts.append(self._call(ids[header.start : last + 1]))
            elif _CHANNEL_OF_TEXT.search(head) or (head and "<|channel|>" not in head):
                texts.append(text_of(ids[first:last]))
            else:
                thoughts.append(text_of(ids[first:last]).strip())
                continue
            text_from = min(text_from, first)
        ended = text_from if texts else 0
        return Split("\n\n".join(texts), "\n\n".join(filter(None, thoughts)), not texts, text_from, ended)

    def _framed(self, ids: Sequence[int]) -> bool:
        """Whether a state begins with a message's header; a model that writes none has text alone."""
        if not ids or ids[0] in self._marks:
            return True
        head = self.decode(ids[:_WHITE_SPACE]).strip()
        return head.startswith("to=") or "to=".startswith(head)

    @property
    def _marks(self) -> frozenset[int]:
        return frozenset({self.start, self.channel, self.message, self.end})

    def _messages(self, ids: Sequence[int]) -> Iterator[tuple[range, int, int]]:
        """Of every message that has begun: where its header is, and where its body begins and ends."""
        ends, at, opened = {self.end, *self.stops}, 0, self.body
        while at < len(ids) or opened:
            first = 0 if opened else next(_places(ids, self.message, at), len(ids)) + 1
            if first > len(ids):
                return
            last = next((i for i in range(first, len(ids)) if ids[i] in ends), len(ids))
            yield range(at, first), first, last
            at, opened = last + 1, False

    def _call(self, ids: Sequence[int]) -> str:
        whole = self.decode(ids)
        return whole if whole.startswith("<|start|>") else f"<|start|>assistant{whole}"

    def may_turn(self, ids: Sequence[int]) -> bool:
        """Messages begin and end with marks; at the beginning it is open whether there are any."""
        return len(ids) <= _WHITE_SPACE or ids[-1] in self._marks

    @property
    def begin_ids(self) -> tuple[int, ...]:
        """None: a header comes before any text, and it is left to the model."""
        return ()

    @property
    def end_ids(self) -> tuple[int, ...]:
        """The end of a message, and the header of the answer."""
        return self.answer

    @property
    def ends(self) -> frozenset[int]:
        """The ends of the last message and of a call."""
        return self.stops
