"""A row's place in its grammar, as the sampler asks for it.

The place follows from the ids that the row has written, so nothing is kept between two calls.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from darwin_align.backends.grammars import Compiled, Grammars, forced, unkept
from darwin_align.core.errors import RequestError
from darwin_align.core.types import Request

__all__ = ["Constraints", "RowGuide"]


class RowGuide:
    """A row's place in its grammar: a :class:`~darwin_align.backends.local.sampling.Guide`.

    Args:
        grammar: the compiled grammar.
        ids: what the row has written so far.
        lenient: where there is no way to go on, let the row write what it likes instead of ending it.

    Raises:
        RequestError: the grammar does not allow what was written.
    """

    def __init__(self, grammar: Compiled, ids: Sequence[int], *, lenient: bool = False) -> None:
        self._grammar, self._ids, self._lenient = grammar, list(ids), lenient
        self.words = grammar.words
        self.error = ""
        """Why the row cannot go on; it was ended then."""
        self._matcher = grammar.matcher()
        if not self._matcher.consume_tokens(self._ids) and not self._begin_anew():
            raise RequestError(
                f"a row's state of {len(ids)} tokens does not keep the request's response_format, tool_choice or "
                "grounded values: it was written without them. Continue only states that were written under the same "
                "request"
            )

    def fill(self, words: Tensor) -> None:
        """Set the bits of the tokens that may come next; those that end the turn only where the answer is complete."""
        if not self._filled(words) and (not self._begin_anew() or not self._filled(words)):
            if self._lenient:
                words.fill_(-1)
                return
            reason = self._matcher.get_error().partition("\n")[0] or "no token of the model can go on"
            self.error = (
                "the answer cannot be made to keep the request's response_format, tool_choice or grounded values: "
                f"{reason}"
            )
            words.zero_()
            for token in self._grammar.ends:
                words[token // 32] |= 1 << token % 32 if token % 32 < 31 else -(1 << 31)

    def push(self, token: int) -> None:
        """Take a token that the row wrote; not the one that ends it."""
        self._ids.append(token)
        self._matcher.consume_token(token)

    def _filled(self, words: Tensor) -> bool:
        matcher = self._matcher
        matcher.unsafe_compute_mask_ptr(words.data_ptr(), 4 * self.words)
        # A matcher that knows no way on allows the end of the turn, whether the answer is complete or not.
        return not matcher.is_error() and (not matcher.is_stopped() or matcher.is_accepting())

    def _begin_anew(self) -> bool:
        """Whether the grammar, compiled afresh, allows what was written.

        Matchers of one grammar share what they know of it, which may grow to llguidance's bounds: then one fails for
        what others wrote before.
        """
        self._matcher = self._grammar.fresh()
        return bool(self._matcher.consume_tokens(self._ids))


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
