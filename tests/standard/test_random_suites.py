"""LangChain's standard tests, whole, on a policy and a reward model of random weights."""

from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from tests.standard.random_kit import random_params
from tests.standard.suite import IntegrationSuite, Suite

pytestmark = pytest.mark.slow

VALUE = (
    "the call is made, of the right tool, and copies a word of the request, but which one is chance: what is meant is "
    "nothing that weights of chance know"
)


class TestRandomIntegration(IntegrationSuite, ChatModelIntegrationTests):
    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {**random_params(), "max_tokens": 256}

    @pytest.mark.xfail(reason=VALUE, strict=True)
    def test_unicode_tool_call_integration(self, model: BaseChatModel) -> None:
        super().test_unicode_tool_call_integration(model)


class TestRandomUnit(Suite, ChatModelUnitTests):
    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {name: value for name, value in random_params().items() if name != "temperature"}
