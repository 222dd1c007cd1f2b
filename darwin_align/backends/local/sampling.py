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

_GROUP = 8

# SplitMix64 (Steele, Lea, Flood 2014), in the two's complement that torch's int64 arithmetic wraps around in.
_GOLDEN, _MIX_1, _MIX_2 = (
    constant - 2**64 for constant in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)


def _mixed(x: Tensor) -> Tensor:
    x = x + _GOLDEN
    # Logical shifts: the sign bit must not be dragged along.
    x ^= (x >> 30) & (1 << 34) - 1
    x *= _MIX_1
    x ^= (x >> 27) & (1 << 37) - 1
    x *= _MIX_2
    x ^= (x >> 31) & (1 << 33) - 1
    return x


def seed_keys(seeds: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """Hash one seed a row, integers of any size: int64 of shape (rows,)."""
    wrapped = [(seed + 2**63) % 2**64 - 2**63 for seed in seeds]
    return _mixed(torch.tensor(wrapped, dtype=torch.int64, device=device))


def place_keys(seeds: Tensor, positions: Tensor) -> Tensor:
    """Hash rows and positions: keys of seeds and positions of draws, int64 that broadcast."""
    # Each argument is mixed in turn: no seed's noise is another's, only shifted or with its arguments exchanged.
    return _mixed(seeds + positions)


def gumbel_noise(keys: Tensor, tokens: Tensor) -> Tensor:
    """Gumbel noise for every (place, token id): int64 inputs that broadcast, float32 output."""
    bits = (_mixed(keys + tokens) >> 11) & (1 << 53) - 1
    uniform = bits.to(torch.float32).add_(0.5).mul_(2.0**-53)
    # -log1p(-u) instead of -log(u): single precision is finest near zero, and small values are those that win.
    return uniform.neg_().log1p_().neg_().log_().neg_()


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
        self._greedy, self._top_k = sampling.temperature == 0, sampling.top_k
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
        survivors = None if self._top_k is None or scores.is_cuda else top_columns(scores, self._top_k)
        warped, ids = (scores, _all_ids(scores)) if survivors is None else survivors
        for warper in self._warpers:
            if survivors is None or not isinstance(warper, TopKLogitsWarper):
                warped = warper(history, warped)
        place = (warped + gumbel_noise(keys[:, None], ids)).argmax(dim=-1, keepdim=True)
        logprobs = warped.log_softmax(dim=-1).gather(-1, place)[:, 0]
        return ids.expand_as(warped).gather(-1, place)[:, 0], logprobs


def _of_rank(scores: Tensor, ranks: Tensor, deepest: int) -> Tensor:
    """Columns of these ranks, one a row: (rows, 1). Where fewer may be drawn, the last of them."""
    values, columns = scores.topk(min(deepest + 1, scores.shape[-1]), dim=-1)
    last = (values > -torch.inf).sum(dim=-1) - 1
    return columns.gather(-1, torch.minimum(ranks, last.clamp(min=0))[:, None])


def _all_ids(scores: Tensor) -> Tensor:
    return torch.arange(scores.shape[-1], device=scores.device)[None]


def top_columns(scores: Tensor, k: int) -> tuple[Tensor, Tensor] | None:
    """The columns that survive top-k, so that all later steps work on few of them.

    Tied columns survive together, as in transformers' warper: a cut through a tie would depend on luck. Looking for
    ties makes the host wait, so a GPU masks all columns instead.

    Args:
        scores: (rows, columns).
        k: how many survive, at least.

    Returns:
        Scores and columns of the survivors, both (rows, k or more), or ``None`` if all survive.
    """
    if k >= scores.shape[-1]:
        return None
    values, columns = _largest(scores, k + 1)
    if not bool((values[:, -1] == values[:, -2]).any()):
        return values[:, :-1], columns[:, :-1]
    worst = values[:, -2:-1]
    # Forbidden tokens are minus infinity: a tie among them must not add columns.
    most = int(((scores >= worst) & (scores > -torch.inf)).sum(dim=-1).max())
    if most <= k:
        return values[:, :-1], columns[:, :-1]
    values, columns = scores.topk(most, dim=-1)
    # A tie in one row must not let more columns of another row survive.
    return values.masked_fill(values < worst, -torch.inf), columns


def _largest(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """``scores.topk(k)``, in about half its time on a CPU.

    Columns go in groups of eight, whose maxima a vector unit finds. The k largest lie in the k groups of the largest
    maxima; whether maxima tie at that border is looked at, and then all columns are.
    """
    rows, groups = len(scores), scores.shape[1] // _GROUP
    if groups <= 2 * k:
        return scores.topk(k, dim=-1)
    grouped = scores[:, : groups * _GROUP].view(rows, _GROUP, groups)
    maxima, chosen = grouped.amax(dim=1).topk(k + 1, dim=-1)
    tied = maxima[:, -1] == maxima[:, -2]
    # Groups that hold nothing but minus infinity may tie: whichever is chosen, none of it is drawn.
    if bool(tied.any()) and bool((tied & (maxima[:, -1] > -torch.inf)).any()):
        return scores.topk(k, dim=-1)
    places = (chosen[:, :k, None] + torch.arange(0, groups * _GROUP, groups)).flatten(1)
    if rest := scores.shape[1] - groups * _GROUP:
        behind = torch.arange(groups * _GROUP, groups * _GROUP + rest)
        places = torch.cat([places, behind.expand(rows, -1)], dim=1)
    values, at = scores.gather(-1, places).topk(k, dim=-1)
    return values, places.gather(-1, at)
