"""Reward models over the wire: our own client of each dialect, against this server as a process."""

import json
from collections.abc import Sequence
from math import exp
from typing import Any

import pytest

from benchmarks.servers.launch import Server
from darwin_align import Request, Response
from darwin_align.backends.endpoint import EndpointScorer
from darwin_align.backends.endpoint.rewards import Item, RewardDialect, Wire, found, in_order, number, rows
from darwin_align.backends.local import LocalScorer
from darwin_align.core import Message
from darwin_align.pocket import reward_path

from .conftest import KEY, TEA


class Ours(RewardDialect):
    """The server's own call."""

    name = "ours"
    forms = ("messages",)
    has_models = False

    def request(self, model: str, items: Sequence[Item]) -> Wire:
        return "/v1/rewards", {"model": model, "conversations": [list(item.messages) for item in items]}

    def read(self, data: Any) -> list[float]:
        return [number(found(entry, "reward")) for entry in in_order(rows(data, "data"))]

    def most(self, form: str) -> None:
        """No limit."""


DIALECTS = ["vllm", "vllm-pooling", "openrlhf", Ours()]
TURNS = (
    Message(role="system", content="You are a helpful assistant."),
    Message(role="user", content="Hello!"),
    Message(role="assistant", content="Hello, how can I help?"),
    Message(role="user", content=TEA),
)
REQUESTS = [Request.of(TEA), Request(conversation=TURNS)]
RESPONSES = [
    Response(text="You need a kettle, two spoons of green tea leaves and a warm cup."),
    Response(text="Boil fresh water. Let it cool for three minutes", finished=False),
    Response(text="I do not care about tea, and neither should you."),
    Response(text="Grüße, 茶 🍵\n\n1. Warte."),
    Response(text=""),
]


@pytest.fixture(scope="module")
def local():
    return LocalScorer.from_pretrained(reward_path(), threads=1)


def scorer(server: Server, dialect: str | RewardDialect) -> EndpointScorer:
    options = {"dialect": dialect, "model": "pocket:reward", "tokenizer": reward_path(), "context_length": 1024}
    return EndpointScorer(base_url=server.url, api_key=KEY, **options)


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: getattr(dialect, "name", dialect))
@pytest.mark.parametrize("request_", REQUESTS, ids=["one turn", "four turns"])
async def test_each_dialect_gives_the_local_rewards(server, local, dialect, request_):
    there = await scorer(server, dialect).score(request_, RESPONSES)
    here = local.score(request_, RESPONSES)
    assert there.answer == pytest.approx(here.answer, abs=1e-4)
    if dialect != "openrlhf":
        assert there.usage.reward_tokens > 0


async def test_responses_by_token_ids_are_read_as_they_are(server, local, pair):
    best = pair.search.invoke(TEA, seed=5, cycles=0, max_tokens=30).best
    assert best.tokens
    there = await scorer(server, "vllm").score(REQUESTS[0], [best.response])
    assert there.answer == pytest.approx(local.score(REQUESTS[0], [best.response]).answer, abs=1e-4)


async def test_a_conversation_goes_to_classify_as_messages(server, local, web):
    turns = [{"role": turn.role, "content": turn.text} for turn in TURNS]
    body = {"messages": [*turns, {"role": "assistant", "content": RESPONSES[0].text}], "add_generation_prompt": False}
    here = local.score(REQUESTS[1], RESPONSES[:1]).answer[0]
    raw = web.post("/classify", json={**body, "use_activation": False}).json()
    assert raw["data"][0]["probs"] == [pytest.approx(here, abs=1e-4)]
    squashed = web.post("/classify", json=body).json()
    assert squashed["data"][0]["probs"] == [pytest.approx(1 / (1 + exp(-here)), abs=1e-4)]


def test_our_own_call_takes_responses_of_one_conversation(web, local):
    texts = [response.text for response in RESPONSES]
    body = {"messages": [{"role": "user", "content": TEA}], "responses": [*texts, texts[0]]}
    reply = web.post("/v1/rewards", json=body).json()
    here = local.score(REQUESTS[0], [Response(text=text) for text in texts]).answer
    assert [one["reward"] for one in reply["data"]] == pytest.approx([*here, here[0]], abs=1e-4)
    assert [one["index"] for one in reply["data"]] == list(range(6))
    assert reply["model"] == "pocket:reward"


def test_openrlhf_is_given_scores_and_rewards(web):
    reply = web.post("/get_reward", json={"query": ["one", "two"], "prompts": ["", ""], "labels": ["", ""]}).json()
    assert reply["rewards"] == reply["scores"]
    assert len(reply["rewards"]) == 2


@pytest.mark.parametrize(
    ("path", "body", "reason"),
    [
        ("/v1/rewards", {"messages": [{"role": "user", "content": "x"}]}, "give messages and responses"),
        ("/v1/rewards", {"conversations": [[{"role": "user", "content": "x"}]]}, "must end with the assistant"),
        ("/v1/rewards", {"conversations": [[]]}, "must end with the assistant"),
        ("/v1/rewards", {"model": "nobody", "messages": [], "responses": ["x"]}, "at least 1"),
        ("/classify", {}, "give input or messages"),
        ("/classify", {"input": []}, "input is empty"),
        ("/classify", {"input": [[]]}, "no tokens"),
        ("/classify", {"input": [[10**9]]}, "outside of the model's"),
        ("/classify", {"input": [[-1]]}, "outside of the model's"),
        ("/classify", {"input": [[True]]}, "valid"),
        ("/classify", {"input": "x", "truncate_prompt_tokens": 5}, "too long is refused"),
        ("/classify", {"input": "tea " * 2000}, "context is 1024"),
        ("/classify", {"input": ["x"] * 257}, "256 at most"),
        ("/pooling", {"input": "x"}, "task='classify'"),
        ("/get_reward", {"query": []}, "at least 1"),
    ],
)
def test_what_cannot_be_rewarded_is_refused(web, path, body, reason):
    reply = web.post(path, json=body)
    assert reply.status_code == 400
    assert reason in json.dumps(reply.json()["error"]["message"])
