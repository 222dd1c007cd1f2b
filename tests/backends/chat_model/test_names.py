"""Chat models by name."""

from __future__ import annotations

import sys

import pytest

from benchmarks.servers.launch import Server
from darwin_align import DarwinChatModel
from darwin_align.backends.chat_model import chat_model_of
from darwin_align.core.errors import ConfigError, MissingPackageError
from tests.backends.chat_model.kit import TEA, length


def test_a_model_by_its_providers_name(llama: Server) -> None:
    chat = chat_model_of("openai:embedded", base_url=f"{llama.url}/v1", api_key="none")
    answer = DarwinChatModel(policy=chat, scorer=length, cycles=0, max_tokens=6, seed=1).invoke(TEA)
    assert answer.usage_metadata["output_tokens"] == 6


@pytest.mark.parametrize("name", ["gpt-5", "Qwen/Qwen3-8B", "http://127.0.0.1:8000"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="give 'provider:model'"):
        chat_model_of(name)


def test_an_unknown_provider_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no chat model 'nobody:x' can be made: .*nobody"):
        chat_model_of("nobody:x")


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingPackageError, match=r"needs its provider's package: .*langchain-anthropic"):
        chat_model_of("anthropic:claude")
    monkeypatch.setitem(sys.modules, "langchain.chat_models", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'darwin-align\[langgraph\]'"):
        chat_model_of("openai:gpt-5")
