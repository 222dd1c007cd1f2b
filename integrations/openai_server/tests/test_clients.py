"""What users of OpenAI's client and of ChatOpenAI do, against the server as a process."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

from benchmarks.servers.launch import Server

from .conftest import KEY, TEA

QUICK = {"darwin": {"cycles": 1, "mutations": 3}}
LAMP = {
    "type": "function",
    "function": {
        "name": "set_lamp",
        "description": "Set the color of the lamp in a room.",
        "parameters": {
            "type": "object",
            "properties": {"room": {"type": "string"}, "color": {"type": "string"}},
            "required": ["room", "color"],
        },
    },
}
BLUE = "Make the lamp in the kitchen blue."


class Lamp(BaseModel):
    room: str
    color: str


def chat(server: Server, **options: Any) -> ChatOpenAI:
    options = {"model": "pocket:darwin", "seed": 7, "extra_body": QUICK, "max_retries": 0, **options}
    return ChatOpenAI(base_url=f"{server.url}/v1", api_key=KEY, **options)


def say(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


# -- OpenAI's client


def test_a_completion_carries_usage_and_what_the_search_says_of_itself(client):
    answer = client.chat.completions.create(model="pocket:darwin", messages=say(TEA), seed=7, extra_body=QUICK)
    (choice,) = answer.choices
    assert "kettle" in choice.message.content
    assert (choice.finish_reason, choice.message.tool_calls) == ("stop", None)
    about = answer.darwin
    assert about["seed"] == 7
    assert about["reward"] > about["first_reward"]
    assert (about["cycles"], about["stop_reason"]) == (1, "cycles")
    assert about["instruction"] == choice.darwin["instruction"]
    assert answer.usage.completion_tokens == about["usage"]["decoded_tokens"] > 300
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_stream_tells_the_same_with_usage_on_a_chunk_of_its_own(client):
    given = {"model": "pocket:best_of_n", "messages": say(TEA), "seed": 3}
    whole = client.chat.completions.create(**given)
    chunks = list(client.chat.completions.create(**given, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].delta.content or "" for c in chunks[:-1]) == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-2].darwin["reward"] == pytest.approx(whole.darwin["reward"], abs=1e-4)
    assert (chunks[-1].choices, chunks[-1].usage.completion_tokens) == ([], whole.usage.completion_tokens)
    assert len({chunk.id for chunk in chunks}) == 1
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_without_include_usage_no_chunk_tells_it(client):
    chunks = list(client.chat.completions.create(model="pocket:sample", messages=say(TEA), stream=True))
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)


def test_n_answers_come_best_first_streamed_or_not(client):
    given = {"model": "pocket:best_of_n", "messages": say(TEA), "seed": 7, "n": 3}
    whole = client.chat.completions.create(**given)
    rewards = [choice.darwin["reward"] for choice in whole.choices]
    assert len(rewards) == 3
    assert rewards == sorted(rewards, reverse=True)
    texts = ["", "", ""]
    for chunk in client.chat.completions.create(**given, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == [choice.message.content for choice in whole.choices]


def test_stop_and_length_end_an_answer(client):
    given = {"model": "pocket:sample", "messages": say(TEA), "seed": 7}
    cut = client.chat.completions.create(**given, max_completion_tokens=8)
    assert (cut.choices[0].finish_reason, cut.usage.completion_tokens) == ("length", 8)
    assert client.chat.completions.create(**given, max_tokens=8).choices == cut.choices
    whole = client.chat.completions.create(**given).choices[0].message.content
    stopped = client.chat.completions.create(**given, stop=whole[20:25]).choices[0]
    assert (stopped.message.content, stopped.finish_reason) == (whole[:20], "stop")


def test_sampling_and_search_settings_reach_the_search(client):
    given = {"model": "pocket:darwin", "messages": say(TEA), "seed": 7}
    search = {"cycles": 1, "mutations": 2, "mutator": "identity", "budget": {"tokens": 60}}
    greedy = client.chat.completions.create(**given, temperature=0, top_p=0.9, extra_body={"darwin": search})
    assert greedy.darwin["stop_reason"] == "budget: tokens"
    assert greedy.darwin["usage"]["decoded_tokens"] <= 60 + 3 * 24
    assert greedy.darwin["instruction"] == TEA


def test_tools_are_called_and_their_results_read(client):
    given = {"model": "pocket:darwin", "tools": [LAMP], "seed": 7, "extra_body": QUICK}
    called = client.chat.completions.create(**given, messages=say(BLUE), tool_choice="required")
    (call,) = called.choices[0].message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == (
        "set_lamp",
        {"room": "kitchen", "color": "blue"},
    )
    assert called.choices[0].finish_reason == "tool_calls"
    assert called.choices[0].message.content is None
    turns = [
        *say(BLUE),
        called.choices[0].message.model_dump(),
        {"role": "tool", "tool_call_id": call.id, "content": "kitchen lamp is blue"},
    ]
    answer = client.chat.completions.create(**given, messages=turns)
    assert answer.choices[0].message.content
    streamed = list(client.chat.completions.create(**given, messages=say(BLUE), tool_choice="required", stream=True))
    (delta,) = [c.choices[0].delta.tool_calls[0] for c in streamed if c.choices[0].delta.tool_calls]
    assert (delta.id, delta.function.arguments) == (call.id, call.function.arguments)
    assert streamed[-1].choices[0].finish_reason == "tool_calls"


def assembled(chunks: list[Any]) -> tuple[dict[str, Any], str]:
    """The assistant's turn that a client makes of a stream, and why it ended."""
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    turn: dict[str, Any] = {"role": "assistant", "content": "".join(delta.content or "" for delta in deltas)}
    if calls := [call.model_dump(exclude={"index"}) for delta in deltas for call in delta.tool_calls or ()]:
        turn["tool_calls"] = calls
    return turn, next(c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason)


@pytest.mark.slow
def test_calls_that_were_cut_at_any_length_can_be_sent_back(client):
    given = {"model": "pocket:sample", "tools": [LAMP], "seed": 7}

    def whole_call(choice: str, length: int) -> bool:
        cut = {**given, "messages": say(BLUE), "tool_choice": choice, "max_tokens": length}
        reply = client.chat.completions.create(**cut).choices[0]
        turn = reply.message.model_dump(exclude_none=True)
        streamed, finish = assembled(list(client.chat.completions.create(**cut, stream=True)))
        calls = turn.get("tool_calls", [])
        assert (streamed["content"], streamed.get("tool_calls", [])) == (turn.get("content", ""), calls)
        assert finish == reply.finish_reason == ("tool_calls" if calls else "length")
        assert all(call["function"]["name"] == "set_lamp" for call in calls)
        assert all(isinstance(json.loads(call["function"]["arguments"]), dict) for call in calls)
        results = [{"role": "tool", "tool_call_id": call["id"], "content": "done"} for call in calls]
        following = [*say(BLUE), streamed, *results, *say("Thank you.")]
        assert client.chat.completions.create(**given, messages=following, max_tokens=2).choices
        return bool(calls)

    cases = [*(("required", length) for length in (*range(1, 31), 90)), ("auto", 5), ("auto", 12)]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda case: whole_call(*case), cases))
    assert found[30]
    assert not all(found)


def test_tool_choice_names_a_tool_or_forbids_all(client):
    heat = {"type": "function", "function": {"name": "heat_kettle", "parameters": {"type": "object", "properties": {}}}}
    given = {"model": "pocket:sample", "messages": say(BLUE), "tools": [LAMP, heat], "seed": 1}
    named = {"type": "function", "function": {"name": "heat_kettle"}}
    forced = client.chat.completions.create(**given, tool_choice=named, parallel_tool_calls=False)
    assert [call.function.name for call in forced.choices[0].message.tool_calls] == ["heat_kettle"]
    assert client.chat.completions.create(**given, tool_choice="none").choices[0].message.tool_calls is None


def test_structured_output_keeps_its_schema(client):
    parsed = client.chat.completions.parse(
        model="pocket:darwin", messages=say(BLUE), response_format=Lamp, seed=7, extra_body=QUICK
    )
    assert isinstance(parsed.choices[0].message.parsed, Lamp)
    loose = client.chat.completions.create(
        model="pocket:sample", messages=say(BLUE), response_format={"type": "json_object"}, seed=7, max_tokens=60
    )
    assert loose.choices[0].message.content.startswith("{")


def test_every_preset_of_the_pair_is_a_model(client):
    cards = {card.id: card for card in client.models.list()}
    assert {"pocket", "pocket:darwin", "pocket:best_of_n", "pocket:sample", "pocket:reward"} <= cards.keys()
    assert cards["pocket:best_of_n"].darwin["mutator"] == "identity"
    assert client.models.retrieve("pocket:darwin") == cards["pocket:darwin"]
    with pytest.raises(openai.NotFoundError, match="pocket:darwin"):
        client.models.retrieve("pocket:darwim")


# -- ChatOpenAI


def test_chat_openai_invokes(server):
    answer = chat(server, include_response_headers=True).invoke(TEA)
    assert "kettle" in answer.content
    assert answer.usage_metadata["output_tokens"] > 300
    headers = answer.response_metadata["headers"]
    assert float(headers["x-darwin-reward"]) > float(headers["x-darwin-first-reward"])
    assert headers["x-darwin-seed"] == "7"


def test_chat_openai_streams(server):
    model = chat(server, stream_usage=True)
    chunks = list(model.stream(TEA))
    total = sum(chunks[1:], chunks[0])
    assert total.content == model.invoke(TEA).content
    assert total.usage_metadata["output_tokens"] > 300
    assert total.response_metadata["finish_reason"] == "stop"


async def test_chat_openai_runs_asynchronously_and_in_batches(server):
    model = chat(server, model="pocket:sample", extra_body=None)
    answers = await model.abatch([TEA, "How do I bake bread?", TEA])
    assert answers[0].content == answers[2].content != answers[1].content
    assert [chunk async for chunk in model.astream(TEA)]


def test_chat_openai_binds_tools_and_goes_on_after_the_result(server):
    model = chat(server).bind_tools([LAMP], parallel_tool_calls=False)
    called = model.invoke(BLUE, tool_choice="required")
    assert [(c["name"], c["args"]) for c in called.tool_calls] == [("set_lamp", {"room": "kitchen", "color": "blue"})]
    result = ToolMessage("kitchen lamp is blue", tool_call_id=called.tool_calls[0]["id"])
    answer = model.invoke([HumanMessage(BLUE), called, result])
    assert isinstance(answer, AIMessage)
    assert answer.content or answer.tool_calls
    chunks = list(model.stream(BLUE, tool_choice="required"))
    assert sum(chunks[1:], chunks[0]).tool_calls == called.tool_calls


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_chat_openai_structures_output(server, method):
    model = chat(server).with_structured_output(Lamp, method=method)
    assert isinstance(model.invoke(BLUE), Lamp)
