"""LangChain's standard unit tests, whole."""

from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_tests.unit_tests import ChatModelUnitTests

from darwin_align import DarwinChatModel


class TestUnit(ChatModelUnitTests):
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return DarwinChatModel

    @property
    def standard_chat_model_params(self) -> dict[str, Any]:
        # There is no server, so timeout, max_retries and api_key are refused as any other unknown setting.
        return {"temperature": 0, "max_tokens": 100, "stop": []}
