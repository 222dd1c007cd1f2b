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

__all__ = ["Sampler", "gumbel_noise", "place_keys", "warpers"]

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


def warpers(sampling: Sampling) -> LogitsProcessorList:
    """The logits processors that ``generate`` would apply, in its order."""
    processors = LogitsProcessorList()
    if sampling.repetition_penalty is not None and sampling.repetition_penalty != 1.0:
        processors.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    if sampling.temperature == 0:
        return processors
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
        device = self._keys.device
        self._groups = [(warpers(one), one.temperature == 0, torch.tensor(i, device=device)) for one, i in rows.items()]

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
            processors, greedy, _ = self._groups[0]
            tokens, logprobs = _draw(logits, keys, self._history, processors, greedy)
        else:
            tokens, logprobs = torch.empty_like(keys), torch.empty_like(logits[:, 0])
            for processors, greedy, rows in self._groups:
                history = None if self._history is None else self._history[rows]
                tokens[rows], logprobs[rows] = _draw(logits[rows], keys[rows], history, processors, greedy)
        if self._history is not None:
            self._history = torch.cat([self._history, tokens[:, None]], dim=1)
        return tokens, logprobs


def _penalises(sampling: Sampling) -> bool:
    return sampling.repetition_penalty not in (None, 1.0)


def _draw(
    logits: Tensor, keys: Tensor, history: Any, processors: LogitsProcessorList, greedy: bool
) -> tuple[Tensor, Tensor]:
    warped = processors(history, logits)
    if greedy:
        tokens = warped.argmax(dim=-1)
        return tokens, logits.log_softmax(dim=-1).gather(-1, tokens[:, None])[:, 0]
    values, ids = _survivors(warped)
    place = (values + gumbel_noise(keys[:, None], ids)).argmax(dim=-1, keepdim=True)
    logprobs = values.gather(-1, place)[:, 0] - values.logsumexp(dim=-1)
    return ids.expand_as(values).gather(-1, place)[:, 0], logprobs


def _survivors(warped: Tensor) -> tuple[Tensor, Tensor]:
    """Values and ids of the tokens that the warpers left, shape (rows, most survivors of a row)."""
    # Counted rather than taken from top_k: tied tokens survive together, and a cut through a tie would depend on luck.
    most = int((warped > -torch.inf).sum(dim=-1).max())
    if most == warped.shape[-1]:
        return warped, torch.arange(most, device=warped.device)[None]
    values, ids = warped.topk(most, dim=-1)
    return values, ids
