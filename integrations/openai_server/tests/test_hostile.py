"""One client must not stop the others: huge schemas, long texts, strange hosts, and readers that do not read."""

import asyncio
import json
import random
import socket
import string
import threading
import time
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

import httpx
import pytest
from pydantic import SecretStr

from darwin_align import DarwinChatModel
from darwin_align.backends.scripted import ScriptedPolicy
from darwin_align.integrations.openai_server.app import create_app
from darwin_align.integrations.openai_server.listening import server as listening_server
from darwin_align.integrations.openai_server.settings import SearchLimits, ServerSettings

from .conftest import KEY, TEA
from .hostile_client import CHAT
from .test_refusals import scripted


def hostile_schema(properties: int, seed: int = 0) -> dict:
    chance = random.Random(seed)
    names = ["".join(chance.choices(string.ascii_letters, k=24)) for _ in range(properties)]
    return {"type": "object", "properties": {name: {"type": "string"} for name in names}, "required": names}


def formatted(schema: dict) -> dict:
    body = {"model": "pocket:sample", "messages": [{"role": "user", "content": TEA}], "max_tokens": 4}
    return {**body, "response_format": {"type": "json_schema", "json_schema": {"name": "wide", "schema": schema}}}


@contextmanager
def others(web: httpx.Client):
    """Asks for health and for a search of its own again and again; tells how long each took."""
    health, searches, over = [], [], threading.Event()
    ask = {"model": "pocket:sample", "messages": [{"role": "user", "content": TEA}], "seed": 1, "max_tokens": 8}

    def timed(seconds, call):
        began = time.monotonic()
        assert call().status_code == 200
        seconds.append(time.monotonic() - began)

    def again(seconds, call):
        while not over.is_set():
            timed(seconds, call)
            time.sleep(0.02)

    threads = [
        threading.Thread(target=again, args=(health, lambda: web.get("/healthz"))),
        threading.Thread(target=again, args=(searches, lambda: web.post(CHAT, json=ask))),
    ]
    for thread in threads:
        thread.start()
    try:
        yield health, searches
    finally:
        over.set()
        for thread in threads:
            thread.join()


def test_a_schema_of_8000_properties_is_refused_at_once_and_stops_nobody(web):
    bodies = [formatted(hostile_schema(8000, seed)) for seed in range(2)]
    with others(web) as (health, searches):
        for body in [*bodies, bodies[0]]:
            reply = web.post(CHAT, json=body)
            assert reply.status_code == 400
            assert "takes too long to compile" in reply.json()["error"]["message"]
    assert max(health) < 2
    assert max(searches) < 5


def test_the_largest_schemas_that_are_compiled_stop_nobody(web):
    bodies = [formatted(hostile_schema(1000, seed)) for seed in range(3)]
    with others(web) as (health, searches):
        assert [web.post(CHAT, json=body).status_code for body in bodies] == [200] * 3
    assert max(health) < 2
    assert max(searches) < 5


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "patternProperties": {f"^{i}x.*": {"type": "string"} for i in range(200)}},
        {"type": "array", "prefixItems": [{"type": "integer", "minimum": i, "maximum": 10**9 + i} for i in range(200)]},
        {"anyOf": [{"const": i} for i in range(2000)]},
        {"enum": ["x" * 1000 + str(i) for i in range(300)]},
    ],
    ids=["patterns", "bounds", "alternatives", "characters"],
)
def test_other_schemas_that_take_long_to_compile_are_refused(web, schema):
    reply = web.post(CHAT, json=formatted(schema))
    assert reply.status_code == 400
    assert "more than" in reply.json()["error"]["message"]


# -- what is done on the event loop


class Lag:
    """The longest time for which an event loop ran nothing else."""

    async def __aenter__(self):
        self.longest, self._beat = 0.0, asyncio.create_task(self._watch())
        await asyncio.sleep(0)
        return self

    async def __aexit__(self, *_):
        await asyncio.sleep(0.02)  # a stop that is not over yet is seen
        self._beat.cancel()

    async def _watch(self):
        while True:
            began = time.perf_counter()
            await asyncio.sleep(0.005)
            self.longest = max(self.longest, time.perf_counter() - began)


HI = [{"role": "user", "content": "Hi"}]
WORDS = "word " * 70_000
HEAVY = {
    "a long text": ("/get_reward", {"query": [WORDS]}),
    "a long input": ("/classify", {"input": WORDS}),
    "a long turn": (CHAT, {"messages": [{"role": "user", "content": WORDS}]}),
    "a text beyond the limit": ("/get_reward", {"query": ["word " * 200_000]}),
    "conversations": (
        "/v1/rewards",
        {"conversations": [[*HI, {"role": "assistant", "content": f"{i} " * 1000}] for i in range(256)]},
    ),
    "turns": (CHAT, {"messages": HI * 20_000}),
    "wrong turns": (CHAT, {"messages": [{"role": "robot", "content": "Hi"}] * 25_000}),
    "wrong parts": (CHAT, {"messages": [{"role": "user", "content": [1] * 300_000}]}),
    "wrong inputs": ("/classify", {"input": ["x", *[1.5] * 200_000]}),
    "wrong queries": ("/get_reward", {"query": [1] * 300_000}),
    "wrong stops": (CHAT, {"messages": HI, "stop": [1] * 300_000}),
    "unknown fields": (CHAT, {"messages": HI, **{f"f{i}": 1 for i in range(60_000)}}),
}


@pytest.mark.parametrize("name", HEAVY)
async def test_no_request_of_a_megabyte_stops_the_event_loop(name, loaded):
    path, body = HEAVY[name]
    body = {"model": "toy:sample", "max_tokens": 2, **body} if path == CHAT else body
    content = json.dumps(body).encode()
    transport = httpx.ASGITransport(loaded, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=120) as client, Lag() as lag:
        reply = await client.post(path, content=content, headers={"content-type": "application/json"})
    assert reply.status_code == 400, reply.text[:300]
    assert len(reply.content) < 2000
    assert lag.longest < 1.5  # it was 3 to 20 seconds; alone it is below 0.2


@pytest.fixture(scope="module")
def loaded():
    return create_app(ServerSettings(), {"toy": DarwinChatModel()})


async def test_texts_have_a_length_at_most_wherever_they_stand():
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": json.dumps({"a": "x" * 100})}}
    long = {"role": "user", "content": "x" * 101}
    bodies = {
        "messages": (CHAT, {"model": "toy", "messages": [long]}),
        "messages ": (CHAT, {"model": "toy", "messages": [*HI, {"role": "assistant", "tool_calls": [call]}]}),
        "responses": ("/v1/rewards", {"messages": HI, "responses": ["x" * 101]}),
        "conversations": ("/v1/rewards", {"conversations": [[long, {"role": "assistant", "content": "x"}]]}),
    }
    app = create_app(ServerSettings(limits=SearchLimits(text_characters=100)), {"toy": scripted()})
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        for param, (path, body) in bodies.items():
            reply = await client.post(path, json=body)
            assert (reply.status_code, reply.json()["error"]["param"]) == (400, param.strip())
            assert "100 at most" in reply.json()["error"]["message"]


# -- what one key may have


class Patient(ScriptedPolicy):
    """Writes once it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.let = threading.Event()

    def generate(self, rows):
        assert self.let.wait(60)
        return super().generate(rows)


async def test_one_key_cannot_take_all_places():
    keys, policy = (KEY, f"{KEY}-other"), Patient()
    settings = ServerSettings(api_keys=tuple(map(SecretStr, keys)), max_searches=4, max_requests_per_key=3)
    app = create_app(settings, {"toy": scripted(policy)})
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:

        async def ask(key: str) -> httpx.Response:
            headers = {"Authorization": f"Bearer {key}"}
            return await client.post(CHAT, json={"model": "toy:sample", "messages": HI}, headers=headers)

        try:
            pending = [asyncio.create_task(ask(keys[0])) for _ in range(2)]
            while policy_is_idle(app, 2):
                await asyncio.sleep(0.01)
            third = await ask(keys[0])
            assert third.status_code == 429
            assert "2 searches of this API key are under way" in third.json()["error"]["message"]
            other = asyncio.create_task(ask(keys[1]))
            while policy_is_idle(app, 3):
                await asyncio.sleep(0.01)
        finally:
            policy.let.set()
        assert [reply.status_code for reply in await asyncio.gather(*pending, other)] == [200] * 3
        assert (await ask(keys[0])).status_code == 200


async def test_large_bodies_and_reads_of_a_key_wait_for_their_turn_and_others_do_not():
    keys = (KEY, f"{KEY}-other")
    app = create_app(ServerSettings(api_keys=tuple(map(SecretStr, keys))), {"toy": scripted()})
    large = {"model": "toy:sample", "messages": HI, "unknown": "x" * 500_000}  # an eighth of a second of the pace
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:

        async def sent(key: str, path: str = CHAT) -> int:
            headers = {"Authorization": f"Bearer {key}"}
            call = client.post(path, json=large, headers=headers) if path == CHAT else client.get(path, headers=headers)
            return (await call).status_code

        for path, status, paced in ((CHAT, 400, 6), ("/v1/models", 200, 20)):
            began = time.monotonic()
            waiting = [asyncio.create_task(sent(keys[0], path)) for _ in range(paced)]
            assert await sent(keys[1], path) == status
            assert await sent(keys[1], "/healthz") == 200
            assert not all(task.done() for task in waiting)
            assert set(await asyncio.gather(*waiting)) == {status}
            assert time.monotonic() - began > 0.5


def policy_is_idle(app, searches: int) -> bool:
    """Whether fewer searches are under way."""
    return app.state.chats.gate.busy < searches


@pytest.mark.parametrize(("given", "keys", "most"), [(None, 1, 32), (None, 2, 16), (7, 1, 7), (7, 2, 7)])
def test_what_a_key_may_have_by_default(given, keys, most):
    found = ServerSettings(max_searches_per_key=given, api_keys=[SecretStr(f"{KEY}{i}") for i in range(keys)])
    assert found.per_key("searches") == most


# -- connections


@contextmanager
def listening(**settings):
    """The application behind the server's own uvicorn, in a thread."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    given = ServerSettings(port=port, **settings)
    running = listening_server(create_app(given, {"toy": scripted()}), given)
    thread = threading.Thread(target=running.run)
    thread.start()
    try:
        while not running.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{port}"
    finally:
        running.should_exit = True
        thread.join()


def connected(url: str) -> socket.socket:
    parts = urlsplit(url)
    found = socket.create_connection((parts.hostname, parts.port), timeout=30)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    return found


def test_health_is_reported_when_all_connections_are_taken():
    with listening(max_connections=5) as url:
        idle = [connected(url) for _ in range(5)]
        try:
            assert httpx.get(f"{url}/healthz", trust_env=False).status_code == 200
            refused = httpx.get(f"{url}/v1/models", trust_env=False)
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "too_many_connections")
            assert refused.headers["retry-after"] == "5"
        finally:
            for one in idle:
                one.close()
        end = time.monotonic() + 20
        while httpx.get(f"{url}/v1/models", trust_env=False).status_code == 503:
            assert time.monotonic() < end
        more = [connected(url) for _ in range(5 + 64 + 3)]
        try:
            assert any(is_closed(one) for one in more[-3:])
        finally:
            for one in more:
                one.close()


def is_closed(one: socket.socket) -> bool:
    one.settimeout(10)
    with suppress(ConnectionError):
        return one.recv(1) == b""
    return True


@pytest.mark.slow
def test_a_client_that_does_not_read_is_not_waited_for():
    """It asks again and again over one connection, until the server can write no more."""
    request = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with listening(write_seconds=0.5) as url, connected(url) as stalled:
        stalled.settimeout(30)
        with pytest.raises(ConnectionError):
            send_for_ever(stalled, request * 20)
        assert httpx.get(f"{url}/healthz", trust_env=False).status_code == 200


def send_for_ever(client: socket.socket, content: bytes) -> None:
    while True:
        client.sendall(content)
        time.sleep(0.01)


def test_a_client_that_reads_slowly_gets_its_answer():
    request = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    with listening(write_seconds=0.5) as url, connected(url) as slow:
        slow.sendall(request)
        received = b""
        while piece := slow.recv(2048):
            received += piece
            time.sleep(0.05)
        assert received.endswith(b"}")
