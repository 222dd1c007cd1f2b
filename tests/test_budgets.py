"""Budgets reach into a question: rewording, decoding and scoring end in time, if it allows with a whole answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from benchmarks.servers.launch import Server
from darwin_align import Budget, DarwinSearch, SearchConfig, SearchResult
from darwin_align.backends.endpoint import EndpointPolicy
from darwin_align.backends.scripted import ScriptedPolicy, ScriptedScorer
from darwin_align.core.types import Request, Response
from darwin_align.operators.policy import Continuation, Row
from darwin_align.pocket import policy_path
from darwin_align.pocket.pair import pocket_search
from darwin_align.traces import Trace
from tests.core.kit import timeless

QUESTION = "How do I brew green tea?"
FOREVER = 600.0
ENDED = 60.0
"""Seconds within which a search that would wait for ever otherwise must have ended, however busy the machine is."""


class SlowPolicy(ScriptedPolicy):
    """Takes a while for every token, and cannot be stopped at one: what a slow server is like."""

    def __init__(self, seconds: float, **options: Any) -> None:
        super().__init__(**options)
        self.seconds = seconds
        self.pieces: list[int] = []

    async def generate(self, rows: Sequence[Row]) -> list[Continuation]:  # type: ignore[override]
        found = super().generate(rows)
        self.pieces.append(max(row.max_tokens for row in rows))
        await asyncio.sleep(self.seconds * max(one.new_tokens for one in found))
        return found


async def never(*_: Any) -> Any:
    await asyncio.sleep(FOREVER)


def reword(request: Request, instruction: str, n: int, seed: int) -> list[str]:
    return [f"{instruction} {i}" for i in range(n)]


def search_of(seconds: float, **parts: Any) -> DarwinSearch:
    return DarwinSearch(
        **{"policy": ScriptedPolicy(), "scorer": ScriptedScorer(), "mutator": reword, "guard": None, **parts},
        config=SearchConfig(seed=1, replacement_period=4, max_new_tokens=400, budget=Budget(seconds=seconds)),
    )


def both(search: DarwinSearch) -> list[SearchResult]:
    """Its results by the sync and by the async driver, each in time."""
    begun = time.monotonic()
    results = [search.invoke("Hi"), asyncio.run(search.ainvoke("Hi"))]
    assert time.monotonic() - begun < 2 * ENDED
    return results


def test_a_mutator_that_never_answers() -> None:
    for result in both(search_of(0.4, mutator=never)):
        assert result.stop_reason == "budget: seconds"
        assert (result.text, result.best.finish_reason) == (result.first_response.text, "stop")
        assert result.reward is not None
        assert result.events[-1].interrupted
        assert result.events[-1].operator == "mutate"
        assert result.failure is None


def test_a_scorer_that_stops_answering_leaves_the_best_so_far() -> None:
    def tiring(answers: int) -> Callable[..., Any]:
        async def score(request: Request, responses: Sequence[Response]) -> list[float]:
            nonlocal answers
            answers -= 1
            if answers < 0:
                await asyncio.sleep(FOREVER)
            return [float(response.text.count("good")) for response in responses]

        return score

    for answers in (1, 2, 3, 4):
        result = search_of(0.5, scorer=tiring(answers)).invoke("Hi")
        assert result.stop_reason == "budget: seconds"
        assert result.best.finished
        assert result.reward == result.text.count("good")


def test_a_scorer_that_never_answers_leaves_the_plain_sample() -> None:
    for result in both(search_of(0.4, scorer=never)):
        assert result.stop_reason == "budget: seconds"
        assert (result.text, result.reward) == (result.first_response.text, None)
        assert result.best.finish_reason == "stop"


def test_a_policy_that_never_answers_leaves_nothing_and_a_note() -> None:
    class Silent:
        generate = staticmethod(never)

    for result in both(search_of(0.4, policy=Silent())):
        assert (result.text, result.best.finish_reason) == ("", "length")
        assert result.stop_reason == "budget: seconds"
        assert "is smaller than one whole answer, which was cut after 0 tokens" in result.notes[0]


def test_a_slow_policy_is_called_for_pieces_that_fit() -> None:
    policy = SlowPolicy(0.02, length=10**6)
    result = search_of(1.0, policy=policy).invoke("Hi")
    assert result.first_response.finish_reason == "length"
    assert 16 <= result.first_response.length < 400
    assert result.usage.decoded_tokens == result.first_response.length
    assert policy.pieces[0] == 16
    assert len(policy.pieces) < 20


def test_a_slow_policy_answers_whole_before_anything_is_reworded() -> None:
    policy = SlowPolicy(0.005, length=12)
    result = search_of(0.3, policy=policy).invoke("Hi")
    assert result.first_response.finish_reason == "stop"
    assert [event.operator for event in result.events[:3]] == ["decode", "score", "mutate"]
    assert result.first_response == search_of(FOREVER).invoke("Hi").first_response.model_copy(
        update={"reward": result.first_response.reward}
    )


def test_a_search_that_was_interrupted_replays() -> None:
    search = search_of(0.4, mutator=never)
    result = search.invoke("Hi")
    again = search.invoke("Hi", replay=result.events)
    assert timeless(again) == timeless(result)
    assert Trace.of(result).lineage().answer.text == result.text
    assert "<html" in Trace.of(result).to_html()


# -- the embedded pair


@pytest.mark.parametrize("tokens", [20, 150, 400])
def test_rewording_spends_what_is_left(tokens: int) -> None:
    search = pocket_search(SearchConfig(seed=1, cycles=3, budget=Budget(tokens=tokens)))
    result = search.invoke(QUESTION)
    assert result.usage.decoded_tokens <= tokens + search.config.beams
    assert result.stop_reason == "budget: tokens"
    assert result.first_response.finish_reason == ("length" if tokens == 20 else "stop")
    assert result.reward >= result.first_response.reward


def test_seconds_of_the_embedded_pair() -> None:
    search = pocket_search(SearchConfig(seed=1, cycles=50, max_new_tokens=1000, budget=Budget(seconds=2.0)))
    result = search.invoke(QUESTION)
    assert result.stop_reason == "budget: seconds"
    assert result.best.finished
    # Within a tenth, were the machine not busy: no step of this search takes so long.
    assert result.usage.seconds < 2 * 2.0
    assert timeless(search.invoke(QUESTION, seed=1, replay=result.events)) == timeless(result)


# -- over the wire


def test_seconds_over_the_wire(llama: Server) -> None:
    policy = EndpointPolicy(llama.url, tokenizer=policy_path(), continuation="ids")
    parts = {name: getattr(pocket_search(), name) for name in ("scorer", "mutation_prompt", "guard")}
    config = SearchConfig(seed=1, cycles=50, max_new_tokens=400, budget=Budget(seconds=3.0))
    search = DarwinSearch(policy=policy, config=config, **parts)
    search.invoke(QUESTION, cycles=0, budget=Budget())  # what the server is, is found out once
    result = search.invoke(QUESTION)
    assert result.stop_reason == "budget: seconds"
    assert result.best.finished
    assert result.usage.seconds < 2 * 3.0
