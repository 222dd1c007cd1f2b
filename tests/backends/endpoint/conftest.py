"""Real servers of the embedded policy, started when a test first asks and once a session."""

from __future__ import annotations

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
