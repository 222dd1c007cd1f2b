"""The default mutator: the policy where it can, guidance sentences where it cannot."""

import asyncio
import gc
import logging
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from langchain_core.language_models import FakeListChatModel

from darwin_align import Budget, DarwinChatModel, DarwinSearch, SearchConfig, SearchResult
from darwin_align.backends.local import LocalPolicy
from darwin_align.backends.scripted import ScriptedPolicy, ScriptedScorer
from darwin_align.core.seeds import below
from darwin_align.core.types import Population, Request
from darwin_align.operators import AspectMutator, AutoMutator, Decoder, Policy, PolicyMutator
from darwin_align.operators.mutators.aspects.data import bank_of
from darwin_align.operators.mutators.probe import _memory
from darwin_align.operators.policy import Capabilities, Continuation, Row
from darwin_align.pocket import policy_path
from tests.core.kit import WORDS, Babbler, Letters, reword, timeless

SMALL: dict[str, Any] = {"max_new_tokens": 12, "replacement_period": 4, "seed": 5}
PROBED = "How do I brew green tea?"
OTHER = "How do I fry fish?"
TONES = (
    "briefly",
    "plainly",
    "warmly",
    "calmly",
    "fully",
    "kindly",
    "clearly",
    "gently",
    "lightly",
    "neatly",
    "soberly",
)


class Writer(Policy):
    """Rewords by lists with so many good items: in the probe, then in each further request for rewordings."""

    def __init__(self, probe: int, *later: int) -> None:
        self.probe, self.later = probe, later
        self.requests: list[str] = []
        self.lock = threading.Lock()

    @property
    def probes(self) -> int:
        return sum(PROBED in request for request in self.requests)

    @property
    def asked(self) -> int:
        return len(self.requests) - self.probes

    def generate(self, rows: Sequence[Row]) -> list[Continuation]:
        return [self._one(row) for row in rows]

    def _one(self, row: Row) -> Continuation:
        instruction = row.request.instruction
        if "reword requests" not in instruction:
            words = row.text.split()
            new = ["abcdefgh"[below(8, row.seed, i)] for i in range(len(words), min(4, len(words) + row.max_tokens))]
            done = "stop" if len(words) + len(new) == 4 else None
            return Continuation(" ".join([*words, *new]), new_tokens=len(new), finish_reason=done)
        with self.lock:
            self.requests.append(instruction)
            first = PROBED in instruction
            good = self.probe if first else self.later[min(self.asked, len(self.later)) - 1]
        subject = "brew green tea" if first else "fry fish"
        tone = TONES[row.seed % len(TONES)]
        items = [f"{i}. Explain {tone} how to {subject} {WORDS[i]}." for i in range(good)]
        return Continuation("\n".join([*items, "9. Nothing."]), new_tokens=50, finish_reason="stop")


def search(policy: Any, **parts: Any) -> DarwinSearch:
    return DarwinSearch(**{"policy": policy, "scorer": ScriptedScorer(reward=Letters()), **parts})


def instructions(result: SearchResult, cycle: int = 0) -> list[str]:
    [event] = [event for event in result.events if event.operator == "mutate" and event.cycle == cycle]
    return [fields["instruction"] for fields in event.delta.beams.values()]


def is_guided(text: str) -> bool:
    return any(aspect.text in text for aspect in bank_of("en").aspects)


def test_it_is_the_default() -> None:
    assert SearchConfig().mutator == SearchConfig.preset("darwin").mutator == "auto"
    assert SearchConfig(mutator="policy").mutator == "policy"


def test_a_policy_that_rewords_finds_what_it_found_before() -> None:
    auto, paper = Writer(5, 5), Writer(5, 5)
    found = search(auto).invoke(OTHER, **SMALL)
    expected = search(paper).invoke(OTHER, mutator="policy", **SMALL)
    assert (found.best, found.ranking, found.archive) == (expected.best, expected.ranking, expected.archive)
    assert {**dict(found.usage), "seconds": 0} == {**dict(expected.usage), "seconds": 0}
    assert (auto.probes, auto.asked, paper.probes, paper.asked) == (1, 3, 0, 3)
    assert found.exploration
    assert (found.exploration.probe_tokens, found.exploration.policy_given_up) == (50, False)
    assert found.notes == expected.notes


def test_places_that_stay_empty_after_a_second_attempt_get_guidance() -> None:
    policy = Writer(5, 3, 1)
    result = search(policy).invoke(OTHER, cycles=1, **SMALL)
    assert policy.asked == 2
    assert [is_guided(text) for text in instructions(result)] == [False] * 4 + [True]
    assert result.exploration
    assert (result.exploration.accepted, result.exploration.filled_by_aspects) == (5, 1)
    assert result.exploration.filled_by_parent == 0
    paper = search(Writer(5, 3, 1)).invoke(OTHER, cycles=1, mutator="policy", **SMALL)
    assert paper.exploration
    assert paper.exploration.filled_by_parent == 1


def test_with_too_few_it_is_not_asked_again_in_this_search() -> None:
    policy = Writer(5, 2, 5)
    made = search(policy)
    result = made.invoke(OTHER, cycles=3, **SMALL)
    assert policy.asked == 1
    assert [is_guided(text) for text in instructions(result)] == [False] * 2 + [True] * 3
    for cycle in (1, 2):
        assert sum(map(is_guided, instructions(result, cycle))) >= 4
    assert result.exploration
    assert (result.exploration.accepted, result.exploration.filled_by_aspects) == (15, 13)
    assert result.exploration.policy_given_up
    assert result.exploration.tokens == 50
    assert [note for note in result.notes if "only 2 of 5" in note]
    made.invoke(OTHER, cycles=1, **SMALL)  # the next search asks anew: it must not depend on this one
    assert policy.asked == 2


def test_a_policy_that_cannot_reword_is_tried_once_and_never_asked(caplog: pytest.LogCaptureFixture) -> None:
    policy = Writer(2)
    results = [search(policy).invoke(OTHER, cycles=2, **SMALL) for _ in range(3)]
    assert (policy.probes, policy.asked) == (1, 0)
    assert len({timeless(result) for result in results}) == 1
    assert all(is_guided(text) for text in instructions(results[0]))
    assert results[0].exploration
    assert (results[0].exploration.tokens, results[0].exploration.probe_tokens) == (0, 50)
    [note] = [note for note in results[0].notes if "cannot reword" in note]
    assert note.startswith("the policy cannot reword (2 of 5 when it was tried)")
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert "tried once for 50 tokens: 2 of 5 rewordings could be used" in record.getMessage()


def test_the_probe_spends_nothing_of_a_search() -> None:
    tried, untried = Writer(2), Writer(2)
    search(tried).invoke(OTHER, **SMALL)
    budget = Budget(tokens=30, seconds=60)
    known, new = (search(policy).invoke(OTHER, budget=budget, **SMALL) for policy in (tried, untried))
    assert timeless(known) == timeless(new)
    assert new.stop_reason == "budget: tokens"


def test_its_time_counts_for_no_search() -> None:
    class Slow(Writer):
        def _one(self, row: Row) -> Continuation:
            if PROBED in row.request.instruction and "reword requests" in row.request.instruction:
                threading.Event().wait(1.0)
            return super()._one(row)

    result = search(Slow(2)).invoke(OTHER, cycles=1, **SMALL)
    assert sum(event.seconds for event in result.events if event.operator == "mutate") < 0.9


async def test_searches_at_the_same_time_share_one_probe() -> None:
    policy = Writer(5, 5)
    made = search(policy)
    gathered = await asyncio.gather(*(made.ainvoke(OTHER, cycles=1, **SMALL) for _ in range(6)))
    in_threads = await asyncio.gather(
        *(asyncio.to_thread(search(policy).invoke, OTHER, cycles=1, **SMALL) for _ in range(3))
    )
    batch = await asyncio.to_thread(made.batch, [OTHER] * 3, cycles=1, **SMALL)
    assert policy.probes == 1
    assert len({timeless(result) for result in (*gathered, *in_threads, *batch)}) == 1


async def test_a_cancelled_search_leaves_the_probe_to_the_others() -> None:
    started, go_on = threading.Event(), threading.Event()

    class Held(Writer):
        def _one(self, row: Row) -> Continuation:
            if "reword requests" in row.request.instruction and not started.is_set():
                started.set()
                go_on.wait(5)
            return super()._one(row)

    policy = Held(5, 5)
    made = search(policy)
    first = asyncio.create_task(made.ainvoke(OTHER, cycles=1, **SMALL))
    await asyncio.to_thread(started.wait, 5)
    second = asyncio.create_task(made.ainvoke(OTHER, cycles=1, **SMALL))
    await asyncio.sleep(0.05)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    go_on.set()
    assert (await second).exploration
    assert policy.probes == 1


def test_objects_are_tried_apart_and_forgotten_with_them() -> None:
    gc.collect()
    before = len(_memory._kept)
    one, other = Writer(5, 5), Writer(2)
    assert (
        search(one).invoke(OTHER, cycles=1, **SMALL).exploration
        != search(other).invoke(OTHER, cycles=1, **SMALL).exploration
    )
    assert len(_memory._kept) == before + 2
    del one, other
    gc.collect()
    assert len(_memory._kept) <= before


def test_an_object_that_is_adapted_anew_for_every_search_is_tried_once() -> None:
    class Plain:
        def __init__(self) -> None:
            self.writer = Writer(2)

        def generate(self, rows: Sequence[Row]) -> list[Continuation]:
            return self.writer.generate(rows)

    plain = Plain()
    for _ in range(2):
        search(plain).invoke(OTHER, cycles=1, **SMALL)
    assert plain.writer.probes == 1
    slotted = type("Slotted", (), {"__slots__": ("generate",)})()
    slotted.generate = Writer(2).generate
    assert search(slotted).invoke(OTHER, cycles=1, **SMALL).exploration


def test_other_prompts_are_tried_apart() -> None:
    policy = Writer(5, 5)
    search(policy).invoke(OTHER, cycles=1, **SMALL)
    search(policy, mutation_prompt="You reword requests, {n} times: {instruction}").invoke(OTHER, cycles=1, **SMALL)
    assert policy.probes == 2


def test_a_chat_model_is_tried_too() -> None:
    model = FakeListChatModel(responses=["Green tea is nice."])
    policy_search = search(model, config=SearchConfig.preset("mutate_best_of_n", cycles=1, seed=5))
    result = policy_search.invoke(OTHER)
    assert result.exploration
    assert result.exploration.filled_by_aspects == 5


@pytest.mark.parametrize("declared", [True, False])
def test_what_a_policy_declares_is_not_tried(declared: bool) -> None:
    class Declared(Writer):
        capabilities = Capabilities(rewords=declared)

    policy = Declared(0, 5)
    result = search(policy).invoke(OTHER, cycles=1, **SMALL)
    assert (policy.probes, policy.asked) == (0, int(declared))
    assert result.exploration
    assert result.exploration.filled_by_aspects == (0 if declared else 5)


def test_a_scripted_policy_is_not_asked() -> None:
    policy = ScriptedPolicy()
    result = search(policy).invoke(OTHER, cycles=1, **SMALL)
    assert all(is_guided(text) for text in instructions(result))
    assert result.notes == ()


def test_an_error_in_the_probe_is_the_mutators() -> None:
    class Failing(Writer):
        fails = True

        def _one(self, row: Row) -> Continuation:
            if self.fails and "reword requests" in row.request.instruction:
                raise OSError("the server is gone")
            return super()._one(row)

    policy = Failing(5, 5)
    made = search(policy)
    with pytest.raises(OSError, match="the server is gone"):
        made.invoke(OTHER, cycles=1, **SMALL)
    result = made.invoke(OTHER, cycles=1, budget=Budget(tokens=500), **SMALL)  # the first response stands by then
    assert result.stop_reason == "failure: mutate"
    policy.fails = False
    assert made.invoke(OTHER, cycles=1, **SMALL).exploration  # it is tried anew
    assert policy.probes == 1


def test_a_replay_tries_nothing() -> None:
    result = search(Writer(5, 2)).invoke(OTHER, **SMALL)
    policy = Writer(5, 2)
    assert search(policy).invoke(OTHER, replay=result.events, **SMALL) == result
    assert policy.requests == []


def test_recordings_of_before_are_replayed() -> None:
    recorded = search(Writer(5, 5)).invoke(OTHER, mutator="policy", **SMALL)
    for name in ("auto", "policy"):
        assert search(Writer(5, 5)).invoke(OTHER, mutator=name, replay=recorded.events, **SMALL).best == recorded.best


def test_without_a_policy_the_guidance_does_it_alone() -> None:
    made = search(None, decoder=Decoder(policy=Babbler()))
    assert isinstance(made.operators(made.config)["mutate"], AspectMutator)
    assert made.invoke(OTHER, cycles=1, **SMALL).exploration


def test_a_given_mutator_comes_first() -> None:
    policy = Writer(5, 5)
    search(policy, mutator=reword, guard=None).invoke(OTHER, cycles=1, **SMALL)
    assert policy.requests == []


def test_the_guard_sees_guidance_as_well() -> None:
    result = search(Writer(2), guard=lambda request, text: "no" if "tone" in text else None).invoke(OTHER, **SMALL)
    assert not any("tone" in text for cycle in range(3) for text in instructions(result, cycle))


def test_the_chat_models_metadata_has_the_figures() -> None:
    message = DarwinChatModel(search=search(Writer(2))).invoke(OTHER, cycles=1, **SMALL)
    figures = message.response_metadata["darwin"]["exploration"]
    assert (figures["places"], figures["filled_by_aspects"], figures["wasted_share"]) == (5, 5, 0.0)


def test_the_benchmark_counts_distinct_instructions(capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks.exploration import measured

    prompts = [OTHER, "How do I bake bread?"]
    auto = measured(search(Writer(2), config=SearchConfig(cycles=2, max_new_tokens=8)), prompts, "auto")
    assert (auto["places"], auto["share"], auto["wasted_share"], auto["probe_tokens"]) == (20, 1.0, 0.0, 50)
    paper = measured(search(Writer(5, 0), config=SearchConfig(cycles=2, max_new_tokens=8)), prompts, "policy")
    assert (paper["share"], paper["wasted_tokens"]) == (0.0, 2 * 2 * 2 * 50)
    assert paper["wasted_share"] > 1
    assert "policy: 2 of 2" in capsys.readouterr().out


def test_no_guidance_is_added_where_a_call_or_an_object_is_wanted() -> None:
    tool = {"type": "function", "function": {"name": "heat", "parameters": {"type": "object", "properties": {}}}}
    schema = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}}
    mutator = AutoMutator(rewording=PolicyMutator(policy=ScriptedPolicy()))
    for settings, guided in (({"tools": [tool]}, 0), ({"response_format": schema}, 0), ({}, 3)):
        population = Population.start(Request.of(OTHER, **settings), mutations=3)
        found = mutator.invoke(population)
        assert sum(is_guided(beam.instruction) for beam in found.beams) == guided
        assert found.exploration
        assert found.exploration.filled_by_parent == 3 - guided


def test_a_tried_policy_keeps_nothing_of_it() -> None:
    policy = LocalPolicy.from_pretrained(policy_path())
    mutator = AutoMutator(rewording=PolicyMutator(policy=policy, max_tokens=8))

    def slots_in_use() -> int:
        policy.engine.submit([], lambda: None).result(60)  # what was let go before it is free by then
        return policy.engine.slots_in_use

    before = slots_in_use()  # an engine is shared by all policies on its folder
    mutator.invoke(Population.start(Request.of(OTHER), mutations=1, search_id="one"))
    policy.release("one")
    assert slots_in_use() == before
