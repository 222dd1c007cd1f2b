"""Settings of every test: no hub, one thread for tiny models. And real servers, started when a test first asks."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("LANGSMITH_TRACING", "false")

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
import torch
from hypothesis import settings

from benchmarks.servers.gguf_file import write_gguf
from benchmarks.servers.launch import Server, llama_server, transformers_serve
from darwin_align.pocket import policy_path

settings.register_profile("darwin", deadline=None, max_examples=8, database=None, derandomize=True)
settings.register_profile("thorough", settings.get_profile("darwin"), max_examples=200)  # of `make test-slow`
if settings.get_current_profile_name() in ("default", "ci"):  # none was chosen by --hypothesis-profile
    settings.load_profile("darwin")

LONGEST = (
    "backends/local/engine/test_equality.py",
    "cli/test_commands.py",
    "standard/test_integration.py",
    "backends/endpoint/test_search.py",
    "evaluation/test_eval_commands.py",
    "backends/endpoint/test_pool.py",
    "backends/local/test_policy.py",
    "test_pocket_pair.py",
    "test_search.py",
)
"""They take half a minute or more, some with few tests."""


def pytest_configure(config: pytest.Config) -> None:
    """Let files be handed to the processes of pytest-xdist in the order below, and not by their numbers of tests."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that none of them is begun when all others are done."""
    first = {Path(__file__).parent / name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: first.get(item.path, len(first)))


def seed_torch(name: str) -> None:
    """Seed the CPU's generator alone: ``torch.manual_seed`` keeps the stack for every device that is not in use."""
    torch.default_generator.manual_seed(crc32(name.encode()))


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any]) -> None:
    """Give a fixture the same random weights whichever tests ran before it."""
    seed_torch(fixturedef.argname)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    seed_torch(item.nodeid)


@pytest.fixture(scope="session")
def embedded_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(policy_path(), tmp_path_factory.mktemp("gguf") / "policy.gguf")


@pytest.fixture(scope="session")
def llama(embedded_gguf: Path) -> Iterator[Server]:
    with llama_server(embedded_gguf, slots=8) as server:
        yield server


@pytest.fixture(scope="session")
def serve() -> Iterator[Server]:
    with transformers_serve(policy_path()) as server:
        yield server
