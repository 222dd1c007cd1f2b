"""What kind of server it is, which model is meant, and what is said of those that cannot be used."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import Any

import pytest

from benchmarks.servers.launch import Server, free_port, llama_server
from darwin_align.backends.endpoint import Endpoint, EndpointPolicy, Limits
from darwin_align.backends.endpoint.dialects import DIALECTS
from darwin_align.backends.endpoint.server import PUBLIC, ServedModel, ServerInfo, identify_server
from darwin_align.core.errors import (
    ConfigError,
    EndpointAuthenticationError,
    EndpointConnectionError,
    EndpointNotFoundError,
    EndpointServerError,
    ModelLoadError,
)
from darwin_align.core.types import Request, Sampling
from darwin_align.operators.policy import Row
from darwin_align.operators.portal import call
from darwin_align.pocket import policy_path
from tests.backends.endpoint.fixtures.policy.documented import QUICK, case, playing
from tests.backends.endpoint.fixtures.served import serving

ROW = Row(Request.of("How do I brew green tea?", sampling=Sampling(temperature=0, top_k=None)), 5, 1)
NOT_FOUND = (404, {"error": {"message": "Not Found"}})
VLLM_CARD = {"id": "org/model", "object": "model", "owned_by": "vllm", "root": "/models/a", "max_model_len": 512}


def found(url: str) -> ServerInfo:
    once = Limits(attempts=1, breaker_failures=100, connect_timeout=1)
    known: ServerInfo = call(identify_server, Endpoint(url, limits=once))
    return known


def cards(*cards: Any) -> dict[str, Any]:
    return {"object": "list", "data": list(cards)}


def answering(paths: dict[str, Any]) -> Any:
    return lambda path, body: paths.get(path, NOT_FOUND)


# -- recognition

LLAMA_CARD = {"id": "m.gguf", "aliases": ["tea", "brew"], "object": "model", "owned_by": "llamacpp"}
TEI_INFO = {"model_id": "org/rm", "max_input_length": 512, "max_batch_tokens": 16384, "max_client_batch_size": 32}
KINDS: list[tuple[str, dict[str, Any], ServerInfo]] = [
    ("vllm", {"/v1/models": cards(VLLM_CARD)}, ServerInfo("vllm", (ServedModel("org/model", "/models/a", 512),))),
    (
        "sglang",
        {"/v1/models": cards({"id": "a", "owned_by": "sglang", "root": "a", "max_model_len": 4096})},
        ServerInfo("sglang", (ServedModel("a", "a", 4096),)),
    ),
    (
        "llama.cpp",
        {"/v1/models": cards(LLAMA_CARD), "/props": {"default_generation_settings": {"n_ctx": 2048}}},
        ServerInfo("llama.cpp", (ServedModel("m.gguf", None, 2048, ("tea", "brew")),)),
    ),
    (
        "ollama",
        {"/v1/models": case("ollama_text")["models"]},
        ServerInfo("ollama", (ServedModel("llama3.2:latest", aliases=("llama3.2",)), ServedModel("mistral:7b"))),
    ),
    (
        "an Ollama of one's own models",
        {"/v1/models": cards(), "/api/version": {"version": "0.5"}},
        ServerInfo("ollama"),
    ),
    (
        "tgi",
        {"/v1/models": cards({"id": "org/model", "owned_by": "org/model"}), "/info": case("tgi_text")["info"]},
        ServerInfo("tgi", (ServedModel("org/model", None, 1024),)),
    ),
    ("tei", {"/info": TEI_INFO}, ServerInfo("tei", (ServedModel("org/rm", "org/rm", 512),))),
    ("an old vLLM", {"/version": {"version": "0.4"}}, ServerInfo("vllm")),
    ("an old SGLang", {"/get_model_info": {"model_path": "a"}}, ServerInfo("sglang", (ServedModel("a", "a"),))),
    (
        "transformers",
        {"/v1/models": (500, "oops"), "/openapi.json": {"paths": {"/load_model": {}, "/v1/completions": {}}}},
        ServerInfo("transformers"),
    ),
    (
        "together's bare list",
        {"/v1/models": case("together_text")["models"]},
        ServerInfo("openai", (ServedModel("org/model", None, 512),)),
    ),
    (
        "mistral's lengths",
        {"/v1/models": cards({"id": "a", "max_context_length": 32768})},
        ServerInfo("openai", (ServedModel("a", None, 32768),)),
    ),
    (
        "somebody",
        {"/v1/models": cards({"id": "a"}, "no card", {"name": "b"})},
        ServerInfo("openai", (ServedModel("a"),)),
    ),
    ("nothing at all", {}, ServerInfo("openai")),
]


@pytest.mark.parametrize(("name", "paths", "expected"), KINDS, ids=[name for name, _, _ in KINDS])
def test_a_server_is_recognised(name, paths, expected):
    with serving(answering(paths)) as served:
        assert found(served.url) == expected


def test_a_server_with_a_web_page_everywhere_is_recognised_by_what_is_no_page():
    paths = {"/v1/models": cards({"id": "a"}), "/version": {"version": "0.4"}}
    with serving(lambda path, body: paths.get(path, "<html>Welcome</html>")) as served:
        assert found(served.url) == ServerInfo("vllm", (ServedModel("a"),))
        paths.pop("/v1/models")
        with pytest.raises(EndpointServerError, match="web page"):
            found(served.url)


def test_the_real_servers_are_recognised(llama: Server, serve: Server):
    known = found(llama.url)
    assert (known.kind, [model.context_length for model in known.models]) == ("llama.cpp", [1024])
    known = found(serve.url)
    assert known.kind == "transformers"
    assert [model.id for model in known.models] in ([], [str(policy_path())])  # listed from 5.24 on


def test_providers_are_known_by_their_host():
    for host, kind in PUBLIC.items():
        assert Endpoint(f"https://{host}/v1").host == host
        assert kind in DIALECTS or kind == "nim"


# -- which model

HAS = ServerInfo("vllm", (ServedModel("Qwen/Qwen3-8B"), ServedModel("tea", aliases=("brew",))))


def test_the_model_is_chosen():
    assert HAS.model("tea", "here") == HAS.model("brew", "here") == HAS.models[1]
    assert ServerInfo("vllm", HAS.models[:1]).model(None, "here") == HAS.models[0]
    assert ServerInfo("openrouter", HAS.models).model("other", "here") == ServedModel("other")
    assert ServerInfo("openai", ()).model("other", "here") == ServedModel("other")


def test_an_unknown_model_is_refused_with_a_guess():
    with pytest.raises(
        EndpointNotFoundError, match=r"here has no model 'Qwen/Qwen3-8b': did you mean 'Qwen/Qwen3-8B'\?"
    ) as raised:
        HAS.model("Qwen/Qwen3-8b", "here")
    assert raised.value.status == 404


@pytest.mark.parametrize(
    ("known", "match"),
    [
        (HAS, r"here has Qwen/Qwen3-8B, tea: give model=…"),
        (ServerInfo("openai"), r"here does not list its models: give model=…"),
    ],
)
def test_one_of_several_must_be_named(known, match):
    with pytest.raises(ConfigError, match=match):
        known.model(None, "here")


def test_an_unknown_model_on_real_servers(llama: Server, serve: Server):
    with pytest.raises(EndpointNotFoundError, match=r"has no model 'nope': known are .*gguf"):
        call(EndpointPolicy(llama.url, model="nope", tokenizer=policy_path()).generate, [ROW])
    # transformers serve lists its model from 5.24 on; any version names it when another one is requested.
    with pytest.raises(ConfigError, match="requested 'nope'"):
        call(EndpointPolicy(serve.url, model="nope", tokenizer=policy_path()).generate, [ROW])
    unnamed = EndpointPolicy(serve.url, tokenizer=policy_path())
    if found(serve.url).models:
        assert len(call(unnamed.generate, [ROW]).answer) == 1
    else:
        with pytest.raises(ConfigError, match="does not list its models: give model=…"):
            call(unnamed.generate, [ROW])


# -- servers that cannot be used


def test_a_wrong_key_is_reported_as_wrong(embedded_gguf):
    with llama_server(embedded_gguf, slots=2, api_key="right-key-123") as server:
        for key in ("wrong-key-456", ""):
            with pytest.raises(
                EndpointAuthenticationError, match=r"401.*key is missing or wrong: give api_key=…"
            ) as raised:
                call(EndpointPolicy(server.url, tokenizer=policy_path(), api_key=key).generate, [ROW])
            assert "wrong-key-456" not in str(raised.value)
        right = EndpointPolicy(server.url, tokenizer=policy_path(), api_key="right-key-123")
        [written] = call(right.generate, [ROW]).answer
        assert written.new_tokens == 5
        assert "right-key-123" not in repr(right)


def test_a_wrong_address_is_reported_as_wrong():
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(
        EndpointConnectionError, match=f"{url}/v1/models failed.*Is base_url right, and does the server run?"
    ):
        call(EndpointPolicy(url, limits=QUICK).generate, [ROW])


def test_a_wrong_address_is_found_out_once_for_all_who_wait():
    policy = EndpointPolicy(f"http://127.0.0.1:{free_port()}", limits=QUICK)

    async def many() -> list[Any]:
        return await asyncio.gather(*(policy.generate([ROW]) for _ in range(12)), return_exceptions=True)

    refusals = call(many)
    assert [type(refusal) for refusal in refusals] == [EndpointConnectionError] * 12
    assert policy.endpoint.counts["requests"] == QUICK.attempts
    call(many)  # who comes later tries again
    assert policy.endpoint.counts["requests"] == 2 * QUICK.attempts


def chat_only(path: str, body: Any) -> Any:
    if path == "/v1/chat/completions":
        message = {"role": "assistant", "content": "One, two, three, four, five."}
        return {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    return {"/v1/models": cards({"id": "chatty"})}.get(path, NOT_FOUND)


def test_a_server_without_continuation_is_refused_and_all_three_strategies_are_named():
    with serving(chat_only) as served:
        with pytest.raises(ConfigError) as raised:
            call(EndpointPolicy(served.url, tokenizer=policy_path()).generate, [ROW])
        text = str(raised.value)
        assert "(openai) cannot go on with an answer that was begun, which a search needs" in text
        assert "not by token ids: openai servers do not take that" in text
        assert "not by text behind the chat template: POST" in text
        assert "not by the beginning of the assistant's turn: openai servers do not take that" in text
        assert "Use a server with /v1/completions and give tokenizer=…, or name the dialect" in text
        with pytest.raises(
            ConfigError, match="not by text behind the chat template: it needs tokenizer=…, a folder or"
        ):
            call(EndpointPolicy(served.url).generate, [ROW])


def test_a_server_that_begins_anew_is_no_server_that_continues():
    with serving(chat_only) as served:
        policy = EndpointPolicy(served.url, dialect="openrouter")
        with pytest.raises(ConfigError, match="turn: it begins the answer anew instead of going on with it"):
            call(policy.generate, [ROW])


def test_the_strategy_that_was_named_is_the_only_one_tried(llama: Server):
    with pytest.raises(ConfigError, match="not by token ids: it needs tokenizer=…") as raised:
        call(EndpointPolicy(llama.url, continuation="ids").generate, [ROW])
    assert "beginning of the assistant's turn" not in str(raised.value)


@pytest.mark.parametrize("ids", [None, []], ids=["none", "an empty list"])
def test_ids_that_do_not_come_back_lead_to_text(ids):
    def answer(path: str, body: Any) -> Any:
        if path == "/v1/completions":
            choice = {"index": 0, "text": " tea", "finish_reason": "length", "token_ids": ids}
            return {"choices": [choice], "usage": {"completion_tokens": 1}}
        return {"/v1/models": cards(VLLM_CARD)}.get(path, NOT_FOUND)

    with serving(answer) as served:
        report = call(EndpointPolicy(served.url, tokenizer=policy_path()).generate, [ROW])
        assert "by text behind the chat template; not by token ids: it takes token ids but does not" in report.notes[0]


@pytest.mark.parametrize("strategy", ["ids", "text"])
def test_another_models_tokenizer_is_noticed(llama: Server, caplog, folders, strategy):
    policy = EndpointPolicy(llama.url, tokenizer=folders["qwen3"], continuation=strategy)
    with caplog.at_level(logging.WARNING):
        report = call(policy.generate, [replace(ROW, max_tokens=2)])
    assert "are they of one model?" in report.notes[1]
    assert "are they of one model?" in caplog.text
    right = EndpointPolicy(llama.url, tokenizer=policy_path(), continuation=strategy)
    assert len(call(right.generate, [ROW]).notes) == 1


def test_a_tokenizer_that_is_not_there(llama: Server, tmp_path):
    with pytest.raises(ModelLoadError, match="cannot load a tokenizer from"):
        call(EndpointPolicy(llama.url, tokenizer=tmp_path / "none").generate, [ROW])
    with (
        playing("tgi_text") as (served, _),
        pytest.raises(ConfigError, match="it needs tokenizer=…, for there is none here by the name of 'org/model'"),
    ):
        call(EndpointPolicy(served.url).generate, [ROW])
