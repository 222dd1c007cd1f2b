"""Draws tokens: transformers' own warpers, then Gumbel-max with noise that is a function of its place.

The token is ``argmax(log p + g)`` with independent Gumbel ``g``, which samples from ``p`` exactly. Here ``g`` is a hash
of the row's seed, the position in the answer and the token id. So a row's tokens depend neither on who shares its batch
nor on how the answer is cut into calls, and there is no generator whose state could be shared.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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

__all__ = ["Sampler", "gumbel_noise", "penalties", "place_keys", "warpers"]

# SplitMix64 (Steele, Lea, Flood 2014), in the two's complement that torch's int64 arithmetic wraps around in.
_GOLDEN, _MIX_1, _MIX_2 = (
    constant - 2**64 for constant in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)


def _shifted(x: Tensor, by: int) -> Tensor:
    # A logical shift: the sign bit must not be dragged along.
    return (x >> by) & ((1 << (64 - by)) - 1)


def _mixed(x: Tensor) -> Tensor:
    x = x + _GOLDEN
    x = (x ^ _shifted(x, 30)) * _MIX_1
    x = (x ^ _shifted(x, 27)) * _MIX_2
    return x ^ _shifted(x, 31)


def place_keys(seeds: Sequence[int], starts: Sequence[int], steps: int, device: torch.device | str = "cpu") -> Tensor:
    """Hash seeds and positions.

    Args:
        seeds: one integer a row, of any size.
        starts: position of each row's first draw.
        steps: how many draws in a row.
        device: where the draws happen.

    Returns:
        int64 of shape (rows, steps).
    """
    wrapped = [(seed + 2**63) % 2**64 - 2**63 for seed in seeds]
    positions = torch.tensor(starts, dtype=torch.int64)[:, None] + torch.arange(steps)
    # Each argument is mixed in turn: no seed's noise is another's, only shifted or with its arguments exchanged.
    return _mixed(_mixed(torch.tensor(wrapped, dtype=torch.int64))[:, None] + positions).to(device)


def gumbel_noise(keys: Tensor, tokens: Tensor) -> Tensor:
    """Gumbel noise for every (place, token id): int64 inputs that broadcast, float32 output."""
    bits = _shifted(_mixed(keys + tokens), 11)
    uniform = (bits.to(torch.float32) + 0.5) * 2.0**-53
    # -log1p(-u) instead of -log(u): single precision is finest near zero, and small values are those that win.
    return -torch.log(-torch.log1p(-uniform))


def penalties(sampling: Sampling) -> LogitsProcessorList:
    """What changes single logits by a row's history: it needs the whole vocabulary and counts for greedy rows too."""
    processors = LogitsProcessorList()
    if sampling.repetition_penalty is not None and _penalises(sampling):
        processors.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    return processors


def warpers(sampling: Sampling) -> LogitsProcessorList:
    """What ``generate`` then does to the logits of a row that is sampled, in its order."""
    processors = LogitsProcessorList()
    if sampling.temperature != 1.0:
        processors.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k is not None:
        processors.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p is not None and sampling.top_p < 1.0:
        processors.append(TopPLogitsWarper(sampling.top_p))
    return processors


class Sampler:
    """Draws the next token of every row of a batch, each under its own settings and seed.

    Args:
        settings: one a row.
        keys: from :func:`place_keys`, shape (rows, steps).
        history: ids of prompt and state, shape (rows, width), without any padding id; only read (and then required)
            under a repetition penalty.
    """

    def __init__(self, settings: Sequence[Sampling], keys: Tensor, history: Tensor | None = None) -> None:
        self._settings = list(settings)
        self._keys = keys
        self._history = history if any(_penalises(one) for one in settings) else None
        self._step = 0
        self._group()

    def _group(self) -> None:
        rows: dict[Sampling, list[int]] = {}
        for i, one in enumerate(self._settings):
            rows.setdefault(one, []).append(i)
        self._groups = [(_Draw(one), torch.tensor(i, device=self._keys.device)) for one, i in rows.items()]

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only."""
        self._settings = [self._settings[i] for i in rows.tolist()]
        self._keys = self._keys[rows]
        self._history = None if self._history is None else self._history[rows]
        self._group()

    def draw(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Draw one token a row.

        Args:
            logits: float32 of shape (rows, vocabulary).

        Returns:
            Token ids, int64 of shape (rows,), and their log-probabilities under the distribution that they were drawn
            from (of the model's own distribution, for greedy rows), float32 of shape (rows,).
        """
        keys = self._keys[:, self._step]
        self._step += 1
        if len(self._groups) == 1:
            tokens, logprobs = self._groups[0][0](logits, keys, self._history)
        else:
            tokens, logprobs = torch.empty_like(keys), torch.empty_like(logits[:, 0])
            for draw, rows in self._groups:
                history = None if self._history is None else self._history[rows]
                tokens[rows], logprobs[rows] = draw(logits[rows], keys[rows], history)
        if self._history is not None:
            self._history = torch.cat([self._history, tokens[:, None]], dim=1)
        return tokens, logprobs


def _penalises(sampling: Sampling) -> bool:
    return sampling.repetition_penalty not in (None, 1.0)


class _Draw:
    """One draw under one row's settings, for any number of rows."""

    def __init__(self, sampling: Sampling) -> None:
        self._greedy, self._top_k = sampling.temperature == 0, sampling.top_k
        self._penalties = penalties(sampling)
        self._warpers = LogitsProcessorList() if self._greedy else warpers(sampling)

    def __call__(self, logits: Tensor, keys: Tensor, history: Any) -> tuple[Tensor, Tensor]:
        scores = self._penalties(history, logits)
        if self._greedy:
            tokens = scores.argmax(dim=-1, keepdim=True)
            return tokens[:, 0], logits.log_softmax(dim=-1).gather(-1, tokens)[:, 0]
        candidates, ids = self._candidates(scores)
        warped = self._warpers(history, candidates)
        place = (warped + gumbel_noise(keys[:, None], ids)).argmax(dim=-1, keepdim=True)
        logprobs = warped.log_softmax(dim=-1).gather(-1, place)[:, 0]
        return ids.expand_as(warped).gather(-1, place)[:, 0], logprobs

    def _candidates(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Scores and ids that can survive top-k, so that all later steps work on few columns."""
        vocabulary = scores.shape[-1]
        if self._top_k is None or self._top_k >= vocabulary:
            return scores, torch.arange(vocabulary, device=scores.device)[None]
        values, ids = scores.topk(self._top_k, dim=-1)
        # Tied tokens survive together: a cut through a tie would depend on luck.
        most = int((scores >= values[:, -1:]).sum(dim=-1).max())
        if most > self._top_k:
            values, ids = scores.topk(most, dim=-1)
        return values, ids
