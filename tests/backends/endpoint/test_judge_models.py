"""JudgeScorer by chat models on a real server, its modes, and the settings under which they mean something."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from langchain_core.exceptions import ModelInvalidRequestError, ModelRateLimitError
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda
from transformers import AutoConfig, AutoTokenizer, LlamaForCausalLM

from benchmarks.servers.gguf_file import write_gguf
from benchmarks.servers.launch import Server, llama_server
from darwin_align import Budget, DarwinSearch, LengthPenalty, Request, Response, SearchConfig
from darwin_align.backends.endpoint import JudgeScorer, Limits, Rubric
from darwin_align.backends.scripted import ScriptedPolicy
from darwin_align.core.errors import ConfigError, EndpointServerError, EndpointTimeoutError
from darwin_align.operators.portal import call
from darwin_align.pocket import policy_path
from tests.backends.chat_model.kit import TEA, Fake, ToolFake, Wire, on_server

REQUEST = Request.of(TEA)
RESPONSES = [Response(text=text) for text in ("Heat water to 80 degrees, then steep the leaves.", "No.", "Buy coffee.")]
QUICK = Limits(attempts=3, backoff=0.001, max_backoff=0.001)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A second model: the embedded one's shape and tokenizer, with random weights."""
    folder = tmp_path_factory.mktemp("other")
    torch.manual_seed(1)
    LlamaForCausalLM(AutoConfig.from_pretrained(policy_path())).save_pretrained(folder)
    AutoTokenizer.from_pretrained(policy_path()).save_pretrained(folder)
    with llama_server(write_gguf(folder, folder / "other.gguf"), slots=2) as server:
        yield server


def test_one_model_writes_and_another_judges(llama: Server, other: Server) -> None:
    wires = Wire(), Wire()
    policy, judge = on_server(llama.url, wires[0]), on_server(other.url, wires[1], temperature=0, seed=1)
    search = DarwinSearch(
        policy=policy,
        scorer=JudgeScorer(model=judge),
        config=SearchConfig.preset("best_of_n", mutations=3, seed=4, max_new_tokens=30),
    )
    result = search.invoke(TEA)
    assert 0 <= result.reward <= 100
    assert len(wires[0].bodies) == 4
    assert result.usage.decoded_tokens == wires[0].total("completion_tokens")
    assert result.usage.reward_tokens == wires[1].total("total_tokens")
    form = wires[1].bodies[0]["response_format"]["json_schema"]
    assert form["schema"]["properties"] == {"score": {"type": "integer", "minimum": 0, "maximum": 100}}
    assert result.notes == ()


@pytest.mark.parametrize(("mode", "calls"), [("absolute", 3), ("listwise", 2), ("pairwise", 6)])
def test_calls_of_each_mode_on_a_real_server(llama: Server, mode: Any, calls: int) -> None:
    wire = Wire()
    scorer = JudgeScorer(model=on_server(llama.url, wire, temperature=0), mode=mode)
    report = call(scorer.score, REQUEST, [*RESPONSES, RESPONSES[0]])
    assert len(wire.bodies) == calls
    assert all(0 <= score <= 100 for score in report.answer)
    assert report.answer[0] == report.answer[3]
    assert report.usage.reward_tokens == wire.total("total_tokens")


def judge_of_lists(prompt: str) -> str:
    """The longer, the better; the first one gets ten more."""
    texts = [text for _, text in re.findall(r"<(reply-\d+)-\w{8}>\n(.*?)\n</", prompt, re.DOTALL)]
    return json.dumps({f"reply_{i}": len(text) + 10 * (i == 1) for i, text in enumerate(texts, 1)})


def judge_of_pairs(prompt: str) -> str:
    """The longer one is better, and the first of two that are both short."""
    first, second = (re.search(rf"<{name}-\w{{8}}>\n(.*?)\n</", prompt, re.DOTALL)[1] for name in ("first", "second"))
    if max(len(first), len(second)) < 20:
        return "Better: first"
    return json.dumps({"better": "first" if len(first) > len(second) else "second"})


def test_lists_are_judged_in_both_orders() -> None:
    scorer = JudgeScorer(model=RunnableLambda(judge_of_lists), mode="listwise")
    first, last = len(RESPONSES[0].text), len(RESPONSES[2].text)
    assert call(scorer.score, REQUEST, RESPONSES).answer == [first + 5, 3, last + 5]
    assert call(scorer.score, REQUEST, RESPONSES[1:2]).answer == [13]


def test_pairs_are_judged_in_both_orders() -> None:
    scorer = JudgeScorer(model=RunnableLambda(judge_of_pairs), mode="pairwise", rubric=Rubric(low=-1, high=1))
    assert call(scorer.score, REQUEST, RESPONSES).answer == [1.0, -0.5, -0.5]
    assert call(scorer.score, REQUEST, RESPONSES[:1]).answer == [0.0]


@pytest.mark.parametrize(
    ("mode", "reply", "why"),
    [
        ("listwise", '{"reply_1": 5}', "no score for every reply: none for reply_2"),
        ("listwise", "5, 7", "no score for every reply: none"),
        ("listwise", '{"reply_1": 5, "reply_2": 700}', "700 lies outside"),
        ("pairwise", '{"better": "both"}', "does not say which reply is better"),
        ("pairwise", "I like the first.", "does not say which reply is better"),
    ],
)
def test_replies_to_several_are_read_strictly(mode: Any, reply: str, why: str) -> None:
    prompts: list[str] = []
    scorer = JudgeScorer(model=RunnableLambda(lambda prompt: prompts.append(prompt) or reply), mode=mode)
    with pytest.raises(EndpointServerError, match=why):
        call(scorer.score, REQUEST, RESPONSES[:2])
    assert any("could not be used" in prompt for prompt in prompts)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"selector": "top_k"}, "partial answers scored"),
        ({"cycles": 2}, "cycles=2"),
        ({"budget": Budget(tokens=99)}, "first response is scored alone"),
        ({"target_reward": 1.0}, "target_reward"),
    ],
)
def test_settings_under_which_relative_rewards_mean_nothing(settings: dict[str, Any], match: str) -> None:
    scorer = JudgeScorer(model=RunnableLambda(judge_of_lists), mode="listwise")
    for one in (scorer, LengthPenalty(scorer=scorer)):
        with pytest.raises(ConfigError, match=f"{match}.*mode='absolute'"):
            DarwinSearch(policy=ScriptedPolicy(), scorer=one, config=SearchConfig.preset("best_of_n", **settings))
        search = DarwinSearch(policy=ScriptedPolicy(), scorer=one, config=SearchConfig.preset("best_of_n", seed=1))
        with pytest.raises(ConfigError, match=match):
            search.invoke(TEA, **settings)
    result = search.invoke(TEA)
    assert result.reward == max(beam.reward for beam in result.ranking)


def test_unfinished_answers_are_not_compared() -> None:
    scorer = JudgeScorer(model=RunnableLambda(judge_of_lists), mode="listwise")
    with pytest.raises(ConfigError, match="some are not finished"):
        call(scorer.score, REQUEST, [*RESPONSES, Response(text="Heat", finished=False)])


def test_a_rubric_of_text_and_templates_that_would_be_ignored() -> None:
    prompts: list[str] = []
    own = JudgeScorer(
        model=RunnableLambda(lambda prompt: prompts.append(prompt) or "Score: 7"),
        rubric="Grade: {conversation} {response}",
    )
    assert call(own.score, REQUEST, RESPONSES[:1]).answer == [7.0]
    assert prompts[0].startswith("Grade: <conversation-")
    with pytest.raises(ConfigError, match=r"rubric.template would be ignored: mode='pairwise' reads rubric.pairwise"):
        JudgeScorer(model=own.model, rubric=own.rubric, mode="pairwise")
    with pytest.raises(ConfigError, match=r"listwise template needs the placeholder \{responses\}"):
        Rubric(listwise="{conversation}")


def failing(*errors: Exception, then: str = "Score: 5") -> Callable[[Any], AIMessage]:
    left = list(errors)

    def say(_: Any) -> AIMessage:
        if left:
            raise left.pop(0)
        return AIMessage(then)

    return say


def test_failures_that_may_pass_are_tried_again() -> None:
    passing = failing(ModelRateLimitError("slow down"), ConnectionError("reset"))
    assert call(JudgeScorer(model=Fake(says=passing), limits=QUICK).score, REQUEST, RESPONSES[:1]).answer == [5.0]
    lasting = failing(*[ModelRateLimitError("slow down")] * 9)
    with pytest.raises(ModelRateLimitError):
        call(JudgeScorer(model=Fake(says=lasting), limits=QUICK).score, REQUEST, RESPONSES[:1])
    with pytest.raises(ValueError, match="a bug"):
        call(JudgeScorer(model=Fake(says=failing(ValueError("a bug"))), limits=QUICK).score, REQUEST, RESPONSES[:1])


def test_a_judge_that_is_late() -> None:
    limits = Limits(attempts=2, backoff=0.001, max_backoff=0.001, attempt_timeout=0.05)
    scorer = JudgeScorer(model=Fake(says=failing(), seconds=lambda: 30.0), limits=limits)
    with pytest.raises(EndpointTimeoutError, match=r"did not answer in 0.05 s \(limits.attempt_timeout\)"):
        call(scorer.score, REQUEST, RESPONSES[:1])


def test_structured_output_by_the_call_of_a_tool_and_without_it() -> None:
    rating = AIMessage("", tool_calls=[{"name": "rating", "args": {"score": 8}, "id": "a"}])
    assert call(JudgeScorer(model=ToolFake(says=lambda _: rating)).score, REQUEST, RESPONSES[:1]).answer == [8.0]
    refusal = ModelInvalidRequestError("response_format is not supported")
    report = call(JudgeScorer(model=ToolFake(says=failing(refusal))).score, REQUEST, RESPONSES[:1])
    assert report.answer == [5.0]
    assert report.notes == ("the judge ToolFake does not take response_format: its replies are read as text",)


@pytest.mark.parametrize(("score_thoughts", "rewards"), [(True, [9.0, 0.0]), (False, [0.0, 0.0])])
def test_answers_of_one_text_differ_by_the_thoughts_that_are_judged(score_thoughts: bool, rewards: list[float]) -> None:
    judge = RunnableLambda(lambda prompt: "Score: 9" if "Boil it first?" in prompt else "Score: 0")
    scorer = JudgeScorer(model=judge, rubric=Rubric(low=0, high=10), score_thoughts=score_thoughts)
    answers = [Response(text="Heat it.", thoughts="Boil it first?"), Response(text="Heat it.", thoughts="No milk?")]
    assert call(scorer.score, Request.of("Tea?"), scorer.judgeable(answers)).answer == rewards
