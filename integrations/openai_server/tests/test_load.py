"""Many clients at once: answers or 429s with Retry-After, and memory that stays."""

import asyncio
import json
import random
import time
from dataclasses import dataclass, field

import httpx
import pytest

from .conftest import KEY, TEA, metric, serving

CHAT = "/v1/chat/completions"
MIB = 1 << 20


@dataclass
class Tally:
    seconds: list[float] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def percentile(self, share: float) -> float:
        return sorted(self.seconds)[min(len(self.seconds) - 1, int(share * len(self.seconds)))]


async def one_client(url: str, number: int, end: float, tally: Tally) -> None:
    """Ask again and again; a 429 is waited out as it says."""
    chance = random.Random(number)
    limits = httpx.Timeout(120)
    async with httpx.AsyncClient(
        base_url=url, timeout=limits, trust_env=False, headers={"Authorization": f"Bearer {KEY}"}
    ) as web:
        while time.monotonic() < end:
            path, body = _request(chance)
            began = time.monotonic()
            reply = await web.post(path, json=body)
            tally.statuses[reply.status_code] = tally.statuses.get(reply.status_code, 0) + 1
            if reply.status_code == 429:
                await asyncio.sleep(min(float(reply.headers["retry-after"]), max(0, end - time.monotonic())))
            elif reply.status_code == 200 and _is_whole(reply, body):
                tally.seconds.append(time.monotonic() - began)
            else:
                tally.wrong.append(f"{reply.status_code}: {reply.text[:300]}")


def _request(chance: random.Random) -> tuple[str, dict]:
    turns = [{"role": "user", "content": TEA}]
    if chance.random() < 0.2:
        return "/v1/rewards", {"messages": turns, "responses": [f"Boil {chance.randrange(100)} cups.", "No."]}
    preset = chance.choice(["sample", "best_of_n", "sample_replace", "darwin"])
    body = {"model": f"pocket:{preset}", "messages": turns, "seed": chance.randrange(100), "max_tokens": 48}
    return CHAT, {**body, "stream": chance.random() < 0.5, "darwin": {"cycles": int(preset != "sample")}}


def _is_whole(reply: httpx.Response, body: dict) -> bool:
    if body.get("stream"):
        return reply.text.endswith("data: [DONE]\n\n") and '"finish_reason":"' in reply.text
    return bool(json.loads(reply.text).get("choices") or json.loads(reply.text).get("data"))


def load(url: str, clients: int, seconds: float) -> Tally:
    tally, end = Tally(), time.monotonic() + seconds

    async def all_of_them() -> None:
        await asyncio.gather(*[one_client(url, number, end, tally) for number in range(clients)])

    asyncio.run(all_of_them())
    return tally


def test_more_clients_than_places_get_answers_or_are_refused_with_a_time_to_retry(server, web):
    tally = load(server.url, clients=24, seconds=4)
    assert tally.wrong == []
    assert tally.statuses.keys() == {200, 429}
    assert metric(web, "darwin_requests_in_flight") == 0
    assert metric(web, "darwin_engine_slots_in_use") == 0


@pytest.mark.slow
def test_sixty_four_clients_for_a_minute_leave_memory_flat(record_property, capsys):
    with serving("--max-searches", "32") as server:
        headers = {"Authorization": f"Bearer {KEY}"}
        with httpx.Client(base_url=server.url, headers=headers, timeout=60, trust_env=False) as web:
            load(server.url, clients=64, seconds=20)  # until every cache has its size
            before = metric(web, "process_resident_memory_bytes") / MIB
            tally = load(server.url, clients=64, seconds=60)
            after = metric(web, "process_resident_memory_bytes") / MIB
            failed = metric(web, "darwin_requests_total", status="500")
            in_use = metric(web, "darwin_engine_slots_in_use")
    figures = {
        "answers": tally.statuses.get(200, 0),
        "told to come back": tally.statuses.get(429, 0),
        "p50 s": round(tally.percentile(0.5), 2),
        "p99 s": round(tally.percentile(0.99), 2),
        "RSS before MiB": round(before),
        "RSS after MiB": round(after),
    }
    with capsys.disabled():
        print(f"\n64 clients, 60 s: {figures}")
    record_property("load", figures)
    assert tally.wrong == []
    assert (failed, in_use) == (0, 0)
    assert after < before + 48
