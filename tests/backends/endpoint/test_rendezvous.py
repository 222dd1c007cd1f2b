"""Several servers with one model: where requests go that share a prefix, also when a server is away."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import JSONResponse, Response

from benchmarks.servers.launch import Server, llama_server
from darwin_align import DarwinSearch, SearchConfig
from darwin_align.backends.endpoint import EndpointPolicy, Limits
from darwin_align.backends.endpoint.client import Endpoint, gather_all
from darwin_align.backends.endpoint.rendezvous import home
from darwin_align.backends.scripted import ScriptedScorer
from darwin_align.operators.portal import call
from darwin_align.pocket import held_out, policy_path
from tests.backends.endpoint.fixtures.wire import ReceivedRequest, Wire, scripted, wire

QUICK = Limits(attempts=5, backoff=0.01, max_backoff=0.02, breaker_failures=2, breaker_pause=0.3)


def send(endpoint: Endpoint, prefixes: range, times: int = 1) -> None:
    async def all_at_once() -> None:
        await gather_all([endpoint.post("/x", {"n": n}, prefix=n) for n in prefixes for _ in range(times)])

    call(all_at_once)


def numbers(served: Wire) -> set[int]:
    return {received.body["n"] for received in served.received}


def test_a_prefix_stays_on_its_server_whoever_asks() -> None:
    with wire(scripted({})) as one, wire(scripted({})) as two, wire(scripted({})) as three:
        urls = [served.url for served in (one, two, three)]
        send(Endpoint(urls), range(60), times=3)
        send(Endpoint(urls[::-1]), range(60))
        sets = [numbers(served) for served in (one, two, three)]
        assert sum(map(len, sets)) == 60  # they are disjoint
        assert all(10 < len(numbers) < 30 for numbers in sets)
        assert numbers(one) == {n for n in range(60) if home(n, urls) == one.url}


def test_a_servers_share_falls_to_the_others_and_comes_back() -> None:
    down = True

    async def flaky(received: ReceivedRequest) -> Response:
        return JSONResponse({}, status_code=500 if down else 200)

    with wire(flaky) as one, wire(scripted({})) as two, wire(scripted({})) as three:
        urls = [served.url for served in (one, two, three)]
        endpoint = Endpoint(urls, limits=QUICK)
        send(endpoint, range(60))
        share = {n for n in range(60) if home(n, urls) == one.url}
        for rest in (two, three):
            assert numbers(rest) == {n for n in range(60) if home(n, [two.url, three.url]) == rest.url}
        down = False
        assert endpoint._loop_state is not None
        endpoint._loop_state.hosts[0].breaker.succeeded()  # its pause is over
        for served in (one, two, three):
            served.received.clear()
        send(endpoint, range(60))
        assert numbers(one) == share


@pytest.fixture(scope="module")
def second(embedded_gguf: Path) -> Any:
    with llama_server(embedded_gguf, slots=8) as server:
        yield server


def test_a_searchs_requests_go_to_one_of_two_servers_and_answers_do_not_depend_on_it(
    llama: Server, second: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Greedy, with distinct instructions: each has a server of its own for all its chunks. (Twelve that all fall to one
    server are one case in two thousand.)"""
    where: dict[str, set[str]] = defaultdict(set)
    plain = Endpoint._send

    async def noted(self: Endpoint, state: Any, host: Any, call: Any) -> Any:
        if call.prefix is not None:
            prompts = call.body["prompt"]
            for prompt in prompts if isinstance(prompts[0], list) else [prompts]:
                where[str(prompt[:24])].add(host.root)
        return await plain(self, state, host, call)

    config = SearchConfig(mutator="identity", cycles=1, mutations=2, replacement_period=8, max_new_tokens=16)

    def answers(*urls: str) -> list[str]:
        policy = EndpointPolicy(urls, tokenizer=policy_path())
        search = DarwinSearch(policy=policy, scorer=ScriptedScorer(), config=config)
        return [result.text for result in search.batch(list(held_out(12)), seed=1, temperature=0.0)]

    expected = answers(llama.url)
    monkeypatch.setattr(Endpoint, "_send", noted)
    assert answers(llama.url, second.url) == expected
    assert set().union(*where.values()) == {llama.url, second.url}
    assert all(len(servers) == 1 for servers in where.values())
