"""The conversation in what a search is given, and whether its characters are whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import BaseMessage, convert_to_messages
from langchain_core.prompt_values import PromptValue

from darwin_align.core.errors import RequestError
from darwin_align.core.types import Message, Request
from darwin_align.operators.messages import from_langchain

__all__ = ["check_characters", "conversation_of"]


def conversation_of(input: str | Sequence[Any] | PromptValue) -> tuple[Message, ...]:
    """Read the conversation from a text, a prompt value, or messages of ours or of LangChain's.

    Raises:
        RequestError: it is none of them.
    """
    if isinstance(input, str):
        return Request.of(input).conversation
    messages = input.to_messages() if isinstance(input, PromptValue) else input
    if isinstance(messages, (BaseMessage, dict)) or not isinstance(messages, Sequence):
        raise RequestError(
            f"cannot read a conversation from {type(input).__name__}: give a text, or a list of messages"
        )
    turns = list(messages)
    if turns and all(isinstance(turn, Message) for turn in turns):
        return tuple(turns)
    try:
        return from_langchain(convert_to_messages(turns))
    except (NotImplementedError, ValueError) as error:
        raise RequestError(f"cannot read the conversation: {error}") from error


def check_characters(request: Request) -> None:
    """Half a surrogate pair, as broken JSON leaves it behind, can be neither tokenised nor hashed nor sent."""
    try:
        request.to_json().encode()
    except UnicodeEncodeError as error:
        raise RequestError(
            f"the request holds {error.object[error.start]!r}, half of a character that was cut in two: clean its "
            "texts, e.g. by text.encode('utf-8', 'replace').decode()"
        ) from None
