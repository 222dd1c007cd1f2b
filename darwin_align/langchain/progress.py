"""Progress of a search, reported while it runs.

After every answered question a search sends one LangChain custom event named ``darwin_progress`` to the callback
handlers of the run that it is part of: a chat model's, a chain's, or its own.
"""

from __future__ import annotations

from typing import Any

from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import get_async_callback_manager_for_config, get_callback_manager_for_config

from darwin_align.core import Event, Population, SearchConfig, Usage
from darwin_align.core.budget import Budget
from darwin_align.core.choice import Answer, in_order

__all__ = ["PROGRESS", "Progress", "ScoredEventFilter", "asend", "send"]

PROGRESS = "darwin_progress"
"""Name of the custom events."""


class ScoredEventFilter:
    """Selects the events after which every beam that counts is scored.

    After a lookahead is scored, the population contains texts that are discarded; the selection that follows has the
    true ones.
    """

    def __init__(self) -> None:
        self._awaiting_score = self._in_lookahead = False

    def counts(self, event: Event, population: Population) -> bool:
        """Read an event and the population that it led to.

        Returns:
            ``True`` if every beam that counts is scored after it, and none shows a lookahead.
        """
        if event.operator == "decode":
            # Open contenders wait for a reward, unless only finished ones are scored: tokens before that are a
            # lookahead. A first response that is decoded alone is none.
            self._in_lookahead = self._awaiting_score
            racing = any(population.beams[i].open for i in population.contenders)
            self._awaiting_score = racing and not population.step.finished_only and not population.waiting
            return False
        ahead, self._in_lookahead, self._awaiting_score = self._in_lookahead, False, False
        return event.answered and (event.operator == "select" or (event.operator == "score" and not ahead))


class Progress:
    """Folds a search's events into the best answer so far and what was spent."""

    def __init__(self, config: SearchConfig) -> None:
        self.config = config
        self._finished: dict[tuple[int, int], Answer] = {}
        self._best_partial: Answer | None = None
        self._seen = ScoredEventFilter()

    def after(self, event: Event, population: Population) -> dict[str, Any]:
        """Read an event and the population that it led to, and return the search's progress.

        Returns:
            Plain data: ``operator``, ``cycle`` and ``step`` of the event; ``text``, ``reward``, ``instruction`` and
            ``finished`` of the answer that the search would give if it ended here (``text`` is ``None`` before the
            first reward); ``usage``; ``budget``, the share that is used of each limit; ``failure``.
        """
        if self._seen.counts(event, population):
            self._see(population)
        finished = in_order(tuple(self._finished.values()), self.config)
        best = finished[0].beam if finished else self._best_partial and self._best_partial.beam
        return {
            "operator": event.operator,
            "cycle": event.cycle,
            "step": event.step,
            "text": best and best.text,
            "reward": best and best.reward,
            "instruction": best and best.instruction,
            "finished": best is not None and best.finished,
            "usage": population.usage.model_dump(),
            "budget": _shares(self.config.budget, population.usage),
            "failure": event.failure,
        }

    def _see(self, population: Population) -> None:
        cycle = population.step.cycle
        scored = [
            Answer(beam, cycle, i) for i, beam in enumerate(population.beams) if beam.alive and beam.reward is not None
        ]
        self._finished |= {(cycle, one.place): one for one in scored if one.beam.finished}
        if scored:
            self._best_partial = in_order(scored, self.config)[0]


def send(progress: dict[str, Any] | None, config: RunnableConfig) -> None:
    """Send progress to the handlers of the config's run, if it has one."""
    manager = get_callback_manager_for_config(config)
    if progress is not None and manager.parent_run_id is not None and manager.handlers:
        manager.on_custom_event(PROGRESS, progress, run_id=manager.parent_run_id)


async def asend(progress: dict[str, Any] | None, config: RunnableConfig) -> None:
    """Send as :func:`send` does."""
    manager = get_async_callback_manager_for_config(config)
    if progress is not None and manager.parent_run_id is not None and manager.handlers:
        await manager.on_custom_event(PROGRESS, progress, run_id=manager.parent_run_id)


def _shares(budget: Budget, usage: Usage) -> dict[str, float]:
    """Each limit's used share; above 1 where the last step overshot it."""
    used = {"tokens": usage.decoded_tokens, "reward_calls": usage.reward_calls, "seconds": usage.seconds}
    return {name: amount / limit for name, amount in used.items() if (limit := getattr(budget, name)) is not None}
