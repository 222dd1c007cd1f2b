"""EndpointScorer against vLLM itself, serving the embedded reward model on the CPU."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import lru_cache

import pytest

from benchmarks.servers.launch import VLLM_PYTHON, Server, vllm_server
from darwin_align.backends.endpoint.scorer import EndpointScorer
from darwin_align.backends.local import LocalPolicy, LocalScorer
from darwin_align.core.errors import ContextLengthError, EndpointNotFoundError
from darwin_align.core.types import Message, Request, Response, Sampling
from darwin_align.operators.policy import Row
from darwin_align.operators.portal import call
from darwin_align.pocket import policy_path, reward_path

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not VLLM_PYTHON.is_file(), reason="vLLM has a virtual environment of its own: it is missing"),
]

REQUEST = Request(
    conversation=(Message(role="user", content="How do I brew green tea?"),), sampling=Sampling(temperature=0.9)
)


@pytest.fixture(scope="module")
def vllm() -> Iterator[Server]:
    with vllm_server(reward_path(), pooling=True, served_name="reward") as server:
        yield server


@lru_cache
def responses() -> tuple[Response, ...]:
    """What the embedded policy writes: ten beginnings, ten whole answers, and a text of nobody's."""
    policy = LocalPolicy.from_pretrained(policy_path(), dtype="float32", threads=1)
    rows = [Row(REQUEST, max_tokens=most, seed=seed) for most, seed in itertools.product((17, 300), range(10))]
    written = [
        Response(text=c.text, tokens=c.tokens, finished=c.finish_reason is not None) for c in policy.generate(rows)
    ]
    assert {response.finished for response in written} == {True, False}
    return (*written, Response(text="Boil it. 煮沸 🍵"), Response(text=""))


@lru_cache
def expected(turn: str = "closed") -> list[float]:
    scorer = LocalScorer.from_pretrained(reward_path(), dtype="float32", threads=1, turn=turn)
    return list(call(scorer.score, REQUEST, responses()).answer)


@pytest.mark.parametrize("turn", ["closed", "open"])
@pytest.mark.parametrize("dialect", ["auto", "vllm-pooling", "vllm-score"])
def test_rewards_are_the_local_scorer_s(vllm, dialect, turn):
    """``/score`` takes no ids: it agrees because this tokenizer joins texts without anything between them, and because
    these answers' ids are what their texts are tokenised to."""
    scorer = EndpointScorer(base_url=vllm.url, tokenizer=reward_path(), dialect=dialect, turn=turn)
    report = call(scorer.score, REQUEST, responses())
    assert report.answer == pytest.approx(expected(turn), abs=1e-3)
    assert report.notes == ()
    assert report.usage.reward_tokens > 0


def test_one_by_one_and_by_messages(vllm, monkeypatch):
    singly = EndpointScorer(base_url=vllm.url, tokenizer=reward_path(), batch_size=1)
    assert call(singly.score, REQUEST, responses()).answer == pytest.approx(expected(), abs=1e-3)
    monkeypatch.setattr("darwin_align.backends.endpoint.scorer.load_tokenizer", _nowhere)
    for turn in ("closed", "open"):
        rendered = EndpointScorer(base_url=vllm.url, turn=turn)
        report = call(rendered.score, REQUEST, responses())
        assert report.answer == pytest.approx(expected(turn), abs=1e-3)
        assert "renders the chats itself" in report.notes[0]


def _nowhere(path: str) -> None:
    from darwin_align.core.errors import ModelLoadError

    raise ModelLoadError(f"nothing at {path}")


def test_it_reports_its_context_and_its_models(vllm):
    scorer = EndpointScorer(base_url=vllm.url, tokenizer=reward_path())
    local = LocalScorer.from_pretrained(reward_path(), dtype="float32", threads=1).max_response_tokens(REQUEST)
    assert scorer.max_response_tokens(REQUEST) == local - 512  # the server was started with half the context
    with pytest.raises(ContextLengthError, match="is 512"):
        call(scorer.score, REQUEST, [Response(text="tea " * 600)])
    unaware = EndpointScorer(base_url=vllm.url, tokenizer=reward_path(), context_length=4096)
    with pytest.raises(ContextLengthError, match="maximum context length is 512"):
        call(unaware.score, REQUEST, [Response(text="tea " * 600)])
    with pytest.raises(EndpointNotFoundError, match="did you mean 'reward'"):
        call(EndpointScorer(base_url=vllm.url, model="rewards").score, REQUEST, responses()[:1])
