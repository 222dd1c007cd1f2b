"""LangChain's standard integration tests, whole, on the embedded pair."""

from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_tests.integration_tests import ChatModelIntegrationTests

from tests.standard.kit import pocket_params
from tests.standard.suite import IntegrationSuite

CHINESE = (
    "the call is made, of the right tool, but with another word of the request: the embedded policy's training never "
    "wrote a letter of this script, so the tokens of all such letters share one embedding: it cannot tell them apart, "
    "and no seed or beam proposes one"
)


class TestIntegration(IntegrationSuite, ChatModelIntegrationTests):
    @property
    def chat_model_params(self) -> dict[str, Any]:
        return pocket_params()

    @pytest.mark.xfail(reason=CHINESE, strict=True)
    def test_unicode_tool_call_integration(self, model: BaseChatModel) -> None:
        super().test_unicode_tool_call_integration(model)
