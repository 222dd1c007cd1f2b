"""A prompt and its answers as one row of tokens: the prompt is read once, every answer sees it and itself alone.

Behind each answer stand the tokens that close a turn, once for every cut: a pair of them has the position that it has
where the answer ends there, and sees the answer up to the cut. So one pass judges an answer whole and as prefixes, each
exactly as a reward model reads it: closed by the chat template, at the last token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor

from darwin_align import Request, Response
from darwin_align.backends.templates import ChatTemplate
from training.small.data import Group

CUTS = (24, 48)
"""Tokens after which every answer is judged as a prefix."""
SHARES = (0.25, 0.5, 0.75)
"""Of the median length of a prompt's answers: further such counts."""
LONGEST = 768
"""Tokens of an answer that are read."""
LONGEST_PROMPT = 1024
_ANSWER = "Yes"


@dataclass(frozen=True)
class Encoded:
    """Token ids of a prompt and of answers to it, and the token counts at which each answer is judged."""

    prompt: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...]
    cuts: tuple[tuple[int, ...], ...]
    """Of each answer, ascending; the last is its length unless the answer is a beginning."""
    whole: tuple[bool, ...]
    """Whether an answer's last cut is its end."""


@dataclass(frozen=True)
class Segment:
    """Where an answer and its closing tokens stand in the row."""

    begin: int
    end: int
    mask: Tensor
    """What its tokens see, shape (end - begin, prompt + end - begin); bool."""


@dataclass(frozen=True)
class Packed:
    """One row of tokens."""

    ids: Tensor
    positions: Tensor
    prompt: int
    segments: tuple[Segment, ...]
    reads: tuple[int, ...]
    """Where the rewards are read: of the first answer at each cut, then of the second …"""


class Codec:
    """Encodes groups as the reward model's chat template renders them."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self.template = tokenizer, ChatTemplate(tokenizer, name="the policy", role="reward model")
        _, self.closing = self._around("x")

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(text, add_special_tokens=False, verbose=False))

    def _around(self, prompt: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """What stands in front of an answer and behind it."""
        request, answer = Request.of(prompt), [Response(text=_ANSWER)]
        [opened], [closed] = (self.template.answer_ids(request, answer, turn) for turn in ("open", "closed"))
        return tuple(opened[: -len(self._ids(_ANSWER))]), tuple(closed[len(opened) :])

    def encode(self, group: Group) -> Encoded:
        """Tokens of a group; long prompts lose their middle, long answers their end."""
        prompt, _ = self._around(group.prompt)
        if len(prompt) > LONGEST_PROMPT:
            half = LONGEST_PROMPT // 2
            prompt = (*prompt[:half], *prompt[-half:])
        answers = [self._ids(text.strip() or " ")[:LONGEST] for text in group.answers]
        cuts = []
        counts = sorted({*CUTS, *shares_of([len(ids) for i, ids in enumerate(answers) if i not in group.beginnings])})
        for place, ids in enumerate(answers):
            found = [cut for cut in counts if cut < len(ids)]
            if place not in group.beginnings or not found:
                found.append(len(ids))
            cuts.append(tuple(found))
        whole = tuple(place not in group.beginnings for place in range(len(answers)))
        return Encoded(prompt, tuple(answers), tuple(cuts), whole)

    def pack(self, encoded: Encoded) -> Packed:
        """Lay out a group as one row."""
        ids, positions = list(encoded.prompt), list(range(len(encoded.prompt)))
        segments, reads = [], []
        for answer, cuts in zip(encoded.answers, encoded.cuts, strict=True):
            begin = len(ids)
            ids += answer
            positions += range(len(encoded.prompt), len(encoded.prompt) + len(answer))
            for cut in cuts:
                ids += self.closing
                positions += range(len(encoded.prompt) + cut, len(encoded.prompt) + cut + len(self.closing))
                reads.append(len(ids) - 1)
            mask = _mask(len(encoded.prompt), len(answer), cuts, len(self.closing))
            segments.append(Segment(begin, len(ids), mask))
        return Packed(torch.tensor(ids), torch.tensor(positions), len(encoded.prompt), tuple(segments), tuple(reads))


def shares_of(lengths: Sequence[int]) -> list[int]:
    """Token counts at :data:`SHARES` of the median length; one token at least.

    >>> shares_of([100, 40, 200])
    [25, 50, 75]
    """
    return [max(1, round(share * median(lengths))) for share in SHARES]


def _mask(prompt: int, answer: int, cuts: Sequence[int], closing: int) -> Tensor:
    length = answer + len(cuts) * closing
    mask = torch.zeros(length, prompt + length, dtype=torch.bool)
    mask[:, :prompt] = True
    mask[:answer, prompt : prompt + answer] = torch.ones(answer, answer, dtype=torch.bool).tril()
    for number, cut in enumerate(cuts):
        begin = answer + number * closing
        mask[begin : begin + closing, prompt : prompt + cut] = True
        mask[begin : begin + closing, prompt + begin : prompt + begin + closing] = torch.ones(
            closing, closing, dtype=torch.bool
        ).tril()
    return mask
