"""LangChain's standard unit tests, whole, with its own parameters."""

from typing import Any

from langchain_tests.unit_tests import ChatModelUnitTests

from darwin_align import Request, Response
from tests.standard.suite import Suite


class TestUnit(Suite, ChatModelUnitTests):
    """The embedded pair: a key, a timeout and retries mean nothing to it, and are taken."""


class TestEndpointUnit(Suite, ChatModelUnitTests):
    """Nobody listens there: a model is made, described and bound without asking its server."""

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": "policy", "base_url": "http://127.0.0.1:9", "reward": by_length, "seed": 5}

    @property
    def init_from_env_params(self) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
        return {"DARWIN_ALIGN_API_KEY": "api_key"}, self.chat_model_params, {}


def by_length(request: Request, responses: list[Response]) -> list[float]:
    return [float(len(response.text)) for response in responses]
