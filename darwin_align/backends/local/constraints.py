"""A row's state in its grammar, in the form that the sampler uses.

The state follows from the ids that the row has generated, so nothing is kept between two calls.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from darwin_align.core.types import Request
from darwin_align.formats.grammars import Compiled, Grammars
from darwin_align.formats.matcher import GrammarState

__all__ = ["Constraints", "GrammarConstraint"]


class GrammarConstraint(GrammarState):
    """A row's state in its grammar: a :class:`~darwin_align.backends.local.sampling.RowConstraint`.

    A row that cannot go on is ended, unless it is lenient.
    """

    def __init__(self, grammar: Compiled, ids: Sequence[int], *, lenient: bool = False) -> None:
        self.words = grammar.words
        self.error = ""
        """Why the row cannot go on; it was ended then."""
        super().__init__(grammar, ids, lenient=lenient)

    def fill(self, words: Tensor) -> None:
        """Set the bits of the allowed tokens; end tokens are allowed only where the answer is complete.

        Args:
            words: int32, one bit for each token of the vocabulary, token 0 the lowest of the first word.
        """
        if not self._filled(words) and not self._retry_recompiled(lambda: self._filled(words)):
            if self._lenient:
                words.fill_(-1)
                return
            # Sampling needs a token to draw: the row ends by it, and ``error`` says that the answer is not complete.
            self.error = self._dead_end_reason
            words.zero_()
            for token in self._grammar.ends:
                words[token // 32] |= 1 << token % 32 if token % 32 < 31 else -(1 << 31)

    def _filled(self, words: Tensor) -> bool:
        self._matcher.unsafe_compute_mask_ptr(words.data_ptr(), 4 * self.words)
        return self._can_continue


class Constraints(Grammars):
    """Makes the constraints for the rows of one policy."""

    def constraint(self, request: Request, ids: Sequence[int] = ()) -> GrammarConstraint | None:
        """The constraint of a row that has generated ``ids``; ``None`` if the row is not constrained.

        Raises:
            RequestError: what the request requires cannot be enforced, or ``ids`` break it.
            MissingPackageError: llguidance is not installed.
        """
        return self.state(request, ids, GrammarConstraint)
