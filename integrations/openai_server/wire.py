"""Requests as they come over the wire. A field that is not served is refused by its name, unless it has no effect.

In one file, as a client's library has them: a class for each body.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from annotated_types import MaxLen
from pydantic import (
    BaseModel,
    ConfigDict,
    FailFast,
    Field,
    JsonValue,
    StrictInt,
    create_model,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError, from_json

from darwin_align.core import SearchConfig
from darwin_align.core.record import did_you_mean
from darwin_align.core.types import COLDEST, Grounded

from .fields import CHAT_IGNORED, CHAT_NEUTRAL, CHAT_REFUSED, IGNORED_IN_HISTORY, IGNORED_IN_PARTS, MEANT

__all__ = [
    "AssistantTurn",
    "ChatRequest",
    "ClassifyRequest",
    "DarwinSettings",
    "GetRewardRequest",
    "RewardsRequest",
    "SystemTurn",
    "ToolTurn",
    "Turn",
    "UserTurn",
    "ignored_names",
]

_NOTHING: tuple[Any, ...] = (None, [], {}, "")
_TURNS = 1024
"""Turns of a conversation at most."""
_PARTS = 1024
"""Of one turn."""
T = TypeVar("T")


class _FirstError(FailFast):
    """Ends at the first wrong item: a megabyte of them would take half a minute to be described."""

    def __hash__(self) -> int:  # unions of annotated types need one
        return hash(type(self))


Items = Annotated[list[T], _FirstError()]


class Wire(BaseModel):
    """A JSON object. Unknown fields are accepted only if they have no effect."""

    # The published schema is stricter than the validation: it has the declared names only.
    model_config = ConfigDict(extra="allow", frozen=True, json_schema_extra={"additionalProperties": False})
    neutral: ClassVar[dict[str, tuple[Any, ...]]] = {}
    """Values of parameters that are not served which equal this server's behaviour."""
    hints: ClassVar[dict[str, str]] = {}
    """What to do instead."""
    ignored: ClassVar[dict[str, str]] = {}
    """Parameters that have no effect on an answer, and why: accepted with any value, and named in the reply."""

    @model_validator(mode="after")
    def _nothing_is_ignored_silently(self) -> Self:
        for name, value in (self.model_extra or {}).items():
            if name in self.ignored:
                continue
            # By kind too: False is equal to 0.
            same = [one for one in (*_NOTHING, *self.neutral.get(name, ())) if type(one) is type(value)]
            if value in same and not (name in MEANT and value is not None):
                continue
            hint = self.hints.get(name) or _hint(name, name in self.neutral, type(self).model_fields)
            raise PydanticCustomError(
                "unsupported_parameter", "{name} is not supported: {hint}", {"name": name, "hint": hint}
            )
        return self


def ignored_names(value: object, path: str = "") -> set[str]:
    """Paths of a request's parameters that were accepted and have no effect, without indices of lists."""
    if isinstance(value, list):
        return {name for one in value for name in ignored_names(one, path)}
    if not isinstance(value, Wire):
        return set()
    found = set()
    given = {**{name: getattr(value, name) for name in type(value).model_fields}, **(value.model_extra or {})}
    for name, inner in given.items():
        where = f"{path}.{name}" if path else name
        if name in value.ignored and inner not in _NOTHING:
            found.add(where)
        elif isinstance(inner, Wire | list):
            found |= ignored_names(inner, where)
    return found


def _hint(name: str, known: bool, fields: Iterable[str]) -> str:
    if known:
        return "leave it out"
    close = get_close_matches(name, list(fields), n=1, cutoff=0.75)
    return f"did you mean {close[0]!r}?" if close else "this server does not know it"


class TextPart(Wire):
    """A piece of a turn; this server reads text only."""

    ignored = IGNORED_IN_HISTORY

    type: Literal["text"]
    text: str


Content = str | Annotated[Items[TextPart], MaxLen(_PARTS)]


class SystemTurn(Wire):
    """Instructions for the whole conversation."""

    ignored = IGNORED_IN_PARTS
    role: Literal["system", "developer"]
    content: Content
    name: str | None = None


class UserTurn(Wire):
    """A turn of the user."""

    ignored = IGNORED_IN_PARTS
    role: Literal["user"]
    content: Content
    name: str | None = None


class CalledFunction(Wire):
    """A function and its arguments, as JSON."""

    ignored = IGNORED_IN_HISTORY
    name: str
    arguments: str

    @field_validator("arguments")
    @classmethod
    def _are_an_object(cls, value: str) -> str:
        try:
            read = from_json(value or "{}", allow_inf_nan=False)
        except ValueError as error:
            raise ValueError(f"the arguments of a call are no JSON: {error}") from None
        if not isinstance(read, dict):
            raise ValueError("the arguments of a call are a JSON object")
        return value or "{}"


class Call(Wire):
    """A call that the assistant made."""

    ignored = IGNORED_IN_HISTORY
    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class AssistantTurn(Wire):
    """A turn of the assistant: text, or calls."""

    ignored = IGNORED_IN_HISTORY
    role: Literal["assistant"]
    content: Content | None = None
    reasoning_content: str | None = None
    """What it thought before; chat templates show what their models are to see again."""
    reasoning: str | None = None
    """The same by another name."""
    name: str | None = None
    tool_calls: Annotated[Items[Call], Field(max_length=_PARTS)] | None = None


class ToolTurn(Wire):
    """The result of a call."""

    ignored = IGNORED_IN_PARTS
    role: Literal["tool"]
    content: Content
    tool_call_id: str
    name: str | None = None


Turn = Annotated[SystemTurn | UserTurn | AssistantTurn | ToolTurn, Field(discriminator="role")]
Turns = Annotated[Items[Turn], MaxLen(_TURNS)]


class Function(Wire):
    """A function that may be called."""

    ignored = IGNORED_IN_PARTS
    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    description: str | None = None
    parameters: dict[str, JsonValue] | None = None
    strict: bool | None = None


class Tool(Wire):
    """A tool: functions only."""

    ignored = IGNORED_IN_PARTS
    type: Literal["function"]
    function: Function


class NamedFunction(Wire):
    """A function by its name."""

    name: str


class NamedTool(Wire):
    """The tool that must be called."""

    type: Literal["function"]
    function: NamedFunction


class NamedSchema(Wire):
    """A JSON schema that answers keep."""

    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    schema_: dict[str, JsonValue] = Field(alias="schema")
    description: str | None = None
    strict: bool | None = None


class Format(Wire):
    """Any text, any JSON object, or JSON of a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None

    @model_validator(mode="after")
    def _has_its_schema(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("json_schema={'name': …, 'schema': {…}} belongs to the type 'json_schema'")
        return self


class StreamOptions(Wire):
    """How an answer is streamed."""

    ignored = {"include_obfuscation": CHAT_IGNORED["stream_options.include_obfuscation"]}
    neutral = {"continuous_usage_stats": (False,)}
    include_usage: bool = False


class _Darwin(Wire):
    """Settings of the search: names of ``SearchConfig``, and which values are copied."""

    hints: ClassVar[dict[str, str]] = {
        "seed": "give the request's own seed",
        "max_new_tokens": "give the request's own max_completion_tokens",
        "preset": "presets are models of their own, e.g. 'pocket:best_of_n'",
    }
    grounded: Grounded | None = None
    grounded_in: Items[str] | None = None

    @property
    def search(self) -> dict[str, Any]:
        """The settings of the search that are given, and those that travel with its request."""
        names = {*SearchConfig.model_fields, "grounded", "grounded_in"} & type(self).model_fields.keys()
        return {name: value for name in names if (value := getattr(self, name)) is not None}


def _optional(field: FieldInfo) -> Any:
    """A field of ``SearchConfig`` that may be left out."""
    kind: Any = field.annotation
    for constraint in field.metadata:
        kind = Annotated[kind, constraint]
    return kind | None, None


_OWN = ("seed", "max_new_tokens")
"""Settings of a search that are the request's own."""
DarwinSettings: type[_Darwin] = create_model(
    "DarwinSettings",
    __base__=_Darwin,
    __doc__=_Darwin.__doc__,
    **{name: _optional(field) for name, field in SearchConfig.model_fields.items() if name not in _OWN},
)
_COUNT = 2**31 - 1


class ChatRequest(Wire):
    """``POST /v1/chat/completions``."""

    ignored = CHAT_IGNORED
    neutral = CHAT_NEUTRAL
    hints = CHAT_REFUSED
    model: str
    messages: Turns = Field(min_length=1)
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int | None = Field(None, ge=1, le=_COUNT)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: str | Items[str] | None = None
    max_tokens: int | None = Field(None, gt=0, le=_COUNT)
    max_completion_tokens: int | None = Field(None, gt=0, le=_COUNT)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, gt=0, le=_COUNT)
    repetition_penalty: float | None = Field(None, ge=0.1, le=10)
    tools: Items[Tool] | None = Field(None, max_length=128)
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    response_format: Format | None = None
    chat_template_kwargs: dict[str, JsonValue] | None = None
    """Switches of the policy's chat template, e.g. ``enable_thinking``."""
    darwin: DarwinSettings | None = None
    user: str | None = None
    """Ignored, like the next two."""
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    @field_validator("temperature")
    @classmethod
    def _temperature_divides(cls, value: float | None) -> float | None:
        if value and value < COLDEST:
            raise ValueError(f"temperature is 0 (greedy), or from {COLDEST} to 2: numbers overflow in between")
        return value

    @field_validator("stop")
    @classmethod
    def _stops_are_texts(cls, value: str | list[str] | None) -> list[str] | None:
        stops = [value] if isinstance(value, str) else value
        if stops and (len(stops) > 16 or not all(stops)):
            raise ValueError("stop is one text, or up to 16, none of them empty")
        return stops

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.stream_options and not self.stream:
            raise ValueError("stream_options is for streams: set stream=true, or leave it out")
        if None not in (self.max_tokens, self.max_completion_tokens):
            raise ValueError("max_tokens and max_completion_tokens are one setting: give max_completion_tokens")
        names = [tool.function.name for tool in self.tools or ()]
        if not names and self.tool_choice not in (None, "none", "auto"):
            raise ValueError("tool_choice asks for a call, but there are no tools: give some")
        if isinstance(self.tool_choice, NamedTool) and self.tool_choice.function.name not in names:
            raise ValueError(
                f"tool_choice names {self.tool_choice.function.name!r}, which is no tool of the request: "
                f"{did_you_mean(self.tool_choice.function.name, names)}"
            )
        return self


# -- rewards


class RewardsRequest(Wire):
    """``POST /v1/rewards``: a conversation and responses to it, or whole conversations that end with the response."""

    model: str | None = None
    messages: Turns | None = Field(None, min_length=1)
    responses: Items[str] | None = Field(None, min_length=1)
    conversations: Items[Turns] | None = Field(None, min_length=1)

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        apart, whole = (self.messages, self.responses), self.conversations
        if (whole is None) == (apart == (None, None)) or (whole is None and None in apart):
            raise ValueError("give messages and responses, or conversations, each of which ends with its response")
        return self


class GetRewardRequest(Wire):
    """``POST /get_reward``: rendered texts, as OpenRLHF sends them. Prompts and labels come along and are not read."""

    query: Items[str] = Field(min_length=1)
    prompts: Items[str] | None = None
    labels: Items[str] | None = None


class ClassifyRequest(Wire):
    """``POST /classify`` and ``/pooling``: texts, token ids, or a conversation, as vLLM takes them."""

    neutral: ClassVar[dict[str, tuple[Any, ...]]] = {
        "add_generation_prompt": (False,),
        "continue_final_message": (False,),
        "encoding_format": ("float",),
        "truncate_prompt_tokens": (),
    }
    hints: ClassVar[dict[str, str]] = {
        "add_generation_prompt": "the conversation ends with its response",
        "continue_final_message": "the response's turn is closed here, as the chat template does",
        "truncate_prompt_tokens": "nothing is cut here, what is too long is refused",
        "softmax": "give use_activation=false for the raw reward",
        "activation": "give use_activation=false for the raw reward",
    }
    model: str | None = None
    input: str | Items[str] | Items[StrictInt] | Items[Items[StrictInt]] | None = None
    messages: Turns | None = Field(None, min_length=1)
    use_activation: bool = True
    """A sigmoid over the reward, which vLLM applies by default."""
    add_special_tokens: bool = True
    task: Literal["classify"] | None = None
    user: str | None = None

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if (self.input is None) == (self.messages is None):
            raise ValueError("give input or messages")
        if self.input is not None and not self.input:
            raise ValueError("input is empty")
        return self
