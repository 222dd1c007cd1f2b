"""LangChain's standard tests, whole, on the embedded policy behind a URL: llama.cpp's own server, by token ids."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_tests.integration_tests import ChatModelIntegrationTests

from benchmarks.servers.launch import Server, llama_server
from tests.standard.endpoint_kit import endpoint_params
from tests.standard.suite import IntegrationSuite

pytestmark = pytest.mark.slow

CHINESE = (
    "the call is made, of the right tool, but with another word of the request, as by the same policy on this machine: "
    "its training never wrote a letter of this script, so it cannot tell them apart"
)


@pytest.fixture(scope="module")
def alone(embedded_gguf: Path) -> Iterator[Server]:
    """One slot: under a seed it repeats itself, so what is expected to fail fails every time."""
    with llama_server(embedded_gguf, slots=1, context=2048) as server:
        yield server


class TestEndpointIntegration(IntegrationSuite, ChatModelIntegrationTests):
    @pytest.fixture(autouse=True)
    def _served(self, alone: Server) -> None:
        self.url = alone.url

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {**endpoint_params(self.url), "max_tokens": 96}

    @pytest.mark.xfail(reason=CHINESE, strict=True)
    def test_unicode_tool_call_integration(self, model: BaseChatModel) -> None:
        super().test_unicode_tool_call_integration(model)
