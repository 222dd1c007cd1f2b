"""The form of a model's tool calls: found by rendering a marked call, and read back from its answers.

A tokenizer that brings a ``response_template`` of transformers defines how its answers are read; otherwise the chat
template shows it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from darwin_align.core.errors import RequestError
from darwin_align.formats.call_parser import Parsed, parse_calls
from darwin_align.formats.call_template import (
    CallMarks,
    CallTexts,
    Probe,
    Read,
    Render,
    marks_of_response_template,
    marks_of_texts,
    probes,
    texts_of_template,
    unknown_form,
)
from darwin_align.formats.channel_calls import marks_of_channel_calls
from darwin_align.formats.tagged_calls import marks_of_tagged_calls, tagged_probes
from darwin_align.formats.thoughts import end_of_thoughts

__all__ = ["ToolSyntax"]


@dataclass(frozen=True)
class ToolSyntax:
    r"""The form of one model's tool calls.

    Attributes:
        texts: the parts of a call, to force one; ``None`` if its arguments are not JSON.

    >>> import json
    >>> def render(calls):
    ...     texts = [f'<tool_call>{json.dumps(call["function"])}</tool_call>' for call in calls]
    ...     return "\n".join(texts) + "<|end|>"
    >>> syntax = ToolSyntax.found(render, ends=["<|end|>"])
    >>> syntax.texts.first, syntax.texts.middle, syntax.texts.last
    ('<tool_call>{"name": "', '", "arguments": ', '}</tool_call>')
    >>> tools = [{"type": "function", "function": {"name": "heat", "parameters": {}}}]
    >>> parsed = syntax.parse('Sure. <tool_call>{"name": "heat", "arguments": {"to": 80}}</tool_call>', tools)
    >>> parsed.text, parsed.calls[0].name, parsed.calls[0].arguments
    ('Sure.', 'heat', {'to': 80})
    >>> syntax.parse('<tool_call>{"name": "he', tools).open
    True
    """

    texts: CallTexts | None
    _marks: CallMarks = field(repr=False)

    @classmethod
    def found(
        cls,
        render: Render,
        *,
        ends: Iterable[str] = (),
        render_behind: Render | None = None,
        response_template: Mapping[str, Any] | None = None,
        read: Read | None = None,
    ) -> ToolSyntax:
        """Find the form of a model's calls.

        Args:
            render: an assistant's turn with these calls, from the end of the generation prompt on; it may raise
                :class:`RequestError`.
            ends: texts of the tokens that end a turn.
            render_behind: the same for a turn with the text :data:`~darwin_align.formats.call_template.BEHIND` in front
                of the calls: it tells the calls from what a template puts around them.
            response_template: the tokenizer's ``response_template``, if it has one.
            read: reads an answer by it: ``tokenizer.parse_response``.

        Raises:
            RequestError: the form is not recognised.
        """
        declared, ended = marks_of_response_template(response_template, read), tuple(ends)
        try:
            texts = texts_of_template(render, ended, render_behind)
            marks = marks_of_texts(texts)
        except RequestError as error:
            if declared is not None:
                return cls(None, declared)
            return cls._not_json(render, ended, render_behind, error)
        # Where both agree that a call is JSON between two marks, it is read as such: a string in it may hold a mark.
        same = declared and marks.keys and (marks.mark, marks.close) == (declared.mark, declared.close)
        found = cls(texts, marks if declared is None or same else declared)
        if declared is None:
            _check_reading(found, probes(render, ended, render_behind))
        return found

    @classmethod
    def _not_json(
        cls, render: Render, ends: tuple[str, ...], render_behind: Render | None, error: RequestError
    ) -> ToolSyntax:
        """The form of calls that are no JSON object, or stand between marks that frame turns.

        Raises:
            RequestError: the given error, with which the search for JSON ended, if there are no such calls either.
        """
        with suppress(RequestError):
            return cls(None, marks_of_channel_calls(render))
        try:
            found = cls(None, marks_of_tagged_calls(render, ends, render_behind))
            _check_reading(found, tagged_probes(render, ends, render_behind))
        except RequestError:
            raise error from None
        return found

    def parse(self, text: str, tools: Sequence[Mapping[str, Any]], *, finished: bool = False) -> Parsed:
        """Take an answer apart.

        Args:
            text: the answer so far, special tokens that mark calls included.
            tools: those of the request, in OpenAI's form.
            finished: whether nothing will follow: a call that is cut is invalid then, not open.
        """
        if not tools:
            return Parsed(text)
        behind = end_of_thoughts(text)  # thoughts may speak of calls
        parsed = parse_calls(self._marks, text[behind:], tools, finished=finished)
        return replace(parsed, text=text[:behind] + parsed.text) if behind else parsed


def _check_reading(syntax: ToolSyntax, rendered: Iterable[Probe]) -> None:
    """Refuse a form in which a call that the template renders is not read back.

    Raises:
        RequestError: it is one.
    """
    # Where nothing marks a call, an answer either is one or is text.
    for probe in (one for one in rendered if syntax._marks.mark or not one.content):
        tools = [{"type": "function", "function": {"name": name, "parameters": {}}} for name, _ in probe.calls]
        parsed = syntax.parse(probe.text, tools, finished=True)
        calls = tuple((call.name, dict(call.arguments)) for call in parsed.calls)
        if calls != probe.calls or parsed.text.strip() != probe.content:
            raise unknown_form(
                f"{len(probe.calls)} of its calls are read as {len(calls)}, and {parsed.text!r} beside them"
            )
