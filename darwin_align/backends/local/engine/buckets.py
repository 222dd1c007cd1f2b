"""Buckets: rows of similar length, read side by side with little padding. Plain data without tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

__all__ = ["MOST_PADDING", "MOST_POSITIONS", "next_bucket"]

T = TypeVar("T")
MOST_PADDING = 0.25
"""Share of a bucket's positions that may be padding."""
MOST_POSITIONS = 4096
"""Positions of one forward pass: more would delay the rows that are being decoded."""


def next_bucket(rows: Sequence[T], length: Callable[[T], int], max_rows: int = 64) -> list[T]:
    """Rows to read in one forward pass, the first row among them.

    >>> next_bucket(["aaaa", "b", "ccc", "ddddd"], len)
    ['aaaa', 'ccc', 'ddddd']
    """
    first = rows[0]
    bucket, widest, real = [first], length(first), length(first)
    # From the nearest in length outwards: the bucket grows as long as its padding stays within bounds.
    for row in sorted(rows[1:], key=lambda row: abs(length(row) - length(first))):
        width, tokens = max(widest, length(row)), real + length(row)
        positions = width * (len(bucket) + 1)
        if len(bucket) == max_rows or positions > MOST_POSITIONS:
            break
        if positions - tokens <= MOST_PADDING * positions:
            bucket.append(row)
            widest, real = width, tokens
    return bucket
