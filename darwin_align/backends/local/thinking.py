"""The constraint of a row that thinks, or may begin to."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from darwin_align.backends.local.constraints import GrammarConstraint
from darwin_align.formats.thinking import ThinkingPhase

__all__ = ["ThinkingConstraint"]


class ThinkingConstraint:
    """Lets a row think as it likes and as long as it may, and constrains its text.

    A :class:`~darwin_align.backends.local.sampling.RowConstraint`, for rows whose thoughts have a limit or whose text
    has a grammar.

    Args:
        phase: where the row is; the row advances it before it pushes a token here.
        size: tokens of the vocabulary.
        grammar: makes the constraint of a text with these ids; ``None`` if it has none.
    """

    def __init__(
        self, phase: ThinkingPhase, size: int, grammar: Callable[[Sequence[int]], GrammarConstraint | None]
    ) -> None:
        self.words = -(-size // 32)
        self._phase, self._make = phase, grammar
        self._grammar: GrammarConstraint | None = None
        self._in_text = False
        self._enter_text()

    def _enter_text(self) -> None:
        self._in_text = self._phase.text_from is not None
        self._grammar = self._make(self._phase.text) if self._in_text else None

    @property
    def error(self) -> str:
        """Why the row cannot go on; it was ended then."""
        return "" if self._grammar is None else self._grammar.error

    @property
    def call_mark(self) -> int | None:
        """That of the text's grammar, where the text begins."""
        return None if self._grammar is None else self._grammar.call_mark

    def push(self, token: int) -> None:
        """Take a token that the row has decoded; not one that ends it."""
        if not (self._in_text and self._phase.text_from is not None):
            self._enter_text()
        elif self._grammar is not None:
            self._grammar.push(token)

    def fill(self, words: Tensor) -> None:
        """Set the bits of the allowed tokens."""
        if (forced := self._phase.forced) is not None:
            _allow(words, forced)
        elif self._grammar is None:
            words.fill_(-1)
        else:
            self._grammar.fill(words)
            if (begin := self._phase.may_begin) is not None:
                _allow(words, begin)


def _allow(words: Tensor, token: int) -> None:
    words[token // 32] |= 1 << token % 32 if token % 32 < 31 else -(1 << 31)
