"""Where a row stands between its thoughts and its text, token by token, and what that makes of its constraint."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from darwin_align.formats.matcher import GrammarPosition
from darwin_align.formats.thoughts import ThoughtFormat

__all__ = ["ThinkingPhase", "ThinkingPosition"]


class ThinkingPhase:
    """A row's progress from its thoughts to its text.

    While it thinks every token is allowed, up to ``limit`` tokens: then the end of the thoughts is forced. A text with
    a grammar begins behind the white space that the chat template puts there, which is forced, too. A row that has
    decoded nothing may begin with thoughts or with its text, unless the prompt has begun the thoughts.

    Args:
        form: how the row's thoughts are told from its text.
        ids: what it has decoded.
        limit: tokens of the thoughts; ``None`` for no limit.
        constrained: whether its text has a grammar.
    """

    def __init__(
        self, form: ThoughtFormat, ids: Sequence[int], *, limit: int | None = None, constrained: bool = False
    ) -> None:
        self._form, self._ids, self._limit = form, list(ids), limit
        self._lead = form.lead if constrained else ()
        self._read()

    def _read(self) -> None:
        split = self._form.split(self._ids, lambda _: "")
        self.thinking = split.thinking
        """Whether the text has not begun."""
        self.ended = split.ended
        """Index behind the thoughts; 0 if there are none, or if they have not ended."""
        behind = tuple(self._ids[self.ended : self.ended + len(self._lead)])
        led = behind == self._lead[: len(behind)]
        self._missing = self._lead[len(behind) :] if self.ended and led else ()
        self._text = self.ended + (len(behind) if self.ended and led else 0)

    def push(self, token: int) -> None:
        """Take a token."""
        self._ids.append(token)
        if self._missing or len(self._ids) == 1 or (self.thinking and self._form.may_turn(self._ids)):
            self._read()

    @property
    def text_from(self) -> int | None:
        """Index of the text's first token, or of the next one if that may be it; ``None`` while none may be."""
        return None if self.thinking or self._missing else self._text

    @property
    def text(self) -> list[int]:
        """The text's tokens so far."""
        return self._ids[self._text :]

    @property
    def may_begin(self) -> int | None:
        """The token by which the row may begin to think instead of beginning its text."""
        begin = self._form.begin_ids
        return begin[0] if begin and not self._ids else None

    @property
    def forced(self) -> int | None:
        """The only token that may come next, if the thoughts must end, or a constrained text is to begin."""
        if self._missing:
            return self._missing[0]
        over = len(self._ids) - (self._limit or 0)
        if not self.thinking or self._limit is None or over < 0:
            return None
        end = self._form.end_ids
        placed = (k for k in range(min(over, len(end) - 1), 0, -1) if tuple(self._ids[-k:]) == end[:k])
        return end[next(placed, 0)]


class ThinkingPosition:
    """The state of a row on a server that thinks, or may begin to, and of its text in its grammar.

    It is what a :class:`~darwin_align.formats.matcher.GrammarPosition` is for a row without thoughts.

    Args:
        phase: where the row is.
        size: tokens of the vocabulary.
        ends: ids that end an answer.
        lenient: whether the grammar may be dropped.
        grammar: makes the state of the text with these ids; ``None`` if it has no grammar.
    """

    def __init__(
        self,
        phase: ThinkingPhase,
        size: int,
        ends: Sequence[int],
        grammar: Callable[[Sequence[int]], GrammarPosition | None],
        *,
        lenient: bool,
    ) -> None:
        self._phase, self.size, self.ends, self.lenient = phase, size, list(ends), lenient
        self._make, self._grammar = grammar, None if phase.text_from is None else grammar(phase.text)

    def push(self, token: int) -> None:
        """Add a token that may come; not one that ends the answer."""
        before = self._phase.text_from
        self._phase.push(token)
        if before is not None and self._phase.text_from is not None:
            if self._grammar is not None:
                self._grammar.push(token)
        else:
            self._grammar = None if self._phase.text_from is None else self._make(self._phase.text)

    @property
    def text_from(self) -> int | None:
        """Index of the text's first token, or of the next one if that may be it; ``None`` while none may be."""
        return self._phase.text_from

    @property
    def call_mark(self) -> int | None:
        """That of the text's grammar, where the text begins."""
        return None if self._grammar is None else self._grammar.call_mark

    @property
    def complete(self) -> bool:
        """Whether the answer may end here."""
        return self._grammar is None or self._grammar.complete

    @property
    def mask(self) -> bytes | None:
        """One bit for every token that may come next; ``None`` if all may."""
        if (forced := self._phase.forced) is not None:
            return _bit(forced, forced // 8 + 1)
        mask = None if self._grammar is None else self._grammar.mask
        if mask is None or (begin := self._phase.may_begin) is None:
            return mask
        size = max(len(mask), begin // 8 + 1)
        both = int.from_bytes(mask, "little") | int.from_bytes(_bit(begin, size), "little")
        return both.to_bytes(size, "little")

    def allows(self, token: int) -> bool:
        """Whether a token may come next."""
        if (forced := self._phase.forced) is not None:
            return token == forced
        return self._grammar is None or token == self._phase.may_begin or self._grammar.allows(token)

    def forced_token(self) -> int | None:
        """The token that must come next, if there is no choice."""
        if (forced := self._phase.forced) is not None:
            return forced
        if self._grammar is None or self._phase.may_begin is not None:
            return None
        return self._grammar.forced_token()

    def drop_constraint(self) -> None:
        """Allow every token from here on."""
        self._make, self._grammar = lambda _: None, None


def _bit(token: int, size: int) -> bytes:
    return (1 << token).to_bytes(size, "little")
