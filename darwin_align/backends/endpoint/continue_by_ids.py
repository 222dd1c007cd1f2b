"""Continuation by token ids: exact, and the only strategy that can enforce formats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar

from darwin_align.backends.detokenizer import first_stop
from darwin_align.backends.endpoint.client import Endpoint
from darwin_align.backends.endpoint.constrained import ConstrainedRow, ids_of
from darwin_align.backends.endpoint.continuation import PROBE_REQUEST, ContinuationStrategy, UnsupportedStrategy
from darwin_align.backends.endpoint.dialects.base import Choice, CompletionRequest, Prompt, Wire
from darwin_align.backends.templates import ChatTemplate
from darwin_align.core.errors import RequestError
from darwin_align.core.types import Request
from darwin_align.formats.grammars import Grammars
from darwin_align.formats.matcher import GrammarPosition
from darwin_align.formats.thinking import ThinkingPhase, ThinkingPosition
from darwin_align.formats.thoughts import Split
from darwin_align.operators.policy import Continuation, Row

__all__ = ["ByIds"]

_PROBE_TOKENS = 8
_EDGES = " \n�"
"""Characters at the edges of a text that depend on how a server decodes ids."""


@dataclass
class ByIds(ContinuationStrategy):
    """Prompt and state are token ids: new ids are appended, and nothing is ever tokenised again."""

    name: ClassVar[str] = "token ids"

    async def probe(self, endpoint: Endpoint) -> None:
        """Check that ids are returned, and that the server counts and decodes them as the tokenizer here does."""
        template = self._required_template
        prompt = self._ids(Row(PROBE_REQUEST, 1, 0))
        choice = await self._complete(endpoint, prompt, max_tokens=_PROBE_TOKENS)
        if not choice.ids:
            raise UnsupportedStrategy("it takes token ids but does not return them")
        if choice.prompt_tokens not in (None, len(prompt)):
            raise UnsupportedStrategy(f"it counts {choice.prompt_tokens} tokens in a prompt of {len(prompt)}")
        theirs, ours = (text.strip(_EDGES) for text in (choice.text, template.detokenizer.text(choice.ids)))
        if theirs != ours:
            self.warning = (
                f"the server decodes the token ids {list(choice.ids)} to {theirs!r}, the tokenizer here to {ours!r}: "
                "are they of one model?"
            )

    def check(self, request: Request) -> None:
        """Refuse a request without a grammar for what it requires."""
        self._grammars.check(request)

    def constrained_row(self, row: Row, prompt: Prompt, limit: int) -> ConstrainedRow | None:
        """As for local rows: what is forced is enforced; calls that are not forced are kept to their schemas."""
        position = self._position(row)
        if position is None:
            return None
        ids = prompt if isinstance(prompt, tuple) else ()
        template = self._required_template
        return ConstrainedRow(row, ids, limit, position, template.detokenizer, template.end_of_turn, self.dialect.masks)

    def _position(self, row: Row) -> GrammarPosition | ThinkingPosition | None:
        template, grammars, request = self._required_template, self._grammars, row.request
        if (form := template.thoughts(request)) is None:
            return grammars.state(request, row.tokens, GrammarPosition)
        limit, constrained = request.sampling.max_thinking_tokens, grammars.constrains(request)
        if not constrained and limit is None:
            return None
        phase = ThinkingPhase(form, row.tokens, limit=limit, constrained=constrained)
        size, ends = len(template.tokenizer), sorted(template.ends)
        text = partial(grammars.state, request, make=GrammarPosition)
        return ThinkingPosition(phase, size, ends, text, lenient=not grammars.required(request))

    def stop(self, row: Row) -> tuple[str, ...]:
        """None for a row that may still think: its text is searched here."""
        may_think = row.thinking or not row.tokens
        return () if may_think and self._required_template.thoughts(row.request) else row.request.stop

    @property
    def _required_template(self) -> ChatTemplate:
        assert self.template is not None  # noqa: S101 - this strategy is chosen only with a template
        return self.template

    @cached_property
    def _grammars(self) -> Grammars:
        template = self._required_template
        return Grammars(template.tokenizer, template, template.ends)

    def _ids(self, row: Row) -> tuple[int, ...]:
        if row.text and not row.tokens:
            raise RequestError("a row has text but no token ids: continue it by text (continuation='text')")
        return (*self._required_template.prompt_ids(row.request), *row.tokens)

    def prompt(self, row: Row) -> Prompt:
        """The ids of the rendered conversation and of the state."""
        return self._ids(row)

    def prompt_length(self, row: Row, prompt: Prompt) -> int | None:  # noqa: ARG002
        """The exact length."""
        return len(prompt) if isinstance(prompt, tuple) else None

    def wire(self, request: CompletionRequest) -> Wire:
        """The dialect's request by ids, with the token constraint if there is one."""
        path, body = self.dialect.ids_request(request)
        return path, body if request.constraint is None else self.dialect.with_constraint(body, request.constraint)

    def read(self, data: Any, request: CompletionRequest) -> list[Choice]:
        """As the dialect reads ids."""
        return self.dialect.read_ids(data, request)

    def continuation(self, row: Row, prompt: Prompt, choice: Choice, max_tokens: int) -> Continuation:
        """The longer state; its text is decoded from all its ids."""
        ids = ids_of(choice)
        state = (*row.tokens, *ids)
        finish = self._finish_reason(row, choice, len(ids), max_tokens)
        split = self._split(row, state, finished=finish == "stop")
        text = split.text
        if first_stop(text, row.request.stop) is not None:
            state, text = self._cut_at_stop(row, state)
            finish = "stop"
        return Continuation(
            text=text,
            tokens=state,
            new_tokens=len(state) - len(row.tokens),
            finish_reason=finish,
            prefilled_tokens=max(0, len(prompt) - choice.cached_tokens) if isinstance(prompt, tuple) else 0,
            thoughts=split.thoughts,
            thinking=split.thinking,
            text_from=split.text_from,
        )

    def _split(self, row: Row, state: Sequence[int], *, finished: bool = True) -> Split:
        text_of = partial(self._required_template.detokenizer.text, finished=finished)
        form = self._required_template.thoughts(row.request)
        return Split(text_of(state)) if form is None else form.split(state, text_of)

    def _cut_at_stop(self, row: Row, state: tuple[int, ...]) -> tuple[tuple[int, ...], str]:
        """The state up to the token that completes a stop string (servers return more), and the text before it."""
        for end in range(len(row.tokens) + 1, len(state) + 1):
            text = self._split(row, state[:end]).text
            if (stop := first_stop(text, row.request.stop)) is not None:
                return state[:end], text[:stop]
        raise AssertionError("the whole state contains a stop string")
