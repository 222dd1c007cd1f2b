"""From token ids to text: the token ids are authoritative, text is derived from them and never read back."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

__all__ = ["Detokenizer", "first_stop"]

_BROKEN = "�"


class Detokenizer:
    """Decodes states without the tokens that end or frame a turn.

    Other special tokens stay: a policy that marks its tool calls by special tokens must not lose the marks.

    Args:
        tokenizer: a transformers tokenizer.
        hidden: ids that are no text.
    """

    def __init__(self, tokenizer: Any, hidden: Collection[int]) -> None:
        self._tokenizer = tokenizer
        self.hidden = frozenset(hidden)

    def text(self, tokens: Sequence[int], *, finished: bool = True) -> str:
        """Decode a whole state. An unfinished one ends before a character of which some bytes are missing."""
        visible = [token for token in tokens if token not in self.hidden]
        text: str = self._tokenizer.decode(visible, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text if finished else text.rstrip(_BROKEN)

    def spells(self, tokens: Sequence[int], text: str) -> bool:
        """Whether the ids stand for exactly this text (bytes of an unfinished last character aside)."""
        if not tokens or max(tokens) >= len(self._tokenizer):
            return False
        decoded = self.text(tokens)
        return decoded == text or decoded.rstrip(_BROKEN) == text

    def without_end(self, tokens: Sequence[int]) -> list[int]:
        """The ids before the tokens that end the turn."""
        end = len(tokens)
        while end and tokens[end - 1] in self.hidden:
            end -= 1
        return list(tokens[:end])

    def ends_with_stop(self, tokens: Sequence[int], stops: Sequence[str]) -> bool:
        """Whether one of the stop strings is in the text, given that none was before the last token.

        Every visible token is one byte at least, so a stop string that the last token completed lies in a short tail;
        four tokens more make up for a character that the tail begins in the middle of.
        """
        tail = max(len(stop.encode()) for stop in stops) + 4
        recent = self.text(tokens[-tail:])
        if not any(stop in recent for stop in stops):
            return False
        return len(tokens) <= tail or first_stop(self.text(tokens), stops) is not None


def first_stop(text: str, stops: Sequence[str]) -> int | None:
    """Where the first stop string begins.

    >>> first_stop("one. two", [" two", "."])
    3
    """
    found = [at for stop in stops if (at := text.find(stop)) >= 0]
    return min(found, default=None)
