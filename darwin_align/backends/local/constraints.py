"""A row's place in its grammar, as the sampler asks for it.

The place follows from the ids that the row has written, so nothing is kept between two calls.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from darwin_align.backends.grammars import Compiled, Grammars, forced, unkept
from darwin_align.backends.matcher import GrammarState
from darwin_align.core.errors import RequestError
from darwin_align.core.types import Request

__all__ = ["Constraints", "RowGuide"]


class RowGuide(GrammarState):
    """A row's place in its grammar: a :class:`~darwin_align.backends.local.sampling.Guide`.

    A row that cannot go on is ended, unless it is lenient.
    """

    def __init__(self, grammar: Compiled, ids: Sequence[int], *, lenient: bool = False) -> None:
        self.words = grammar.words
        self.error = ""
        """Why the row cannot go on; it was ended then."""
        super().__init__(grammar, ids, lenient=lenient)

    def fill(self, words: Tensor) -> None:
        """Set the bits of the tokens that may come next; those that end the turn only where the answer is complete."""
        if not self._filled(words) and not self._renewed(lambda: self._filled(words)):
            if self._lenient:
                words.fill_(-1)
                return
            self.error = self._stuck
            words.zero_()
            for token in self._grammar.ends:
                words[token // 32] |= 1 << token % 32 if token % 32 < 31 else -(1 << 31)

    def _filled(self, words: Tensor) -> bool:
        self._matcher.unsafe_compute_mask_ptr(words.data_ptr(), 4 * self.words)
        return self._going


class Constraints(Grammars):
    """Makes guides for the rows of one policy."""

    def guide(self, request: Request, ids: Sequence[int] = ()) -> RowGuide | None:
        """The guide of a row that has written ``ids``; ``None`` if whatever it writes will do.

        Raises:
            RequestError: what is asked for cannot be enforced, or ``ids`` breaks it.
            ModelLoadError: the package that enforces it is missing.
        """
        if forced(request):
            compiled = self.find(request)
            return None if compiled is None else RowGuide(compiled, ids)
        free = self.find_free(request)
        try:
            return None if free is None else RowGuide(free, ids, lenient=not request.grounded)
        except RequestError as error:
            if request.grounded:
                raise
            unkept(error)
            return None
