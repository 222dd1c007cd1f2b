"""The state of a row in its grammar: which token may come next. Without torch.

:class:`GrammarPosition` serves rows on servers, of which only token ids are known; for a local row,
:class:`~darwin_align.backends.local.constraints.GrammarConstraint` fills the sampler's masks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from darwin_align.core.errors import RequestError
from darwin_align.formats.grammars import Compiled

__all__ = ["GrammarPosition", "GrammarState", "tokens_of_mask"]


class GrammarState:
    """The state of a row in its grammar: a function of the grammar and of the ids that the row has generated.

    Args:
        grammar: the compiled grammar.
        ids: what the row has generated so far.
        lenient: where no token can follow, drop the row's constraint.

    Raises:
        RequestError: the grammar does not allow these ids.
    """

    def __init__(self, grammar: Compiled, ids: Sequence[int], *, lenient: bool = False) -> None:
        self._grammar, self._ids, self._lenient = grammar, list(ids), lenient
        # The number before the matcher: another thread may recompile the grammar in between. A matcher newer than
        # its number costs one needless recompilation; an older one would never be replaced.
        self._generation = grammar.generation
        self._matcher = grammar.matcher()
        # A matcher that refuses the ids may be exhausted by other rows of its generation: only a fresh one decides.
        if not self._matcher.consume_tokens(self._ids) and not self._retry_recompiled(lambda: True):
            raise RequestError(
                f"a row's state of {len(ids)} tokens does not keep the request's response_format, tool_choice or "
                "grounded values: it was decoded without them. Continue only states that were decoded under the same "
                "request"
            )

    def push(self, token: int) -> None:
        """Add a token that the row generated; not one that ends it."""
        # Kept for a recompiled grammar: a fresh matcher has to consume all of them again.
        self._ids.append(token)
        self._matcher.consume_token(token)

    @property
    def call_mark(self) -> int | None:
        """Id of the token that begins a call, where the next token decides between calls and a format."""
        return None if self._ids else self._grammar.call_mark

    @property
    def _can_continue(self) -> bool:
        # A matcher without a next token allows the end of the turn, whether the answer is complete or not: one that has
        # stopped and does not accept is stuck.
        matcher = self._matcher
        return not matcher.is_error() and (not matcher.is_stopped() or matcher.is_accepting())

    @property
    def _dead_end_reason(self) -> str:
        """Why the row cannot go on."""
        reason = self._matcher.get_error().partition("\n")[0] or "no token of the model can go on"
        return (
            f"the answer cannot be made to keep the request's response_format, tool_choice or grounded values: {reason}"
        )

    def _retry_recompiled(self, works: Callable[[], bool]) -> bool:
        """Whether the row can go on with a newer matcher: its own may have failed because other rows exhausted it.

        Args:
            works: tries the new matcher after the row's ids.
        """
        if (newer := self._grammar.recompiled(self._generation)) is None:
            return False
        self._matcher, self._generation = newer
        helped = bool(self._matcher.consume_tokens(self._ids)) and works()
        self._grammar.note_recompile(helped)
        return helped


class GrammarPosition(GrammarState):
    """The state of a row that is checked token by token. A lenient one at a dead end then allows every token."""

    def __init__(self, grammar: Compiled, ids: Sequence[int], *, lenient: bool = False) -> None:
        super().__init__(grammar, ids, lenient=lenient)
        self._mask: bytes | None = None
        # A mask costs up to milliseconds: it is computed once for each state, when it is first needed.
        self._has_mask = self._unconstrained = False

    @property
    def size(self) -> int:
        """Tokens of the vocabulary."""
        return self._grammar.size

    @property
    def ends(self) -> list[int]:
        """Ids of the tokens that end an answer."""
        return self._grammar.ends

    @property
    def text_from(self) -> int | None:
        """Index of the text's first token: a row without thoughts begins with its text."""
        return 0

    @property
    def lenient(self) -> bool:
        """Whether the request allows calls without requiring one, so that the grammar may be dropped."""
        return self._lenient

    @property
    def complete(self) -> bool:
        """Whether the answer may end here."""
        return self.mask is None or bool(self._matcher.is_accepting())

    @property
    def mask(self) -> bytes | None:
        """One bit for every token that may come next, token 0 the lowest of the first byte; ``None`` if all may.

        Raises:
            RequestError: no token may come, and the answer is not complete.
        """
        if not self._has_mask:
            self._mask, self._has_mask = self._found(), True
        return self._mask

    def allows(self, token: int) -> bool:
        """Whether a token may come next."""
        mask = self.mask
        return mask is None or (token >> 3 < len(mask) and bool(mask[token >> 3] >> (token & 7) & 1))

    def forced_token(self) -> int | None:
        """The token that must come next, if there is no choice; of several that end the answer, the first."""
        if self.mask is None:
            return None
        bits = int.from_bytes(self.mask, "little")
        if bits.bit_count() == 1:
            return bits.bit_length() - 1
        if bits.bit_count() <= len(self.ends) and set(found := tokens_of_mask(self.mask)) <= {*self.ends}:
            return found[0]
        return None

    def push(self, token: int) -> None:
        """Add a token that may come; not one that ends the answer."""
        if not self._unconstrained:
            super().push(token)
            self._has_mask = False

    def drop_constraint(self) -> None:
        """Allow every token from here on."""
        self._mask, self._has_mask, self._unconstrained = None, True, True

    def _found(self) -> bytes | None:
        if (mask := self._computed()) is not None:
            return mask
        if self._retry_recompiled(lambda: self._computed() is not None):
            return self._computed()
        if self._lenient:
            self._unconstrained = True
            return None
        raise RequestError(self._dead_end_reason)

    def _computed(self) -> bytes | None:
        mask: bytes = self._matcher.compute_bitmask()
        return mask if self._can_continue and any(mask) else None


def tokens_of_mask(mask: bytes) -> list[int]:
    """The tokens whose bits are set.

    >>> tokens_of_mask(bytes([0b101, 0b10]))
    [0, 2, 9]
    """
    return [8 * index + bit for index, octet in enumerate(mask) if octet for bit in range(8) if octet >> bit & 1]
