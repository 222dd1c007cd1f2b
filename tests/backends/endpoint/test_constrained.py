"""Rows that are kept to a grammar on servers with known answers: what is cut, requested again, and counted."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import takewhile
from typing import Any

import pytest
import torch

from darwin_align import DarwinSearch, SearchConfig
from darwin_align.backends.endpoint import EndpointPolicy, constrained
from darwin_align.backends.endpoint.constrained import most_requests
from darwin_align.backends.endpoint.tokenizers import load_template, load_tokenizer
from darwin_align.backends.local.constraints import Constraints
from darwin_align.backends.scripted import ScriptedScorer
from darwin_align.core.errors import EndpointServerError, ModelLoadError, RequestError
from darwin_align.core.seeds import derive
from darwin_align.core.types import Request, Sampling
from darwin_align.formats.verdicts import format_violation
from darwin_align.operators.policy import Continuation, Row
from darwin_align.operators.portal import call
from darwin_align.operators.report import Report
from darwin_align.pocket import policy_path
from tests.backends.endpoint.fixtures.policy.documented import QUICK
from tests.backends.endpoint.fixtures.served import Served, serving
from tests.backends.local.test_constraints import SCHEMAS, TOOLS, formed

GREEDY = Sampling(temperature=0.0, top_k=None)
HOT = Sampling(temperature=1.0, top_k=None)
END = 1
VOCABULARY = 2048
QUESTION = "Heat the kettle to 80 degrees."
CALL = '<tool_call>{"name": "heat_kettle", "arguments": {"degrees": 80}}</tool_call>'
FORCED = {"tools": TOOLS, "tool_choice": "required"}
AUTO = {"tools": TOOLS}
DIALECTS = ("vllm", "llama.cpp", "sglang")

Writer = Callable[[tuple[int, ...]], list[int]]
"""From a state to the tokens that come next, the favourite first."""


@lru_cache
def chat() -> Any:
    return load_template(policy_path())


def ids(text: str) -> tuple[int, ...]:
    return tuple(load_tokenizer(policy_path()).encode(text, add_special_tokens=False))


def erratic(seed: int) -> Writer:
    """Prefers whatever chance says, the end of the answer now and then."""

    def write(state: tuple[int, ...]) -> list[int]:
        return orders()[derive(seed, len(state), *state[-1:]) % len(orders())]

    return write


@lru_cache
def orders() -> list[list[int]]:
    rng, tokens = random.Random(1), range(VOCABULARY)
    return [([END] if i % 10 == 0 else []) + rng.sample(tokens, VOCABULARY) for i in range(200)]


def saying(text: str) -> Writer:
    """Writes this and ends; where that may not come, it writes whatever may."""
    expected = (*ids(text), END)

    def write(state: tuple[int, ...]) -> list[int]:
        first = [expected[len(state)]] if len(state) < len(expected) and state == expected[: len(state)] else [END]
        return [*first, *range(3, VOCABULARY)]

    return write


@dataclass
class Fake:
    """A server of one dialect that writes greedily what a writer says."""

    writer: Writer
    dialect: str = "vllm"
    heeds: bool = True
    """Whether it looks at what may come."""
    tells_end: bool = True
    """Whether the token that ends an answer is among the ids that come back."""
    biases: list[dict[int, float | bool]] = field(default_factory=list)
    """The biases that it was sent."""
    replies: list[tuple[tuple[int, ...], list[int]]] = field(default_factory=list)
    """States that it was given, and what it wrote behind them."""

    def __call__(self, path: str, body: Any) -> Any:
        if body is None:
            if path == "/v1/models":
                return {"data": [{"id": "m", "owned_by": self.dialect.replace(".", "")}]}
            return {"default_generation_settings": {"n_ctx": 2048}} if path == "/props" else {}
        fields = [each for each in self._prompts(path, body) for _ in range(body.get("n", 1))]
        answers = [self._answer(prompt, body, about) for prompt, about in fields]
        if self.dialect == "vllm":
            return {"choices": [{"index": i, **answer} for i, answer in enumerate(answers)]}
        return answers if len(answers) > 1 else answers[0]

    def _prompts(self, path: str, body: Any) -> list[tuple[list[int], Any]]:
        assert path == {"vllm": "/v1/completions", "llama.cpp": "/completion", "sglang": "/generate"}[self.dialect]
        prompts = body["input_ids" if self.dialect == "sglang" else "prompt"]
        prompts = prompts if isinstance(prompts[0], list) else [prompts]
        if self.dialect == "vllm":
            assert body["return_token_ids"] is True
        about = body["sampling_params"] if self.dialect == "sglang" else body
        return [(prompt, about[i] if isinstance(about, list) else about) for i, prompt in enumerate(prompts)]

    def _may(self, about: Any) -> Callable[[int], bool]:
        bias = about.get("logit_bias") or {}
        pairs = {int(token): value for token, value in (bias.items() if isinstance(bias, dict) else bias)}
        if allowed := about.get("allowed_token_ids"):
            assert self.dialect == "vllm"
            self.biases.append(dict.fromkeys(allowed, 100.0))
            return lambda token: token in allowed
        if not pairs:
            return lambda _: True
        self.biases.append(pairs)
        assert all(0 <= token < VOCABULARY for token in pairs)
        if 100.0 in pairs.values():
            return lambda token: pairs.get(token) == 100.0
        assert {*pairs.values()} == {False if self.dialect == "llama.cpp" else -100.0}
        return lambda token: token not in pairs

    def _answer(self, prompt: list[int], body: Any, about: Any) -> dict[str, Any]:
        most = about["max_new_tokens"] if self.dialect == "sglang" else body["max_tokens"]
        may = self._may(about)
        if self.biases and not may(-1):
            assert most == 1
        state, new = tuple(prompt[self._begin(prompt) :]), list[int]()
        while len(new) < most and END not in new:
            new.append(next(token for token in self.writer((*state, *new)) if not self.heeds or may(token)))
        self.replies.append((state, new))
        ended = bool(new) and new[-1] == END
        back = new if self.tells_end or not ended else new[:-1]
        text = chat().detokenizer.text(back)
        if self.dialect == "vllm":
            return {"text": text, "token_ids": back, "finish_reason": "stop" if ended else "length"}
        if self.dialect == "sglang":
            return {
                "text": text,
                "output_ids": back,
                "meta_info": {"finish_reason": {"type": "stop" if ended else "length"}},
            }
        return {"content": text, "tokens": back, "stop_type": "eos" if ended else "limit", "index": 0}

    @staticmethod
    def _begin(prompt: list[int]) -> int:
        [assistant] = ids("<|assistant|>")
        return len(prompt) - prompt[::-1].index(assistant)


def asking(
    sampling: Sampling = GREEDY, *, max_tokens: int = 40, seed: int = 1, tokens: tuple[int, ...] = (), **fields: Any
) -> Row:
    return Row(Request.of(QUESTION, sampling=sampling, **fields), max_tokens, seed, tokens=tokens)


def policy_of(served: Served, **options: Any) -> EndpointPolicy:
    return EndpointPolicy(served.url, tokenizer=policy_path(), continuation="ids", limits=QUICK, **options)


def report_of(policy: Any, *rows: Row) -> Report[list[Continuation]]:
    return Report.of(call(policy.generate, rows))


def generated(policy: Any, *rows: Row) -> list[Continuation]:
    return report_of(policy, *rows).answer


def whole(policy: Any, start: Row, chunk: int) -> Continuation:
    found, most = Continuation(""), start.max_tokens
    while not found.finish_reason and len(found.tokens) < most:
        step = min(chunk, most - len(found.tokens))
        [found] = generated(policy, replace(start, tokens=found.tokens, max_tokens=step))
    return found


def masked(writer: Writer, row: Row) -> tuple[int, ...]:
    """What the writer writes if it is kept to the grammar token by token, by the local policy's constraint."""
    rules = Constraints(load_tokenizer(policy_path()), chat(), {END})
    state: tuple[int, ...] = ()
    while len(state) < row.max_tokens and END not in state:
        constraint = rules.constraint(row.request, state)
        assert constraint is not None
        words = torch.zeros(constraint.words, dtype=torch.int32)
        constraint.fill(words)
        assert not constraint.error
        bits = words.view(torch.uint8)
        state += (next(token for token in writer(state) if bits[token // 8] >> token % 8 & 1),)
    return state


def posts(served: Served) -> list[Any]:
    return [body for _, body in served.received if body is not None][1:]  # but for the trial


# -- what comes out


@pytest.mark.parametrize("dialect", [DIALECTS[0], *(pytest.param(one, marks=pytest.mark.slow) for one in DIALECTS[1:])])
@pytest.mark.parametrize("listed", [constrained._LISTED, 5], ids=["short lists", "long lists"])
def test_an_erratic_server_gives_what_it_would_give_token_by_token(monkeypatch, dialect, listed):
    monkeypatch.setattr(constrained, "_LISTED", listed)
    third = list(SCHEMAS.items())[DIALECTS.index(dialect) :: 3]
    for seed, (name, schema) in enumerate(third):
        row = asking(response_format=formed(schema))
        fake = Fake(erratic(seed), dialect)
        with serving(fake) as served:
            policy = policy_of(served)
            [found] = generated(policy, row)
            assert len(posts(served)) <= most_requests(40)
            assert found.tokens == masked(fake.writer, row), name
            assert found.new_tokens == len(found.tokens)
            assert (found.finish_reason == "stop") == (found.tokens[-1] == END)
            assert found.finish_reason is None or format_violation(row.request, found.text) == ""
            for chunk in (1, 7):
                parts = whole(policy, row, chunk)
                assert (parts.text, parts.tokens, parts.finish_reason) == (
                    found.text,
                    found.tokens,
                    found.finish_reason,
                )


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("fields", [FORCED, AUTO], ids=["forced", "auto"])
def test_calls_are_kept_to_their_schemas(dialect, fields):
    wrong = "Sure. " * ("tool_choice" not in fields) + '<tool_call>{"name": "boil", "arguments": {"degrees": 800}}'
    for writer in (saying(wrong), erratic(3)):
        row, fake = asking(**fields), Fake(writer, dialect)
        with serving(fake) as served:
            [found] = generated(policy_of(served), row)
        assert found.tokens == masked(writer, row)
        if fields is FORCED:
            assert found.text.startswith('<tool_call>{"name": "')
            assert "boil" not in found.text


@pytest.mark.parametrize("text", [CALL, "Sure: "])
def test_a_server_that_keeps_the_format_is_requested_once(text):
    fields = FORCED if text == CALL else AUTO
    with serving(Fake(saying(text + CALL * (text != CALL)))) as served:
        report = report_of(policy_of(served), asking(**fields, max_tokens=60))
        assert len(posts(served)) == 1
        assert "logit_bias" not in posts(served)[0]
        assert report.answer[0].finish_reason == "stop"
        assert report.answer[0].text == (text + CALL if text != CALL else CALL)
        assert report.usage.decoded_tokens == 0


def test_what_must_come_costs_no_request():
    ahead = len(ids('<tool_call>{"name": "stop", "arguments":'))
    choice = {"type": "function", "function": {"name": "stop"}}
    with serving(Fake(saying("nothing"))) as served:
        policy = policy_of(served)
        row = asking(tools=TOOLS, tool_choice=choice, max_tokens=ahead)
        [found] = generated(policy, row)
        assert posts(served) == []
        assert found.text == '<tool_call>{"name": "stop", "arguments":'
        assert (found.new_tokens, found.prefilled_tokens, found.finish_reason) == (ahead, 0, None)


def test_a_call_without_arguments_is_decoded_nearly_alone():
    """Its arguments are an empty object: of its two beginnings one is requested."""
    tool = {"type": "function", "function": {"name": "stop", "parameters": {"type": "object", "properties": {}}}}
    with serving(Fake(saying("nothing"))) as served:
        [found] = generated(policy_of(served), asking(tools=(tool,), tool_choice="stop"))
        assert found.text == '<tool_call>{"name": "stop", "arguments": {}}</tool_call>'
        assert found.finish_reason == "stop"
        assert len(posts(served)) <= 6


def test_any_object_is_kept_too():
    row = asking(response_format={"type": "json_object"}, max_tokens=60)
    with serving(Fake(saying('Here: {"a": 1}'))) as served:
        [found] = generated(policy_of(served), row)
    assert found.tokens == masked(saying('Here: {"a": 1}'), row)
    assert found.text.startswith("{")


@pytest.mark.parametrize("tells_end", [True, False])
def test_an_answer_that_ends_too_early_goes_on(tells_end):
    row = asking(response_format=formed(SCHEMAS["nested"]), max_tokens=60)
    writer = saying('{"who": {"name":')
    with serving(Fake(writer, tells_end=tells_end)) as served:
        [found] = generated(policy_of(served), row)
    assert found.tokens == masked(writer, row)
    assert len(found.tokens) > len(ids('{"who": {"name":'))


def test_a_complete_answer_ends_where_the_server_keeps_its_end_to_itself():
    row = asking(response_format=formed({"type": "integer", "minimum": 3, "maximum": 99}))
    with serving(Fake(saying("7"), tells_end=False)) as served:
        [found] = generated(policy_of(served), row)
    assert (found.text, found.finish_reason) == ("7", "stop")


@pytest.mark.parametrize("stop", ['"who"', '": {', "name"])
def test_a_stop_string_ends_it_where_it_would_end_a_local_row(stop):
    """Also one that is written here, because it must come."""
    row = asking(response_format=formed(SCHEMAS["nested"]), stop=(stop,))
    with serving(Fake(saying('{"who": {"name": "a", "ok": true}}'))) as served:
        [found] = generated(policy_of(served), row)
    assert found.finish_reason == "stop"
    assert '{"who": {"name": "a", "ok": true}}'.startswith(found.text + stop)
    assert stop not in found.text
    assert stop in chat().detokenizer.text(found.tokens)
    assert stop not in chat().detokenizer.text(found.tokens[:-1])


# -- requests


def test_a_token_is_requested_among_the_allowed_ones():
    with serving(fake := Fake(saying("80"))) as served:
        generated(policy_of(served), asking(response_format=formed({"enum": ["one", "two"]})))
    expected = [{load_tokenizer(policy_path()).decode([token]) for token in one} for one in fake.biases]
    assert {"t", "o"} <= expected[0]
    assert all(any(word.startswith(text) for word in ("one", "two")) for text in expected[0])
    assert set(fake.biases[0].values()) == {100.0}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_penalty_is_not_fooled_by_a_bias(dialect):
    """It would count a bias of 100 as the model's own liking: so what may not come is ruled out instead."""
    penalised = GREEDY.model_copy(update={"repetition_penalty": 1.5})
    writer = erratic(4)
    for sampling in (penalised, Sampling(temperature=9.0, top_k=None)):
        row = asking(sampling, response_format=formed(SCHEMAS["bounds"]))
        with serving(fake := Fake(writer, dialect)) as served:
            [found] = generated(policy_of(served), row)
        assert found.tokens == masked(writer, row)
        assert fake.biases
        biased = [100.0 in expected.values() for expected in fake.biases]
        assert any(biased) == (dialect == "vllm")  # which masks


@pytest.mark.parametrize(
    ("dialect", "given"), [*((dialect, {"5": -2.0}) for dialect in DIALECTS), ("llama.cpp", [[5, -2.0]])]
)
def test_a_users_own_bias_stays(dialect, given):
    extra = {"sampling_params": {"logit_bias": given}} if dialect == "sglang" else {"logit_bias": given}

    class Lax(Fake):
        def _may(self, about: Any) -> Callable[[int], bool]:
            bias = about["logit_bias"]
            pairs = {int(token): value for token, value in (bias.items() if isinstance(bias, dict) else bias)}
            assert pairs.pop(5) == -2.0
            return super()._may({**about, "logit_bias": pairs})

    with serving(fake := Lax(saying("no"), dialect)) as served:
        generated(policy_of(served, extra_body=extra), asking(response_format=formed(SCHEMAS["bounds"])))
    assert fake.biases


def test_requests_without_a_format_are_what_they_were():
    """Beside rows with one, too."""
    plain, kept = asking(HOT, max_tokens=9), asking(HOT, max_tokens=8, response_format=formed(SCHEMAS["bounds"]))
    with serving(Fake(erratic(1))) as served:
        policy = policy_of(served)
        generated(policy, plain)
        [alone] = posts(served)
        generated(policy, plain, kept)
        assert alone in posts(served)[1:]
    assert alone == {
        "model": "m",
        "max_tokens": 9,
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
        "repetition_penalty": 1.0,
        "min_p": 0.0,
        "seed": alone["seed"],
        "prompt": chat().prompt_ids(Request.of(QUESTION)),
        "return_token_ids": True,
        "add_special_tokens": False,
    }


def test_noise_is_the_seeds_and_new_for_what_is_requested_again():
    rows = [asking(HOT, seed=seed, response_format=formed(SCHEMAS["array"])) for seed in (1, 2)]
    with serving(Fake(erratic(2))) as served:
        policy = policy_of(served)
        bodies = []
        for row in (rows[0], rows[0], rows[1]):
            before = len(posts(served))
            generated(policy, row)
            bodies.append([(body["seed"], body["prompt"]) for body in posts(served)[before:]])
    assert bodies[0] == bodies[1]
    assert [prompt for _, prompt in bodies[0]] == [prompt for _, prompt in bodies[2]]
    assert {seed for seed, _ in bodies[0]}.isdisjoint(seed for seed, _ in bodies[2])
    assert len({seed for seed, _ in bodies[0]}) == len(bodies[0]) > 3


def test_greedy_rows_that_go_on_share_their_requests():
    """All of a list go on as a list."""
    rows = [asking(response_format=formed(SCHEMAS["date"]), max_tokens=20) for _ in range(6)]
    with serving(Fake(erratic(5))) as served:
        policy = policy_of(served)
        [one] = generated(policy, rows[0])
        alone = len(posts(served))
        assert generated(policy, *rows) == [one] * 6
        assert len(posts(served)) == 2 * alone
        assert all(len(body["prompt"]) == 6 for body in posts(served)[alone:])


# -- what is counted


def test_what_is_thrown_away_counts_as_decoded():
    row = asking(response_format=formed({"enum": ["one", "two", True]}), max_tokens=9)
    with serving(fake := Fake(saying("It is true of course, I should say"))) as served:
        report = report_of(policy_of(served), row)
        fields = posts(served)
    [found] = report.answer
    assert found.finish_reason == "stop"
    in_vain = [choice for state, choice in fake.replies[1:] for _ in range(len(choice) - shared(state, choice, found))]
    assert report.usage.decoded_tokens == len(in_vain) > 4
    assert report.usage.policy_calls == 0
    assert found.new_tokens == len(found.tokens)
    assert found.prefilled_tokens == sum(len(body["prompt"]) for body in fields)


def shared(state: tuple[int, ...], choice: list[int], found: Continuation) -> int:
    pairs = zip(choice, found.tokens[len(state) :], strict=False)
    return len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))


# -- servers that do not help


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_server_that_heeds_nothing_is_found_out(dialect):
    with serving(Fake(saying("no"), dialect, heeds=False)) as served:
        with pytest.raises(EndpointServerError, match=r"was sent the allowed tokens \d times and generated others"):
            generated(policy_of(served), asking(response_format=formed(SCHEMAS["nested"])))
        assert len(posts(served)) < 10


def test_a_call_that_is_not_forced_is_let_go_there():
    wrong = '<tool_call>{"name": "boil", "arguments": {}}</tool_call>'
    with serving(Fake(saying(wrong), heeds=False)) as served:
        report = report_of(policy_of(served), asking(**AUTO, max_tokens=60))
    assert report.answer[0].text == wrong
    assert any("is not kept to its schema: the server ignores" in note for note in report.notes)


def test_a_row_that_takes_too_many_requests_ends_and_loses(monkeypatch):
    monkeypatch.setattr(constrained, "most_requests", lambda _: 2)
    schema = {"type": "array", "items": {"type": "boolean"}, "minItems": 2}
    with serving(Fake(saying("no"))) as served:
        policy = policy_of(served)
        report = report_of(policy, asking(response_format=formed(schema)))
        assert report.answer[0].finish_reason == "length"
        assert any("a row was ended: it keeps breaking" in note for note in report.notes)
        config = SearchConfig(mutator="identity", cycles=1, mutations=2, replacement_period=5, max_new_tokens=40)
        search = DarwinSearch(policy=policy, scorer=ScriptedScorer(), config=config)
        result = search.invoke(QUESTION, response_format=formed(schema), seed=1)
    assert not any(beam.valid for beam in result.ranking)
    assert any("it breaks response_format" in note for note in result.notes)


class CutsOne(Fake):
    """Cuts one row short, as a full context does."""

    seed = -1

    def __call__(self, path: str, body: Any) -> Any:
        answer = super().__call__(path, body)
        if body is not None and body.get("seed") == self.seed:
            answer.update(tokens=answer["tokens"][:1], stop_type="limit")
        return answer


def test_an_answer_that_breaks_its_format_loses():
    """However much it pleases: it was cut on the way."""
    good, settings = '{"who": {"name": "a", "ok": true}}', {"seed": 4, "temperature": 1.0}
    settings["response_format"] = formed(SCHEMAS["nested"])
    config = SearchConfig(mutator="identity", cycles=1, mutations=3, replacement_period=60, max_new_tokens=60)
    scorer = ScriptedScorer(reward=lambda text: -float(len(text)))
    with serving(fake := CutsOne(saying(good), "llama.cpp")) as served:
        search = DarwinSearch(policy=policy_of(served), scorer=scorer, config=config)
        assert {beam.text for beam in search.invoke(QUESTION, **settings).ranking} == {good}
        rows = {body["seed"] for body in posts(served)}
        results = []
        for fake.seed in rows:
            results.append(search.invoke(QUESTION, **settings))
    assert [result.text for result in results] == [good] * 4
    invalid = [beam.text for result in results for beam in result.ranking if not beam.valid]
    assert len(invalid) == 4
    assert all(good.startswith(text) and text != good for text in invalid)


# -- what is refused


def test_formats_that_cannot_be_enforced_are_refused_before_anything_is_decoded():
    with serving(Fake(saying("no"))) as served:
        policy = policy_of(served)
        for row in (
            asking(response_format=formed({"not": {"type": "string"}})),
            asking(tools=TOOLS, tool_choice="launch"),
        ):
            with pytest.raises(RequestError, match=r"cannot be (enforced|kept)"):
                generated(policy, row)
            with pytest.raises(RequestError, match=r"cannot be (enforced|kept)"):
                policy.refusal(row.request, 10)
        with pytest.raises(RequestError, match="does not keep the request's response_format"):
            generated(policy, asking(tokens=ids("no"), response_format={"type": "json_object"}))
        assert posts(served) == []
        [found] = generated(policy, asking(tokens=ids("<tool_call> no"), **AUTO, max_tokens=3))
        assert found.new_tokens


def test_a_finished_state_is_left_as_it_was():
    with serving(Fake(saying("7"))) as served:
        state = (*ids("7"), END)
        generated(policy_of(served), asking(tokens=state, response_format=formed({"type": "integer"}), max_tokens=2))
        assert "logit_bias" not in posts(served)[0]


def test_without_llguidance(monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance.hf", None)
    with serving(Fake(saying("Sure."))) as served:
        policy = policy_of(served)
        with pytest.raises(ModelLoadError, match=r"pip install 'darwin-align\[constrained\]'"):
            generated(policy, asking(response_format={"type": "json_object"}))
        assert generated(policy, asking(**AUTO))[0].text == "Sure."


GROUNDED = {**AUTO, "grounded": True}


@pytest.mark.parametrize(
    "fields", [{"response_format": {"type": "json_object"}}, FORCED, GROUNDED], ids=["format", "forced", "grounded"]
)
@pytest.mark.parametrize("strategy", ["text", "prefill"])
def test_other_strategies_say_what_to_change(strategy, fields):
    def answer(path: str, body: Any) -> Any:
        if body is None:
            return {"data": [{"id": "m", "owned_by": "vllm"}]}
        text = "four, five"
        return {"choices": [{"index": 0, "text": text, "message": {"content": text}, "finish_reason": "length"}]}

    with serving(answer) as served:
        policy = EndpointPolicy(served.url, tokenizer=policy_path(), continuation=strategy, limits=QUICK)
        with pytest.raises(
            RequestError, match=r"cannot be enforced on a server .*use one that takes and gives token ids"
        ):
            generated(policy, asking(**fields))
        assert policy.enforces_formats is False


def test_what_agents_request_is_answered_without_a_request():
    assert EndpointPolicy("http://127.0.0.1:9", continuation="ids", tokenizer=policy_path()).enforces_formats is True
    assert EndpointPolicy("http://127.0.0.1:9", continuation="text", tokenizer=policy_path()).enforces_formats is False
    unknown = EndpointPolicy("http://127.0.0.1:9", tokenizer=policy_path())
    assert unknown.enforces_formats is False
    with serving(Fake(saying("Sure."))) as served:
        policy = EndpointPolicy(served.url, tokenizer=policy_path(), limits=QUICK)
        assert policy.enforces_formats is False
        generated(policy, asking())
        assert policy.enforces_formats is True
