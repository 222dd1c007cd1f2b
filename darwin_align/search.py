"""DarwinSearch: operators around Algorithm 1, as a Runnable from messages to a result, sync and async."""

from __future__ import annotations

import logging
import secrets
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from time import perf_counter
from typing import Any, Self

from langchain_core.messages import BaseMessage, convert_to_messages
from langchain_core.prompt_values import PromptValue
from langchain_core.runnables import Runnable, RunnableConfig, RunnableSerializable
from langchain_core.runnables.base import RunnableBindingBase
from pydantic import ConfigDict, Field, PrivateAttr, model_validator

from darwin_align.core import (
    Event,
    Message,
    Population,
    Question,
    Request,
    Sampling,
    SearchConfig,
    SearchResult,
    Usage,
    darwin,
)
from darwin_align.core.errors import ConfigError, ContextLengthError, ReplayError, RequestError
from darwin_align.core.noun import did_you_mean, plain_errors
from darwin_align.core.types import OperatorName
from darwin_align.model_errors import is_remote_fault, message_of
from darwin_align.operators.base import Check, Mutator, Scorer
from darwin_align.operators.checks import LexicalIntent, fits
from darwin_align.operators.coerce import as_decoder, as_mutator, as_scorer, as_selector
from darwin_align.operators.messages import from_langchain
from darwin_align.operators.mutators import IdentityMutator, PolicyMutator
from darwin_align.operators.portal import acall
from darwin_align.operators.prompts import MANY, MutationPrompt
from darwin_align.operators.selectors import NoSelection, SMCSelector, TopKReplacement, Tournament
from darwin_align.operators.together import RunsTogether

__all__ = ["DarwinSearch", "SearchInput"]

logger = logging.getLogger(__name__)

SearchInput = str | Sequence[Any] | PromptValue | Request
OnEvent = Callable[[Event, Population], None]
"""Called after each answered question with the event and the population that it led to. If a question failed for good
and ended the search, the last event says so, and the population is the question's own."""

_SAMPLING = frozenset(Sampling.model_fields)
_SEARCH = frozenset(SearchConfig.model_fields)
_REQUEST = frozenset({"stop", "tools", "tool_choice", "response_format"})
_ALIASES = {"max_tokens": "max_new_tokens", "max_completion_tokens": "max_new_tokens"}


class DarwinSearch(RunsTogether[SearchInput, SearchResult], RunnableSerializable[SearchInput, SearchResult]):
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

    policy: Any = None
    """Continues text, for the decoder and the mutator."""
    scorer: Any
    """Rewards responses."""
    decoder: Any = None
    mutator: Any = None
    selector: Any = None
    """Owns its own settings: ``config.survivors`` then has no say, and giving both is an error."""
    config: SearchConfig = SearchConfig()
    sampling: Sampling = Sampling()
    mutation_prompt: MutationPrompt = MANY
    guard: Check | None = Field(default_factory=LexicalIntent)
    """Intent guard: refuses mutations that leave the topic. ``None`` lets all through."""

    _decoder: Runnable[Any, Any] = PrivateAttr()
    _scorer: Runnable[Any, Any] = PrivateAttr()

    def __init__(self, **parts: Any) -> None:
        with plain_errors(type(self)):
            super().__init__(**parts)

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
        self._decoder = as_decoder(self.policy if self.decoder is None else self.decoder)
        self._scorer = as_scorer(self.scorer)
        self._mutator(self.config)  # a wrong operator shows here, not in the middle of a search
        self._selector(self.config)
        return self

    def invoke(self, input: SearchInput, config: RunnableConfig | None = None, **settings: Any) -> SearchResult:
        """Search for a well rewarded answer.

        Args:
            input: a text, messages, a prompt value, or a :class:`Request`.
            config: LangChain's run configuration.
            settings: for this call only, any setting of :class:`SearchConfig` or :class:`Sampling`, and ``stop``,
                ``tools``, ``tool_choice``, ``response_format``, ``max_tokens``; also ``replay`` (recorded events to
                start from) and ``on_event`` (called after every answer).

        Raises:
            RequestError: the conversation cannot be answered.
            ConfigError: an unknown or impossible setting.
            OperatorError: an operator's answer would break the algorithm.
            ReplayError: ``replay`` belongs to another search.
            EndpointError: a server cannot be used, before anything was scored or with ``on_failure="raise"``; likewise
                what a user's own operator raises for it, LangChain's ``ModelError`` or httpx's ``TransportError``.
        """
        return self._call_with_config(partial(self._run, **settings), input, config)

    async def ainvoke(self, input: SearchInput, config: RunnableConfig | None = None, **settings: Any) -> SearchResult:
        """Search as :meth:`invoke` does, with the same result, without blocking the event loop."""
        return await self._acall_with_config(partial(self._arun, **settings), input, config)

    def _run(self, input: SearchInput, config: RunnableConfig, **settings: Any) -> SearchResult:
        asked = _Asked(self, input, **settings)
        run = _Run(self, asked, self._room(asked.request))
        with run.released():
            for question, operator in run:
                with run.answering(question):
                    run.reply = operator.invoke(question.population, config)
        return run.result

    async def _arun(self, input: SearchInput, config: RunnableConfig, **settings: Any) -> SearchResult:
        asked = _Asked(self, input, **settings)
        run = _Run(self, asked, await acall(self._room, asked.request))
        with run.released():
            for question, operator in run:
                with run.answering(question):
                    run.reply = await operator.ainvoke(question.population, config)
        return run.result

    def _room(self, request: Request) -> int | None:
        """Tokens of an answer that the scorer can read; a remote one may have to ask its server."""
        return self._scorer.room(request) if isinstance(self._scorer, Scorer) else None

    def request(self, input: SearchInput, settings: dict[str, Any]) -> tuple[Request, SearchConfig]:
        """Split a call's input and settings into the request and the search's settings.

        Raises:
            ConfigError: an unknown setting.
        """
        given = {name: value for name, value in settings.items() if value is not None}
        if len(twice := sorted(given.keys() & {*_ALIASES, *_ALIASES.values()})) > 1:
            raise ConfigError(f"{' and '.join(twice)} are one setting: give one of them")
        named = {_ALIASES.get(name, name): value for name, value in given.items()}
        if unknown := sorted(named.keys() - _SAMPLING - _SEARCH - _REQUEST):
            known = _SAMPLING | _SEARCH | _REQUEST | _ALIASES.keys()
            raise ConfigError(f"unknown setting {unknown[0]!r}: {did_you_mean(unknown[0], known)}")
        request = input if isinstance(input, Request) else Request(conversation=_turns(input), sampling=self.sampling)
        by_hand = request.sampling.model_dump(exclude_unset=True)  # a default may give way where a server lacks it
        sampling = Sampling(**{**by_hand, **{n: v for n, v in named.items() if n in _SAMPLING}})
        fields = {name: value for name, value in named.items() if name in _REQUEST}
        if isinstance(fields.get("stop"), str):
            fields["stop"] = [fields["stop"]]
        with plain_errors(Request):
            request = Request.model_validate({**dict(request), **fields, "sampling": sampling})
        changes = {name: value for name, value in named.items() if name in _SEARCH}
        if self.selector is not None and (owned := {"selector", "survivors"} & changes.keys()):
            raise ConfigError(f"{sorted(owned)[0]} belongs to the explicit selector: set it there")
        if self.mutator is not None and "mutator" in changes:
            raise ConfigError("mutator=… in a call would be ignored beside the search's explicit mutator")
        config = self.config.replace(**changes) if changes else self.config
        return request, config

    def operators(self, config: SearchConfig) -> dict[OperatorName, Runnable[Any, Any]]:
        """Return the four operators under these settings."""
        return {
            "mutate": self._mutator(config),
            "decode": self._decoder,
            "score": self._scorer,
            "select": self._selector(config),
        }

    def _mutator(self, config: SearchConfig) -> Runnable[Any, Any]:
        if self.mutator is not None:
            mutator = as_mutator(self.mutator)
        elif config.mutator == "identity":
            return IdentityMutator()
        elif self.policy is None:
            raise ConfigError("with a decoder but no policy nobody rewords instructions: give mutator=… or policy=…")
        else:
            decoder: Any = as_decoder(self.policy)  # a function as a policy is made one there
            mutator = PolicyMutator(policy=decoder.policy, prompt=self.mutation_prompt)
        checks = [self.guard] if self.guard is not None else []
        if refusal := getattr(self.policy, "refusal", None):
            checks.append(fits(refusal, config.max_new_tokens))
        return _guarded(mutator, checks)

    def _selector(self, config: SearchConfig) -> Runnable[Any, Any]:
        if self.selector is not None:
            return as_selector(self.selector)
        match config.selector:
            case "top_k":
                return TopKReplacement(survivors=config.survivors)
            case "tournament":
                return Tournament()
            case "smc":
                return SMCSelector()
            case "none":
                return NoSelection()


class _Asked:
    """One call: what is asked, under which settings."""

    def __init__(
        self,
        search: DarwinSearch,
        input: SearchInput,
        *,
        replay: Sequence[Event] = (),
        on_event: OnEvent | None = None,
        **settings: Any,
    ) -> None:
        self.request, self.config = search.request(input, settings)
        self.replay, self.on_event = replay, on_event
        if self.config.seed is None:
            if replay:
                raise ReplayError("a replay needs the seed of the recorded run: pass seed=result.config.seed")
            self.config = self.config.replace(seed=secrets.randbelow(2**31))


class _Run:
    """One search under way: iterate over the questions that want a live answer, and answer each.

    An answer is the ``reply`` that is set within :meth:`answering`.
    """

    def __init__(self, search: DarwinSearch, asked: _Asked, room: int | None) -> None:
        config = _readable(asked.config, room)
        self.operators = search.operators(config)
        held = [part for operator in self.operators.values() for part in getattr(operator, "holders", ())]
        self.holders = {id(part): part for part in (search.policy, search.decoder, search.scorer, *held)}.values()
        self.search_id = uuid.uuid4().hex
        self.algorithm = darwin(asked.request, config, self.search_id)
        self.recorded, self.on_event = list(asked.replay), asked.on_event
        self.may_end = config.on_failure == "best_so_far"
        self.reply: Population
        self.event: Event | None = None
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
                    self._tell(recorded, question)
                if self.event is None:
                    raise RuntimeError(f"the {question.operator} question was not answered")
                event, self.event = self.event, None
                question = self.algorithm.send(event)
        except StopIteration as stop:
            self.result = stop.value
        if next(replay, None) is not None:
            raise ReplayError("more events were recorded than this search asks for: they belong to another search")

    @contextmanager
    def answering(self, question: Question) -> Iterator[None]:
        """Time an operator and record what it replies, or that it failed for good and the search ends."""
        start = perf_counter()
        try:
            yield
        except Exception as error:
            if not (self.may_end and question.has_best and is_remote_fault(error)):
                raise
            self.event = question.failed(message_of(error), perf_counter() - start)
            _warn(self.event)
        else:
            self.event = question.answered(self.reply, perf_counter() - start)
        self._tell(self.event, question)

    def _tell(self, event: Event, question: Question) -> None:
        if self.on_event:
            self.on_event(event, question.fold(event).spend(Usage(seconds=event.seconds)))

    @contextmanager
    def released(self) -> Iterator[None]:
        """Let caches go, also of a search that failed or was cancelled."""
        try:
            yield
        finally:
            self.algorithm.close()
            for release in filter(None, (getattr(holder, "release", None) for holder in self.holders)):
                release(self.search_id)


def _warn(event: Event) -> None:
    logger.warning(
        "%s failed for good in cycle %d, step %d (%s): the search ends with the best scored answer so far; "
        "to go on once the server is back, replay the events before this one, or set on_failure='raise' for an error",
        event.operator,
        event.cycle,
        event.step,
        event.failure,
    )


def _readable(config: SearchConfig, room: int | None) -> SearchConfig:
    """Cut answers where the scorer could read them no further: before decoding, not in the middle of it."""
    if room is None or room >= config.max_new_tokens:
        return config
    if room < 1:
        raise ContextLengthError(
            "the reward model's context has no room for an answer to this conversation: shorten it"
        )
    return config.replace(max_new_tokens=room)


def _guarded(mutator: Runnable[Any, Any], checks: Sequence[Check]) -> Runnable[Any, Any]:
    """Put checks on a mutator, also behind LangChain's bindings and retries."""
    if not checks:
        return mutator
    if isinstance(mutator, Mutator):
        return mutator.guarded(*checks)
    if isinstance(mutator, RunnableBindingBase):
        return mutator.model_copy(update={"bound": _guarded(mutator.bound, checks)})
    raise ConfigError(
        f"cannot put the intent guard on a {type(mutator).__name__}: put it on the mutators inside, with "
        "mutator.guarded(LexicalIntent()), and pass guard=None here"
    )


def _turns(input: SearchInput) -> Any:
    if isinstance(input, str):
        return Request.of(input).conversation
    messages = input.to_messages() if isinstance(input, PromptValue) else input
    if isinstance(messages, (BaseMessage, dict)) or not isinstance(messages, Sequence):
        raise RequestError(
            f"cannot read a conversation from {type(input).__name__}: give a text, or a list of messages"
        )
    turns = list(messages)
    if turns and all(isinstance(turn, Message) for turn in turns):
        return tuple(turns)
    try:
        return from_langchain(convert_to_messages(turns))
    except (NotImplementedError, ValueError) as error:
        raise RequestError(f"cannot read the conversation: {error}") from error
