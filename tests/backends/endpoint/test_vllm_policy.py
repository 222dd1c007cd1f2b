"""The remote policy on vLLM itself, serving the embedded policy on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from benchmarks.servers.launch import VLLM_PYTHON, Server, vllm_server
from darwin_align import DarwinSearch, SearchConfig
from darwin_align.backends.endpoint import EndpointPolicy, Limits
from darwin_align.backends.endpoint.judge import JudgeScorer
from darwin_align.backends.local import LocalPolicy
from darwin_align.core.errors import ContextLengthError, EndpointNotFoundError
from darwin_align.core.types import Request, Response, Sampling
from darwin_align.formats.verdicts import format_violation
from darwin_align.operators.policy import Continuation, Row
from darwin_align.operators.portal import call
from darwin_align.pocket import held_out, policy_path
from darwin_align.pocket.pair import pocket_search
from tests.backends.local.kit import lineage
from tests.backends.local.test_constraints import SCHEMAS, TOOLS, formed

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not VLLM_PYTHON.is_file(), reason="vLLM has a virtual environment of its own: it is missing"),
]

GREEDY = Sampling(temperature=0.0, top_k=None)
WILD = Sampling(temperature=1.0, top_k=None)
QUESTION = "How do I brew green tea?"
PATIENT = Limits(attempts=3, connect_timeout=10)


@pytest.fixture(scope="module")
def vllm() -> Iterator[Server]:
    with vllm_server(policy_path(), served_name="embedded") as server:
        yield server


@pytest.fixture(scope="module")
def local() -> LocalPolicy:
    return LocalPolicy.from_pretrained(policy_path(), dtype="float32", device="cpu", threads=1)


@pytest.fixture(scope="module")
def pocket() -> DarwinSearch:
    return pocket_search(SearchConfig(cycles=1, max_new_tokens=120))


def policy(url: str, strategy: str = "auto", **options: Any) -> EndpointPolicy:
    options = {"tokenizer": policy_path(), **options}
    return EndpointPolicy(url, continuation=strategy, limits=PATIENT, **options)  # type: ignore[arg-type]


def over(pocket: DarwinSearch, policy: Any) -> DarwinSearch:
    parts = {name: getattr(pocket, name) for name in ("scorer", "mutation_prompt", "guard", "config")}
    return DarwinSearch(policy=policy, **parts)


def row(question: str = QUESTION, sampling: Sampling = GREEDY, *, max_tokens: int = 40, **fields: Any) -> Row:
    stop = fields.pop("stop", ())
    return Row(Request.of(question, sampling=sampling, stop=stop), max_tokens, fields.pop("seed", 1), **fields)


def generated(policy: Any, *rows: Row) -> list[Continuation]:
    reply = call(policy.generate, rows)
    return list(getattr(reply, "answer", reply))


def choice(policy: Any, *rows: Row) -> list[tuple[Any, ...]]:
    return [(c.text, c.tokens, c.new_tokens, c.finish_reason) for c in generated(policy, *rows)]


def test_greedy_rows_by_ids_are_the_local_ones_whole_and_in_chunks(vllm, local):
    """🍵 is cut in the middle somewhere."""
    remote = policy(vllm.url)
    questions = (QUESTION, "怎样泡一杯绿茶？🍵", *held_out(6))
    rows = [row(text, max_tokens=90) for text in questions]
    expected = choice(local, *rows)
    report = call(remote.generate, rows)
    assert report.notes == (f"{vllm.url} (vllm) continues 'embedded' by token ids",)
    assert [(c.text, c.tokens, c.new_tokens, c.finish_reason) for c in report.answer] == expected
    for one, (text, tokens, _, finish) in zip(rows, expected, strict=True):
        found = Continuation("")
        while not found.finish_reason and len(found.tokens) < 90:
            [found] = generated(remote, replace(one, tokens=found.tokens, max_tokens=min(13, 90 - len(found.tokens))))
        assert (found.text, found.tokens, found.finish_reason) == (text, tokens, finish)


def test_stop_strings_and_a_penalty_are_those_of_the_local_policy(vllm, local):
    remote = policy(vllm.url)
    rows = [
        row(stop=(". Then",)),
        row(stop=("kettle f", "never")),
        row("How do I bake bread?", GREEDY.model_copy(update={"repetition_penalty": 2.0})),
    ]
    assert choice(remote, *rows) == choice(local, *rows)
    assert choice(local, rows[0])[0][3] == "stop"


def test_a_seed_names_the_noise_alone_and_in_company(vllm):
    remote = policy(vllm.url)
    rows = [row(text, WILD, seed=10 * i + j) for i, text in enumerate(held_out(10)) for j in range(3)]
    # Three of a kind share a request, whose choices have the first one's seed and those behind it.
    firsts = choice(remote, *rows[::3])
    assert choice(remote, *rows[::3]) == firsts
    assert [found for one in rows[::3] for found in choice(remote, one)] == firsts
    together = choice(remote, *rows)
    assert choice(remote, *rows) == together
    assert together[::3] == firsts
    assert len({tokens for _, tokens, *_ in together}) > 25


def test_rows_that_differ_in_noise_alone_are_one_request(vllm, local):
    remote = policy(vllm.url)
    generated(remote, row())
    sent = remote.endpoint.counts["requests"]
    found = generated(remote, *(row(sampling=WILD, seed=i) for i in range(6)), row("How do I bake bread?", WILD))
    assert remote.endpoint.counts["requests"] == sent + 2
    assert len({c.tokens for c in found[:6]}) > 4
    generated(remote, *(row(text) for text in held_out(5)))
    assert remote.endpoint.counts["requests"] == sent + 3  # greedy rows are one list
    prompt = local.prompt_length(row().request)
    assert [c.prefilled_tokens for c in found[:6]] == [prompt, 0, 0, 0, 0, 0]


def test_a_greedy_search_is_the_local_one_token_for_token(vllm, local, pocket):
    settings = {"mutator": "identity", "temperature": 0.0, "seed": 1}
    for question in (QUESTION, *held_out(2)):
        found = over(pocket, policy(vllm.url)).invoke(question, **settings)
        expected = over(pocket, local).invoke(question, **settings)
        assert [lineage(beam) for beam in found.ranking] == [lineage(beam) for beam in expected.ranking]
        assert found.reward == pytest.approx(expected.reward, abs=1e-4)
        assert found.usage.decoded_tokens == expected.usage.decoded_tokens


def test_greedy_rows_keep_their_formats_as_the_local_ones_do(vllm, local):
    """Allowed tokens as a mask, what may not come as a bias; whole and in chunks, with a penalty too."""
    remote, question = policy(vllm.url), "Heat the kettle to 80 degrees."
    penalised = GREEDY.model_copy(update={"repetition_penalty": 2.0})
    formats = [{"response_format": formed(SCHEMAS[name])} for name in ("nested", "array", "refs", "date", "enum")]
    rows = [
        Row(Request.of(question, sampling=sampling, **fields), 50, 1)
        for fields in (*formats, {"tools": TOOLS, "tool_choice": "required"}, {"tools": TOOLS})
        for sampling in (GREEDY, penalised)
    ]
    expected = choice(local, *rows)
    assert choice(remote, *rows) == expected
    for one, (text, tokens, _, finish) in list(zip(rows, expected, strict=True))[::4]:
        found = Continuation("")
        while not found.finish_reason and len(found.tokens) < 50:
            [found] = generated(remote, replace(one, tokens=found.tokens, max_tokens=min(7, 50 - len(found.tokens))))
        assert (found.text, found.tokens, found.finish_reason) == (text, tokens, finish)


def test_sampled_rows_keep_their_formats(vllm):
    remote = policy(vllm.url)
    rows = [
        Row(Request.of(QUESTION, sampling=WILD, response_format=formed(SCHEMAS[name])), 120, seed)
        for name in ("array", "enum", "number", "refs")
        for seed in range(4)
    ]
    first = generated(remote, *rows)
    assert [c.tokens for c in generated(remote, *rows)] == [c.tokens for c in first]
    ended = [(one, c) for one, c in zip(rows, first, strict=True) if c.finish_reason == "stop"]
    assert len(ended) > 8
    assert [format_violation(one.request, c.text) for one, c in ended] == [""] * len(ended)
    assert len({c.tokens for c in first}) > 6


def test_a_search_in_chunks_keeps_its_format(vllm, pocket):
    settings = {"mutator": "identity", "seed": 3, "replacement_period": 6, "max_new_tokens": 80}
    search = over(pocket, policy(vllm.url))
    result = search.invoke(QUESTION, response_format=formed(SCHEMAS["refs"]), **settings)
    assert result.best.valid
    assert format_violation(result.request, result.text) == ""


def test_a_seeded_search_repeats_itself(vllm, pocket):
    search = over(pocket, policy(vllm.url))
    first, again = (search.invoke(QUESTION, seed=4) for _ in range(2))
    assert first.text == again.text
    assert [lineage(beam) for beam in first.ranking] == [lineage(beam) for beam in again.ranking]
    assert first.reward > first.first_response.reward
    assert search.invoke(QUESTION, seed=5).text != first.text


@pytest.mark.parametrize("strategy", ["text", "prefill"])
def test_searches_by_text_and_by_begun_turns(vllm, local, pocket, strategy):
    remote = policy(vllm.url, strategy)
    rows = [row(text) for text in (QUESTION, "How do I bake bread?")]
    for one, expected in zip(rows, generated(local, *rows), strict=True):
        text = ""
        for _ in range(4):
            [found] = generated(remote, replace(one, text=text, max_tokens=10))
            text = found.text
        assert text == expected.text
    result = over(pocket, remote).invoke(QUESTION, seed=2, max_new_tokens=60)
    assert result.text.strip()
    assert result.reward >= result.first_response.reward
    assert result.stop_reason == "cycles"


def test_a_full_context(vllm, local):
    remote = policy(vllm.url)
    words = Request.of("tea " * 480, sampling=GREEDY)
    room = 512 - local.prompt_length(words)
    assert 0 < room < 40
    [found] = generated(remote, Row(words, 60, 1))
    assert found.finish_reason == "stop" or (found.new_tokens, found.finish_reason) == (room, "length")
    for strategy in ("auto", "text", "prefill"):
        with pytest.raises(ContextLengthError):
            generated(policy(vllm.url, strategy), Row(Request.of("Explain it. " * 400), 5, 1))
    # By begun turns its length is not known here: vLLM says where the context is full.
    begun = Row(words, 60, 1, text="Here is how to brew green tea" * 8)
    [ended] = generated(policy(vllm.url, "prefill"), begun)
    assert (ended.text, ended.new_tokens, ended.finish_reason) == (begun.text, 0, "length")


def test_an_unknown_model(vllm):
    with pytest.raises(EndpointNotFoundError, match="has no model 'embeded': did you mean 'embedded'"):
        generated(policy(vllm.url, model="embeded"), row())


def test_a_judge_answers_in_the_schema(vllm):
    judge = JudgeScorer(base_url=vllm.url, model="embedded", max_tokens=200)
    responses = [Response(text="Heat the water to 80 degrees."), Response(text="No idea.")]
    rewards = call(judge.score, Request.of(QUESTION), responses)
    rewards = getattr(rewards, "answer", rewards)
    assert len(rewards) == 2
    assert all(isinstance(reward, float) for reward in rewards)
