"""DarwinSearch: operators around Algorithm 1, as a Runnable from messages to a result, sync and async.

In one file, so that the sync and the async driver are read side by side.
"""

from __future__ import annotations

import secrets
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, closing, contextmanager, nullcontext
from time import perf_counter
from typing import Any, Never, Self, Unpack, cast

from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import (
    ensure_config,
    set_config_context,
)
from langchain_core.runnables.graph import Graph
from langchain_core.runnables.utils import ConfigurableFieldSpec, coro_with_context, get_unique_config_specs
from pydantic import ConfigDict, Field, PrivateAttr, model_validator

import darwin_align.traces  # noqa: F401 - results show themselves in notebooks
from darwin_align.core import (
    Event,
    Population,
    Question,
    Request,
    Sampling,
    SearchConfig,
    SearchResult,
    Usage,
    darwin,
)
from darwin_align.core.clauses import Clause
from darwin_align.core.errors import ConfigError, ReplayError
from darwin_align.core.record import plain_errors
from darwin_align.core.search_settings import OnEvent, SearchSettings
from darwin_align.core.types import Grounded, OperatorName
from darwin_align.formats.verdicts import check_request
from darwin_align.langchain.loop_graph import loop_graph
from darwin_align.langchain.model_errors import ends_search, error_message
from darwin_align.langchain.progress import Progress, asend, send
from darwin_align.langchain.progress_bar import ProgressBar
from darwin_align.langchain.settings import readable
from darwin_align.operators.base import Resource
from darwin_align.operators.checks.intent import LexicalIntent, fits
from darwin_align.operators.coerce import (
    ConfigLike,
    DecoderLike,
    MutatorLike,
    PolicyLike,
    ScorerLike,
    SelectorLike,
    as_config,
    as_decoder,
    as_mutator,
    as_policy,
    as_scorer,
    as_selector,
    parts_of,
)
from darwin_align.operators.decoder import Decoder
from darwin_align.operators.guarded import guarded
from darwin_align.operators.mutator import Check, Mutator
from darwin_align.operators.mutators.named import mutator_of
from darwin_align.operators.observers import MODEL, SearchObserver, observed_search
from darwin_align.operators.policy import Policy, check_ranks
from darwin_align.operators.portal import OutOfTime, acall, call
from darwin_align.operators.prompts import MANY, MutationPrompt, MutationPromptField
from darwin_align.operators.resources import released, resources_of
from darwin_align.operators.rewording import warned_of_few
from darwin_align.operators.scorer import Scorer
from darwin_align.operators.scorers.plain import SHORT_ANSWER, judges_of
from darwin_align.operators.selectors import selector_of
from darwin_align.operators.signatures import check_signature
from darwin_align.operators.suitable import check_suits, in_whole_answers
from darwin_align.operators.together import RunsTogether
from darwin_align.operators.tracing import TracedRunnable, marked, result_summary
from darwin_align.search_call import SearchInput, named_settings, preflight, request_of, search_changes, warn_failed

__all__ = ["DarwinSearch", "SearchInput"]

_NOT_GIVEN: Any = object()
"""Default of arguments whose default is the field's."""


class DarwinSearch(RunsTogether[SearchInput, SearchResult], TracedRunnable[SearchInput, SearchResult]):
    """Reward-guided evolutionary decoding (DARWIN, arXiv 2406.15193).

    Give a policy and a scorer; mutator, decoder and selector follow from them and from the settings unless they are
    given too. A function, a LangChain chain, or an object with the operator's method is accepted as an operator.

    Raises:
        ConfigError: something is missing, or an operator and a setting contradict each other.

    >>> from darwin_align.backends.scripted import ScriptedPolicy, ScriptedScorer
    >>> search = DarwinSearch(policy=ScriptedPolicy(), scorer=ScriptedScorer(), config=SearchConfig(mutator="identity"))
    >>> result = search.invoke("Say something good.", seed=1)
    >>> result.reward > result.first_response.reward
    True
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    # As given, in one of the types of __init__. The private attributes below are the operators made of them.
    policy: object = None
    """Continues text, for the decoder and the mutator."""
    scorer: object
    """Rewards responses."""
    decoder: object = None
    mutator: object = None
    selector: object = None
    """Has its own settings: giving ``config.survivors`` beside it is an error."""
    config: SearchConfig = SearchConfig()
    sampling: Sampling = Sampling()
    clauses: tuple[Clause, ...] = ()
    """What ``mutator="clauses"`` adds where the settings name none, so that a call may choose ``learned_clauses``."""
    grounded: Grounded = False
    """Whether the values of tool calls and structured answers are copied from the conversation."""
    mutation_prompt: MutationPromptField = MANY
    """Asks the policy for rewordings: a :class:`~darwin_align.operators.prompts.MutationPrompt`, or its template with
    ``{instruction}``. An explicit mutator has its own."""
    guard: Check | None = Field(default_factory=LexicalIntent)
    """Intent guard: refuses mutations that leave the topic. ``None`` lets all through."""
    progress: bool = Field(False, exclude=True, repr=False)
    """Whether each search draws a bar while it runs: cycles, tokens, best reward so far (extra ``progress``)."""

    _policy: Policy | None = PrivateAttr()
    _decoder: Runnable[Any, Any] = PrivateAttr()
    _scorer: Runnable[Any, Any] = PrivateAttr()
    _mutator: Runnable[Any, Any] | None = PrivateAttr()
    _selector: Runnable[Any, Any] | None = PrivateAttr()

    def __init__(
        self,
        *,
        policy: PolicyLike | None = None,
        scorer: ScorerLike = _NOT_GIVEN,
        decoder: DecoderLike | None = None,
        mutator: MutatorLike | None = None,
        selector: SelectorLike | None = None,
        config: ConfigLike = _NOT_GIVEN,
        sampling: Sampling | Mapping[str, Any] = _NOT_GIVEN,
        clauses: Sequence[Clause] = (),
        grounded: Grounded = False,
        mutation_prompt: MutationPrompt | str = MANY,
        guard: Check | None = _NOT_GIVEN,
        progress: bool = False,
        name: str | None = None,
        **unknown: Never,
    ) -> None:
        given = {
            "policy": policy,
            "scorer": scorer,
            "decoder": decoder,
            "mutator": mutator,
            "selector": selector,
            "config": as_config(config),
            "sampling": sampling,
            "clauses": clauses,
            "grounded": grounded,
            "mutation_prompt": mutation_prompt,
            "guard": guard,
            "progress": progress,
            "name": name,
            **unknown,
        }
        with plain_errors(type(self)):
            super().__init__(**{name: part for name, part in given.items() if part is not _NOT_GIVEN})

    @model_validator(mode="after")
    def _coerce(self) -> Self:
        if self.policy is None and self.decoder is None:
            raise ConfigError("a search needs a policy that continues text: give policy=…, or decoder=…")
        if self.selector is not None and (owned := {"selector", "survivors"} & self.config.model_fields_set):
            raise ConfigError(
                f"an explicit selector owns its settings, so config.{' and config.'.join(sorted(owned))} "
                "would be ignored: leave it out, or leave the selector out"
            )
        if self.mutator is not None and "mutator" in self.config.model_fields_set:
            raise ConfigError("config.mutator would be ignored beside an explicit mutator: leave one of them out")
        if self.mutator is not None and self.mutation_prompt != MANY:
            raise ConfigError("mutation_prompt would be ignored beside an explicit mutator: give the mutator a prompt")
        if self.guard is not None:
            check_signature("guard", self.guard, "guard(request, mutation) -> str | None")
        self._policy = None if self.policy is None else as_policy(self.policy)
        self._decoder = as_decoder(self._policy if self.decoder is None else self.decoder)
        self._scorer = as_scorer(self.scorer)
        self._mutator = None if self.mutator is None else as_mutator(self.mutator)
        self._selector = None if self.selector is None else as_selector(self.selector)
        self.config = self._settled(self.config)
        self._mutator_under(self.config)  # what cannot work shows here, not in the middle of a search
        check_suits(self._parts((self._decoder, self._scorer), ensure_config()), self.config)
        return self

    def invoke(  # type: ignore[override] # LangChain takes any argument
        self, input: SearchInput, config: RunnableConfig | None = None, **settings: Unpack[SearchSettings]
    ) -> SearchResult:
        """Search for a well rewarded answer.

        Args:
            input: a text, messages, a prompt value, or a :class:`Request`.
            config: LangChain's run configuration.
            settings: for this call only, any setting of :class:`SearchConfig` or :class:`Sampling`, and ``stop``,
                ``tools``, ``tool_choice``, ``parallel_tool_calls``, ``response_format``, ``grounded``,
                ``grounded_in``, ``chat_template_kwargs``, ``max_tokens``; also ``replay`` (recorded events to start
                from), ``on_event`` (called after every answer) and ``progress`` (whether to draw a bar).

        Raises:
            RequestError: the conversation cannot be answered.
            ConfigError: an unknown or impossible setting.
            OperatorError: an operator's answer would break the algorithm.
            ReplayError: ``replay`` belongs to another search.
            EndpointError: a server cannot be used, before anything was scored or with ``on_failure="raise"``; likewise
                whatever a user's own scorer or mutator raises.
        """
        return self._traced(
            lambda config: cast(SearchResult, [*self._steps(input, config, settings)][-1]),
            input,
            config,
            result_summary,
        )

    async def ainvoke(  # type: ignore[override] # LangChain takes any argument
        self, input: SearchInput, config: RunnableConfig | None = None, **settings: Unpack[SearchSettings]
    ) -> SearchResult:
        """Search as :meth:`invoke` does, with the same result, without blocking the event loop."""
        return await self._atraced(
            lambda config: _alast(self._asteps(input, config, settings)), input, config, result_summary
        )

    def run(
        self, input: SearchInput, config: RunnableConfig | None = None, **settings: Unpack[SearchSettings]
    ) -> SearchResult:
        """Search as :meth:`invoke` does, without a run of its own: the operators' runs are children of the config's.

        For callers that have a run already, like a chat model.
        """
        config = ensure_config(config)
        with set_config_context(config) as context:
            return cast(SearchResult, context.run(list, self._steps(input, config, settings))[-1])

    async def arun(
        self, input: SearchInput, config: RunnableConfig | None = None, **settings: Unpack[SearchSettings]
    ) -> SearchResult:
        """Search as :meth:`run` does, without blocking the event loop."""
        return await _alast(self.asteps(input, config, **settings))

    def steps(
        self, input: SearchInput, config: RunnableConfig | None = None, **settings: Unpack[SearchSettings]
    ) -> Generator[Event | SearchResult, None, None]:
        """Search as :meth:`run` does, step by step: closing the generator ends the search.

        Yields:
            Every live answer's event, and at last the result.
        """
        config = ensure_config(config)
        steps = self._steps(input, config, settings)
        with set_config_context(config) as context, closing(steps):
            while (step := context.run(next, steps, None)) is not None:
                yield step

    async def asteps(
        self, input: SearchInput, config: RunnableConfig | None = None, **settings: Unpack[SearchSettings]
    ) -> AsyncGenerator[Event | SearchResult, None]:
        """Search as :meth:`steps` does, without blocking the event loop."""
        config = ensure_config(config)
        steps = self._asteps(input, config, settings)
        with set_config_context(config) as context:
            async with aclosing(steps):
                while (step := await coro_with_context(_next(steps), context)) is not None:
                    yield step

    def _steps(
        self, input: SearchInput, config: RunnableConfig, settings: SearchSettings
    ) -> Generator[Event | SearchResult, None, None]:
        spec = _Call(self, input, **settings)
        with observed_search(self._reported_name(config), spec.request, spec.config) as seen:
            with seen.observer.within():
                limit = self._max_response_tokens(spec.request, config)
            run = _Run(self, spec, limit, config, seen.observer)
            with run.released():
                for judge in run.judges:
                    with seen.observer.within():
                        preflight(judge, spec.request).invoke(SHORT_ANSWER.text, marked(config, "score"))
                for question, operator in run:
                    with run.answering(question):
                        if prepare := run.preparation(operator):
                            call(prepare)
                            run.start_clock()
                        run.reply = operator.invoke(question.population, marked(config, question.operator))
                    send(run.progress, config)
                    yield run.answer
            seen.result = run.result
        yield run.result

    async def _asteps(
        self, input: SearchInput, config: RunnableConfig, settings: SearchSettings
    ) -> AsyncGenerator[Event | SearchResult, None]:
        spec = _Call(self, input, **settings)
        with observed_search(self._reported_name(config), spec.request, spec.config) as seen:
            with seen.observer.within():
                limit = await acall(self._max_response_tokens, spec.request, config)
            run = _Run(self, spec, limit, config, seen.observer)
            with run.released():
                for judge in run.judges:
                    with seen.observer.within():
                        await preflight(judge, spec.request).ainvoke(SHORT_ANSWER.text, marked(config, "score"))
                for question, operator in run:
                    with run.answering(question):
                        if prepare := run.preparation(operator):
                            await acall(prepare)
                            run.start_clock()
                        run.reply = await operator.ainvoke(question.population, marked(config, question.operator))
                    await asend(run.progress, config)
                    yield run.answer
            seen.result = run.result
        yield run.result

    def _reported_name(self, config: RunnableConfig) -> str:
        """The name under which observers report a search: the chat model's or the server's, if they give one."""
        given = (config.get("metadata") or {}).get(MODEL)
        return str(given or self.name or (self._policy.model_name if self._policy else type(self._decoder).__name__))

    def _max_response_tokens(self, request: Request, config: RunnableConfig) -> int | None:
        """Tokens of an answer that the scorer can read; this may need a request to a server."""
        limits = [
            part.max_response_tokens(request) for part in parts_of(self._scorer, config) if isinstance(part, Scorer)
        ]
        return min((limit for limit in limits if limit is not None), default=None)

    @staticmethod
    def _parts(operators: Iterable[Runnable[Any, Any]], config: RunnableConfig) -> list[Runnable[Any, Any]]:
        return [part for operator in operators for part in parts_of(operator, config)]

    def policy_for(self, config: RunnableConfig | None = None) -> Policy | None:
        """The policy that decodes the answers in a call with this config."""
        parts = parts_of(self._decoder, ensure_config(config))
        return next((part.policy for part in parts if isinstance(part, Decoder)), None)

    @property
    def config_specs(self) -> list[ConfigurableFieldSpec]:
        """What ``{"configurable": {...}}`` may change in a call: fields and alternatives of the operators."""
        operators = self.operators(self.config).values()
        return get_unique_config_specs(spec for operator in operators for spec in operator.config_specs)

    def get_graph(self, config: RunnableConfig | None = None) -> Graph:
        """Draw the loop, as it runs under the search's own settings and the config's choice of operators."""
        return loop_graph(self, self.operators(self.config), self.config, ensure_config(config))

    def request(self, input: SearchInput, settings: Mapping[str, Any]) -> tuple[Request, SearchConfig]:
        """Split a call's input and settings into the request and the search's settings.

        Raises:
            ConfigError: an unknown setting.
            RequestError: a text contains half a surrogate pair.
        """
        named = named_settings(settings)
        request = request_of(input, named, sampling=self.sampling, grounded=self.grounded)
        changes = search_changes(named)
        if self.selector is not None and (owned := {"selector", "survivors"} & changes.keys()):
            raise ConfigError(f"{sorted(owned)[0]} belongs to the explicit selector: set it there")
        if self.mutator is not None and "mutator" in changes:
            raise ConfigError("mutator=… in a call would be ignored beside the search's explicit mutator")
        config = self.config.replace(**changes) if changes else self.config
        return request, self._settled(config)

    def _settled(self, config: SearchConfig) -> SearchConfig:
        """The settings with the search's clauses, where the mutator needs some and the settings name none."""
        if config.mutator == "clauses" and not config.clauses and self.clauses:
            return config.replace(clauses=self.clauses)
        return config

    def operators(self, config: SearchConfig) -> dict[OperatorName, Runnable[Any, Any]]:
        """Return the four operators under these settings."""
        return {
            "mutate": self._mutator_under(config),
            "decode": self._decoder,
            "score": self._scorer,
            "select": selector_of(config) if self._selector is None else self._selector,
        }

    def _mutator_under(self, config: SearchConfig) -> Runnable[Any, Any]:
        mutator = self._mutator
        if mutator is None:
            mutator = mutator_of(config, self._policy, self.mutation_prompt, self.clauses)
            if config.mutator == "identity":
                return mutator
        checks = [self.guard] if self.guard is not None else []
        if self._policy is not None and self._policy.has_own_refusal:
            checks.append(fits(self._policy.refusal, config.max_new_tokens))
        return guarded(mutator, checks)


class _Call:
    """One call: its request, settings and recorded events."""

    def __init__(
        self,
        search: DarwinSearch,
        input: SearchInput,
        *,
        replay: Sequence[Event] = (),
        on_event: OnEvent | None = None,
        progress: bool | None = None,
        **settings: object,
    ) -> None:
        self.request, self.config = search.request(input, settings)
        self.replay, self.on_event = replay, on_event
        self.progress = search.progress if progress is None else progress
        if self.config.seed is None:
            if replay:
                raise ReplayError("a replay needs the seed of the recorded run: pass seed=result.config.seed")
            self.config = self.config.replace(seed=secrets.randbelow(2**31))


class _Run:
    """One running search: iterate over the questions that need a live answer, and answer each.

    An answer is the ``reply`` that is set within :meth:`answering`.
    """

    def __init__(
        self,
        search: DarwinSearch,
        spec: _Call,
        max_response_tokens: int | None,
        run_config: RunnableConfig,
        observer: SearchObserver,
    ) -> None:
        self.observer = observer
        config, notes = readable(spec.config, max_response_tokens)
        self.operators = search.operators(config)
        parts = search._parts(self.operators.values(), run_config)
        check_suits(parts, config)
        config, further = in_whole_answers(parts, config)
        self.notes = () if spec.replay else (*notes, *further)
        """Notes for the first answer's event."""
        for part in parts:
            if isinstance(part, Decoder):
                check_request(spec.request, part.policy)  # before any token is spent on mutations
                if config.candidates:
                    check_ranks(part.policy)
        # A preflight would count against no limit of time.
        no_preflight = bool(spec.replay) or config.budget.seconds is not None
        scorers = [] if no_preflight else parts_of(self.operators["score"], run_config)
        self.judges = [judge for part in scorers if isinstance(part, Scorer) for judge in judges_of(part)]
        """To be tried on a short answer before anything is spent on rewording and decoding."""
        policies = [] if search._policy is None else [search._policy]
        kept = resources_of(self.operators.values(), run_config)
        self.resources: Iterable[Resource] = {id(one): one for one in (*policies, *kept)}.values()
        self.search_id = uuid.uuid4().hex
        self.algorithm = darwin(spec.request, config, self.search_id)
        self.recorded, self.on_event = list(spec.replay), spec.on_event
        self.may_end = config.on_failure == "best_so_far"
        self.reply: Population
        self.started = 0.0
        self.event: Event | None = None
        self.answer: Event
        """The last live answer."""
        self.cycles = config.cycles
        self.standing = Progress(config)
        self.bar = ProgressBar(spec.request.instruction, config) if spec.progress else None
        self.progress: dict[str, Any] | None = None
        """The search's progress after the last answer."""
        self.result: SearchResult

    def __iter__(self) -> Iterator[tuple[Question, Runnable[Any, Any]]]:
        replay = iter(self.recorded)
        try:
            question = next(self.algorithm)
            while True:
                if (recorded := next(replay, None)) is None:
                    yield question, self.operators[question.operator]
                else:
                    self.event = recorded
                    self._report(recorded, question)
                if self.event is None:
                    raise RuntimeError(f"the {question.operator} question was not answered")
                event, self.event = self.event, None
                question = self.algorithm.send(event)
        except StopIteration as stop:
            self.result = stop.value
        if next(replay, None) is not None:
            raise ReplayError("more events were recorded than this search has questions: they belong to another search")

    def preparation(self, operator: Runnable[Any, Any]) -> Callable[[], Awaitable[None]] | None:
        """What an operator does once, whose time and tokens count against no search."""
        return operator.prepare if isinstance(operator, Mutator) and operator.prepares else None

    def start_clock(self) -> None:
        """Begin to measure an answer's time."""
        self.started = perf_counter()

    @contextmanager
    def answering(self, question: Question) -> Iterator[None]:
        """Time an operator and record what it replies, or that it failed for good and the search ends."""
        with self.observer.operator(question):
            yield from self._answered(question)

    def _answered(self, question: Question) -> Iterator[None]:
        self.start_clock()
        try:
            yield
        except OutOfTime:
            self.event = question.interrupted(perf_counter() - self.started)
        except Exception as error:
            if not (self.may_end and question.has_best and ends_search(question.operator, error)):
                raise
            self.event = question.failed(error_message(error), perf_counter() - self.started)
            warn_failed(self.event, error)
        else:
            reply = warned_of_few(question, self.reply, self.cycles)
            if isinstance(reply, Population):  # else `answered` refuses it
                reply, self.notes = reply.note(*self.notes), ()
            self.event = question.answered(reply, perf_counter() - self.started)
        self.answer = self.event
        self.observer.answered(self.event, self._report(self.event, question))

    def _report(self, event: Event, question: Question) -> Population:
        """Tell the caller of an event; returns the population that it led to."""
        population = question.fold(event).spend(Usage(seconds=event.seconds))
        self.progress = self.standing.after(event, population)
        if self.bar:
            self.bar.update(self.progress, population)
        if self.on_event:
            self.on_event(event, population)
        return population

    @contextmanager
    def released(self) -> Iterator[None]:
        """Release what operators keep for the search, also if it failed or was cancelled."""
        with released(self.resources, self.search_id), closing(self.algorithm), self.bar or nullcontext():
            yield


async def _alast(steps: AsyncGenerator[Event | SearchResult, None]) -> SearchResult:
    async with aclosing(steps):
        async for step in steps:  # noqa: B007 - the last one counts
            pass
    return step  # type: ignore[return-value]


async def _next(steps: AsyncGenerator[Event | SearchResult, None]) -> Event | SearchResult | None:
    return await anext(steps, None)
