"""Bootstrap over prompts: one set of resamples for all figures, so that differences are paired."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[np.float64]]

__all__ = ["Bootstrap", "Estimate"]

_RESAMPLES = 2000
_QUANTILES = (0.025, 0.975)


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95% bootstrap interval (percentiles)."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"

    def signed(self, digits: int = 3) -> str:
        """As a difference.

        >>> Estimate(0.13, -0.11, 0.39).signed(2)
        '+0.13 [-0.11, 0.39]'
        """
        return f"{self.mean:+.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


@dataclass(frozen=True)
class Bootstrap:
    """Resamples of so many prompts, drawn by a seed."""

    prompts: int
    seed: int

    @cached_property
    def _counts(self) -> Array:
        """How often each prompt is in each resample: ``(resamples, prompts)``."""
        import numpy as np

        rng = np.random.default_rng(self.seed)
        return rng.multinomial(self.prompts, np.full(self.prompts, 1 / self.prompts), _RESAMPLES).astype(np.float64)

    def mean(self, values: Sequence[float]) -> Estimate:
        """The mean of one value a prompt."""
        import numpy as np

        array = np.asarray(values, dtype=np.float64)
        low, high = np.quantile(self._counts @ array / self.prompts, _QUANTILES)
        return Estimate(float(array.mean()), float(low), float(high))

    def ratio(self, above: Sequence[float], below: Sequence[float]) -> Estimate | None:
        """The sum of one value a prompt over that of another; ``None`` where the other one is 0.

        Resamples in which it is 0 are left out.
        """
        import numpy as np

        over, under = np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64)
        if not under.sum():
            return None
        sums = self._counts @ under
        ratios = (self._counts @ over)[sums > 0] / sums[sums > 0]
        low, high = np.quantile(ratios, _QUANTILES)
        return Estimate(float(over.sum() / under.sum()), float(low), float(high))

    def mean_of_known(self, values: Sequence[float | None]) -> Estimate | None:
        """The mean of the prompts that have a value; ``None`` if none has."""
        return self.ratio([value or 0.0 for value in values], [float(value is not None) for value in values])
