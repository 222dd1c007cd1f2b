"""From OpenAI's messages to the search's, and from its answers back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from langchain_core.messages import AIMessage
from openai.types.chat import ChatCompletionMessage
from pydantic import JsonValue
from pydantic_core import from_json

from darwin_align.core import Message
from darwin_align.core.types import ToolCall

from .faults import invalid
from .settings import SearchLimits
from .wire import AssistantTurn, Content, SystemTurn, ToolTurn, Turn, UserTurn

__all__ = ["call_chunks", "check_texts", "invalid_text", "messages_of", "texts_of", "thoughts_of", "to_openai"]


def messages_of(turns: Sequence[Turn]) -> tuple[Message, ...]:
    """Convert a conversation."""
    return tuple(map(_message, turns))


def texts_of(turns: Sequence[Turn]) -> Iterator[str]:
    """The texts of a conversation, and the arguments of its calls."""
    for turn in turns:
        if isinstance(turn.content, str):
            yield turn.content
        else:
            yield from (part.text for part in turn.content or ())
        if isinstance(turn, AssistantTurn):
            yield from (call.function.arguments for call in turn.tool_calls or ())
            yield from filter(None, (turn.reasoning_content, turn.reasoning))


def check_texts(limits: SearchLimits, texts: Iterable[str], param: str) -> None:
    """Refuse texts that are longer than the operator allows, before anybody tokenises them.

    Raises:
        Fault: one is (400).
    """
    if (longest := max(map(len, texts), default=0)) > (most := limits.text_characters):
        raise invalid(
            f"{param}: a text of {longest} characters is longer than this server takes: {most} at most", param
        )


def _message(turn: SystemTurn | UserTurn | AssistantTurn | ToolTurn) -> Message:
    content = _content(turn.content)
    match turn:
        case SystemTurn():
            return Message(role="system", content=content, name=turn.name)
        case UserTurn():
            return Message(role="user", content=content, name=turn.name)
        case ToolTurn():
            return Message(role="tool", content=content, name=turn.name, tool_call_id=turn.tool_call_id or None)
        case AssistantTurn():
            calls = tuple(
                ToolCall(name=call.function.name, arguments=from_json(call.function.arguments), id=call.id)
                for call in turn.tool_calls or ()
            )
            if thoughts := turn.reasoning_content or turn.reasoning:
                blocks = ({"type": "text", "text": content},) if isinstance(content, str) else content
                content = ({"type": "reasoning", "reasoning": thoughts}, *blocks)
            return Message(role="assistant", content=content, name=turn.name, tool_calls=calls)


def _content(content: Content | None) -> str | tuple[dict[str, JsonValue], ...]:
    if content is None or isinstance(content, str):
        return content or ""
    return tuple({"type": "text", "text": part.text} for part in content)


def to_openai(message: AIMessage) -> ChatCompletionMessage:
    """Convert an answer.

    Calls that cannot be made are text, as the model wrote them: OpenAI has no place of their own, and clients send
    answers back in the conversation, where a call has a name and a JSON object of arguments.
    """
    calls = [{key: value for key, value in call.items() if key != "index"} for call in call_chunks(message)]
    text = message.text + invalid_text(message)
    content = text if text or not calls else None
    thoughts = {"reasoning_content": found} if (found := thoughts_of(message)) else {}
    return ChatCompletionMessage.model_validate(
        {"role": "assistant", "content": content, **thoughts, "tool_calls": calls or None, "refusal": None}
    )


def thoughts_of(message: AIMessage) -> str:
    """What a reasoning model thought before an answer; empty if nothing."""
    return "".join(
        str(block["reasoning"])
        for block in message.content
        if isinstance(block, dict) and block.get("type") == "reasoning"
    )


def invalid_text(message: AIMessage) -> str:
    """The calls of an answer that cannot be made (cut by ``max_tokens``, of an unknown tool …), as decoded."""
    return "".join((call["args"] or "").removeprefix(f"{call['error']}: ") for call in message.invalid_tool_calls)


def call_chunks(message: AIMessage) -> list[dict[str, Any]]:
    """An answer's calls as the chunks of a stream carry them."""
    return [
        {
            "index": index,
            "id": call["id"],
            "type": "function",
            "function": {"name": call["name"], "arguments": json.dumps(call["args"], ensure_ascii=False)},
        }
        for index, call in enumerate(message.tool_calls)
    ]
