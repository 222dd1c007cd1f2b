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


def prefix_of(request: Request, search_id: str = "") -> int:
    """A digest of what a search's requests share: its id, where a policy is told it, else the conversation.

    Beams are not spread: in the simulation of ``benchmarks.replicas`` that is no faster with short prompts, and slower
    with long ones, whose common beginning every replica would read.

    >>> len({prefix_of(Request.of(text)) for text in ("Hi", "Hi", "Ho")})
    2
    """
    return derive(0, "prefix", search_id or repr(request.conversation))


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
