"""One client must not stop the others: huge schemas, long texts, strange hosts, and readers that do not read."""

import random
import string
import threading
import time
from contextlib import contextmanager

import httpx
import pytest

from .conftest import TEA

CHAT = "/v1/chat/completions"


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
