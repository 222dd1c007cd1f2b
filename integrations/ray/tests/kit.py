"""Models that workers can make by name."""

from typing import Any

from darwin_align import SearchConfig
from darwin_align.backends.scripted import ScriptedPolicy, ScriptedScorer
from darwin_align.core.errors import EndpointConnectionError
from darwin_align.search import DarwinSearch

QUICK = SearchConfig(cycles=1, mutations=2, mutator="identity")


def scripted() -> DarwinSearch:
    return DarwinSearch(policy=ScriptedPolicy(), scorer=ScriptedScorer(), config=QUICK)


def two_cycles() -> DarwinSearch:
    return DarwinSearch(policy=ScriptedPolicy(), scorer=ScriptedScorer(), config=QUICK.replace(cycles=2))


def away() -> DarwinSearch:
    def score(request: Any, responses: Any) -> list[float]:
        if "two" in request.instruction:
            raise EndpointConnectionError("nobody answers")
        return ScriptedScorer().score(request, responses)

    return DarwinSearch(policy=ScriptedPolicy(), scorer=score, config=QUICK)
