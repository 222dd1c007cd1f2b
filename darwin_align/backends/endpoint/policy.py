"""The remote policy: any OpenAI-compatible server that can go on with an answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from pydantic import SecretStr

from darwin_align.backends.endpoint.client import Endpoint, Limits, gathered
from darwin_align.backends.endpoint.constrained import ConstrainedRow
from darwin_align.backends.endpoint.continuation import ByIds, ByPrefill, ByText, ContinuationStrategy, Unsuited
from darwin_align.backends.endpoint.dialects import DIALECTS, CompletionRequest, Dialect
from darwin_align.backends.endpoint.dialects.base import Choice, Prompt, TokenConstraint
from darwin_align.backends.endpoint.server import About, Served, about
from darwin_align.backends.endpoint.tokenizers import load_template, may_be_loaded, tokenizer_length
from darwin_align.backends.templates import ChatTemplate
from darwin_align.core.budget import Usage
from darwin_align.core.errors import ConfigError, ContextLengthError, DarwinError, ModelLoadError, RequestError
from darwin_align.core.record import did_you_mean
from darwin_align.core.seeds import derive
from darwin_align.core.types import Request, Sampling
from darwin_align.formats.request_formats import is_constrained
from darwin_align.formats.tool_syntax import ToolSyntax
from darwin_align.operators.base import Report
from darwin_align.operators.policy import Capabilities, Continuation, Policy, Row
from darwin_align.operators.portal import acall, call, on_portal

__all__ = ["EndpointPolicy"]

logger = logging.getLogger(__name__)

ContinuationName = Literal["auto", "ids", "text", "prefill"]

_WAYS: dict[str, type[ContinuationStrategy]] = {"ids": ByIds, "text": ByText, "prefill": ByPrefill}
_PATIENCE = 32
"""Tokens in which a text that is not white space alone shows something."""
_NOTHING = Choice(ids=(), finish="length", new_tokens=0)
_PROMPTS = {"prompt", "messages", "input_ids", "inputs", "text"}
_OURS = frozenset({*_PROMPTS, "max_tokens", "n", "seed", "stop", "stream", "temperature", "top_p", "top_k"})


@dataclass(frozen=True)
class _Options:
    model: str | None
    dialect: str
    continuation: str
    tokenizer: str | Path | None
    chat_template: str | Path | None
    context_length: int | None
    seeded: bool
    rows_per_request: int
    extra_body: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.dialect not in ("auto", *DIALECTS):
            raise ConfigError(f"unknown dialect {self.dialect!r}: {did_you_mean(self.dialect, ['auto', *DIALECTS])}")
        if self.continuation not in ("auto", *_WAYS):
            raise ConfigError(f"continuation={self.continuation!r} is unknown: use 'auto', 'ids', 'text' or 'prefill'")
        if self.continuation in ("ids", "text") and self.tokenizer is None and self.dialect == "openai":
            raise ConfigError(f"continuation={self.continuation!r} needs tokenizer=…: a folder or a hub id")
        if taken := sorted(_OURS & self.extra_body.keys()):
            raise ConfigError(f"extra_body cannot set {taken[0]!r}: a search sets that itself")
        if self.rows_per_request < 1:
            raise ConfigError(f"rows_per_request={self.rows_per_request} is impossible: send one row at least")


@dataclass(frozen=True)
class ServerProfile:
    """What was found out about the server: how it is spoken to."""

    dialect: Dialect
    served: Served
    way: ContinuationStrategy
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Line:
    """A row on its way out."""

    place: int
    row: Row
    prompt: Prompt
    limit: int
    steering: TokenConstraint | None = None
    tries: int = 0
    """Requests for the same tokens before this one: a further one has other noise."""

    @property
    def setting(self) -> tuple[int, Sampling, tuple[str, ...], TokenConstraint | None]:
        """What rows of one request share."""
        return self.limit, self.row.request.sampling, self.row.request.stop, self.steering

    @property
    def begun(self) -> bool:
        """Whether some of the answer is there already."""
        return bool(self.row.text or self.row.tokens)


@dataclass(eq=False)
class _Task:
    """A row until it has what it was to get: one request, or as many as its grammar takes."""

    way: ContinuationStrategy
    line: _Line
    guided: ConstrainedRow | None = None
    _found: Continuation | None = None
    _longer: _Line | None = None
    """The line with more tokens, where so few as were asked for lead nowhere."""
    _written: int = 0

    def next(self) -> _Line | None:
        """What is to be asked now, if anything."""
        guided, line = self.guided, self.line
        if guided is None:
            return (self._longer or line) if self._found is None else None
        if not guided.left:
            return None
        question = guided.question()
        row = replace(line.row, tokens=guided.tokens, max_tokens=question.max_tokens)
        prompt = (*guided.prompt, *guided.new)
        return _Line(line.place, row, prompt, question.max_tokens, question.steering, question.tries)

    def take(self, line: _Line, written: Choice, *, read: bool) -> None:
        """Take the reply to a line; ``read`` says that its prompt was read already."""
        if self.guided is not None:
            self.guided.take(written, read=read)
            return
        found = self.way.continuation(line.row, line.prompt, written, line.limit)
        self._written += found.new_tokens
        if self.way.stalled(line.row, found) and (more := self._more(line)) > line.limit:
            self._longer = replace(line, row=replace(line.row, max_tokens=more), limit=more)
            return
        counted = min(found.new_tokens, self.line.limit)
        self._found = replace(found, new_tokens=counted, prefilled_tokens=0 if read else found.prefilled_tokens)

    def _more(self, line: _Line) -> int:
        """Twice as many tokens, as far as the context has room and white space alone is given a chance."""
        if line.limit >= max(_PATIENCE, self.line.limit * 2):
            return 0
        room = self.way.max_response_tokens(line.row, line.prompt)
        return line.limit * 2 if room is None else min(line.limit * 2, room)

    @property
    def discarded(self) -> int:
        """Tokens that the server wrote and that do not count as the row's."""
        if self.guided is not None:
            return self.guided.discarded
        return self._written - (self._found.new_tokens if self._found is not None else 0)

    def continuation(self) -> Continuation:
        """What became of the row."""
        if self.guided is None:
            assert self._found is not None  # noqa: S101 - called at the end
            return self._found
        whole = self.way.continuation(self.line.row, self.line.prompt, self.guided.written, self.line.limit)
        return replace(whole, prefilled_tokens=self.guided.prefilled)


_Told = tuple[_Task, _Line, Choice, bool]


@dataclass(frozen=True)
class _Job:
    """One request and the rows that it is for, choice by choice."""

    asked: CompletionRequest
    lines: tuple[_Line, ...]


class EndpointPolicy(Policy):
    """Continues rows on a server.

    How the server goes on with an answer is found out at the first use, in this order: token ids (vLLM, SGLang,
    llama.cpp), the chat template rendered here and text behind it, the beginning of an assistant's turn. The first two
    need the model's tokenizer. The choice is logged once, and stands in the notes of the events where answers begin
    (``result.events[0].delta.notes``).

    A row's seed is sent where the server takes one. vLLM and llama.cpp repeat themselves under a seed, up to rounding;
    other servers perhaps, or not at all (see their dialects). Rows with seeds go out as requests of their own, all at
    once; those that differ in nothing but noise as one request with ``n`` where that gives them different noise, so
    that a row's answer then also depends on how many they are. Without seeds, or at temperature 0, all rows of a step
    go out as one list where the server takes lists.

    Where ids are continued, a request's ``response_format`` and ``tool_choice`` are enforced as on a local model (extra
    ``constrained``), on servers that know nothing of them: the grammar is walked here, what must come next is appended
    without asking, and where a reply breaks it, one token is asked for among those that may come, and then the rest.
    Greedy rows so become those that a local model writes. A row takes one request a chunk while the model keeps to the
    format by itself, two more for every token that it does not, and for a chunk of m tokens 2m + 8 at most: then it is
    ended, is invalid if it breaks its format, and a note says why. What the server wrote in vain counts as decoded.
    Tool calls that nobody forces are kept to their schemas likewise. The other two ways refuse both.

    Use it in any thread or event loop, and in any number of searches at once: they share its limit of requests.

    Args:
        base_url: ``http://host:port`` or a provider's address, with or without ``/v1``; or several that serve the same
            model, which then share the work and stand in for each other.
        model: the model's name on the server; ``None`` takes the only one.
        dialect: "auto", or one of :data:`~darwin_align.backends.endpoint.dialects.DIALECTS`.
        continuation: "auto", "ids", "text" or "prefill".
        tokenizer: folder or hub id of the model's tokenizer. ``None`` tries the model's own name on servers whose
            models go by hub ids. What the server says is taken for a hub id only, never for a path on this machine.
        chat_template: Jinja source, or a path to a file with it, in place of the tokenizer's own.
        context_length: tokens of prompt and answer; ``None`` asks the server, then the tokenizer.
        seeded: send seeds.
        rows_per_request: prompts in one request at most, where they go out as a list.
        extra_body: further fields for every request, e.g. OpenRouter's ``provider``. Objects are joined with those that
            are sent anyway, e.g. Ollama's ``options``.
        api_key: bearer token; see :class:`~darwin_align.backends.endpoint.client.Endpoint` for the environment.
        headers: further headers, kept as secrets.
        limits: requests in flight, attempts, deadlines.

    Raises:
        ConfigError: an impossible option.

    >>> EndpointPolicy("http://127.0.0.1:8000", model="Qwen/Qwen3-8B", api_key="secret")
    EndpointPolicy('http://127.0.0.1:8000', model='Qwen/Qwen3-8B')
    """

    enforces_grounding = True
    """By ids; in the other ways a request that wants it is refused."""

    def __init__(
        self,
        base_url: str | Sequence[str],
        *,
        model: str | None = None,
        dialect: str = "auto",
        continuation: ContinuationName = "auto",
        tokenizer: str | Path | None = None,
        chat_template: str | Path | None = None,
        context_length: int | None = None,
        seeded: bool = True,
        rows_per_request: int = 64,
        extra_body: Mapping[str, Any] | None = None,
        api_key: str | SecretStr | None = None,
        headers: Mapping[str, str | SecretStr] | None = None,
        limits: Limits | None = None,
    ) -> None:
        self._options = _Options(
            model,
            dialect,
            continuation,
            tokenizer,
            chat_template,
            context_length,
            seeded,
            rows_per_request,
            dict(extra_body or {}),
        )
        self.endpoint = Endpoint(base_url, api_key=api_key, headers=headers, limits=limits)
        self._speech: ServerProfile | None = None
        self._failure: DarwinError | None = None

    def __repr__(self) -> str:
        default = _Options(None, "auto", "auto", None, None, None, True, 64)
        given = [f"{name}={v!r}" for name, v in vars(self._options).items() if v != getattr(default, name)]
        return f"{type(self).__name__}({', '.join([*map(repr, self.endpoint.roots), *given])})"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_speech": None, "_failure": None}

    async def generate(self, rows: Sequence[Row]) -> Report[list[Continuation]]:
        """Continue every row by at most its ``max_tokens``.

        Returns:
            The continuations, in order, and notes: how the server is continued, on rows that begin an answer.

        Raises:
            EndpointError: the server cannot be used, or fails for good.
            ContextLengthError: a prompt leaves no room for an answer.
            ConfigError: the model, the tokenizer or a setting does not fit the server.
            RequestError: the chat template refuses a conversation, or its format or tool choice cannot be enforced.
            ModelLoadError: the package that enforces them is missing.
        """
        return await acall(self._generate, rows)  # type: ignore[no-any-return]

    @property
    def tool_syntax(self) -> ToolSyntax:
        """How the model writes tool calls, to read them from its answers.

        Plain code: it may have to ask the server once.

        Raises:
            RequestError: the server renders the template itself, or the template shows no form that is recognised.
        """
        if (template := self.template) is None:
            way = (self._speech or call(self._spoken)).way
            raise RequestError(
                f"tool calls cannot be read from answers that {self.endpoint.roots[0]} continues by {way.name}: that "
                "takes the model's chat template, so give tokenizer=… and use a server that takes prompts"
            )
        return template.tool_syntax

    @property
    def template(self) -> ChatTemplate | None:
        """The chat template that prompts are rendered by here; ``None`` where the server does it.

        Plain code: it may have to ask the server once.
        """
        return (self._speech or call(self._spoken)).way.template

    @property
    def supports_tools(self) -> bool:
        """Whether the chat template shows tools, calls of them and their results to the model.

        Plain code that asks no server: before the first use it is not known, and taken for granted.
        """
        if self._speech is None:
            return True
        template = self._speech.way.template
        return template is not None and not isinstance(self._speech.way, ByPrefill) and template.takes_agents

    @property
    def enforces_formats(self) -> bool:
        """Whether a ``response_format`` and a forced ``tool_choice`` are kept, as they are where ids are continued.

        Plain code that asks no server: before the first use it goes by ``continuation="ids"`` alone.
        """
        if find_spec("llguidance") is None:
            return False
        if self._speech is None:
            return self._options.continuation == "ids"
        way = self._speech.way
        return isinstance(way, ByIds) and way.template is not None and not way.template.opens_thoughts

    @property
    def capabilities(self) -> Capabilities:
        """What is known without asking the server: see :attr:`supports_tools` and :attr:`enforces_formats`."""
        return Capabilities(
            enforces_formats=self.enforces_formats,
            enforces_grounding=self.enforces_grounding,
            supports_tools=self.supports_tools,
            reads_tool_calls=True,
        )

    def refusal(self, request: Request, max_new_tokens: int) -> str | None:
        """Return why a request leaves too little of the context for an answer; ``None`` if it fits, or nobody knows.

        Plain code: it may have to ask the server once.

        Raises:
            RequestError: the request's ``response_format`` or ``tool_choice`` cannot be enforced.
        """
        if self._speech is None and on_portal():
            return None
        way, row = (self._speech or call(self._spoken)).way, Row(request, 1, 0)
        way.check(request)
        room = way.max_response_tokens(row, way.prompt(row))
        if room is None or way.context_length is None:
            return None
        needed = min(max_new_tokens, max(1, way.context_length // 8))
        if room >= needed:
            return None
        return (
            f"its prompt leaves {max(room, 0)} of the context's {way.context_length} tokens for the answer, which "
            f"needs {needed}"
        )

    # -- rows and requests

    async def _generate(self, rows: Sequence[Row]) -> Report[list[Continuation]]:
        speech = await self._spoken()
        left_out = _left_out(speech.dialect, rows)
        lines = [_line(speech.way, i, row) for i, row in enumerate(rows)]
        done = {line.place: _nothing(speech.way, line) for line in lines if line.limit < 1}
        tasks = await _tasks(speech.way, [line for line in lines if line.limit > 0])
        jobs = self._jobs(speech, [line for task in tasks.values() if (line := task.next()) is not None])
        await gathered([self._work(speech, tasks, job) for job in jobs])
        done |= {place: task.continuation() for place, task in tasks.items()}
        notes = () if all(line.begun for line in lines) else (*speech.notes, *left_out)
        guided = [task.guided for task in tasks.values() if task.guided is not None]
        return Report(
            [done[i] for i in range(len(rows))],
            usage=Usage(decoded_tokens=sum(task.discarded for task in tasks.values())),
            notes=(*notes, *dict.fromkeys(one.note for one in guided if one.note)),
        )

    async def _work(self, speech: ServerProfile, tasks: Mapping[int, _Task], job: _Job) -> None:
        """See a job's rows through. Those that are not done after a reply go on together, as they went out together."""
        jobs = [job]
        while jobs:
            answers = await gathered([self._ask(speech, one) for one in jobs])
            told = [
                # The prompt of several choices is read once.
                (tasks[line.place], line, written, one.asked.n > 1 and i > 0)
                for one, choices in zip(jobs, answers, strict=True)
                for i, (line, written) in enumerate(zip(one.lines, choices, strict=True))
            ]
            # Grammars of large vocabularies take their time, in which other searches' replies come in.
            off_loop = any(task.guided is not None for task, *_ in told)
            again = await asyncio.to_thread(_told, told) if off_loop else _told(told)
            jobs = list(self._jobs(speech, again))

    async def _ask(self, speech: ServerProfile, job: _Job) -> list[Choice]:
        path, body = speech.way.wire(job.asked)
        try:
            reply = await self.endpoint.post(path, body)
        except ContextLengthError:
            if len(job.asked.prompts) > 1:  # one row that is too long fails all of a list
                alone = await gathered([self._ask(speech, self._job(speech, [line])) for line in job.lines])
                return [written for [written] in alone]
            if not job.lines[0].begun:
                raise
            # How long a prompt is was guessed, or not known: the answer ends where the context is full.
            return [_NOTHING] * len(job.lines)
        return speech.way.read(reply.data, job.asked)

    def _jobs(self, speech: ServerProfile, lines: Sequence[_Line]) -> Iterator[_Job]:
        """As few requests as the server allows; no two rows share a seed unless the server tells their noise apart."""
        dialect, seeded = speech.dialect, self._options.seeded and speech.dialect.seeds
        lists = dialect.lists and not isinstance(speech.way, ByPrefill)
        several = dialect.several_seeded if seeded else dialect.several
        listed: dict[Any, list[_Line]] = {}
        for group in _alike(lines, several):
            first = group[0]
            own_seed = seeded and first.row.request.sampling.temperature > 0 and not dialect.lists_seeded
            if len(group) > 1 or own_seed or not lists:
                yield self._job(speech, group, n=len(group))
            else:
                listed.setdefault(first.setting, []).append(first)
        most = self._options.rows_per_request
        for setting in listed.values():
            for start in range(0, len(setting), most):
                yield self._job(speech, setting[start : start + most])

    def _job(self, speech: ServerProfile, lines: Sequence[_Line], n: int = 1) -> _Job:
        first, seeded = lines[0], self._options.seeded and speech.dialect.seeds
        prompted = lines[: len(lines) // n]
        seeds = [_seed(line) for line in (prompted if speech.dialect.lists_seeded else [first])]
        asked = CompletionRequest(
            model=speech.served.id,
            prompts=tuple(line.prompt for line in prompted),
            max_tokens=first.limit,
            sampling=first.row.request.sampling,
            n=n,
            seeds=tuple(seeds) if seeded else (),
            stop=first.row.request.stop,
            extra=self._options.extra_body,
            steering=first.steering,
        )
        return _Job(asked, tuple(lines))

    # -- finding out how to speak

    async def _spoken(self) -> ServerProfile:
        known = self._failure
        async with self.endpoint.lock():
            if self._failure is not None and self._failure is not known:
                raise self._failure  # another call tried while this one waited
            if self._speech is None:
                try:
                    self._speech = await self._find_out()
                except DarwinError as error:
                    self._failure = error
                    raise
                logger.info("%s", self._speech.notes[0])
        return self._speech

    async def _find_out(self) -> ServerProfile:
        options, where = self._options, self.endpoint.roots[0]
        known = await about(self.endpoint)
        dialect = DIALECTS[options.dialect if options.dialect != "auto" else _dialect_of(known)]
        served = known.model(options.model, where)
        template, missing, length = await self._template(dialect, served)
        context_length = options.context_length or served.context_length or length
        reasons = []
        for name, kind in _WAYS.items():
            if options.continuation not in ("auto", name):
                continue
            way = kind(dialect, served.id, template, context_length, dict(options.extra_body))
            try:
                _check_suits(name, dialect, template, missing)
                await way.prove(self.endpoint)
            except Unsuited as unsuited:
                reasons.append(f"by {way.name}: {unsuited}")
                continue
            note = f"{where} ({dialect.name}) continues {served.id!r} by {way.name}"
            if way.doubt:
                logger.warning("%s: %s", where, way.doubt)
            notes = ("; not ".join([note, *reasons]), way.doubt)
            return ServerProfile(dialect, served, way, tuple(filter(None, notes)))
        raise ConfigError(
            f"{where} ({dialect.name}) cannot go on with an answer that was begun, which a search needs: not "
            f"{'; not '.join(reasons)}. Use a server with /v1/completions and give tokenizer=…, or name the dialect if "
            "it was not recognised"
        )

    async def _template(self, dialect: Dialect, served: Served) -> tuple[ChatTemplate | None, str, int | None]:
        """The chat template, where a tokenizer is given or found, else why there is none; and what length it names."""
        options = self._options
        if options.tokenizer is not None:
            return await self._loaded(options.tokenizer)
        if options.continuation == "prefill" or not dialect.hub_models:
            return None, "it needs tokenizer=…, a folder or a hub id", None
        names = dict.fromkeys(name for name in (served.root, served.id) if name)
        for name in [name for name in names if may_be_loaded(name, options.model)]:
            try:
                return await self._loaded(name)
            except ModelLoadError as error:
                logger.info("no tokenizer by the name of %r: %s", name, error)
        missing = f"it needs tokenizer=…, for there is none here by the name of {' or '.join(map(repr, names))}"
        return None, missing, None

    async def _loaded(self, path: str | Path) -> tuple[ChatTemplate, str, int | None]:
        template = await asyncio.to_thread(load_template, path, self._options.chat_template)
        return template, "", tokenizer_length(path)


def _dialect_of(known: About) -> str:
    return known.kind if known.kind in DIALECTS else "openai"


def _check_suits(name: str, dialect: Dialect, template: Any, missing: str) -> None:
    if not getattr(dialect, f"by_{name}"):
        raise Unsuited(f"{dialect.name} servers do not take that")
    if name != "prefill" and template is None:
        raise Unsuited(missing)


def _line(way: ContinuationStrategy, place: int, row: Row) -> _Line:
    """A row's prompt, and how many tokens are asked for: the row's, as far as the context has room."""
    prompt = way.prompt(row)
    room = way.max_response_tokens(row, prompt)
    if room is not None and room < 1 and not (row.text or row.tokens):
        raise ContextLengthError(
            f"the conversation leaves no room for an answer in the model's context of {way.context_length} tokens: "
            "shorten it or use a model with a longer context"
        )
    return _Line(place, row, prompt, row.max_tokens if room is None else min(row.max_tokens, room))


async def _tasks(way: ContinuationStrategy, lines: Sequence[_Line]) -> dict[int, _Task]:
    """The rows' tasks by their places; a row that is to keep a grammar with its place in it."""
    if not any(line.row.request.tools or is_constrained(line.row.request) for line in lines):
        return {line.place: _Task(way, line) for line in lines}
    guides = await asyncio.to_thread(lambda: [way.guided(line.row, line.prompt, line.limit) for line in lines])
    return {line.place: _Task(way, line, guided) for line, guided in zip(lines, guides, strict=True)}


def _told(replies: Sequence[_Told]) -> list[_Line]:
    """Hand replies to their tasks; return what is to be asked next."""
    for task, line, written, read in replies:
        task.take(line, written, read=read)
    return [following for task, *_ in replies if (following := task.next()) is not None]


def _nothing(way: ContinuationStrategy, line: _Line) -> Continuation:
    """Of a row that wants no token, or has no room for any."""
    return replace(way.continuation(line.row, line.prompt, _NOTHING, 0), prefilled_tokens=0)


def _alike(lines: Sequence[_Line], several: bool) -> Iterable[list[_Line]]:
    """Rows that differ in nothing but noise, together, where the server writes several choices for one prompt."""
    groups: dict[Any, list[_Line]] = {}
    for line in lines:
        apart = line.place if not several or line.row.request.sampling.temperature == 0 else None
        groups.setdefault((line.setting, repr(line.prompt), apart), []).append(line)
    return groups.values()


def _left_out(dialect: Dialect, rows: Sequence[Row]) -> tuple[str, ...]:
    # Not as a set: samplings are equal whether a value was set by hand or not.
    lacking = sorted({name for row in rows for name in dialect.unsupported(row.request.sampling)})
    return (f"{dialect.name} servers take no {', '.join(lacking)}: left out",) if lacking else ()


def _seed(line: _Line) -> int:
    """Noise of its own for every chunk: the row's seed names the whole answer's."""
    row, again = line.row, (line.tries,) if line.tries else ()
    return derive(row.seed, "endpoint", len(row.tokens) or len(row.text), *again) % (2**31 - 1) + 1  # TGI takes no 0
