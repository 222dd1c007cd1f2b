"""Parsers of structured answers that refuse an incomplete one.

LangChain's JSON parsers complete JSON that was cut, also at the end of an answer: ``{"age": 21`` becomes 21 where the
model was about to write 214. These parse whole answers strictly, and an answer that was cut at its token limit is an
error. A stream of one yields one object, for an answer comes in one piece.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from functools import reduce
from operator import add
from typing import Any, Generic

from langchain_core.exceptions import OutputParserException
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, BaseMessageChunk
from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
from langchain_core.output_parsers.openai_tools import JsonOutputKeyToolsParser, PydanticToolsParser
from langchain_core.output_parsers.transform import BaseCumulativeTransformOutputParser
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, Generation, GenerationChunk
from langchain_core.utils.pydantic import TBaseModel

from darwin_align.core.json_types import Json
from darwin_align.formats.validation import schema_violation

__all__ = ["JsonAnswerParser", "JsonCallParser", "PydanticAnswerParser", "PydanticCallParser"]

_FENCE = re.compile(r"```[a-zA-Z]*[ \t]*\n")
_SHOWN = 200
"""Characters of an answer that an error quotes."""


class _CompleteAnswerParser(BaseCumulativeTransformOutputParser[Any]):
    """Parses an answer strictly, once it has ended."""

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        """Parse an answer.

        Args:
            result: one generation.
            partial: the answer is not complete yet, and its JSON may be completed.

        Raises:
            OutputParserException: the answer is cut, is not valid JSON, makes no call, or does not match the schema.
        """
        if partial:
            return super().parse_result(result, partial=True)
        _refuse_cut(result[0])
        try:
            return self._parse_complete(result)
        except OutputParserException:
            raise
        except ValueError as error:  # pydantic's ValidationError is one
            raise OutputParserException(
                f"the answer does not match the schema: {error}", llm_output=result[0].text
            ) from error

    def _parse_complete(self, result: list[Generation]) -> Any:
        return super().parse_result(result)

    def _transform(self, input: Iterator[str | BaseMessage]) -> Iterator[Any]:
        if received := _joined([_as_chunk(chunk) for chunk in input]):
            yield self.parse_result([received])

    async def _atransform(self, input: AsyncIterator[str | BaseMessage]) -> AsyncIterator[Any]:
        if received := _joined([_as_chunk(chunk) async for chunk in input]):
            yield self.parse_result([received])


class JsonAnswerParser(_CompleteAnswerParser, JsonOutputParser):
    """Parses an answer that is JSON, and checks it against a schema."""

    json_schema: Json = None
    """A JSON schema that the answer must keep. ``None`` allows any JSON."""

    def _parse_complete(self, result: list[Generation]) -> Any:
        value = _strict_json(result[0].text)
        _refuse_breach(value, self.json_schema, result[0].text)
        return value


class PydanticAnswerParser(_CompleteAnswerParser, PydanticOutputParser[TBaseModel], Generic[TBaseModel]):
    """Parses an answer that is JSON to an instance of a pydantic class."""

    def _parse_complete(self, result: list[Generation]) -> Any:
        return self._parse_obj(_strict_json(result[0].text))


class JsonCallParser(_CompleteAnswerParser, JsonOutputKeyToolsParser):
    """Parses the arguments of an answer's call of one tool, and checks them against its schema."""

    json_schema: Json = None
    """A JSON schema, as for :class:`JsonAnswerParser`."""

    def _parse_complete(self, result: list[Generation]) -> Any:
        _refuse_invalid_calls(result[0])
        arguments = super()._parse_complete(result)
        if arguments is None:
            raise _no_call(self.key_name, result[0])
        _refuse_breach(arguments, self.json_schema, json.dumps(arguments, ensure_ascii=False))
        return arguments


class PydanticCallParser(_CompleteAnswerParser, PydanticToolsParser):
    """Parses the arguments of an answer's call to an instance of the pydantic class that the tool was made of."""

    def _parse_complete(self, result: list[Generation]) -> Any:
        _refuse_invalid_calls(result[0])
        if (parsed := super()._parse_complete(result)) is None:
            raise _no_call(self.tools[0].__name__, result[0])
        return parsed


def _as_chunk(chunk: str | BaseMessage) -> ChatGenerationChunk | GenerationChunk:
    if isinstance(chunk, BaseMessageChunk):
        return ChatGenerationChunk(message=chunk)
    if isinstance(chunk, BaseMessage):
        return ChatGenerationChunk(message=AIMessageChunk(**{**chunk.model_dump(), "type": "AIMessageChunk"}))
    return GenerationChunk(text=chunk)


def _joined(chunks: Sequence[Any]) -> Any:
    """The generation that chunks add up to; ``None`` if there is none."""
    return reduce(add, chunks) if chunks else None


def _metadata(generation: Generation) -> dict[str, Any]:
    return generation.message.response_metadata if isinstance(generation, ChatGeneration) else {}


def _refuse_cut(generation: Generation) -> None:
    metadata = _metadata(generation)
    if metadata.get("finish_reason") != "length":
        return
    search = metadata.get("darwin", {})
    stop_reason = str(search.get("stop_reason", ""))
    if stop_reason.startswith(("budget", "failure")):
        reason = f"when the search ended early ({stop_reason})"
        remedy = "raise the budget" if stop_reason.startswith("budget") else "see response_metadata['darwin']"
    else:
        limit = f"={search['max_new_tokens']}" if "max_new_tokens" in search else ""
        reason, remedy = f"at max_tokens{limit}", "raise max_tokens"
    message = f"the answer was cut {reason}, so it is incomplete: {remedy}; it ends {_tail(_text_of(generation))!r}"
    raise OutputParserException(message, llm_output=generation.text)


def _refuse_invalid_calls(generation: Generation) -> None:
    message = generation.message if isinstance(generation, ChatGeneration) else None
    if isinstance(message, AIMessage) and message.invalid_tool_calls:
        [call, *_] = message.invalid_tool_calls
        name = f"the call of {call['name']!r}" if call["name"] else "a tool call"
        reason = call["error"] or "its arguments cannot be parsed"
        raise OutputParserException(f"{name} is invalid: {reason}", llm_output=call["args"])


def _refuse_breach(value: Json, schema: Json, text: str) -> None:
    if schema is not None and (wrong := schema_violation(value, schema)):
        raise OutputParserException(f"the answer does not match the schema: {wrong}", llm_output=text)


def _no_call(name: str, generation: Generation) -> OutputParserException:
    shown = f": {generation.text[:_SHOWN]!r}" if generation.text else ""
    return OutputParserException(f"the answer makes no call of {name!r}{shown}", llm_output=generation.text)


def _strict_json(text: str) -> Json:
    """Parse JSON, also as the only content of a Markdown code block."""
    whole = text.strip()
    opening = _FENCE.match(whole)
    fenced = opening is not None and whole.endswith("```", opening.end())
    try:
        return json.loads(whole[opening.end() : -3] if opening and fenced else text)
    except ValueError as error:
        raise OutputParserException(
            f"the answer is not valid JSON: {error}; it says {text[:_SHOWN]!r}", llm_output=text
        ) from error


def _text_of(generation: Generation) -> str:
    message = generation.message if isinstance(generation, ChatGeneration) else None
    if isinstance(message, AIMessage) and message.invalid_tool_calls:
        return str(message.invalid_tool_calls[-1]["args"])
    return generation.text


def _tail(text: str) -> str:
    return text if len(text) <= _SHOWN else f"…{text[-_SHOWN:]}"
