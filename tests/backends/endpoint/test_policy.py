"""The remote policy on llama.cpp's own server: what the local policy writes, in as few requests as can be."""

from __future__ import annotations

import asyncio
import copy
import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from benchmarks.servers.launch import Server
from benchmarks.servers.proxy import FaultProxy
from darwin_align.backends.endpoint import EndpointPolicy, Limits
from darwin_align.backends.local import LocalPolicy
from darwin_align.core.errors import ConfigError, EndpointServerError, RequestError
from darwin_align.core.types import Request, Sampling
from darwin_align.operators.policy import Continuation, Policy, Row
from darwin_align.operators.portal import call
from darwin_align.pocket import held_out, policy_path
from tests.backends.endpoint.fixtures.policy.chain import chain_servers
from tests.backends.endpoint.fixtures.policy.documented import QUICK
from tests.backends.endpoint.fixtures.served import serving

GREEDY = Sampling(temperature=0.0, top_k=None)
WILD = Sampling(temperature=4.0, top_k=None)
QUESTIONS = ("How do I brew green tea?", "How do I bake bread?", "怎样泡一杯绿茶？🍵", *held_out(5))


@pytest.fixture(scope="module")
def local() -> LocalPolicy:
    return LocalPolicy.from_pretrained(policy_path(), dtype="float32", device="cpu", threads=1)


@pytest.fixture(scope="module")
def policy(llama: Server) -> EndpointPolicy:
    return EndpointPolicy(llama.url, tokenizer=policy_path(), limits=QUICK)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EndpointPolicy]:
    """A policy whose noise is the seed's and no rounding's."""
    with chain_servers(tmp_path_factory.mktemp("chain")) as chain:
        yield EndpointPolicy(chain.url, tokenizer=chain.folder, limits=QUICK)


@pytest.fixture
def counted(policy: EndpointPolicy) -> Iterator[Any]:
    """Count the requests since the last look."""
    generated(policy, row())  # the server is identified already
    last = [policy.endpoint.counts["requests"]]

    def since() -> int:
        last.append(policy.endpoint.counts["requests"])
        return last[-1] - last[-2]

    return since


def row(text: str = QUESTIONS[0], sampling: Sampling = GREEDY, *, max_tokens: int = 30, **fields: Any) -> Row:
    stop = fields.pop("stop", ())
    return Row(Request.of(text, sampling=sampling, stop=stop), max_tokens, fields.pop("seed", 1), **fields)


def generated(policy: Any, *rows: Row) -> list[Continuation]:
    reply = call(policy.generate, rows)
    return list(getattr(reply, "answer", reply))


def choice(policy: Any, *rows: Row) -> list[tuple[Any, ...]]:
    return [(c.text, c.tokens, c.new_tokens, c.finish_reason) for c in generated(policy, *rows)]


def chunked(policy: Any, start: Row, chunk: int) -> Continuation:
    found, most = Continuation(""), start.max_tokens
    while not found.finish_reason and len(found.tokens) < most:
        step = min(chunk, most - len(found.tokens))
        [found] = generated(policy, replace(start, tokens=found.tokens, max_tokens=step))
        assert found.new_tokens or found.finish_reason, "it would never end"
    return found


# -- the same as the local policy


def test_is_a_policy(policy):
    assert isinstance(policy, Policy)


def test_greedy_answers_are_those_of_the_local_policy(policy, local):
    rows = [row(text, max_tokens=120) for text in QUESTIONS]
    expected = choice(local, *rows)
    assert choice(policy, *rows) == expected
    assert {finish for *_, finish in expected} == {"stop", None}
    ended = next(i for i, (*_, finish) in enumerate(expected) if finish == "stop")
    assert expected[ended][1][-1] in local.eos_ids
    for one, (text, tokens, _, finish) in zip(rows[ended : ended + 2], expected[ended : ended + 2], strict=True):
        for chunk in (9, 40):
            found = chunked(policy, one, chunk)
            assert (found.text, found.tokens, found.finish_reason) == (text, tokens, finish)


@pytest.mark.parametrize("penalty", [2.5, 0.6])
def test_a_repetition_penalty_is_that_of_the_local_policy(policy, local, penalty):
    """Over the whole prompt and answer: llama.cpp's own window of 64 tokens would be too short."""
    penalised = GREEDY.model_copy(update={"repetition_penalty": penalty})
    rows = [row(text, penalised, max_tokens=90) for text in QUESTIONS[:4]]
    found = choice(policy, *rows)
    assert found == choice(local, *rows)
    assert max(len(tokens) for _, tokens, *_ in found) > 64
    assert found != choice(policy, *(row(text, max_tokens=90) for text in QUESTIONS[:4]))


@pytest.mark.parametrize(
    "sampling", [Sampling(temperature=2.0, top_k=1), Sampling(temperature=2.0, top_k=None, top_p=1e-6)]
)
def test_sampling_fields_are_sent_with_their_values(policy, local, sampling):
    """One candidate is left: the greedy one, however hot."""
    assert choice(policy, row(sampling=sampling)) == choice(local, row())


def test_the_temperature_comes_before_top_p_as_in_the_local_policy(chain):
    """The model is sure of every token: cut before it is heated, its distribution would leave that token alone."""
    heated = Sampling(temperature=6.0, top_k=None, top_p=0.5)
    assert len({c.tokens for c in generated(chain, *(row(sampling=heated, seed=i) for i in range(4)))}) == 4


def test_nothing_is_left_of_the_servers_own_defaults(policy):
    """llama.cpp's own are top_k 40, top_p 0.95, min_p 0.05: a hot row would keep to few tokens."""
    hot = Sampling(temperature=3.0, top_k=None)
    tokens = {c.tokens[0] for c in generated(policy, *(row(sampling=hot, seed=i, max_tokens=1) for i in range(64)))}
    assert len(tokens) > 40


def test_rows_may_differ_in_everything(chain):
    settings = [
        (QUESTIONS[0], GREEDY, ()),
        (QUESTIONS[1], WILD, ("e", "B")),
        (QUESTIONS[2], GREEDY, ("茶",)),
        (QUESTIONS[0], Sampling(temperature=4.0, top_k=5), ()),
        (QUESTIONS[0], WILD, ()),
    ]
    rows = [row(*two, max_tokens=5 + 7 * i, seed=i, stop=stop) for i, (*two, stop) in enumerate(settings)]
    together = choice(chain, *rows)
    assert together == [found for one in rows for found in choice(chain, one)]
    assert together[::-1] == choice(chain, *rows[::-1])
    for one, (text, _, new_tokens, finish) in zip(rows, together, strict=True):
        assert new_tokens == one.max_tokens or (finish == "stop" and new_tokens < one.max_tokens)
        assert all(stop not in text for stop in one.request.stop)
    assert together[2][0] == "Brew "


def test_nothing_to_do(policy, counted):
    assert generated(policy) == []
    [found] = generated(policy, row(max_tokens=0, tokens=(457, 324)))
    assert (found.text, found.tokens, found.new_tokens, found.finish_reason) == ("Here is", (457, 324), 0, None)
    assert counted() == 0


# -- noise


def test_a_seed_names_the_noise_alone_and_in_company(chain):
    rows = [row(QUESTIONS[i % 3], WILD, seed=seed) for i, seed in enumerate((*range(12), 2**62, -5))]
    alone = [found for one in rows for found in choice(chain, one)]
    assert choice(chain, *rows) == alone
    assert choice(chain, *rows[::-1])[::-1] == alone
    assert len({tokens for _, tokens, *_ in alone}) == len(rows)


def test_rows_that_differ_in_nothing_but_their_seed_differ(chain):
    found = generated(chain, *(row(sampling=WILD, seed=i) for i in range(8)))
    assert len({c.tokens for c in found}) == 8


def test_a_chunk_has_noise_of_its_own(chain):
    """One seed at two places of an answer: else every chunk would draw what the first one drew."""
    rows = [row(sampling=WILD, tokens=(38,) * length, max_tokens=12) for length in (1, 2, 3)]
    found = generated(chain, *rows)
    assert len({c.tokens[len(one.tokens) :] for one, c in zip(rows, found, strict=True)}) == 3


# -- requests


def test_seeded_rows_go_out_at_once_and_one_by_one(policy, counted):
    generated(policy, *(row(sampling=WILD, seed=i) for i in range(6)))
    assert counted() == 6


def test_greedy_rows_are_one_list(policy, counted):
    rows = [row(text) for text in QUESTIONS] + [row(QUESTIONS[0])]
    together = choice(policy, *rows)
    assert counted() == 1
    assert together == [found for one in rows for found in choice(policy, one)]
    generated(policy, *rows, row(max_tokens=7), row(stop=("x",)))
    assert counted() == len(rows) + 3  # each alone; then one list a setting


def test_unseeded_rows_are_one_list_and_still_differ(llama):
    policy = EndpointPolicy(llama.url, tokenizer=policy_path(), seeded=False, limits=QUICK)
    generated(policy, row())
    before = policy.endpoint.counts["requests"]
    hot = Sampling(temperature=2.0, top_k=None)
    found = generated(policy, *(row(sampling=hot, max_tokens=60) for _ in range(8)))
    assert policy.endpoint.counts["requests"] == before + 1
    assert len({c.tokens for c in found}) == 8


@pytest.mark.parametrize("strategy", ["text", "prefill"])
def test_lists_by_text_and_single_requests_by_turns(llama, local, strategy):
    policy = EndpointPolicy(llama.url, tokenizer=policy_path(), continuation=strategy, limits=QUICK)
    rows = [row(text) for text in QUESTIONS]
    generated(policy, rows[0])
    before = policy.endpoint.counts["requests"]
    found = generated(policy, *rows)
    assert policy.endpoint.counts["requests"] == before + (1 if strategy == "text" else len(rows))
    assert [c.text for c in found] == [c.text for c in generated(local, *rows)]
    assert [c.tokens for c in found] == [()] * len(rows)


def test_a_list_is_no_longer_than_allowed(llama, local):
    policy = EndpointPolicy(llama.url, tokenizer=policy_path(), rows_per_request=3, limits=QUICK)
    rows = [row(text) for text in QUESTIONS]
    generated(policy, rows[0])
    before = policy.endpoint.counts["requests"]
    assert choice(policy, *rows) == choice(local, *rows)
    assert policy.endpoint.counts["requests"] == before + -(-len(rows) // 3)


def test_one_limit_holds_for_all_who_use_a_policy(llama):
    with FaultProxy(llama.url, share=0, delay=0.03) as proxy:
        policy = EndpointPolicy(
            proxy.url, tokenizer=policy_path(), limits=Limits(concurrency=5, attempts=2, connect_timeout=2)
        )
        with ThreadPoolExecutor(6) as pool:
            rows = [[row(sampling=WILD, seed=8 * i + j, max_tokens=3) for j in range(8)] for i in range(6)]
            found = list(pool.map(lambda some: generated(policy, *some), rows))
        assert [len(some) for some in found] == [8] * 6
        assert proxy.in_flight_peak == 5


# -- numbers


def test_numbers_spent_are_the_servers(llama, local):
    policy = EndpointPolicy(llama.url, tokenizer=policy_path(), extra_body={"cache_prompt": False}, limits=QUICK)
    one = row(tokens=(457, 324), max_tokens=5)
    [found] = generated(policy, one)
    assert (found.new_tokens, found.prefilled_tokens) == (5, local.prompt_length(one.request) + 2)
    several = generated(policy, *(row(text, max_tokens=5) for text in QUESTIONS))
    assert [c.prefilled_tokens for c in several] == [local.prompt_length(row(text).request) for text in QUESTIONS]
    cached = EndpointPolicy(llama.url, tokenizer=policy_path(), limits=QUICK)
    generated(cached, one)
    assert generated(cached, one)[0].prefilled_tokens == 1  # its last token is read to write the next


def test_refusal_names_the_numbers(policy, local, llama):
    short, long = Request.of(QUESTIONS[0]), Request.of("Explain the steps. " * 230)
    length = local.prompt_length(long)
    assert policy.refusal(short, 2048) is None
    assert policy.refusal(long, 1024 - length) is None
    room = 1024 - length
    assert policy.refusal(long, room + 1) == (
        f"its prompt leaves {room} of the context's 1024 tokens for the answer, which needs {room + 1}"
    )
    bare = EndpointPolicy(llama.url, limits=QUICK)
    assert bare.refusal(long, 320) is None  # nobody knows how long it is


# -- objects


def test_copies_and_pickles_begin_anew(llama):
    policy = EndpointPolicy(llama.url, tokenizer=policy_path(), api_key="not-to-be-seen", limits=QUICK)
    expected = choice(policy, row())
    sent = pickle.dumps(policy)
    assert len(sent) < 3000
    for other in (pickle.loads(sent), copy.copy(policy), copy.deepcopy(policy)):  # noqa: S301 - made here
        assert other._options == policy._options
        assert choice(other, row()) == expected
    assert pickle.loads(sent)._profile is None  # noqa: S301


def test_repr_shows_what_was_set_and_no_key():
    policy = EndpointPolicy(
        ["http://a:1/v1", "http://b:2"],
        model="m",
        dialect="vllm",
        seeded=False,
        api_key="not-to-be-seen",
        headers={"x-token": "not-to-be-seen"},
    )
    assert repr(policy) == "EndpointPolicy('http://a:1', 'http://b:2', model='m', dialect='vllm', seeded=False)"
    assert repr(EndpointPolicy("http://a:1", api_key="not-to-be-seen")) == "EndpointPolicy('http://a:1')"
    assert "not-to-be-seen" not in str(vars(policy.endpoint))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"dialect": "vlm"}, "unknown dialect 'vlm': did you mean 'vllm'"),
        ({"continuation": "id"}, "continuation='id' is unknown: use 'auto', 'ids', 'text' or 'prefill'"),
        ({"continuation": "text", "dialect": "openai"}, "continuation='text' needs tokenizer=…: a folder or a hub id"),
        ({"extra_body": {"seed": 1}}, "extra_body cannot set 'seed': a search sets that itself"),
        ({"extra_body": {"input_ids": []}}, "extra_body cannot set 'input_ids'"),
        ({"rows_per_request": 0}, "rows_per_request=0 is impossible: send one row at least"),
    ],
)
def test_impossible_options(options, match):
    with pytest.raises(ConfigError, match=match):
        EndpointPolicy("http://a:1", **options)


def test_any_thread_and_any_loop(chain):
    rows = [row(sampling=WILD, seed=i) for i in range(6)]
    expected = choice(chain, *rows)

    async def received() -> list[tuple[Any, ...]]:
        report = await chain.generate(rows)
        return [(c.text, c.tokens, c.new_tokens, c.finish_reason) for c in report.answer]

    assert [asyncio.run(received()) for _ in range(2)] == [expected] * 2
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda one: choice(chain, one)[0], rows)) == expected


def test_a_cancelled_call_lets_its_requests_go(llama):
    with FaultProxy(llama.url, share=0, delay=0.2) as proxy:
        policy = EndpointPolicy(proxy.url, tokenizer=policy_path(), dialect="llama.cpp", limits=QUICK)
        generated(policy, row(max_tokens=1))

        async def hurried() -> None:
            await asyncio.wait_for(policy.generate([row(sampling=WILD, seed=i) for i in range(4)]), 0.05)

        with pytest.raises(TimeoutError):
            asyncio.run(hurried())
        generated(policy, row(max_tokens=1))
        assert proxy.counts["abandoned"] == 4


def test_a_server_that_changes_its_mind_about_ids_is_an_error():
    bodies: list[Any] = []

    def answer(path: str, body: Any) -> Any:
        if body is None:
            return {"data": [{"id": "m", "owned_by": "vllm"}]}
        bodies.append(body)
        choice = {
            "index": 0,
            "text": "Here",
            "finish_reason": "length",
            "token_ids": [457] if len(bodies) == 1 else None,
        }
        return {"choices": [choice]}

    with (
        serving(answer) as served,
        pytest.raises(EndpointServerError, match="returned token ids before, and now it does not"),
    ):
        generated(EndpointPolicy(served.url, tokenizer=policy_path(), limits=QUICK), row(max_tokens=1))


def test_a_refused_conversation_is_the_callers_error(policy):
    with pytest.raises(RequestError, match="tool"):
        generated(policy, Row(Request.of("Hi", tool_choice="required"), 5, 1))
