"""Text that a search can no longer take back, told while it is still under way."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

from darwin_align.core import Event, Population, Request, SearchConfig, SearchResult
from darwin_align.core.errors import ConfigError, OperatorError
from darwin_align.langchain.progress import Standing

__all__ = ["Committed"]


class Committed:
    """Folds a search's events into the longest text that every possible answer begins with.

    While the last cycle runs, the answer will be one of these: the best finished beam of all cycles so far, the first
    response among them (any finished beam, if the answer is drawn); or whatever an open beam makes of its state, or of
    a state that it takes from another open beam. What all their texts begin with is safe. Before the last cycle nothing
    is: a later one may find any text.

    Args:
        request: what is asked.
        config: the search's settings.

    Raises:
        ConfigError: under these settings no text is ever safe before the end.
    """

    def __init__(self, request: Request, config: SearchConfig) -> None:
        if reason := _never(request, config):
            raise ConfigError(f"nothing can be committed before the end: {reason}; use streaming_mode='final'")
        self.text = ""
        """What is safe so far."""
        self._last, self._drawn = config.cycles - 1, config.choice == "soft"
        # Of an open beam's text the end may be the beginning of a stop string, which is cut off when it is complete.
        self._unsure = max(map(len, request.stop), default=1) - 1
        self._seen = Standing()
        self._best: tuple[bool, float] | None = None
        self._leaders: set[str] = set()
        self._told = 0

    def after(self, event: Event, population: Population) -> None:
        """Take in an event and the population that it led to."""
        if not self._seen.sees(event, population):
            return
        for beam in population.beams:
            if beam.alive and beam.finished and beam.reward is not None:
                self._lead(beam.text, (not beam.valid, -beam.reward))
        if event.cycle == self._last and population.open:  # else the answer is decided, and comes as a whole
            texts = [population.beams[i].text for i in population.open]
            sure = [text[: len(text) - self._unsure] if self._unsure else text for text in texts]
            # A half-read character, and blanks that a policy may strip from a finished answer, are not sure either.
            common = _common([*sure, *self._leaders]).rstrip("\ufffd").rstrip()
            if common.startswith(self.text):
                self.text = common

    def fresh(self) -> str:
        """Return what became safe since this was last asked."""
        told, self._told = self._told, len(self.text)
        return self.text[told:]

    def rest(self, result: SearchResult) -> str:
        """Return what of the answer was not told yet.

        Raises:
            OperatorError: the policy changed text that it had written.
        """
        if not result.text.startswith(self.text[: self._told]):
            raise OperatorError(
                f"the policy changed what it had written: {self.text[: self._told]!r:.80} became {result.text!r:.80}; "
                "a policy's text may only grow, or use streaming_mode='final'"
            )
        return result.text[self._told :]

    def _lead(self, text: str, rank: tuple[bool, float]) -> None:
        if self._drawn:
            self._leaders.add(text)
            return
        # All equals: whoever takes a finished beam's state may come before its donor, and before the one that led.
        if self._best is None or rank < self._best:
            self._best, self._leaders = rank, set()
        if rank == self._best:
            self._leaders.add(text)


def _common(texts: Sequence[str]) -> str:
    alike = takewhile(lambda column: len(set(column)) == 1, zip(*texts, strict=False))
    return "".join(column[0] for column in alike)


def _never(request: Request, config: SearchConfig) -> str | None:
    if config.cycles == 0:
        return "a plain sample (cycles=0) is decoded in one piece"
    if not config.replaces:
        return "with selector='none' every beam is decoded to its end in one piece, and only then compared"
    if request.tools:
        return "with tools, what is written may turn out to be a call"
    return None
