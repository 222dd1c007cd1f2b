"""Settings of every test: no hub, one thread for tiny models. And real servers, started when a test first asks."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("LANGSMITH_TRACING", "false")

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.servers.gguf_file import write_gguf
from benchmarks.servers.launch import Server, llama_server, transformers_serve
from darwin_align.pocket import policy_path


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
