"""Settings are those of the library's own tests; the server is a process of its own, started once."""

import tests.conftest  # noqa: F401, I001 - first: it sets the environment

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import openai
import pytest

from benchmarks.servers.launch import Server, free_port, start
from darwin_align import DarwinChatModel

KEY = "sk-test-0123456789abcdef"
TEA = "How do I brew green tea?"


@contextmanager
def serving(*options: str, key: str = KEY, deadline: float = 180, grace: float = 10) -> Iterator[Server]:
    """The command itself, as a process."""
    port = free_port()
    command = [sys.executable, "-m", "darwin_align.integrations.openai_server", "--port", str(port), *options]
    environment = {"DARWIN_ALIGN_SERVER_KEYS": key}
    with start(
        command, port=port, deadline=deadline, grace=grace, environment=environment, health="/healthz"
    ) as server:
        yield server


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    with serving("--max-searches", "8", "--limit-seconds", "90") as server:
        yield server


@pytest.fixture(scope="session")
def web(server: Server) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {KEY}"}
    with httpx.Client(base_url=server.url, headers=headers, timeout=120, trust_env=False) as client:
        yield client


@pytest.fixture(scope="session")
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0, timeout=120) as client:
        yield client


@pytest.fixture(scope="session")
def pair() -> DarwinChatModel:
    return DarwinChatModel()


def metric(web: httpx.Client, name: str, **labels: str) -> float:
    """The sum of a metric's samples with these labels."""
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    lines = web.get("/metrics").text.splitlines()
    found = [line for line in lines if line.startswith((f"{name} ", f"{name}{{")) and all(w in line for w in wanted)]
    return sum(float(line.rpartition(" ")[2]) for line in found)
