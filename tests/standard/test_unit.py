"""LangChain's standard unit tests, whole."""

from typing import Any

from langchain_tests.unit_tests import ChatModelUnitTests

from tests.standard.suite import Suite


class TestUnit(Suite, ChatModelUnitTests):
    @property
    def standard_chat_model_params(self) -> dict[str, Any]:
        # There is no server, so timeout, max_retries and api_key are refused as any other unknown setting.
        return {"temperature": 0, "max_tokens": 100, "stop": []}
