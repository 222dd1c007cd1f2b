"""The grammars of requests, compiled by llguidance: which tokens may come next.

A request's ``response_format`` and ``tool_choice`` become a grammar. Where calls are free (``tool_choice="auto"``), so
is the text, up to the token that begins a call; from there on it is one that can be made. That needs a token of the
tokenizer's own for the mark, as most models with tools have.

A request that is ``grounded`` gets a grammar of its own conversation: values are copied from it, where the schema does
not list them.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from darwin_align.core.errors import MissingPackageError, RequestError
from darwin_align.core.json_types import Json
from darwin_align.core.log_once import log_once
from darwin_align.core.types import Request
from darwin_align.formats.call_template import CallTexts
from darwin_align.formats.compilations import Compilations
from darwin_align.formats.grammar_writer import GrammarWriter, writable
from darwin_align.formats.grounded_json import NoSourceValue
from darwin_align.formats.grounding import Sources
from darwin_align.formats.request_formats import (
    answer_schema,
    functions,
    is_constrained,
    required_tools,
    shown_choice,
    takes_calls,
)
from darwin_align.formats.schema_bounds import check_size
from darwin_align.formats.tool_syntax import ToolSyntax

if TYPE_CHECKING:
    from types import ModuleType

    from llguidance import LLMatcher, LLTokenizer

__all__ = ["Compiled", "Grammars"]

logger = logging.getLogger(__name__)

_MOST = 64
"""Grammars that stay compiled."""
_MOST_BYTES = 256 << 20
"""Memory of all of them, roughly."""
_SECONDS = 20.0
"""What compiling one may take: the bounds of :mod:`~darwin_align.formats.schema_bounds` keep it under one second on an
idle core."""
_MAX_FAILED_RECOMPILES = 8
"""Recompilations in a row that let no row continue, after which a grammar is not recompiled again."""
_POSITION = re.compile(r"^at \d+\(\d+\): (?:failed to compile JSON schema: )?")
"""The position of an error in a generated grammar, which means nothing to a user."""

State_co = TypeVar("State_co", covariant=True)


class MakesState(Protocol[State_co]):
    """Makes the state of a row in a grammar: :class:`~darwin_align.formats.matcher.GrammarState` or a subclass."""

    def __call__(self, grammar: Compiled, ids: Sequence[int], /, *, lenient: bool) -> State_co: ...


class Template(Protocol):
    """What of a chat template decides about grammars."""

    @property
    def tool_syntax(self) -> ToolSyntax:
        """The form of the model's tool calls."""


class Compiled:
    """One grammar over one tokenizer.

    Args:
        tokenizer: llguidance's, of the model.
        grammar: in llguidance's Lark.
        owner: what the grammar enforces, as errors name it.
        call_mark: see the attribute.

    Raises:
        RequestError: it cannot be enforced.
    """

    def __init__(self, tokenizer: LLTokenizer, grammar: str, owner: str, *, call_mark: int | None = None) -> None:
        self._tokenizer, self._grammar = tokenizer, grammar
        self.call_mark = call_mark
        """Id of the token that begins a call, where an answer is either calls or JSON; ``None`` otherwise."""
        self.size: int = tokenizer.vocab_size
        """Tokens of the vocabulary."""
        self.words = -(-self.size // 32)
        """32-bit words of a mask with one bit for each token."""
        self.ends = list(tokenizer.eos_tokens)
        """Ids of the tokens that end an answer."""
        self.bytes = (1 << 20) + 64 * len(grammar)
        """Approximate memory use; llguidance does not report it. Measured: 8 to 60 times the grammar's text."""
        self._lock, self._failed_recompiles = Lock(), 0
        self.generation = 0
        """How often it was recompiled."""
        # Never advanced itself: every row gets a copy of it.
        self._first = self._compile()
        if self._first.is_error():
            reason = _POSITION.sub("", self._first.get_error().partition("\n")[0])
            raise RequestError(
                f"{owner} cannot be enforced: {reason}. Change that part of the schema, or leave the constraint out "
                "and check the answer yourself"
            )

    def matcher(self) -> LLMatcher:
        """A matcher at the beginning."""
        return self._first.deep_copy()

    def recompiled(self, generation: int) -> tuple[LLMatcher, int] | None:
        """A matcher at the beginning and its generation, a newer one; ``None`` if recompiling has helped no row.

        Matchers of one generation share what they have learnt of the grammar, which may grow to llguidance's bounds.
        All rows whose matcher is exhausted share the next generation: it is compiled once.

        Args:
            generation: of the matcher that failed.
        """
        with self._lock:
            if self.generation == generation:
                if self._failed_recompiles >= _MAX_FAILED_RECOMPILES:
                    return None
                self._first, self.generation = self._compile(), generation + 1
            return self.matcher(), self.generation

    def note_recompile(self, helped: bool) -> None:
        """Note whether a row could continue with a recompiled matcher."""
        with self._lock:
            self._failed_recompiles = 0 if helped else self._failed_recompiles + 1

    def _compile(self) -> LLMatcher:
        matcher: LLMatcher = _llguidance().LLMatcher(self._tokenizer, self._grammar, log_level=0)
        return matcher


class Grammars:
    """The grammars of one policy's requests, compiled and kept.

    Args:
        tokenizer: a transformers tokenizer.
        template: its chat template.
        ends: ids that end an answer.
    """

    def __init__(self, tokenizer: Any, template: Template, ends: Iterable[int]) -> None:
        self._hf, self._template, self._ends = tokenizer, template, sorted(ends)
        self._compiled: Compilations[Compiled | None] = Compilations(
            lambda compiled: 0 if compiled is None else compiled.bytes,
            most=_MOST, most_bytes=_MOST_BYTES, seconds=_SECONDS,
        )  # fmt: skip

    def check(self, request: Request) -> None:
        """Compile a request's grammar, before anything is generated.

        Raises:
            RequestError: what it requires cannot be enforced.
            MissingPackageError: llguidance is not installed.
        """
        self._find_as_required(request)

    def constrains(self, request: Request) -> bool:
        """Whether a request's answers have a grammar, of what it requires or of the calls that it allows.

        Raises:
            RequestError: what it requires cannot be enforced.
            MissingPackageError: llguidance is not installed.
        """
        return self._find_as_required(request)[0] is not None

    def required(self, request: Request) -> bool:
        """Whether the grammar must be kept: it is not, where a request allows calls without requiring one."""
        return is_constrained(request) or bool(request.grounded)

    def state(self, request: Request, ids: Sequence[int], make: MakesState[State_co]) -> State_co | None:
        """The grammar state of a row; ``None`` if the row is not constrained, or ended.

        What the request requires is enforced, and so is grounding. Calls that it merely allows keep their schemas as
        far as that can be done: their state is lenient, and a row whose ids break the grammar goes on without.

        Args:
            request: what the row answers.
            ids: what it has generated so far, without thoughts.
            make: makes the state.

        Raises:
            RequestError: what the request requires cannot be enforced, or ``ids`` break it.
            MissingPackageError: llguidance is not installed.
        """
        grammar, required = self._find_as_required(request)
        if grammar is None or (ids and ids[-1] in grammar.ends):
            return None
        try:
            return make(grammar, ids, lenient=not required)
        except RequestError as error:
            if required:
                raise
            _warn_unenforced(error)
            return None

    def _find_as_required(self, request: Request) -> tuple[Compiled | None, bool]:
        """The grammar, if there is one, and whether it must be kept: what cannot be enforced is an error then."""
        if self.required(request):
            return self.find(request), True
        if not takes_calls(request):
            return None, False
        try:
            return self.find(request), False
        except (RequestError, MissingPackageError) as error:
            _warn_unenforced(error)
            return None, False

    def find(self, request: Request) -> Compiled | None:
        """The grammar of a request's answers; ``None`` if any text is one.

        Blocks while it is compiled: not for a thread that runs an event loop.

        Raises:
            RequestError: what the request requires cannot be enforced, or is too large to be compiled.
            MissingPackageError: llguidance is not installed.
        """
        check_size(request)
        # All that the grammar depends on: rewordings of one conversation share it.
        form = [request.response_format, request.tool_choice, request.tools, request.parallel_tool_calls]
        key = json.dumps([*form, request.grounded, request.sources])
        return self._compiled.get(hashlib.sha256(key.encode()).digest(), lambda: self._make_checked(request))

    def _make_checked(self, request: Request) -> Compiled | None:
        if request.grounded:  # compiled without grounding first: llguidance's errors then speak of the user's schema
            self._make(request.model_copy(update={"grounded": False, "grounded_in": ()}))
        return self._make(request)

    def _make(self, request: Request) -> Compiled | None:
        schema, tools = answer_schema(request), required_tools(request)
        try:
            free = schema is None and tools is None
            return self._compile_free(request) if free else self._compile(request, schema, tools)
        except NoSourceValue as nothing:
            raise RequestError(
                f"grounded={request.grounded!r} cannot be kept: {nothing}. State it in the conversation, let the "
                "schema leave that value out or make it null, or give grounded='where_possible'"
            ) from nothing

    def _compile(self, request: Request, schema: Json, tools: dict[str, dict[str, Any]] | None) -> Compiled:
        if schema is not None and tools is not None:
            raise RequestError(
                f"response_format and {shown_choice(request)} contradict each other: an answer is a "
                "forced tool call or keeps a format. Leave out one of them"
            )
        owner = "response_format" if tools is None else shown_choice(request)
        grammar, mark = self._grammar(request), None
        if tools is not None:
            start = [grammar.calls(self._texts(), tools, many=False)]
        elif takes_calls(request):
            # The model may still call tools instead, as agents let it that want their last answer in a format.
            many, known = request.parallel_tool_calls, functions(request.tools)
            start = writable(
                lambda: grammar.json(schema, owner), lambda: grammar.calls(self._texts(), known, many=many)
            )
            mark = grammar.mark(self._texts()) if len(start) > 1 else None
        else:
            start = [grammar.json(schema, owner)]
        return Compiled(self._tokenizer, grammar.starting(*start), owner, call_mark=mark)

    def _compile_free(self, request: Request) -> Compiled | None:
        if not takes_calls(request):
            return None
        grammar = self._grammar(request)
        tools = functions(request.tools)
        start = grammar.calls_behind_text(self._texts(), tools, many=request.parallel_tool_calls)
        if start is None and request.grounded:
            raise RequestError(
                f"grounded={request.grounded!r} cannot be enforced in calls that are not forced: no token of this "
                "model's own marks where a call begins. Force one by tool_choice='any', or leave grounded out"
            )
        return None if start is None else Compiled(self._tokenizer, grammar.starting(start), "a tool's schema")

    def _grammar(self, request: Request) -> GrammarWriter:
        tokens = {token.content: at for at, token in self._hf.added_tokens_decoder.items()}
        return GrammarWriter(tokens, Sources.of(request) if request.grounded else None)

    def _texts(self) -> CallTexts:
        texts = self._template.tool_syntax.texts
        if texts is None:
            raise RequestError(
                "the model does not encode a call's arguments as a JSON object: tool calls can be read but not forced. "
                "Use tool_choice='auto' or 'none', and no response_format beside tools"
            )
        return texts

    @cached_property
    def _tokenizer(self) -> LLTokenizer:
        llguidance = _llguidance()
        if not self._ends:
            raise RequestError(
                "no token ends this model's answers, so a format cannot be brought to an end: set the eos_token of its "
                "tokenizer or the eos_token_id of its generation config"
            )
        backend = getattr(self._hf, "backend_tokenizer", None)
        if backend is None or not hasattr(backend, "to_str"):
            raise RequestError(
                "response_format and tool_choice need a fast tokenizer (tokenizer.json), and "
                f"{type(self._hf).__name__} is none"
            )
        try:
            made: LLTokenizer = llguidance.hf.from_tokenizer(self._hf, eos_token=self._ends)
        except ValueError as error:
            raise RequestError(
                f"response_format and tool_choice cannot be enforced with this model's tokenizer: {error}"
            ) from error
        return made


def _llguidance() -> ModuleType:
    try:
        import llguidance.hf
    except ImportError as error:
        raise MissingPackageError(
            "response_format and tool_choice need the package llguidance, which is missing here: "
            "pip install 'darwin-align[constrained]'"
        ) from error
    return llguidance


def _warn_unenforced(error: Exception) -> None:
    log_once(logger, f"tool calls are not kept to their schemas under tool_choice='auto': {error}")
