"""EndpointScorer against loopback servers that speak as documented or recorded, with the embedded model's numbers."""

from __future__ import annotations

import asyncio
import copy
import json
import logging
import math
import pickle
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import chain, repeat
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from darwin_align import DarwinSearch, SearchConfig
from darwin_align.backends.endpoint.limits import Limits
from darwin_align.backends.endpoint.rewards import NIM, HuggingFace, Item, RewardDialect, Wire, found, number, rows
from darwin_align.backends.endpoint.scorer import EndpointScorer
from darwin_align.backends.local import LocalScorer
from darwin_align.backends.scripted import ScriptedPolicy
from darwin_align.core.budget import Usage
from darwin_align.core.errors import (
    ConfigError,
    ContextLengthError,
    EndpointAuthenticationError,
    EndpointConnectionError,
    EndpointNotFoundError,
    EndpointServerError,
    ModelLoadError,
    RewardError,
)
from darwin_align.core.types import Message, Population, Request, Response
from darwin_align.operators import IdentityMutator, LengthPenalty, WeightedSum
from darwin_align.operators.policy import current_search
from darwin_align.operators.portal import acall, call
from darwin_align.pocket import reward_path
from tests.backends.endpoint.fixtures.served import Served, fixture, serving

LENIENT = Limits(attempts=2, backoff=0.01, max_backoff=0.01, connect_timeout=1)
REWARD = str(reward_path())
REQUEST = Request(
    conversation=(
        Message(role="system", content="Be brief."),
        Message(role="user", content="How do I bake bread?"),
        Message(role="assistant", content="Mix flour, water, salt and yeast."),
        Message(role="user", content="How do I brew green tea?"),
    )
)
ANSWER = "Heat the water to 80 degrees. Put two grams of tea into the pot, pour, and wait for two minutes. Enjoy!"
GATEWAY_KEY = "sk-not-to-be-seen-1234567"


@lru_cache
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(REWARD)


@lru_cache
def model() -> Any:
    return AutoModelForSequenceClassification.from_pretrained(REWARD, dtype=torch.float32).eval()


@lru_cache
def local() -> LocalScorer:
    return LocalScorer.from_pretrained(REWARD, dtype="float32", threads=1)


@lru_cache
def responses() -> tuple[Response, ...]:
    """Partial and finished answers, by ids and by text."""
    ids = tokenizer().encode(ANSWER)
    partial = [
        Response(text=tokenizer().decode(ids[:n]), tokens=tuple(ids[:n]), finished=False) for n in range(1, len(ids), 6)
    ]
    end = tokenizer().eos_token_id
    return (*partial, Response(text=ANSWER, tokens=(*ids, end)), Response(text="Boil it."), Response(text=""))


def logit(ids: list[int]) -> float:
    with torch.no_grad():
        return float(model()(input_ids=torch.tensor([ids])).logits)


def vllm(path: str, body: Any) -> Any:
    """vLLM's shapes, see fixtures/vllm.json."""
    if path == "/v1/models":
        return fixture("vllm")["models"]
    assert path == "/classify"
    assert body.keys() == {"model", "use_activation", "input"}
    assert body["model"] == "reward"
    assert body["use_activation"] is False
    logits = [logit(ids) for ids in body["input"]]
    entries = [{"index": i, "label": "LABEL_0", "probs": [one], "num_classes": 1} for i, one in enumerate(logits)]
    tokens = sum(map(len, body["input"]))
    return {"object": "list", "model": "reward", "data": entries, "usage": {"prompt_tokens": tokens}}


def sglang(path: str, body: Any) -> Any:
    if path in ("/v1/models", "/get_model_info"):
        return fixture("sglang")["models" if path == "/v1/models" else "model_info"]
    assert path == "/classify"
    assert body.keys() == {"model", "input_ids"}
    return [{"embedding": [logit(ids)], "meta_info": {"prompt_tokens": len(ids)}} for ids in body["input_ids"]]


def tei(path: str, body: Any) -> Any:
    if path == "/info":
        return fixture("tei")["info"]
    if path != "/predict":
        return 404, {"error": "not found", "error_type": "Validation"}
    assert body.keys() == {"inputs", "raw_scores", "truncate"}
    assert body["raw_scores"] is True
    assert body["truncate"] is False
    if len(body["inputs"]) > 3:
        return 413, {"error": "batch size 4 > maximum allowed batch size 3", "error_type": "Validation"}
    texts = [text for (text,) in body["inputs"]]
    lengths = [len(tokenizer().encode(text)) for text in texts]
    if max(lengths) > 512:
        documented = fixture("tei")["too_long"]
        return documented["status"], documented["response"]
    return [[{"score": logit(tokenizer().encode(text)), "label": "LABEL_0"}] for text in texts]


def openrlhf(path: str, body: Any) -> Any:
    assert path == "/get_reward"
    assert body.keys() == {"query", "prompts", "labels"}
    assert all(query.startswith(prompt) for query, prompt in zip(body["query"], body["prompts"], strict=True))
    assert body["labels"] == [""] * len(body["query"])
    rewards = [logit(tokenizer().encode(text, add_special_tokens=False)) for text in body["query"]]
    return {"rewards": rewards, "scores": rewards, "extra_logs": {"dummy_scores": rewards}}


@lru_cache
def classifier() -> Any:
    return pipeline("text-classification", model=REWARD, dtype="float32", device="cpu")


def huggingface(path: str, body: Any) -> Any:
    """What huggingface-inference-toolkit's handler does, around the pipeline of transformers itself."""
    assert path == "/"
    return classifier()(body["inputs"], **body["parameters"])


def own(path: str, body: Any) -> Any:
    assert (path, body["rm"]) == ("/my/scores", "mine")
    return {"out": [{"r": logit(ids)} for ids in body["in"]]}


class Own(RewardDialect):
    """A dialect that a user wrote."""

    name = "own"
    forms = ("ids",)
    has_models = False

    def request(self, model: str, items: Sequence[Item]) -> Wire:
        return "/my/scores", {"rm": model, "in": [list(item.ids) for item in items]}

    def read(self, data: Any) -> list[float]:
        return [number(found(row, "r")) for row in rows(data, "out")]


SERVERS: dict[str, tuple[Callable[[str, Any], Any], dict[str, Any]]] = {
    "vllm": (vllm, {}),
    "sglang": (sglang, {}),
    "tei": (tei, {}),
    "openrlhf": (openrlhf, {"dialect": "openrlhf"}),
    "huggingface": (huggingface, {"dialect": "huggingface"}),
    "own": (own, {"dialect": Own(), "model": "mine"}),
}


def scorer(served: Served, **settings: Any) -> EndpointScorer:
    return EndpointScorer(base_url=served.url, **{"tokenizer": REWARD, "limits": LENIENT, **settings})


@pytest.fixture
def served() -> Iterator[Served]:
    with serving(vllm) as one:
        yield one


# -- rewards


@pytest.mark.parametrize("name", SERVERS)
def test_rewards_are_those_of_the_local_scorer(name):
    answer, settings = SERVERS[name]
    with serving(answer) as server:
        report = call(scorer(server, **settings).score, REQUEST, responses())
    expected = call(local().score, REQUEST, responses()).answer
    assert report.answer == pytest.approx(expected, abs=1e-3)
    assert report.notes == () or name == "openrlhf"


def test_vllm_is_sent_the_ids_of_the_local_scorer(served):
    call(scorer(served).score, REQUEST, responses())
    inputs = local().reward_model._inputs(REQUEST, responses())
    sent = [tuple(ids) for body in served.bodies("/classify") for ids in body["input"]]
    assert sorted(sent) == sorted({one.ids for one in inputs})


@pytest.mark.parametrize("turn", ["closed", "open"])
def test_turns_as_the_local_scorer_takes_them(served, turn):
    other = LocalScorer.from_pretrained(REWARD, dtype="float32", threads=1, turn=turn)
    rewards = call(scorer(served, turn=turn).score, REQUEST, responses()).answer
    assert rewards == pytest.approx(call(other.score, REQUEST, responses()).answer, abs=1e-3)


def test_batches_keep_the_order_under_concurrency(served):
    many = [Response(text=f"{ANSWER} {i}") for i in range(23)]
    report = call(scorer(served, batch_size=3).score, REQUEST, many)
    bodies = served.bodies("/classify")
    assert sorted(len(body["input"]) for body in bodies) == [2, *[3] * 7]
    assert report.answer == pytest.approx(call(local().score, REQUEST, many).answer, abs=1e-3)
    assert report.usage == Usage(reward_tokens=sum(len(ids) for body in bodies for ids in body["input"]))


def test_equal_inputs_are_sent_once(served):
    one, two = Response(text="Boil it."), Response(text="Boil it.", tokens=tuple(tokenizer().encode("Boil it.")))
    report = call(scorer(served).score, REQUEST, [one, two, Response(text="No."), one])
    [body] = served.bodies("/classify")
    assert len(body["input"]) == 2
    assert report.answer[0] == report.answer[1] == report.answer[3] != report.answer[2]


def test_a_limit_of_the_server_is_kept():
    with serving(tei) as server:
        call(scorer(server).score, REQUEST, responses()[:7])
        assert sorted(len(body["inputs"]) for body in server.bodies("/predict")) == [1, 3, 3]


def test_no_responses_no_request(served):
    assert call(scorer(served).score, REQUEST, []).answer == []
    assert served.bodies("/classify") == []


def test_tokens_are_counted_here_where_the_server_does_not():
    with serving(tei) as server:
        report = call(scorer(server).score, REQUEST, [responses()[0], responses()[0], responses()[1]])
    inputs = local().reward_model._inputs(REQUEST, responses()[:2])
    assert report.usage == Usage(reward_tokens=sum(len(one.ids) for one in inputs))


# -- what the server is, and which tokenizer


def naming(root: str | None, name: str) -> Any:
    """A server that gives its model these names, and gets no requests for rewards by messages."""

    def answer(path: str, body: Any) -> Any:
        if path == "/v1/models":
            return {"data": [{**fixture("vllm")["models"]["data"][0], "root": root, "id": name}]}
        if "messages" in body:
            ids = tokenizer().apply_chat_template(body["messages"], return_dict=False)
            return {"data": [{"index": 0, "probs": [logit(ids)]}], "usage": {"prompt_tokens": len(ids)}}
        return vllm(path, {**body, "model": "reward"})

    return answer


def asked_by_ids(server: Served) -> bool:
    return all("input" in body for body in server.bodies("/classify"))


def test_a_hub_id_that_the_server_names_is_tried_as_a_tokenizer_and_logged(monkeypatch, caplog):
    given = {"org/reward": tokenizer()}
    monkeypatch.setattr("darwin_align.backends.endpoint.scorer.load_tokenizer", given.__getitem__)
    with serving(naming("org/reward", "org/reward")) as server, caplog.at_level(logging.INFO, "darwin_align"):
        report = call(scorer(server, tokenizer=None).score, REQUEST, responses()[:2])
        assert asked_by_ids(server)
    assert report.notes == ()
    assert report.answer == pytest.approx(call(local().score, REQUEST, responses()[:2]).answer, abs=1e-3)
    sentence = "the server names its model 'org/reward': the tokenizer of that name is loaded from the hub"
    assert caplog.text.count(sentence) == 1


@pytest.mark.parametrize("name", [REWARD, "own/reward", "./own/reward", "own/../own/reward", "reward"])
def test_a_path_that_the_server_names_is_never_loaded(name, monkeypatch, tmp_path, caplog):
    for place in ("own/reward", "reward"):
        shutil.copytree(REWARD, tmp_path / place)
    monkeypatch.chdir(tmp_path)
    for root, own in ((name, "m"), (None, name)):
        with serving(naming(root, own)) as server, caplog.at_level(logging.INFO, "darwin_align"):
            call(scorer(server, tokenizer=None).score, REQUEST, responses()[:2])
            assert not asked_by_ids(server)
        assert f"names its model {name!r}, which is no hub id or is a path here: no tokenizer is loaded" in caplog.text
    with serving(naming(None, name)) as server:
        call(scorer(server, tokenizer=None, model=name).score, REQUEST, responses()[:2])
        assert asked_by_ids(server), "what the user gives may be any path"


def test_messages_where_no_tokenizer_is_found(caplog):
    def answer(path: str, body: Any) -> Any:
        if path == "/v1/models":
            return fixture("vllm")["models"]
        assert body.keys() == {"model", "use_activation", "messages", "add_generation_prompt"}
        ids = tokenizer().apply_chat_template(body["messages"], return_dict=False)
        return {"data": [{"index": 0, "probs": [logit(ids)]}], "usage": {"prompt_tokens": len(ids)}}

    with serving(answer) as server:
        one = scorer(server, tokenizer=None)
        first, second = (call(one.score, REQUEST, responses()[:3]) for _ in range(2))
    assert first.answer == pytest.approx(call(local().score, REQUEST, responses()[:3]).answer, abs=1e-3)
    assert len(server.bodies("/classify")) == 6
    [note] = first.notes
    assert "renders the chats itself" in note
    assert "there is none here by the name of '/models/reward' or 'reward'" in note
    assert second.notes == ()
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == [note]
    assert one.max_response_tokens(REQUEST) is None


def test_tools_that_a_server_does_not_see():
    def answer(path: str, body: Any) -> Any:
        return fixture("vllm")["models"] if path == "/v1/models" else {"data": [{"index": 0, "probs": [1.5]}]}

    tool = {"type": "function", "function": {"name": "boil", "parameters": {"type": "object", "properties": {}}}}
    with_tools = REQUEST.model_copy(update={"tools": (tool,)})
    with serving(answer) as server:
        by_messages = call(scorer(server, tokenizer=None).score, with_tools, responses()[:1]).notes
        by_ids = call(scorer(server).score, with_tools, responses()[:1]).notes
        assert by_messages[1:] == (f"{server.url} (vllm) rewards answers without seeing the request's tools",)
        assert by_ids == ()
        [_, shown] = server.bodies("/classify")
    assert "boil" in tokenizer().decode(shown["input"][0])


def test_an_open_turn_by_messages():
    def answer(path: str, body: Any) -> Any:
        if path == "/v1/models":
            return fixture("vllm")["models"]
        assert body["continue_final_message"] is True
        return {"data": [{"index": 0, "probs": [1.5]}]}

    with serving(answer) as server:
        assert call(scorer(server, tokenizer=None, turn="open").score, REQUEST, responses()[:1]).answer == [1.5]


def test_notes_come_once_a_search():
    with serving(openrlhf) as server:
        one = scorer(server, dialect="openrlhf")

        def notes(search: str) -> tuple[str, ...]:
            token = current_search.set(search)
            try:
                return call(one.score, REQUEST, responses()[:1]).notes
            finally:
                current_search.reset(token)

        [note] = notes("a")
        assert "--max_len" in note
        assert (notes("a"), notes("b"), notes("b")) == ((), (note,), ())
        [holder] = one.resources
        holder.release("a")
        assert (notes("a"), notes("b")) == ((note,), ())
        knows = one.model_copy(update={"context_length": 600})
        assert call(knows.score, REQUEST, responses()[:1]).notes == ()


def test_a_server_that_adds_special_tokens_is_warned_about(tmp_path, caplog):
    changed = copy.deepcopy(tokenizer())
    changed.add_special_tokens({"bos_token": "<|system|>"})
    from tokenizers import processors

    bos = ("<|system|>", changed.convert_tokens_to_ids("<|system|>"))
    changed.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos[0]} $A", pair=f"{bos[0]} $A {bos[0]} $B", special_tokens=[bos]
    )
    changed.save_pretrained(tmp_path)
    with serving(tei) as server:
        report = call(scorer(server, tokenizer=str(tmp_path)).score, REQUEST, responses()[:1])
    [note] = report.notes
    assert "reads other tokens than the chat template makes" in note


@pytest.mark.parametrize("kind", ["llama.cpp", "openai"])
def test_a_server_that_gives_no_rewards_is_refused(kind):
    def answer(path: str, body: Any) -> Any:
        if path == "/v1/models":
            return {"data": [{"id": "m", "owned_by": "llamacpp" if kind == "llama.cpp" else "me"}]}
        return 404, {"detail": "Not Found"}

    with serving(answer) as server, pytest.raises(ConfigError) as caught:
        call(scorer(server).score, REQUEST, responses()[:1])
    assert f"of kind '{kind}'" in str(caught.value)
    assert "vllm, vllm-pooling, vllm-score, sglang, tei, openrlhf, huggingface, nim" in str(caught.value)
    assert "RewardDialect of your own" in str(caught.value)


def test_a_generating_vllm_has_no_classify():
    def answer(path: str, body: Any) -> Any:
        return fixture("vllm")["models"] if path == "/v1/models" else (404, {"detail": "Not Found"})

    with serving(answer) as server, pytest.raises(EndpointNotFoundError, match="--runner pooling") as caught:
        call(scorer(server).score, REQUEST, responses()[:1])
    assert caught.value.status == 404


def test_an_unknown_model(served):
    with pytest.raises(EndpointNotFoundError, match="no model 'rewart': did you mean 'reward'"):
        call(scorer(served, model="rewart").score, REQUEST, responses()[:1])


def test_text_servers_need_a_tokenizer():
    for name in ("openrlhf", "huggingface", "tei"):
        with serving(SERVERS[name][0]) as server, pytest.raises(ConfigError, match="tokenizer is missing"):
            call(scorer(server, tokenizer=None, **SERVERS[name][1]).score, REQUEST, responses()[:1])


def test_a_tokenizer_that_is_not_there(served):
    with pytest.raises(ModelLoadError, match="no/such-folder"):
        call(scorer(served, tokenizer="no/such-folder").score, REQUEST, responses()[:1])


def test_pairs(tmp_path):
    def answer(path: str, body: Any) -> Any:
        if path == "/info":
            return fixture("tei")["info"]
        if path != "/predict":
            return 404, {}
        return [[{"score": float(len(question) - len(reply)), "label": "L"}] for question, reply in body["inputs"]]

    question = "\n\n".join(message.text for message in REQUEST.conversation)
    with serving(answer) as server:
        one = scorer(server, recipe="pair", tokenizer=None)
        assert call(one.score, REQUEST, [Response(text="Hi")]).answer == [len(question) - 2]
        assert one.max_response_tokens(REQUEST) is None
        two = scorer(server, recipe="pair")
        expected = len(tokenizer()(question, "")["input_ids"])
        assert two.max_response_tokens(REQUEST) == 512 - expected
        for turn in ("open",):
            with pytest.raises(ConfigError, match="turn='open' is not supported"):
                call(scorer(server, recipe="pair", turn=turn).score, REQUEST, [])
    with serving(vllm) as server, pytest.raises(ConfigError, match="vllm does not take: use one of vllm-score, tei"):
        call(scorer(server, recipe="pair").score, REQUEST, [])


def test_families_are_known_by_their_names():
    def answer(path: str, body: Any) -> Any:
        return {"data": [{**fixture("vllm")["models"]["data"][0], "id": "internlm/internlm2-7b-reward"}]}

    with serving(answer) as server, pytest.raises(ConfigError, match=r"'internlm2' recipe .* recipe='generic'"):
        call(scorer(server).score, REQUEST, [])


def test_nim_by_messages():
    def answer(path: str, body: Any) -> Any:
        if path == "/v1/models":
            return {"data": [{"id": "nvidia/nemotron-4-340b-reward", "owned_by": "nvidia"}]}
        if path != "/v1/chat/completions":
            return 404, {"detail": "Not Found"}
        assert body.keys() == {"model", "messages"}
        assert body["messages"][:-1] == [{"role": m.role, "content": m.text} for m in REQUEST.conversation]
        documented = copy.deepcopy(fixture("nim_attributes")["response"])
        length = len(body["messages"][-1]["content"])
        documented["choices"][0]["message"]["content"] = f"helpfulness:{length},correctness:0.5"
        return documented

    with serving(answer) as server:
        one = scorer(server, dialect=NIM("helpfulness"), tokenizer=None)
        report = call(one.score, REQUEST, [Response(text="Hi"), Response(text="Hello")])
        assert report.answer == [2.0, 5.0]
        assert report.usage == Usage(reward_tokens=56)
        with pytest.raises(EndpointServerError, match=r"nim\) returned no rewards.*helpfulness, correctness"):
            call(scorer(server, dialect="nim", tokenizer=None).score, REQUEST, responses()[:1])
        with pytest.raises(ConfigError, match="turn='open' is not supported by nim with messages"):
            call(scorer(server, dialect="nim", tokenizer=None, turn="open").score, REQUEST, responses()[:1])


def test_a_dialect_of_one_s_own(served):
    class Mine(HuggingFace):
        name = "mine"

        def request(self, model: str, items: Any) -> Any:
            return "/mine", {"texts": [item.text for item in items]}

        def read(self, data: Any) -> list[float]:
            return [float(one) for one in data["lengths"]]

    with serving(lambda path, body: {"lengths": [len(text) for text in body["texts"]]}) as server:
        rewards = call(scorer(server, dialect=Mine()).score, REQUEST, [Response(text="a"), Response(text="abc")]).answer
    assert rewards[1] - rewards[0] == 2


# -- what goes wrong


def wrong(data: Any, status: int = 200) -> Callable[[str, Any], Any]:
    return lambda path, body: fixture("vllm")["models"] if path == "/v1/models" else (status, data)


def test_another_number_of_rewards_names_the_server_and_both_numbers():
    answer = wrong({"data": [{"index": 0, "probs": [1.0]}]})
    with serving(answer) as server, pytest.raises(RewardError) as caught:
        call(scorer(server).score, REQUEST, responses()[:3])
    assert str(caught.value).startswith(f"{server.url}/classify (vllm) was sent 3 responses and returned 1 rewards")


def test_a_page_is_no_reward():
    page = wrong("<html><body>Welcome to nginx</body></html>")
    with serving(page) as server, pytest.raises(EndpointServerError, match=r"no JSON .*Welcome to nginx"):
        call(scorer(server).score, REQUEST, responses()[:1])


def test_a_missing_field_shows_what_came():
    with serving(wrong({"object": "list", "rewards": [1.0]})) as server, pytest.raises(EndpointServerError) as caught:
        call(scorer(server).score, REQUEST, responses()[:1])
    said = str(caught.value)
    assert said.startswith(f"{server.url}/classify (vllm) returned no rewards: data is missing in it.")
    assert "{'object': 'list', 'rewards': [1.0]}" in said
    assert "Is that the right dialect" in said


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_not_a_finite_number(value):
    answer = wrong({"data": [{"index": 0, "probs": [value]}]})
    with serving(answer) as server, pytest.raises(RewardError, match=f"returned the reward {value}"):
        call(scorer(server).score, REQUEST, responses()[:1])


def test_one_that_is_not_a_number_in_a_batch_of_many():
    entries = [{"index": i, "probs": [float(i)]} for i in range(3)]
    entries[1]["probs"] = [math.nan]
    with serving(wrong({"data": entries})) as server, pytest.raises(RewardError, match="finite"):
        call(scorer(server).score, REQUEST, responses()[:3])


def test_a_wrong_key_is_named_but_not_shown(caplog):
    caplog.set_level(logging.DEBUG)
    with serving(lambda path, body: (401, {"error": {"message": "Invalid API Key"}})) as server:
        one = scorer(server, api_key=GATEWAY_KEY, headers={"X-Gateway": GATEWAY_KEY})
        with pytest.raises(EndpointAuthenticationError, match="give api_key=") as caught:
            call(one.score, REQUEST, responses()[:1])
        assert server.headers[0]["authorization"] == f"Bearer {GATEWAY_KEY}"
        assert server.headers[0]["x-gateway"] == GATEWAY_KEY
    shown = [repr(one), str(one), f"{one}", str(caught.value), repr(one.model_dump()), one.model_dump_json()]
    shown += [str(one.with_config(tags=["a"])), repr(one.get_graph()), caplog.text, repr(one.resources)]
    assert not any(GATEWAY_KEY in text for text in shown)
    assert repr(one) == f"EndpointScorer('{server.url}', tokenizer={REWARD!r})"


def test_a_key_that_the_server_repeats_is_not_shown(caplog):
    caplog.set_level(logging.DEBUG)
    repeating = wrong({"debug": {"authorization": f"Bearer {GATEWAY_KEY}"}})
    with serving(repeating) as server, pytest.raises(EndpointServerError, match="returned no rewards") as caught:
        call(scorer(server, api_key=GATEWAY_KEY).score, REQUEST, responses()[:1])
    shown = [record.getMessage() for record in caplog.records if record.name.startswith("darwin_align")]
    assert not any(GATEWAY_KEY in text for text in (str(caught.value), *shown))
    assert "Bearer ***" in str(caught.value)


@pytest.mark.parametrize("settings", [{"api_key": 12345}, {"headers": {"X": 12345}}, {"headers": "12345"}])
def test_what_is_no_key_is_not_shown_either(settings):
    with pytest.raises(ConfigError) as caught:
        EndpointScorer(base_url="http://127.0.0.1:1", **settings)
    assert "12345" not in str(caught.value)


def test_an_address_without_a_listener():
    with pytest.raises(EndpointConnectionError, match="no connection"):
        call(EndpointScorer(base_url="http://127.0.0.1:9", limits=LENIENT).score, REQUEST, responses()[:1])


def test_too_long_is_reported_before_it_is_sent(served):
    long = Response(text="tea " * 600)
    with pytest.raises(ContextLengthError, match=r"the context of the reward model on http.* is 512"):
        call(scorer(served).score, REQUEST, [long])
    assert served.bodies("/classify") == []


def test_too_long_where_the_server_alone_detects_it():
    with serving(tei) as server, pytest.raises(ContextLengthError, match="less than 512 tokens"):
        call(scorer(server, context_length=5000).score, REQUEST, [Response(text="tea " * 600)])


def test_too_long_as_vllm_reports_it():
    recorded = fixture("vllm")["too_long"]
    refusal = wrong(recorded["response"], recorded["status"])
    with serving(refusal) as server, pytest.raises(ContextLengthError, match="maximum context length is 512"):
        call(scorer(server, context_length=5000).score, REQUEST, [Response(text="tea " * 600)])


# -- the sigmoid


def squashed(path: str, body: Any) -> Any:
    data = vllm(path, body)
    if path != "/v1/models":
        for entry in data["data"]:
            entry["probs"] = [1 / (1 + math.exp(-entry["probs"][0]))]
    return data


def test_rewards_between_0_and_1_are_warned_of_once(caplog):
    with serving(squashed) as server:
        one = scorer(server)
        several = [call(one.score, REQUEST, responses()[i : i + 5]).notes for i in (0, 5, 0)]
    assert several[0] == several[2] == ()
    [note] = several[1]
    assert "lie between 0 and 1" in note
    assert [record.getMessage() for record in caplog.records if "between 0 and 1" in record.getMessage()] == [note]


@pytest.mark.parametrize(
    ("rewards", "said"),
    [
        ([1.0] * 10, ("lie between 0 and 1", "are all exactly 1.0")),
        ([0.0] * 10, ("lie between 0 and 1", "are all exactly 0.0")),
        ([1.0] * 9 + [0.9990234375], ("lie between 0 and 1",)),
        ([4.5] * 10, ("are all exactly 4.5",)),
        ([4.5] * 9 + [4.25], ()),
    ],
)
def test_saturated_and_tied_rewards_are_warned_of_once(rewards, said, caplog):
    def answer(path: str, body: Any) -> Any:
        data = vllm(path, body)
        if path != "/v1/models":
            for entry in data["data"]:
                entry["probs"] = [numbers.setdefault(str(body["input"][entry["index"]]), next(left))]
        return data

    numbers, left = {}, chain(rewards, repeat(rewards[-1]))
    ten = [Response(text=f"Answer {i}") for i in range(10)]
    with serving(answer) as server:
        one = scorer(server)
        found = [note for _ in range(2) for note in call(one.score, REQUEST, ten).notes]
    assert len(found) == len(said)
    assert all(part in note for part, note in zip(said, found, strict=True))
    assert sum("exactly" in record.getMessage() for record in caplog.records) == len(
        [s for s in said if "exactly" in s]
    )


def test_the_same_answer_over_and_over_is_no_tie():
    def answer(path: str, body: Any) -> Any:
        data = vllm(path, body)
        return data if path == "/v1/models" else {**data, "data": [{**one, "probs": [4.5]} for one in data["data"]]}

    with serving(answer) as server:
        one = scorer(server)
        assert [call(one.score, REQUEST, responses()[:1]).notes for _ in range(20)] == [()] * 20


def test_raw_scores_are_not_warned_of(served, caplog):
    one = scorer(served)
    assert [call(one.score, REQUEST, responses()).notes for _ in range(2)] == [(), ()]
    assert "between 0 and 1" not in caplog.text


# -- room


def test_room_is_the_local_scorer_s(served):
    one = scorer(served, context_length=1024)
    assert one.max_response_tokens(REQUEST) == local().max_response_tokens(REQUEST)
    assert scorer(served).max_response_tokens(REQUEST) == local().max_response_tokens(REQUEST) - 512


def test_room_never_waits_on_a_loop(served):
    async def on_a_loop(one: EndpointScorer) -> int | None:
        return one.max_response_tokens(REQUEST)

    one = scorer(served)
    assert asyncio.run(on_a_loop(one)) is None
    assert call(on_a_loop, one) is None  # the portal's own
    call(one.score, REQUEST, responses()[:1])
    assert asyncio.run(on_a_loop(one)) == call(on_a_loop, one) == one.max_response_tokens(REQUEST)


# -- drivers


def test_sync_from_inside_a_running_loop(served):
    async def notebook() -> list[float]:
        return call(scorer(served).score, REQUEST, responses()[:2]).answer

    assert asyncio.run(notebook()) == pytest.approx(call(local().score, REQUEST, responses()[:2]).answer, abs=1e-3)


async def test_from_any_loop(served):
    one = scorer(served)
    here = await one.score(REQUEST, responses()[:2])
    there = await acall(one.score, REQUEST, responses()[:2])
    plain = await asyncio.to_thread(call, one.score, REQUEST, responses()[:2])
    assert here.answer == there.answer == plain.answer


def population() -> Population:
    start = Population.start(REQUEST, mutations=3)
    given = {i: beam.model_copy(update={"text": responses()[i].text}) for i, beam in enumerate(start.beams)}
    return start.with_beams(given)


async def test_composites_in_both_drivers(served):
    one = LengthPenalty(scorer=WeightedSum(scorers=(scorer(served), scorer(served)), weights=(1.0, 0.5)), per_word=0.25)
    both = [one.invoke, one.ainvoke]
    plain = await asyncio.to_thread(both[0], population())
    awaited = await both[1](population())
    expected = call(local().score, REQUEST, [beam.response for beam in population().beams]).answer
    words = [len(beam.text.split()) for beam in population().beams]
    for answer in (plain, awaited):
        rewards = [beam.reward for beam in answer.beams]
        assert rewards == pytest.approx([1.5 * r - 0.25 * w for r, w in zip(expected, words, strict=True)], abs=1e-3)
        assert answer.usage.reward_calls == 3
        assert answer.usage.reward_tokens > 0


def test_a_search_is_cut_to_the_room(served):
    one = scorer(served, context_length=50)
    search = DarwinSearch(
        policy=ScriptedPolicy(length=4),
        mutator=IdentityMutator(),
        scorer=one,
        config=SearchConfig(cycles=1, mutations=2, max_new_tokens=2000, seed=3),
        guard=None,
    )
    result = search.invoke("How do I brew green tea?")
    assert result.config.max_new_tokens == one.max_response_tokens(Request.of("How do I brew green tea?")) < 50
    assert result.best.reward is not None
    assert result.usage.reward_tokens > 0


# -- copies


def test_copies_and_pickles(served):
    one = scorer(served, api_key=GATEWAY_KEY)
    expected = call(one.score, REQUEST, responses()[:2]).answer
    for other in (one.model_copy(), copy.copy(one), copy.deepcopy(one), pickle.loads(pickle.dumps(one))):  # noqa: S301
        assert other == one
        assert hash(other) == hash(one)
        assert repr(other) == repr(one)
        assert call(other.score, REQUEST, responses()[:2]).answer == expected
        assert served.headers[-1]["authorization"] == f"Bearer {GATEWAY_KEY}"


def test_a_changed_copy_starts_anew(served):
    one = scorer(served)
    call(one.score, REQUEST, responses()[:1])
    other = one.model_copy(update={"model": "other"})
    with pytest.raises(EndpointNotFoundError, match="no model 'other'"):
        call(other.score, REQUEST, responses()[:1])
    with pytest.raises(Exception, match="frozen"):
        one.model = "other"


def test_threads_share_one_finding_out(served):
    one = scorer(served)
    threads = [threading.Thread(target=call, args=(one.score, REQUEST, responses()[:2])) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(served.bodies("/v1/models")) == 1
    assert len(served.bodies("/classify")) == 8


def test_several_servers_share_the_work():
    with serving(vllm) as one, serving(vllm) as two:
        both = EndpointScorer(base_url=[one.url, two.url], tokenizer=REWARD, batch_size=1, limits=LENIENT)
        assert repr(both).startswith(f"EndpointScorer('{one.url}', '{two.url}', ")
        report = call(both.score, REQUEST, responses())
        assert not one.bodies("/classify") or not two.bodies("/classify"), "one conversation has one server's cache"
        for number in range(24):
            call(both.score, Request.of(f"Which tea is number {number}?"), responses()[:1])
        assert one.bodies("/classify")
        assert two.bodies("/classify")
    assert report.answer == pytest.approx(call(local().score, REQUEST, responses()).answer, abs=1e-3)


# -- settings


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"dialect": "vlm"}, "unknown dialect 'vlm': did you mean 'vllm'"),
        ({"recipe": "skywalk"}, "unknown reward recipe 'skywalk'"),
        ({"turn": "ajar"}, "turn"),
        ({"batch_size": 0}, "batch_size"),
        ({"context_length": 0}, "context_length"),
        ({"base_url": "127.0.0.1"}, "is no web address"),
        ({"base_url": []}, "base_url"),
        ({"bas_url": "x"}, "unknown setting 'bas_url'"),
    ],
)
def test_impossible_settings(settings, match):
    with pytest.raises(ConfigError, match=match):
        EndpointScorer(**{"base_url": "http://127.0.0.1:1", **settings})


def test_a_chat_template_needs_the_tokenizer(served):
    with pytest.raises(ConfigError, match="give the reward model's tokenizer"):
        call(scorer(served, tokenizer=None, chat_template="{{ messages }}").score, REQUEST, responses()[:1])


def test_another_chat_template(served):
    source = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
    call(scorer(served, chat_template=source).score, REQUEST, [Response(text="Hi")])
    [body] = served.bodies("/classify")
    assert tokenizer().decode(body["input"][0]).endswith("[user] How do I brew green tea?\n[assistant] Hi\n")


def test_fixtures_name_their_source():
    for name in ("vllm", "sglang", "tei", "tei_pair", "openrlhf", "huggingface", "nim_reward", "nim_logprobs"):
        assert json.dumps(fixture(name)["source"])
