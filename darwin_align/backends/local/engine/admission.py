"""When a step waits for searches that are between two questions. Plain data without tensors or clock.

Searches that run side by side leave the engine together, to have their rows scored, and come back one after another.
A step costs nearly as much for the first few rows as for all: so who comes first waits for the others, if that is
usually short beside what they stay. Where the same core decodes and scores, nothing is lost by a longer wait.
"""

from __future__ import annotations

__all__ = ["AdmissionDelay"]

_FORGOTTEN = 600.0
"""Seconds."""


class AdmissionDelay:
    """Knows which searches are away and how long that usually takes.

    >>> delay = AdmissionDelay()
    >>> delay.left("a", now=10.0, stayed=9.0)
    >>> delay.came("a", now=10.5)  # so half a second is usual
    >>> delay.left("b", now=20.0, stayed=9.0)
    >>> delay.hold(now=20.25)
    0.25
    >>> delay.hold(now=21.0)
    0.0

    Attributes:
        share: of the time that searches stay, how much an absence may take to be waited for.
    """

    share = 0.1

    def __init__(self) -> None:
        self._away: dict[str, float] = {}
        self._absence = self._stay = 0.0

    def left(self, owner: str, now: float, stayed: float) -> None:
        """A search's rows are decoded, which took ``stayed`` seconds; it is expected back."""
        if owner:
            # Who was never said to be over is not waited for for ever, nor remembered.
            self._away = {other: since for other, since in self._away.items() if now - since < _FORGOTTEN}
            self._away[owner] = now
            self._stay = (self._stay + stayed) / 2 if self._stay else stayed

    def came(self, owner: str, now: float) -> None:
        """A search's next rows arrived. The longest absence counts, and fades."""
        if (since := self._away.pop(owner, None)) is not None:
            self._absence = max(now - since, 0.8 * self._absence)

    def forget(self, owner: str) -> None:
        """A search is over."""
        self._away.pop(owner, None)

    def hold(self, now: float) -> float:
        """Seconds to wait for those who are away: none if that is too long."""
        if not self._away or self._absence > self.share * self._stay:
            return 0.0
        return max(0.0, max(self._away.values()) + self._absence - now)
