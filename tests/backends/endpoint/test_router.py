"""Two llama.cpp servers, one of which dies while searches run: behind vLLM's router, and known to the policy itself."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.servers.launch import Server, llama_server, router
from darwin_align import DarwinSearch, SearchConfig, SearchResult
from darwin_align.backends.endpoint import EndpointPolicy, Limits
from darwin_align.backends.scripted import ScriptedScorer
from darwin_align.pocket import held_out, policy_path

pytestmark = pytest.mark.slow

SEARCHES = 14
PATIENT = Limits(attempts=6, backoff=0.1, max_backoff=0.5, connect_timeout=2, concurrency=16)
CONFIG = SearchConfig(mutator="identity", cycles=1, mutations=3, replacement_period=12, max_new_tokens=120)


def search_over(*urls: str) -> DarwinSearch:
    policy = EndpointPolicy(list(urls), tokenizer=policy_path(), limits=PATIENT)
    return DarwinSearch(policy=policy, scorer=ScriptedScorer(), config=CONFIG)


async def with_a_death(search: DarwinSearch, worker: Server) -> tuple[list[SearchResult], int]:
    """Run searches at once and kill a worker in the middle; return also how many requests were sent by then."""
    running = asyncio.ensure_future(search.abatch(list(held_out(SEARCHES)), seed=1))
    enough = time.monotonic() + 30
    while search.policy.endpoint.counts["answers"] < 3 * SEARCHES and time.monotonic() < enough:
        await asyncio.sleep(0.005)
    sent = search.policy.endpoint.counts["requests"]
    assert not running.done()
    await asyncio.to_thread(worker.kill)
    return await asyncio.wait_for(running, 60), sent


def check(results: list[SearchResult]) -> None:
    assert len(results) == SEARCHES
    for result in results:
        assert (result.stop_reason, result.failure) == ("cycles", None)
        assert result.text.strip()
        assert result.best.finished
        assert all(beam.finished for beam in result.ranking)


async def test_a_worker_behind_a_router_dies(embedded_gguf: Path):
    with (
        llama_server(embedded_gguf, slots=4) as one,
        llama_server(embedded_gguf, slots=4) as two,
        router([one.url, two.url]) as front,
    ):
        search = search_over(front.url)
        results, sent = await with_a_death(search, two)
        check(results)
        assert "(llama.cpp)" in results[0].events[1].delta.notes[0]
        assert search.policy.endpoint.counts["requests"] > sent + SEARCHES
        alone: Any = await search.ainvoke("How do I brew green tea?", seed=2)
        assert alone.text.strip()


@pytest.mark.parametrize("dying", [pytest.param(0, marks=pytest.mark.slow), 1])
async def test_a_worker_of_two_that_the_policy_uses_dies(embedded_gguf: Path, dying: int):
    with llama_server(embedded_gguf, slots=4) as one, llama_server(embedded_gguf, slots=4) as two:
        search = search_over(one.url, two.url)
        results, sent = await with_a_death(search, (one, two)[dying])
        check(results)
        counts = search.policy.endpoint.counts
        assert counts["requests"] > sent + SEARCHES
        assert counts["reset"] + counts["refused"] + counts["cut"] > 0  # the death was noticed, and passed over
        alone: Any = await search.ainvoke("How do I brew green tea?", seed=2)
        assert alone.text.strip()
