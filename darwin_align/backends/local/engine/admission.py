"""Admission delay: when a step waits for searches that are between two calls. Plain data without tensors or clock.

Searches that run side by side finish a chunk together, have their rows scored, and submit the next chunk one after
another. A step takes nearly as long for the first few rows as for all. So the first to return waits for the others, if
their absence is usually short compared with their decoding. Where the same core decodes and scores, a longer wait costs
nothing.
"""

from __future__ import annotations

__all__ = ["AdmissionDelay"]

_FORGOTTEN = 600.0
"""Seconds."""


class AdmissionDelay:
    """Keeps which searches are away and how long they usually are.

    >>> admission = AdmissionDelay()
    >>> admission.departed("a", now=10.0, stayed=9.0)
    >>> admission.arrived("a", now=10.5)  # so half a second is usual
    >>> admission.departed("b", now=20.0, stayed=9.0)
    >>> admission.delay(now=20.25)
    0.25
    >>> admission.delay(now=21.0)
    0.0

    Attributes:
        share: longest absence to wait for, as a share of the time that rows usually stay.
    """

    share = 0.1

    def __init__(self) -> None:
        self._away: dict[str, float] = {}
        self._absence = self._stay = 0.0

    def departed(self, owner: str, now: float, stayed: float) -> None:
        """Note that a search's rows are decoded, which took ``stayed`` seconds: more of it is expected."""
        if owner:
            # A search that is over but was never released must not be waited for, nor remembered, for ever.
            self._away = {other: since for other, since in self._away.items() if now - since < _FORGOTTEN}
            self._away[owner] = now
            self._stay = (self._stay + stayed) / 2 if self._stay else stayed

    def arrived(self, owner: str, now: float) -> None:
        """Note that a search's next rows arrived. The longest absence counts, and decays."""
        if (since := self._away.pop(owner, None)) is not None:
            self._absence = max(now - since, 0.8 * self._absence)

    def forget(self, owner: str) -> None:
        """A search is over."""
        self._away.pop(owner, None)

    def delay(self, now: float) -> float:
        """Seconds to wait for the searches that are away: 0 if that would be too long."""
        if not self._away or self._absence > self.share * self._stay:
            return 0.0
        return max(0.0, max(self._away.values()) + self._absence - now)
