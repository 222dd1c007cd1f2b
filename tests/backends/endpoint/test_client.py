"""One endpoint against real servers: attempts, waits, deadlines, failover, keys, and what is said in the end."""

from __future__ import annotations

import asyncio
import copy
import logging
import pickle
import socket
import traceback
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import pairwise
from time import monotonic, sleep
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse

from benchmarks.servers.launch import Server, free_port
from benchmarks.servers.proxy import FaultProxy
from darwin_align.backends.endpoint import EndpointPolicy, EndpointScorer, JudgeScorer, client
from darwin_align.backends.endpoint.addresses import KEY_VARIABLES
from darwin_align.backends.endpoint.client import Endpoint, Reply, gather_all
from darwin_align.backends.endpoint.faults import Fault, fault_of_response
from darwin_align.backends.endpoint.limits import Limits
from darwin_align.core.errors import (
    ConfigError,
    ContextLengthError,
    EndpointAuthenticationError,
    EndpointConnectionError,
    EndpointError,
    EndpointNotFoundError,
    EndpointRateLimitError,
    EndpointRequestError,
    EndpointServerError,
    EndpointTimeoutError,
)
from darwin_align.operators.portal import call
from tests.backends.endpoint.fixtures.wire import ReceivedRequest, scripted, wire

OK = {"fine": True}
PATH = "/v1/completions"
BODY = {"prompt": "Hello"}
QUICK = Limits(attempts=5, backoff=0.01, max_backoff=0.02, connect_timeout=2)


def post(endpoint: Endpoint) -> Any:
    reply = call(endpoint.post, PATH, BODY)
    assert isinstance(reply, Reply)
    return reply.data


def post_many(endpoint: Endpoint, n: int) -> list[Any]:
    async def send() -> list[Reply]:
        return await gather_all([endpoint.post(PATH, BODY) for _ in range(n)])

    return [reply.data for reply in call(send)]


def dead() -> str:
    return f"http://127.0.0.1:{free_port()}"


def hosts(endpoint: Endpoint) -> list[Any]:
    assert endpoint._loop_state is not None
    return endpoint._loop_state.hosts


def at_rest(endpoint: Endpoint) -> bool:
    """Nothing is in flight, and all places are free again."""
    state = endpoint._loop_state
    assert state is not None
    slots = state.slots._value  # type: ignore[attr-defined]
    return slots == endpoint.limits.concurrency and all(host.in_flight == 0 for host in state.hosts)


# -- asking


def test_what_is_sent_and_what_comes_back() -> None:
    async def answer(received: ReceivedRequest) -> Response:
        return JSONResponse(
            {"method": received.method, "path": received.path, "body": received.body}, headers={"X-Kind": "b"}
        )

    with wire(answer) as served:
        endpoint = Endpoint(f"{served.url}/v1/")
        reply = call(endpoint.post, PATH, {"prompt": "tea 🍵", "n": None})
        assert reply.data == {"method": "POST", "path": PATH, "body": {"prompt": "tea 🍵", "n": None}}
        assert (reply.url, reply.headers["x-kind"]) == (served.url, "b")
        assert call(endpoint.get, "/v1/models").data == {"method": "GET", "path": "/v1/models", "body": None}
        assert endpoint.counts == {"requests": 2, "answers": 2}


@pytest.mark.parametrize("data", [None, 0, "", [], {}, "text", [1.5]])
def test_any_json_is_an_answer(data: Any) -> None:
    with wire(scripted(JSONResponse(data))) as served:
        assert post(Endpoint(served.url)) == data


# -- attempts

BUSY = JSONResponse({"error": {"message": "slow down"}}, 429)
AWAY = HTMLResponse("<h1>Service Unavailable</h1>", 503)
HALF = Response('{"choices": [{"text": "Here', 200, media_type="application/json")
PAGE = HTMLResponse("<html><body>Welcome!</body></html>", 200)
EMPTY = Response(b"", 200)
GARBLED = Response(b"no gzip at all", 200, {"content-encoding": "gzip"}, "application/json")


@pytest.mark.parametrize(
    ("spoilt", "kind"),
    [
        (BUSY, "rate_limit"),
        (AWAY, "unavailable"),
        (500, "unavailable"),
        (529, "unavailable"),
        (408, "busy"),
        (HALF, "no_json"),
        (PAGE, "no_json"),
        (EMPTY, "no_json"),
        (204, "no_json"),
        (GARBLED, "garbled"),
    ],
)
def test_what_may_pass_is_tried_again(spoilt: Any, kind: str) -> None:
    with wire(scripted(spoilt, spoilt, OK)) as served:
        endpoint = Endpoint(served.url, limits=QUICK)
        assert post(endpoint) == OK
        assert endpoint.counts == {"requests": 3, "answers": 1, kind: 2}
        assert at_rest(endpoint)


FINALLY: list[tuple[Any, type[EndpointError], int | None, str]] = [
    (BUSY, EndpointRateLimitError, 429, "slow down"),
    (AWAY, EndpointServerError, 503, "Service Unavailable"),
    (PAGE, EndpointServerError, 200, "Welcome!"),
    (HALF, EndpointServerError, 200, "application/json"),
    (GARBLED, EndpointServerError, None, "unpacked"),
]


@pytest.mark.parametrize(("spoilt", "error", "status", "said"), FINALLY)
def test_after_all_attempts_the_last_fault_is_reported(
    spoilt: Any, error: type[EndpointError], status: int | None, said: str
) -> None:
    with wire(scripted(spoilt)) as served:
        endpoint = Endpoint(served.url, limits=QUICK)
        with pytest.raises(EndpointError) as caught:
            post(endpoint)
        assert len(served.received) == QUICK.attempts
        assert at_rest(endpoint)
    assert type(caught.value) is error
    assert caught.value.status == status
    assert f"POST {served.url}{PATH} failed after 5 attempts: " in str(caught.value)
    assert said in str(caught.value)


def test_one_attempt_is_one() -> None:
    with wire(scripted(503)) as served:
        with pytest.raises(EndpointServerError, match="at the first attempt"):
            post(Endpoint(served.url, limits=Limits(attempts=1)))
        assert len(served.received) == 1


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, EndpointRequestError),
        (401, EndpointAuthenticationError),
        (404, EndpointNotFoundError),
        (422, EndpointRequestError),
        (307, EndpointRequestError),
        (501, EndpointRequestError),
    ],
)
def test_what_stays_is_requested_once(status: int, error: type[EndpointError]) -> None:
    with wire(scripted(JSONResponse({"error": "no"}, status))) as served:
        endpoint = Endpoint(served.url, limits=QUICK)
        with pytest.raises(error):
            post(endpoint)
        assert len(served.received) == 1
        assert at_rest(endpoint)


def test_a_prompt_that_is_too_long_is_requested_once() -> None:
    said = "This model's maximum context length is 512 tokens"
    with wire(scripted(JSONResponse({"error": {"message": said}}, 400))) as served:
        with pytest.raises(ContextLengthError, match=said):
            post(Endpoint(served.url))
        assert len(served.received) == 1


def test_refusals_do_not_open_the_breaker() -> None:
    with wire(scripted(*[400] * 6, OK)) as served:
        endpoint = Endpoint(served.url, limits=Limits(breaker_failures=2, breaker_pause=60))
        for _ in range(6):
            with pytest.raises(EndpointRequestError):
                post(endpoint)
        assert post(endpoint) == OK


def test_a_path_that_does_not_work_by_get_is_no_fault() -> None:
    with wire(scripted(500)) as served:
        endpoint = Endpoint(served.url, limits=QUICK)
        with pytest.raises(EndpointServerError, match="does not work") as caught:
            call(endpoint.get, "/v1/models")
        assert caught.value.status == 500
        assert len(served.received) == 1
    with wire(scripted(503, OK)) as served:
        assert call(Endpoint(served.url, limits=QUICK).get, "/v1/models").data == OK


# -- waits


def test_waits_are_drawn_and_grow() -> None:
    with wire(scripted(503)) as served:
        limits = Limits(attempts=7, backoff=0.02, max_backoff=0.1)
        for _ in range(3):
            with pytest.raises(EndpointServerError):
                post(Endpoint(served.url, limits=limits))
        gaps = [served.gaps[start : start + 6] for start in (0, 7, 14)]
    assert len({round(gap, 4) for row in gaps for gap in row}) > 9, "they are random"
    assert max(gap for row in gaps for gap in row[3:]) > 0.02, "they grow beyond the first one's most"


def test_retry_after_in_seconds_is_waited_for() -> None:
    with wire(scripted(Response(status_code=429, headers={"Retry-After": "0.4"}), OK)) as served:
        assert post(Endpoint(served.url, limits=QUICK)) == OK
        assert served.gaps[0] >= 0.4


def test_retry_after_as_a_date_is_waited_for() -> None:
    async def answer(received: ReceivedRequest) -> Response:
        if received.number:
            return JSONResponse(OK)
        date = format_datetime(datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=2), usegmt=True)
        return Response(status_code=503, headers={"Retry-After": date})

    with wire(answer) as served:
        assert post(Endpoint(served.url, limits=QUICK)) == OK
        assert served.gaps[0] > 0.9


def test_who_was_sent_away_together_does_not_come_back_together() -> None:
    away = Response(status_code=429, headers={"Retry-After": "0.4"})
    with wire(scripted(*[away] * 12, OK)) as served:
        endpoint = Endpoint(served.url, limits=Limits(backoff=0.3, max_backoff=0.3))
        assert post_many(endpoint, 12) == [OK] * 12
        first, again = served.received[:12], served.received[12:]
    back = [received.at for received in again]
    assert min(back) - min(received.at for received in first) >= 0.4
    assert max(back) - min(back) > 0.1


def test_a_server_that_requests_more_time_than_there_is_fails_at_once() -> None:
    away = JSONResponse({"error": "daily limit reached"}, 429, headers={"Retry-After": "3600"})
    with wire(scripted(away)) as served:
        start = monotonic()
        with pytest.raises(EndpointRateLimitError, match=r"daily limit reached.*3600 s.*deadline of 30 s"):
            post(Endpoint(served.url, limits=Limits(deadline=30)))
        assert monotonic() - start < 10
        assert len(served.received) == 1


def test_such_a_server_has_a_stand_in() -> None:
    away = Response(status_code=429, headers={"Retry-After": "3600"})
    with wire(scripted(away)) as busy, wire(scripted(OK)) as free:
        endpoint = Endpoint([busy.url, free.url], limits=Limits(deadline=30))
        assert [post(endpoint) for _ in range(4)] == [OK] * 4


# -- time


def again(endpoint: Endpoint) -> Endpoint:
    read = pickle.loads(pickle.dumps(endpoint))  # noqa: S301 - its own
    assert isinstance(read, Endpoint)
    return read


def drip(seconds: float) -> Response:
    async def body() -> Any:
        for letter in '{"fine": ' + " " * 1000 + "true}":
            yield letter
            await asyncio.sleep(seconds)

    return StreamingResponse(body(), media_type="application/json")


def later(seconds: float, first: int = 10**6) -> Any:
    """Answer late, the first so many times."""

    async def answer(received: ReceivedRequest) -> Response:
        if received.number < first:
            await asyncio.sleep(seconds)
        return JSONResponse(OK)

    return answer


def test_a_drip_ends_with_the_attempt() -> None:
    async def answer(received: ReceivedRequest) -> Response:
        return drip(0.02) if received.number == 0 else JSONResponse(OK)

    with wire(answer) as served:
        endpoint = Endpoint(served.url, limits=Limits(attempt_timeout=1.0, read_timeout=1.0, backoff=0))
        assert post(endpoint) == OK
        assert endpoint.counts == {"requests": 2, "answers": 1, "slow": 1}
        assert 0.5 < served.gaps[0] < 10


def test_silence_ends_with_the_read_timeout() -> None:
    with wire(later(20, first=1)) as served:
        endpoint = Endpoint(served.url, limits=Limits(read_timeout=0.2, backoff=0))
        assert post(endpoint) == OK
        assert endpoint.counts["silent"] == 1
        assert 0.1 < served.gaps[0] < 10


def test_a_server_that_is_only_slow_is_reported_at_the_end() -> None:
    with wire(later(20)) as served:
        limits = Limits(attempts=2, attempt_timeout=0.1, backoff=0)
        with pytest.raises(EndpointTimeoutError, match="after 2 attempts: the answer was not complete"):
            post(Endpoint(served.url, limits=limits))


def test_the_deadline_holds_for_all_attempts_together() -> None:
    with wire(scripted(AWAY)) as served:
        endpoint = Endpoint(served.url, limits=Limits(attempts=1000, deadline=0.5, backoff=0.05, max_backoff=0.1))
        start = monotonic()
        with pytest.raises(EndpointTimeoutError, match=r"deadline of 0\.5 s \(\d+ attempts, the last .*Unavailable"):
            post(endpoint)
        assert 0.5 <= monotonic() - start < 10
        assert len(served.received) > 2
        assert at_rest(endpoint)


def test_a_failure_that_comes_with_the_deadline_is_reported_as_late(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(response: httpx.Response) -> Fault | None:
        sleep(0.5)  # the loop is busy with other work while the deadline passes
        return fault_of_response(response)

    monkeypatch.setattr(client, "fault_of_response", slow)
    late = pytest.raises(EndpointTimeoutError, match=r"deadline of 0\.4 s \(\d+ attempts, the last .*Unavailable")
    with wire(scripted(AWAY)) as served, late:
        post(Endpoint(served.url, limits=Limits(deadline=0.4, backoff=0)))


def test_the_deadline_ends_an_attempt_too() -> None:
    with wire(later(20)) as served:
        endpoint = Endpoint(served.url, limits=Limits(deadline=0.3))
        with pytest.raises(EndpointTimeoutError, match=r"deadline of 0\.3 s \(1 attempts\)"):
            post(endpoint)
        assert at_rest(endpoint)


def test_waiting_for_a_place_does_not_count() -> None:
    with wire(later(0.2)) as served:
        endpoint = Endpoint(served.url, limits=Limits(concurrency=1, deadline=0.8))
        start = monotonic()
        assert post_many(endpoint, 6) == [OK] * 6
        assert monotonic() - start > 1.0 > endpoint.limits.deadline
        assert (served.peak, endpoint.counts["requests"]) == (1, 6)


def test_time_before_a_place_was_had_is_not_given_twice() -> None:
    """Attempts that fail give their place back: the deadline stands still only while there is none."""
    with wire(scripted(AWAY)) as served:
        limits = Limits(concurrency=1, attempts=10**4, deadline=0.5, backoff=0.02, max_backoff=0.02)
        endpoint = Endpoint(served.url, limits=limits)

        async def send() -> list[Any]:
            return await asyncio.gather(*(endpoint.post(PATH, BODY) for _ in range(3)), return_exceptions=True)

        start = monotonic()
        assert [type(error) for error in call(send)] == [EndpointTimeoutError] * 3
        assert 0.5 <= monotonic() - start < 10


# -- connections that break, in front of a real model


@pytest.mark.parametrize(
    ("fault", "kind"), [("reset", "reset"), ("cut", "cut"), ("hang", "silent"), ("drip", "slow"), ("refused", None)]
)
def test_broken_connections_are_tried_again(llama: Server, fault: str, kind: str | None) -> None:
    limits = Limits(attempts=8, attempt_timeout=0.8, read_timeout=0.5, backoff=0.05)
    with FaultProxy(llama.url, faults=[fault], share=0.5, seed=3) as proxy:
        endpoint = Endpoint(proxy.url, limits=limits)
        data = [call(endpoint.post, "/tokenize", {"content": "How"}).data for _ in range(4)]
        assert len(proxy.counts) > 1
        assert proxy.counts[fault] >= 1
        assert data == [data[0]] * 4
        assert endpoint.counts["requests"] - endpoint.counts["answers"] >= proxy.counts[fault]
        if kind:
            assert endpoint.counts[kind] == proxy.counts[fault]
        assert at_rest(endpoint)


def test_nobody_there_fails_within_a_few_attempts() -> None:
    url = dead()
    endpoint = Endpoint(url, limits=Limits(attempts=100))
    start = monotonic()
    with pytest.raises(EndpointConnectionError) as caught:
        post(endpoint)
    assert monotonic() - start < 10
    assert endpoint.counts["requests"] == 4
    assert str(caught.value).startswith(f"POST {url}{PATH} failed after 4 attempts: no connection")
    assert "Is base_url right" in str(caught.value)


def test_nobody_who_takes_the_call_fails_within_a_few_attempts() -> None:
    with socket.socket() as deaf, socket.socket() as first, socket.socket() as second:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        for caller in (first, second):  # they fill the line: whoever else comes gets no answer at all
            caller.setblocking(False)
            caller.connect_ex(deaf.getsockname())
        endpoint = Endpoint(
            f"http://127.0.0.1:{deaf.getsockname()[1]}", limits=Limits(attempts=50, backoff=0, connect_timeout=0.1)
        )
        with pytest.raises(EndpointConnectionError, match="after 4 attempts: no connection in time"):
            post(endpoint)
        assert endpoint.counts == {"requests": 4, "connect_timeout": 4}


def test_a_server_that_answered_before_is_waited_for() -> None:
    with wire(scripted(OK)) as served:
        limits = Limits(attempts=7, backoff=0.01, max_backoff=0.01)
        endpoint = Endpoint(served.url, limits=limits)
        post(endpoint)
    with pytest.raises(EndpointConnectionError, match="after 7 attempts") as caught:
        post(endpoint)
    assert "Is base_url right" not in str(caught.value)


@pytest.mark.parametrize(("says", "attempts"), [(socket.EAI_NONAME, 1), (socket.EAI_AGAIN, 4)])
def test_a_name_that_does_not_resolve(says: int, attempts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def lookup(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(says, "no such name")

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    endpoint = Endpoint("http://no-such-host.invalid", limits=Limits(backoff=0.01))
    with pytest.raises(EndpointConnectionError, match=r"no-such-host.*Is base_url right"):
        post(endpoint)
    assert endpoint.counts["requests"] == attempts


def test_a_name_that_is_known_no_more_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Name servers fail too: who answered once is not given up at the first attempt."""
    with wire(scripted(JSONResponse(OK, headers={"Connection": "close"}))) as served:
        endpoint = Endpoint(served.url.replace("127.0.0.1", "localhost"), limits=QUICK)
        assert post(endpoint) == OK
        true, received = socket.getaddrinfo, []

        def lookup(*args: Any, **more: Any) -> Any:
            received.append(args)
            if len(received) <= 3:
                raise socket.gaierror(socket.EAI_NONAME, "no such name")
            return true(*args, **more)

        monkeypatch.setattr(socket, "getaddrinfo", lookup)
        assert post(endpoint) == OK
        assert endpoint.counts["refused"] == 3


# -- several servers


def counted(servers: Sequence[Any]) -> list[int]:
    return [len(served.received) for served in servers]


def test_work_is_spread_evenly() -> None:
    with wire(later(0.05)) as one, wire(later(0.05)) as two, wire(later(0.05)) as three:
        endpoint = Endpoint([one.url, two.url, three.url], limits=Limits(concurrency=12))
        post_many(endpoint, 60)
        assert [served.peak for served in (one, two, three)] == [4, 4, 4]
        assert sum(counted([one, two, three])) == 60
        assert min(counted([one, two, three])) >= 12


def test_a_slow_server_gets_less() -> None:
    with wire(later(0.3)) as slow, wire(later(0.005)) as quick:
        post_many(Endpoint([slow.url, quick.url], limits=Limits(concurrency=4)), 40)
        assert counted([slow])[0] * 2 < counted([quick])[0]


def test_alone_they_take_turns() -> None:
    with wire(scripted(OK)) as one, wire(scripted(OK)) as two:
        endpoint = Endpoint([one.url, two.url])
        for _ in range(6):
            post(endpoint)
        assert counted([one, two]) == [3, 3]


def test_the_same_server_twice_is_one() -> None:
    assert Endpoint(["http://h:1", "http://h:1/v1/", "http://g:1"]).roots == ("http://h:1", "http://g:1")


def test_another_server_stands_in_without_a_wait() -> None:
    with wire(scripted(AWAY)) as ill, wire(scripted(OK)) as well:
        limits = Limits(attempts=3, backoff=60, max_backoff=60, breaker_failures=1000)
        endpoint = Endpoint([ill.url, dead(), well.url], limits=limits)
        start = monotonic()
        assert post_many(endpoint, 30) == [OK] * 30
        assert monotonic() - start < 30
        assert counted([well]) == [30]
        assert endpoint.counts["unavailable"] >= 5
        assert endpoint.counts["refused"] >= 5


def test_when_all_have_failed_it_waits_before_the_next_round() -> None:
    away = Response(status_code=503, headers={"Retry-After": "0.3"})
    with wire(scripted(away)) as one, wire(scripted(away)) as two:
        endpoint = Endpoint([one.url, two.url], limits=Limits(attempts=6, backoff=0))
        with pytest.raises(EndpointServerError, match="after 6 attempts"):
            post(endpoint)
        assert counted([one, two]) == [3, 3]
        times = sorted(received.at for served in (one, two) for received in served.received)
    # Three rounds of two, and a wait after the first and the second, as long as Retry-After says.
    gaps = [after - before for before, after in pairwise(times)]
    assert [gap >= 0.3 for gap in gaps] == [False, True, False, True, False]


def test_no_call_goes_to_the_same_server_twice_in_a_row() -> None:
    with wire(scripted(AWAY)) as one, wire(scripted(AWAY)) as two:
        limits = Limits(attempts=6, backoff=0.02, max_backoff=0.1, breaker_failures=1000)
        endpoint = Endpoint([one.url, two.url], limits=limits)

        async def send() -> list[Any]:
            calls = [endpoint.post(PATH, {"call": i}) for i in range(12)]
            return await asyncio.gather(*calls, return_exceptions=True)

        assert [type(error) for error in call(send)] == [EndpointServerError] * 12
        by_call: dict[int, list[tuple[float, int]]] = {}
        for place, served in enumerate((one, two)):
            for received in served.received:
                by_call.setdefault(received.body["call"], []).append((received.at, place))
    orders = [[place for _, place in sorted(received)] for received in by_call.values()]
    assert len(orders) == 12
    assert all(order in ([0, 1] * 3, [1, 0] * 3) for order in orders)


def test_a_wrong_name_among_good_ones_is_no_end() -> None:
    with wire(scripted(AWAY, OK)) as served:
        endpoint = Endpoint(["http://no-such-host.invalid", served.url], limits=QUICK)
        assert [post(endpoint) for _ in range(3)] == [OK] * 3


def test_dead_servers_among_many_are_no_end() -> None:
    """Four refusals in a row end a call only where nobody else is left to ask."""
    with wire(scripted(OK)) as served:
        endpoint = Endpoint([*(dead() for _ in range(6)), served.url])
        assert [post(endpoint) for _ in range(3)] == [OK] * 3


def test_all_dead_is_reported_soon_and_clearly() -> None:
    urls = [dead(), dead()]
    endpoint = Endpoint(urls, limits=Limits(attempts=50, backoff=0.01))
    with pytest.raises(EndpointConnectionError, match="Is base_url right") as caught:
        post(endpoint)
    assert any(url in str(caught.value) for url in urls)
    assert endpoint.counts["requests"] == 4


def test_the_breaker_leaves_one_of_two_alone(caplog: pytest.LogCaptureFixture) -> None:
    with wire(scripted(AWAY)) as ill, wire(scripted(OK)) as well:
        limits = Limits(breaker_failures=3, breaker_pause=60)
        endpoint = Endpoint([ill.url, well.url], limits=limits)
        with caplog.at_level(logging.WARNING, "darwin_align"):
            assert [post(endpoint) for _ in range(20)] == [OK] * 20
        assert counted([ill, well]) == [3, 20]
    (warning,) = [record.getMessage() for record in caplog.records]
    assert warning.startswith(f"{ill.url} keeps failing and gets no requests for a while: ")


def test_the_breaker_tries_again_with_one_call() -> None:
    """Three fail and open it; of the twelve that wait, one tries; once it has its answer, all the others go."""

    async def answer(received: ReceivedRequest) -> Response:
        if received.number == 3:
            await asyncio.sleep(0.3)
        return Response(status_code=503) if received.number < 3 else JSONResponse(OK)

    with wire(answer) as served:
        endpoint = Endpoint(served.url, limits=Limits(breaker_failures=3, breaker_pause=0.3, attempts=1))
        for _ in range(3):
            with pytest.raises(EndpointServerError):
                post(endpoint)
        assert post_many(endpoint, 12) == [OK] * 12
        assert len(served.received) == 15
        assert served.gaps[2] >= 0.25
        assert served.gaps[3] >= 0.3


def test_waiting_for_the_breaker_is_bounded_by_the_deadline() -> None:
    with wire(scripted(AWAY)) as served:
        limits = Limits(breaker_failures=2, breaker_pause=60, deadline=0.4, backoff=0)
        endpoint = Endpoint(served.url, limits=limits)
        with pytest.raises(EndpointTimeoutError, match="2 attempts"):
            post(endpoint)
        assert len(served.received) == 2
        assert at_rest(endpoint)


def test_all_that_wait_for_a_server_that_is_away_give_up_together() -> None:
    """They hold no place meanwhile: with one of them at a time it would take ten times as long."""
    with wire(scripted(AWAY)) as served:
        limits = Limits(concurrency=1, attempts=100, breaker_failures=2, breaker_pause=60, deadline=1.0, backoff=0)
        endpoint = Endpoint(served.url, limits=limits)

        async def send() -> list[Any]:
            return await asyncio.gather(*(endpoint.post(PATH, BODY) for _ in range(10)), return_exceptions=True)

        start = monotonic()
        assert [type(error) for error in call(send)] == [EndpointTimeoutError] * 10
        assert monotonic() - start < 5
        assert len(served.received) == 2
        assert at_rest(endpoint)


def test_who_is_merely_busy_is_not_left_alone() -> None:
    with wire(scripted(*[BUSY] * 9, OK)) as served:
        endpoint = Endpoint(served.url, limits=Limits(attempts=10, breaker_failures=2, breaker_pause=60, backoff=0))
        assert post(endpoint) == OK


# -- cancellation


def test_a_cancelled_call_gives_its_place_back() -> None:
    with wire(later(20, first=2)) as served:
        endpoint = Endpoint(served.url, limits=Limits(concurrency=2))

        async def send() -> Any:
            stuck = [asyncio.ensure_future(endpoint.post(PATH, BODY)) for _ in range(2)]
            waiting = asyncio.ensure_future(endpoint.post(PATH, BODY))
            while served.in_flight < 2:
                await asyncio.sleep(0.01)
            waiting.cancel()
            for task in stuck:
                task.cancel()
            gone = await asyncio.gather(*stuck, waiting, return_exceptions=True)
            assert [type(error) for error in gone] == [asyncio.CancelledError] * 3
            return (await endpoint.post(PATH, BODY)).data

        assert call(send) == OK
        assert at_rest(endpoint)
        assert hosts(endpoint)[0].breaker.in_a_row == 0, "who gives up says nothing about the server"


def test_a_cancelled_trial_lets_another_one_try() -> None:
    async def answer(received: ReceivedRequest) -> Response:
        if received.number == 1:
            await asyncio.sleep(20)
        return Response(status_code=503) if received.number == 0 else JSONResponse(OK)

    with wire(answer) as served:
        endpoint = Endpoint(served.url, limits=Limits(attempts=1, breaker_failures=1, breaker_pause=0.2))
        with pytest.raises(EndpointServerError):
            post(endpoint)

        async def send() -> Any:
            trial = asyncio.ensure_future(endpoint.post(PATH, BODY))
            while len(served.received) < 2:
                await asyncio.sleep(0.01)
            trial.cancel()
            await asyncio.gather(trial, return_exceptions=True)
            return (await endpoint.post(PATH, BODY)).data

        assert call(send) == OK


def test_a_cancelled_wait_between_attempts_holds_nothing() -> None:
    with wire(scripted(AWAY)) as served:
        endpoint = Endpoint(served.url, limits=Limits(concurrency=1, backoff=60, max_backoff=60))

        async def send() -> None:
            waiting = asyncio.ensure_future(endpoint.post(PATH, BODY))
            while not endpoint.counts["unavailable"]:
                await asyncio.sleep(0.01)
            assert at_rest(endpoint), "it waits without a place"
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            assert waiting.cancelled()

        call(send)
        assert at_rest(endpoint)


async def test_gathered_ends_with_the_first_error() -> None:
    ended: list[str] = []

    async def fails() -> None:
        raise EndpointServerError("down")

    async def waits() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            ended.append("cleaned up")

    with pytest.raises(EndpointServerError, match="down"):
        await gather_all([waits(), fails(), waits()])
    assert ended == ["cleaned up"] * 2


async def test_gathered_keeps_the_order() -> None:
    async def answer(i: int) -> int:
        await asyncio.sleep(0.01 * (3 - i))
        return i

    assert await gather_all([answer(i) for i in range(4)]) == [0, 1, 2, 3]


# -- keys

KEY = "sk-3fa85f64-5717-4562"
HEADER = "tenant-9b1deb4d-3b7d"


@pytest.fixture(autouse=True)
def _no_keys_around(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in {"DARWIN_ALIGN_API_KEY", *KEY_VARIABLES.values()}:
        monkeypatch.delenv(name, raising=False)


def sent(endpoint: Endpoint) -> dict[str, str]:
    """The headers that a server sees."""
    return call(endpoint.get, "/").data  # type: ignore[no-any-return]


async def mirror(received: ReceivedRequest) -> Response:
    return JSONResponse(dict(received.headers))


@pytest.mark.parametrize("key", [KEY, SecretStr(KEY)], ids=["text", "secret"])
def test_the_key_is_a_bearer_token(key: str | SecretStr) -> None:
    with wire(mirror) as served:
        assert sent(Endpoint(served.url, api_key=key))["authorization"] == f"Bearer {KEY}"


def test_headers_are_sent_and_may_replace_the_key() -> None:
    with wire(mirror) as served:
        seen = sent(
            Endpoint(served.url, api_key=KEY, headers={"X-Tenant": HEADER, "authorization": SecretStr("Basic x")})
        )
        assert (seen["x-tenant"], seen["authorization"]) == (HEADER, "Basic x")


def test_without_a_key_none_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    with wire(mirror) as served:
        assert "authorization" not in sent(Endpoint(served.url))
        monkeypatch.setenv("DARWIN_ALIGN_API_KEY", "")
        assert "authorization" not in sent(Endpoint(served.url))
        monkeypatch.setenv("DARWIN_ALIGN_API_KEY", KEY)
        assert "authorization" not in sent(Endpoint(served.url, api_key="")), "an empty one is a decision"
        assert sent(Endpoint(served.url))["authorization"] == f"Bearer {KEY}"


def key_of(url: str | list[str]) -> str | None:
    key = Endpoint(url)._key
    return key.get_secret_value() if key else None


@pytest.mark.parametrize("host", KEY_VARIABLES)
def test_a_providers_variable_goes_to_the_provider_alone(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLES[host], "theirs")
    assert key_of(f"https://{host}/v1") == "theirs"
    assert key_of([f"https://{host}/v1", f"https://{host}/beta"]) == "theirs"
    assert key_of(f"http://{host}/v1") is None, "never in clear"
    assert key_of(f"https://{host}.evil.example/v1") is None
    assert key_of(f"https://evil.example/{host}") is None
    assert key_of([f"https://{host}/v1", "https://evil.example"]) is None
    assert key_of("http://127.0.0.1:8000") is None
    monkeypatch.setenv("DARWIN_ALIGN_API_KEY", "ours")
    assert key_of(f"https://{host}/v1") == "theirs"
    assert key_of("http://127.0.0.1:8000") == "ours"


@pytest.mark.parametrize("key", [f"{KEY}\n", f" {KEY}", f"{KEY}é", f"{KEY}\r\nX: y", f"\u200b{KEY}", f"{KEY}\x7f"])
def test_a_key_that_no_header_can_hold(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, given in {"api_key": {"api_key": key}, "header X-Key": {"headers": {"X-Key": SecretStr(key)}}}.items():
        with pytest.raises(ConfigError, match=name) as caught:
            Endpoint("http://h", **given)
        assert KEY not in "".join(traceback.format_exception(caught.value))
    monkeypatch.setenv("DARWIN_ALIGN_API_KEY", key)
    with pytest.raises(ConfigError, match="DARWIN_ALIGN_API_KEY") as caught:
        Endpoint("http://h")
    assert KEY not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("name", ["", "X Key", "X-Key:", "X\nKey", "Schlüssel"])
def test_a_header_that_has_no_name(name: str) -> None:
    with pytest.raises(ConfigError, match="no name for a header"):
        Endpoint("http://h", headers={name: "x"})


def secretive(url: str | list[str], **more: Any) -> Endpoint:
    return Endpoint(url, api_key=KEY, headers={"X-Tenant": HEADER}, **more)


def assert_secret(text: str) -> None:
    assert KEY not in text
    assert HEADER not in text
    # Nor a part of them that would be worth something.
    assert KEY[:12] not in text
    assert HEADER[:14] not in text


ECHOES: list[Any] = [
    lambda said: JSONResponse({"error": {"message": f"Incorrect API key provided: {said}."}}, 401),
    lambda said: JSONResponse({"detail": said}, 403),
    lambda said: JSONResponse({"error": said}, 400),
    lambda said: JSONResponse({"error": "x" * 380 + said}, 422),
    lambda said: Response(f"no route for {said}", 404),
    lambda said: Response(status_code=302, headers={"location": f"https://elsewhere.example/?key={said}"}),
    lambda said: JSONResponse({"error": {"message": f"{said} has too many requests"}}, 429),
    lambda said: HTMLResponse(f"<p>{said}</p>", 503),
    lambda said: HTMLResponse(f"<p>{said}</p>", 200),
    lambda said: Response('{"a": "' + "y" * 60 + said, 200, media_type="application/json"),
    lambda said: Response(said, 500, media_type="text/plain; charset=latin-1"),
]


@pytest.mark.parametrize("echo", ECHOES)
def test_a_server_that_repeats_the_key(echo: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def answer(received: ReceivedRequest) -> Response:
        return echo(f"{received.headers['authorization']} {received.headers['x-tenant']}")  # type: ignore[no-any-return]

    with wire(answer) as served, caplog.at_level(logging.DEBUG):
        limits = Limits(attempts=2, backoff=0, breaker_failures=1, breaker_pause=0.01)
        with pytest.raises(EndpointError) as caught:
            post(secretive(served.url, limits=limits))
    assert_secret("".join(traceback.format_exception(caught.value)))
    assert_secret(repr(caught.value))
    assert_secret("\n".join(record.getMessage() for record in caplog.records if record.name != "httpcore.http11"))
    if caught.value.status != 302:
        assert "***" in str(caught.value) or "xxx" in str(caught.value)


def test_a_secret_that_holds_another_is_hidden_whole() -> None:
    with (
        wire(scripted(JSONResponse({"error": f"what is {KEY}/{HEADER}?"}, 400))) as served,
        pytest.raises(EndpointRequestError, match=r"what is \*\*\*\?"),
    ):
        post(Endpoint(served.url, api_key=KEY, headers={"X-Tenant": f"{KEY}/{HEADER}"}))


def test_short_headers_do_not_garble_messages() -> None:
    with (
        wire(scripted(JSONResponse({"error": "version 1 of 127"}, 400))) as served,
        pytest.raises(EndpointRequestError, match="version 1 of 127"),
    ):
        post(Endpoint(served.url, headers={"X-Version": "1", "X-Way": "http"}))


@pytest.mark.parametrize("fault", ["reset", "cut", "hang", "refused"])
def test_keys_stay_out_of_logs_and_errors_of_broken_connections(
    llama: Server, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    limits = Limits(attempts=2, read_timeout=0.2, backoff=0, breaker_failures=1, breaker_pause=0.01)
    with (
        FaultProxy(llama.url, faults=[fault], share=1) as proxy,
        caplog.at_level(logging.DEBUG),
        pytest.raises(EndpointError) as caught,
    ):
        post(secretive(proxy.url, limits=limits))
    assert {record.name.partition(".")[0] for record in caplog.records} >= {"darwin_align", "httpcore"}
    assert_secret(caplog.text)
    assert_secret("".join(traceback.format_exception(caught.value)))


def test_keys_stay_out_of_logs_of_answers(caplog: pytest.LogCaptureFixture) -> None:
    with wire(scripted(503, OK)) as served, caplog.at_level(logging.DEBUG):
        assert post(secretive(served.url, limits=QUICK)) == OK
        assert served.received[1].headers["authorization"] == f"Bearer {KEY}"
    assert {record.name.partition(".")[0] for record in caplog.records} >= {"darwin_align", "httpcore", "httpx"}
    assert "trying again" in caplog.text
    assert_secret(caplog.text)


def test_keys_stay_out_of_reprs() -> None:
    endpoint = secretive("http://127.0.0.1:8000/v1")
    assert repr(endpoint) == "Endpoint('http://127.0.0.1:8000')"
    for made in (endpoint, copy.copy(endpoint), copy.deepcopy(endpoint), again(endpoint)):
        assert_secret(f"{made!r} {made} {vars(made)} {made.__getstate__()}")


def test_a_pickle_goes_on_where_it_is_read() -> None:
    with wire(mirror) as served:
        endpoint = secretive(served.url, limits=Limits(concurrency=3))
        sent(endpoint)
        twin = again(endpoint)
        assert (twin.roots, twin.limits) == (endpoint.roots, endpoint.limits)
        assert (sent(twin)["authorization"], sent(twin)["x-tenant"]) == (f"Bearer {KEY}", HEADER)
        assert twin.counts == Counter(requests=2, answers=2), "its own"


# -- addresses


@pytest.mark.parametrize(
    ("url", "root"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http://127.0.0.1:8000/", "http://127.0.0.1:8000"),
        ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8000"),
        ("http://127.0.0.1:8000/v1/", "http://127.0.0.1:8000"),
        ("https://openrouter.ai/api/v1", "https://openrouter.ai/api"),
        ("http://[::1]:8000/v1", "http://[::1]:8000"),
        ("http://v1/v1", "http://v1"),
    ],
)
def test_with_and_without_v1(url: str, root: str) -> None:
    endpoint = Endpoint(url)
    assert endpoint.roots == (root,)
    assert endpoint.host in root


@pytest.mark.parametrize(
    ("url", "root"),
    [
        ("http://127.0.0.1:8000/v1/chat/completions", "http://127.0.0.1:8000"),
        ("http://127.0.0.1:8000/v1/chat/completions/", "http://127.0.0.1:8000"),
        ("http://127.0.0.1:8000/v1/completions", "http://127.0.0.1:8000"),
        ("http://127.0.0.1:8000/v1/models", "http://127.0.0.1:8000"),
        ("http://127.0.0.1:8000/completion", "http://127.0.0.1:8000"),
        ("https://api.deepseek.com/chat/completions", "https://api.deepseek.com"),
        ("https://openrouter.ai/api/v1/chat/completions", "https://openrouter.ai/api"),
        ("http://127.0.0.1:8000/classify", "http://127.0.0.1:8000"),
        ("http://127.0.0.1:8000/v1/rerank", "http://127.0.0.1:8000"),
        ("http://127.0.0.1:8000/get_reward", "http://127.0.0.1:8000"),
    ],
)
def test_the_name_of_a_call_is_cut_off_and_logged(url: str, root: str, caplog: pytest.LogCaptureFixture) -> None:
    assert Endpoint(url).roots == (root,)
    [record] = [one for one in caplog.records if "darwin_align" in one.name]
    assert f"base_url={url!r} ends with the name of a call: {root!r} is taken" in record.getMessage()
    caplog.clear()
    assert Endpoint(url, exact=True).roots == (url.rstrip("/"),)
    assert Endpoint("http://models/score-models").roots == ("http://models/score-models",)
    assert not caplog.records


def test_a_policy_and_a_scorer_take_the_address_of_a_call() -> None:
    url = "http://127.0.0.1:8000/v1/chat/completions"
    assert EndpointPolicy(url).endpoint.roots == ("http://127.0.0.1:8000",)
    assert JudgeScorer(base_url=url, model="m")._state.endpoint.roots == ("http://127.0.0.1:8000",)  # type: ignore[union-attr]
    for dialect, root in (
        ("auto", "http://h"),
        ("vllm", "http://h"),
        ("huggingface", "http://h/classify"),
    ):
        scorer = EndpointScorer(base_url="http://h/classify", dialect=dialect)
        assert scorer._state.endpoint is not None
        assert scorer._state.endpoint.roots == (root,)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "127.0.0.1:8000",
        "localhost:8000",
        "ftp://host",
        "http://",
        "http://host:port",
        "http://host:99999",
        "http://host\n",
        "http://[::1",
        None,
        8000,
    ],
)
def test_what_is_no_address(url: Any) -> None:
    with pytest.raises(ConfigError, match="base_url"):
        Endpoint([url])


@pytest.mark.parametrize(
    "url",
    [
        "http://user:hunter22@host:8000",
        "http://hunter22@host",
        "http://host/v1?api_key=hunter22",
        "http://host/v1#hunter22",
        "htp://user:hunter22@host",
        "user:hunter22@host:8000",
        "http://user:hunter22@host:port",
        "localhost:8000/v1?key=hunter22",
    ],
)
def test_an_address_that_holds_a_secret_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(ConfigError, match="base_url") as caught:
        Endpoint(url)
    assert "hunter22" not in "".join(traceback.format_exception(caught.value))


def test_no_address_at_all() -> None:
    with pytest.raises(ConfigError, match="base_url is empty"):
        Endpoint([])


def test_limits_refuse_nonsense() -> None:
    for name in Limits.model_fields:
        with pytest.raises(ConfigError, match=name):
            Limits(**{name: -1})
    with pytest.raises(ConfigError, match="did you mean 'attempts'"):
        Limits(attemps=3)  # type: ignore[call-arg]
