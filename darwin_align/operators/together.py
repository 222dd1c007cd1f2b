"""Batches whose members run at the same time, so that an engine can merge their work."""

from __future__ import annotations

from functools import partial
from typing import Any

from langchain_core.runnables import Runnable
from langchain_core.runnables.utils import Input, Output

from darwin_align.operators.portal import call, on_portal

__all__ = ["RunsTogether"]


class RunsTogether(Runnable[Input, Output]):
    """A runnable whose ``batch`` is its ``abatch`` on the portal.

    LangChain's own ``batch`` runs at most as many members at once as a machine has cores, plus four.
    """

    def batch(
        self, inputs: list[Input], config: Any = None, *, return_exceptions: bool = False, **kwargs: Any
    ) -> list[Output]:
        """Run all inputs at once, or ``max_concurrency`` of them if the config sets it.

        Args:
            inputs: as for ``invoke``.
            config: one for all, or one for each.
            return_exceptions: return errors as outputs instead of raising the first one.
            kwargs: as for ``invoke``.

        Returns:
            One output for each input, in order.
        """
        if on_portal():
            return super().batch(inputs, config, return_exceptions=return_exceptions, **kwargs)
        return call(partial(self.abatch, inputs, config, return_exceptions=return_exceptions, **kwargs))  # type: ignore[no-any-return]
