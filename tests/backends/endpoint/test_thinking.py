"""A real server whose model thinks: the embedded policy behind a prompt that begins thoughts."""

from __future__ import annotations

import json

import pytest

from darwin_align.backends.endpoint import EndpointPolicy
from darwin_align.backends.local import LocalPolicy
from darwin_align.core.errors import RequestError
from darwin_align.core.types import Request, Sampling
from darwin_align.operators.policy import Row
from darwin_align.operators.portal import call
from darwin_align.pocket import policy_path

GREEDY = Sampling(temperature=0.0, top_k=None, max_thinking_tokens=7)
FORMAT = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"enum": ["green", "black"]}}}


@pytest.fixture(scope="module")
def template():
    source = LocalPolicy.from_pretrained(policy_path()).template.tokenizer.chat_template
    return source + "{% if add_generation_prompt %}<think>\n{% endif %}"


@pytest.fixture(scope="module")
def local(template):
    return LocalPolicy.from_pretrained(policy_path(), chat_template=template, threads=1)


def served(llama, template, continuation="ids", **options):
    return EndpointPolicy(
        llama.url, tokenizer=policy_path(), chat_template=template, continuation=continuation, **options
    )


def row(max_tokens=40, tokens=(), sampling=GREEDY, **settings):
    return Row(Request.of("How do I brew green tea?", sampling=sampling, **settings), max_tokens, 1, tokens)


@pytest.mark.parametrize("settings", [{}, {"response_format": FORMAT}, {"stop": ("the", ".")}])
def test_by_ids_it_thinks_and_answers_as_a_local_model_does(llama, template, local, settings):
    policy = served(llama, template)
    report = call(policy.generate, [row(**settings)])
    [found] = report.answer
    [expected] = local.generate([row(**settings)])
    assert (found.tokens, found.text, found.thoughts) == (expected.tokens, expected.text, expected.thoughts)
    assert found.thoughts
    assert not found.thinking
    if "response_format" in settings:
        assert json.loads(found.text) in ("green", "black")
    tokens = ()
    for _ in range(40):
        [piece] = call(policy.generate, [row(4, tokens, **settings)]).answer
        tokens = piece.tokens
        if piece.finish_reason or len(tokens) >= len(found.tokens):
            break
    assert tokens[: len(found.tokens)] == found.tokens[: len(tokens)]


def test_by_text_thoughts_are_told_from_the_text(llama, template):
    policy = served(llama, template, "text")
    plain = Sampling(temperature=0.0, top_k=None)
    [found] = call(policy.generate, [row(9, sampling=plain)]).answer
    assert (found.text, found.thinking) == ("", True)
    assert found.thoughts
    ended = Row(row().request.model_copy(update={"sampling": plain}), 9, 1, thoughts="Tea.", text="Heat the")
    [found] = call(policy.generate, [ended]).answer
    assert found.thoughts == "Tea."
    assert found.text.startswith("Heat the")
    with pytest.raises(RequestError, match="max_thinking_tokens=7 cannot be kept"):
        call(policy.generate, [row()])


def test_switches_of_a_server(llama, template):
    switch = "{% if enable_thinking is defined and not enable_thinking %}</think>\n\n{% endif %}"
    policy = served(llama, template + switch, extra_body={"chat_template_kwargs": {"enable_thinking": False}})
    [found] = call(policy.generate, [row(9)]).answer
    assert (found.thoughts, found.thinking) == ("", False)
    assert found.text
    on = row(9, sampling=Sampling(temperature=0.0, top_k=None), chat_template_kwargs={"enable_thinking": True})
    assert call(policy.generate, [on]).answer[0].thinking
