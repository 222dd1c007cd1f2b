"""What a trace shows of an operator's run: a population that can be read, instead of whole beams.

The population itself passes beside the trace, so an operator's real answer is never changed by it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

from langchain_core.runnables import RunnableConfig, RunnableSerializable
from langchain_core.runnables.config import get_callback_manager_for_config, patch_config
from langchain_core.runnables.utils import AnyConfigurableField, Input, Output

from darwin_align.core.errors import ConfigError
from darwin_align.core.result import SearchResult
from darwin_align.core.setting_names import explain_unknown
from darwin_align.core.types import Beam, OperatorName, Population

__all__ = ["TracedRunnable", "cut", "marked", "result_summary", "summary"]

T = TypeVar("T")

_BEAMS = 12
_NOTES = 12


class TracedRunnable(RunnableSerializable[Input, Output]):
    """A Runnable whose traced run is given and returns something smaller than its own input and output."""

    def configurable_fields(self, **kwargs: AnyConfigurableField) -> RunnableSerializable[Input, Output]:
        """Let a run's config change fields, as every Runnable does.

        Raises:
            ConfigError: there is no such field.
        """
        kind = type(self)
        if unknown := sorted(kwargs.keys() - kind.model_fields.keys()):
            hint = explain_unknown(unknown[0], kind.model_fields, kind.__name__)
            raise ConfigError(f"{kind.__name__} has no field {unknown[0]!r}: {hint}")
        return super().configurable_fields(**kwargs)

    def _traced(
        self,
        work: Callable[[RunnableConfig], T],
        shown: object,
        config: RunnableConfig | None,
        show: Callable[[T], object],
    ) -> T:
        """Do the work in a run that shows ``shown`` as its input and ``show(answer)`` as its output."""
        answers: list[T] = []

        def run(_: object, config: RunnableConfig) -> object:
            answers.append(work(config))
            return show(answers[0])

        self._call_with_config(cast("Any", run), cast("Input", shown), config)
        return answers[0]

    async def _atraced(
        self,
        work: Callable[[RunnableConfig], Awaitable[T]],
        shown: object,
        config: RunnableConfig | None,
        show: Callable[[T], object],
    ) -> T:
        answers: list[T] = []

        async def run(_: object, config: RunnableConfig) -> object:
            answers.append(await work(config))
            return show(answers[0])

        await self._acall_with_config(cast("Any", run), cast("Input", shown), config)
        return answers[0]


def cut(text: str, most: int = 100) -> str:
    """Keep the beginning and the end of a text, at most so many characters (5 at least).

    >>> cut("How do I brew green tea?", 13)
    'How do … tea?'
    """
    if len(text) <= most:
        return text
    head = (most - 1) // 2
    return f"{text[:head].rstrip()} … {text[len(text) - (most - 3 - head) :].lstrip()}"


def summary(population: Population) -> dict[str, Any]:
    """Describe a population in plain data, small enough to read whatever its size.

    >>> from darwin_align.core.types import Request
    >>> seen = summary(Population.start(Request.of("Hi"), mutations=2))
    >>> seen["question"], seen["open"], len(seen["beams"])
    ('mutate', 2, 2)
    """
    step, beams = population.step, population.beams
    seen: dict[str, Any] = {
        "question": step.operator,
        "cycle": step.cycle,
        "step": step.index,
        "parent": cut(population.parent),
        "open": len(population.open),
        "finished": sum(beam.finished for beam in beams),
        "dropped": sum(not beam.alive for beam in beams),
        "beams": [_beam(beam, population.parent) for beam in beams[:_BEAMS]],
        "usage": {name: value for name, value in population.usage.model_dump().items() if value},
    }
    if len(beams) > _BEAMS:
        seen["further_beams"] = len(beams) - _BEAMS
    if population.notes:
        seen["notes"] = [cut(note, 200) for note in population.notes[:_NOTES]]
    return seen


def _beam(beam: Beam, parent: str) -> dict[str, Any]:
    seen: dict[str, Any] = {"text": cut(beam.text), "tokens": beam.length, "reward": beam.reward}
    if beam.first_response:
        seen["first_response"] = True
    elif beam.instruction != parent:
        seen["instruction"] = cut(beam.instruction)
    if beam.finish_reason:
        seen["finish_reason"] = beam.finish_reason
    if not beam.valid:
        seen["valid"] = False
    if beam.in_tool_call:
        seen["in_tool_call"] = True
    if beam.thoughts:
        seen["thoughts"] = cut(beam.thoughts)
    if beam.thinking:
        seen["thinking"] = True
    if not beam.alive:
        seen["dropped"] = True
    if beam.ancestor is not None:
        seen["ancestor"] = beam.ancestor.model_dump()
    return seen


def result_summary(result: SearchResult) -> dict[str, Any]:
    """A result as a trace shows it: without its events."""
    return {
        "text": result.text,
        "reward": result.reward,
        "instruction": cut(result.instruction, 400),
        "first_response": {"text": cut(result.first_response.text, 400), "reward": result.first_response.reward},
        "cycles": result.cycles,
        "stop_reason": result.stop_reason,
        "failure": result.failure,
        "seed": result.config.seed,
        "usage": result.usage.model_dump(),
    }


def marked(config: RunnableConfig, operator: OperatorName) -> RunnableConfig:
    """The config for an operator, with the question as the run's tag: ``darwin:decode`` and so on."""
    manager = get_callback_manager_for_config(config)
    manager.set_handlers(list(manager.inheritable_handlers))  # the others are of the parent's run alone
    manager.add_tags([f"darwin:{operator}"], inherit=False)
    manager.add_tags(["nostream"])  # to LangGraph: what a judge or a mutator writes is no message of the graph's
    return patch_config(config, callbacks=manager)
