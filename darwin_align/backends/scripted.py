"""Small exact fakes for tests and docs: a policy and a scorer whose results follow from their arguments alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import log

from darwin_align.core.errors import ConfigError
from darwin_align.core.seeds import below, uniform
from darwin_align.core.types import Request, Response
from darwin_align.operators.policy import Capabilities, Continuation, Policy, Row
from darwin_align.operators.scorer import Scorer

__all__ = ["ScriptedPolicy", "ScriptedScorer"]


class ScriptedPolicy(Policy):
    """A policy over a vocabulary of words: one word is one token, drawn by the row's seed and position.

    A prompt in ``replies`` gets that text instead, word by word. Token 0 ends the answer; it is drawn
    once ``length`` words are out. ``odds`` say how likely each word is, relative to the others; all are equal without.
    For a row with a rank it decodes the word of that rank, of equals the earlier one, with its log-probability.

    >>> policy = ScriptedPolicy(["red", "green", "blue"], length=3)
    >>> row = Row(request=Request.of("Hi"), max_tokens=9, seed=1)
    >>> [continuation] = policy.generate([row])
    >>> len(continuation.text.split()), continuation.finish_reason
    (3, 'stop')
    >>> policy = ScriptedPolicy(["red", "green", "blue"], odds=[1, 2, 1])
    >>> policy.generate([Row(request=Request.of("Hi"), max_tokens=1, seed=1, rank=0)])[0].text
    'green'
    """

    capabilities = Capabilities(ranks_tokens=True, rewords=False)

    def __init__(
        self,
        words: Sequence[str] = ("good", "fair", "poor", "bad"),
        *,
        length: int = 12,
        replies: dict[str, str] | None = None,
        odds: Sequence[float] | None = None,
    ) -> None:
        self.length, self.replies = length, replies or {}
        scripted = [word for reply in self.replies.values() for word in reply.split(" ")]
        self.vocabulary: list[str] = ["<end>", *dict.fromkeys([*words, *scripted])]
        self.drawn = len(dict.fromkeys(words))
        if odds is not None and (len(odds) != self.drawn or min(odds) <= 0):
            raise ConfigError(f"odds={odds!r}: give one positive number for each of the {self.drawn} words")
        self._odds = [1.0] * self.drawn if odds is None else [float(share) for share in odds]
        self._uneven = odds is not None
        self.calls = 0
        """How often ``generate`` was called."""

    def generate(self, rows: Sequence[Row]) -> list[Continuation]:
        """Continue every row."""
        self.calls += 1
        return [self._continue(row) for row in rows]

    def _continue(self, row: Row) -> Continuation:
        script = self._script(row)
        tokens = list(row.tokens)
        while len(tokens) - len(row.tokens) < row.max_tokens and (not tokens or tokens[-1] != 0):
            tokens.append(self._token(row, script, len(tokens)))
        words = [self.vocabulary[token] for token in tokens if token]
        return Continuation(
            text=" ".join(words),
            tokens=tuple(tokens),
            new_tokens=len(tokens) - len(row.tokens),
            finish_reason="stop" if tokens and tokens[-1] == 0 else None,
            logprob=None if row.rank is None else sum(map(self._logprob, tokens[len(row.tokens) :])),
            prefilled_tokens=len(row.request.instruction.split()) + len(row.tokens),
        )

    def _script(self, row: Row) -> list[str] | None:
        reply = self.replies.get(row.request.instruction)
        return None if reply is None else reply.split(" ")

    def _token(self, row: Row, script: list[str] | None, position: int) -> int:
        if position >= (self.length if script is None else len(script)):
            return 0
        if script is not None:
            return self.vocabulary.index(script[position])
        if row.rank is not None:
            likely = sorted(range(self.drawn), key=lambda word: -self._odds[word])
            return 1 + likely[min(row.rank, self.drawn - 1)]
        if not self._uneven:
            return 1 + below(self.drawn, row.seed, position)
        left = uniform(row.seed, position) * sum(self._odds)
        for word, share in enumerate(self._odds[:-1]):
            left -= share
            if left < 0:
                return 1 + word
        return self.drawn

    def _logprob(self, token: int) -> float:
        """Of a drawn word; the end and what is scripted are certain."""
        drawn = 0 < token <= self.drawn
        return log(self._odds[token - 1] / sum(self._odds)) if drawn else 0.0


class ScriptedScorer(Scorer):
    """A reward for each response text, by a function; the default counts the word "good".

    >>> ScriptedScorer().score(Request.of("Hi"), [Response(text="good good bad")])
    [2.0]
    """

    reward: Callable[[str], float] = lambda text: float(text.split().count("good"))

    def score(self, request: Request, responses: Sequence[Response]) -> list[float]:  # noqa: ARG002
        """Apply the function."""
        return [self.reward(response.text) for response in responses]
