"""Draws tokens: transformers' own warpers, then Gumbel-max with noise that is a function of its place.

The token is ``argmax(log p + g)`` with independent Gumbel ``g``, which samples from ``p`` exactly. Here ``g`` is a hash
of the row's seed, the position in the answer and the token id. So a row's tokens depend neither on who shares its batch
nor on how the answer is cut into calls, and there is no generator whose state could be shared.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import zip_longest
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from darwin_align.backends.local.columns import top_columns
from darwin_align.backends.local.noise import gumbel_noise, place_keys, seed_keys
from darwin_align.backends.local.wide import draw_from_all, draw_from_nuclei
from darwin_align.core.types import Sampling

__all__ = [
    "RowConstraint",
    "Sampler",
    "gumbel_noise",
    "masked_logits",
    "penalises",
    "penalties",
    "place_keys",
    "seed_keys",
    "top_columns",
    "warpers",
]

_WIDE = 1 << 14
"""Columns from which on a draw without top-k looks at few of them."""


def penalties(sampling: Sampling) -> LogitsProcessorList:
    """Processors that change logits by a row's history: they need all logits, and apply to greedy rows too."""
    processors = LogitsProcessorList()
    if sampling.repetition_penalty is not None and penalises(sampling):
        processors.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    return processors


def warpers(sampling: Sampling) -> LogitsProcessorList:
    """The warpers that ``generate`` then applies to the logits of a sampled row, in its order."""
    processors = LogitsProcessorList()
    if sampling.temperature != 1.0:
        processors.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k is not None:
        processors.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p is not None and sampling.top_p < 1.0:
        processors.append(TopPLogitsWarper(sampling.top_p))
    return processors


class RowConstraint(Protocol):
    """Which tokens a row may decode next. The sampler reads it before every draw; the row pushes what was drawn."""

    words: int
    """32-bit words that hold one bit for every token."""

    @property
    def call_mark(self) -> int | None:
        """Id of the token that begins a tool call, where the next token decides between calls and a format."""

    def fill(self, words: Tensor) -> None:
        """Set the bits of the allowed tokens.

        Args:
            words: int32 on the CPU, zeros, at least as many as :attr:`words`; token 0 is the lowest bit of the first.
        """


class Sampler:
    """Draws the next token of every row of a batch, each under its own settings.

    Args:
        settings: one a row.
        device: where the logits are.
        constraints: one a row, ``None`` where every token is allowed; empty if that holds for all rows. A constrained
            row draws among the allowed tokens, as if there were no others.
        ranks: one a row, ``None`` where it draws; else it takes the token of this rank, 0 the most likely, or the last
            allowed one. Empty if all rows draw.
    """

    def __init__(
        self,
        settings: Sequence[Sampling],
        device: torch.device | str = "cpu",
        constraints: Sequence[RowConstraint | None] = (),
        ranks: Sequence[int | None] = (),
    ) -> None:
        rows: dict[tuple[Sampling, bool, bool], list[int]] = {}
        for i, (one, constraint, rank) in enumerate(zip_longest(settings, constraints, ranks)):
            rows.setdefault((one, constraint is not None, rank is not None), []).append(i)
        self._groups = [
            (
                _Draw(one, torch.tensor([ranks[at] for at in i], device=device) if ranked else None),
                torch.tensor(i, device=device),
                [g for at in i if constrained and (g := constraints[at]) is not None],
            )
            for (one, constrained, ranked), i in rows.items()
        ]
        self.reads_history = any(penalises(one) for one in settings)
        """Whether :meth:`draw` needs the rows' own ids, for a repetition penalty."""
        self.constrained = any(constrained for _, constrained, _ in rows)
        """Whether a draw depends on the tokens drawn before: they must have been pushed to the constraints."""

    def draw(self, logits: Tensor, keys: Tensor, history: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Draw one token a row.

        Args:
            logits: float32 or float64 of shape (rows, vocabulary).
            keys: int64 of shape (rows,), from :func:`place_keys`.
            history: int64 of shape (rows, width), ids of prompt and state without any padding id.

        Returns:
            Token ids, int64 of shape (rows,), and their log-probabilities under the distribution that they were drawn
            from (of the model's own distribution, for greedy and ranked rows), of shape (rows,).
        """
        if len(self._groups) == 1:
            draw, _, constraints = self._groups[0]
            return draw(masked_logits(logits, constraints, draw.temperature) if constraints else logits, keys, history)
        tokens, logprobs = torch.empty_like(keys), torch.empty_like(logits[:, 0])
        for draw, rows, constraints in self._groups:
            past = None if history is None else history[rows]
            own = masked_logits(logits[rows], constraints, draw.temperature) if constraints else logits[rows]
            tokens[rows], logprobs[rows] = draw(own, keys[rows], past)
        return tokens, logprobs


def masked_logits(logits: Tensor, constraints: Sequence[RowConstraint], temperature: float = 1.0) -> Tensor:
    """The logits of constrained rows: minus infinity for every token that is not allowed.

    Where the next token decides between calls and a format, a call keeps its probability under the model. All of the
    rest, which would have been text, goes to the format: a model that is done with its tools hardly ever begins JSON by
    itself, so plain masking would make it call tools for ever.

    Args:
        logits: (rows, vocabulary); left as they are.
        constraints: one a row.
        temperature: at which the rows will be drawn; 0 is greedy.
    """
    rows, vocabulary = logits.shape
    words = torch.zeros(
        rows, max(-(-vocabulary // 32), *(constraint.words for constraint in constraints)), dtype=torch.int32
    )
    for constraint, row in zip(constraints, words, strict=True):
        constraint.fill(row)
    octets = words.view(torch.uint8).to(logits.device).int()
    # Eight tokens at once: on a CPU a table is ten times as fast as masking by booleans.
    masked = _by_octet(logits.dtype, logits.device)[octets].flatten(1)[:, :vocabulary].add_(logits)
    for i, constraint in enumerate(constraints):
        if (mark := constraint.call_mark) is not None:
            masked[i] += _weight_of_text(logits[i], masked[i], mark, temperature)
    return masked


def _weight_of_text(logits: Tensor, masked: Tensor, mark: int, temperature: float) -> Tensor:
    """The offset of a format's first tokens that gives them the probability of all text: (vocabulary,)."""
    is_text = torch.arange(len(logits), device=logits.device) != mark
    both = torch.stack([logits, masked]).where(is_text, -torch.inf)
    text, kept = temperature * (both / temperature).logsumexp(-1) if temperature else both.amax(-1)
    return torch.where(is_text & torch.isfinite(kept), text - kept, 0.0)


@lru_cache
def _by_octet(dtype: torch.dtype, device: torch.device) -> Tensor:
    """The offsets of eight logits for every octet of allowed bits, 0 or minus infinity: (256, 8)."""
    bits = torch.arange(256)[:, None] >> torch.arange(8) & 1
    return torch.zeros(256, 8, dtype=dtype).masked_fill(bits == 0, -torch.inf).to(device)


def penalises(sampling: Sampling) -> bool:
    """Whether the ids that a row has change what it draws (a repetition penalty)."""
    return sampling.repetition_penalty not in (None, 1.0)


class _Draw:
    """One draw for any number of rows with the same settings."""

    def __init__(self, sampling: Sampling, ranks: Tensor | None = None) -> None:
        self._ranks, self._deepest = ranks, 0 if ranks is None else int(ranks.max())
        self._greedy, self._top_k, self._top_p = sampling.temperature == 0, sampling.top_k, sampling.top_p
        self.temperature = sampling.temperature if ranks is None else 1.0
        self._penalties = penalties(sampling)
        plain = self._greedy or ranks is not None
        self._warpers = LogitsProcessorList() if plain else warpers(sampling)

    def __call__(self, logits: Tensor, keys: Tensor, history: Any) -> tuple[Tensor, Tensor]:
        # Applied one by one: calling the list would inspect each processor's signature every time.
        scores = logits
        for penalty in self._penalties:
            scores = penalty(history, scores)
        if self._ranks is not None:
            tokens = _of_rank(scores, self._ranks, self._deepest)
            return tokens[:, 0], logits.log_softmax(dim=-1).gather(-1, tokens)[:, 0]
        if self._greedy:
            tokens = scores.argmax(dim=-1, keepdim=True)
            return tokens[:, 0], logits.log_softmax(dim=-1).gather(-1, tokens)[:, 0]
        if self._top_k is None and scores.shape[-1] >= _WIDE and not scores.is_cuda:
            return self._draw_wide(scores, keys, history)
        survivors = None if self._top_k is None or scores.is_cuda else top_columns(scores, self._top_k)
        warped, ids = (scores, _all_ids(scores)) if survivors is None else survivors
        for warper in self._warpers:
            if survivors is None or not isinstance(warper, TopKLogitsWarper):
                warped = warper(history, warped)
        place = (warped + gumbel_noise(keys[:, None], ids)).argmax(dim=-1, keepdim=True)
        logprobs = warped.log_softmax(dim=-1).gather(-1, place)[:, 0]
        return ids.expand_as(warped).gather(-1, place)[:, 0], logprobs

    def _draw_wide(self, scores: Tensor, keys: Tensor, history: Any) -> tuple[Tensor, Tensor]:
        for warper in self._warpers:
            if not isinstance(warper, TopPLogitsWarper):
                scores = warper(history, scores)
        logprobs = scores.log_softmax(dim=-1)
        if self._top_p is None or self._top_p == 1.0:
            return draw_from_all(scores, logprobs, keys)
        return draw_from_nuclei(scores, logprobs, keys, self._top_p)


def _of_rank(scores: Tensor, ranks: Tensor, deepest: int) -> Tensor:
    """Columns of these ranks, one a row: (rows, 1). Where fewer may be drawn, the last of them."""
    values, columns = scores.topk(min(deepest + 1, scores.shape[-1]), dim=-1)
    last = (values > -torch.inf).sum(dim=-1) - 1
    return columns.gather(-1, torch.minimum(ranks, last.clamp(min=0))[:, None])


def _all_ids(scores: Tensor) -> Tensor:
    return torch.arange(scores.shape[-1], device=scores.device)[None]
