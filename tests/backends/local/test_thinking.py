"""A local policy of a model that thinks: random weights, so its thoughts are ended by their limit."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from transformers import Qwen3Config, Qwen3ForCausalLM

from darwin_align import DarwinSearch, SearchConfig
from darwin_align.backends.local import LocalPolicy
from darwin_align.core.types import Request, Sampling
from darwin_align.operators.policy import Row
from tests.backends.thinking_kit import MAY_THINK, THINKS, channels, ids_of, tags

HOT = Sampling(temperature=1.0, top_k=None, max_thinking_tokens=6)
FORMAT = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"enum": [10, 20, 30]}}}


@pytest.fixture(scope="module")
def policies(new_tokenizer, tiny_config):
    made = {}
    for name, tokenizer in (
        ("opened", tags(new_tokenizer, THINKS)),
        ("begun", tags(new_tokenizer, MAY_THINK)),
        ("spelled", tags(new_tokenizer, THINKS, marks=False)),
        ("channels", channels(new_tokenizer)),
    ):
        model = Qwen3ForCausalLM(tiny_config(Qwen3Config, len(tokenizer)))
        model.generation_config.eos_token_id = None
        made[name] = LocalPolicy(model, tokenizer)
    return made


def row(max_tokens: int = 20, tokens: tuple[int, ...] = (), *, to_text: bool = False, **settings: object) -> Row:
    sampling = settings.pop("sampling", HOT)
    return Row(Request.of("Hi", sampling=sampling, **settings), max_tokens, 5, tokens, to_text=to_text)


def begun(policy: LocalPolicy, name: str) -> tuple[int, ...]:
    head = {"channels": "<|channel|>analysis<|message|>", "begun": "<think>\n"}.get(name, "")
    return ids_of(policy.template.tokenizer, head + "So")


@pytest.mark.parametrize("name", ["opened", "begun", "spelled", "channels"])
def test_long_thoughts_are_ended(policies, name):
    policy = policies[name]
    [found] = policy.generate([row(30, begun(policy, name))])
    assert not found.thinking
    assert found.thoughts.startswith("So")
    assert found.text_from <= len(found.tokens)
    assert "think>" not in found.text
    assert "<|message|>" not in found.text


@pytest.mark.parametrize("name", ["opened", "begun", "spelled", "channels"])
def test_chunks_decode_the_same(policies, name):
    policy = policies[name]
    start = begun(policy, name)
    [whole] = policy.generate([row(24, start)])
    tokens = start
    while len(tokens) - len(start) < 24:
        [piece] = policy.generate([row(5, tokens)])
        tokens = piece.tokens
        if piece.finish_reason:
            break
    assert tokens[: len(whole.tokens)] == whole.tokens[: len(tokens)]


def test_a_call_ends_where_the_text_begins(policies):
    policy = policies["opened"]
    [found] = policy.generate([row(40, to_text=True)])
    assert (found.text, found.thinking, found.finish_reason) == ("", False, None)
    assert found.new_tokens < 40
    [further] = policy.generate([replace(row(10, found.tokens, to_text=True), thinking=False)])
    assert further.new_tokens == 10 or further.finish_reason


def test_without_a_limit_it_goes_on_thinking(policies):
    [found] = policies["opened"].generate([row(8, sampling=Sampling(temperature=1.0, top_k=5))])
    assert found.thinking
    assert found.text == ""
    assert found.thoughts


@pytest.mark.parametrize("name", ["opened", "begun", "spelled", "channels"])
def test_a_format_begins_behind_the_thoughts(policies, name):
    pytest.importorskip("llguidance")
    policy = policies[name]
    assert policy.enforces_formats
    [found] = policy.generate([row(40, begun(policy, name), response_format=FORMAT)])
    assert found.finish_reason == "stop"
    assert json.loads(found.text) in (10, 20, 30)
    assert found.thoughts.startswith("So")
    tokens = begun(policy, name)
    for _ in range(40):
        [piece] = policy.generate([row(1, tokens, response_format=FORMAT)])
        tokens = piece.tokens
        if piece.finish_reason:
            break
    assert tokens == found.tokens


def test_a_format_of_a_model_that_need_not_think(policies):
    pytest.importorskip("llguidance")
    policy = policies["begun"]
    [found] = policy.generate([row(40, response_format=FORMAT)])
    assert found.finish_reason == "stop"
    assert json.loads(found.text) in (10, 20, 30)
    off = {"enable_thinking": False}
    [found] = policy.generate([row(40, response_format=FORMAT, chat_template_kwargs=off)])
    assert (found.thoughts, json.loads(found.text) in (10, 20, 30)) == ("", True)


def test_stop_strings_end_no_thoughts(policies):
    policy = policies["opened"]
    [free] = policy.generate([row(40)])
    stop = free.text[3:5]
    letters = [letter for letter in free.thoughts if letter.strip()]
    [found] = policy.generate([row(40, stop=(letters[0], stop))])
    assert found.thoughts == free.thoughts
    assert letters[0] not in found.text
    assert found.finish_reason == "stop"


def test_a_search_compares_texts_alone(policies):
    policy, seen = policies["opened"], []

    def longest(request, responses):
        seen.extend(responses)
        return [float(len(response.text)) for response in responses]

    config = SearchConfig(
        mutations=3, cycles=1, survivors=1, replacement_period=8, max_new_tokens=40, mutator="identity", seed=3
    )
    search = DarwinSearch(policy=policy, scorer=longest, config=config, sampling=HOT)
    result = search.invoke("Hi")
    assert result.thoughts
    assert seen
    assert not any(response.thoughts for response in seen)
    decoder = policy.template.detokenizer
    for response in seen:
        assert decoder.text(response.tokens).lstrip().rstrip("�") == response.text.rstrip("�")
    replayed = search.invoke("Hi", replay=result.events)
    assert (replayed.text, replayed.thoughts) == (result.text, result.thoughts)
    taken = [beam for beam in result.ranking if beam.ancestor is not None]
    assert taken
    assert {beam.thoughts for beam in taken} <= {beam.thoughts for beam in result.ranking}


def test_an_option_is_a_default_of_the_policy(policies):
    loaded = policies["begun"]._loaded
    off = LocalPolicy(loaded.model, loaded.tokenizer, chat_template_kwargs={"enable_thinking": False})
    assert off.template.prompt_text(Request.of("Hi")).endswith("</think>\n\n")


@pytest.mark.parametrize("name", ["opened", "begun", "spelled"])
def test_a_forced_call_begins_behind_the_thoughts(policies, name):
    pytest.importorskip("llguidance")
    policy = policies[name]
    assert policy.tool_syntax.texts is not None
    assert policy.tool_syntax.texts.first.startswith("<tool_call>")
    parameters = {"type": "object", "properties": {"to": {"enum": [80, 90]}}, "required": ["to"]}
    parameters["additionalProperties"] = False
    tool = {"type": "function", "function": {"name": "heat", "parameters": parameters}}
    [found] = policy.generate([row(200, begun(policy, name), tools=(tool,), tool_choice="required")])
    assert found.thoughts.startswith("So")
    parsed = policy.tool_syntax.parse(found.text, [tool], finished=True)
    assert [call.name for call in parsed.calls] == ["heat"]
    assert parsed.text == ""
