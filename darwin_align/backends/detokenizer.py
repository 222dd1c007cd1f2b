"""From token ids to text: the token ids are authoritative, text is derived from them and never read back."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cached_property
from itertools import takewhile
from typing import Any

__all__ = ["Detokenizer", "first_stop"]

_BROKEN = "�"
_WORD = "x"

# UTF-8: a byte from 0x80 on belongs to a character of several bytes, one from 0xC0 on begins it.
_CONTINUED, _FIRST = 0x80, 0xC0


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
        if finished:
            return self._decoded(visible)
        # A decoder with byte fallback gives up a whole run of bytes for one that is missing at its end.
        return self._decoded(visible[: len(visible) - self._half_character(visible)]).rstrip(_BROKEN)

    def _decoded(self, tokens: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text

    @cached_property
    def _bytes(self) -> dict[int, int]:
        """The bytes that tokens of a byte fallback (``<0xE4>``) stand for, by id; empty where there is none."""
        names = [f"<0x{byte:02X}>" for byte in range(256)]
        ids = self._tokenizer.convert_tokens_to_ids(names)
        if None in ids or self._tokenizer.convert_ids_to_tokens(ids) != names:
            return {}
        falls_back = self._decoded([ids[byte] for byte in "é".encode()]) == "é"
        return {token: byte for byte, token in enumerate(ids)} if falls_back else {}

    def _half_character(self, tokens: Sequence[int]) -> int:
        """How many tokens at the end are the first bytes of a character that lacks the others."""
        for size, token in enumerate(reversed(tokens[-3:]), start=1):
            byte = self._bytes.get(token, 0)
            if byte < _CONTINUED:
                return 0
            if byte >= _FIRST:
                return size if size < _length(byte) else 0
        return 0

    def spells(self, tokens: Sequence[int], text: str) -> bool:
        """Whether the ids stand for exactly this text (bytes of an unfinished last character aside)."""
        if not tokens or max(tokens) >= len(self._tokenizer):
            return False
        return text in (self.text(tokens), self.text(tokens, finished=False))

    def begins_word(self, tokens: Sequence[int]) -> bool:
        """Whether the first token brings a space of its own, which some tokenizers show behind other text only."""
        word = self._tokenizer.encode(_WORD, add_special_tokens=False)
        return self._decoded([*word, *tokens[:1]]).startswith(self._decoded(word) + " ")

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
        recent = self.text(self._from_character(tokens[-tail:]))
        if not any(stop in recent for stop in stops):
            return False
        return len(tokens) <= tail or first_stop(self.text(tokens), stops) is not None

    def _from_character(self, tokens: Sequence[int]) -> Sequence[int]:
        """The tokens without leading bytes of a character that began before them: they would break a run of bytes."""
        inner = takewhile(lambda token: _CONTINUED <= self._bytes.get(token, 0) < _FIRST, tokens)
        return tokens[len(list(inner)) :]


def _length(first: int) -> int:
    """Bytes of the UTF-8 character that a byte from 0xC0 on begins; 0 if it begins none."""
    return next((size for size, ends in ((0, 0xC2), (2, 0xE0), (3, 0xF0), (4, 0xF5)) if first < ends), 0)


def first_stop(text: str, stops: Sequence[str]) -> int | None:
    """Where the first stop string begins.

    >>> first_stop("one. two", [" two", "."])
    3
    """
    found = [at for stop in stops if (at := text.find(stop)) >= 0]
    return min(found, default=None)
