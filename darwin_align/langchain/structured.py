"""Structured output: schemas as users write them, and the parser for each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Literal, get_args

from langchain_core.exceptions import OutputParserException
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import BaseOutputParser
from langchain_core.outputs import ChatGeneration
from langchain_core.runnables import Runnable, RunnableLambda, RunnableMap, RunnablePassthrough
from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool
from langchain_core.utils.pydantic import is_basemodel_subclass
from pydantic import BaseModel

from darwin_align.core.errors import ConfigError
from darwin_align.core.record import did_you_mean
from darwin_align.langchain.parsers import JsonAnswerParser, JsonCallParser, PydanticAnswerParser, PydanticCallParser

__all__ = ["Method", "Schema", "Structure", "as_response_format"]

Method = Literal["json_schema", "function_calling", "json_mode"]
Schema = dict[str, Any] | type
"""A pydantic class, a ``TypedDict``, a JSON schema, or an OpenAI function."""


@dataclass(frozen=True)
class Structure:
    """How answers of one schema are requested and read.

    >>> from pydantic import BaseModel
    >>> class Tea(BaseModel):
    ...     minutes: int
    >>> structure = Structure(Tea)
    >>> structure.bound["response_format"]["json_schema"]["name"]
    'Tea'
    >>> structure.parser.invoke(AIMessage('{"minutes": 3}'))
    Tea(minutes=3)

    Raises:
        ConfigError: no schema, or a method that is not known or does not suit it.
    """

    schema: Schema | None
    method: Method = "json_schema"
    strict: bool | None = None

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise ConfigError(f"method={self.method!r} is unknown: {did_you_mean(self.method, get_args(Method))}")
        if self.schema is None and self.method != "json_mode":
            raise ConfigError(f"method={self.method!r} needs a schema: give one, or use method='json_mode'")
        if self.method == "json_mode" and self.strict is not None:
            raise ConfigError("strict has no meaning with method='json_mode', which enforces no schema: leave it out")

    @property
    def bound(self) -> dict[str, Any]:
        """What is bound to the model, apart from tools: ``response_format``, and what a trace shows of it."""
        shown: dict[str, Any] = {"kwargs": {"method": self.method}, "schema": self.schema}
        if self.strict is not None:
            shown["kwargs"]["strict"] = self.strict
        traced = {} if self.schema is None else {"ls_structured_output_format": shown}
        if self.method == "function_calling":
            return traced
        form = {"type": "json_object"} if self.method == "json_mode" else as_response_format(self.schema, self.strict)
        return {**traced, "response_format": form}

    @property
    def tool(self) -> dict[str, Any]:
        """The schema as a tool."""
        given = self.schema
        if isinstance(given, dict) and not _is_function(given) and "properties" not in given:
            raise ConfigError(
                "a tool takes an object, and this schema has no properties: use method='json_schema', or an object "
                "around it"
            )
        return _tool(given, self.strict)

    @property
    def parser(self) -> BaseOutputParser[Any]:
        """Parses an answer, and refuses one that is cut or does not match the schema."""
        schema: Any = self.schema
        is_class = isinstance(schema, type) and is_basemodel_subclass(schema)
        if self.method == "function_calling":
            if is_class:
                return PydanticCallParser(tools=[schema], first_tool_only=True)
            return JsonCallParser(
                key_name=self.tool["function"]["name"], first_tool_only=True, json_schema=self._json_schema
            )
        if is_class:
            return PydanticAnswerParser(pydantic_object=schema)
        return JsonAnswerParser(json_schema=self._json_schema)

    @property
    def _json_schema(self) -> Any:
        if self.schema is None:
            return {"type": "object"}
        return as_response_format(self.schema, self.strict)["json_schema"]["schema"]

    def read(self, model: Runnable[Any, AIMessage], *, include_raw: bool) -> Runnable[Any, Any]:
        """A chain that reads the model's answers.

        Args:
            model: with :attr:`bound` bound to it.
            include_raw: return a dict of ``raw``, ``parsed`` and ``parsing_error`` instead of raising.
        """
        parser = self.parser
        if not include_raw:
            return model | parser
        nothing: Runnable[Any, Any] = RunnableLambda(lambda _: None)
        parsed = (itemgetter("raw") | parser).with_fallbacks([nothing], exceptions_to_handle=(OutputParserException,))

        def parsing_error(answer: dict[str, Any]) -> OutputParserException | None:
            try:
                parser.parse_result([ChatGeneration(message=answer["raw"])])
            except OutputParserException as error:
                return error
            return None

        return RunnableMap(raw=model) | RunnablePassthrough.assign(parsed=parsed, parsing_error=parsing_error)


def as_response_format(given: Any, strict: bool | None = None) -> dict[str, Any]:
    """A request's ``response_format`` of a schema, or of what is one already.

    >>> as_response_format({"type": "object", "properties": {"minutes": {"type": "integer"}}})["json_schema"]["name"]
    'answer'

    Raises:
        ConfigError: it is no schema.
    """
    if isinstance(given, Mapping) and given.get("type") in ("json_schema", "json_object", "text"):
        return dict(given)
    if isinstance(given, Mapping) and "name" in given and isinstance(given.get("schema"), Mapping | bool):
        return {"type": "json_schema", "json_schema": dict(given)}  # as OpenAI has it within
    name, schema = _named_schema(given, strict)
    form: dict[str, Any] = {"name": name, "schema": schema}
    if strict is not None:
        form["strict"] = strict
    return {"type": "json_schema", "json_schema": form}


def _named_schema(given: Any, strict: bool | None) -> tuple[str, dict[str, Any]]:
    if isinstance(given, Mapping) and not _is_function(given):
        schema = dict(given)
        name = str(schema.get("title", "answer"))
        if not schema.keys() & {"type", "properties", "anyOf", "allOf", "oneOf", "$ref", "enum", "const"}:
            raise ConfigError(f"{json.dumps(schema, default=repr):.80} is no JSON schema: it describes no answer")
        if not strict:
            return name, schema
        if "properties" not in schema:
            raise ConfigError(f"strict=True is for schemas with properties, and {name!r} has none: leave it out")
        return name, convert_to_json_schema({**schema, "title": name}, strict=True)
    name = _tool(given, strict)["function"]["name"]
    if strict is None and isinstance(given, type) and issubclass(given, BaseModel):
        return name, given.model_json_schema()  # LangChain's own conversion cuts classes that contain themselves
    return name, convert_to_json_schema(given, strict=strict)


def _is_function(given: Mapping[str, Any]) -> bool:
    return "name" in given or given.get("type") == "function"


def _tool(given: Any, strict: bool | None) -> dict[str, Any]:
    try:
        return convert_to_openai_tool(given, strict=strict)
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(
            f"cannot make a schema of {given!r:.80}: give a pydantic class, a TypedDict, or a JSON schema with a title"
        ) from error
