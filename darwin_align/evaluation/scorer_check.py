"""Check a scorer on pairs whose better answer is known, before a search uses it.

Most disappointments with reward-guided decoding come from a scorer that squashes its rewards, never sees the prompt,
uses a wrong template or cannot judge partial answers. A check calls it as a search would.
"""

from __future__ import annotations

import asyncio
import re
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from statistics import fmean, median, stdev
from time import perf_counter
from typing import Any, TypeVar

from langchain_core.runnables import Runnable

from darwin_align.core.errors import ConfigError, EndpointRequestError, OperatorError
from darwin_align.core.json_types import Json
from darwin_align.core.seeds import derive
from darwin_align.evaluation.pairs import Pair, builtin_pairs, pair_of
from darwin_align.evaluation.scorer_report import (
    EMPTY,
    FRACTIONS,
    SPOT,
    Outcome,
    Rewards,
    ScorerReport,
    Share,
    SubsetReport,
    shortened,
)
from darwin_align.evaluation.scoring import GivenAnswer, score_answers
from darwin_align.operators.coerce import ScorerLike, as_scorer
from darwin_align.operators.portal import call
from darwin_align.operators.resources import released, resources_of

__all__ = ["acheck", "check"]

T = TypeVar("T")


def check(
    scorer: ScorerLike, pairs: Iterable[Pair | Mapping[str, Any]] | None = None, *, seed: int = 0, concurrency: int = 8
) -> ScorerReport:
    """Check a scorer on pairs of answers of which the better one is known.

    Args:
        scorer: a Scorer, a function, a chain, or an object with ``score``, as a search takes them.
        pairs: pairs, or objects as :func:`read_pairs` reads them; ``None`` takes the :func:`builtin_pairs`.
        seed: of the shuffled prompts and of the pairs that are scored again.
        concurrency: concurrent calls; one call has all responses to one request.

    Raises:
        ConfigError: there are no pairs, or something else is no scorer, pair or number that can be used.
        RewardError: the scorer returned the wrong number of rewards, or one that is no finite number.
        OperatorError: the scorer raised an error of its own.
        EndpointError: a remote scorer could not be used.
        ContextLengthError: a pair is longer than the scorer's context.

    >>> report = check(lambda request, responses: [-len(response.text) for response in responses])
    >>> report.passed, report.longer_wins.share
    (False, 0.0)
    """
    return call(partial(acheck, scorer, pairs, seed=seed, concurrency=concurrency))  # type: ignore[no-any-return]


async def acheck(
    scorer: ScorerLike, pairs: Iterable[Pair | Mapping[str, Any]] | None = None, *, seed: int = 0, concurrency: int = 8
) -> ScorerReport:
    """Check a scorer as :func:`check` does, without blocking the event loop."""
    if concurrency < 1:
        raise ConfigError(f"concurrency={concurrency} is impossible: allow one call at a time at least")
    chosen = builtin_pairs() if pairs is None else tuple(_given(i, pair) for i, pair in enumerate(pairs, 1))
    if not chosen:
        raise ConfigError("there are no pairs to check the scorer on: give some, or None for the built-in ones")
    return await _Check(as_scorer(scorer), chosen, seed, concurrency).run()


def _given(number: int, pair: Json) -> Pair:
    try:
        return pair if isinstance(pair, Pair) else pair_of(pair)
    except ConfigError as error:
        raise ConfigError(f"pair {number}: {error}") from None


class _Check:
    """One running check."""

    def __init__(self, scorer: Runnable[Any, Any], pairs: tuple[Pair, ...], seed: int, concurrency: int) -> None:
        self.scorer, self.pairs, self.seed, self.concurrency = scorer, pairs, seed, concurrency
        self.seconds: list[float] = []
        self.responses = 0
        self.notes: dict[str, None] = {}
        self.search_id = uuid.uuid4().hex

    async def run(self) -> ScorerReport:
        with released(resources_of([self.scorer]), self.search_id):
            answers = [_answers(pair) for pair in self.pairs]
            start = perf_counter()
            rewards = await self._all([partial(self._score, i, row) for i, row in enumerate(answers)])
            rate, per_call = self.responses / max(perf_counter() - start, 1e-9), median(self.seconds)
            shuffle = _derangement(self.pairs, self.seed)
            shuffled_scores = await self._all(
                [
                    partial(self._score, prompt_index, answers[shuffled_index][:1])
                    for prompt_index, shuffled_index in shuffle.items()
                ]
            )
            spot = sorted(range(len(self.pairs)), key=lambda i: derive(self.seed, "spot", i))[:SPOT]
            again = await self._all([partial(self._score, i, answers[i]) for i in spot])
            alone = await self._all([partial(self._score, i, answers[i][:1]) for i in spot])
            empty = await self._all([partial(self._empty, i) for i in spot[:EMPTY]])
        shuffled = {index: reward for index, (reward,) in zip(shuffle.values(), shuffled_scores, strict=True)}
        outcomes = tuple(_outcome(p, rewards[i], answers[i], shuffled.get(i)) for i, p in enumerate(self.pairs))
        return self._report(
            outcomes,
            rewards=Rewards.of([reward for row in (*rewards, *shuffled_scores) for reward in row]),
            repeated=max(
                abs(a - b) for i, row in zip(spot, again, strict=True) for a, b in zip(rewards[i], row, strict=True)
            ),
            alone=max(abs(rewards[i][0] - row[0]) for i, row in zip(spot, alone, strict=True)),
            empty_answer=next(filter(None, empty), ""),
            seconds_per_call=per_call,
            responses_per_second=rate,
        )

    def _report(self, outcomes: tuple[Outcome, ...], **measured: Any) -> ScorerReport:
        differences = [one.better - one.worse for one in outcomes]
        spread = stdev(differences) if len(differences) > 1 else 0.0
        longer = [
            (one, better > worse)
            for one, (better, worse) in zip(outcomes, (p.words for p in self.pairs), strict=True)
            if better != worse
        ]
        accuracy = Share.of((one.better, one.worse) for one in outcomes)
        return ScorerReport(
            scorer=self.scorer.get_name(),
            seed=self.seed,
            pairs=len(outcomes),
            accuracy=accuracy,
            margin=fmean(differences),
            effect=fmean(differences) / spread if spread else None,
            sensitivity=Share.of((one.better, one.shuffled) for one in outcomes if one.shuffled is not None),
            partial=tuple(
                Share.of(filter(None, column)) for column in zip(*(one.partial for one in outcomes), strict=True)
            ),
            longer_wins=Share.of(
                (one.better, one.worse) if is_better else (one.worse, one.better) for one, is_better in longer
            ),
            longer_better=Share.of((float(is_better), 0.5) for _, is_better in longer),
            matched=SubsetReport.of("", self.pairs, outcomes).matched,
            subsets=_subsets(self.pairs, outcomes),
            calls=len(self.seconds),
            responses=self.responses,
            concurrency=self.concurrency,
            notes=tuple(self.notes),
            outcomes=outcomes,
            **measured,
        )

    async def _all(self, jobs: Sequence[Callable[[], Awaitable[T]]]) -> list[T]:
        gate = asyncio.Semaphore(self.concurrency)

        async def one(job: Callable[[], Awaitable[T]]) -> T:
            async with gate:
                return await job()

        tasks = [asyncio.ensure_future(one(job)) for job in jobs]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _score(self, i: int, answers: Sequence[GivenAnswer]) -> list[float]:
        request, start = self.pairs[i].request, perf_counter()
        name = f"pair {i + 1} ({shortened(request.instruction, 60)})"
        rewards, notes = await score_answers(self.scorer, request, answers, name=name, search_id=self.search_id)
        self.seconds.append(perf_counter() - start)
        self.responses += len(set(answers))
        self.notes.update(dict.fromkeys(notes))
        return rewards

    async def _empty(self, i: int) -> str:
        """Score an empty answer: a policy may end at once. Return the error's message, or an empty text."""
        try:
            await self._score(i, [("", True), ("", False)])
        except (EndpointRequestError, OperatorError) as error:
            return str(error)
        return ""


def _derangement(pairs: Sequence[Pair], seed: int) -> dict[int, int]:
    """Shuffled by prompt index: the pair whose better answer is scored under each pair's prompt, which is not its own.

    Every answer and every prompt is used once; where more than half of the pairs share one prompt, some are left out.
    """
    prompts = [pair.request.to_json() for pair in pairs]
    first = {prompt: derive(seed, "prompt", i) for i, prompt in reversed(list(enumerate(prompts)))}
    # Shuffled, but equal prompts side by side: a shift by the longest run of them takes each to another prompt.
    order = sorted(range(len(pairs)), key=lambda i: (first[prompts[i]], derive(seed, "pair", i)))
    shift = max(Counter(prompts).values())
    prompt_indices = [*order[shift:], *order[:shift]]
    return {
        prompt_index: shuffled_index
        for prompt_index, shuffled_index in zip(prompt_indices, order, strict=True)
        if prompts[prompt_index] != prompts[shuffled_index]
    }


def _answers(pair: Pair) -> list[GivenAnswer]:
    """Both answers, whole and cut."""
    cut = [(_cut(text, percent), False) for percent in FRACTIONS for text in (pair.better, pair.worse)]
    return [(pair.better, True), (pair.worse, True), *cut]


def _cut(text: str, percent: int) -> str:
    """The first words of a text, with the white space between them; one word at least.

    >>> _cut("one two  three four", 75)
    'one two  three'
    """
    ends = [word.end() for word in re.finditer(r"\S+", text)]
    return text[: ends[max(1, len(ends) * percent // 100) - 1]] if ends else text


def _subsets(pairs: Sequence[Pair], outcomes: Sequence[Outcome]) -> tuple[SubsetReport, ...]:
    """Figures of each subset, in the order in which they first come."""
    found = []
    for name in dict.fromkeys(pair.subset for pair in pairs if pair.subset):
        own = [i for i, pair in enumerate(pairs) if pair.subset == name]
        found.append(SubsetReport.of(name, [pairs[i] for i in own], [outcomes[i] for i in own]))
    return tuple(found)


def _outcome(pair: Pair, rewards: Sequence[float], answers: Sequence[GivenAnswer], shuffled: float | None) -> Outcome:
    partials = range(2, 2 + 2 * len(FRACTIONS), 2)
    return Outcome(
        instruction=pair.request.instruction,
        about=pair.about,
        subset=pair.subset,
        better=rewards[0],
        worse=rewards[1],
        shuffled=shuffled,
        partial=tuple((rewards[i], rewards[i + 1]) if answers[i] != answers[i + 1] else None for i in partials),
    )
