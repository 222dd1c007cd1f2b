"""Finds by a chat template and its tokenizer how a model's thoughts begin and end.

Evidence is, in this order: the marks of channels among the tokenizer's tokens and in the template; a prompt that ends
with a tag; the tags that the template renders around an assistant's ``reasoning_content``; tags that occur in the
template; tags among the tokenizer's tokens. A model whose template and tokenizer show none of these does not think.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

from darwin_align.formats.thoughts import Channels, Mark, Tags, ThoughtFormat

__all__ = ["thought_format"]

Render = Callable[[list[dict[str, Any]]], str]
"""Renders a conversation; a prompt if it ends with a user turn, "" if the template refuses it."""

_PAIRS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("[THINK]", "[/THINK]"),
    ("<|channel>thought", "<channel|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|think|>", "<|/think|>"),
    ("<|thinking|>", "</|thinking|>"),
    ("<seed:think>", "</seed:think>"),
    ("◁think▷", "◁/think▷"),
)
"""Marks of known families."""
_AT_THE_END = re.compile(r"(<\|?(?:[a-z]+:)?(?:think|thinking|thought|reasoning)\|?>|\[THINK\])\s*\Z", re.IGNORECASE)
_TAG_BEFORE = re.compile(r"(<[^<>\s]{2,40}>|\[[A-Z_]{3,30}\]|◁[^▷\s]{2,30}▷)\s*\Z")
_TAG_BEHIND = re.compile(r"\A\s*(<[^<>\s]{2,40}>|\[/[A-Z_]{3,30}\]|◁[^▷\s]{2,30}▷)")
_HARMONY = ("<|start|>", "<|channel|>", "<|message|>", "<|end|>")
_HARMONY_STOPS = ("<|return|>", "<|call|>")
_THOUGHTS, _TEXT = "QzDarwinAlignThoughtsZq", "QzDarwinAlignTextZq"


def thought_format(tokenizer: Any, source: str, render: Render) -> ThoughtFormat | None:
    """The format of a model's thoughts; ``None`` if there is no evidence that it thinks.

    Args:
        tokenizer: a transformers tokenizer.
        source: the template's own text.
        render: renders conversations.
    """
    added = {token.content: at for at, token in tokenizer.added_tokens_decoder.items()}
    decode = partial(tokenizer.decode, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    if all(mark in added for mark in _HARMONY) and "<|channel|>" in source:
        answer = tokenizer.encode("<|end|><|start|>assistant<|channel|>final<|message|>", add_special_tokens=False)
        stops = frozenset(added[mark] for mark in _HARMONY_STOPS if mark in added)
        start, channel, message, end = (added[mark] for mark in _HARMONY)
        return Channels(start, channel, message, end, tuple(answer), decode, stops)
    if (found := _tags(source, render, added)) is None:
        return None
    begin, end_tag, lead = found
    return Tags(
        _mark(tokenizer, begin, added),
        _mark(tokenizer, end_tag, added),
        decode,
        tuple(tokenizer.encode(lead, add_special_tokens=False)) if lead else (),
    )


def _tags(source: str, render: Render, added: dict[str, int]) -> tuple[str, str, str] | None:
    """The tags that begin and end thoughts, and the white space behind them."""
    shown = _shown(render)
    if opened := _AT_THE_END.search(render([{"role": "user", "content": "x"}])):
        begin = opened[1]
        end = dict(_PAIRS).get(begin) or (begin.replace("[", "[/") if "[" in begin else begin.replace("<", "</", 1))
        return begin, end, shown[2] if shown and shown[1] == end else ""
    if shown is not None:
        return shown
    for begin, end in _PAIRS:
        if (begin in source and end in source) or (begin in added and end in added):
            return begin, end, ""
    return None


def _shown(render: Render) -> tuple[str, str, str] | None:
    """The tags that the template renders around the thoughts of an assistant's last turn."""
    turn = {"role": "assistant", "content": _TEXT, "reasoning_content": _THOUGHTS}
    before, found, rest = render([{"role": "user", "content": "x"}, turn]).partition(_THOUGHTS)
    between, text, _ = rest.partition(_TEXT)
    if not (found and text):
        return None
    for begin, end in _PAIRS:
        if before.rstrip().endswith(begin) and between.strip().startswith(end):
            return begin, end, _lead(between, end)
    opening, closing = _TAG_BEFORE.search(before), _TAG_BEHIND.match(between)
    if not (opening and closing):
        return None
    return opening[1], closing[1], _lead(between, closing[1])


def _lead(between: str, end: str) -> str:
    lead = between.partition(end)[2]
    return lead if not lead.strip() else ""


def _mark(tokenizer: Any, text: str, added: dict[str, int]) -> Mark:
    """A mark that holds a token of the tokenizer's own is found by its ids, one made of pieces of words by its text."""
    ids = tuple(tokenizer.encode(text, add_special_tokens=False))
    return Mark(text, ids if set(ids) & set(added.values()) else (), ids)
