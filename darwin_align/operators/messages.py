"""Between LangChain's messages and ours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    BaseMessageChunk,
    ChatMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    message_chunk_to_message,
)
from pydantic import ValidationError

from darwin_align.core.errors import RequestError
from darwin_align.core.types import Message, Role, ToolCall

__all__ = ["from_langchain", "to_langchain"]

_ROLES: dict[str, Role] = {"human": "user", "ai": "assistant", "system": "system", "tool": "tool"}
_REASONING = ("reasoning", "thinking", "reasoning_content")
_CHAT_ROLES: dict[str, Role] = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}


def from_langchain(messages: Sequence[BaseMessage]) -> tuple[Message, ...]:
    """Convert LangChain's messages.

    Raises:
        RequestError: a message's role has no equivalent in chat templates, or its content is not JSON.

    >>> from_langchain([HumanMessage("Hi")])[0].role
    'user'
    """
    try:
        return tuple(_from(message) for message in messages)
    except ValidationError as error:
        wrong = error.errors()[-1]
        field = ".".join(str(part) for part in wrong["loc"])
        raise RequestError(f"a message's {field} cannot be read: {wrong['msg'].lower()}; give JSON values") from None


def to_langchain(conversation: Sequence[Message]) -> list[BaseMessage]:
    """Convert back; :func:`from_langchain` of the result is the same conversation.

    >>> to_langchain([Message(role="user", content="Hi")])[0].text
    'Hi'
    """
    return [_to(message) for message in conversation]


def _from(message: BaseMessage) -> Message:
    if isinstance(message, BaseMessageChunk):  # a streamed answer, added up
        message = message_chunk_to_message(message)
    role = _CHAT_ROLES.get(message.role) if isinstance(message, ChatMessage) else _ROLES.get(message.type)
    if role is None:
        kind = f"role {message.role!r}" if isinstance(message, ChatMessage) else f"type {message.type!r}"
        raise RequestError(f"a message of {kind} cannot be answered: use system, human, ai and tool messages")
    return Message(
        role=role,
        content=_content(message),
        name=message.name,
        tool_calls=tuple(_calls(message)) if isinstance(message, AIMessage) else (),
        tool_call_id=(message.tool_call_id or None) if isinstance(message, ToolMessage) else None,
    )


def _content(message: BaseMessage) -> str | tuple[dict[str, Any], ...]:
    """A message's content. Thoughts that a provider's package puts beside it become a block of it."""
    content = message.content
    blocks: list[str | dict[str, Any]] = [content] if isinstance(content, str) else list(content)
    thoughts = message.additional_kwargs.get("reasoning_content") if isinstance(message, AIMessage) else None
    known = any(isinstance(block, dict) and block.get("type") in _REASONING for block in blocks)
    if isinstance(thoughts, str) and thoughts and not known:
        return ({"type": "reasoning", "reasoning": thoughts}, *(_block(block) for block in blocks if block))
    return content if isinstance(content, str) else tuple(map(_block, blocks))


def _block(block: str | dict[str, Any]) -> dict[str, Any]:
    return {"type": "text", "text": block} if isinstance(block, str) else dict(block)


def _calls(message: AIMessage) -> list[ToolCall]:
    return [ToolCall(name=call["name"], arguments=call["args"], id=call["id"]) for call in message.tool_calls]


def _to(message: Message) -> BaseMessage:
    content: Any = message.content if isinstance(message.content, str) else [dict(block) for block in message.content]
    match message.role:
        case "system":
            return SystemMessage(content, name=message.name)
        case "user":
            return HumanMessage(content, name=message.name)
        case "tool":
            return ToolMessage(content, name=message.name, tool_call_id=message.tool_call_id or "")
        case "assistant":
            calls = [{"name": c.name, "args": dict(c.arguments), "id": c.id} for c in message.tool_calls]
            return AIMessage(content, name=message.name, tool_calls=calls)
