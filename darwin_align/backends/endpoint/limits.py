"""The limits of requests to a server: concurrency, attempts and timeouts."""

from __future__ import annotations

from pydantic import Field

from darwin_align.core.record import Settings

__all__ = ["Limits"]


class Limits(Settings):
    """How many requests a server gets at once, and how long to wait and retry.

    >>> Limits(attempts=3).concurrency
    32
    """

    concurrency: int = Field(32, gt=0)
    """Requests in flight at most, of all searches together."""
    attempts: int = Field(8, gt=0)
    """Attempts at one call."""
    deadline: float = Field(600.0, gt=0)
    """Seconds for one call with all its attempts and waits, without the wait for ``concurrency``. A search survives
    an outage of a server for this long."""
    attempt_timeout: float = Field(180.0, gt=0)
    """Seconds for one attempt, from the first byte sent to the last one read, however slowly the reply arrives."""
    read_timeout: float = Field(120.0, gt=0)
    """Seconds without any byte. A server sends none while it decodes a chunk, so the limit is high."""
    connect_timeout: float = Field(5.0, gt=0)
    """Seconds to connect."""
    backoff: float = Field(0.25, ge=0)
    """Upper bound of the first wait between attempts, in seconds. It doubles each time; waits are drawn from 0 up."""
    max_backoff: float = Field(10.0, ge=0)
    """Upper bound of all such waits, in seconds. The ``Retry-After`` of a server is added."""
    breaker_failures: int = Field(10, gt=0)
    """Failures in a row after which a server gets no requests for a while."""
    breaker_pause: float = Field(5.0, gt=0)
    """Seconds of that pause; twice as long each time, a minute at most."""
