"""Three ways to go on with an answer, on llama.cpp's own server: nothing is lost or doubled between two chunks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.servers.gguf_file import write_gguf
from benchmarks.servers.launch import Server, llama_server
from darwin_align.backends.endpoint import EndpointPolicy
from darwin_align.backends.endpoint.continue_by_text import ByPrefill, ByText
from darwin_align.backends.endpoint.dialects import DIALECTS
from darwin_align.backends.endpoint.tokenizers import load_template, tokenizer_length
from darwin_align.backends.local import LocalPolicy
from darwin_align.core.errors import ContextLengthError, EndpointServerError, ModelLoadError, RequestError
from darwin_align.core.types import Message, Request, Sampling, ToolCall
from darwin_align.operators.policy import Continuation, Row
from darwin_align.operators.portal import call
from darwin_align.pocket import policy_path
from tests.backends.endpoint.fixtures.policy.chain import KNOWN, Chain, chain_servers, with_bos, write_chain
from tests.backends.endpoint.fixtures.policy.documented import QUICK
from tests.backends.endpoint.fixtures.served import serving

GREEDY = Sampling(temperature=0.0, top_k=None)
QUESTION = Request.of("How do I brew green tea?", sampling=GREEDY)
STRATEGIES = ("ids", "text", "prefill")


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    with chain_servers(tmp_path_factory.mktemp("chain")) as chain:
        yield chain


def policy(url: str, folder: Path, strategy: str, **options: Any) -> EndpointPolicy:
    return EndpointPolicy(url, tokenizer=folder, continuation=strategy, limits=QUICK, **options)  # type: ignore[arg-type]


def row(request: Request = QUESTION, *, max_tokens: int = 60, **fields: Any) -> Row:
    return Row(request, max_tokens, fields.pop("seed", 1), **fields)


def generated(policy: Any, *rows: Row) -> list[Continuation]:
    reply = call(policy.generate, rows)
    return list(getattr(reply, "answer", reply))


def chunks(policy: Any, start: Row, chunk: int, most: int = 60) -> list[Continuation]:
    """Continue a row as a search does, chunk by chunk."""
    found: list[Continuation] = []
    length = 0
    while length < most and not (found and found[-1].finish_reason):
        last = found[-1] if found else Continuation(start.text, start.tokens)
        text = "" if last.tokens else last.text
        found += generated(policy, replace(start, text=text, tokens=last.tokens, max_tokens=min(chunk, most - length)))
        assert found[-1].new_tokens or found[-1].finish_reason, "it would never end"
        length += found[-1].new_tokens
    return found


# -- chunks, half characters, white space, stop strings


@pytest.mark.parametrize(("strategy", "sizes"), [(strategy, (1, 2, 3, 4, 5, 60)) for strategy in STRATEGIES])
def test_half_characters_are_left_out_and_nothing_is_lost(chain, strategy, sizes):
    one = policy(chain.url, chain.folder, strategy)
    for size in sizes:
        found = chunks(one, row(), size)
        texts = [c.text for c in found]
        assert texts[-1] == KNOWN
        assert all(KNOWN.startswith(text) for text in texts)
        assert [c.finish_reason for c in found] == [None] * (len(found) - 1) + ["stop"]
        assert strategy != "ids" or sum(c.new_tokens for c in found) == len(KNOWN.encode()) + 1
    assert len(chunks(one, row(), 5)) == 5


WORST = "a 🍵   👩\u200d🔬\n" + " " * 12 + "if x:\n\n \n🍵 \n" + " " * 9 + "é  fin"
"""Every byte is a token: spaces alone and in runs, characters of four bytes behind them, joined emoji, empty lines."""


def byte_by_byte(path: str, body: Any) -> Any:
    """A server that goes on with the text above, and shows half a character as servers do."""
    if body is None:
        return {"data": [{"id": "m"}]} if path == "/v1/models" else (404, {})
    if "messages" in body:
        begun = body["messages"][-1]["content"] if body["messages"][-1]["role"] == "assistant" else ""
    else:
        begun = body["prompt"].partition("<|assistant|>")[2]
    rest = WORST.encode()[len(begun.encode()) :] if WORST.startswith(begun) else b"x"
    wrote = rest[: body["max_tokens"]]
    text, ended = wrote.decode(errors="replace"), len(wrote) < body["max_tokens"]
    choice = {"index": 0, "finish_reason": "stop" if ended else "length"}
    usage = {"completion_tokens": len(wrote) + ended}
    if "messages" in body:
        return {"choices": [{**choice, "message": {"content": text}}], "usage": usage}
    return {"choices": [{**choice, "text": text}], "usage": usage}


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 100])
@pytest.mark.parametrize(("strategy", "dialect"), [("text", "openai"), ("prefill", "mistral")])
def test_every_chunk_goes_on_however_small_it_is(chain, strategy, dialect, size):
    with serving(byte_by_byte) as served:
        found = chunks(policy(served.url, chain.folder, strategy, dialect=dialect, model="m"), row(), size, most=200)
    assert (found[-1].text, found[-1].finish_reason) == (WORST, "stop")
    assert all(0 < one.new_tokens <= size for one in found)
    texts = [one.text for one in found]
    assert len(set(texts[:-1])) == len(texts) - 1, "a chunk that shows nothing new would be written for ever"


def test_tokens_that_were_requested_again_are_counted_as_decoded(chain):
    with serving(byte_by_byte) as served:
        one = policy(served.url, chain.folder, "text", dialect="openai", model="m")
        report = call(one.generate, [row(text="a", max_tokens=1)])
        received = [body["max_tokens"] for body in served.bodies("/v1/completions")]
    assert (report.answer[0].text, report.answer[0].new_tokens) == ("a 🍵   ", 1)
    assert received[-4:] == [1, 2, 4, 8]
    assert report.usage.decoded_tokens == 1 + 2 + 4 + 8 - 1


@pytest.mark.parametrize("size", [1, 5, 60])
def test_a_server_that_shows_nothing_is_refused_and_white_space_is_not(chain, size):
    shown = ""

    def answer(path: str, body: Any) -> Any:
        if body is None:
            return {"data": [{"id": "m"}]} if path == "/v1/models" else (404, {})
        choice = {"index": 0, "text": shown * body["max_tokens"], "finish_reason": "length"}
        return {"choices": [choice], "usage": {"completion_tokens": body["max_tokens"]}}

    with serving(answer) as served:
        one = policy(served.url, chain.folder, "text", dialect="openai")
        with pytest.raises(EndpointServerError, match=r"decoded \d+ tokens and shows none of them"):
            generated(one, row(text="a", max_tokens=size))
        shown = "\ufffd"
        assert generated(one, row(text="a", max_tokens=size))[0].text.startswith("a\ufffd")
        shown = " "
        assert len(chunks(one, row(), size, most=60)) == 60 / size


def test_ids_are_those_of_the_local_policy(chain):
    local = LocalPolicy.from_pretrained(chain.folder, dtype="float32", device="cpu", threads=1)
    one = policy(chain.url, chain.folder, "ids")
    for size in (1, 2, 3, 7, 60):
        ours, theirs = (chunks(p, row(), size) for p in (local, one))
        assert [(c.text, c.tokens, c.new_tokens, c.finish_reason) for c in ours] == [
            (c.text, c.tokens, c.new_tokens, c.finish_reason) for c in theirs
        ]


@pytest.mark.parametrize("stop", ["茶🍵-h", "w 茶", ",\na", "d", "Brew"])
def test_stop_strings_across_chunks(chain, stop):
    request = QUESTION.model_copy(update={"stop": ("no such text", stop)})
    local = LocalPolicy.from_pretrained(chain.folder, dtype="float32", device="cpu", threads=1)
    for strategy in STRATEGIES:
        one = policy(chain.url, chain.folder, strategy)
        for size in (1, 2, 3, 4, 7, 60):
            found = chunks(one, row(request), size)[-1]
            assert (found.text, found.finish_reason) == (KNOWN[: KNOWN.index(stop)], "stop")
            if strategy == "ids":
                assert found.tokens == chunks(local, row(request), size)[-1].tokens


@pytest.mark.parametrize(
    ("kind", "text", "sent"),
    [
        (ByText, "Brew ", "Brew"),
        (ByText, "hot,\n", "hot,\n"),
        (ByPrefill, "Brew ", "Brew"),
        (ByPrefill, "hot,\n ", "hot,"),
        (ByPrefill, " \n", ""),
    ],
)
def test_white_space_at_the_end_is_decoded_again(chain, kind, text, sent):
    strategy = kind(DIALECTS["llama.cpp"], "m", load_template(chain.folder), 1024, {})
    prompt = strategy.prompt(row(text=text))
    assert (prompt.split("<|assistant|>")[1] if kind is ByText else prompt.prefix) == sent


def test_an_echo_is_cut_off_once(chain):
    """llama.cpp echoes begun turns; other servers echo texts, and an answer may truly repeat its beginning."""

    def answer(path: str, body: Any) -> Any:
        if body is None:
            return {"data": [{"id": "m"}]} if path == "/v1/models" else (404, {})
        choice = {"index": 0, "text": body["prompt"] + "ha", "finish_reason": "length"}
        return {"choices": [choice], "usage": {"completion_tokens": 1}}

    with serving(answer) as served:
        [found] = generated(policy(served.url, chain.folder, "text"), row(text="ha", max_tokens=1))
        assert found.text == "haha"


# -- the order of ways, and what is said of it


def test_the_strategies_are_tried_in_order(chain, caplog):
    without = EndpointPolicy(chain.url, limits=QUICK)
    unknown = EndpointPolicy(chain.url, dialect="openai", tokenizer=chain.folder, limits=QUICK)
    whole = EndpointPolicy(chain.url, tokenizer=chain.folder, limits=QUICK)
    ends = {
        whole: "by token ids",
        unknown: "by text behind the chat template; not by token ids: openai servers do not take that",
        without: (
            "by the beginning of the assistant's turn; not by token ids: it needs tokenizer=…, a folder or a hub id; "
            "not by text behind the chat template: it needs tokenizer=…, a folder or a hub id"
        ),
    }
    plain = Request.of("Hi", sampling=Sampling(temperature=0, top_k=None))
    for one, end in ends.items():
        with caplog.at_level(logging.INFO, logger="darwin_align.backends.endpoint.policy"):
            caplog.clear()
            report = call(one.generate, [row(plain, max_tokens=4)])
            [state] = report.answer
            later = call(one.generate, [row(plain, text="" if state.tokens else state.text, tokens=state.tokens)])
            again = call(one.generate, [row(plain, max_tokens=4), row(plain, tokens=state.tokens, text="")])
        assert report.notes[0].startswith(f"{chain.url} (")
        assert report.notes[0].endswith(end)
        assert later.notes == ()  # it is said where answers begin
        assert again.notes == report.notes
        assert [r.message for r in caplog.records if r.levelno == logging.INFO] == [report.notes[0]]


# -- the BOS


def counting(tokenizer: Any, adds: bool, *, usage: bool = True) -> Callable[[str, Any], Any]:
    """A server that tokenises texts with its tokenizer's special tokens, or without."""

    def answer(path: str, body: Any) -> Any:
        if body is None:
            return {"data": [{"id": "m"}]} if path == "/v1/models" else (404, {})
        if path == "/generate":
            details = {"finish_reason": "length", "generated_tokens": 1, "tokens": []}
            return {"generated_text": "x", "details": details}
        prompt = len(tokenizer.encode(body["prompt"], add_special_tokens=adds))
        numbers = {"prompt_tokens": prompt, "completion_tokens": 1} if usage else {}
        return {"choices": [{"index": 0, "text": "x", "finish_reason": "length"}], "usage": numbers}

    return answer


@pytest.mark.parametrize(("name", "adds", "leading"), [("llama", True, 0), ("llama", False, 1), ("qwen3", True, 0)])
def test_there_is_one_bos(tokenizers, folders, name, adds, leading):
    with serving(counting(tokenizers[name], adds)) as served:
        [_] = generated(policy(served.url, folders[name], "text"), row(max_tokens=1))
        bos = tokenizers[name].bos_token or "<|begin|>"
        assert served.bodies("/v1/completions")[-1]["prompt"].count(bos) == leading


@pytest.mark.parametrize(("name", "leading"), [("llama", 0), ("gpt2", 1)])
def test_a_server_that_does_not_count_is_known_to_add_what_the_tokenizer_adds(tokenizers, folders, name, leading):
    """TGI: the first tokenizer adds its BOS by itself, the second leaves it to the template."""
    with serving(counting(tokenizers[name], True)) as served:
        one = policy(served.url, folders[name], "text", dialect="tgi")
        [_] = generated(one, row(max_tokens=1))
        assert served.bodies("/generate")[-1]["inputs"].count(tokenizers[name].bos_token) == leading


@pytest.mark.parametrize("strategy", ["text", "ids"])
def test_one_bos_on_a_server_that_adds_it(tmp_path, strategy):
    folder = write_chain(tmp_path / "model", bos=True)
    prompt = load_template(folder).prompt_ids(QUESTION)
    with llama_server(with_bos(write_gguf(folder, tmp_path / "bos.gguf"), prompt[0]), slots=2) as server:
        one = policy(server.url, folder, strategy, extra_body={"cache_prompt": False})
        report = call(one.generate, [row()])
        assert report.answer[0].text == KNOWN
        assert report.answer[0].prefilled_tokens == len(prompt)
        assert len(report.notes) == 1


# -- states of another kind


def test_a_state_of_the_other_kind_is_refused(chain):
    with pytest.raises(RequestError, match="a row has text but no token ids: continue it by text"):
        generated(policy(chain.url, chain.folder, "ids"), row(text="Brew"))
    for strategy in ("text", "prefill"):
        with pytest.raises(
            RequestError, match="a row has token ids, which a server that is continued by text would lose"
        ):
            generated(policy(chain.url, chain.folder, strategy), row(tokens=(38, 86), text="Br"))


@pytest.mark.parametrize(
    "more",
    [
        {"tools": ({"type": "function", "function": {"name": "heat", "parameters": {}}},)},
        {"response_format": {"type": "json_object"}},
    ],
)
def test_begun_turns_go_with_neither_tools_nor_formats(chain, more):
    with pytest.raises(RequestError, match=r"tools cannot be combined with|response_format cannot be enforced on"):
        generated(policy(chain.url, chain.folder, "prefill"), row(QUESTION.model_copy(update=more)))


def test_a_whole_conversation_is_sent_as_openai_formats_it(chain):
    conversation = (
        Message(role="system", content="Be kind."),
        Message(role="user", content=({"type": "text", "text": "Heat "}, {"type": "text", "text": "it."})),
        Message(role="assistant", tool_calls=(ToolCall(name="heat", arguments={"to": 80}, id="a"),)),
        Message(role="tool", content="done", tool_call_id="a"),
    )
    strategy = ByPrefill(DIALECTS["openai"], "m", None, None, {})
    prompt = strategy.prompt(row(Request(conversation=conversation), text="Now "))
    assert [message["role"] for message in prompt.messages] == ["system", "user", "assistant", "tool"]
    assert prompt.messages[1]["content"].replace("\n", "") == "Heat it."
    assert prompt.messages[2]["tool_calls"][0]["function"] == {"name": "heat", "arguments": '{"to": 80}'}
    assert prompt.messages[3]["tool_call_id"] == "a"
    assert prompt.prefix == "Now"


# -- ends that are none


def saying(**changes: Any) -> Callable[[str, Any], Any]:
    """A server of chats that answers the trial well, and later as told."""
    calls: list[int] = []

    def answer(path: str, body: Any) -> Any:
        if body is None:
            return {"data": [{"id": "m"}]} if path == "/v1/models" else (404, {})
        calls.append(1)
        later = changes if len(calls) > 1 else {}
        message = {"role": "assistant", "content": later.get("content", " four")}
        choice = {"index": 0, "message": message, "finish_reason": later.get("finish", "length")}
        return {"choices": [choice] * later.get("times", 1), "usage": {"completion_tokens": body["max_tokens"]}}

    return answer


def by_chat(url: str) -> EndpointPolicy:
    return EndpointPolicy(url, dialect="together", continuation="prefill", limits=QUICK)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"content": ""}, r"decoded 20 tokens and shows none of them: the model probably thinks.*by extra_body=…"),
        ({"finish": "error"}, "ended an answer by 'error', an unknown finish reason"),
        ({"finish": "load"}, "ended an answer by 'load'"),
        ({"times": 2}, "1 continuations were requested and 2 returned"),
        ({"times": 0}, "1 continuations were requested and 0 returned"),
    ],
)
def test_what_is_no_continuation_is_an_error(changes, match):
    with serving(saying(**changes)) as served, pytest.raises(EndpointServerError, match=match):
        generated(by_chat(served.url), row(max_tokens=20))


def test_a_content_filter_ends_an_answer_and_is_logged(caplog):
    from darwin_align.core.log_once import log_once

    log_once.cache_clear()
    with serving(saying(content="I may", finish="content_filter")) as served:
        one = by_chat(served.url)
        for _ in range(2):
            [found] = generated(one, row(max_tokens=20))
            assert (found.text, found.finish_reason) == ("I may", "stop")
    assert [r.message for r in caplog.records if "content filter" in r.message] == [
        "the server's content filter cut an answer: it counts as ended there"
    ]


def test_tokens_are_counted_here_where_the_server_does_not(chain):
    def answer(path: str, body: Any) -> Any:
        if body is None:
            return {"data": [{"id": "m"}]} if path == "/v1/models" else (404, {})
        text = " word" * 6 if body["max_tokens"] > 5 else " word"
        choice = {"index": 0, "text": text, "finish_reason": "stop" if len(text) > 5 else "length"}
        return {"choices": [choice]}

    with serving(answer) as served:
        one = policy(served.url, chain.folder, "text")
        [cut, ended] = generated(one, row(max_tokens=5), row(max_tokens=50))
        assert (cut.new_tokens, cut.finish_reason) == (5, None)
        assert (ended.new_tokens, ended.finish_reason) == (31, "stop")  # 30 bytes and the end


# -- the context

LONG = "Explain every step in order, and say why it matters. " * 20
ROOM = 256
"""Tokens of the context of the second server."""


def filled(room: int) -> Request:
    """A request whose prompt leaves so many tokens: three are the template's, the others are letters."""
    return Request.of("x" * (ROOM - 3 - room), sampling=GREEDY)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("known", [True, False], ids=["known", "unknown"])
@pytest.mark.parametrize("room", [8, 13])
def test_a_full_context_ends_the_answer(chain, strategy, known, room):
    if strategy == "ids" and not known:
        return  # ids can always be counted
    one = policy(chain.short, chain.folder, strategy, **({} if known else {"context_length": 10**6}))
    found = chunks(one, row(filled(room)), 4)
    assert [c.finish_reason for c in found] == [None] * (len(found) - 1) + ["length"]
    assert sum(c.new_tokens for c in found) == room
    assert found[-1].text == KNOWN.encode()[:room].decode(errors="ignore")
    [at_once] = generated(one, row(filled(room)))
    assert (at_once.new_tokens, at_once.finish_reason, at_once.text) == (room, "length", found[-1].text)
    if strategy == "ids":
        local = LocalPolicy.from_pretrained(chain.folder, dtype="float32", device="cpu", threads=1)
        assert at_once.tokens == generated(local, row(filled(room), max_tokens=room))[0].tokens
    [again] = generated(one, row(filled(room), tokens=at_once.tokens, text="" if at_once.tokens else at_once.text))
    assert (again.finish_reason, again.tokens, again.text) == ("length", at_once.tokens, at_once.text)


@pytest.mark.parametrize("options", [{}, {"context_length": 10**6}, {"tokenizer": None}], ids=["here", "there", "bare"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_prompt_without_room_is_refused(chain, strategy, options):
    if strategy != "prefill" and "tokenizer" in options:
        return  # they need one
    one = EndpointPolicy(chain.short, continuation=strategy, limits=QUICK, **{"tokenizer": chain.folder, **options})
    with pytest.raises(ContextLengthError, match=r"(leaves no room for an answer|do not fit into).* context"):
        generated(one, row(filled(0)))


def test_one_row_that_is_too_long_does_not_end_the_others(chain):
    one = policy(chain.short, chain.folder, "text", context_length=10**6)
    fine, full = row(max_tokens=5, text="Br"), row(filled(3), text="Brew", max_tokens=5)
    found = generated(one, fine, full, fine)
    sent = one.endpoint.counts["requests"]
    assert [(c.text, c.finish_reason) for c in found] == [("Brew ", None), ("Brew", "length"), ("Brew ", None)]
    assert found[1].new_tokens == 0
    generated(one, fine, full, fine)
    assert one.endpoint.counts["requests"] == sent + 1 + 3  # the list, and one by one
    with pytest.raises(ContextLengthError):
        generated(one, fine, row(filled(0), max_tokens=5))


@pytest.mark.slow
def test_the_tokenizer_names_a_length_where_the_server_does_not(serve: Server, folders):
    assert tokenizer_length(policy_path()) == 1024
    assert tokenizer_length(folders["qwen3"]) is None
    one = EndpointPolicy(serve.url, model=str(policy_path()), limits=QUICK)
    with pytest.raises(ContextLengthError, match="no room for an answer in the model's context of 1024 tokens"):
        generated(one, row(Request.of(LONG * 5, sampling=GREEDY)))
    with pytest.raises(ModelLoadError, match="cannot load a tokenizer"):
        tokenizer_length("no/such-model-anywhere")
