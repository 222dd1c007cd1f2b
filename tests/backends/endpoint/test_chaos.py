"""Whole searches on a real model behind a proxy that spoils a fifth of all requests; and a server that is killed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from benchmarks.faults import PATIENCE, Chaos, chaos, chaos_search, differences, run, search_all
from benchmarks.servers.launch import Server, llama_server
from benchmarks.servers.proxy import FAULTS, FaultProxy
from darwin_align import SearchResult
from darwin_align.backends.endpoint import Limits
from darwin_align.core.errors import EndpointError
from darwin_align.pocket import held_out

SEARCHES = 12
BUDGET = 120.0
"""Seconds for each run. Both together take some twenty on two cores."""


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def exact(embedded_gguf: Path) -> Iterator[Server]:
    """One slot: what it writes does not depend on what else it writes."""
    with llama_server(embedded_gguf, slots=1, context=1024) as server:
        yield server


@pytest.fixture(scope="module")
def found(exact: Server) -> Chaos:
    return chaos(exact.url, SEARCHES, BUDGET, seed=1)


def test_no_search_is_lost_or_differs(found: Chaos) -> None:
    assert found.lost == []
    assert found.different == []


def test_the_searches_could_have_been_mixed_up(found: Chaos) -> None:
    results = [result for result in found.clean.results if isinstance(result, SearchResult)]
    assert [result.request.instruction for result in results] == list(held_out(SEARCHES))
    assert [result.config.seed for result in results] == list(range(SEARCHES))
    assert len({result.text for result in results}) > SEARCHES * 0.8
    rankings = [[beam.text for beam in result.ranking] for result in results]
    assert all(len(ranking) == len({*ranking}) for ranking in rankings)
    assert sum(map(len, rankings)) > 2 * SEARCHES
    assert all(differences(one, other) for one, other in pairwise(results))


def test_every_kind_of_fault_was_met_as_often_as_ordered(found: Chaos) -> None:
    met = [found.faulty.injected[kind] for kind in FAULTS]
    assert min(met) >= 10
    assert max(met) - min(met) <= 1
    assert sum(met) / sum(found.faulty.injected.values()) == pytest.approx(0.2, abs=0.02)


def test_every_fault_was_an_attempt_that_failed_and_no_answer_was_lost(found: Chaos) -> None:
    clean, faulty = found.clean.requests, found.faulty.requests
    assert clean["answers"] <= found.clean.injected["clean"] <= clean["requests"]
    assert faulty["answers"] == clean["answers"], "the same questions, each answered once"
    attempts = sum(n for kind, n in faulty.items() if kind not in ("requests", "answers"))
    assert faulty["requests"] - faulty["answers"] == attempts
    injected = found.faulty.injected
    assert attempts >= sum(injected[kind] for kind in FAULTS)
    # On a machine that has other work, some are cut off as too slow before they show what they are.
    seen = {
        "cut": "cut",
        "hang": "silent",
        "drip": "slow",
        "rate_limit": "rate_limit",
        "unavailable": "unavailable",
        "half_json": "no_json",
    }
    for fault, kind in seen.items():
        assert faulty[kind] >= injected[fault] / 2, fault
    assert faulty["reset"] >= (injected["reset"] + injected["refused"]) / 2


def test_no_more_in_flight_than_configured(found: Chaos) -> None:
    assert PATIENCE.concurrency / 2 < found.clean.peak <= PATIENCE.concurrency


def changed(result: SearchResult, place: int, **fields: Any) -> SearchResult:
    """The result with another value in one event's first beam."""
    event = result.events[place]
    first = min(event.delta.beams)
    beams = {**event.delta.beams, first: {**event.delta.beams[first], **fields}}
    event = event.model_copy(update={"delta": event.delta.model_copy(update={"beams": beams})})
    return result.model_copy(update={"events": (*result.events[:place], event, *result.events[place + 1 :])})


def test_differences_are_found(found: Chaos) -> None:
    result = found.clean.results[0]
    assert isinstance(result, SearchResult)
    assert differences(result, result) == ""
    decode = next(i for i, event in enumerate(result.events) if event.operator == "decode")
    score = next(i for i, event in enumerate(result.events) if event.operator == "score")
    reward = result.events[score].delta.beams[min(result.events[score].delta.beams)]["reward"]
    assert differences(result, changed(result, score, reward=reward + 5e-5)) == ""
    assert "reward" in differences(result, changed(result, score, reward=reward + 5e-4))
    assert "tokens" in differences(result, changed(result, decode, tokens=[0, [1]]))
    assert "changed" in differences(result, changed(result, decode, wins=1))
    shorter = result.model_copy(update={"events": result.events[:-1]})
    assert "events" in differences(result, shorter)
    swapped = result.model_copy(update={"ranking": result.ranking[::-1]})
    assert "ranking" in differences(result, swapped)
    worse = result.model_copy(update={"best": result.best.model_copy(update={"reward": 99.0})})
    assert "99.0" in differences(result, worse)


def test_too_few_attempts_lose_searches(exact: Server) -> None:
    """The faults do hurt: without further attempts hardly a search comes through."""
    with FaultProxy(exact.url, share=0.2, seed=1) as proxy:
        limits = PATIENCE.model_copy(update={"attempts": 1})
        results = asyncio.run(search_all(chaos_search(proxy.url, limits), 8))
    assert sum(isinstance(result, EndpointError) or bool(getattr(result, "failure", "")) for result in results) >= 6


def test_a_server_that_is_killed_in_the_middle_costs_no_search(
    embedded_gguf: Path, exact: Server, found: Chaos
) -> None:
    with llama_server(embedded_gguf, slots=1, context=1024) as victim:
        search = chaos_search([exact.url, victim.url], Limits(attempts=12, read_timeout=5.0))

        async def killed_on_the_way() -> list[SearchResult | BaseException]:
            searches = asyncio.ensure_future(search_all(search, 12))
            while search.policy.endpoint.counts["answers"] < 60:
                await asyncio.sleep(0.01)
            await asyncio.to_thread(victim.kill)
            return await asyncio.wait_for(searches, BUDGET)

        results = asyncio.run(killed_on_the_way())
    counts = search.policy.endpoint.counts
    assert counts["refused"] + counts["reset"] + counts["cut"] > 0
    for true, result in zip(found.clean.results, results, strict=False):
        assert isinstance(true, SearchResult)
        assert isinstance(result, SearchResult), result
        assert differences(true, result) == ""


def test_a_run_that_takes_too_long_is_ended(exact: Server) -> None:
    with pytest.raises(TimeoutError):
        run(exact.url, 8, budget=0.2, share=0)
