"""Continuation by text, for servers that return no token ids: behind the chat template, or as an assistant prefill.

The state is text and is tokenised again at every chunk. A chunk of few tokens may leave it as it was: one space, which
is not sent, or some bytes of a character. The same request would return the same for ever, so it is sent again with
twice as many tokens (see ``stalled``); what was decoded in vain counts as decoded.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from langchain_core.messages import convert_to_openai_messages

from darwin_align.backends.detokenizer import first_stop
from darwin_align.backends.endpoint.client import Endpoint
from darwin_align.backends.endpoint.continuation import (
    PROBE_REQUEST,
    ContinuationStrategy,
    UnsupportedStrategy,
)
from darwin_align.backends.endpoint.dialects.base import LENGTH, STOP, Chat, Choice, CompletionRequest, Prompt, Wire
from darwin_align.backends.turns import without_thoughts
from darwin_align.core.errors import EndpointServerError, RequestError
from darwin_align.core.log_once import log_once
from darwin_align.core.types import FinishReason, Request, Response
from darwin_align.formats.thoughts import Split, Tags
from darwin_align.operators.messages import to_langchain
from darwin_align.operators.policy import Continuation, Row

__all__ = ["ByPrefill", "ByText"]

logger = logging.getLogger(__name__)

_INCOMPLETE = re.compile("�{1,3}\\Z")
"""How servers decode a character whose last bytes are missing: it has four at most."""
_NO_RESPONSE = Response(text="")
_EITHER = (False, True)
_PROBE_PREFILL = "one, two, three,"
_RESTARTS = ("one", "1")
_VISIBLE_TOKENS = 8
"""So many tokens have a text: they are more than the bytes of one character."""


@dataclass
class _TextStrategy(ContinuationStrategy):
    """The common part of text and prefill: the state is text."""

    echo: bool = False
    """Whether the server repeats the prompt, or the prefill, in front of the continuation."""

    def _state(self, row: Row) -> str:
        if row.tokens:
            raise RequestError("a row has token ids, which a server that is continued by text would lose: use 'ids'")
        # One space at the end would become a token of its own, which models merge with the next word instead. Further
        # spaces before it are separate tokens for the model, too.
        form = self._form(row)
        whole = row.text if form is None else form.joined(Split(row.text, row.thoughts, row.thinking))
        return whole.removesuffix(" ")

    def _form(self, row: Row) -> Tags | None:  # noqa: ARG002
        """How the thoughts are told from the text in what the server returns; ``None`` if they are not."""
        return None

    def _split(self, row: Row, state: str) -> Split:
        form = self._form(row)
        return Split(state) if form is None else form.split_text(state)

    def stop(self, row: Row) -> tuple[str, ...]:
        """None for a row that may still think: its text is searched here."""
        return () if self._form(row) is not None and not row.text else row.request.stop

    def _added(self, given: str, choice: Choice) -> str:
        text = choice.text.removeprefix(given) if self.echo else choice.text
        # The bytes of an incomplete character are dropped: the next chunk decodes them again.
        return text if choice.finish in STOP else _INCOMPLETE.sub("", text)

    def stalled(self, row: Row, found: Continuation) -> bool:
        """With few tokens a chunk: they are one space, or fewer bytes than a character has."""
        longer = replace(row, text=found.text, thoughts=found.thoughts, thinking=found.thinking)
        return found.finish_reason is None and self._state(longer) == self._state(row)

    def _finished(
        self, row: Row, text: str, new_tokens: int, choice: Choice, max_tokens: int
    ) -> tuple[str, FinishReason | None]:
        if (stop := first_stop(text, row.request.stop)) is not None:
            return text[:stop], "stop"
        return text, self._finish_reason(row, choice, new_tokens, max_tokens)

    def _count(self, added: str, choice: Choice, max_tokens: int) -> int:
        """New tokens: the server's number, else the tokenizer's, else an estimate of four characters for each."""
        if choice.new_tokens is not None:
            return min(choice.new_tokens, max_tokens)
        if choice.finish in LENGTH:
            return max_tokens
        if self.template is None:
            log_once(logger, "the server does not count tokens: four characters are taken for one")
        counted = len(added) // 4 if self.template is None else self.template.count(added)
        return max(1, min(counted + 1, max_tokens))

    def _continuation(self, row: Row, given: str, choice: Choice, max_tokens: int) -> Continuation:
        added = self._added(given, choice)
        new_tokens = self._count(added, choice, max_tokens)
        split = self._split(row, self._state(row) + added)
        text, finish = self._finished(row, split.text, new_tokens, choice, max_tokens)
        if finish is None and not added and new_tokens >= _VISIBLE_TOKENS:
            raise EndpointServerError(
                f"the server decoded {new_tokens} tokens and shows none of them: the model probably thinks before it "
                "answers. Turn thinking off on the server (or by extra_body=…), or continue by token ids"
            )
        return Continuation(
            text=text,
            new_tokens=new_tokens,
            finish_reason=finish,
            prefilled_tokens=max(0, (choice.prompt_tokens or 0) - choice.cached_tokens),
            thoughts=split.thoughts,
            thinking=split.thinking,
        )


@dataclass
class ByText(_TextStrategy):
    """The chat template is rendered here, and the state's text is appended to it."""

    drop_bos: bool = False
    """Whether the server adds the BOS itself, so that the rendered one would be a second."""
    name: ClassVar[str] = "text behind the chat template"

    def _form(self, row: Row) -> Tags | None:
        """By tags alone: the marks of channels are special tokens, which are in no server's text."""
        assert self.template is not None  # noqa: S101 - chosen only with one
        form = self.template.thoughts(row.request)
        return form if isinstance(form, Tags) else None

    async def probe(self, endpoint: Endpoint) -> None:
        """Detect who adds the BOS, whether the prompt is echoed, and whether both sides count the same tokens."""
        assert self.template is not None  # noqa: S101 - chosen only with one
        row = Row(PROBE_REQUEST, 1, 0)
        choice = await self._complete(endpoint, self.prompt(row))
        ours = len(self.template.prompt_ids(PROBE_REQUEST))
        bare, whole = (self.template.prompt_text(PROBE_REQUEST, bos=bos) for bos in (False, True))
        if bare != whole and self._bos_is_doubled(choice.prompt_tokens, ours):
            self.drop_bos = True
            choice = await self._complete(endpoint, self.prompt(row))
        if choice.prompt_tokens not in (None, ours):
            self.warning = (
                f"the server counts {choice.prompt_tokens} tokens in a prompt that is {ours} by the tokenizer here: "
                "are they of one model?"
            )
        self.echo = choice.text.startswith(str(self.prompt(row)))

    def _bos_is_doubled(self, counted: int | None, ours: int) -> bool:
        assert self.template is not None  # noqa: S101
        if counted is not None:
            return counted == ours + 1
        texts = {
            self.template.answer_texts(PROBE_REQUEST, [_NO_RESPONSE], "open", special=special)[0] for special in _EITHER
        }
        return self.dialect.adds_special and len(texts) > 1

    def prompt(self, row: Row) -> Prompt:
        """The rendered conversation and the state."""
        self.check(row.request)
        assert self.template is not None  # noqa: S101
        return self.template.prompt_text(row.request, bos=not self.drop_bos) + self._state(row)

    def prompt_length(self, row: Row, prompt: Prompt) -> int | None:  # noqa: ARG002
        """As the tokenizer here counts."""
        assert self.template is not None  # noqa: S101
        return self.template.count(prompt) + self.drop_bos if isinstance(prompt, str) else None

    def wire(self, request: CompletionRequest) -> Wire:
        """The dialect's request by text."""
        return self.dialect.text_request(request)

    def read(self, data: Any, request: CompletionRequest) -> list[Choice]:
        """As the dialect reads text."""
        return self.dialect.read_text(data, request)

    def continuation(self, row: Row, prompt: Prompt, choice: Choice, max_tokens: int) -> Continuation:
        """The state's text, longer."""
        return self._continuation(row, str(prompt), choice, max_tokens)


@dataclass
class ByPrefill(_TextStrategy):
    """The server renders its own chat template; the state is the beginning of the assistant's turn."""

    name: ClassVar[str] = "the beginning of the assistant's turn"

    async def probe(self, endpoint: Endpoint) -> None:
        """Detect whether a prefill is continued, and whether it is echoed."""
        # So few tokens that the whole prefill is in the reply only if the server echoes it.
        probe = Chat(_messages(PROBE_REQUEST), _PROBE_PREFILL, self.switches)
        choice = await self._complete(endpoint, probe, max_tokens=4)
        self.echo = self.dialect.echoes or choice.text.startswith(_PROBE_PREFILL)
        if self._added(_PROBE_PREFILL, choice).lstrip().casefold().startswith(_RESTARTS):
            raise UnsupportedStrategy("it begins the answer anew instead of going on with it")

    def prompt(self, row: Row) -> Prompt:
        """The conversation and the state."""
        request = row.request
        self.check(request)
        if request.tools:
            raise RequestError(
                "tools cannot be combined with a begun assistant's turn, which is how this server is continued: leave "
                "them out, or use a server that takes token ids and give tokenizer=…"
            )
        return Chat(_messages(request), self._state(row), {**self.switches, **request.chat_template_kwargs})

    def _state(self, row: Row) -> str:
        # Chat templates trim turns, so the model generates the white space at the end again.
        return super()._state(row).rstrip()

    def prompt_length(self, row: Row, prompt: Prompt) -> int | None:  # noqa: ARG002
        """As the tokenizer here counts, if there is one: an estimate, since the server has its own template."""
        if self.template is None:
            return None
        return self.template.count(self.template.prompt_text(row.request) + self._state(row))

    def wire(self, request: CompletionRequest) -> Wire:
        """The dialect's chat request with a prefill."""
        return self.dialect.chat_request(request)

    def read(self, data: Any, request: CompletionRequest) -> list[Choice]:
        """As the dialect reads chats."""
        return self.dialect.read_chat(data, request)

    def continuation(self, row: Row, prompt: Prompt, choice: Choice, max_tokens: int) -> Continuation:
        """The state's text, longer."""
        assert isinstance(prompt, Chat)  # noqa: S101 - as :meth:`prompt` returns it
        return self._continuation(row, prompt.prefix, choice, max_tokens)


def _messages(request: Request) -> tuple[dict[str, Any], ...]:
    """The conversation as OpenAI's chat calls take it."""
    turns = convert_to_openai_messages(to_langchain(without_thoughts(request.conversation)), text_format="string")
    assert isinstance(turns, list)  # noqa: S101 - of a list
    return tuple(turns)
