"""What is refused, how, and by which name; on the application itself, without a process."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from langchain_core.messages import AIMessage
from pydantic import SecretStr, ValidationError

from darwin_align import DarwinChatModel, SearchConfig
from darwin_align.backends.scripted import ScriptedPolicy, ScriptedScorer
from darwin_align.core.errors import (
    ConfigError,
    EndpointAuthenticationError,
    EndpointConnectionError,
    EndpointRateLimitError,
    EndpointTimeoutError,
)
from darwin_align.core.types import COLDEST
from darwin_align.formats.call_parser import InvalidCall
from darwin_align.integrations.openai_server import fields
from darwin_align.integrations.openai_server.app import create_app
from darwin_align.integrations.openai_server.conversation import to_openai
from darwin_align.integrations.openai_server.settings import SearchLimits, ServerSettings
from darwin_align.integrations.openai_server.wire import ChatRequest, DarwinSettings
from darwin_align.langchain.tools import _invalid

from .conftest import KEY

CHAT = "/v1/chat/completions"
IMAGE = {"type": "image_url", "image_url": {"url": "https://example.org/tea.png"}}
LAMP = {"type": "function", "function": {"name": "set_lamp", "parameters": {"type": "object", "properties": {}}}}
HI = [{"role": "user", "content": "Say something good."}]


def scripted(policy=None, scorer=None, **settings) -> DarwinChatModel:
    config = SearchConfig(mutator="identity", cycles=1)
    return DarwinChatModel(
        policy=policy or ScriptedPolicy(), scorer=scorer or ScriptedScorer(), config=config, **settings
    )


@asynccontextmanager
async def asking(model=None, **settings) -> AsyncIterator[httpx.AsyncClient]:
    settings = {"allowed_hosts": ("toy",), **settings}
    app = create_app(ServerSettings(**settings), {"toy": model or scripted()})
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://toy") as client:
        yield client


async def refused(body, status=400, path=CHAT, model=None, headers=None, **settings) -> dict:
    async with asking(model, **settings) as client:
        reply = await client.post(path, json=body, headers=headers)
    assert reply.status_code == status, reply.text
    assert reply.json()["error"].keys() == {"message", "type", "param", "code"}
    return {**reply.json()["error"], "headers": reply.headers}


# -- parameters


@pytest.mark.parametrize(
    ("parameter", "named", "hint"),
    [
        ({"logit_bias": {"1": 2}}, "logit_bias", "not weighted one by one"),
        ({"min_p": 0.1}, "min_p", "give top_p"),
        ({"web_search_options": {}}, "web_search_options", "nothing is searched for"),
        ({"best_of": 4}, "best_of", "choose a preset"),
        ({"function_call": {"name": "f"}}, "function_call", "give tool_choice"),
        (
            {"messages": [*HI, {"role": "assistant", "content": "x", "audio": {"id": "1"}}, *HI]},
            "messages.1.audio",
            "know",
        ),
        ({"frequency_penalty": 0.5}, "frequency_penalty", "leave it out"),
        ({"presence_penalty": 1}, "presence_penalty", "leave it out"),
        ({"logprobs": True}, "logprobs", "chosen by their reward"),
        ({"top_logprobs": 2}, "top_logprobs", "leave it out"),
        ({"functions": [{"name": "f"}]}, "functions", "give tools"),
        ({"modalities": ["text", "audio"]}, "modalities", "leave it out"),
        ({"temprature": 1}, "temprature", "did you mean 'temperature'?"),
        ({"darwin": {"cycle": 1}}, "darwin.cycle", "did you mean 'cycles'?"),
        ({"darwin": {"seed": 1}}, "darwin.seed", "the request's own seed"),
        ({"stream": True, "stream_options": {"usage": True}}, "stream_options.usage", "does not know it"),
        ({"messages": [{**HI[0], "weight": 1}]}, "messages.0.weight", "does not know it"),
    ],
)
async def test_what_is_not_served_is_refused_by_name(parameter, named, hint):
    error = await refused({"model": "toy", "messages": HI, **parameter})
    assert (error["param"], error["code"]) == (named, "unsupported_parameter")
    assert hint in error["message"]


@pytest.mark.parametrize(
    "parameter",
    [
        {"frequency_penalty": 0, "presence_penalty": 0.0, "logprobs": False, "logit_bias": {}, "store": None},
        {"service_tier": "auto", "modalities": ["text"], "user": "me", "metadata": None},
        {"messages": [{**HI[0], "annotations": [], "audio": None}]},
    ],
)
async def test_what_asks_for_nothing_is_let_through(parameter):
    async with asking() as client:
        reply = await client.post(CHAT, json={"model": "toy", "messages": HI, **parameter})
    assert reply.status_code == 200


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("parameter", "named"),
    [
        ({"metadata": {"trace": "1"}, "store": True, "user": "me"}, "metadata, store, user"),
        ({"reasoning_effort": "low", "verbosity": "high"}, "reasoning_effort, verbosity"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"prediction": {"type": "content", "content": "x"}, "prompt_cache_key": "k"}, "prediction, prompt_cache_key"),
        ({"min_p": 0, "best_of": 1, "skip_special_tokens": True, "metadata": {}}, None),
        ({"messages": [{"role": "user", "content": [
            {"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}]}]},
            "messages.content.cache_control"),
        ({"messages": [*HI, {"role": "assistant", "content": "x", "refusal": None, "audio": None, "function_call": None,
            "annotations": [{"type": "url_citation"}], "reasoning_content": "hm"}, *HI]},
            "messages.annotations"),
        ({"messages": [*HI, {"role": "assistant", "content": None, "tool_calls": [
            {"index": 0, "id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
            {"role": "tool", "tool_call_id": "1", "content": "x", "cache_control": {"type": "ephemeral"}}]},
            "messages.cache_control, messages.tool_calls.index"),
    ],
)  # fmt: skip
async def test_what_has_no_effect_is_taken_and_named(parameter, named, stream):
    async with asking() as client:
        reply = await client.post(CHAT, json={"model": "toy", "messages": HI, "stream": stream, **parameter})
    assert reply.status_code == 200, reply.text
    assert reply.headers.get("x-darwin-ignored") == named


def test_every_field_of_the_table_is_in_the_readme():
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    names = {*fields.CHAT_IGNORED, *fields.IGNORED_IN_HISTORY, *fields.CHAT_REFUSED, *fields.CHAT_NEUTRAL}
    assert [name for name in sorted(names) if f"`{name}`" not in text] == []


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "given",
    [
        {"response_format": {"type": "json_object"}},
        {"tools": [LAMP], "tool_choice": "required"},
        {"darwin": {"grounded": True}, "response_format": {"type": "json_object"}},
    ],
)
async def test_without_llguidance_what_it_enforces_is_not_implemented_here(given, stream, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    monkeypatch.setitem(sys.modules, "llguidance.hf", None)
    async with asking(DarwinChatModel()) as client:
        body = {"model": "toy:sample", "messages": HI, "max_tokens": 4, "stream": stream}
        reply = await client.post(CHAT, json={**body, **given})
        assert (await client.post(CHAT, json={**body, "tools": [LAMP]})).status_code == 200
    assert reply.status_code == 501
    assert "pip install 'darwin-align[constrained]'" in reply.json()["error"]["message"]
    assert "answered by 501" in caplog.text


@pytest.mark.parametrize(
    ("parameter", "named"),
    [
        ({"temperature": 3}, "temperature"),
        ({"temperature": 1e-300}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"n": 0}, "n"),
        ({"n": 17}, "n"),
        ({"seed": 2**64}, "seed"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 5, "max_completion_tokens": 5}, None),
        ({"max_completion_tokens": 5000}, "max_completion_tokens"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"stream_options": {"include_usage": True}}, None),
        ({"darwin": {"cycles": 9}}, "darwin.cycles"),
        ({"darwin": {"mutations": 33}}, "darwin.mutations"),
        ({"darwin": {"mutations": 32, "beams_per_mutation": 3}}, "darwin.beams_per_mutation"),
        ({"darwin": {"budget": {"seconds": 1000}}}, "darwin.budget.seconds"),
        ({"darwin": {"survivors": 5}}, None),
        ({"darwin": {"streaming_mode": "committed"}}, "darwin.streaming_mode"),
        ({"darwin": {"grounded": "yes"}}, "darwin.grounded"),
        ({"darwin": {"grounded": True, "grounded_in": "x"}}, "darwin.grounded_in"),
        ({"darwin": {"grounded_in": ["x"]}}, None),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0"),
        ({"messages": [{"role": "user", "content": [IMAGE]}]}, "messages.0.content.0.type"),
        ({"messages": [{"role": "system", "content": "x"}]}, None),
        ({"messages": [*HI, {"role": "assistant", "content": "x"}]}, None),
        ({"tool_choice": "required"}, None),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
    ],
)  # fmt: skip
async def test_what_cannot_be_is_refused(parameter, named):
    error = await refused({"model": "toy", "messages": HI, **parameter})
    assert (error["param"], error["type"]) == (named, "invalid_request_error")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("grounded", [True, "where_possible"])
async def test_a_policy_that_grounds_nothing_is_reported(grounded, stream):
    given = {"model": "toy", "messages": HI, "stream": stream, "darwin": {"grounded": grounded, "grounded_in": ["x"]}}
    error = await refused(given)
    assert f"grounded={grounded!r} is not enforced by ScriptedPolicy" in error["message"]


async def test_what_is_grounded_reaches_the_policy_and_false_goes_before_the_models_own():
    class Copies(ScriptedPolicy):
        enforces_grounding = True

        def generate(self, rows):
            given.update((row.request.grounded, row.request.grounded_in) for row in rows)
            return super().generate(rows)

    given = set()
    async with asking(scripted(Copies(), grounded=True)) as client:
        for darwin, wants in (
            ({}, (True, ())),
            ({"grounded": False}, (False, ())),
            ({"grounded_in": ["Ann"]}, (True, ("Ann",))),
            ({"grounded": "where_possible", "grounded_in": []}, ("where_possible", ())),
        ):
            given.clear()
            reply = await client.post(CHAT, json={"model": "toy", "messages": HI, "darwin": darwin})
            assert (reply.status_code, given) == (200, {wants})


def test_the_coldest_temperature_is_the_librarys():
    given = {"model": "toy", "messages": HI}
    assert ChatRequest.model_validate({**given, "temperature": COLDEST}).temperature == COLDEST
    with pytest.raises(ValidationError, match=f"from {COLDEST} to 2"):
        ChatRequest.model_validate({**given, "temperature": COLDEST * 0.99})


@pytest.mark.parametrize("written", ['{"room": "hall"}', '{"room": "ha', "hall", "[1]", ""])
def test_a_call_that_cannot_be_made_is_text_as_it_was_written(written):
    kept = _invalid(InvalidCall(written, "there is no tool 'lamp'", "lamp"), "Kfq3fSQCW")
    message = to_openai(AIMessage("Well. ", invalid_tool_calls=[kept]))
    assert (message.content, message.tool_calls) == (f"Well. {written}", None)


@pytest.mark.parametrize("arguments", ["{", "[]", '{"a": NaN}', r'{"a": "\ud800"}'])
async def test_arguments_of_calls_are_json_objects(arguments):
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}}
    turns = [
        *HI,
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "x"},
    ]
    error = await refused({"model": "toy", "messages": turns})
    assert error["param"] == "messages.1.tool_calls.0.function.arguments"


async def test_an_unknown_model_is_not_found():
    error = await refused({"model": "toy:darwim", "messages": HI}, 404)
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert "did you mean 'toy:darwin'?" in error["message"]


def test_every_setting_of_a_search_may_be_given():
    assert {*DarwinSettings.model_fields} == (
        {*SearchConfig.model_fields, "grounded", "grounded_in"} - {"seed", "max_new_tokens"}
    )


# -- bodies and keys


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"", "application/json", 400),
        (b"[]", "application/json", 400),
        (b'{"model": NaN}', "application/json", 400),
        (rb'{"model": "\ud800"}', "application/json", 400),
        (b"[" * 400 + b"]" * 400, "application/json", 400),
        (b"\xff\xfe", "application/json", 400),
        (b"{}", "text/plain", 415),
        (b"{}", "", 415),
        (b'"' + b"x" * 2000 + b'"', "application/json", 413),
        (b'"' + b"x" * 50_000 + b'"', "application/json", 413),
    ],
)
async def test_bodies_are_json_to_the_letter_and_not_too_large(content, kind, status):
    async with asking(body_bytes=1000) as client:
        reply = await client.post(CHAT, content=content, headers={"content-type": kind})
    assert reply.status_code == status
    assert reply.json()["error"]["message"]


async def test_a_body_that_does_not_arrive_is_not_waited_for():
    async def slow():
        yield b"{"
        await asyncio.sleep(60)

    async with asking(body_seconds=0.05) as client:
        reply = await client.post(CHAT, content=slow(), headers={"content-type": "application/json"})
    assert reply.status_code == 408


@pytest.mark.parametrize("header", [None, "Bearer ", f"Basic {KEY}", f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", KEY])
async def test_without_the_key_nothing_but_health_is_reported(header):
    headers = {"Authorization": header} if header else {}
    async with asking(api_keys=(SecretStr(KEY),)) as client:
        assert (await client.get("/healthz", headers=headers)).status_code == 200
        for path in ("/v1/models", "/metrics", "/openapi.json", "/nowhere"):
            reply = await client.get(path, headers=headers)
            assert (reply.status_code, reply.headers["www-authenticate"]) == (401, "Bearer")
        assert (await client.post(CHAT, json={}, headers=headers)).status_code == 401


async def test_any_of_the_keys_opens_and_none_is_logged(caplog):
    caplog.set_level("DEBUG")
    other = "sk-other-0123456789abcdef"
    settings = ServerSettings(api_keys=(SecretStr(KEY), SecretStr(other)), host="0.0.0.0", open_metrics=True)  # noqa: S104
    assert KEY not in repr(settings)
    async with asking(api_keys=settings.api_keys, open_metrics=True) as client:
        assert (await client.get("/metrics")).status_code == 200
        for key in (KEY, other):
            assert (await client.get("/v1/models", headers={"Authorization": f"Bearer {key}"})).status_code == 200
        await client.get("/v1/models", headers={"Authorization": "Bearer sk-wrong-0123456789abcdef"})
    assert "/v1/models" in caplog.text
    assert "sk-" not in caplog.text


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org"])  # noqa: S104
def test_strangers_need_a_key(host):
    with pytest.raises(ValidationError, match="there is no API key"):
        ServerSettings(host=host)
    assert ServerSettings(host=host, api_keys=(SecretStr(KEY),)).host == host


LOCAL = ["localhost", "LOCALHOST:8000", "127.0.0.1", "127.0.0.1:80", "[::1]", "[::1]:8000", "localhost."]
FOREIGN = [
    "evil.example",
    "evil.example:8000",
    "127.0.0.1.evil.example",
    "localhost.evil.example",
    "127.0.0.1@evil",
    "",
]


@pytest.mark.parametrize("host", FOREIGN)
async def test_without_a_key_a_page_that_rebinds_its_name_reads_nothing(host):
    async with asking(allowed_hosts=()) as client:
        for path in ("/v1/models", "/metrics", "/openapi.json", "/healthz"):
            reply = await client.get(path, headers={"Host": host})
            assert (reply.status_code, reply.json()["error"]["code"]) == (421, "host_not_allowed")
        reply = await client.post(CHAT, json={"model": "toy", "messages": HI}, headers={"Host": host})
        assert reply.status_code == 421
        assert "allowed_hosts" in reply.json()["error"]["message"]


@pytest.mark.parametrize("host", [*LOCAL, "search.example.org", "Search.Example.org:443"])
async def test_local_names_and_those_that_the_operator_gives_are_answered(host):
    async with asking(allowed_hosts=("search.example.org",)) as client:
        assert (await client.get("/v1/models", headers={"Host": host})).status_code == 200


async def test_behind_keys_hosts_are_checked_where_the_operator_names_some():
    headers = {"Authorization": f"Bearer {KEY}", "Host": "evil.example"}
    keys = (SecretStr(KEY),)
    async with asking(api_keys=keys, allowed_hosts=()) as client:
        assert (await client.get("/v1/models", headers=headers)).status_code == 200
    async with asking(api_keys=keys, allowed_hosts=("search.example.org",)) as client:
        assert (await client.get("/v1/models", headers=headers)).status_code == 421
        assert (await client.get("/healthz", headers=headers)).status_code == 200


@pytest.mark.parametrize("host", ["http://a", "a:80", "a/b", "", "a b"])
def test_allowed_hosts_are_names(host):
    with pytest.raises(ValidationError, match="no host name"):
        ServerSettings(allowed_hosts=(host,))


@pytest.mark.parametrize("key", ["short", "sk-0123456789abcdé"])
def test_keys_are_long_and_fit_a_header(key):
    with pytest.raises(ValidationError) as refused:
        ServerSettings(api_keys=(SecretStr(key),))
    assert key not in str(refused.value)


# -- faults of others


class Failing(ScriptedPolicy):
    error: Exception = RuntimeError()

    def generate(self, rows):
        raise self.error


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (EndpointConnectionError("http://10.0.0.7:8000 cannot be reached"), 502),
        (EndpointAuthenticationError("http://10.0.0.7:8000 refuses the key", status=401), 502),
        (EndpointRateLimitError("http://10.0.0.7:8000 is busy", status=429), 503),
        (EndpointTimeoutError("http://10.0.0.7:8000 is silent"), 504),
        (httpx.ConnectError("http://10.0.0.7:8000 is down"), 502),
        (RuntimeError("http://10.0.0.7:8000 a bug"), 500),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_faults_of_the_models_have_a_status_and_keep_the_operators_secrets(error, status, stream, caplog):
    policy = Failing()
    policy.error = error
    fault = await refused({"model": "toy", "messages": HI, "stream": stream}, status, model=scripted(policy))
    assert "10.0.0.7" not in str(fault)
    assert "10.0.0.7" in caplog.text
    assert ("retry-after" in fault["headers"]) == (status == 503)


async def test_a_server_that_fails_later_leaves_the_best_so_far_and_its_address_hidden():
    class Breaking(ScriptedPolicy):
        def generate(self, rows):
            if self.calls == 2:
                raise EndpointConnectionError("http://10.0.0.7:8000 cannot be reached")
            return super().generate(rows)

    body = {"model": "toy", "messages": HI, "darwin": {"replacement_period": 2}}
    async with asking(scripted(Breaking())) as client:
        reply = await client.post(CHAT, json=body)
    assert reply.status_code == 200
    assert reply.json()["darwin"]["stop_reason"] == "failure: decode"
    assert reply.json()["darwin"]["failure"] == "EndpointConnectionError"
    assert "10.0.0.7" not in reply.text
    error = await refused(
        {**body, "darwin": {"replacement_period": 2, "on_failure": "raise"}}, 502, model=scripted(Breaking())
    )
    assert error["code"] == "EndpointConnectionError"


async def test_a_search_that_is_late_is_given_up():
    class Slow(ScriptedPolicy):
        async def generate(self, rows):
            await asyncio.sleep(60)

    limits = SearchLimits(seconds=0.1)
    error = await refused(
        {"model": "toy", "messages": HI}, 504, model=scripted(Slow()), limits=limits, late_seconds=0.1
    )
    assert error["code"] == "deadline_exceeded"


async def test_a_search_whose_time_is_up_gives_its_best_so_far():
    class Slow(ScriptedPolicy):
        def __init__(self):
            super().__init__()
            self.calls = 0

        async def generate(self, rows):
            await asyncio.sleep(0.2)
            return super().generate(rows)

    async with asking(scripted(Slow()), limits=SearchLimits(seconds=1.0)) as client:
        reply = await client.post(CHAT, json={"model": "toy", "messages": HI, "darwin": {"cycles": 8}})
    assert reply.status_code == 200
    assert reply.json()["darwin"]["stop_reason"] == "budget: seconds"


async def test_a_stream_that_broke_off_ends_with_an_error():
    class Breaking(ScriptedPolicy):
        def generate(self, rows):
            if self.calls == 2:
                raise RuntimeError("a bug")
            return super().generate(rows)

    body = {"model": "toy", "messages": HI, "stream": True, "darwin": {"replacement_period": 2}}
    async with asking(scripted(Breaking())) as client:
        reply = await client.post(CHAT, json=body)
    last = [line for line in reply.text.splitlines() if line][-1]
    assert reply.status_code == 200
    assert '"error"' in last
    assert '"server_error"' in last


async def test_too_many_searches_are_refused_with_a_time_to_retry():
    class Slow(ScriptedPolicy):
        async def generate(self, rows):
            await asyncio.sleep(0.3)
            return super().generate(rows)

    body = {"model": "toy:sample", "messages": HI}
    async with asking(scripted(Slow()), max_searches=2) as client:
        replies = await asyncio.gather(*[client.post(CHAT, json=body) for _ in range(5)])
        assert sorted(reply.status_code for reply in replies) == [200, 200, 429, 429, 429]
        full = next(reply for reply in replies if reply.status_code == 429)
        assert 1 <= int(full.headers["retry-after"]) <= 60
        assert full.json()["error"]["code"] == "rate_limit_exceeded"
        assert (await client.post(CHAT, json=body)).status_code == 200


# -- what the operator sets


async def test_limits_lower_what_a_model_does_by_itself():
    limits = SearchLimits(cycles=1, mutations=2, max_new_tokens=10, tokens=50)
    async with asking(limits=limits) as client:
        cards = {
            card["id"]: card["darwin"] for card in (await client.get("/v1/models")).json()["data"] if "darwin" in card
        }
        reply = await client.post(CHAT, json={"model": "toy:darwin", "messages": HI})
    shown = cards["toy:darwin"]
    assert (shown["cycles"], shown["mutations"], shown["max_new_tokens"]) == (1, 2, 10)
    assert shown["budget"] == {"tokens": 50, "reward_calls": None, "seconds": 120.0}
    assert reply.json()["darwin"]["cycles"] == 1


def test_presets_that_contradict_a_model_are_left_out(caplog):
    def mine(rewards, finished, weights, seed):
        return list(range(len(rewards))), weights

    app = create_app(ServerSettings(), {"toy": scripted(selector=mine)})
    assert app
    assert "toy:best_of_n is not served" in caplog.text


@pytest.mark.parametrize("models", [{}, {"a:b": None}, {" ": None}])
def test_there_is_something_to_serve_by_a_name(models):
    with pytest.raises(ConfigError):
        create_app(ServerSettings(), {name: scripted() for name in models})


async def test_a_scorer_that_is_no_local_model_rewards_conversations_only():
    body = {"messages": HI, "responses": ["good", "bad"]}
    async with asking() as client:
        reply = await client.post("/v1/rewards", json=body)
        assert reply.status_code == 200
        refused = await client.post("/classify", json={"input": "x"})
    assert len(reply.json()["data"]) == 2
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "unsupported_parameter")
