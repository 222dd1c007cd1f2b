"""The engine against the plain way: the same search, token for token, when everything is read anew at every step."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import cache, partial
from random import Random
from time import monotonic
from typing import Any

import pytest

from benchmarks.plain import PlainPolicy, PlainScorer, PositionBounds
from darwin_align import DarwinSearch, SearchConfig, SearchResult
from darwin_align.backends.local import LocalPolicy, LocalScorer
from darwin_align.core.types import Sampling
from tests.backends.local.kit import assert_same

PAIRS = [
    ("llama", "llama-rm"),
    ("qwen3", "qwen3-rm"),
    ("gpt2", "gpt2-rm"),
    ("gemma3", "llama-rm"),
    ("mistral", "qwen3-rm"),
    ("llama", "gpt2-rm"),
]
QUESTIONS = (
    "How do I brew green tea?",
    "怎样泡一杯绿茶？🍵 Explain the steps in order.",
    "Hi",
    "Say why the steps matter, and what to do when the water boils over. " * 3,
)
CLAUSES = ("Explain step by step.", "Say why.", "Name what can go wrong.", "Be brief.", "为什么？")


def slowly(case: int) -> Any:
    """A case for `make test-slow`."""
    return pytest.param(case, marks=pytest.mark.slow)


def reword(request, instruction, n, seed):
    """Rewordings that share a beginning of any length with each other."""
    draw = Random(seed)
    return [f"{request.instruction} {' '.join(draw.sample(CLAUSES, draw.randint(0, 3)))}".strip() for _ in range(n)]


def settings_of(case: int) -> dict:
    """A random search: how many beams, how they meet, how long, how they draw."""
    draw = Random(case)
    n, nb = draw.randint(2, 5), draw.choice((1, 1, 2))
    config = SearchConfig(
        mutations=n,
        beams_per_mutation=nb,
        survivors=draw.randint(1, max(1, n * nb - 1)),
        champions=1,
        cycles=draw.choice((1, 2)),
        replacement_period=draw.choice((1, 3, 8, 20)),
        lookahead=draw.choice((0, 0, 0, 4)),
        max_new_tokens=draw.choice((9, 24, 40)),
        seed=case,
    )
    sampling = draw.choice(
        (
            Sampling(),
            Sampling(temperature=1.2, top_k=None),
            Sampling(temperature=0.9, top_k=8, top_p=0.9),
            Sampling(temperature=1.0, repetition_penalty=1.2),
        )
    )
    mutator = draw.choice((reword, lambda request, instruction, n, seed: [instruction] * n))
    return {"config": config, "sampling": sampling, "mutator": mutator, "guard": None}


def exact(folders, case: int, **memory) -> tuple[LocalPolicy, LocalScorer]:
    policy, reward = (folders[name] for name in PAIRS[case % len(PAIRS)])
    return (
        LocalPolicy.from_pretrained(policy, device="cpu", dtype="float64", threads=1, **memory),
        LocalScorer.from_pretrained(reward, device="cpu", dtype="float64", threads=1, **memory),
    )


def question_of(case: int) -> str:
    return QUESTIONS[case % len(QUESTIONS)]


@pytest.fixture(scope="module")
def plain_result(folders) -> Callable[[int], SearchResult]:
    """The result of the plain policy in a case, which several tests share."""
    return cache(partial(_plain_result, folders))


def _plain_result(folders, case: int) -> SearchResult:
    policy, scorer = exact(folders, case)
    search = DarwinSearch(policy=PlainPolicy(policy), scorer=PlainScorer(scorer), **settings_of(case))
    return search.invoke(question_of(case))


@pytest.mark.parametrize("start", [0, *(slowly(start) for start in range(6, 48, 6))])
def test_alone(folders, plain_result, start):
    for case in range(start, start + 6):
        policy, scorer = exact(folders, case)
        found = DarwinSearch(policy=policy, scorer=scorer, **settings_of(case)).invoke(question_of(case))
        assert policy.engine.takes_slots
        assert scorer.reward_model.engine.takes_slots
        assert_same(found, plain_result(case), within=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("pair", range(len(PAIRS)))
async def test_eight_at_once_on_one_engine(folders, plain_result, pair):
    cases = [pair + len(PAIRS) * i for i in range(8)]
    policy, scorer = exact(folders, pair)
    searches = [DarwinSearch(policy=policy, scorer=scorer, **settings_of(case)) for case in cases]
    found = await asyncio.gather(
        *(search.ainvoke(question_of(case)) for search, case in zip(searches, cases, strict=True))
    )
    for case, result in zip(cases, found, strict=True):
        assert_same(result, plain_result(case), within=1e-9)
    deadline = monotonic() + 60  # the engines' threads release them when the searches have ended
    while any(engine.slots_in_use for engine in _engines(policy, scorer)) and monotonic() < deadline:
        await asyncio.sleep(0.01)
    assert policy.engine.slots_in_use == scorer.reward_model.engine.slots_in_use == 0


@pytest.mark.slow
@pytest.mark.parametrize("slots", [1, 2, 4])
async def test_with_memory_for_a_few_rows(folders, plain_result, slots):
    """Rows are evicted and read anew; that costs time and nothing else."""
    for case in (0, 1, 2, 3):
        policy, scorer = exact(folders, case, row_memory=slots * 512 * 2 * 192)
        searches = [DarwinSearch(policy=policy, scorer=scorer, **settings_of(case)) for _ in range(min(slots + 1, 3))]
        found = await asyncio.gather(*(search.ainvoke(question_of(case)) for search in searches))
        expected = plain_result(case)
        for result in found:
            assert_same(result, expected, within=1e-9)
        book = policy.engine._scheduler.store.manager
        assert len(book.slots) <= max(1, book.budget // (book.width * book.position_bytes))


@pytest.mark.parametrize("lag", [1, slowly(2)])
async def test_when_the_host_looks_at_tokens_late(folders, plain_result, lag):
    """What keeps a GPU busy: a finished row takes a step too many, of which nothing remains."""
    for case in (0, 4, 8, 12, 16):
        policy, scorer = exact(folders, case, row_memory=10**7 + lag)
        policy.engine._scheduler.lag = lag
        searches = [DarwinSearch(policy=policy, scorer=scorer, **settings_of(other)) for other in (case, case + 6)]
        found = await asyncio.gather(*(search.ainvoke(question_of(case)) for search in searches))
        assert_same(found[0], plain_result(case), within=1e-9)


def test_every_token_is_read_once(folders):
    """Positions are counted against the fewest that any engine could do with."""
    fed, read, prefill, reward = 0, 0, 0, 0
    for case in range(6):
        policy, scorer = exact(folders, 6 * case, row_memory=2 * 10**8)
        bounds = PositionBounds()
        arguments = settings_of(6 * case)
        arguments["config"] = arguments["config"].replace(
            mutations=5, beams_per_mutation=1, survivors=3, lookahead=0, replacement_period=8, max_new_tokens=120
        )
        before = [engine._scheduler.forward.positions if engine._probed else 0 for engine in _engines(policy, scorer)]
        DarwinSearch(policy=bounds.policy(policy), scorer=bounds.scorer(scorer), **arguments).invoke(QUESTIONS[3])
        after = [engine._scheduler.forward.positions for engine in _engines(policy, scorer)]
        fed, read = fed + after[0] - before[0] - bounds.decoded, read + after[1] - before[1]
        prefill, reward = prefill + bounds.prefill, reward + bounds.reward
    assert reward <= read <= 1.05 * reward
    assert prefill <= fed <= 1.10 * prefill


def _engines(policy, scorer):
    return policy.engine, scorer.reward_model.engine
