"""Agents beside reward models and policies whose chat templates know no tools, and turns that templates refuse."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool

from darwin_align import DarwinChatModel
from darwin_align.backends.local import LocalPolicy, LocalScorer
from darwin_align.core.errors import RequestError
from darwin_align.core.log_once import log_once
from darwin_align.core.result import SearchResult
from darwin_align.pocket import policy_path, reward_path

PLAIN = (
    "{% for m in messages %}{% if m.role not in ('system', 'user', 'assistant') %}"
    "{{ raise_exception('no ' ~ m.role) }}{% endif %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
ALTERNATING = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@tool
def set_light(room: str) -> str:
    """Turn the lamp on."""
    return f"The lamp in the {room} is on."


@pytest.fixture(autouse=True)
def _log_anew() -> None:
    log_once.cache_clear()


def model_of(*, policy: str | None = None, reward: str | None = None) -> DarwinChatModel:
    return DarwinChatModel(
        policy=LocalPolicy.from_pretrained(policy_path(), threads=1, chat_template=policy),
        scorer=LocalScorer.from_pretrained(reward_path(), threads=1, chat_template=reward),
        cycles=1,
        mutations=2,
        mutator="identity",
        max_tokens=48,
        seed=3,
    )


def results(model: DarwinChatModel, monkeypatch: pytest.MonkeyPatch) -> list[SearchResult]:
    """The results of a model's searches, as they come."""
    found: list[SearchResult] = []
    run = type(model.search).run

    def kept(self: Any, *arguments: Any, **settings: Any) -> SearchResult:
        found.append(run(self, *arguments, **settings))
        return found[-1]

    monkeypatch.setattr(type(model.search), "run", kept)
    return found


@pytest.mark.parametrize("reward", [PLAIN, ALTERNATING])
def test_an_agents_second_turn_is_judged_where_the_reward_template_has_no_tools(
    reward: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of(reward=reward)
    found = results(model, monkeypatch)
    turns: list[Any] = [HumanMessage("Make the lamp in the kitchen blue.")]
    turns.append(model.bind_tools([set_light], tool_choice="any").invoke(turns))
    [call] = turns[-1].tool_calls
    turns.append(set_light.invoke(call))
    assert isinstance(turns[-1], ToolMessage)
    with caplog.at_level(logging.WARNING, "darwin_align"):
        answer = model.bind_tools([set_light]).invoke(turns)
        model.bind_tools([set_light]).invoke(turns, seed=4)
    assert answer.content or answer.tool_calls
    note = "the reward model's chat template takes no tool calls and results"
    assert caplog.text.count(note) == 1
    assert any(one.startswith(note) for one in found[-1].notes)
    assert any("judges answers without seeing them" in one for one in found[-1].notes)


def test_a_policy_without_tools_says_so_before_the_first_turn() -> None:
    model = model_of(policy=PLAIN)
    assert (model.profile or {})["tool_calling"] is False
    assert (model_of().profile or {})["tool_calling"] is True
    with pytest.raises(RequestError, match=r"the policy's chat template does not show tools"):
        model.bind_tools([set_light])
    assert model.bind_tools([set_light], tool_choice="none").invoke("Light, please.").content
    events: list[Any] = []
    with pytest.raises(RequestError, match=r"the policy's chat template does not show tools, calls and their results"):
        model.bind(tools=model_of().bind_tools([set_light]).kwargs["tools"]).invoke(
            "Light, please.", on_event=lambda *event: events.append(event)
        )
    assert not events
    with pytest.raises(RequestError, match=r"the policy's chat template does not render them"):
        model.invoke(
            [
                HumanMessage("Light!"),
                AIMessage("", tool_calls=[{"name": "set_light", "args": {"room": "hall"}, "id": "abcdefghi"}]),
                ToolMessage("It is on.", tool_call_id="abcdefghi"),
            ]
        )


def test_turns_in_a_row_are_merged_where_the_template_wants_alternation(caplog: pytest.LogCaptureFixture) -> None:
    model = model_of(policy=ALTERNATING, reward=ALTERNATING)
    given = [SystemMessage("Be kind."), HumanMessage("Hello."), HumanMessage("How do I brew green tea?")]
    with caplog.at_level(logging.WARNING, "darwin_align"):
        answer = model.invoke(given)
    assert "two turns of one role in a row" in caplog.text
    merged = HumanMessage("Be kind.\n\nHello.\n\nHow do I brew green tea?")
    prompt = model.search.policy.template.prompt_text(model.search.request(given, {})[0])
    assert prompt == f"<|user|>{merged.content}<|end|><|assistant|>"
    assert answer.content
