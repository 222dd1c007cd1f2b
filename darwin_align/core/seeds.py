"""Randomness by position: a number depends on the run's seed and on the path at which it is drawn, on nothing else.

No generator object is ever passed around, so the order of calls, threads and batches cannot change an answer.
"""

from __future__ import annotations

from hashlib import blake2b
from math import log

__all__ = ["below", "derive", "gumbel", "uniform"]


def derive(seed: int, *path: int | str) -> int:
    """Hash a seed and a path into a new seed, an integer in ``[0, 2**63)``.

    >>> derive(7, "decode", 0) == derive(7, "decode", 0)
    True
    >>> derive(7, "decode", 0) == derive(7, "decode", 1)
    False
    """
    joined = "\x1f".join([str(seed), *(f"{type(p).__name__}:{p}" for p in path)])
    return int.from_bytes(blake2b(joined.encode(), digest_size=8).digest(), "big") >> 1


def uniform(seed: int, *path: int | str) -> float:
    """Draw a float in ``[0, 1)`` for this path.

    >>> 0.0 <= uniform(7, "select", 3) < 1.0
    True
    """
    # The top 53 bits: a double holds no more, and 2**63 - 1 would round up to 1.0.
    return (derive(seed, *path) >> 10) / 2**53


def below(bound: int, seed: int, *path: int | str) -> int:
    """Draw an integer in ``[0, bound)`` for this path.

    >>> below(1, 7, "parent")
    0
    """
    return derive(seed, *path) % bound


def gumbel(seed: int, *path: int | str) -> float:
    """Draw from the standard Gumbel distribution for this path.

    The largest of ``log(w_i) + gumbel(seed, i)`` is that of ``i`` with probability ``w_i / sum(w)``: Gumbel-max.

    >>> max("ab", key=lambda name: {"a": 0.0, "b": 50.0}[name] + gumbel(7, name))
    'b'
    """
    # 52 bits and a half: never 0 and never 1.
    return -log(-log(((derive(seed, *path) >> 11) + 0.5) / 2**52))
