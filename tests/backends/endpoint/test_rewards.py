"""Dialects of reward servers: what they send and read, checked against documented or recorded shapes."""

from __future__ import annotations

import copy
import pickle
from math import isnan
from typing import Any

import pytest

from darwin_align.backends.endpoint.rewards import (
    NIM,
    REWARD_DIALECTS,
    HuggingFace,
    Item,
    OpenRLHF,
    RewardDialect,
    SGLangClassify,
    TEIPredict,
    UnexpectedReply,
    VLLMClassify,
    VLLMPooling,
    VLLMScore,
)
from darwin_align.backends.endpoint.tokenizers import load_template
from darwin_align.core.types import Request, Response
from darwin_align.pocket import reward_path
from tests.backends.endpoint.fixtures.served import fixture

REQUEST = Request.of("How do I brew green tea?")
RESPONSES = [Response(text="Heat the water to 80 degrees."), Response(text="Heat")]
CHAT = ({"role": "user", "content": REQUEST.instruction}, {"role": "assistant", "content": RESPONSES[0].text})
TEXTS = [Item("text", answer=text, before="", after=text) for text in ("first", "second")]
PAIRS = [Item("pair", question="question", answer=text) for text in ("first", "second")]


def ids() -> list[Item]:
    template = load_template(reward_path())
    return [Item("ids", ids=tuple(one)) for one in template.answer_ids(REQUEST, RESPONSES, "closed")]


def parts() -> list[Item]:
    texts = load_template(reward_path()).answer_texts(REQUEST, RESPONSES, "closed", special=True)
    return [Item("text", before=before, after=after) for before, after in texts]


# -- vLLM: recorded


VLLM: list[tuple[str, RewardDialect, Any, list[float]]] = [
    ("classify", VLLMClassify(), ids, [-1.6000620126724243, -1.8691370487213135]),
    ("classify_messages", VLLMClassify(), lambda: [Item("messages", messages=CHAT)], [-1.6000620126724243]),
    ("classify_open", VLLMClassify(), lambda: [Item("messages", messages=CHAT, open=True)], [8.07951545715332]),
    ("pooling", VLLMPooling(), ids, [-1.6000620126724243, -1.8691370487213135]),
    ("score", VLLMScore(), parts, [-1.6000620126724243, -1.8691370487213135]),
]


@pytest.mark.parametrize(("name", "dialect", "items", "rewards"), VLLM, ids=[name for name, *_ in VLLM])
def test_vllm_as_recorded(name, dialect, items, rewards):
    recorded = fixture("vllm")[name]
    assert dialect.request("reward", items()) == (recorded["path"], recorded["request"])
    assert dialect.read(recorded["response"]) == rewards
    assert dialect.tokens(recorded["response"]) == recorded["response"]["usage"]["prompt_tokens"]


def test_vllm_score_takes_pairs():
    path, body = VLLMScore().request("reward", PAIRS)
    assert path == "/score"
    assert (body["queries"], body["documents"]) == (["question", "question"], ["first", "second"])


def test_answers_are_read_in_their_own_order():
    entries = [{"index": 1, "probs": [2.0]}, {"index": 0, "probs": [1.0]}]
    assert VLLMClassify().read({"data": entries}) == [1.0, 2.0]
    assert VLLMClassify().read({"data": [{"probs": [3.0]}]}) == [3.0]
    with pytest.raises(UnexpectedReply, match=r"have the places \[0, 0\]"):
        VLLMClassify().read({"data": [{"index": 0, "probs": [2.0]}, {"index": 0, "probs": [1.0]}]})
    with pytest.raises(UnexpectedReply, match="places"):
        VLLMClassify().read({"data": [{"index": "first", "probs": [2.0]}]})


# -- others: documented


DOCUMENTED: list[tuple[str, RewardDialect, list[Item]]] = [
    ("sglang", SGLangClassify(), [Item("ids", ids=(5, 6, 7)), Item("ids", ids=(5, 6, 8, 9))]),
    ("tei", TEIPredict(), TEXTS),
    ("tei_pair", TEIPredict(), PAIRS),
    ("openrlhf", OpenRLHF(), [Item("text", before="question ", after=text) for text in ("first", "second")]),
    ("huggingface", HuggingFace(), TEXTS),
]


@pytest.mark.parametrize(("name", "dialect", "items"), DOCUMENTED, ids=[name for name, *_ in DOCUMENTED])
def test_as_documented(name, dialect, items):
    documented = fixture(name)
    model = documented["request"].get("model", "")
    assert dialect.request(model, items) == (documented["path"], documented["request"])
    assert dialect.read(documented["response"]) == [-1.5, 2.25]


def test_tokens_of_each_answer_add_up():
    answers = fixture("sglang")["response"]
    assert SGLangClassify().tokens(answers) == 7
    assert SGLangClassify().tokens([{"embedding": [1.0]}]) is None
    assert TEIPredict().tokens(fixture("tei")["response"]) is None


def test_tei_reports_how_many_it_takes():
    assert TEIPredict().most_in(fixture("tei")["info"]) == 3
    assert TEIPredict().most_in({}) is None


def test_huggingface_pairs_and_unwrapped_answers():
    _, body = HuggingFace().request("", PAIRS)
    assert body["inputs"][0] == {"text": "question", "text_pair": "first"}
    assert HuggingFace().read([{"label": "LABEL_0", "score": 1.5}, {"label": "LABEL_0", "score": 2.5}]) == [1.5, 2.5]
    with pytest.raises(UnexpectedReply, match="Model is loading"):
        HuggingFace().read({"error": "Model is loading"})


@pytest.mark.parametrize(
    ("name", "attribute", "reward"),
    [
        ("nim_attributes", "helpfulness", 1.2578125),
        ("nim_attributes", {"helpfulness": 1.0, "verbosity": -0.5}, 1.2578125 - 0.5 * 0.6953125),
        ("nim_reward", None, -25.6),
        ("nim_reward", "reward", -25.6),
        ("nim_logprobs", "correctness", 1.6484375),
    ],
)
def test_nim_as_documented(name, attribute, reward):
    documented, dialect = fixture(name), NIM(attribute)
    sent = documented["request"]
    item = Item("messages", messages=tuple(sent["messages"]))
    assert dialect.request(sent["model"], [item]) == (documented["path"], sent)
    assert dialect.read(documented["response"]) == [reward]
    assert dialect.most("messages") == 1


def test_nim_refuses_to_guess():
    answer = fixture("nim_attributes")["response"]
    with pytest.raises(UnexpectedReply, match=r"helpfulness, correctness, .*NIM\(attribute"):
        NIM().read(answer)
    with pytest.raises(UnexpectedReply, match="no attribute 'helpfullness': did you mean 'helpfulness'"):
        NIM("helpfullness").read(answer)
    with pytest.raises(UnexpectedReply, match="no attribute 'safety'"):
        NIM({"safety": 1.0}).read(answer)
    with pytest.raises(UnexpectedReply, match="does the server serve a reward model"):
        NIM().read({"choices": [{"message": {"content": "I would go up the Eiffel Tower: the view is good."}}]})
    with pytest.raises(UnexpectedReply, match="no content"):
        NIM().read({"choices": [{"message": {"content": None}}]})


# -- what no dialect takes


WRONG: list[Any] = [None, 5, "text", [], {}, {"data": 5}, {"data": [5]}, {"data": [{}]}, {"rewards": "no"}, [5], [[5]]]


@pytest.mark.parametrize("data", WRONG, ids=str)
@pytest.mark.parametrize("name", sorted(REWARD_DIALECTS))
def test_another_shape_is_refused(name, data):
    if data == [] and name in ("sglang", "tei", "huggingface"):
        assert REWARD_DIALECTS[name].read(data) == []  # the number of rewards is checked elsewhere
        return
    with pytest.raises(UnexpectedReply):
        REWARD_DIALECTS[name].read(data)


@pytest.mark.parametrize("value", [None, "1.5", True, [1.5], {"value": 1.5}], ids=str)
def test_only_a_number_is_a_reward(value):
    for dialect, data in (
        (VLLMClassify(), {"data": [{"index": 0, "probs": [value]}]}),
        (VLLMPooling(), {"data": [{"index": 0, "data": [value]}]}),
        (VLLMScore(), {"data": [{"index": 0, "score": value}]}),
        (SGLangClassify(), [{"embedding": [value]}]),
        (TEIPredict(), [[{"label": "LABEL_0", "score": value}]]),
        (OpenRLHF(), {"rewards": [value]}),
        (HuggingFace(), [[{"label": "LABEL_0", "score": value}]]),
    ):
        with pytest.raises(UnexpectedReply, match="where a number should"):
            dialect.read(data)


def test_several_labels_are_no_reward():
    two = [{"label": "NEGATIVE", "score": -1.0}, {"label": "POSITIVE", "score": 1.0}]
    for dialect, data in (
        (VLLMClassify(), {"data": [{"index": 0, "probs": [0.25, 0.75]}]}),
        (VLLMPooling(), {"data": [{"index": 0, "data": [[0.25], [0.75]]}]}),
        (SGLangClassify(), [{"embedding": [0.25, 0.75]}]),
        (TEIPredict(), [two]),
        (HuggingFace(), [two]),
    ):
        with pytest.raises(UnexpectedReply, match="holds 2 numbers, and a reward is one"):
            dialect.read(data)


def test_not_a_number_is_read_as_such():
    [reward] = OpenRLHF().read({"rewards": [float("nan")]})  # the scorer refuses it, with the server's name
    assert isnan(reward)


@pytest.mark.parametrize(
    "dialect",
    [
        *REWARD_DIALECTS.values(),
        NIM({"a": 0.5}),
    ],
    ids=lambda dialect: repr(dialect)[:40],
)
def test_dialects_are_plain_values(dialect):
    assert pickle.loads(pickle.dumps(dialect)) == dialect  # noqa: S301 - our own bytes
    assert copy.deepcopy(dialect) == dialect
    assert dialect.forms
