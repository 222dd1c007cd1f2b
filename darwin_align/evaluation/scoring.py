"""Scoring of given answers as a search scores them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.runnables import Runnable

from darwin_align.core.errors import DarwinError, OperatorError, RewardError
from darwin_align.core.laws import check_answer
from darwin_align.core.types import Beam, Population, Request, Step

__all__ = ["GivenAnswer", "score_answers"]

GivenAnswer = tuple[str, bool]
"""A text, and whether it is finished."""


async def score_answers(
    scorer: Runnable[Any, Any], request: Request, answers: Sequence[GivenAnswer], *, name: str, search_id: str
) -> tuple[list[float], tuple[str, ...]]:
    """Score as a search does: a population, of which equal beams are scored once.

    Args:
        scorer: as a search has it.
        request: the conversation.
        answers: to it.
        name: what they are called in errors.
        search_id: opaque hint for caches.

    Returns:
        The rewards, and what the scorer noted.

    Raises:
        RewardError: the scorer returned the wrong number of rewards, or one that is no finite number.
        OperatorError: the scorer raised an error of its own.
        DarwinError: the scorer could not be used; a note names the answers.
    """
    beams = tuple(
        Beam(instruction=request.instruction, text=text, length=1, finish_reason="stop" if finished else None)
        for text, finished in answers
    )
    before = Population(
        request=request, parent=request.instruction, beams=beams, step=Step(operator="score"), search_id=search_id
    )
    try:
        after = await scorer.ainvoke(before)
        check_answer("score", before, after)
    except RewardError as error:
        raise RewardError(f"{name}: {error}") from error
    except OperatorError as error:
        raise OperatorError(f"{name}: {error}") from error
    except DarwinError as error:
        error.add_note(f"asked for {name}")
        raise
    except Exception as error:
        raise OperatorError(f"{name}: the scorer raised {type(error).__name__}: {error}") from error
    return [float(beam.reward) for beam in after.beams], tuple(after.notes)
