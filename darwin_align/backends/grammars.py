"""What an answer must look like, as a grammar: JSON by a schema, or a call of a tool.

A request's ``response_format`` and ``tool_choice`` become a grammar that llguidance reads: it says which tokens may
come next. Where calls are free (``tool_choice="auto"``), so is the text, up to the token that begins a call; from there
on it is one that can be made. That needs a token of the tokenizer's own for the mark, as most models with tools have.

A request that is ``grounded`` gets a grammar of its own conversation: values are copied from it, where the schema does
not list them.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cached_property, lru_cache, partial
from threading import Lock
from typing import Any

from darwin_align.backends.compilations import Compilations
from darwin_align.backends.grounded import GroundedJson, NothingToCopy
from darwin_align.backends.request_bounds import check_size
from darwin_align.backends.templates import ChatTemplate
from darwin_align.core.errors import MissingPackageError, RequestError
from darwin_align.core.types import Request
from darwin_align.operators.grounding import Sources
from darwin_align.operators.tool_syntax import ID_LETTERS, CallTexts, functions

__all__ = ["FREE", "Compiled", "Grammars", "asked_format", "asked_tools", "closed", "forced", "unkept"]

logger = logging.getLogger(__name__)

FREE = (None, "auto", "none")
"""Choices of a tool under which none must be called."""
_ANY = ("required", "any")
_KEPT = 64
"""Grammars that stay compiled."""
_KEPT_BYTES = 256 << 20
"""Memory of all of them, roughly."""
_SECONDS = 20.0
"""What compiling one may take: the bounds of :mod:`~darwin_align.backends.request_bounds` keep it under one second on
an idle core."""
_FRUITLESS = 8
"""Renewals of a grammar that did not help, after which it is not compiled anew again."""
_PLACE = re.compile(r"^at \d+\(\d+\): (?:failed to compile JSON schema: )?")
"""Where in a grammar that nobody wrote an error is."""
_SPACE = r" |\n[ \t]{0,20}"
"""White space between two tokens of JSON: one blank, or a line break and an indent. Without a bound, a weak model
writes white space for ever."""


# -- what a request asks for


def asked_format(request: Request) -> Any:
    """The JSON schema that the answer must keep, or ``None``.

    >>> asked_format(Request.of("Hi", response_format={"type": "json_object"}))
    {'type': 'object'}

    Raises:
        RequestError: a format of another shape.
    """
    form = request.response_format
    if form is None or form.get("type") == "text":
        return None
    if form.get("type") == "json_object":
        return {"type": "object"}
    about = form.get("json_schema")
    if form.get("type") == "json_schema" and isinstance(about, dict) and isinstance(about.get("schema"), dict | bool):
        return about["schema"]
    raise RequestError(
        f"response_format={_short(form)} is not known: use {{'type': 'json_object'}}, or {{'type': 'json_schema', "
        "'json_schema': {'name': …, 'schema': {…}}}"
    )


def asked_tools(request: Request) -> dict[str, dict[str, Any]] | None:
    """Schemas of the tools of which one must be called, by name, or ``None`` if none must be.

    Raises:
        RequestError: a choice of another shape, or of a tool that is not there.
    """
    choice, known = request.tool_choice, functions(request.tools)
    if choice in FREE:
        return None
    if choice in _ANY and known:
        return known
    name: Any = choice
    if isinstance(choice, dict):
        about = choice.get("function")
        name = about.get("name") if choice.get("type") == "function" and isinstance(about, dict) else None
    if isinstance(name, str) and name in known:
        return {name: known[name]}
    raise RequestError(
        f"tool_choice={_short(choice)} cannot be kept: use 'auto', 'none', 'required', the name of a tool or "
        f"{{'type': 'function', 'function': {{'name': …}}}}; the request's tools are {', '.join(known) or 'none'}"
    )


def forced(request: Request) -> bool:
    """Whether the request says what its answer must look like."""
    return request.response_format is not None or request.tool_choice not in FREE


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else repr(value)
    return text if len(text) <= 200 else f"{text[:200]}…"


_ONE = ("items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames")
_MANY = ("anyOf", "oneOf", "allOf", "prefixItems")
_NAMED = ("properties", "patternProperties", "$defs", "definitions")
_MIXED = ("$ref", "anyOf", "oneOf", "allOf", "if")


def closed(schema: Any) -> Any:
    """The schema, with objects that list their properties taking no others unless they say so.

    A model that may make up more names does so, and no program reads them. A schema that puts one object together from
    several parts is left as it is: a part that is closed would forbid the others.

    >>> closed({"type": "object", "properties": {"a": {"type": "string"}}})["additionalProperties"]
    False
    """
    return schema if any(_mixed(part) for part in _parts(schema)) else _closed(schema)


def _mixed(schema: Mapping[str, Any]) -> bool:
    parts = [name for name in _MIXED if name in schema]
    alternatives = schema.get("allOf")
    return (isinstance(alternatives, list) and len(alternatives) > 1) or (
        bool(parts) and ("properties" in schema or len(parts) > 1)
    )


def _parts(schema: Any) -> Iterable[Mapping[str, Any]]:
    """The schema and all schemas in it."""
    if not isinstance(schema, Mapping):
        return
    yield schema
    inner = [schema.get(name) for name in _ONE]
    inner += [one for name in _MANY if isinstance(held := schema.get(name), list | tuple) for one in held]
    inner += [one for name in _NAMED if isinstance(held := schema.get(name), Mapping) for one in held.values()]
    for one in inner:
        yield from _parts(one)


def _closed(schema: Any) -> Any:
    if not isinstance(schema, Mapping):
        return schema
    made = dict(schema)
    for name, held in schema.items():
        if name in _ONE:
            made[name] = _closed(held)
        elif name in _MANY and isinstance(held, list | tuple):
            made[name] = [_closed(one) for one in held]
        elif name in _NAMED and isinstance(held, Mapping):
            made[name] = {key: _closed(one) for key, one in held.items()}
    if "properties" in made and not made.keys() & {
        "additionalProperties",
        "patternProperties",
        "unevaluatedProperties",
    }:
        made["additionalProperties"] = False
    return made


# -- grammars


class _Grammar:
    """Writes a grammar in llguidance's variant of Lark.

    Args:
        tokens: ids of the tokenizer's added tokens, by their text. In a text that a template writes they stand for
            themselves, as in the conversations that the model was trained on.
        sources: what the values of JSON are copied from; nothing in particular, if there are none.
    """

    def __init__(self, tokens: Mapping[str, int], sources: Sources | None = None) -> None:
        self._tokens = tokens
        self._rules: list[str] = []
        self._grounded = None if sources is None else GroundedJson(sources, self._rules, _SPACE)

    def json(self, schema: Any, asked: str) -> str:
        """A rule for JSON that keeps a schema.

        Args:
            schema: of any kind.
            asked: whose it is, for errors.

        Raises:
            RequestError: a part of the schema cannot be grounded.
            NothingToCopy: the sources hold nothing for it.
        """
        if self._grounded:
            return self._grounded.rule(closed(schema), asked)
        rule = f"json_{len(self._rules)}"
        if schema is True:
            schema = {}
        options = {"whitespace_pattern": _SPACE, **schema.get("x-guidance", {})} if isinstance(schema, dict) else {}
        body = {**closed(schema), "x-guidance": options} if isinstance(schema, dict) else schema
        self._rules.append(f"{rule}: %json {json.dumps(body)}")
        return rule

    def calls(self, texts: CallTexts, tools: Mapping[str, Any], *, many: bool) -> str:
        """A rule for a call of one of the tools, or for several calls.

        Raises:
            RequestError: a part of a tool's schema cannot be grounded.
            NothingToCopy: the sources hold nothing for any tool.
        """
        quoted = texts.first.endswith('"')
        made = []
        for name, schema in tools.items():
            written = json.dumps(name, ensure_ascii=False)[1:-1] if quoted else name
            made.append(partial(self._call, self.text(written + texts.middle), name, schema))
        self._rules.append(f"call: {' | '.join(_possible(*made))}")
        more = f"({self.text(texts.between)} call)*" if many and texts.between is not None else ""
        return f"{self.text(texts.first)} call {more} {self.text(texts.last)}"

    def _call(self, before: str, name: str, schema: Any) -> str:
        try:
            return f"{before} {self.json(schema, f'the tool {name!r}')}"
        except NothingToCopy as nothing:
            raise NothingToCopy(nothing.kind, f"{name}({nothing.path})") from nothing

    def calls_behind_text(self, texts: CallTexts, tools: Mapping[str, Any], *, many: bool) -> str | None:
        """A rule for any text, behind which there may be calls; ``None`` if no added token marks their beginning."""
        found = [(at, -len(token), token) for token in self._tokens if (at := texts.first.find(token)) >= 0]
        at, _, mark = min(found, default=(-1, 0, ""))
        if at < 0 or texts.first[:at].strip():
            return None
        self._rules.append(f"free: (<[^{self._tokens[mark]}]>)*")
        try:
            return f"free ({self.calls(replace(texts, first=texts.first[at:]), tools, many=many)})?"
        except NothingToCopy as nothing:
            logger.info("no call can be grounded: %s", nothing)
            return "free"

    def mark(self, texts: CallTexts) -> int | None:
        """Id of the added token that a call begins with; ``None`` if it begins with other text."""
        longest = max((token for token in self._tokens if texts.first.startswith(token)), key=len, default=None)
        return None if longest is None else self._tokens[longest]

    def text(self, text: str) -> str:
        """Exactly this text; added tokens in it as such."""
        parts: list[str] = []
        for piece in CallTexts.pieces(text):
            parts += [f"/{ID_LETTERS}/"] if piece is None else self._plain(piece)
        return " ".join(parts)

    def _plain(self, text: str) -> Iterable[str]:
        while text:
            found = [(at, -len(token), token) for token in self._tokens if (at := text.find(token)) >= 0]
            at, _, token = min(found, default=(len(text), 0, ""))
            if at:
                yield json.dumps(text[:at], ensure_ascii=False)
            if token:
                yield f"<[{self._tokens[token]}]>"
            text = text[at + len(token) :]

    def starting(self, *alternatives: str) -> str:
        """The grammar of answers that are one of these."""
        return "\n".join(["%llguidance {}", f"start: {' | '.join(alternatives)}", *self._rules])


# -- compiled


class Compiled:
    """One grammar over one tokenizer.

    Raises:
        RequestError: it cannot be enforced.
    """

    def __init__(self, tokenizer: Any, grammar: str, asked: str, *, call_mark: int | None = None) -> None:
        self._tokenizer, self._grammar = tokenizer, grammar
        self.call_mark = call_mark
        """Id of the token that begins a call, where an answer is either calls or JSON; ``None`` otherwise."""
        self.size: int = tokenizer.vocab_size
        self.words = -(-self.size // 32)
        self.ends = list(tokenizer.eos_tokens)
        self.bytes = (1 << 20) + 64 * len(grammar)
        """Memory that it takes, roughly: llguidance tells none. Measured: 8 to 60 times the grammar's text."""
        self._lock, self._fruitless = Lock(), 0
        self.generation = 0
        """How often it was compiled anew."""
        self._first = self._compile()
        if self._first.is_error():
            reason = _PLACE.sub("", self._first.get_error().partition("\n")[0])
            raise RequestError(
                f"{asked} cannot be enforced: {reason}. Change that part of the schema, or leave the constraint out "
                "and check the answer yourself"
            )

    def matcher(self) -> Any:
        """A matcher at the beginning."""
        return self._first.deep_copy()

    def renewed(self, generation: int) -> tuple[Any, int] | None:
        """A matcher at the beginning, of a newer generation, and that; ``None`` if renewals have helped nobody.

        Matchers of one generation share what they know of the grammar, which may grow to llguidance's bounds. All who
        find theirs exhausted share the next: it is compiled once.

        Args:
            generation: of the matcher that failed.
        """
        with self._lock:
            if self.generation == generation:
                if self._fruitless >= _FRUITLESS:
                    return None
                self._first, self.generation = self._compile(), generation + 1
            return self.matcher(), self.generation

    def renewal_helped(self, helped: bool) -> None:
        """Note whether a row could go on with a renewed matcher."""
        with self._lock:
            self._fruitless = 0 if helped else self._fruitless + 1

    def _compile(self) -> Any:
        return _llguidance().LLMatcher(self._tokenizer, self._grammar, log_level=0)


class Grammars:
    """The grammars of one policy's requests, compiled and kept.

    Args:
        tokenizer: a transformers tokenizer.
        template: its chat template.
        ends: ids that end an answer.
    """

    def __init__(self, tokenizer: Any, template: ChatTemplate, ends: Iterable[int]) -> None:
        self._hf, self._template, self._ends = tokenizer, template, sorted(ends)
        self._compiled: Compilations[Compiled | None] = Compilations(
            lambda compiled: 0 if compiled is None else compiled.bytes,
            most=_KEPT, most_bytes=_KEPT_BYTES, seconds=_SECONDS,
        )  # fmt: skip

    def check(self, request: Request) -> None:
        """Compile a request's grammar and raise what :meth:`find` would raise, before anything is written."""
        if forced(request) or request.grounded:
            self.find(request)
        else:
            self.find_free(request)

    def find_free(self, request: Request) -> Compiled | None:
        """The grammar of calls that nobody forces, as far as it is to be had.

        Raises:
            RequestError: calls are to be grounded and cannot be.
            MissingPackageError: the same, for the package is missing.
        """
        if not request.tools or request.tool_choice == "none":
            return None
        if request.grounded:
            return self.find(request)
        try:
            return self.find(request)
        except (RequestError, MissingPackageError) as error:
            unkept(error)
            return None

    def find(self, request: Request) -> Compiled | None:
        """The grammar of a request's answers; ``None`` if whatever is written will do.

        Blocks while it is compiled: not for a thread that runs an event loop.

        Raises:
            RequestError: what is asked for cannot be enforced, or is too large to be compiled.
            MissingPackageError: the package that enforces it is missing.
        """
        check_size(request)
        asked = [request.response_format, request.tool_choice, request.tools, request.parallel_tool_calls]
        key = json.dumps([*asked, request.grounded, request.sources])
        return self._compiled.get(hashlib.sha256(key.encode()).digest(), lambda: self._make_checked(request))

    def _make_checked(self, request: Request) -> Compiled | None:
        if request.grounded:  # what llguidance cannot take, it says of the schema as it is
            self._make(request.model_copy(update={"grounded": False, "grounded_in": ()}))
        return self._make(request)

    def _make(self, request: Request) -> Compiled | None:
        schema, tools = asked_format(request), asked_tools(request)
        try:
            free = schema is None and tools is None
            return self._compile_free(request) if free else self._compile(request, schema, tools)
        except NothingToCopy as nothing:
            raise RequestError(
                f"grounded={request.grounded!r} cannot be kept: {nothing}. Say it in the conversation, let the "
                "schema leave that value out or make it null, or give grounded='where_possible'"
            ) from nothing

    def _compile(self, request: Request, schema: Any, tools: dict[str, dict[str, Any]] | None) -> Compiled:
        if schema is not None and tools is not None:
            raise RequestError(
                f"response_format and tool_choice={_short(request.tool_choice)} contradict each other: an answer is a "
                "forced tool call or keeps a format. Leave out one of them"
            )
        if tag := self._template.opens_thoughts:
            raise RequestError(
                f"the model's chat template begins every answer with thoughts ({tag}), which a forced format would be "
                "a part of: give a chat_template=… that leaves them out"
            )
        asked = "response_format" if tools is None else f"tool_choice={_short(request.tool_choice)}"
        grammar, mark = self._grammar(request), None
        if tools is not None:
            start = [grammar.calls(self._texts(), tools, many=False)]
        elif request.tools and request.tool_choice != "none":
            # The model may still call tools instead, as agents let it that want their last answer in a format.
            many, known = request.parallel_tool_calls, functions(request.tools)
            start = _possible(
                lambda: grammar.json(schema, asked), lambda: grammar.calls(self._texts(), known, many=many)
            )
            mark = grammar.mark(self._texts()) if len(start) > 1 else None
        else:
            start = [grammar.json(schema, asked)]
        return Compiled(self._tokenizer, grammar.starting(*start), asked, call_mark=mark)

    def _compile_free(self, request: Request) -> Compiled | None:
        if not request.tools or request.tool_choice == "none":
            return None
        grammar = self._grammar(request)
        tools = functions(request.tools)
        start = grammar.calls_behind_text(self._texts(), tools, many=request.parallel_tool_calls)
        if start is None and request.grounded:
            raise RequestError(
                f"grounded={request.grounded!r} cannot be enforced in calls that nobody forces: no token of this "
                "model's own marks where a call begins. Force one by tool_choice='any', or leave grounded out"
            )
        return None if start is None else Compiled(self._tokenizer, grammar.starting(start), "a tool's schema")

    def _grammar(self, request: Request) -> _Grammar:
        tokens = {token.content: at for at, token in self._hf.added_tokens_decoder.items()}
        return _Grammar(tokens, Sources.of(request) if request.grounded else None)

    def _texts(self) -> CallTexts:
        texts = self._template.tool_syntax.texts
        if texts is None:
            raise RequestError(
                "the model does not write a call's arguments as a JSON object: tool calls can be read but not forced. "
                "Use tool_choice='auto' or 'none', and no response_format beside tools"
            )
        return texts

    @cached_property
    def _tokenizer(self) -> Any:
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
            return llguidance.hf.from_tokenizer(self._hf, eos_token=self._ends)
        except ValueError as error:
            raise RequestError(
                f"response_format and tool_choice cannot be enforced with this model's tokenizer: {error}"
            ) from error


def _possible(*starts: Callable[[], str]) -> list[str]:
    """What may be written, without that for which there is nothing to copy.

    Raises:
        NothingToCopy: that is all.
    """
    found, missing = [], []
    for start in starts:
        try:
            found.append(start())
        except NothingToCopy as nothing:
            missing.append(nothing)
    for reason in missing:
        if not found:
            raise reason
        logger.info("a grounded answer does without: %s", reason)
    return found


def _llguidance() -> Any:
    try:
        import llguidance.hf
    except ImportError as error:
        raise MissingPackageError(
            "response_format and tool_choice need the package llguidance, which is missing here: "
            "pip install 'darwin-align[constrained]'"
        ) from error
    return llguidance


def unkept(error: Exception) -> None:
    """Say, once, that calls which nobody forces are not kept to their schemas."""
    _log_once(f"tool calls are not kept to their schemas under tool_choice='auto': {error}")


@lru_cache
def _log_once(sentence: str) -> None:
    logger.warning(sentence)
