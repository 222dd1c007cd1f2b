"""The form of a model's tool calls: found by rendering a marked call, and read back from its answers.

A tokenizer that brings a ``response_template`` of transformers defines how its answers are read; otherwise the chat
template shows it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from darwin_align.core.errors import RequestError
from darwin_align.formats.call_parser import Parsed, parse_calls
from darwin_align.formats.call_template import (
    CallMarks,
    CallTexts,
    Read,
    Render,
    marks_of_response_template,
    marks_of_texts,
    texts_of_template,
)

__all__ = ["ToolSyntax"]


@dataclass(frozen=True)
class ToolSyntax:
    """The form of one model's tool calls.

    Attributes:
        texts: the parts of a call, to force one; ``None`` if its arguments are not JSON.

    >>> import json
    >>> def render(calls):
    ...     texts = [f'<tool_call>{json.dumps(call["function"])}</tool_call>' for call in calls]
    ...     return ", ".join(texts) + "<|end|>"
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
        response_template: Mapping[str, Any] | None = None,
        read: Read | None = None,
    ) -> ToolSyntax:
        """Find the form of a model's calls.

        Args:
            render: an assistant's turn with these calls, from the end of the generation prompt on; it may raise
                :class:`RequestError`.
            ends: texts of the tokens that end a turn.
            response_template: the tokenizer's ``response_template``, if it has one.
            read: reads an answer by it: ``tokenizer.parse_response``.

        Raises:
            RequestError: the form is not recognised.
        """
        declared = marks_of_response_template(response_template, read)
        try:
            texts = texts_of_template(render, tuple(ends))
            marks = marks_of_texts(texts)
        except RequestError:
            if declared is None:
                raise
            return cls(None, declared)
        # Where both agree that a call is JSON between two marks, it is read as such: a string in it may hold a mark.
        same = declared and marks.keys and (marks.mark, marks.close) == (declared.mark, declared.close)
        return cls(texts, marks if declared is None or same else declared)

    def parse(self, text: str, tools: Sequence[Mapping[str, Any]], *, finished: bool = False) -> Parsed:
        """Take an answer apart.

        Args:
            text: the answer so far, special tokens that mark calls included.
            tools: those of the request, in OpenAI's form.
            finished: whether nothing will follow: a call that is cut is invalid then, not open.
        """
        return parse_calls(self._marks, text, tools, finished=finished) if tools else Parsed(text)
