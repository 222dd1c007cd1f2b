"""Whole searches on random local pairs: three shapes, three chat templates, a reward model with another tokenizer."""

from __future__ import annotations

import logging

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage

from darwin_align import DarwinChatModel, DarwinSearch, SearchConfig
from darwin_align.backends.local import LocalPolicy, LocalScorer
from darwin_align.core.errors import ContextLengthError
from darwin_align.core.types import Request, Response
from tests.backends.local.kit import assert_same

QUICK = SearchConfig(
    cycles=2, mutations=3, champions=2, replacement_period=6, max_new_tokens=18, mutator="identity", seed=4
)
PAIRS = [("llama", "qwen3-rm"), ("qwen3", "llama-rm"), ("gpt2", "llama-rm"), ("llama", "llama-rm")]


def pair(folders, policy, reward, **arguments):
    return DarwinChatModel.from_pretrained(
        folders[policy], folders[reward], device="cpu", threads=1, config=QUICK, **arguments
    )


@pytest.mark.parametrize(("policy", "reward"), PAIRS)
async def test_a_search_repeats_sync_async_and_from_any_event(folders, policy, reward):
    search = pair(folders, policy, reward).search
    question = "怎样泡一杯绿茶？ 🍵 And why?"
    result = search.invoke(question)
    assert result.reward >= result.first_response.reward
    assert result.usage.reward_tokens > 0
    for again in (await search.ainvoke(question), search.invoke(question)):
        assert (again.text, again.ranking, again.archive) == (result.text, result.ranking, result.archive)
    assert_same(search.invoke(question, replay=result.events[:4]), result)


def test_the_result_does_not_depend_on_the_replacement_period_without_replacement(folders):
    search = pair(folders, "llama", "llama-rm").search
    chunked, whole = (
        search.invoke("How do I brew green tea?", selector="none", replacement_period=m, budget={"seconds": 900})
        for m in (5, 18)
    )
    assert [beam.tokens for beam in chunked.ranking] == [beam.tokens for beam in whole.ranking]


def test_a_long_conversation_with_a_system_turn_goes_through_a_search(folders):
    turns = [
        make(f"第{i}句：绿茶很好喝 🍵👩‍🔬 and so is déjà vu. " * 2)
        for i in range(16)
        for make in (HumanMessage, AIMessage)
    ]
    conversation = [SystemMessage("Be kind."), *turns, HumanMessage("再来一杯 🍵?")]
    answer = pair(folders, "gpt2", "llama-rm").invoke(conversation)
    assert answer.response_metadata["darwin"]["instruction"] == "再来一杯 🍵?"
    assert answer.usage_metadata["input_tokens"] > 3000


def test_tool_turns_stay_behind_the_instruction(folders):
    call = {"name": "heat_kettle", "args": {"degrees": 80}, "id": "1"}
    conversation = [
        HumanMessage("Heat the water."),
        AIMessage("", tool_calls=[call]),
        ToolMessage("done", tool_call_id="1"),
    ]
    answer = pair(folders, "qwen3", "qwen3-rm").invoke(conversation)
    assert answer.response_metadata["darwin"]["instruction"] == "Heat the water."


def test_answers_are_cut_where_the_reward_model_can_read_no_further(folders, caplog):
    policy = LocalPolicy.from_pretrained(folders["llama"], device="cpu", threads=1)
    scorer = LocalScorer.from_pretrained(folders["llama-rm"], device="cpu", threads=1)
    question = Request.of("How do I brew green tea?")
    whole = scorer.reward_model.context_length - scorer.max_response_tokens(question)
    scorer.reward_model.context_length = whole + 7
    model = DarwinChatModel(policy=policy, scorer=scorer, config=QUICK)
    with caplog.at_level(logging.WARNING, "darwin_align"):
        result = model.search.invoke(question)
    assert result.config.max_new_tokens == 7
    [note] = [one for one in result.notes if "are cut after 7 tokens instead of max_new_tokens=" in one]
    assert caplog.text.count(note) == 1
    assert note in result.events[0].delta.notes
    assert scorer.score(question, [Response(text="", tokens=(5,) * 7)]).usage.reward_tokens > 0
    scorer.reward_model.context_length = whole
    with pytest.raises(ContextLengthError, match="no room"):
        model.invoke("How do I brew green tea?")


def test_a_search_ends_well_where_the_reward_model_reads_other_tokens_than_the_policy_decodes(folders, caplog):
    """Its tokenizer needs more of them for the same text: how long an answer may be is not known beforehand."""
    policy = LocalPolicy.from_pretrained(folders["llama"], device="cpu", threads=1)
    scorer = LocalScorer.from_pretrained(folders["gpt2-rm"], device="cpu", threads=1)
    question = Request.of("How do I brew green tea?")
    whole = scorer.reward_model.context_length - scorer.max_response_tokens(question)
    scorer.reward_model.context_length = whole + 24
    config = SearchConfig(mutator="identity", mutations=2, cycles=1, replacement_period=4, max_new_tokens=200, seed=1)
    search = DarwinSearch(policy=policy, scorer=scorer, config=config)
    with caplog.at_level(logging.WARNING, "darwin_align"):
        result = search.invoke(question)
    assert result.config.max_new_tokens == 24
    assert result.stop_reason == "failure: score"
    assert "tokens long and the reward model's context is" in str(result.failure)
    assert result.text
    assert result.reward is not None
    assert "use a scorer with a longer context" in caplog.text
    with pytest.raises(ContextLengthError):
        search.invoke(question, on_failure="raise")
