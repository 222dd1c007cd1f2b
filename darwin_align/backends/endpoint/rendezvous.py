"""Rendezvous hashing: requests that share a prefix go to the same replica, whose cache holds its keys and values.

Every replica gets a score for a prefix, and the highest one that works is chosen (Thaler and Ravishankar 1998). There
is no state: all processes choose alike, a replica that fails hands its share to the next in rank, prefix by prefix, and
has it back when it works again; one that is added takes its share from the others and moves nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence

from darwin_align.core.seeds import derive
from darwin_align.core.types import Request

__all__ = ["home", "prefix_of", "score"]


def prefix_of(request: Request) -> int:
    """A digest of a conversation: what all chunks of a beam, or all responses of a search, begin with.

    >>> len({prefix_of(Request.of(text)) for text in ("Hi", "Hi", "Ho")})
    2
    """
    return derive(0, "prefix", repr(request.conversation))


def score(prefix: int, replica: str) -> int:
    """A replica's score for a prefix: the highest of all is where its requests go."""
    return derive(prefix, replica)


def home(prefix: int, replicas: Sequence[str]) -> str:
    """The replica that a prefix belongs to, while all work.

    >>> replicas = [f"http://gpu-{i}:8000" for i in range(8)]
    >>> home(7, replicas) == home(7, replicas[::-1])
    True
    >>> moved = [home(prefix, replicas) != home(prefix, replicas[:-1]) for prefix in range(800)]
    >>> 50 < sum(moved) < 150
    True
    """
    return max(replicas, key=lambda replica: score(prefix, replica))
