"""Requests in flight, counted where they arrive: never more than configured, whoever asks."""

from __future__ import annotations

import asyncio
import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
from starlette.responses import JSONResponse, Response

from benchmarks.faults import chat_model
from benchmarks.servers.launch import Server
from benchmarks.servers.proxy import FaultProxy
from darwin_align.backends.endpoint.client import Endpoint, gather_all
from darwin_align.backends.endpoint.limits import Limits
from darwin_align.operators.portal import acall, call
from darwin_align.pocket import held_out
from tests.backends.endpoint.fixtures.wire import ReceivedRequest, wire

LIMIT = 7


async def echo(received: ReceivedRequest) -> Response:
    await asyncio.sleep(0.01)
    return JSONResponse(received.body)


async def some(endpoint: Endpoint, who: int, n: int) -> list[Any]:
    """Calls of one searcher; what comes back is what it sent."""
    replies = await gather_all([endpoint.post("/x", {"who": who, "number": i}) for i in range(n)])
    return [reply.data for reply in replies]


def expected(who: int, n: int) -> list[Any]:
    return [{"who": who, "number": i} for i in range(n)]


def test_the_limit_holds_for_plain_code_loops_and_threads_together() -> None:
    with wire(echo) as served:
        endpoint, start = Endpoint(served.url, limits=Limits(concurrency=LIMIT)), Barrier(8)

        def plain(who: int) -> list[Any]:
            start.wait(10)
            return [answer for _ in range(5) for answer in call(some, endpoint, who, 5)]

        def loop(who: int) -> list[Any]:
            async def searches() -> list[Any]:
                found = await asyncio.gather(*(acall(some, endpoint, who, 5) for _ in range(5)))
                return [answer for answers in found for answer in answers]

            start.wait(10)
            return asyncio.run(searches())

        with ThreadPoolExecutor(8) as threads:
            found = list(threads.map(lambda who: plain(who) if who % 2 else loop(who), range(8)))
        assert found == [expected(who, 5) * 5 for who in range(8)]
        assert (len(served.received), served.peak) == (200, LIMIT)
        assert endpoint.counts == {"requests": 200, "answers": 200}


def test_each_endpoint_has_a_limit_of_its_own() -> None:
    with wire(echo) as served:
        ends = [Endpoint(served.url, limits=Limits(concurrency=3)) for _ in range(2)]
        with ThreadPoolExecutor(2) as threads:
            list(threads.map(lambda end: call(some, end, 0, 60), ends))
        assert 3 < served.peak <= 6


def test_places_are_shared_by_several_servers() -> None:
    with wire(echo) as one, wire(echo) as two:
        endpoint = Endpoint([one.url, two.url], limits=Limits(concurrency=4))
        assert call(some, endpoint, 1, 40) == expected(1, 40)
        assert (one.peak, two.peak) == (2, 2)


async def test_inside_a_running_loop_as_in_a_notebook() -> None:
    with wire(echo) as served:
        endpoint = Endpoint(served.url, limits=Limits(concurrency=LIMIT))
        assert await acall(some, endpoint, 1, 3) == expected(1, 3)
        assert call(some, endpoint, 2, 3) == expected(2, 3), "plain code in a cell"


def _in_child(endpoint: Endpoint, results: Any) -> None:
    results.put(call(some, endpoint, 9, 20))


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_in_another_process(method: str) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} on this system")
    with wire(echo) as served:
        endpoint = Endpoint(served.url, limits=Limits(concurrency=2))
        call(some, endpoint, 1, 4)
        context: Any = multiprocessing.get_context(method)
        results = context.SimpleQueue()
        child = context.Process(target=_in_child, args=(endpoint, results))
        child.start()
        assert results.get() == expected(9, 20)
        child.join(30)
        assert child.exitcode == 0
        assert call(some, endpoint, 1, 4) == expected(1, 4)
        assert served.peak == 2


# -- searches, on a real model


def test_a_batch_holds_no_more_requests_than_configured(llama: Server) -> None:
    limits = Limits(concurrency=LIMIT)
    with FaultProxy(llama.url, share=0, delay=0.02) as policy, FaultProxy(llama.url, share=0, delay=0.02) as scorer:
        answers = chat_model(policy.url, scorer.url, limits).batch(held_out(24), seed=1)
        assert len(answers) == 24
        assert policy.in_flight_peak == LIMIT
        assert 1 <= scorer.in_flight_peak <= LIMIT
        # 24 searches of two steps, each of six rows (the first response is one) and one scored batch at least
        assert policy.counts["clean"] == policy.requests >= 24 * 2 * 5
        assert scorer.counts["clean"] == scorer.requests >= 24 * 2


def test_together_as_one_by_one_and_in_any_loop(llama: Server) -> None:
    with FaultProxy(llama.url, share=0) as proxy:
        questions = held_out(6)
        alone = [chat_model(proxy.url, proxy.url, Limits(concurrency=1)).invoke(q, seed=1).text for q in questions]
        assert len(set(alone)) > 4
        model = chat_model(proxy.url, proxy.url, Limits(concurrency=5))

        def in_a_loop(n: int) -> list[str]:
            async def send() -> list[str]:
                return [answer.text for answer in await model.abatch(questions[:n], seed=1)]

            return asyncio.run(send())

        with ThreadPoolExecutor(4) as threads:
            found = list(threads.map(in_a_loop, [6, 6, 3, 6]))
            assert found == [alone, alone, alone[:3], alone]
            assert list(threads.map(lambda q: model.invoke(q, seed=1).text, questions)) == alone
        assert proxy.in_flight_peak <= 10, "five of the policy, five of the scorer"


def test_cancelled_searches_leave_no_request_behind(llama: Server) -> None:
    with FaultProxy(llama.url, share=0) as proxy:
        model = chat_model(proxy.url, llama.url, Limits(concurrency=4))
        model.invoke("Hello")
        endpoint, known = model.search.policy.endpoint, proxy.requests
        proxy._delay = 30.0  # from now on

        async def cancelled() -> bool:
            batch = asyncio.ensure_future(model.abatch(list(held_out(8)), seed=1))
            while proxy.requests < known + 4:
                await asyncio.sleep(0.01)
            batch.cancel()
            await asyncio.wait([batch], timeout=10)
            return batch.cancelled()

        assert asyncio.run(cancelled())

        async def at_rest() -> None:
            state = endpoint._loop_state
            while state.slots._value != 4 or any(host.in_flight for host in state.hosts):
                await asyncio.sleep(0.01)

        call(asyncio.wait_for, at_rest(), 10)
        # Four were under way; whoever waited for their places may get one before its own cancelling reaches it.
        assert 4 <= endpoint.counts["requests"] - endpoint.counts["answers"] <= 8
        proxy._delay = 0.0
        assert model.invoke("Hello").text
