"""LangChain's standard integration tests, whole, on the embedded pair."""

from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_tests.integration_tests import ChatModelIntegrationTests

from darwin_align import DarwinChatModel
from tests.standard.kit import pocket_params

CHINESE = (
    "the call is made, of the right tool, but with another word of the request: the embedded policy's training never "
    "wrote a letter of this script, so the tokens of all such letters share one embedding: it cannot tell them apart, "
    "and no seed or beam proposes one"
)


class TestIntegration(ChatModelIntegrationTests):
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return DarwinChatModel

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return pocket_params()

    @property
    def supports_model_override(self) -> bool:
        return False  # a search has its models, and no call can name another

    @property
    def supports_anthropic_inputs(self) -> bool:
        return True

    @pytest.mark.xfail(reason=CHINESE, strict=True)
    def test_unicode_tool_call_integration(self, model: BaseChatModel) -> None:
        super().test_unicode_tool_call_integration(model)
