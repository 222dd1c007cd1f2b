"""The decoder: lets a policy continue the open beams."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Annotated, ClassVar

from pydantic import BeforeValidator

from darwin_align.core.errors import OperatorError
from darwin_align.core.seeds import derive
from darwin_align.core.types import Beam, OperatorName, Population
from darwin_align.formats.verdicts import check_request, judged
from darwin_align.operators.base import Dialogue, Operator, Resource, policy_of
from darwin_align.operators.policy import (
    Continuation,
    Policy,
    Row,
    check_ranks,
    usage_of,
)
from darwin_align.operators.report import Report
from darwin_align.operators.timed import generate_call

__all__ = ["Decoder"]
_THINKING_PIECE = 64
"""Tokens of a call for thoughts, where the policy does not stop at their end: what it decodes behind them is not
compared."""


class Decoder(Operator):
    """Lets a policy continue every open beam by at most ``step.tokens`` tokens, and checks the new states.

    With ``step.candidates``, contenders that share instruction and state take different tokens, the most likely ones.
    Where one ends the answer, that is its ``pending_finish_reason``: the beam stays open until the selection.

    A beam that ends within a tool call is marked ``in_tool_call``; one with a call that cannot be made, or with an
    answer that breaks the request's ``tool_choice`` or ``response_format``, is invalid.
    """

    role: ClassVar[OperatorName] = "decode"
    policy: Annotated[Policy, BeforeValidator(policy_of)]
    """A policy, or an object that :func:`~darwin_align.operators.coerce.as_policy` adapts."""

    @property
    def resources(self) -> tuple[Resource, ...]:
        """The policy."""
        return (self.policy,)

    def _dialogue(self, population: Population) -> Dialogue:
        indices = population.awaited
        if not indices:
            return population
        check_request(population.request, self.policy)
        if population.step.candidates:
            check_ranks(self.policy)
        rows = self._rows(population, indices)
        report = Report.of((yield generate_call(self.policy, rows)))
        reply: Sequence[Continuation] = report.answer
        if not isinstance(reply, Sequence) or not all(isinstance(c, Continuation) for c in reply):
            raise OperatorError(f"generate must return a list of continuations, not {reply!r:.80}")
        if len(reply) != len(rows):
            raise OperatorError(f"the policy was given {len(rows)} rows and returned {len(reply)} continuations")
        limit = population.max_new_tokens
        beams = {i: _continued(population.beams[i], c, limit) for i, c in zip(indices, reply, strict=True)}
        beams, faults = judged(beams, population.request, self.policy)
        beams, unfinished = _without_answer(beams)
        if population.step.candidates:
            beams = {i: beam if beam.first_response else _candidate(beam) for i, beam in beams.items()}
        return (
            population.with_beams(beams).spend(usage_of(reply) + report.usage).note(*report.notes, *faults, *unfinished)
        )

    def _rows(self, population: Population, indices: Sequence[int]) -> list[Row]:
        if not population.step.candidates:
            return [self._row(population, i) for i in indices]
        alike: dict[tuple[str, tuple[int, ...], str], int] = defaultdict(int)
        rows = []
        for i in indices:
            beam, rank = population.beams[i], None
            if not (beam.first_response or beam.thinking):
                key = (beam.instruction, beam.tokens, beam.text)
                rank, alike[key] = alike[key], alike[key] + 1
            rows.append(self._row(population, i, rank))
        return rows

    def _row(self, population: Population, i: int, rank: int | None = None) -> Row:
        beam, step = population.beams[i], population.step
        most = min(step.tokens, population.max_new_tokens - beam.length)
        if step.thoughts_first and beam.thinking and not self.policy.capabilities.stops_at_text:
            most = min(most, _THINKING_PIECE)
        # The first response is the same sample in every search.
        position = "first response" if beam.first_response else i
        return Row(
            request=population.request.with_instruction(beam.instruction),
            max_tokens=most,
            seed=derive(step.seed, "decode", position),
            tokens=beam.tokens,
            text=beam.text,
            thoughts=beam.thoughts,
            thinking=beam.thinking,
            text_from=beam.text_from,
            to_text=step.thoughts_first,
            search_id=population.search_id,
            rank=rank,
            seconds=step.seconds_left,
        )


def _continued(beam: Beam, continuation: Continuation, limit: int) -> Beam:
    length = beam.length + continuation.new_tokens
    logprob = None if continuation.logprob is None else (beam.logprob or 0.0) + continuation.logprob
    return beam.model_copy(
        update={
            "tokens": tuple(continuation.tokens),
            "text": continuation.text,
            "thoughts": continuation.thoughts,
            "thinking": continuation.thinking,
            "text_from": continuation.text_from,
            "length": length,
            "reward": None,
            "logprob": logprob,
            "message": continuation.message,
            "finish_reason": continuation.finish_reason or ("length" if length >= limit else None),
        }
    )


def _without_answer(beams: dict[int, Beam]) -> tuple[dict[int, Beam], list[str]]:
    """Beams that ended within their thoughts are invalid; a note for each of them."""
    ended = {i: beam for i, beam in beams.items() if beam.thinking and beam.finished and beam.valid}
    notes = [
        f"beam {i} is invalid: it ended within its thoughts, after {beam.length} tokens: raise max_new_tokens, or give "
        "max_thinking_tokens=…"
        for i, beam in ended.items()
    ]
    return {**beams, **{i: beam.model_copy(update={"valid": False}) for i, beam in ended.items()}}, notes


def _candidate(beam: Beam) -> Beam:
    """A continued beam whose end is still to be selected."""
    if beam.thinking:  # there is nothing to select
        return beam
    return beam.model_copy(update={"pending_finish_reason": beam.finish_reason, "finish_reason": None})
