"""A circuit breaker: after repeated failures a server gets no requests for a while, then one as a trial."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Breaker"]

LONGEST_PAUSE = 60.0


@dataclass
class Breaker:
    """Opens after ``failures`` failures in a row. Times are in seconds on any monotonic clock of the caller.

    Closed, all calls pass. Open, none does until the pause is over; then one call is let through as a trial. Its
    success closes the circuit, its failure opens it again for twice as long, a minute at most.

    >>> breaker = Breaker(failures=2, pause=5.0)
    >>> breaker.failed(breaker.begin(), now=0.0), breaker.ready_in(now=0.0)
    (False, 0.0)
    >>> breaker.failed(breaker.begin(), now=1.0), breaker.ready_in(now=2.0)
    (True, 4.0)
    """

    failures: int
    pause: float
    in_a_row: int = 0
    _open_until: float | None = None
    _calls: int = 0
    _trial: int = 0
    """Number of the trial call in flight, or 0."""
    _next_pause: float = 0.0

    @property
    def is_open(self) -> bool:
        """Whether no calls pass, but for a trial."""
        return self._open_until is not None

    def ready_in(self, now: float) -> float:
        """Seconds until a call may be sent: 0 if it may be now. A caller that waited must check again."""
        if self._open_until is None:
            return 0.0
        if self._trial:
            return self.pause / 10
        return max(0.0, self._open_until - now)

    def begin(self) -> int:
        """Note that a call is sent. Returns its number, to be passed when it ends."""
        self._calls += 1
        if self._open_until is not None:
            self._trial = self._calls
        return self._calls

    def succeeded(self) -> None:
        """Close the circuit: the server replied, perhaps to a call sent before the circuit opened."""
        self.in_a_row, self._open_until, self._trial, self._next_pause = 0, None, 0, 0.0

    def failed(self, call: int, now: float) -> bool:
        """Note that a call got no valid reply. Returns whether the circuit opened by this."""
        self.in_a_row += 1
        was_open = self._open_until is not None
        if call != self._trial and (was_open or self.in_a_row < self.failures):
            return False  # too few failures, or a call sent before the circuit opened: that must not prolong the pause
        pause = self._next_pause or self.pause
        self._open_until, self._trial = now + pause, 0
        self._next_pause = min(2 * pause, max(self.pause, LONGEST_PAUSE))
        return not was_open

    def abandoned(self, call: int) -> None:
        """Note that the caller cancelled a call, which is no evidence about the server."""
        if call == self._trial:
            self._trial = 0
