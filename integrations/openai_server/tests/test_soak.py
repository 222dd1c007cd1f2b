"""One hostile client beside honest ones: what the honest ones wait, alone and beside it."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from benchmarks.servers.launch import Server, free_port, start

from .conftest import KEY, TEA, metric
from .hostile_client import CHAT

HOSTILE = "sk-hostile-0123456789abcdef"
SCRIPT = """
import sys
from darwin_align import DarwinChatModel
from darwin_align.integrations.openai_server.app import create_app
from darwin_align.integrations.openai_server.listening import server
from darwin_align.integrations.openai_server.settings import ServerSettings
settings = ServerSettings(
    port=int(sys.argv[1]), api_keys=sys.argv[2:], allowed_hosts=("search.example.org",), body_seconds=3,
    write_seconds=3, max_searches=16, max_scorings=8, max_searches_per_key=8, max_scorings_per_key=2,
    max_requests_per_key=48,
)
server(create_app(settings, {"pocket": DarwinChatModel()}), settings).run()
"""


@contextmanager
def served() -> Iterator[Server]:
    port = free_port()
    command = [sys.executable, "-c", SCRIPT, str(port), KEY, HOSTILE]
    with start(command, port=port, deadline=120, grace=10, health="/healthz") as server:
        yield server


def client(url: str, key: str) -> httpx.Client:
    return httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=120, trust_env=False)


# -- the honest


def honest(url: str, seconds: float) -> dict[str, list[float]]:
    """Seconds that each kind of request took, of three clients that ask one after the other."""
    turns = [{"role": "user", "content": TEA}]
    asks: dict[str, Callable[[httpx.Client], httpx.Response]] = {
        "health": lambda web: web.get("/healthz"),
        "search": lambda web: web.post(CHAT, json={"model": "pocket:sample", "messages": turns, "max_tokens": 8}),
        "reward": lambda web: web.post("/v1/rewards", json={"messages": turns, "responses": ["Boil it.", "No."]}),
    }
    took: dict[str, list[float]] = {name: [] for name in asks}
    wrong: list[str] = []
    end = time.monotonic() + seconds

    def again(name: str) -> None:
        with client(url, KEY) as web:
            while time.monotonic() < end:
                began = time.monotonic()
                reply = asks[name](web)
                took[name].append(time.monotonic() - began)
                if reply.status_code != 200:
                    wrong.append(f"{name}: {reply.status_code} {reply.text[:200]}")
                time.sleep(0.05)

    threads = [threading.Thread(target=again, args=(name,)) for name in asks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    return took


def percentiles(took: dict[str, list[float]]) -> dict[str, tuple[float, float]]:
    """Median and 99th percentile."""
    ordered = {name: sorted(seconds) for name, seconds in took.items()}
    return {name: (one[len(one) // 2], one[min(len(one) - 1, int(0.99 * len(one)))]) for name, one in ordered.items()}


# -- the hostile


@contextmanager
def hostile(url: str) -> Iterator[dict[str, int]]:
    """Attacks as long as the block runs; gives how often each status came once it has ended."""
    statuses: dict[str, int] = {}
    command = [sys.executable, Path(__file__).with_name("hostile_client.py"), url, HOSTILE]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        assert process.stdout is not None
        assert process.stdout.readline() == "attacking\n"
        try:
            yield statuses
        finally:
            out, _ = process.communicate(timeout=120)
            assert process.returncode == 0
            statuses.update(json.loads(out))


def soak(seconds: float) -> tuple[dict[str, tuple[float, float]], dict[str, tuple[float, float]]]:
    """Median and 99th percentile of the honest, alone and beside the hostile."""
    with served() as server:
        honest(server.url, 1)  # until everything is loaded
        alone = percentiles(honest(server.url, seconds))
        with hostile(server.url) as statuses:
            beside = percentiles(honest(server.url, seconds))
        with client(server.url, KEY) as web:
            assert metric(web, "darwin_requests_total", status="500") == 0
        assert {"400", "421"} <= set(statuses) <= {"200", "400", "408", "421", "429"}
    return alone, beside


def shown(alone: dict[str, tuple[float, float]], beside: dict[str, tuple[float, float]]) -> str:
    return "\n".join(
        f"{name}: alone p50 {alone[name][0]:.3f} s, p99 {alone[name][1]:.3f} s; "
        f"beside p50 {beside[name][0]:.3f} s, p99 {beside[name][1]:.3f} s"
        for name in alone
    )


@pytest.mark.slow
def test_honest_clients_are_served_beside_a_hostile_one(capsys):
    alone, beside = soak(2)
    with capsys.disabled():
        print(f"\n{shown(alone, beside)}")
    # Each of several of its requests alone stopped all for 10 to 33 s. Other work on the machine is allowed for.
    assert beside["health"][1] < 8
    assert max(p99 for _, p99 in beside.values()) < 30


@pytest.mark.slow
def test_the_honest_wait_at_most_three_times_as_long(record_property, capsys):
    alone, beside = soak(60)
    with capsys.disabled():
        print(f"\n{shown(alone, beside)}")
    record_property("soak", shown(alone, beside))
    for name, (_, p99) in beside.items():
        # Below a tenth of a second the machine's own noise is larger than what the server does.
        assert p99 <= 3 * max(alone[name][1], 0.1), name
