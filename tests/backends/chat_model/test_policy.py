"""ChatModelPolicy on a real server that speaks OpenAI's protocol: llama.cpp with the embedded policy."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AIMessageChunk, HumanMessage, ToolMessage
from pydantic import BaseModel

from benchmarks.servers.launch import Server
from darwin_align import Clause, DarwinChatModel, DarwinSearch, Request, Row, SearchConfig, SearchResult
from darwin_align.backends.chat_model import ChatModelPolicy
from darwin_align.backends.endpoint import Limits
from darwin_align.core.errors import ConfigError
from darwin_align.core.presets import PRESETS, WHOLE_ANSWERS
from darwin_align.langchain.identity import identity
from tests.backends.chat_model.kit import TEA, Wire, length, on_server

SETTINGS: dict[str, dict[str, Any]] = {
    "mutate_best_of_n": {"mutations": 2, "cycles": 2},
    "learned_clauses": {"mutations": 2, "clauses": (Clause(text="Leave nothing out."),)},
}


def heat(degrees: int) -> str:
    """Heat the kettle."""
    return f"{degrees} degrees"


def search(url: str, wire: Wire | None = None, preset: str = "best_of_n", **settings: Any) -> DarwinSearch:
    config = SearchConfig.preset(preset, **{"seed": 3, "max_new_tokens": 40, **SETTINGS.get(preset, {}), **settings})
    # One row at a time: beside others llama.cpp rounds differently.
    policy = ChatModelPolicy(on_server(url, wire), limits=Limits(concurrency=1))
    return DarwinSearch(policy=policy, scorer=length, config=config, guard=None)


class Dead(ChatModelPolicy):
    """Is never to be called."""

    def __init__(self) -> None:
        super().__init__(on_server("http://127.0.0.1:9"))

    async def generate(self, rows: Any) -> Any:
        raise AssertionError("a replay needs no model")


@pytest.mark.parametrize("preset", WHOLE_ANSWERS)
def test_presets_of_whole_answers(llama: Server, preset: str) -> None:
    wire = Wire()
    made = search(llama.url, wire, preset)
    result = made.invoke(TEA)
    tried = {"mutate_best_of_n": 1}.get(preset, 0)  # a call beside the search: whether the policy rewords
    answers = (*result.ranking, result.first_response)
    assert result.reward == max(len(beam.text) for beam in answers) or preset == "soft_best_of_n"
    assert all(beam.finish_reason in ("stop", "length") and 0 < beam.length <= 40 for beam in answers)
    decoded = [body for body in wire.bodies if body["max_completion_tokens"] == 40]
    assert len(decoded) == made.config.answers if preset != "mutate_best_of_n" else len(decoded) == 5
    assert len({body["seed"] for body in wire.bodies}) == len(wire.bodies)
    assert result.usage.policy_calls == len(wire.bodies) - tried
    spent = Wire(wire.bodies[tried:], wire.usages[tried:])
    assert result.usage.prefilled_tokens == spent.total("prompt_tokens")
    assert result.usage.decoded_tokens == spent.total("completion_tokens")
    assert not [note for note in result.notes if "left out" in note]


@pytest.mark.parametrize("preset", [name for name in PRESETS if name not in WHOLE_ANSWERS])
def test_presets_that_continue_answers_are_refused(llama: Server, preset: str) -> None:
    with pytest.raises(
        ConfigError, match=r"\(ChatOpenAI\) writes whole answers .*'mutate_best_of_n', 'learned_cl.*prefill"
    ):
        search(llama.url, preset=preset)
    wire = Wire()
    settings = {"selector": "top_k", **{name: value for name, value in PRESETS[preset].items() if name != "cycles"}}
    with pytest.raises(ConfigError, match="writes whole answers"):
        search(llama.url, wire).invoke(TEA, **settings)
    assert wire.bodies == []


async def test_a_run_repeats_in_both_drivers_and_from_its_events(llama: Server) -> None:
    made = search(llama.url, preset="mutate_best_of_n")
    result = made.invoke(TEA)
    again = await made.ainvoke(TEA)
    assert [beam.text for beam in again.ranking] == [beam.text for beam in result.ranking]
    assert again.usage.decoded_tokens == result.usage.decoded_tokens
    replayed = DarwinSearch(policy=Dead(), scorer=length, config=made.config, guard=None).invoke(
        TEA, replay=result.events
    )
    assert replayed == result
    assert SearchResult.from_json(result.to_json()) == result


def test_a_batch(llama: Server) -> None:
    model = DarwinChatModel(policy=on_server(llama.url), scorer=length, cycles=0, max_tokens=12, seed=1)
    answers = model.batch([TEA, "How do I bake bread?", "How do I plant a tree?"])
    assert len({answer.text for answer in answers}) == 3
    assert all(answer.usage_metadata["output_tokens"] == 12 for answer in answers)
    assert all(answer.response_metadata["finish_reason"] == "length" for answer in answers)


def test_settings_reach_the_server_as_the_model_takes_them(llama: Server) -> None:
    wire = Wire()
    chat = on_server(llama.url, wire, temperature=0.4, max_tokens=30, seed=5)
    model = DarwinChatModel(policy=chat, scorer=length, config=SearchConfig(cycles=0, seed=1), max_tokens=50)
    model.invoke(TEA)
    answer = model.invoke(TEA, stop=["green"], top_p=0.8, temperature=0.9, max_tokens=20, top_k=7)
    plain, set_by_hand = wire.bodies
    assert (plain["temperature"], plain["max_completion_tokens"]) == (0.4, 30)  # the model's own, where it is less
    assert plain.keys().isdisjoint({"top_p", "stop"})
    assert (set_by_hand["temperature"], set_by_hand["top_p"], set_by_hand["max_completion_tokens"]) == (0.9, 0.8, 20)
    assert set_by_hand["stop"] == ["green"]
    assert plain["seed"] == set_by_hand["seed"] != 5
    assert "green" not in answer.text
    assert (chat.temperature, chat.max_tokens, chat.seed) == (0.4, 30, 5)
    result = model.search.invoke(TEA, top_k=7, max_tokens=5)
    assert result.notes == ("ChatOpenAI takes no top_k: left out",)


def test_the_models_own_tool_calls_keep_their_ids(llama: Server) -> None:
    wire = Wire()
    model = DarwinChatModel(
        policy=on_server(llama.url, wire), scorer=length, config=SearchConfig.preset("best_of_n", mutations=2), seed=2
    ).bind_tools([heat], tool_choice="any", max_tokens=60)
    turn = HumanMessage("Heat the kettle to 80 degrees.")
    answer = model.invoke([turn])
    [call] = answer.tool_calls
    assert (call["name"], call["args"]) == ("heat", {"degrees": 80})
    assert len(call["id"]) > 9  # the server's own: those of the library have nine letters
    assert answer.content == ""
    assert answer.response_metadata["finish_reason"] == "tool_calls"
    assert wire.bodies[0]["tool_choice"] == "required"
    chunks = list(model.stream([turn]))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    assert isinstance(whole, AIMessageChunk)
    assert len(whole.tool_calls[0]["id"]) > 9
    model.invoke([turn, answer, ToolMessage("80 degrees", tool_call_id=call["id"]), HumanMessage("And now to 90.")])
    sent = wire.bodies[-1]["messages"]
    assert [message["role"] for message in sent] == ["user", "assistant", "tool", "user"]
    assert sent[1]["tool_calls"][0]["id"] == sent[2]["tool_call_id"] == call["id"]


class Tea(BaseModel):
    minutes: int


def test_structured_output(llama: Server) -> None:
    wire = Wire()
    model = DarwinChatModel(policy=on_server(llama.url, wire), scorer=length, cycles=0, seed=2, max_tokens=80)
    assert isinstance(model.with_structured_output(Tea).invoke("How long does green tea steep?"), Tea)
    assert wire.bodies[0]["response_format"]["json_schema"]["schema"]["required"] == ["minutes"]
    cut = model.with_structured_output(Tea, include_raw=True, max_tokens=2).invoke("How long does green tea steep?")
    assert cut["parsed"] is None
    assert cut["raw"].response_metadata["finish_reason"] == "length"
    assert cut["raw"].usage_metadata["output_tokens"] == 2


def test_a_state_to_continue_is_refused(llama: Server) -> None:
    policy = ChatModelPolicy(on_server(llama.url))
    with pytest.raises(ConfigError, match="given a part of one to continue"):
        policy.submit([Row(Request.of(TEA), 9, 1, text="Heat")]).result()


def test_wrappers_stay_around_the_model(llama: Server) -> None:
    wire = Wire()
    dead = on_server("http://127.0.0.1:9")
    for wrapped in (
        on_server(llama.url, wire).bind(logprobs=True),
        on_server(llama.url, wire).with_retry(stop_after_attempt=2),
        dead.with_fallbacks([on_server(llama.url, wire)]),
    ):
        model = DarwinChatModel(policy=wrapped, scorer=length, cycles=0, seed=2, max_tokens=7)
        assert model.invoke(TEA).usage_metadata["output_tokens"] == 7
    assert wire.bodies[0]["logprobs"] is True
    assert {body["max_completion_tokens"] for body in wire.bodies} == {7}


def test_copies_pickles_and_cache_keys() -> None:
    one, same = (ChatModelPolicy(on_server("http://127.0.0.1:9", api_key="sk-secret")) for _ in range(2))
    other = ChatModelPolicy(on_server("http://127.0.0.1:9", temperature=0.1))
    assert identity(one) == identity(same) != identity(other)
    assert "sk-secret" not in identity(one) + repr(one)
    fake = ChatModelPolicy(FakeListChatModel(responses=["Hi"]), limits=Limits(concurrency=2))
    loaded = pickle.loads(pickle.dumps(fake))  # noqa: S301
    assert (loaded.limits.concurrency, repr(loaded)) == (2, "ChatModelPolicy(FakeListChatModel)")


def test_limits_that_the_model_has_itself_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"limits.attempts belongs to the chat model: .*max_retries"):
        ChatModelPolicy(on_server("http://127.0.0.1:9"), limits=Limits(attempts=2))
