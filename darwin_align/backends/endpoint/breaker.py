"""A circuit breaker: a server that fails and fails is left alone for a while, then tried by one call."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Breaker"]

LONGEST_PAUSE = 60.0


@dataclass
class Breaker:
    """Opens after so many failures in a row. Times are seconds of any steady clock that the caller reads.

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
    """Number of the call that is on trial, or 0."""
    _next_pause: float = 0.0

    def ready_in(self, now: float) -> float:
        """Seconds until a call may be tried: 0 if it may go now. A caller that waits asks again afterwards."""
        if self._open_until is None:
            return 0.0
        if self._trial:
            return self.pause / 10
        return max(0.0, self._open_until - now)

    def begin(self) -> int:
        """A call goes out, because it is ready now. Returns its number, to be given when it ends."""
        self._calls += 1
        if self._open_until is not None:
            self._trial = self._calls
        return self._calls

    def succeeded(self) -> None:
        """The server answered, be it a call that was on its way when the circuit opened."""
        self.in_a_row, self._open_until, self._trial, self._next_pause = 0, None, 0, 0.0

    def failed(self, call: int, now: float) -> bool:
        """The server did not answer, or answered nonsense. Returns whether the circuit opened just now."""
        self.in_a_row += 1
        was_open = self._open_until is not None
        if call != self._trial and (was_open or self.in_a_row < self.failures):
            return False  # a straggler that was on its way when the circuit opened changes nothing
        pause = self._next_pause or self.pause
        self._open_until, self._trial = now + pause, 0
        self._next_pause = min(2 * pause, max(self.pause, LONGEST_PAUSE))
        return not was_open

    def abandoned(self, call: int) -> None:
        """The call was given up by its caller: it says nothing about the server."""
        if call == self._trial:
            self._trial = 0
