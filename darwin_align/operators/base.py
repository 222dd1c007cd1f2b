"""The four operators: Runnables from population to population, each with one small method to override.

``decoder | scorer | selector`` is a chain that can be run by hand; the selector advances the step.
In one file, for what is true of one is true of all four.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Awaitable, Callable, Generator, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from math import inf, nextafter
from operator import index
from typing import Annotated, Any, ClassVar, Protocol, TypeVar, Union

from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.utils import ConfigurableFieldSpec, get_unique_config_specs
from pydantic import BeforeValidator, ConfigDict

from darwin_align.core.budget import Usage
from darwin_align.core.errors import OperatorError, RewardError
from darwin_align.core.laws import check_rewards, is_ordered
from darwin_align.core.record import plain_errors
from darwin_align.core.seeds import derive
from darwin_align.core.selection import Selection, winners_of
from darwin_align.core.types import Ancestor, Beam, OperatorName, Population, Request, Response
from darwin_align.formats.verdicts import check_request, judged
from darwin_align.operators.context import MutationContext
from darwin_align.operators.draft import Draft
from darwin_align.operators.policy import (
    Allowance,
    Continuation,
    Policy,
    Row,
    check_ranks,
    current_allowance,
    current_search,
    usage_of,
)
from darwin_align.operators.portal import acall, call, default_submit, has_own_submit, start, time_limit
from darwin_align.operators.report import Report
from darwin_align.operators.signatures import check_mutate
from darwin_align.operators.timed import generate_call
from darwin_align.operators.tracing import TracedRunnable, summary
from darwin_align.operators.usage import with_policy_usage

__all__ = ["Check", "Decoder", "Mutator", "Operator", "Report", "Resource", "Scorer", "Selector", "policy_of"]

_THINKING_PIECE = 64
"""Tokens of a call for thoughts, where the policy does not stop at their end: what it decodes behind them is not
compared."""

T = TypeVar("T")
Reply = Union[T, Awaitable[T]]  # noqa: UP007 - a generic alias needs the old spelling
MethodCall = tuple[Callable[..., object], tuple[object, ...]]
Dialogue = Generator[MethodCall, Any, Population]
Selected = Selection | tuple[Sequence[int | None], Sequence[float]]
"""A selection, or its ancestors and weights alone."""
Check = Callable[[Request, str], Reply[str | None]]
"""``check(request, mutation)`` returns the reason for which a mutation is refused, or ``None``."""


class Resource(Protocol):
    """An object that keeps data for a search, e.g. a cache."""

    def release(self, search_id: str) -> None:
        """Free the data of a search that is over."""
        ...


def policy_of(given: object) -> Policy:
    """Adapt an operator's ``policy``: see :func:`~darwin_align.operators.coerce.as_policy`."""
    from darwin_align.operators.coerce import as_policy  # it imports this module

    return as_policy(given)


class Operator(TracedRunnable[Population, Population]):
    """A Runnable over a population. Its method may be plain or ``async``; both drivers run both."""

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)
    role: ClassVar[OperatorName]

    def __init__(self, **fields: object) -> None:
        with plain_errors(type(self)):
            super().__init__(**fields)

    @abstractmethod
    def _dialogue(self, population: Population) -> Dialogue:
        """Yield ``(method, args)``, be sent its reply, return the answer: one implementation for sync and async."""

    def invoke(self, input: Population, config: RunnableConfig | None = None, **kwargs: Any) -> Population:
        """Answer the population's question."""
        _refuse(kwargs, self)
        return self._traced(partial(self._answer, input), summary(input), config, summary)

    async def ainvoke(self, input: Population, config: RunnableConfig | None = None, **kwargs: Any) -> Population:
        """Answer the population's question without blocking the event loop."""
        _refuse(kwargs, self)
        return await self._atraced(partial(self._aanswer, input), summary(input), config, summary)

    @property
    def resources(self) -> tuple[Resource, ...]:
        """Parts that keep data for a search: they are released when it is over, as the operator itself is."""
        return ()

    def release(self, search_id: str) -> None:
        """Free what this operator keeps for a search that is over: a hint."""

    @property
    def config_specs(self) -> list[ConfigurableFieldSpec]:
        """What ``{"configurable": {...}}`` may change: of the chains and operators that this one is made of."""
        parts = [part for value in dict(self).values() for part in (value if isinstance(value, tuple) else (value,))]
        runnables = [part for part in parts if isinstance(part, Runnable)]
        return get_unique_config_specs(spec for runnable in runnables for spec in runnable.config_specs)

    def _answer(self, population: Population, _: RunnableConfig) -> Population:
        dialogue = self._dialogue(population)
        try:
            with _answering(population):
                method, args = next(dialogue)
                while True:
                    method, args = dialogue.send(call(method, *args))
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]

    async def _aanswer(self, population: Population, _: RunnableConfig) -> Population:
        dialogue = self._dialogue(population)
        try:
            with _answering(population):
                method, args = next(dialogue)
                while True:
                    reply = await acall(method, *args)
                    method, args = dialogue.send(reply)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]


@contextmanager
def _answering(population: Population) -> Iterator[None]:
    """Set the context variables that an operator's methods may read: the search, and the rest of its budget."""
    step = population.step
    limit = None if step.seconds_left is None else step.seconds_left + step.grace_seconds
    search = current_search.set(population.search_id)
    allowance = current_allowance.set(Allowance.of(step.tokens_left, step.seconds_left))
    try:
        with time_limit(limit):
            yield
    finally:
        current_allowance.reset(allowance)
        current_search.reset(search)


class Mutator(Operator):
    """Rewords the parent instruction: override :meth:`mutate`.

    A mutation that a check refuses, or that is missing, is requested once more; then the parent is used instead. The
    event's notes report both, and ``result.exploration`` counts them.

    Raises:
        ConfigError: where a subclass is defined whose ``mutate`` takes other arguments than one context.
    """

    role: ClassVar[OperatorName] = "mutate"
    explores: ClassVar[bool] = True
    """Whether it is meant to return something else than the parent."""
    refuses_copies: ClassVar[bool] = False
    """Whether a copy of the parent, or of another rewording of the same mutation, is refused."""
    checks: tuple[Check, ...] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "mutate" in vars(cls):
            check_mutate(cls.__name__, vars(cls)["mutate"])

    @abstractmethod
    def mutate(self, context: MutationContext) -> Reply[list[str] | Report[list[str]]]:
        """Return up to ``context.n`` rewordings of ``context.instruction``."""

    async def prepare(self) -> None:
        """Do what has to be done once, e.g. measure a model. Searches call it outside their budget."""

    @property
    def prepares(self) -> bool:
        """Whether :meth:`prepare` is overridden."""
        return type(self).prepare is not Mutator.prepare

    def guarded(self, *checks: Check) -> Mutator:
        """Return this mutator with further checks."""
        return self.model_copy(update={"checks": (*self.checks, *checks)})

    def _dialogue(self, population: Population) -> Dialogue:
        draft = Draft(population, explores=self.explores)
        yield from self._fill(draft)
        return draft.filled()

    def _fill(self, draft: Draft) -> Generator[MethodCall, Any, None]:
        """Fill a draft's places, as far as rewordings are found for them."""
        for attempt in range(2):
            if draft.missing and not current_allowance.get().spent:
                yield from self._attempt(draft, attempt)

    def _attempt(self, draft: Draft, attempt: int | str, most: int | None = None) -> Generator[MethodCall, Any, None]:
        """Call for the missing rewordings once, or for at most so many of them, and check them."""
        missing, before = min(draft.missing, most or draft.missing), len(draft.accepted)
        report = Report.of((yield self.mutate, (draft.context(attempt, missing),)))
        draft.spend(report.usage)
        draft.note(*report.notes)
        current_allowance.set(current_allowance.get().after(report.usage))
        for mutation in _mutations(report.answer, missing):
            reason, spent = yield from self._refusal(draft.population.request, mutation)
            draft.spend(spent)
            if self.refuses_copies:
                reason = reason or draft.copies(mutation)
            if reason:
                draft.refuse(mutation, reason)
            else:
                draft.accept(mutation)
        draft.count_tokens(report.usage.decoded_tokens, missing, len(draft.accepted) - before)

    def _refusal(
        self, request: Request, mutation: str
    ) -> Generator[MethodCall, tuple[str | None, Usage], tuple[str | None, Usage]]:
        """The reason to refuse, and the usage of models in the checks."""
        spent = Usage()
        if not mutation.strip():
            return "it is blank", spent
        for check in self.checks:
            reason, more = yield with_policy_usage(check), (request, mutation)
            spent += more
            if reason:
                return str(reason), spent
        return None, spent


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


class Scorer(Operator):
    """Rewards responses, partial or finished, against the ORIGINAL conversation: override :meth:`score`."""

    role: ClassVar[OperatorName] = "score"
    score_thoughts: bool = False
    """Whether responses come with the thoughts of a reasoning model, to be judged as well (``Response.thoughts``). An
    answer of which there are only thoughts is judged by no scorer."""

    @abstractmethod
    def score(
        self, request: Request, responses: Sequence[Response]
    ) -> Reply[Sequence[float] | Report[Sequence[float]]]:
        """Return one finite reward for each response, in order; larger is better."""

    @default_submit
    def submit(self, request: Request, responses: Sequence[Response]) -> Future[Any]:
        """Queue responses and return a future of what :meth:`score` returns, at once.

        A search calls it instead of :meth:`score` if a subclass overrides it, marked with
        :func:`~darwin_align.operators.portal.submits`. The default runs :meth:`score` in the background.
        """
        return start(self.score, request, responses)

    @property
    def components(self) -> tuple[Scorer, ...]:
        """The scorers that this one is made of."""
        return ()

    @property
    def compares(self) -> bool:
        """Whether rewards are relative to the other responses of one call, and say nothing about those of another."""
        return any(scorer.compares for scorer in self.components)

    @property
    def reads_thoughts(self) -> bool:
        """Whether this scorer, or one that it is made of, judges thoughts."""
        return self.score_thoughts or any(scorer.reads_thoughts for scorer in self.components)

    def judgeable(self, responses: Sequence[Response]) -> list[Response]:
        """The responses as this scorer is to see them."""
        if self.reads_thoughts:
            return list(responses)
        return [r.model_copy(update={"thoughts": ""}) if r.thoughts else r for r in responses]

    @property
    def needs_preflight(self) -> bool:
        """Whether :meth:`try_out` would score something."""
        return False

    async def try_out(self, request: Request) -> None:
        """Score a short answer, so that a scorer that cannot work fails before anything is decoded."""

    def max_response_tokens(self, request: Request) -> int | None:  # noqa: ARG002
        """Tokens of an answer that this scorer can read after the conversation; ``None`` means no limit."""
        return None

    def _dialogue(self, population: Population) -> Dialogue:
        indices = population.unscored
        # Beams that share a state are scored once.
        sharing: dict[Response, list[int]] = {}
        for i, response in zip(indices, self.judgeable([population.beams[i].response for i in indices]), strict=True):
            sharing.setdefault(response, []).append(i)
        if not sharing:
            return population
        responses = list(sharing)
        method = self.submit if has_own_submit(self) else self.score
        report = Report.of((yield method, (population.request, responses)))
        rewards = check_rewards(report.answer, len(responses))
        scored = {
            i: population.beams[i].model_copy(update={"reward": reward})
            for response, reward in zip(responses, rewards, strict=True)
            for i in sharing[response]
        }
        return (
            population.with_beams(scored).spend(report.usage + Usage(reward_calls=len(responses))).note(*report.notes)
        )


class Selector(Operator):
    """Decides who goes on with whose state: override :meth:`select`. Then the step is over.

    Beams that end within a tool call take no part: they stay as they are, and their state is not taken.
    """

    role: ClassVar[OperatorName] = "select"

    @abstractmethod
    def select(
        self, rewards: Sequence[float], finished: Sequence[bool], weights: Sequence[float], seed: int
    ) -> Reply[Selected]:
        """Return an ancestor for each contender and the weights that they carry on.

        The ancestor is the index of the contender whose state is taken: its own to stay as it is, ``None`` to be
        dropped. A finished contender must keep its own. An invalid contender comes with a reward below all others.
        With ``choice="soft"`` an answer is drawn in proportion to ``exp(reward / temperature + weight)``.
        """

    def worth(self, beams: Sequence[Beam]) -> list[float]:
        """What :meth:`select` is given as rewards, one for each beam: their rewards, unless this is overridden."""
        return [beam.reward for beam in beams if beam.reward is not None]

    def _dialogue(self, population: Population) -> Dialogue:
        indices, step = population.selectable, population.step
        beams = [population.beams[i] for i in indices]
        if unscored := [i for i, beam in zip(indices, beams, strict=True) if beam.reward is None]:
            raise RewardError(
                f"select needs a reward for every beam; beams {unscored} have none: put a scorer before it"
            )
        finished = [beam.finished for beam in beams]
        seed = derive(step.seed, "select", step.index)
        advanced = step.model_copy(update={"operator": "decode", "index": step.index + 1})
        if not indices:  # every beam is inside a tool call
            return population.model_copy(update={"step": advanced})
        reply = yield (
            self.select,
            (_invalid_last(self.worth(beams), beams), finished, [beam.log_weight for beam in beams], seed),
        )
        selection = reply if isinstance(reply, Selection) else _selection(reply, finished)
        _check_selection(selection, len(beams), finished)
        taken = {i: _select(population, indices, j, selection) for j, i in enumerate(indices)}
        return population.with_beams(taken, step=advanced)


def _refuse(kwargs: dict[str, Any], operator: Operator) -> None:
    if kwargs:
        raise TypeError(f"{type(operator).__name__} takes no call arguments: {', '.join(kwargs)}")


def _mutations(answer: object, most: int) -> Sequence[str]:
    if not isinstance(answer, list | tuple) or not all(isinstance(mutation, str) for mutation in answer):
        raise OperatorError(f"mutate must return a list of texts, not {answer!r:.80}")
    if len(answer) > most:
        raise OperatorError(f"the mutator was called for {most} instructions and returned {len(answer)}")
    return answer


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


def _invalid_last(rewards: Sequence[float], beams: Sequence[Beam]) -> list[float]:
    lowest = min(rewards, default=0.0)
    below_all = min(lowest - 1.0, nextafter(lowest, -inf))  # a huge number minus one is the same number
    return [reward if beam.valid else below_all for beam, reward in zip(beams, rewards, strict=True)]


def _selection(reply: Any, finished: Sequence[bool]) -> Selection:
    try:
        if not is_ordered(reply):
            raise TypeError
        ancestors, weights = reply
        if not (is_ordered(ancestors) and is_ordered(weights)):
            raise TypeError
        ancestors, weights = tuple(ancestors), tuple(weights)
        if any(isinstance(weight, str) for weight in weights):
            raise TypeError
        ancestors = tuple(None if ancestor is None else index(ancestor) for ancestor in ancestors)
        weights = tuple(float(weight) for weight in weights)
    except (TypeError, ValueError):
        raise OperatorError(
            f"select must return (ancestors, weights), not {reply!r:.80}: two lists in the order of the contenders"
        ) from None
    _check_length(len(ancestors), len(weights), len(finished))
    return Selection(ancestors, weights, winners_of(ancestors, finished))


def _check_length(ancestors: int, weights: int, n: int) -> None:
    if ancestors != n or weights != n:
        raise OperatorError(f"select was given {n} contenders and returned {ancestors} ancestors and {weights} weights")


def _check_selection(selection: Selection, n: int, finished: Sequence[bool]) -> None:
    ancestors, weights, _ = selection
    _check_length(len(ancestors), len(weights), n)
    for i, ancestor in enumerate(ancestors):
        if ancestor is not None and ancestor not in range(n):
            raise OperatorError(f"select gave contender {i} the ancestor {ancestor!r}; contenders are 0 to {n - 1}")
        if finished[i] and ancestor != i:
            raise OperatorError(f"select gave contender {i} the ancestor {ancestor}, but it is finished and must stay")


def _select(population: Population, indices: Sequence[int], j: int, selection: Selection) -> Beam:
    beam, ancestor = population.beams[indices[j]], selection.ancestors[j]
    update: dict[str, Any] = {
        "log_weight": float(selection.log_weights[j]),
        "wins": beam.wins + (j in selection.winners),
    }
    if ancestor is None:
        return beam.model_copy(update={**update, "alive": False})
    if ancestor != j:
        donor = indices[ancestor]
        beam = beam.take_state(population.beams[donor])
        update["ancestor"] = Ancestor(beam=donor, step=population.step.index)
    return beam.settled.model_copy(update=update)
