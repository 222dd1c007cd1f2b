"""Rendered texts to token ids, with one BOS at most, whoever adds it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, lru_cache
from typing import Any, Literal

from darwin_align.core.errors import ModelLoadError

__all__ = ["BosFrom", "TextEncoder", "special_ids"]

BosFrom = Literal["template", "tokenizer"]


class TextEncoder:
    """Tokenises the texts that a chat template renders.

    Args:
        tokenizer: a transformers tokenizer.
        bos: "template" tokenises a text as it is; "tokenizer" removes a leading BOS and adds the tokenizer's special
            tokens. Either way there is one BOS at most.
        name: the model's name in messages.
    """

    def __init__(self, tokenizer: Any, bos: BosFrom, name: str) -> None:
        self._tokenizer, self._bos, self._name = tokenizer, bos, name
        # Rendering is fast; tokenising a long conversation again for every chunk is not.
        self.encode_cached: Callable[[str], tuple[int, ...]] = lru_cache(maxsize=256)(self.encode)
        """As :meth:`encode`, for texts that are encoded repeatedly."""
        self.pieces: Callable[[str], tuple[int, ...]] = lru_cache(maxsize=256)(self._bare)
        """Token ids of a text without special tokens around it."""

    def encode(self, text: str) -> tuple[int, ...]:
        """Token ids of a whole rendered text."""
        before, after = self.special
        return (*before, *self._bare(text), *after)

    def _bare(self, text: str) -> tuple[int, ...]:
        if self._bos == "tokenizer":
            text = text.removeprefix(self._tokenizer.bos_token or "")
        return tuple(self._tokenizer.encode(text, add_special_tokens=False, verbose=False))

    @property
    def special(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Ids that go before and behind every text."""
        return self._added if self._bos == "tokenizer" else ((), ())

    @cached_property
    def _added(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Ids that the tokenizer's post-processor puts before and behind a text: BOS, EOS, both or none."""
        bare, whole = (tuple(self._tokenizer.encode("x", add_special_tokens=added)) for added in (False, True))
        starts = range(len(whole) - len(bare) + 1)
        start = next((i for i in starts if whole[i : i + len(bare)] == bare), None)
        if start is None:
            raise ModelLoadError(
                f"the tokenizer of {self._name} changes texts when it adds special tokens ({bare} becomes {whole} for "
                "'x'): give a chat_template=… that writes them itself, and recipe='generic'"
            )
        return whole[:start], whole[start + len(bare) :]

    def for_reader(self, before: str, after: str, special: bool) -> tuple[str, str]:
        """Two parts of a text, such that their reader sees the same special tokens as in :meth:`encode`.

        Args:
            before: the first part.
            after: the second part.
            special: whether the reader adds the tokenizer's special tokens.
        """
        first, last = ("".join(self._tokenizer.convert_ids_to_tokens(list(ids))) for ids in self._added)
        if self._bos == "tokenizer":
            before = before.removeprefix(self._tokenizer.bos_token or "")
            return (before, after) if special else (first + before, after + last)
        if not special:
            return before, after
        return before.removeprefix(first), after.removesuffix(last)


def special_ids(tokenizer: Any) -> set[int]:
    """Ids of a tokenizer's special tokens, whoever declares them."""
    added = {token for token, about in tokenizer.added_tokens_decoder.items() if about.special}
    return {*added, *tokenizer.all_special_ids}
