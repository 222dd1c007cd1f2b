"""DarwinChatModel on scripted parts."""

import asyncio
from collections.abc import Sequence
from typing import Any, get_type_hints
from uuid import UUID

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    trim_messages,
)
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate

from darwin_align import DarwinChatModel, DarwinSearch, Request, Response, Sampling, SearchConfig
from darwin_align.backends.scripted import ScriptedPolicy, ScriptedScorer
from darwin_align.chat_model import ChatModelArguments
from darwin_align.core import PRESETS
from darwin_align.core.errors import ConfigError, RequestError, RewardError
from darwin_align.langchain.arguments import CommonArguments
from darwin_align.langchain.given_models import CONNECTION, MODELS
from darwin_align.langchain.settings import SETTINGS
from darwin_align.operators import NoSelection, TopKReplacement
from tests.core.kit import ASKED, Babbler, Letters, preset_of, reword, search_of

SMALL: dict[str, Any] = {"max_new_tokens": 20, "replacement_period": 6, "cycles": 2}


def model_of(**arguments: Any) -> DarwinChatModel:
    bypass = {name: arguments.pop(name) for name in ("bypass", "cache", "model_name") if name in arguments}
    return DarwinChatModel(search=search_of(**{"config": SearchConfig(**SMALL), **arguments}), **bypass)


def test_the_typed_arguments_are_those_that_are_accepted() -> None:
    own = DarwinChatModel.model_fields.keys() - {"configurable_settings"}  # configurable_fields() writes it
    accepted = own | DarwinSearch.model_fields.keys() | SETTINGS | {*MODELS, *CONNECTION}
    assert get_type_hints(ChatModelArguments).keys() == accepted
    assert CommonArguments.__optional_keys__ == accepted - {"search", "policy", "scorer", *MODELS, *CONNECTION}
    for kind in (ChatModelArguments, CommonArguments):
        assert not kind.__required_keys__


@pytest.mark.parametrize("preset", PRESETS)
async def test_every_way_to_call_gives_the_same_text_for_the_same_seed(preset: str) -> None:
    model = model_of(config=preset_of(preset, max_new_tokens=20), mutator=None, policy=ScriptedPolicy())
    text = model.invoke(ASKED, seed=5).text
    assert text == model.search.invoke(ASKED, seed=5).text != ""
    assert (await model.ainvoke(ASKED, seed=5)).text == text
    assert "".join(chunk.text for chunk in model.stream(ASKED, seed=5)) == text
    assert "".join([chunk.text async for chunk in model.astream(ASKED, seed=5)]) == text
    assert [message.text for message in model.batch([ASKED] * 8, seed=5)] == [text] * 8
    assert [message.text for message in await model.abatch([ASKED] * 8, seed=5)] == [text] * 8
    assert model.bind(seed=5).invoke(ASKED).text == text


async def test_it_stands_in_a_chain() -> None:
    seeded = ChatPromptTemplate.from_template("{q}") | model_of().bind(seed=5) | StrOutputParser()
    text = seeded.invoke({"q": ASKED})
    assert await seeded.ainvoke({"q": ASKED}) == text
    assert seeded.batch([{"q": ASKED}] * 8) == [text] * 8
    assert "".join(seeded.stream({"q": ASKED})) == text
    assert "".join([part async for part in seeded.astream({"q": ASKED})]) == text


def test_metadata_says_how_the_answer_was_found() -> None:
    model = model_of(model_name="mine")
    answer, result = model.invoke(ASKED, seed=5), model.search.invoke(ASKED, seed=5)
    metadata = answer.response_metadata
    assert (metadata["model_name"], metadata["finish_reason"]) == ("mine", result.best.finish_reason)
    usage = metadata["darwin"].pop("usage")
    assert metadata["darwin"] == {
        "reward": result.reward,
        "first_response": result.first_response.text,
        "first_reward": result.first_response.reward,
        "instruction": result.instruction,
        "cycles": 2,
        "stop_reason": "cycles",
        "failure": None,
        "max_new_tokens": 20,
        "seed": 5,
        "exploration": result.exploration and result.exploration.figures,
    }
    assert {**usage, "seconds": 0} == {**result.usage.model_dump(), "seconds": 0}
    assert answer.usage_metadata == {
        "input_tokens": result.usage.prefilled_tokens,
        "output_tokens": result.usage.decoded_tokens,
        "total_tokens": result.usage.prefilled_tokens + result.usage.decoded_tokens,
    }


async def test_a_streams_chunks_add_up_to_the_answer() -> None:
    model = model_of()
    answer = model.invoke(ASKED, seed=5)
    streamed = [list(model.stream(ASKED, seed=5)), [chunk async for chunk in model.astream(ASKED, seed=5)]]
    for chunks in streamed:
        whole = chunks[0]
        for chunk in chunks[1:]:
            whole += chunk
        assert isinstance(whole, AIMessageChunk)
        assert whole.text == answer.text
        assert whole.usage_metadata == answer.usage_metadata
        assert whole.response_metadata["model_name"] == answer.response_metadata["model_name"]
        darwin, expected = whole.response_metadata["darwin"], answer.response_metadata["darwin"]
        assert {**darwin, "usage": None} == {**expected, "usage": None}


def test_settings_of_one_call_and_bound_ones() -> None:
    model = model_of()
    assert model.invoke(ASKED, seed=5, cycles=1).response_metadata["darwin"]["cycles"] == 1
    assert model.bind(cycles=1, seed=5).invoke(ASKED).response_metadata["darwin"]["cycles"] == 1
    short = model.invoke(ASKED, seed=5, max_tokens=3)
    assert len(short.text) <= 3
    assert model.bind(seed=5).invoke(ASKED, seed=6) != model.invoke(ASKED, seed=5)
    assert model.invoke(ASKED, seed=6).response_metadata["darwin"]["seed"] == 6
    spent = model.invoke(ASKED, seed=5, budget={"tokens": 12})
    assert spent.response_metadata["darwin"]["stop_reason"] == "budget: tokens"
    assert model.invoke(ASKED, seed=5).response_metadata["darwin"]["cycles"] == 2


def test_stop_reaches_the_policy() -> None:
    seen: list[tuple[str, ...]] = []

    class Watching(Babbler):
        def generate(self, rows: Any) -> Any:
            seen.extend(row.request.stop for row in rows)
            return super().generate(rows)

    model_of(policy=Watching()).invoke(ASKED, stop=["end"], seed=1)
    assert set(seen) == {("end",)}


def test_several_answers_best_first_and_usage_counted_once() -> None:
    model = model_of()
    [generations] = model.generate([[HumanMessage(ASKED)]], n=3, seed=5).generations
    rewards = [generation.message.response_metadata["darwin"]["reward"] for generation in generations]
    assert len(generations) == len({generation.text for generation in generations}) == 3
    assert rewards == sorted(rewards, reverse=True)
    assert generations[0].text == model.invoke(ASKED, seed=5).text
    assert [generation.message.usage_metadata is None for generation in generations] == [False, True, True]


@pytest.mark.parametrize("n", [0, -1, 1.5, "two"])
def test_an_impossible_number_of_answers(n: Any) -> None:
    with pytest.raises(ConfigError, match=rf"n = {n!r}: it is the number of answers to return, best first"):
        model_of().invoke(ASKED, n=n)


def test_the_bypass_answers_by_one_plain_sample() -> None:
    def after_a_tool(messages: list[BaseMessage]) -> bool:
        return isinstance(messages[-1], ToolMessage)

    model = model_of(bypass=after_a_tool, config=SearchConfig(**SMALL, lookahead=2))
    call = AIMessage("", tool_calls=[{"name": "f", "args": {}, "id": "1"}])
    turns = [HumanMessage(ASKED), call, ToolMessage("8", tool_call_id="1")]
    plain, searched = model.invoke(turns, seed=5), model.invoke(turns[:1], seed=5)
    assert plain.response_metadata["darwin"]["cycles"] == 0
    assert plain.text == plain.response_metadata["darwin"]["first_response"]
    assert searched.response_metadata["darwin"]["cycles"] == 2


def test_parts_may_be_given_one_by_one() -> None:
    parts: dict[str, Any] = {"policy": Babbler(), "scorer": ScriptedScorer(reward=Letters()), "mutator": reword}
    model = DarwinChatModel(**parts, guard=None, config=SearchConfig(**SMALL), sampling=Sampling(temperature=1.0))
    assert isinstance(model, BaseChatModel)
    assert model.invoke(ASKED, seed=5).text == model_of(sampling=Sampling(temperature=1.0)).invoke(ASKED, seed=5).text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"polcy": 1}, r"DarwinChatModel has no argument 'polcy': did you mean 'policy'\?"),
        ({"policy": Babbler(), "scorer": ScriptedScorer(), "temprature": 1}, r"no argument 'temprature'"),
        (
            {"search": search_of(), "policy": Babbler()},
            r"search=… already holds its parts: leave out policy, or search",
        ),
        ({"search": search_of(), "config": SearchConfig()}, r"leave out config, or search"),
        ({"policy": Babbler()}, r"scorer"),
        ({"search": 5}, r"DarwinChatModel.search = 5 is refused"),
        (
            {
                "policy": Babbler(),
                "scorer": ScriptedScorer(),
                "selector": TopKReplacement(),
                "config": SearchConfig(survivors=2),
            },
            r"an explicit selector owns its settings, so config.survivors would be ignored",
        ),
    ],
)
def test_arguments_that_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DarwinChatModel(**arguments)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"survivor": 2}, r"unknown setting 'survivor': did you mean 'survivors'\?"),
        ({"survivors": 5}, r"survivors \(5\) must be fewer than the beams"),
        ({"budget": {"seconds": -1}}, r"Budget.seconds = -1 is refused"),
        ({"temperature": -1}, r"Sampling.temperature = -1 is refused"),
    ],
)
async def test_settings_that_are_refused(settings: dict[str, Any], message: str) -> None:
    model = model_of()
    with pytest.raises(ConfigError, match=message):
        model.invoke(ASKED, **settings)
    with pytest.raises(ConfigError, match=message):
        await model.ainvoke(ASKED, **settings)
    with pytest.raises(ConfigError, match=message):
        list(model.stream(ASKED, **settings))


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], r"the conversation is empty"),
        ([SystemMessage("Be kind.")], r"the conversation has no human message"),
        ([HumanMessage("Hi"), AIMessage("Hello")], r"the conversation ends with an AI message"),
        ([HumanMessage(" ")], r"the last human message has no text"),
    ],
)
async def test_conversations_that_cannot_be_answered(messages: list[BaseMessage], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        model_of().invoke(messages)
    with pytest.raises(RequestError, match=message):
        await model_of().ainvoke(messages)


def test_a_reward_that_is_not_finite_is_named() -> None:
    model = model_of(scorer=lambda request, responses: [float("nan")] * len(responses))
    with pytest.raises(RewardError, match=r"response 0 is nan: rewards must be finite numbers"):
        model.invoke(ASKED)


class Runs(BaseCallbackHandler):
    """Every run that started: its name and its parent."""

    def __init__(self) -> None:
        self.chat_models: list[UUID] = []
        self.parents: dict[UUID, UUID | None] = {}
        self.names: dict[UUID, str] = {}

    def on_chat_model_start(self, serialized: Any, messages: Any, *, run_id: UUID, **kwargs: Any) -> None:
        self.chat_models.append(run_id)
        self.parents[run_id] = kwargs.get("parent_run_id")

    def on_chain_start(self, serialized: Any, inputs: Any, *, run_id: UUID, **kwargs: Any) -> None:
        self.names[run_id] = kwargs["name"]
        self.parents[run_id] = kwargs.get("parent_run_id")

    def above(self, run_id: UUID) -> list[UUID]:
        parent = self.parents.get(run_id)
        return [] if parent is None else [parent, *self.above(parent)]


@pytest.mark.parametrize("drive", ["invoke", "ainvoke"])
@pytest.mark.parametrize("chained", [False, True])
async def test_operators_run_as_children_of_the_one_model_run(drive: str, chained: bool) -> None:
    runs, model = Runs(), model_of().bind(seed=5)
    runnable = ChatPromptTemplate.from_template("{q}") | model if chained else model
    given: Any = {"q": ASKED} if chained else ASKED
    config: Any = {"callbacks": [runs], "tags": ["mine"]}
    await runnable.ainvoke(given, config) if drive == "ainvoke" else runnable.invoke(given, config)
    [model_run] = runs.chat_models
    operators = [run for run, name in runs.names.items() if name in ("Decoder", "ScriptedScorer", "TopKReplacement")]
    assert len(operators) > 6
    assert all(model_run in runs.above(run) for run in operators)


def test_the_cache_tells_apart_whatever_decides_the_answer() -> None:
    cache, policy = InMemoryCache(), ScriptedPolicy()

    def asks(call: dict[str, Any] | None = None, **arguments: Any) -> bool:
        calls = policy.calls
        model = model_of(**{"policy": policy, "cache": cache, **arguments})
        model.invoke(ASKED, **{"seed": 5, **(call or {})})
        return policy.calls > calls

    scorer = ScriptedScorer(reward=Letters())
    assert asks(scorer=scorer)
    assert not asks(scorer=scorer)  # known
    for call in ({"seed": 6}, {"max_tokens": 7}, {"n": 2}, {"temperature": 0.1}, {"survivors": 2}):
        assert asks(call, scorer=scorer), call
        assert not asks(call, scorer=scorer), call
    for arguments in (
        {"config": SearchConfig(**{**SMALL, "cycles": 1})},
        {"config": SearchConfig(**{**SMALL, "cycles": 1}, champions=1)},
        {"sampling": Sampling(temperature=0.1)},
        {"scorer": ScriptedScorer(reward=Letters(7))},
        {"selector": NoSelection()},
        {"model_name": "another"},
        {"bypass": bool},
    ):
        assert asks(**{"scorer": scorer, **arguments}), arguments
        assert not asks(**{"scorer": scorer, **arguments}), arguments


async def test_cancelling_a_call_releases_what_the_policy_kept() -> None:
    begun, loop = asyncio.Event(), asyncio.get_running_loop()

    class Holding(Babbler):
        held: set[str] = set()  # noqa: RUF012 - one policy

        def generate(self, rows: Any) -> Any:
            self.held.update(row.search_id for row in rows)
            return super().generate(rows)

        def release(self, search_id: str) -> None:
            self.held.discard(search_id)

    async def endless(request: Request, responses: Sequence[Response]) -> list[float]:
        loop.call_soon_threadsafe(begun.set)
        await asyncio.sleep(3600)
        return []

    policy = Holding()
    task = asyncio.create_task(model_of(policy=policy, scorer=endless).ainvoke(ASKED))
    await asyncio.wait_for(begun.wait(), 5)
    assert policy.held
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert policy.held == set()


def test_what_traces_say_of_the_model() -> None:
    model = model_of(model_name="mine")
    assert model._llm_type == "darwin"
    params = model._get_ls_params()
    assert (params["ls_provider"], params["ls_model_name"], params["ls_model_type"]) == ("darwin_align", "mine", "chat")


def test_tokens_are_counted_by_the_policys_own_tokenizer() -> None:
    model = DarwinChatModel()
    template = model.search.policy.template
    assert model.get_token_ids("Hello there") == template.tokenizer.encode("Hello there", add_special_tokens=False)
    assert model.get_num_tokens("Hello there") == len(model.get_token_ids("Hello there"))
    turns = [HumanMessage("word " * 700), AIMessage("word " * 700), HumanMessage("Hi")]
    assert trim_messages(turns, max_tokens=50, token_counter=model) == turns[-1:]
    with pytest.raises(ConfigError, match=r"ScriptedPolicy has no tokenizer here .*give custom_get_token_ids"):
        DarwinChatModel(search=search_of(policy=ScriptedPolicy())).get_num_tokens("Hello")
    counted = DarwinChatModel(search=search_of(policy=ScriptedPolicy()), custom_get_token_ids=lambda text: [1, 2])
    assert counted.get_num_tokens("Hello") == 2


def test_config_and_sampling_may_be_plain_dicts() -> None:
    model = DarwinChatModel(config={"cycles": 1}, sampling={"top_p": 0.9}, mutations=2, temperature=0.3)
    assert (model.search.config.cycles, model.search.config.mutations) == (1, 2)
    assert (model.search.sampling.top_p, model.search.sampling.temperature) == (0.9, 0.3)
    with pytest.raises(ConfigError, match="cycles is given twice"):
        DarwinChatModel(config={"cycles": 1}, cycles=2)
    with pytest.raises(ConfigError, match="did you mean 'cycles'"):
        DarwinChatModel(config={"cycle": 1})


def test_operators_may_be_named_where_a_model_is_made() -> None:
    model = DarwinChatModel(selector="none", mutator="identity")
    assert (model.search.config.selector, model.search.config.mutator) == ("none", "identity")
    assert (model.search.selector, model.search.mutator) == (None, None)
    with pytest.raises(ConfigError, match="nobody"):
        DarwinChatModel(selector="nobody")


def test_a_result_is_shown_in_a_line() -> None:
    shown = repr(search_of().invoke(ASKED, seed=1))
    assert shown.startswith("SearchResult(text='")
    assert len(shown) < 250
