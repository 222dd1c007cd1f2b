"""Admission delay: when a step waits for searches that are between two calls. Plain data without tensors or clock.

Searches that run side by side finish a chunk together, have their rows scored, and submit the next chunk one after
another. A step takes nearly as long for the first few rows as for all. So the first to return waits for the others, if
their gap is usually short compared with their decoding. Where the same core decodes and scores, a longer wait costs
nothing.
"""

from __future__ import annotations

__all__ = ["AdmissionDelay"]

_EXPIRY = 600.0
"""Seconds."""


class AdmissionDelay:
    """Keeps which searches are between two calls, and for how long they usually are.

    >>> admission = AdmissionDelay()
    >>> admission.job_finished("a", now=10.0, stayed=9.0)
    >>> admission.arrived("a", now=10.5)  # so half a second is usual
    >>> admission.job_finished("b", now=20.0, stayed=9.0)
    >>> admission.delay(now=20.25)
    0.25
    >>> admission.delay(now=21.0)
    0.0

    Attributes:
        share: longest gap to wait for, as a share of the mean decode time.
    """

    share = 0.1

    def __init__(self) -> None:
        self._between_calls: dict[str, float] = {}
        self._expected_gap = self._mean_decode_time = 0.0

    def job_finished(self, owner: str, now: float, stayed: float) -> None:
        """Note that a search's rows are decoded, which took ``stayed`` seconds: more of it is expected."""
        if owner:
            # A search that is over but was never released must not be waited for, nor remembered, for ever.
            self._between_calls = {
                other: since for other, since in self._between_calls.items() if now - since < _EXPIRY
            }
            self._between_calls[owner] = now
            self._mean_decode_time = (self._mean_decode_time + stayed) / 2 if self._mean_decode_time else stayed

    def arrived(self, owner: str, now: float) -> None:
        """Note that a search's next rows arrived. The longest gap counts, and decays."""
        if (since := self._between_calls.pop(owner, None)) is not None:
            self._expected_gap = max(now - since, 0.8 * self._expected_gap)

    def forget(self, owner: str) -> None:
        """A search is over."""
        self._between_calls.pop(owner, None)

    def delay(self, now: float) -> float:
        """Seconds to wait for the searches that are between two calls: 0 if that would be too long."""
        if not self._between_calls or self._expected_gap > self.share * self._mean_decode_time:
            return 0.0
        return max(0.0, max(self._between_calls.values()) + self._expected_gap - now)
