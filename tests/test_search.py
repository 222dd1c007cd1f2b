"""DarwinSearch on scripted parts: determinism, replay, settings, release."""

import asyncio
import inspect
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as limits
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import ConfigurableField, RunnableLambda

from darwin_align import Budget, DarwinSearch, Population, Request, Response, Sampling, SearchConfig, SearchResult
from darwin_align.backends.scripted import ScriptedPolicy, ScriptedScorer
from darwin_align.core import PRESETS, Event, Usage
from darwin_align.core.errors import ConfigError, OperatorError, ReplayError, RequestError, RewardError
from darwin_align.core.search_settings import SearchSettings
from darwin_align.operators import (
    AspectMutator,
    AutoMutator,
    ClauseMutator,
    Decoder,
    IdentityMutator,
    LexicalIntent,
    NoSelection,
    PolicyMutator,
    RuleMutator,
    SMCSelector,
    TopKReplacement,
    Tournament,
)
from darwin_align.traces import Trace
from darwin_align.traces.page import page
from tests.core.kit import (
    ASKED,
    CLAUSES,
    REQUEST,
    Babbler,
    Case,
    Letters,
    cases,
    preset_of,
    reword,
    search_of,
    timeless,
)

SMALL: dict[str, Any] = {"max_new_tokens": 20, "replacement_period": 6, "seed": 11}


def by_hand(config: SearchConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in config.model_fields_set}


@limits(max_examples=8)
@given(cases())
def test_sync_async_replayed_and_resumed_from_every_event_are_the_same_bit_for_bit(case: Case) -> None:
    settings = by_hand(case.config)
    result = case.search.invoke(ASKED, **settings)
    assert timeless(asyncio.run(case.search.ainvoke(ASKED, **settings))) == timeless(result)
    stored = [Event.from_json(event.to_json()) for event in result.events]
    assert case.search.invoke(ASKED, replay=stored, **settings) == result  # seconds too
    for known in range(len(stored)):
        assert timeless(case.search.invoke(ASKED, replay=stored[:known], **settings)) == timeless(result)
    middle = stored[: len(stored) // 2]
    assert timeless(asyncio.run(case.search.ainvoke(ASKED, replay=middle, **settings))) == timeless(result)


async def test_alone_in_threads_and_gathered_are_the_same() -> None:
    search = search_of()
    alone = [timeless(search.invoke(ASKED, **{**SMALL, "seed": seed})) for seed in range(32)]
    assert len(set(alone)) == 32
    with ThreadPoolExecutor(16) as pool:
        threads = pool.map(lambda seed: timeless(search.invoke(ASKED, **{**SMALL, "seed": seed})), range(32))
        assert list(threads) == alone
    gathered = await asyncio.gather(*[search.ainvoke(ASKED, **{**SMALL, "seed": seed}) for seed in range(32)])
    assert [timeless(result) for result in gathered] == alone


FRESH = """
from tests.core.kit import ASKED, search_of
result = search_of().invoke(ASKED, max_new_tokens=20, replacement_period=6, seed=11)
print(result.archive.to_json(), result.ranking, [event.delta.to_json() for event in result.events])
"""


def test_fresh_processes_agree_whatever_their_hash_seed() -> None:
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    outputs = [
        subprocess.run(
            [sys.executable, "-c", FRESH],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": root},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert outputs[0] == outputs[1] != ""


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 12},
        {"max_new_tokens": 21},
        {"replacement_period": 7},
        {"survivors": 2},
        {"cycles": 2},
        {"mutations": 4},
        {"temperature": 0.9},
        {"stop": ["x"]},
        {"budget": Budget(tokens=10**6)},
    ],
)
async def test_a_replay_with_other_settings_is_refused(other: dict[str, Any]) -> None:
    search = search_of()
    events = search.invoke(ASKED, **SMALL).events
    for known in (len(events), 1):
        with pytest.raises(ReplayError, match=r"belongs to a search with another request, seed or setting"):
            search.invoke(ASKED, replay=events[:known], **{**SMALL, **other})
        with pytest.raises(ReplayError, match=r"belongs to a search with another"):
            await search.ainvoke(ASKED, replay=events[:known], **{**SMALL, **other})


def test_a_replay_of_another_request_or_order_or_length_is_refused() -> None:
    search = search_of()
    events = search.invoke(ASKED, **SMALL).events
    with pytest.raises(ReplayError, match=r"belongs to a search with another request"):
        search.invoke("How do I bake bread?", replay=events, **SMALL)
    with pytest.raises(ReplayError, match=r"question is \('mutate', 0, 0\).*recorded event answers \('decode'"):
        search.invoke(ASKED, replay=events[1:], **SMALL)
    with pytest.raises(ReplayError, match=r"more events were recorded than this search has questions"):
        search.invoke(ASKED, replay=[*events, events[-1]], **SMALL)
    with pytest.raises(ReplayError, match=r"a replay needs the seed of the recorded run: pass seed=result.config.seed"):
        search.invoke(ASKED, replay=events, **{**SMALL, "seed": None})


def test_a_replay_asks_no_operator() -> None:
    policy = ScriptedPolicy()
    search = DarwinSearch(policy=policy, scorer=ScriptedScorer(), mutator=reword, guard=None)
    result = search.invoke(ASKED, **SMALL)
    calls = policy.calls
    assert search.invoke(ASKED, replay=result.events, **SMALL) == result
    assert policy.calls == calls


def test_no_seed_draws_one_and_records_it() -> None:
    search = search_of()
    drawn = search.invoke(ASKED, **{**SMALL, "seed": None})
    assert drawn.config.seed is not None
    assert timeless(search.invoke(ASKED, **{**SMALL, "seed": drawn.config.seed})) == timeless(drawn)
    assert search.invoke(ASKED, **{**SMALL, "seed": None}).config.seed != drawn.config.seed


@pytest.mark.parametrize("name", PRESETS)
async def test_every_preset(name: str) -> None:
    search = search_of(mutator=None, config=preset_of(name), policy=ScriptedPolicy(length=15))
    small = {**SMALL, "replacement_period": 1} if name == "args" else SMALL
    result = search.invoke(ASKED, **small)
    assert timeless(await search.ainvoke(ASKED, **small)) == timeless(result)
    assert result.stop_reason == "cycles"
    assert result.cycles == SearchConfig.preset(name).cycles
    operators = {event.operator for event in result.events}
    assert ("mutate" in operators) == (name != "sample")
    unselected = {"sample", "best_of_n", "soft_best_of_n", "mutate_best_of_n", "learned_clauses"}
    assert ("select" in operators) == (name not in unselected)
    if search.config.choice == "best":
        assert (result.text == result.first_response.text) or result.reward > result.first_response.reward


def test_events_are_reported_as_they_come_also_when_replayed() -> None:
    found: list[tuple[Event, Population]] = []
    search = search_of()
    result = search.invoke(ASKED, on_event=lambda event, population: found.append((event, population)), **SMALL)
    assert tuple(event for event, _ in found) == result.events
    assert found[0][1].beams[0].instruction.startswith(ASKED)
    again: list[Event] = []
    search.invoke(ASKED, replay=result.events, on_event=lambda event, _: again.append(event), **SMALL)
    assert tuple(again) == result.events


def test_seconds_are_counted_per_event_and_in_all() -> None:
    result = search_of().invoke(ASKED, **SMALL)
    assert all(event.seconds > 0 for event in result.events)
    assert result.usage.seconds == pytest.approx(sum(event.seconds for event in result.events))


@pytest.mark.parametrize(
    "given_",
    [
        ASKED,
        [HumanMessage(ASKED)],
        [("human", ASKED)],
        [{"role": "user", "content": ASKED}],
        (HumanMessage(ASKED),),
        ChatPromptTemplate.from_messages([("human", "{q}")]).invoke({"q": ASKED}),
        REQUEST,
    ],
)
def test_every_usual_kind_of_input(given_: Any) -> None:
    search = search_of()
    assert timeless(search.invoke(given_, **SMALL)) == timeless(search.invoke(ASKED, **SMALL))


CALL = {"name": "book", "args": {}, "id": "1"}


@pytest.mark.parametrize(
    ("conversation", "message"),
    [
        ([], r"the conversation is empty: give at least one human message"),
        ([SystemMessage("Be kind.")], r"the conversation has no human message: add one"),
        ([HumanMessage("Hi"), AIMessage("Hello")], r"ends with an AI message: end it with a human message"),
        ([HumanMessage("Hi"), AIMessage("", tool_calls=[CALL])], r"ends with open tool calls \(book\): append their"),
        ("", r"the last human message has no text"),
        ([HumanMessage("Hi"), AIMessage("Hello"), HumanMessage("  ")], r"the last human message has no text"),
        (HumanMessage("Hi"), r"cannot read a conversation from HumanMessage: give a text, or a list of messages"),
        (5, r"cannot read a conversation from int: give a text, or a list of messages"),
    ],
)
async def test_conversations_that_cannot_be_answered(conversation: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        search_of().invoke(conversation, **SMALL)
    with pytest.raises(RequestError, match=message):
        await search_of().ainvoke(conversation, **SMALL)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"survivor": 2}, r"unknown setting 'survivor': did you mean 'survivors'\?"),
        ({"temprature": 1.0}, r"unknown setting 'temprature': did you mean 'temperature'\?"),
        ({"max_token": 5}, r"unknown setting 'max_token': did you mean 'max_tokens'\?"),
        ({"survivors": 9}, r"survivors \(9\) must be fewer than the beams"),
        ({"budget": {"tokens": -1}}, r"Budget.tokens = -1 is refused"),
        ({"temperature": -1}, r"Sampling.temperature = -1 is refused"),
        ({"cycles": -1}, r"SearchConfig.cycles = -1 is refused"),
    ],
)
async def test_settings_that_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        search_of().invoke(ASKED, **settings)
    with pytest.raises(ConfigError, match=message):
        await search_of().ainvoke(ASKED, **settings)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"policy": None}, r"a search needs a policy that continues text: give policy=…, or decoder=…"),
        ({"scorer": None}, r"cannot use NoneType None as scorer: give a Scorer, a function, or an object"),
        ({"policy": 5}, r"cannot use int 5 as policy"),
        ({"mutator": 5}, r"cannot use int 5 as mutator"),
        ({"selector": 5}, r"cannot use int 5 as selector"),
        (
            {"selector": TopKReplacement(), "config": SearchConfig(survivors=2)},
            r"an explicit selector owns its settings, so config.survivors would be ignored: leave it out, or leave",
        ),
        ({"selector": NoSelection(), "config": SearchConfig(selector="smc")}, r"so config.selector would be ignored"),
        ({"config": SearchConfig(mutator="identity")}, r"config.mutator would be ignored beside an explicit mutator"),
        ({"scorers": 1}, r"unknown setting 'scorers' for DarwinSearch: did you mean 'scorer'\?"),
    ],
)
def test_parts_that_are_refused(parts: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        search_of(**parts)


def test_a_missing_scorer_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"scorer"):
        DarwinSearch(policy=Babbler())


def test_a_decoder_without_a_policy_needs_a_mutator() -> None:
    with pytest.raises(ConfigError, match=r"with a decoder but no policy no model rewords instructions"):
        search_of(policy=None, decoder=Decoder(policy=Babbler()), mutator=None, config=SearchConfig(mutator="policy"))
    search = search_of(policy=None, decoder=Decoder(policy=Babbler()))
    assert timeless(search.invoke(ASKED, **SMALL)) == timeless(search_of().invoke(ASKED, **SMALL))


@pytest.mark.parametrize("name", ["survivors", "selector"])
def test_an_explicit_selectors_settings_are_its_own_in_a_call_too(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"{name} belongs to the explicit selector: set it there"):
        search_of(selector=TopKReplacement()).invoke(ASKED, **SMALL, **{name: {"survivors": 2}.get(name, "smc")})


def test_settings_become_operators() -> None:
    search = search_of(mutator=None)
    for name, kind in {
        "top_k": TopKReplacement,
        "tournament": Tournament,
        "smc": SMCSelector,
        "none": NoSelection,
    }.items():
        assert isinstance(search.operators(SearchConfig(selector=name))["select"], kind)
    assert search.operators(SearchConfig(survivors=2))["select"] == TopKReplacement(survivors=2)
    assert isinstance(search.operators(SearchConfig())["mutate"], AutoMutator)
    assert isinstance(search.operators(SearchConfig(mutator="policy"))["mutate"], PolicyMutator)
    assert isinstance(search.operators(SearchConfig(mutator="aspects"))["mutate"], AspectMutator)
    assert isinstance(search.operators(SearchConfig(mutator="identity"))["mutate"], IdentityMutator)
    given_ = SearchConfig(mutator="clauses", clauses=CLAUSES)
    assert search.operators(given_)["mutate"] == ClauseMutator(clauses=CLAUSES)


def test_settings_of_one_call() -> None:
    search = search_of(config=SearchConfig(cycles=1), sampling=Sampling(temperature=0.3))
    result = search.invoke(ASKED, max_tokens=9, temperature=0.9, top_p=0.5, stop="end", seed=1, cycles=2)
    assert result.config == SearchConfig(cycles=2, max_new_tokens=9, seed=1)
    assert result.request.sampling == Sampling(temperature=0.9, top_p=0.5)
    assert result.request.stop == ("end",)
    assert search.invoke(ASKED, seed=1).request.sampling == Sampling(temperature=0.3)
    assert search.config == SearchConfig(cycles=1)
    assert search.bind(seed=3, max_completion_tokens=4).invoke(ASKED).config.max_new_tokens == 4


@pytest.mark.parametrize(
    "parts",
    [
        {"scorer": lambda request, responses: [Letters()(r.text) for r in responses]},
        {"scorer": RunnableLambda(lambda given: Letters()(given["response"]))},
        {"selector": TopKReplacement(survivors=3)},
        {"selector": lambda *given: TopKReplacement(survivors=3).select(*given)},
        {"decoder": Decoder(policy=Babbler())},
        {"mutator": RunnableLambda(reword)},
    ],
)
async def test_parts_in_other_clothes_find_the_same(parts: dict[str, Any]) -> None:
    expected = search_of().invoke(ASKED, **SMALL)
    for result in (search_of(**parts).invoke(ASKED, **SMALL), await search_of(**parts).ainvoke(ASKED, **SMALL)):
        assert (result.best, result.archive) == (expected.best, expected.archive)


@pytest.mark.parametrize("how", ["invoke", "ainvoke"])
def test_fallbacks_show_in_the_events_and_are_warned_of_once(how: str, caplog: pytest.LogCaptureFixture) -> None:
    def drive(**settings: Any) -> SearchResult:
        given = {**SMALL, **settings}
        return search.invoke(ASKED, **given) if how == "invoke" else asyncio.run(search.ainvoke(ASKED, **given))

    search = search_of(mutator=lambda request, instruction, n, seed: ["Bake bread."], guard=None)
    result = drive()
    notes = [note for event in result.events for note in event.delta.notes]
    warning = notes.pop()
    assert notes == ["the parent fills 3 of 5 places"] * 3
    assert warning.startswith("hardly any rewording could be used: the parent fills 9 of 15 places of this search.")
    assert all(remedy in warning for remedy in ("mutation_prompt=", "ClauseMutator(", "RuleMutator(", "a chat model"))
    assert [record.getMessage() for record in caplog.records] == [warning]
    for kept in (1, 6, len(result.events)):  # a resumed search warns where an undisturbed one does
        assert timeless(drive(replay=result.events[:kept])) == timeless(result)
    assert [record.getMessage() for record in caplog.records] == [warning] * 3  # two were resumed before the last cycle
    assert SearchResult.from_json(result.to_json()).notes == result.notes
    assert warning[:60] in page(Trace.of(result))


def test_a_search_that_uses_half_of_its_rewordings_is_not_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    search = search_of(mutator=lambda request, instruction, n, seed: ["Bake bread.", "Bake rolls."], guard=None)
    result = search.invoke(ASKED, **{**SMALL, "mutations": 4})
    assert result.notes == ()
    assert not caplog.records


def test_unusable_replies_of_a_mutator_are_noted() -> None:
    model = FakeListChatModel(responses=["I cannot do that. " * 100])
    for mutator in (model, ChatPromptTemplate.from_template("Reword {instruction}.") | model):
        result = search_of(mutator=mutator, guard=None).invoke(ASKED, **SMALL)
        [found] = [note for note in result.notes if note.startswith("no rewording was found in the reply")]
        assert "I cannot do that. I cannot do that." in found
        assert 250 < len(found) < 360
        assert "I cannot do that." in page(Trace.of(result))
        assert any(note.startswith("hardly any rewording") for note in result.notes)


def test_the_guard_surrounds_a_given_mutator_too() -> None:
    drifting: Callable[..., list[str]] = lambda request, instruction, n, seed: ["Bake bread."] * n  # noqa: E731
    search = DarwinSearch(policy=Babbler(), scorer=ScriptedScorer(), mutator=drifting)
    notes = [note for event in search.invoke(ASKED, **SMALL).events for note in event.delta.notes]
    assert notes[0].startswith("refused 'Bake bread.': it leaves the topic")
    rules = DarwinSearch(
        policy=Babbler(), scorer=ScriptedScorer(), mutator=RuleMutator(templates=("{instruction} Go.",))
    )
    assert rules.invoke(ASKED, **SMALL).events[0].delta.notes == ()


@pytest.mark.parametrize("reward", [float("nan"), float("inf"), None])
async def test_a_reward_that_is_not_finite_ends_the_search_with_its_name(reward: Any) -> None:
    search = search_of(scorer=lambda request, responses: [reward for _ in responses])
    with pytest.raises(RewardError, match=r"the scorer's reward for response 0 is (nan|inf|None): rewards must be fin"):
        search.invoke(ASKED, **SMALL)
    with pytest.raises(RewardError, match=r"rewards must be finite"):
        await search.ainvoke(ASKED, **SMALL)


def test_a_decoder_that_does_nothing_does_not_search_for_ever() -> None:
    class Idle(Decoder):
        def invoke(self, input: Population, config: Any = None, **kwargs: Any) -> Population:
            return input

    with pytest.raises(OperatorError, match=r"decode gave beam 0 no token and did not finish it"):
        search_of(decoder=Idle(policy=Babbler())).invoke(ASKED, **SMALL)


def test_an_invalid_answer_loses_to_every_valid_one() -> None:
    class Vetoing(ScriptedScorer):
        def invoke(self, input: Population, config: Any = None, **kwargs: Any) -> Population:
            answer = super().invoke(input, config)
            vetoed = {i: b.model_copy(update={"valid": False}) for i, b in enumerate(answer.beams) if "a" in b.text}
            return answer.with_beams({i: b for i, b in vetoed.items() if i in input.unscored})

    search = search_of(scorer=Vetoing(reward=lambda text: float(text.count("a"))))
    mixed = 0
    for seed in range(8):
        result = search.invoke(ASKED, selector="none", cycles=1, max_new_tokens=6, seed=seed)
        valid = [beam.valid for beam in result.ranking]
        assert valid == sorted(valid, reverse=True)
        assert all(beam.valid == ("a" not in beam.text) for beam in result.ranking)
        mixed += len(set(valid)) == 2 and result.best.reward < max(beam.reward for beam in result.ranking)
    assert mixed > 3


def test_the_scorer_sees_the_whole_original_conversation() -> None:
    seen: list[Request] = []

    def score(request: Request, responses: Sequence[Response]) -> list[float]:
        seen.append(request)
        return [0.0 for _ in responses]

    tail = [HumanMessage(ASKED), AIMessage("", tool_calls=[CALL]), ToolMessage("8 pm", tool_call_id="1")]
    result = search_of(scorer=score).invoke([SystemMessage("Be kind."), *tail], **SMALL)
    assert [message.role for message in seen[0].conversation] == ["system", "user", "assistant", "tool"]
    assert all(request == result.request for request in seen)


def test_usage_is_what_the_parts_spent() -> None:
    result = search_of(policy=ScriptedPolicy(length=9)).invoke(ASKED, cycles=1, seed=1, max_new_tokens=50)
    assert result.usage.decoded_tokens == 10 * 6
    assert result.usage.policy_calls == 6
    assert result.usage.model_copy(update={"seconds": 0.0}) == Usage(
        prefilled_tokens=result.usage.prefilled_tokens, decoded_tokens=60, policy_calls=6, reward_calls=6
    )


class Holding(Babbler):
    """A policy that keeps data for each search until it is released."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: set[str] = set()
        self.released: list[str] = []

    def generate(self, rows: Any) -> Any:
        self.kept |= {row.search_id for row in rows}
        return super().generate(rows)

    def release(self, search_id: str) -> None:
        self.released.append(search_id)
        self.kept.discard(search_id)


async def test_what_a_policy_keeps_for_a_search_is_released_at_its_end() -> None:
    policy = Holding()
    search = search_of(policy=policy)
    search.invoke(ASKED, **SMALL)
    await search.ainvoke(ASKED, **SMALL)
    assert policy.kept == set()
    assert len(set(policy.released)) == 2


async def test_it_is_released_when_the_search_fails() -> None:
    policy = Holding()
    search = search_of(policy=policy, scorer=lambda request, responses: [])
    with pytest.raises(RewardError):
        search.invoke(ASKED, **SMALL)
    with pytest.raises(RewardError):
        await search.ainvoke(ASKED, **SMALL)
    assert policy.kept == set()
    assert len(policy.released) == 2


async def test_it_is_released_when_the_search_is_cancelled() -> None:
    policy, begun = Holding(), asyncio.Event()
    loop = asyncio.get_running_loop()

    async def endless(request: Request, responses: Sequence[Response]) -> list[float]:
        loop.call_soon_threadsafe(begun.set)
        await asyncio.sleep(3600)
        return []

    task = asyncio.create_task(search_of(policy=policy, scorer=endless).ainvoke(ASKED, **SMALL))
    await asyncio.wait_for(begun.wait(), 5)
    assert len(policy.kept) == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert policy.kept == set()


def test_a_search_survives_pickle() -> None:
    search = search_of()
    again = pickle.loads(pickle.dumps(search))  # noqa: S301 - our own
    assert timeless(again.invoke(ASKED, **SMALL)) == timeless(search.invoke(ASKED, **SMALL))


def test_a_function_serves_as_the_policy_of_decoder_and_mutator() -> None:
    policy = Babbler()
    search = DarwinSearch(policy=policy.generate, scorer=ScriptedScorer(), guard=None)
    found = DarwinSearch(policy=policy, scorer=ScriptedScorer(), guard=None)
    assert search.invoke(ASKED, **SMALL).ranking == found.invoke(ASKED, **SMALL).ranking


def test_the_guard_also_stands_behind_retries() -> None:
    strays = RuleMutator(templates=("Tell me about Rome.",))
    for mutator in (
        strays,
        strays.with_retry(),
        strays.with_retry().with_config(tags=["mine"]),
        strays.with_fallbacks([IdentityMutator()]),
        strays.configurable_alternatives(ConfigurableField(id="mutator"), same=IdentityMutator()),
    ):
        result = search_of(mutator=mutator, guard=LexicalIntent()).invoke("How do I brew green tea?", **SMALL)
        assert {beam.instruction for beam in result.ranking} == {"How do I brew green tea?"}
        assert "leaves the topic" in result.events[0].delta.notes[0]


def test_one_setting_under_two_names_is_refused() -> None:
    with pytest.raises(ConfigError, match="max_new_tokens and max_tokens are one setting"):
        search_of().invoke(ASKED, max_tokens=3, max_new_tokens=4)


def test_a_mutator_setting_beside_an_explicit_mutator_is_refused() -> None:
    with pytest.raises(ConfigError, match="beside the search's explicit mutator"):
        search_of(mutator=reword).invoke(ASKED, mutator="identity")


@pytest.mark.parametrize("given", [5, {"a": 1}])
def test_tools_of_a_wrong_kind_are_a_plain_error(given: Any) -> None:
    with pytest.raises(ConfigError, match="tools"):
        search_of().invoke(ASKED, tools=given)


def test_our_own_messages_make_a_conversation_and_alien_roles_do_not() -> None:
    search = search_of()
    assert timeless(search.invoke(list(REQUEST.conversation), **SMALL)) == timeless(search.invoke(ASKED, **SMALL))
    with pytest.raises(RequestError, match="alien"):
        search.invoke([{"role": "alien", "content": "Hi"}])


def test_observers_see_the_seconds_of_their_own_event() -> None:
    seen: list[float] = []
    result = search_of().invoke(
        ASKED, **SMALL, on_event=lambda event, population: seen.append(population.usage.seconds)
    )
    assert seen[-1] == result.usage.seconds


@pytest.mark.parametrize("input_", ["Half \ud83c a leaf", [("system", "\udf75"), ("human", "Hi")]])
def test_half_a_character_is_refused_before_any_call(input_: Any) -> None:
    with pytest.raises(RequestError, match=r"half of a character that was cut in two: clean its texts"):
        search_of().invoke(input_, seed=1)


# -- names that are taken


def test_settings_of_a_call_are_typed_by_the_names_that_are_taken() -> None:
    with pytest.raises(ConfigError, match=r"unknown setting 'z': known are ") as refused:
        search_of().invoke(ASKED, z=1)
    taken = {*str(refused.value).partition("known are ")[2].split(", ")}
    assert {*SearchSettings.__annotations__} == taken | {"replay", "on_event", "progress"}


def test_arguments_of_a_search_are_its_fields() -> None:
    parameters = inspect.signature(DarwinSearch.__init__).parameters
    assert {*parameters} == {"self", "unknown", *DarwinSearch.model_fields}
    with pytest.raises(ConfigError, match=r"unknown setting 'polcy' for DarwinSearch: did you mean 'policy'\?"):
        DarwinSearch(polcy=Babbler(), scorer=ScriptedScorer())
    with pytest.raises(ConfigError, match=r"DarwinSearch needs scorer=…"):
        DarwinSearch(policy=Babbler())
