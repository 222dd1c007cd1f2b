"""Noise that is a function of its place: a hash of the row's seed, the position in the answer and the token id."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["gumbel_noise", "leading_bits", "place_keys", "seed_keys"]

# SplitMix64 (Steele, Lea, Flood 2014), in the two's complement that torch's int64 arithmetic wraps around in.
_GOLDEN, _MIX_1, _MIX_2 = (
    constant - 2**64 for constant in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)


def _mixed(x: Tensor) -> Tensor:
    x = _scrambled(x)
    x ^= (x >> 31) & (1 << 33) - 1
    return x


def _scrambled(x: Tensor) -> Tensor:
    """The hash but for its last step, which leaves the upper 31 bits as they are."""
    x = x + _GOLDEN
    # Logical shifts: the sign bit must not be dragged along.
    x ^= (x >> 30) & (1 << 34) - 1
    x *= _MIX_1
    x ^= (x >> 27) & (1 << 37) - 1
    x *= _MIX_2
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


def leading_bits(keys: Tensor, tokens: Tensor) -> Tensor:
    """The first 31 bits of the uniform numbers behind the noise: int64 inputs that broadcast, int64 output."""
    x = _scrambled(keys + tokens)
    x >>= 33
    x &= (1 << 31) - 1
    return x
