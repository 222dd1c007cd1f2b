"""LangChain's standard tests, whole, on a policy and a reward model of random weights."""

from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from darwin_align import DarwinChatModel
from tests.standard.random_kit import random_params

pytestmark = pytest.mark.slow

VALUE = (
    "the call is made, of the right tool, and copies a word of the request, but which one is chance: what is meant is "
    "nothing that weights of chance know"
)


class TestRandomIntegration(ChatModelIntegrationTests):
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return DarwinChatModel

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {**random_params(), "max_tokens": 256}

    @property
    def supports_model_override(self) -> bool:
        return False  # a search has its models, and no call can name another

    @property
    def supports_anthropic_inputs(self) -> bool:
        return True

    @pytest.mark.xfail(reason=VALUE, strict=True)
    def test_unicode_tool_call_integration(self, model: BaseChatModel) -> None:
        super().test_unicode_tool_call_integration(model)


class TestRandomUnit(ChatModelUnitTests):
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return DarwinChatModel

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {name: value for name, value in random_params().items() if name != "temperature"}

    @property
    def standard_chat_model_params(self) -> dict[str, Any]:
        # Nothing is far away, so timeout, max_retries and api_key are refused as any other unknown setting.
        return {"temperature": 0, "max_tokens": 100, "stop": []}
