"""A GGUF file of the embedded policy, and a cache folder of the session's own."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from darwin_align.backends.llama_cpp import LlamaCppPolicy


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    before = os.environ.get("DARWIN_ALIGN_CACHE")
    os.environ["DARWIN_ALIGN_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    del os.environ["DARWIN_ALIGN_CACHE"]
    if before is not None:
        os.environ["DARWIN_ALIGN_CACHE"] = before


@pytest.fixture(scope="module")
def policy(embedded_gguf: Path) -> LlamaCppPolicy:
    return LlamaCppPolicy(embedded_gguf, slots=8, context=1024, threads=1)


@pytest.fixture(scope="module")
def alone(embedded_gguf: Path) -> LlamaCppPolicy:
    """One slot: under a seed it repeats itself."""
    return LlamaCppPolicy(embedded_gguf, slots=1, context=1024, threads=1)
