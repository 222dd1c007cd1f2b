"""Bounds on requests: texts that cannot fit, and work that must not run on an event loop's thread."""

from __future__ import annotations

from collections.abc import Iterable
from math import inf
from typing import Any

from darwin_align.core.errors import ContextLengthError
from darwin_align.core.types import Request

__all__ = ["characters_per_token", "check_fits", "takes_long"]

_LONG = 2_000
"""Characters of a conversation from which on rendering and tokenising it takes more than a millisecond or two."""
_DROPPED = (" ", "\t", "\n", "\x00", "\u200b", "\u0301")
"""Characters that some tokenizers drop."""


def takes_long(request: Request, texts: Iterable[str] = ()) -> bool:
    """Whether preparing a request for a model would stop an event loop for long: it has schemas, or long texts.

    Args:
        request: what is to be answered or scored.
        texts: answers that are read with it.
    """
    constrained = bool(request.tools or request.response_format is not None or request.grounded)
    length = sum(len(message.text) for message in request.conversation) + sum(map(len, texts))
    return constrained or length > _LONG


def characters_per_token(tokenizer: Any) -> float:
    """The most characters of a text that one token can stand for; infinite where the tokenizer drops some of them."""
    longest = max(map(len, tokenizer.get_vocab()), default=1)
    trial = 16 * longest
    for character in _DROPPED:
        if len(tokenizer.encode(character * trial, add_special_tokens=False, verbose=False)) * longest < trial:
            return inf
    return float(longest)


def check_fits(texts: Iterable[str], per_token: float, context_length: int, role: str = "model") -> None:
    """Refuse texts that cannot fit into a model's context before they are tokenised, which takes long.

    Args:
        texts: that are read one behind the other.
        per_token: the result of :func:`characters_per_token`.
        context_length: in tokens.
        role: the model's role in the message.

    Raises:
        ContextLengthError: they have more characters than so many tokens can stand for.
    """
    characters = sum(len(text.strip()) for text in texts)  # a chat template may strip them
    if characters > per_token * context_length:
        raise ContextLengthError(
            f"the conversation has {characters} characters, more than the {context_length} tokens of the {role}'s "
            f"context can hold: shorten it, or use a {role} with a longer context"
        )
