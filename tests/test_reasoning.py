"""Reasoning models in a search: thoughts move with the text, and nobody reads them for it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from darwin_align import DarwinChatModel, DarwinSearch, Request, SearchConfig
from darwin_align.backends.scripted import ScriptedPolicy
from darwin_align.core.types import Beam
from darwin_align.operators import FunctionScorer, MutationContext, PolicyMutator
from darwin_align.operators.messages import from_langchain
from darwin_align.operators.policy import Capabilities, Continuation, Row
from darwin_align.traces import Trace

END = "</think>"
GOOD = ("good", "fair", "poor", "bad")


class Thinker(ScriptedPolicy):
    """Words up to "</think>" are thoughts; how many there are depends on the row's seed."""

    def __init__(self, *, stops: bool, most: int = 9, **settings: Any) -> None:
        super().__init__(**settings)
        self.vocabulary.append(END)
        self.most, self.stops = most, stops
        self.capabilities = Capabilities(stops_at_text=stops)

    def generate(self, rows: Sequence[Row]) -> list[Continuation]:
        return [self._split(row, self._continue(row)) for row in rows]

    def _token(self, row: Row, script: list[str] | None, position: int) -> int:
        begun = row.tokens and not row.thinking
        if script is None and not begun and position == 1 + row.seed % self.most:
            return self.vocabulary.index(END)
        return super()._token(row, script, position)

    def _split(self, row: Row, found: Continuation) -> Continuation:
        words = found.text.split()
        if END not in words:
            return replace(found, text="", thoughts=found.text, thinking=True, text_from=len(found.tokens))
        at = words.index(END)
        if row.to_text and self.stops and at >= len(row.tokens) and at + 1 < len(found.tokens):
            tokens = found.tokens[: at + 1]
            found = replace(found, tokens=tokens, new_tokens=len(tokens) - len(row.tokens), finish_reason=None)
            words = words[: at + 1]
        text = " ".join(words[at + 1 :])
        return replace(found, text=text, thoughts=" ".join(words[:at]), text_from=at + 1)


def count_good(request: Request, responses: Sequence[Any]) -> list[float]:
    assert all(END not in response.text for response in responses)
    return [float(response.text.split().count("good")) for response in responses]


def search_of(*, stops: bool = True, scorer: Any = count_good, **settings: Any) -> DarwinSearch:
    config = {"mutations": 4, "cycles": 2, "replacement_period": 3, "max_new_tokens": 30, "seed": 3, **settings}
    policy = Thinker(stops=stops, length=24)
    return DarwinSearch(policy=policy, scorer=scorer, config=SearchConfig(mutator="identity", **config))


@pytest.mark.parametrize("stops", [True, False])
def test_thoughts_and_text_are_apart_and_move_together(stops):
    result = search_of(stops=stops).invoke("Hi")
    assert result.thoughts
    assert result.text
    assert result.usage.decoded_tokens >= result.best.length
    for beam in result.ranking:
        words = [*beam.thoughts.split(), *beam.text.split()]
        assert len(words) + 2 == beam.length  # the mark and the end
        assert beam.response.tokens == beam.tokens[beam.text_from :]
    taken = [beam for beam in result.ranking if beam.ancestor is not None]
    assert taken


def test_texts_begin_together():
    sizes: list[int] = []

    def note(event: Any, population: Any) -> None:
        if event.operator == "score":
            sizes.extend(len(population.beams[i].text.split()) for i in population.contenders)

    search_of(cycles=1).invoke("Hi", on_event=note)
    assert set(sizes[:4]) == {3}


def test_a_replay_and_a_trace_of_thoughts():
    search = search_of()
    result = search.invoke("Hi")
    again = search.invoke("Hi", replay=result.events)
    assert (again.text, again.thoughts) == (result.text, result.thoughts)
    trace = Trace.from_json(Trace.of(result).to_json())
    assert trace.result.thoughts == result.thoughts
    assert f">Thoughts, {len(result.thoughts)} characters<" in trace.to_html()
    assert trace.lineage().answer.thoughts == result.thoughts


@pytest.mark.parametrize("preset", ["best_of_n", "smc", "speculative_rejection"])
def test_every_method_takes_them(preset):
    config = SearchConfig.preset(preset, seed=3, max_new_tokens=30)
    result = DarwinSearch(policy=Thinker(stops=True, length=24), scorer=count_good, config=config).invoke("Hi")
    assert result.thoughts
    assert END not in result.text


def test_endless_thoughts_are_no_answer():
    search = search_of(max_new_tokens=6)
    search.policy.most = 1000  # type: ignore[attr-defined]
    result = search.invoke("Hi")
    assert (result.text, result.reward, result.best.valid) == ("", None, False)
    assert any("no answer came behind the thoughts" in note for note in result.notes)
    assert any("ended within its thoughts" in note for note in result.notes)


def test_a_first_response_that_only_thinks_leaves_the_search_going():
    class Slow(Thinker):
        def _token(self, row: Row, script: list[str] | None, position: int) -> int:
            return 1 if row.seed == self.first else super()._token(row, script, position)

        def generate(self, rows: Sequence[Row]) -> list[Continuation]:
            self.first = self.first or rows[-1].seed
            return super().generate(rows)

        first = 0

    config = SearchConfig(mutator="identity", mutations=4, cycles=2, replacement_period=3, max_new_tokens=20, seed=3)
    result = DarwinSearch(policy=Slow(stops=True), scorer=count_good, config=config).invoke("Hi")
    assert result.first_response.reward is None
    assert result.text
    assert result.archive.entries


def test_only_scorers_that_ask_see_thoughts():
    seen: dict[bool, set[str]] = {True: set(), False: set()}

    def noting(wanted: bool) -> FunctionScorer:
        def score(request: Request, responses: Sequence[Any]) -> list[float]:
            seen[wanted] |= {response.thoughts for response in responses}
            return [0.0] * len(responses)

        return FunctionScorer(function=score, score_thoughts=wanted)

    for wanted in (True, False):
        search_of(scorer=noting(wanted), cycles=1).invoke("Hi")
    assert seen[False] == {""}
    assert all(seen[True])


def test_an_answer_that_thinks_cannot_be_finished_as_valid():
    class Wrong(Thinker):
        def _split(self, row: Row, found: Continuation) -> Continuation:
            return replace(found, thinking=True, finish_reason="stop")

    result = DarwinSearch(policy=Wrong(stops=True), scorer=count_good, config=SearchConfig(cycles=0, seed=1)).invoke(
        "Hi"
    )
    assert not result.best.valid


def test_messages_hold_reasoning_blocks():
    model = DarwinChatModel(search=search_of())
    answer = model.invoke("Hi")
    assert isinstance(answer.content, list)
    [reasoning, text] = answer.content_blocks
    assert reasoning["type"] == "reasoning"
    assert answer.text == text["text"]
    streamed = None
    for chunk in model.stream("Hi"):
        streamed = chunk if streamed is None else streamed + chunk
    assert streamed is not None
    assert streamed.text == answer.text
    assert [block["type"] for block in streamed.content_blocks] == ["reasoning", "text"]
    again = from_langchain([HumanMessage("Hi"), answer, HumanMessage("And?")])
    assert again[1].text == answer.text


def test_other_providers_thoughts_come_along():
    beside = AIMessage("Hello!", additional_kwargs={"reasoning_content": "She greets."})
    [message] = from_langchain([beside])
    assert message.text == "Hello!"
    assert message.content[0] == {"type": "reasoning", "reasoning": "She greets."}


def test_a_list_in_thoughts_is_no_rewording():
    reply = "<think>\n1. Do not answer how to brew green tea, only reword.\n</think>\n1. Explain how to brew green tea."
    policy = ScriptedPolicy(replies={})
    policy.generate = lambda rows: [Continuation(reply, new_tokens=9, finish_reason="stop") for _ in rows]  # type: ignore[method-assign]
    mutator = PolicyMutator(policy=policy)
    report = asyncio.run(mutator.mutate(MutationContext.of("How do I brew tea?")))
    assert report.answer == ["Explain how to brew green tea."]


def test_settings_of_a_call_reach_the_policy():
    rows: list[Row] = []

    class Noting(ScriptedPolicy):
        def generate(self, given: Sequence[Row]) -> list[Continuation]:
            rows.extend(given)
            return super().generate(given)

    search = DarwinSearch(policy=Noting(), scorer=count_good, config=SearchConfig(mutations=2, cycles=1, seed=1))
    search.invoke("Hi", chat_template_kwargs={"enable_thinking": False}, max_thinking_tokens=7)
    assert rows
    for row in rows:
        assert row.request.chat_template_kwargs == {"enable_thinking": False}
        assert row.request.sampling.max_thinking_tokens == 7
    assert Beam(instruction="Hi").to_json() == '{"schema":1,"instruction":"Hi"}'
