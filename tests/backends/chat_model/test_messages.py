"""What a chat model's messages hold beside their text, what it does not take, and its faults: fakes, and no server."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from langchain_core.exceptions import (
    ModelConnectionError,
    ModelInvalidRequestError,
    ModelRateLimitError,
    ModelTimeoutError,
)
from langchain_core.messages import AIMessage, HumanMessage
from pydantic import Field

from darwin_align import Budget, DarwinChatModel, DarwinSearch, SearchConfig, SearchResult
from darwin_align.core.errors import RequestError
from darwin_align.core.types import Beam
from tests.backends.chat_model.kit import TEA, Fake, ToolFake, in_turn, length, on_server
from tests.backends.endpoint.fixtures.served import serving

USAGE = {"input_tokens": 10, "output_tokens": 4, "total_tokens": 14}
BLOCKS = [
    {"type": "reasoning", "reasoning": "Leaves burn easily.", "extras": {"signature": "c2ln"}},
    {
        "type": "text",
        "text": "Use water of 80 degrees.",
        "annotations": [{"type": "citation", "url": "https://tea.test"}],
    },
]
TOOLS = [{"type": "function", "function": {"name": "heat", "parameters": {"type": "object"}}}]


def said(text: Any = "Heat it.", **more: Any) -> AIMessage:
    return AIMessage(text, **{"usage_metadata": USAGE, **more})


def search(model: Any, preset: str = "sample", **settings: Any) -> DarwinSearch:
    config = SearchConfig.preset(preset, **{"seed": 1, "max_new_tokens": 20, **settings})
    return DarwinSearch(policy=model, scorer=length, config=config)


def darwin(model: Any, **settings: Any) -> DarwinChatModel:
    return DarwinChatModel(search=search(model, **settings))


def test_content_blocks_survive_in_answers_streams_and_records() -> None:
    kept = {"model_provider": "mine", "output_version": "v1", "token_usage": {"much": 1}}
    model = darwin(Fake(says=lambda _: said(BLOCKS, response_metadata=kept)))
    answer = model.invoke(TEA)
    assert answer.content == BLOCKS
    assert answer.content_blocks == BLOCKS
    assert answer.text == "Use water of 80 degrees."
    assert "token_usage" not in answer.response_metadata
    assert [chunk.content for chunk in model.stream(TEA) if chunk.content] == [BLOCKS]
    result = model.search.invoke(TEA)
    assert result.text == "Use water of 80 degrees."
    assert SearchResult.from_json(result.to_json()) == result
    assert model.search.invoke(TEA, replay=result.events).best.message["content"] == BLOCKS


def test_blocks_of_an_answer_are_the_history_of_the_next_turn() -> None:
    fake = Fake(says=lambda _: said(BLOCKS))
    model = darwin(fake)
    model.invoke([HumanMessage(TEA), model.invoke(TEA), HumanMessage("And black tea?")])
    assert fake.calls[-1]["messages"][1].content == BLOCKS


def test_a_message_of_plain_text_leaves_no_trace_in_records() -> None:
    for content in ("Heat it.", [{"type": "text", "text": "Heat it."}]):
        result = search(Fake(says=lambda _, content=content: said(content))).invoke(TEA)
        assert result.text == "Heat it."
        assert "message" not in result.best.model_dump() | result.events[1].delta.beams[0]
    assert Beam(instruction="Hi").model_dump().keys() == Beam.model_fields.keys() - {"message"}


def test_further_fields_of_the_message_survive() -> None:
    message = said(
        additional_kwargs={"reasoning_content": "Hm.", "refusal": None},
        response_metadata={"citations": ["https://tea.test"], "logprobs": [1]},
    )
    answer = darwin(Fake(says=lambda _: message)).invoke(TEA)
    assert answer.additional_kwargs == {"reasoning_content": "Hm."}
    assert answer.response_metadata["citations"] == ["https://tea.test"]
    assert answer.content_blocks[0] == {"type": "reasoning", "reasoning": "Hm."}


def test_the_best_answer_keeps_its_own_calls_and_blocks() -> None:
    def call(to: int, call_id: str | None) -> dict[str, Any]:
        return {"name": "heat", "args": {"to": to, "why": "</tool_call>"}, "id": call_id, "type": "tool_call"}

    first = said("", tool_calls=[call(8, "a")])
    best = said(
        [{"type": "text", "text": "I heat it."}, {"type": "tool_use", "id": "b", "name": "heat", "input": {}}],
        tool_calls=[call(80, "b"), call(90, None)],
    )
    model = darwin(ToolFake(says=in_turn(first, best)), preset="best_of_n", mutations=1).bind_tools(TOOLS)
    answer = model.invoke(TEA)
    assert [one["args"]["to"] for one in answer.tool_calls] == [80, 90]
    assert answer.tool_calls[0]["id"] == "b"
    assert len(answer.tool_calls[1]["id"]) == 9
    assert answer.content[1]["id"] == "b"


def test_calls_that_cannot_be_made_lose() -> None:
    broken = {"name": "heat", "args": '{"to": 8', "id": "x", "error": None, "type": "invalid_tool_call"}
    unknown = {"name": "cool", "args": {}, "id": "y", "type": "tool_call"}
    messages = [said("", invalid_tool_calls=[broken]), said("A long text and then:", tool_calls=[unknown]), said("Hi.")]
    model = darwin(ToolFake(says=in_turn(*messages)), preset="best_of_n", mutations=2).bind_tools(TOOLS)
    assert model.invoke(TEA).text == "Hi."


def test_a_schema_kept_by_the_call_of_a_tool_is_an_answer_of_text() -> None:
    form = {"type": "json_schema", "json_schema": {"name": "tea", "schema": {"type": "object", "properties": {}}}}
    call = {"name": "tea", "args": {"minutes": 2}, "id": "z", "type": "tool_call"}
    answer = darwin(ToolFake(says=lambda _: said([{"type": "tool_use", "id": "z"}], tool_calls=[call]))).invoke(
        TEA, response_format=form
    )
    assert (answer.content, answer.tool_calls) == ('{"minutes": 2}', [])


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({}, "stop"),
        ({"finish_reason": "tool_calls"}, "stop"),
        ({"finish_reason": "MAX_TOKENS"}, "length"),
        ({"stop_reason": "end_turn"}, "stop"),
        ({"stop_reason": "max_tokens"}, "length"),
        ({"done_reason": "length"}, "length"),
        ({"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}, "length"),
    ],
)
def test_how_providers_name_the_end(metadata: dict[str, Any], expected: str) -> None:
    assert search(Fake(says=lambda _: said(response_metadata=metadata))).invoke(TEA).best.finish_reason == expected


def test_a_filter_of_the_provider_is_noted() -> None:
    result = search(Fake(says=lambda _: said(response_metadata={"finish_reason": "content_filter"}))).invoke(TEA)
    assert any("provider ended an answer by 'content_filter'" in note for note in result.notes)


def test_what_a_model_does_not_take_is_noted_once() -> None:
    fake = Fake(says=lambda _: AIMessage("Heat it. END and more"))
    form = {"type": "json_object"}
    notes = search(fake, "best_of_n").invoke(TEA, temperature=0.2, stop=["END"], response_format=form).notes
    assert [note for note in notes if not note.startswith("beam")] == [
        "Fake takes no max_tokens, seed, temperature: left out",
        "Fake takes no response_format: an answer that breaks it is invalid",
        "Fake does not heed stop: its answers are cut there",
        "Fake reports no usage: its tokens are not counted",
    ]
    assert search(fake).invoke(TEA, stop=["END"]).text == "Heat it. "
    assert fake.calls[-1]["stop"] == ["END"]


def test_a_model_without_tools_is_refused() -> None:
    for choice, match in (("auto", "the request has tools"), ("any", "Fake takes none")):
        with pytest.raises(RequestError, match=match):
            darwin(Fake(says=lambda _: said())).bind_tools(TOOLS, tool_choice=choice).invoke(TEA)


def test_tokens_beyond_the_limit_count_as_spent() -> None:
    usage = {"input_tokens": 10, "output_tokens": 90, "total_tokens": 100}
    result = search(Fake(says=lambda _: said(usage_metadata=usage))).invoke(TEA)
    assert (result.best.length, result.usage.decoded_tokens) == (20, 90)


class Choosy(Fake):
    """Its server takes neither a seed nor a temperature."""

    seed: int | None = None
    temperature: float | None = None
    tried: list[int] = Field(default_factory=list)

    def _generate(self, *args: Any, **more: Any) -> Any:
        self.tried.append(1)
        for name in ("seed", "temperature"):
            if getattr(self, name) is not None:
                raise ModelInvalidRequestError(f"Unsupported parameter: '{name}'")
        return super()._generate(*args, **more)


def test_what_its_server_refuses_is_left_out_from_then_on() -> None:
    model = Choosy(says=lambda _: said())
    made = search(model)
    result = made.invoke(TEA, temperature=0.5)
    assert result.notes[:2] == (
        "Choosy does not take seed: it is left out",
        "Choosy does not take temperature: it is left out",
    )
    made.invoke(TEA, temperature=0.5)
    assert len(model.tried) == 4


def test_answers_that_are_late_for_a_budget_are_not_waited_for() -> None:
    waits = iter([0.0, 0.0, 30.0, 30.0])
    fake = Fake(says=lambda _: said(), seconds=lambda: next(waits))
    result = search(fake, "best_of_n", budget=Budget(seconds=1.5), mutations=3).invoke(TEA)
    assert result.text == "Heat it."
    assert result.stop_reason == "budget: seconds"
    assert result.usage.seconds < 10


def test_a_target_reward_is_met_by_whole_answers() -> None:
    config = {"target_reward": 3.0, "replacement_period": 5, "mutations": 2}
    result = search(Fake(says=lambda _: said()), "best_of_n", **config).invoke(TEA)
    assert result.stop_reason == "target_reward" or result.reward == 8.0
    assert result.notes[0] == "replacement_period=5 has no effect: the policy writes whole answers"


def test_remote_faults_are_langchains() -> None:
    with pytest.raises(ModelConnectionError):
        darwin(on_server("http://127.0.0.1:9")).invoke(TEA)


@pytest.mark.parametrize("how", ["invoke", "ainvoke"])
async def test_a_server_that_fails_for_good_ends_a_search_with_the_best_so_far(how: str) -> None:
    def answer(path: str, body: Any) -> Any:
        left.append(1)
        if len(left) > 3:
            return 429, {"error": {"message": "slow down"}}
        choice = {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": "1. Explain how I brew green tea."},
        }
        return {"object": "chat.completion", "id": "x", "created": 1, "model": "m", "choices": [choice], "usage": None}

    left: list[int] = []
    with serving(answer) as served:
        made = search(on_server(served.url), "mutate_best_of_n", mutations=1, cycles=2)
        result = made.invoke(TEA) if how == "invoke" else await made.ainvoke(TEA)
    assert result.stop_reason.startswith("failure: ")
    assert result.reward is not None
    assert "RateLimit" in (result.failure or "")
    refusal = (429, {"error": {"message": "slow down"}})
    with serving(lambda path, body: refusal) as served, pytest.raises(ModelRateLimitError):
        darwin(on_server(served.url)).invoke(TEA)


def test_timeouts_are_langchains() -> None:
    def slow(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout("slow", request=request)

    client = httpx.AsyncClient(transport=httpx.MockTransport(slow))
    chat = on_server("http://x.test", http_async_client=client)
    with pytest.raises(ModelTimeoutError):
        darwin(chat).invoke(TEA)
