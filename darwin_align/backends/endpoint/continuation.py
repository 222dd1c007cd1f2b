"""Three ways in which a server goes on with an answer: by token ids, by text, by a begun assistant's turn.

Ids are exact. Text is tokenised anew at every chunk and drifts a little; a begun turn also passes through the server's
own template. Where a chunk of few tokens is one space or half a character, it is asked for again with twice as many,
for it would be written again for ever; what the server wrote in vain counts as decoded. Each way proves itself once, on
a tiny conversation, before a search relies on it.
"""

from __future__ import annotations

import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any, ClassVar

from langchain_core.messages import convert_to_openai_messages

from darwin_align.backends.detokenizer import first_stop
from darwin_align.backends.endpoint.client import Endpoint
from darwin_align.backends.endpoint.constrained import ConstrainedRow, ids_of
from darwin_align.backends.endpoint.dialects.base import (
    LENGTH,
    STOP,
    Chat,
    Choice,
    CompletionRequest,
    Dialect,
    Prompt,
    Wire,
)
from darwin_align.backends.templates import ChatTemplate
from darwin_align.core.errors import EndpointError, EndpointServerError, RequestError
from darwin_align.core.types import FinishReason, Request, Response, Sampling
from darwin_align.formats.grammars import Grammars
from darwin_align.formats.matcher import GrammarPosition
from darwin_align.formats.request_formats import answer_schema, required_tools
from darwin_align.operators.messages import to_langchain
from darwin_align.operators.policy import Continuation, Row

__all__ = ["ByIds", "ByPrefill", "ByText", "ContinuationStrategy", "Unsuited"]

logger = logging.getLogger(__name__)

_BROKEN = "�"
_CUT = re.compile(f"{_BROKEN}{{1,3}}\\Z")
"""What is shown of a character whose last bytes are missing: it has four at most."""
_TRIAL = Request.of("Count from one to five.")
_NOTHING = Response(text="")
_EITHER = (False, True)
_BEGUN = "one, two, three,"
_ANEW = ("one", "1")
_FEW = 8
"""Tokens that say enough, and that the held back bytes of one character never are."""
_UNENFORCED = (
    "{what} cannot be enforced on a server that is continued by {why}: use one that takes and gives token ids (vLLM, "
    "SGLang, llama.cpp) and give its model's tokenizer (tokenizer=…), or use a local model; or leave it out and ask "
    "for the form in the instruction"
)
_EDGES = f" \n{_BROKEN}"
"""What is at the edges of a text is a matter of how one decodes."""


class Unsuited(Exception):  # noqa: N818 - it says that the next way is to be tried
    """A server does not continue in this way."""


@dataclass
class ContinuationStrategy(ABC):
    """How rows become prompts, and choices continuations."""

    dialect: Dialect
    model: str
    template: ChatTemplate | None
    context_length: int | None
    extra: dict[str, Any]
    doubt: str = field(default="", kw_only=True)
    """What the trial left open."""
    name: ClassVar[str]

    @abstractmethod
    async def prove(self, endpoint: Endpoint) -> None:
        """Try it on the server.

        Raises:
            Unsuited: it does not work, and why.
        """

    @abstractmethod
    def prompt(self, row: Row) -> Prompt:
        """What the server is to continue."""

    @abstractmethod
    def wire(self, asked: CompletionRequest) -> Wire:
        """Path and body of a request."""

    @abstractmethod
    def read(self, data: Any, asked: CompletionRequest) -> list[Choice]:
        """The choices of an answer."""

    @abstractmethod
    def continuation(self, row: Row, prompt: Prompt, written: Choice, asked: int) -> Continuation:
        """What a choice makes of a row that was given ``asked`` tokens."""

    @abstractmethod
    def prompt_length(self, row: Row, prompt: Prompt) -> int | None:
        """Tokens of a row's prompt, where they can be told."""

    def check(self, request: Request) -> None:
        """Refuse what cannot be kept in this way.

        Raises:
            RequestError: a ``response_format``, a forced ``tool_choice`` or grounded values that cannot be enforced.
        """
        if answer_schema(request) is not None:
            raise RequestError(_UNENFORCED.format(what="response_format", why=self.name))
        if required_tools(request) is not None:
            raise RequestError(_UNENFORCED.format(what=f"tool_choice={request.tool_choice!r}", why=self.name))
        if request.grounded:
            raise RequestError(_UNENFORCED.format(what=f"grounded={request.grounded!r}", why=self.name))

    def guided(self, row: Row, prompt: Prompt, limit: int) -> ConstrainedRow | None:  # noqa: ARG002
        """A row that is to be kept to a grammar; ``None`` if whatever it writes will do."""
        return None

    def stalled(self, row: Row, found: Continuation) -> bool:  # noqa: ARG002
        """Whether a row that goes on from here would be sent just as it was, and so write the same again."""
        return False

    def max_response_tokens(self, row: Row, prompt: Prompt) -> int | None:
        """Tokens that still fit behind a row's prompt, or ``None`` where that is not known."""
        length = self.prompt_length(row, prompt)
        return None if length is None or self.context_length is None else self.context_length - length

    async def _tried(self, endpoint: Endpoint, prompt: Prompt, max_tokens: int = 1) -> Choice:
        asked = CompletionRequest(
            self.model, (prompt,), max_tokens, Sampling(temperature=0.0, top_k=None), extra=self.extra
        )
        path, body = self.wire(asked)
        try:
            reply = await endpoint.post(path, body)
        except EndpointError as error:
            if error.status in (400, 404, 405, 415, 422, 500, 501):
                raise Unsuited(str(error)) from error
            raise
        try:
            return self.read(reply.data, asked)[0]
        except EndpointServerError as error:
            raise Unsuited(str(error)) from error

    def _end(self, row: Row, written: Choice, new_tokens: int, asked: int) -> FinishReason | None:
        if written.finish in STOP:
            return "stop"
        if written.finish == "content_filter":
            _log_once("the server's content filter cut an answer: it counts as ended there")
            return "stop"
        if written.finish not in (None, *LENGTH):
            raise EndpointServerError(f"the server ended an answer by {written.finish!r}, which is no way to end one")
        return None if new_tokens >= asked == row.max_tokens else "length"


@dataclass
class ByIds(ContinuationStrategy):
    """Prompt and state are token ids: what comes back is appended, and nothing is ever tokenised again."""

    name: ClassVar[str] = "token ids"

    async def prove(self, endpoint: Endpoint) -> None:
        """Ids must come back, and the server must count the prompt as we do, and read ids as we do."""
        assert self.template is not None  # noqa: S101 - chosen only with one
        prompt = self._ids(Row(_TRIAL, 1, 0))
        written = await self._tried(endpoint, prompt, max_tokens=_FEW)
        if not written.ids:
            raise Unsuited("it takes token ids but does not give them back")
        if written.prompt_tokens not in (None, len(prompt)):
            raise Unsuited(f"it counts {written.prompt_tokens} tokens in a prompt of {len(prompt)}")
        theirs, ours = (text.strip(_EDGES) for text in (written.text, self.template.detokenizer.text(written.ids)))
        if theirs != ours:
            self.doubt = (
                f"the server reads the token ids {list(written.ids)} as {theirs!r}, the tokenizer here as {ours!r}: "
                "are they of one model?"
            )

    def check(self, request: Request) -> None:
        """Whether there is a grammar for what is asked."""
        self._grammars.check(request)

    def guided(self, row: Row, prompt: Prompt, limit: int) -> ConstrainedRow | None:
        """As for local rows: what is forced is kept, calls that nobody forces are kept as far as that can be."""
        assert self.template is not None  # noqa: S101 - chosen only with one
        place = self._grammars.state(row.request, row.tokens, GrammarPosition)
        if place is None:
            return None
        ids = prompt if isinstance(prompt, tuple) else ()
        detokenizer, end = self.template.detokenizer, self.template.end_of_turn
        return ConstrainedRow(row, ids, limit, place, detokenizer, end, self.dialect.masks)

    @cached_property
    def _grammars(self) -> Grammars:
        assert self.template is not None  # noqa: S101 - chosen only with one
        return Grammars(self.template.tokenizer, self.template, self.template.ends)

    def _ids(self, row: Row) -> tuple[int, ...]:
        assert self.template is not None  # noqa: S101 - chosen only with one
        if row.text and not row.tokens:
            raise RequestError("a row has text but no token ids: continue it by text (continuation='text')")
        return (*self.template.prompt_ids(row.request), *row.tokens)

    def prompt(self, row: Row) -> Prompt:
        """The rendered conversation's ids and the state's."""
        return self._ids(row)

    def prompt_length(self, row: Row, prompt: Prompt) -> int | None:  # noqa: ARG002
        """Exact."""
        return len(prompt) if isinstance(prompt, tuple) else None

    def wire(self, asked: CompletionRequest) -> Wire:
        """As the dialect takes ids, and which of them may come next."""
        path, body = self.dialect.ids_request(asked)
        return path, body if asked.steering is None else self.dialect.steered(body, asked.steering)

    def read(self, data: Any, asked: CompletionRequest) -> list[Choice]:
        """As the dialect gives them."""
        return self.dialect.read_ids(data, asked)

    def continuation(self, row: Row, prompt: Prompt, written: Choice, asked: int) -> Continuation:
        """Text is derived from the ids of the whole state."""
        assert self.template is not None  # noqa: S101
        ids = ids_of(written)
        state = (*row.tokens, *ids)
        finish = self._end(row, written, len(ids), asked)
        text = self.template.detokenizer.text(state, finished=finish == "stop")
        if first_stop(text, row.request.stop) is not None:
            state, text = self._cut(state, len(row.tokens), row.request.stop)
            finish = "stop"
        return Continuation(
            text=text,
            tokens=state,
            new_tokens=len(state) - len(row.tokens),
            finish_reason=finish,
            prefilled_tokens=max(0, len(prompt) - written.cached_tokens) if isinstance(prompt, tuple) else 0,
        )

    def _cut(self, state: tuple[int, ...], given: int, stops: Sequence[str]) -> tuple[tuple[int, ...], str]:
        """The state up to the token that completes a stop string, which servers overshoot, and the text before it."""
        assert self.template is not None  # noqa: S101
        for end in range(given + 1, len(state) + 1):
            text = self.template.detokenizer.text(state[:end])
            if (stop := first_stop(text, stops)) is not None:
                return state[:end], text[:stop]
        raise AssertionError("the whole state holds a stop string")


@dataclass
class _Textual(ContinuationStrategy):
    """What text and begun turns share: the state is text."""

    echo: bool = False
    """Whether the server repeats what it was given."""

    def _state(self, row: Row) -> str:
        if row.tokens:
            raise RequestError("a row has token ids, which a server that is continued by text would lose: use 'ids'")
        # A space at the end would be a token of its own, where the model writes it with the next word. Those before it
        # are tokens of their own for the model, too.
        return row.text.removesuffix(" ")

    def _added(self, given: str, written: Choice) -> str:
        text = written.text.removeprefix(given) if self.echo else written.text
        # Bytes of a character that is cut in the middle are held back: they are written again with the next chunk.
        return text if written.finish in STOP else _CUT.sub("", text)

    def stalled(self, row: Row, found: Continuation) -> bool:
        """At a few tokens a chunk: it is one space, or fewer bytes than a character has."""
        return found.finish_reason is None and self._state(replace(row, text=found.text)) == self._state(row)

    def _finished(
        self, row: Row, text: str, new_tokens: int, written: Choice, asked: int
    ) -> tuple[str, FinishReason | None]:
        if (stop := first_stop(text, row.request.stop)) is not None:
            return text[:stop], "stop"
        return text, self._end(row, written, new_tokens, asked)

    def _count(self, added: str, written: Choice, asked: int) -> int:
        """New tokens: the server's number, else the tokenizer's, else a guess of four characters each."""
        if written.new_tokens is not None:
            return min(written.new_tokens, asked)
        if written.finish in LENGTH:
            return asked
        if self.template is None:
            _log_once("the server does not count tokens: four characters are taken for one")
        counted = len(added) // 4 if self.template is None else self.template.count(added)
        return max(1, min(counted + 1, asked))

    def _continuation(self, row: Row, given: str, written: Choice, asked: int) -> Continuation:
        added = self._added(given, written)
        new_tokens = self._count(added, written, asked)
        text, finish = self._finished(row, self._state(row) + added, new_tokens, written, asked)
        if finish is None and not added and new_tokens >= _FEW:
            raise EndpointServerError(
                f"the server wrote {new_tokens} tokens and shows none of them: the model probably thinks before it "
                "answers. Turn thinking off on the server (or by extra_body=…), or continue by token ids"
            )
        return Continuation(
            text=text,
            new_tokens=new_tokens,
            finish_reason=finish,
            prefilled_tokens=max(0, (written.prompt_tokens or 0) - written.cached_tokens),
        )


@dataclass
class ByText(_Textual):
    """The client renders the chat template; the state's text follows it."""

    drop_bos: bool = False
    """Whether the server writes the BOS itself, so that the rendered one would be a second."""
    name: ClassVar[str] = "text behind the chat template"

    async def prove(self, endpoint: Endpoint) -> None:
        """Find out who writes the BOS, whether the prompt is echoed, and whether both sides count the same tokens."""
        assert self.template is not None  # noqa: S101 - chosen only with one
        row = Row(_TRIAL, 1, 0)
        written = await self._tried(endpoint, self.prompt(row))
        ours = len(self.template.prompt_ids(_TRIAL))
        bare, whole = (self.template.prompt_text(_TRIAL, bos=bos) for bos in (False, True))
        if bare != whole and self._bos_is_doubled(written.prompt_tokens, ours):
            self.drop_bos = True
            written = await self._tried(endpoint, self.prompt(row))
        if written.prompt_tokens not in (None, ours):
            self.doubt = (
                f"the server counts {written.prompt_tokens} tokens in a prompt that is {ours} by the tokenizer here: "
                "are they of one model?"
            )
        self.echo = written.text.startswith(str(self.prompt(row)))

    def _bos_is_doubled(self, counted: int | None, ours: int) -> bool:
        assert self.template is not None  # noqa: S101
        if counted is not None:
            return counted == ours + 1
        texts = {self.template.answer_texts(_TRIAL, [_NOTHING], "open", special=special)[0] for special in _EITHER}
        return self.dialect.adds_special and len(texts) > 1

    def prompt(self, row: Row) -> Prompt:
        """Rendered conversation and state."""
        self.check(row.request)
        assert self.template is not None  # noqa: S101
        return self.template.prompt_text(row.request, bos=not self.drop_bos) + self._state(row)

    def prompt_length(self, row: Row, prompt: Prompt) -> int | None:  # noqa: ARG002
        """By the tokenizer here."""
        assert self.template is not None  # noqa: S101
        return self.template.count(prompt) + self.drop_bos if isinstance(prompt, str) else None

    def wire(self, asked: CompletionRequest) -> Wire:
        """As the dialect takes text."""
        return self.dialect.text_request(asked)

    def read(self, data: Any, asked: CompletionRequest) -> list[Choice]:
        """As the dialect gives it."""
        return self.dialect.read_text(data, asked)

    def continuation(self, row: Row, prompt: Prompt, written: Choice, asked: int) -> Continuation:
        """The state's text, longer."""
        return self._continuation(row, str(prompt), written, asked)


@dataclass
class ByPrefill(_Textual):
    """The server's chat template; the state is the beginning of the assistant's turn."""

    name: ClassVar[str] = "the beginning of the assistant's turn"

    async def prove(self, endpoint: Endpoint) -> None:
        """Find out whether a begun turn is continued, and whether it is echoed."""
        # So few tokens that the beginning comes back whole only where it is echoed.
        written = await self._tried(endpoint, Chat(_messages(_TRIAL), _BEGUN), max_tokens=4)
        self.echo = self.dialect.echoes or written.text.startswith(_BEGUN)
        if self._added(_BEGUN, written).lstrip().casefold().startswith(_ANEW):
            raise Unsuited("it begins the answer anew instead of going on with it")

    def prompt(self, row: Row) -> Prompt:
        """The conversation and the state."""
        request = row.request
        self.check(request)
        if request.tools:
            raise RequestError(
                "tools cannot be combined with a begun assistant's turn, which is how this server is continued: leave "
                "them out, or use a server that takes token ids and give tokenizer=…"
            )
        return Chat(_messages(request), self._state(row))

    def _state(self, row: Row) -> str:
        # Chat templates trim turns: white space at the end is written again.
        return super()._state(row).rstrip()

    def prompt_length(self, row: Row, prompt: Prompt) -> int | None:  # noqa: ARG002
        """By the tokenizer here, if there is one. The template is the server's, so this is but nearly right."""
        if self.template is None:
            return None
        return self.template.count(self.template.prompt_text(row.request) + self._state(row))

    def wire(self, asked: CompletionRequest) -> Wire:
        """As the dialect takes a begun turn."""
        return self.dialect.chat_request(asked)

    def read(self, data: Any, asked: CompletionRequest) -> list[Choice]:
        """As the dialect gives it."""
        return self.dialect.read_chat(data, asked)

    def continuation(self, row: Row, prompt: Prompt, written: Choice, asked: int) -> Continuation:
        """The state's text, longer."""
        assert isinstance(prompt, Chat)  # noqa: S101 - its own
        return self._continuation(row, prompt.prefix, written, asked)


def _messages(request: Request) -> tuple[dict[str, Any], ...]:
    """The conversation as OpenAI's chat calls take it."""
    turns = convert_to_openai_messages(to_langchain(request.conversation), text_format="string")
    assert isinstance(turns, list)  # noqa: S101 - of a list
    return tuple(turns)


@lru_cache
def _log_once(sentence: str) -> None:
    logger.warning(sentence)
