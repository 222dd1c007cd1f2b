"""Dialects: what each kind of server is sent and how its answers are read.

Shapes without a real server here are checked against fixtures made from documentation, and labelled so. Those of vLLM,
llama.cpp and transformers serve are run against the real servers in the other tests.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from darwin_align.backends.endpoint import EndpointPolicy
from darwin_align.backends.endpoint.dialects import DIALECTS, EXPERIMENTAL, Chat, Choice, CompletionRequest, Dialect
from darwin_align.backends.endpoint.dialects.base import merged
from darwin_align.core.errors import ConfigError, EndpointServerError
from darwin_align.core.types import Request, Sampling
from darwin_align.operators.policy import Continuation, Row
from darwin_align.operators.portal import call
from darwin_align.pocket import policy_path
from tests.backends.endpoint.fixtures.policy.documented import ANSWER, NAMES, QUICK, Played, case, playing, violations
from tests.backends.endpoint.fixtures.served import Served

ALL = Sampling(temperature=0.5, top_k=20, top_p=0.9, repetition_penalty=1.1)
OFF = Sampling(temperature=0.5, top_k=None, top_p=None, repetition_penalty=None)
GREEDY = Sampling(temperature=0.0, top_k=None)
PROMPTS = {
    "ids": (791, 6864, 315, 9822, 374),
    "text": "The capital of France is",
    "prefill": Chat(({"role": "user", "content": "What is the capital of France?"},), "The capital of France is"),
}
QUESTION = Request.of("How do I brew green tea?", sampling=GREEDY)


def completion(strategy: str, sampling: Sampling = ALL, **changes: Any) -> CompletionRequest:
    usual: dict[str, Any] = {"max_tokens": 2, "seeds": (7,), "stop": ("\n", "END")}
    return CompletionRequest("m", (PROMPTS[strategy],), sampling=sampling, **{**usual, **changes})


def wire(dialect: Dialect, strategy: str, completion: CompletionRequest) -> tuple[str, dict[str, Any]]:
    method = {"ids": dialect.ids_request, "text": dialect.text_request, "prefill": dialect.chat_request}[strategy]
    path, body = method(completion)
    return path, json.loads(json.dumps(body))


def read(dialect: Dialect, strategy: str, data: Any, completion: CompletionRequest) -> list[Choice]:
    method = {"ids": dialect.read_ids, "text": dialect.read_text, "prefill": dialect.read_chat}[strategy]
    return method(data, completion)


@pytest.fixture(scope="module")
def play() -> Iterator[Callable[[str], tuple[Served, Played]]]:
    """A played server by the name of its fixture, started once."""
    with ExitStack() as stack:
        yield lru_cache(lambda name: stack.enter_context(playing(name)))


def policy(name: str, url: str, **options: Any) -> EndpointPolicy:
    about = case(name)
    tokenizer = None if about["strategy"] == "prefill" else policy_path()
    options = {
        "dialect": about["dialect"],
        "continuation": about["strategy"],
        "model": about.get("model", "org/model"),
        **options,
    }
    return EndpointPolicy(url, tokenizer=tokenizer, limits=QUICK, **options)


def row(text: str = "", *, max_tokens: int = 200, request: Request = QUESTION, **fields: Any) -> Row:
    return Row(request, max_tokens, fields.pop("seed", 1), text=text, **fields)


def generated(policy: EndpointPolicy, *rows: Row) -> list[Continuation]:
    return list(call(policy.generate, rows).answer)


def continued(policy: EndpointPolicy, start: Row, chunk: int) -> Continuation:
    found = Continuation("")
    for _ in range(100):
        [found] = generated(
            policy, replace(start, text="" if found.tokens else found.text, tokens=found.tokens, max_tokens=chunk)
        )
        if found.finish_reason:
            return found
    raise AssertionError(f"it never ends: {found.text!r}")


# -- as documented


def test_every_documented_dialect_has_a_fixture_and_every_fixture_a_dialect():
    assert {case(name)["dialect"] for name in NAMES} - {"openai"} == EXPERIMENTAL
    for name in NAMES:
        about = case(name)
        assert name == f"{about['dialect']}_{about['strategy']}"
        assert getattr(DIALECTS[about["dialect"]], f"by_{about['strategy']}")
        module = inspect.getmodule(type(DIALECTS[about["dialect"]]))
        assert about["dialect"] == "openai" or "(experimental: from its documentation, not run here)" in (
            module.__doc__ or ""
        )


def test_the_table_of_experimental_dialects_is_that_of_the_modules_and_of_the_docs():
    modules = {name: inspect.getmodule(type(dialect)).__doc__ or "" for name, dialect in DIALECTS.items()}
    assert {name for name, about in modules.items() if "(experimental:" in about} == EXPERIMENTAL
    matrix = (Path(__file__).parents[3] / "docs/models.md").read_text("utf-8").lower()
    rows = [line for line in matrix.splitlines() if line.startswith("|")]
    for name in DIALECTS.keys() - {"openai"}:
        (row,) = [row for row in rows if name in row.split("|")[1] and len(row.split("|")) > 6]
        assert ("| experimental |" in row) == (name in EXPERIMENTAL), name


@pytest.mark.parametrize("name", NAMES)
def test_requests_and_answers_as_documented(name):
    about = case(name)
    dialect, strategy = DIALECTS[about["dialect"]], about["strategy"]
    lacking = dict.fromkeys(about.get("lacks", ()))
    one = completion(strategy, ALL.model_copy(update=lacking))
    path, body = wire(dialect, strategy, one)
    assert (path, body) == (about["path"], about["request"])
    assert violations(body, about["fields"]) == []
    [choice] = read(dialect, strategy, about["response"], one)
    expected = about["choice"]
    assert choice == Choice(**{**expected, "ids": tuple(expected["ids"]) if "ids" in expected else None})


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "sampling", [OFF, GREEDY, Sampling(temperature=1.5, top_p=1.0, top_k=1)], ids=["off", "greedy", "p1"]
)
def test_no_setting_leaves_the_documented_range(name, sampling):
    about = case(name)
    dialect, strategy = DIALECTS[about["dialect"]], about["strategy"]
    for changes in ({}, {"seeds": ()}, {"stop": tuple("abcdefgh")}, {"stop": ()}, {"n": 3}):
        if "n" in changes and not dialect.several:
            continue
        _, body = wire(dialect, strategy, completion(strategy, sampling, **changes))
        assert violations(body, about["fields"]) == []


def test_violations_are_seen():
    fields = case("tgi_text")["fields"]
    body = case("tgi_text")["request"]
    assert violations(body, fields) == []
    broken = [
        ({"top_p": 1}, "is 1, not below 1"),
        ({"seed": 0}, "is 0, not above 0"),
        ({"stop": list("abcde")}, "is 5, not most 4"),
        ({"top_k": 2.5}, "is no integer"),
        ({"top_q": 1}, "has the unknown field top_q"),
    ]
    for change, problem in broken:
        [found] = violations({**body, "parameters": {**body["parameters"], **change}}, fields)
        assert problem in found
    assert violations({"parameters": {}}, fields) == ["body lacks inputs"]


# -- sampling


@pytest.mark.parametrize("name", sorted(DIALECTS))
def test_what_is_off_is_sent_as_off(name):
    dialect = DIALECTS[name]
    sent = dialect.sampling(OFF)
    for ours, (theirs, off) in dialect.sampling_fields.items():
        assert sent.get(theirs, None) == off, ours
    for ours, (theirs, _) in dialect.sampling_fields.items():
        assert dialect.sampling(ALL)[theirs] == getattr(ALL, ours)


def test_local_servers_are_not_left_to_defaults_of_their_own():
    for name in ("vllm", "sglang", "llama.cpp"):
        assert DIALECTS[name].sampling(OFF)["min_p"] == 0.0
    for strategy in ("text", "prefill"):
        _, body = wire(DIALECTS["vllm"], strategy, completion(strategy, OFF))
        assert body["min_p"] == 0.0


@pytest.mark.parametrize("name", sorted(DIALECTS))
def test_settings_that_a_server_lacks(name):
    dialect = DIALECTS[name]
    missing = {"top_k", "top_p", "repetition_penalty"} - dialect.sampling_fields.keys()
    assert set(dialect.unsupported(Sampling())) == missing & {"top_k"}
    assert dialect.unsupported(OFF) == []
    for knob in missing:
        with pytest.raises(ConfigError, match=f"{knob} is no parameter of {dialect.name} servers: set {knob}=None"):
            dialect.unsupported(Sampling(**{"top_k": None, knob: 1}))
    if not missing:
        assert dialect.unsupported(ALL) == []


def test_a_default_that_a_server_lacks_is_noted_where_answers_begin_and_by_hand_it_is_refused(play):
    served, played = play("openai_text")
    one = policy("openai_text", served.url)
    fresh = row(request=Request.of("Hi"), max_tokens=4)
    report = call(one.generate, [fresh])
    assert report.notes[-1] == "openai servers take no top_k: left out"
    assert call(one.generate, [replace(fresh, text="Heat the")]).notes == ()
    by_hand = row(request=Request.of("Hi", sampling=Sampling(top_k=40)), max_tokens=4)
    for rows in ([by_hand], [fresh, by_hand]):
        with pytest.raises(ConfigError, match="top_k is no parameter of openai servers"):
            call(one.generate, rows)
    assert played.problems == []


def test_greedy_is_sent_in_the_fields_of_each_server():
    _, tgi = wire(DIALECTS["tgi"], "text", completion("text", GREEDY))
    assert tgi["parameters"]["do_sample"] is False
    assert "temperature" not in tgi["parameters"]
    _, serve = wire(DIALECTS["transformers"], "text", completion("text", GREEDY))
    assert json.loads(serve["generation_config"]) == {"do_sample": False, "repetition_penalty": 1.0}
    for name in sorted(DIALECTS.keys() - {"tgi", "ollama", "sglang"}):
        strategy = "text" if DIALECTS[name].by_text else "prefill"
        assert wire(DIALECTS[name], strategy, completion(strategy, GREEDY))[1]["temperature"] == 0.0


def test_transformers_serve_takes_most_settings_in_a_generation_config():
    path, body = wire(
        DIALECTS["transformers"], "text", completion("text", extra={"generation_config": {"num_beams": 1}})
    )
    assert path == "/v1/completions"
    assert json.loads(body.pop("generation_config")) == {
        "do_sample": True,
        "top_k": 20,
        "top_p": 0.9,
        "repetition_penalty": 1.1,
        "temperature": 0.5,
        "num_beams": 1,
    }
    assert body.keys() == {"model", "max_tokens", "temperature", "stop", "seed", "prompt"}


# -- seeds, choices, lists


@pytest.mark.parametrize(("name", "at"), [("mistral", "random_seed"), ("vllm", "seed"), ("deepseek", None)])
def test_seeds_go_by_the_name_of_the_server(name, at):
    strategy = "text" if DIALECTS[name].by_text else "prefill"
    _, body = wire(DIALECTS[name], strategy, completion(strategy))
    assert [key for key, value in body.items() if value == 7] == [at][: at is not None]


@pytest.mark.parametrize("name", NAMES)
def test_rows_of_one_step_go_out_as_the_server_takes_them(play, name):
    dialect, strategy = DIALECTS[case(name)["dialect"]], case(name)["strategy"]
    sampled = Request.of("Hi", sampling=Sampling(temperature=1.0, top_k=None))
    rows = [row(request=sampled, seed=seed, max_tokens=9) for seed in range(5)]
    served, played = play(name)
    seeded, unseeded = policy(name, served.url), policy(name, served.url, seeded=False)
    for one in (seeded, unseeded):
        generated(one, rows[0])
    before = len(served.received)
    generated(seeded, *rows)
    bodies = [body for _, body in served.received[before:]]
    listed = dialect.lists and strategy != "prefill"
    assert len(bodies) == (1 if listed and dialect.lists_seeded else 5)
    seeds = [seed for body in bodies for seed in _seeds(body)]
    assert len(seeds) == len(set(seeds)) == (5 if dialect.seeds else 0)
    before = len(served.received)
    generated(seeded, *rows)
    assert sorted(seed for _, body in served.received[before:] for seed in _seeds(body)) == sorted(seeds)
    before = len(served.received)
    generated(unseeded, *rows)
    bodies = [body for _, body in served.received[before:]]
    assert len(bodies) == (1 if listed or dialect.several else 5)
    assert [seed for body in bodies for seed in _seeds(body)] == []
    assert played.problems == []


def _seeds(body: Any) -> list[int]:
    if isinstance(body, list):
        return [seed for item in body for seed in _seeds(item)]
    if not isinstance(body, dict):
        return []
    own = [value for key, value in body.items() if key in ("seed", "random_seed", "sampling_seed")]
    return own + [seed for value in body.values() for seed in _seeds(value)]


def test_sglang_takes_settings_for_each_prompt_of_a_list():
    two = CompletionRequest("m", ((1, 2), (3,)), 4, OFF, seeds=(7, 8))
    _, body = wire(DIALECTS["sglang"], "ids", two)
    assert body["input_ids"] == [[1, 2], [3]]
    assert [setting["sampling_seed"] for setting in body["sampling_params"]] == [7, 8]
    _, body = wire(DIALECTS["sglang"], "ids", replace(two, seeds=()))
    assert "sampling_seed" not in body["sampling_params"]
    assert violations(body, case("sglang_ids")["fields"]) == []


def test_lists_and_choices_in_a_request():
    two = CompletionRequest("m", ((1, 2), (3,)), 4, OFF, n=3)
    path, body = wire(DIALECTS["vllm"], "ids", two)
    assert (path, body["prompt"], body["n"], body["return_token_ids"]) == ("/v1/completions", [[1, 2], [3]], 3, True)
    path, body = wire(DIALECTS["llama.cpp"], "ids", replace(two, n=1))
    assert (path, body["prompt"], body["n_predict"], body["return_tokens"]) == ("/completion", [[1, 2], [3]], 4, True)
    _, body = wire(DIALECTS["vllm"], "text", CompletionRequest("m", ("a", "b"), 4, OFF))
    assert (body["prompt"], body["add_special_tokens"]) == (["a", "b"], False)


# -- stop strings, chunks, ends, through a whole policy


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("chunk", [4, 7, 200])
def test_an_answer_in_chunks_is_the_answer(play, name, chunk):
    served, played = play(name)
    found = continued(policy(name, served.url), row(), chunk)
    assert (found.text, found.finish_reason) == (ANSWER, "stop")
    assert played.problems == []


@pytest.mark.parametrize("name", NAMES)
def test_stop_strings_beyond_the_most_that_a_server_takes_are_found(play, name):
    never = tuple(f"never {i}" for i in range(20))
    request = QUESTION.model_copy(update={"stop": (*never, "茶🍵 is")})
    served, played = play(name)
    one = policy(name, served.url)
    for chunk in (5, 200):
        found = continued(one, row(request=request), chunk)
        assert (found.text, found.finish_reason) == (ANSWER[: ANSWER.index("茶")], "stop")
    assert played.problems == []


def test_the_last_stop_string_that_fits_is_sent():
    for name, dialect in DIALECTS.items():
        strategy = "text" if dialect.by_text else "prefill"
        _, body = wire(dialect, strategy, completion(strategy, stop=tuple("abcdefghijklmnopqrstuvwxyz")))
        [sent] = _values(body, "stop")
        assert len(sent) == min(26, dialect.max_stop_strings), name


def _values(body: Any, name: str) -> list[Any]:
    inner = [value for item in body.values() if isinstance(item, dict) for value in _values(item, name)]
    return [body[name], *inner] if name in body else inner


@pytest.mark.parametrize("name", NAMES)
def test_numbers_come_from_the_server(play, name):
    served, played = play(name)
    [found] = generated(policy(name, served.url), row(max_tokens=7))
    assert (found.new_tokens, found.finish_reason) == (7, None)
    assert (found.prefilled_tokens > 0) == (case(name)["dialect"] != "tgi")
    [ended] = generated(policy(name, served.url), row(max_tokens=200))
    assert 7 < ended.new_tokens < 60
    assert ended.text == ANSWER
    assert played.problems == []


# -- the user's own fields


def test_extra_fields_reach_every_request_and_join_what_is_sent_anyway(play):
    served, played = play("ollama_text")
    one = policy("ollama_text", served.url, extra_body={"keep_alive": "1h", "options": {"num_ctx": 8192}})
    before = len(served.bodies("/api/generate"))
    generated(one, row(max_tokens=3))
    sent = served.bodies("/api/generate")[before:]
    assert len(sent) == 2  # the trial, and the row
    for body in sent:
        assert body["keep_alive"] == "1h"
        assert (body["options"]["num_ctx"], body["options"]["temperature"]) == (8192, 0.0)
    assert played.problems == []
    served, played = play("sglang_ids")
    one = policy("sglang_ids", served.url, extra_body={"sampling_params": {"ignore_eos": False}})
    generated(one, row(max_tokens=3), row(max_tokens=3, request=Request.of("Hi", sampling=GREEDY)))
    [alone, listed] = served.bodies("/generate")[-2:]
    assert alone["sampling_params"]["ignore_eos"] is False
    assert [(each["ignore_eos"], each["max_new_tokens"]) for each in listed["sampling_params"]] == [(False, 3)] * 2
    assert played.problems == []
    served, played = play("openrouter_prefill")
    only = {"provider": {"only": ["together"]}}
    generated(policy("openrouter_prefill", served.url, extra_body=only), row(max_tokens=3))
    assert [body["provider"] for body in served.bodies("/v1/chat/completions")[-2:]] == [only["provider"]] * 2
    assert played.problems == []


def test_extra_fields_may_overrule_what_is_no_setting_of_the_search():
    _, body = wire(DIALECTS["vllm"], "text", completion("text", extra={"min_p": 0.1, "add_special_tokens": True}))
    assert (body["min_p"], body["add_special_tokens"]) == (0.1, True)
    _, body = wire(DIALECTS["llama.cpp"], "text", completion("text", extra={"min_p": 0.1}))
    assert body["min_p"] == 0.1
    assert merged({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 4}, "d": {"e": 5}}) == {
        "a": {"b": 4, "c": 2},
        "d": {"e": 5},
    }


# -- answers that are none

CHOICE = {"index": 0, "text": "a", "finish_reason": "stop"}


@pytest.mark.parametrize(
    ("name", "strategy", "data", "match"),
    [
        ("openai", "text", [], "no list of choices"),
        ("openai", "text", {"choices": "a"}, "no list of choices"),
        ("openai", "text", {"choices": []}, "1 continuations were requested and 0 returned"),
        ("openai", "text", {"choices": [CHOICE, CHOICE]}, "1 continuations were requested and 2 returned"),
        ("openai", "text", {"choices": [{"index": 0}]}, "has no text"),
        ("openai", "prefill", {"choices": [{"index": 0}]}, "has no text"),
        ("openai", "prefill", {"choices": [{"message": {"content": 5}}]}, "has no text"),
        ("llama.cpp", "ids", {"error": "x"}, "a reply without content"),
        ("llama.cpp", "ids", [], "1 continuations were requested and the server returned"),
        ("llama.cpp", "ids", ["x"], "1 continuations were requested and the server returned"),
        ("sglang", "ids", [{}, {}], "1 continuations were requested and the server returned"),
        ("sglang", "ids", {"text": "a"}, "without meta_info"),
        ("sglang", "ids", {"meta_info": {}}, "without text and ids"),
        ("tgi", "text", {"generated_text": "a"}, "without generated_text and details"),
        ("ollama", "text", {"done": True}, "without a text"),
        ("ollama", "text", "a", "without a text"),
        ("ollama", "prefill", {"done": True}, "without a text"),
        ("ollama", "prefill", ["a"], "without a text"),
    ],
)
def test_another_shape_is_refused(name, strategy, data, match):
    with pytest.raises(EndpointServerError, match=match):
        read(DIALECTS[name], strategy, data, completion(strategy))


@pytest.mark.parametrize(
    "message",
    [
        {"content": "", "reasoning_content": "Let me think"},
        {"content": None, "reasoning": "Let me think"},
        {"content": "", "thinking": "Let me think"},
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Let me think"}]}]},
    ],
)
def test_a_thought_without_an_answer_is_refused_with_advice(message):
    data = {"message": message, "choices": [{"message": message, "finish_reason": "length"}]}
    for name in ("openai", "ollama"):
        with pytest.raises(EndpointServerError, match=r"thinks before it answers.*turn thinking off.*extra_body"):
            read(DIALECTS[name], "prefill", data, completion("prefill"))


def test_content_in_pieces_is_joined():
    pieces = [
        {"type": "text", "text": "Heat "},
        {"type": "reference", "reference_ids": [1]},
        {"type": "text", "text": "it"},
    ]
    data = {"choices": [{"message": {"content": pieces}, "finish_reason": "stop"}]}
    [choice] = read(DIALECTS["mistral"], "prefill", data, completion("prefill"))
    assert choice.text == "Heat it"


def test_choices_are_put_in_order_and_a_request_of_several_is_no_evidence_of_one():
    data = {
        "choices": [{**CHOICE, "index": 1, "text": "b"}, {**CHOICE, "index": 0, "text": "a"}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 8}},
    }
    of_one = read(DIALECTS["vllm"], "text", data, completion("text", n=2))
    assert [choice.text for choice in of_one] == ["a", "b"]
    assert {(w.new_tokens, w.prompt_tokens, w.cached_tokens) for w in of_one} == {(None, 9, 8)}
    of_two = read(DIALECTS["vllm"], "text", data, replace(completion("text"), prompts=("x", "y")))
    assert {(w.new_tokens, w.prompt_tokens, w.cached_tokens) for w in of_two} == {(None, None, 0)}
