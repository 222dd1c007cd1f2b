"""What goes wrong over the wire: which faults are worth another attempt, and what is said of the others."""

from __future__ import annotations

import json
import socket
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http import HTTPStatus
from typing import Any

import httpx
import pytest

from darwin_align.backends.endpoint.faults import (
    error_of_response,
    fault_of_exception,
    fault_of_response,
    server_message,
)
from darwin_align.core.errors import (
    ContextLengthError,
    EndpointAuthenticationError,
    EndpointConnectionError,
    EndpointError,
    EndpointNotFoundError,
    EndpointPermissionError,
    EndpointRateLimitError,
    EndpointRequestError,
    EndpointServerError,
    EndpointTimeoutError,
)

ASKED = "POST http://127.0.0.1:8000/v1/completions"


def answer(status: int, body: Any = "", **headers: str) -> httpx.Response:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    if isinstance(body, str):
        return httpx.Response(status, headers=given, text=body)
    return httpx.Response(status, headers=given, json=body)


# -- statuses

PASSING = {
    408: ("busy", EndpointServerError, True),
    409: ("busy", EndpointServerError, True),
    425: ("busy", EndpointServerError, True),
    429: ("rate_limit", EndpointRateLimitError, True),
    **dict.fromkeys((500, 502, 503, 504, 507, 520, 524, 529), ("unavailable", EndpointServerError, False)),
}
FINAL: dict[int, type[EndpointError]] = {
    400: EndpointRequestError,
    401: EndpointAuthenticationError,
    402: EndpointPermissionError,
    403: EndpointPermissionError,
    404: EndpointNotFoundError,
    405: EndpointNotFoundError,
    410: EndpointRequestError,
    413: EndpointRequestError,
    415: EndpointRequestError,
    422: EndpointRequestError,
    451: EndpointRequestError,
    501: EndpointRequestError,
    505: EndpointRequestError,
}


@pytest.mark.parametrize("status", PASSING)
def test_status_that_may_pass(status: int) -> None:
    fault = fault_of_response(answer(status, "try later"))
    assert fault is not None
    assert (fault.kind, fault.error, fault.server_works) == PASSING[status]
    assert (fault.status, fault.retry_after, fault.permanent) == (status, 0.0, False)
    assert str(status) in fault.description
    assert "try later" in fault.description


@pytest.mark.parametrize("status", FINAL)
def test_status_that_stays(status: int) -> None:
    response = answer(status, {"error": {"message": "because of the moon"}})
    assert fault_of_response(response) is None
    error = error_of_response(response, ASKED)
    assert type(error) is FINAL[status]
    assert error.status == status
    assert str(error).startswith(f"{ASKED} failed ({status}): ")
    assert "because of the moon" in str(error)


def test_every_status_is_an_answer_a_fault_or_an_error() -> None:
    for status in (*map(int, HTTPStatus), 299, 399, 419, 499, 520, 530, 599):
        if status < 200:
            continue
        response = answer(status, "words")
        verdicts = [status < 300, fault_of_response(response) is not None]
        verdicts.append(not verdicts[1] and error_of_response(response, ASKED) is not None)
        assert sum(verdicts) == 1, status


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_names_the_right_address(status: int) -> None:
    response = answer(status, location="https://elsewhere.example/v1")
    assert fault_of_response(response) is None
    error = error_of_response(response, ASKED)
    assert type(error) is EndpointRequestError
    assert "'https://elsewhere.example/v1'" in str(error)
    assert "base_url" in str(error)
    assert "'nowhere'" in str(error_of_response(answer(status), ASKED))


@pytest.mark.parametrize(
    ("status", "hint"),
    [(401, "api_key"), (402, "pay"), (403, "key"), (404, "base_url and model"), (405, "dialect"), (413, "shorter")],
)
def test_errors_say_what_to_do(status: int, hint: str) -> None:
    assert hint in str(error_of_response(answer(status, "no"), ASKED))


# -- Retry-After


@pytest.mark.parametrize("status", [429, 503, 408])
@pytest.mark.parametrize(
    ("value", "seconds"),
    [("7", 7.0), ("0.5", 0.5), ("0", 0.0), ("-3", 0.0), ("nan", 0.0), ("soon", 0.0), ("", 0.0), (" 2 ", 2.0)],
)
def test_retry_after_in_seconds(status: int, value: str, seconds: float) -> None:
    fault = fault_of_response(answer(status, retry_after=value))
    assert fault is not None
    assert fault.retry_after == seconds


@pytest.mark.parametrize(
    ("ahead", "least", "most"), [(30, 27.0, 30.0), (3600, 3590.0, 3600.0), (-30, 0.0, 0.0), (0, 0.0, 0.0)]
)
def test_retry_after_as_a_date(ahead: int, least: float, most: float) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=ahead), usegmt=True)
    fault = fault_of_response(answer(429, retry_after=date))
    assert fault is not None
    assert least <= fault.retry_after <= most


@pytest.mark.parametrize(
    "date", ["Wed, 21 Oct 2099", "Wed, 99 Oct 2099 07:28:00 GMT", "Wed, 21 Oct 2099 07:28:00 -0000", "2099-10-21"]
)
def test_a_date_that_is_none_means_no_wait(date: str) -> None:
    fault = fault_of_response(answer(429, retry_after=date))
    assert fault is not None
    assert fault.retry_after == 0.0


# -- what the server says

PYDANTIC = [
    {"type": "missing", "loc": ["body", "prompt"], "msg": "Field required", "input": {}},
    {"type": "int_parsing", "loc": ["body", "stop", 0], "msg": "Input should be an integer"},
]
SAID: list[tuple[Any, str]] = [
    ({"error": {"message": "Invalid API Key", "type": "authentication_error", "code": 401}}, "Invalid API Key"),
    ({"error": "Unauthorized"}, "Unauthorized"),
    ({"error": "Model is overloaded", "error_type": "overloaded"}, "Model is overloaded"),
    ({"error": {"error": {"message": "deep"}}}, "deep"),
    ({"error": ["one thing", {"message": "and another"}]}, "one thing; and another"),
    ({"errors": [{"detail": "not like this"}]}, "not like this"),
    ({"object": "error", "message": "The model `x` does not exist.", "code": 404}, "The model `x` does not exist."),
    ({"status": 400, "error": "Bad Request", "message": "n must be 1"}, "n must be 1"),
    ({"message": {"detail": PYDANTIC[:1]}}, "body.prompt: Field required"),
    ({"detail": "prompt must be a string."}, "prompt must be a string."),
    ({"detail": PYDANTIC}, "body.prompt: Field required; body.stop.0: Input should be an integer"),
    ({"detail": {"error": "inside"}}, "inside"),
    ({"error": {"code": 17}}, '{"code": 17}'),
    ({"error": None, "detail": ""}, '{"error": null, "detail": ""}'),
    ({"error": 17}, "17"),
    ({"reason": "außer Betrieb"}, '{"reason": "außer Betrieb"}'),
    (["a", "b"], "a; b"),
    ([], "no explanation"),
    ({}, "no explanation"),
    (None, "no explanation"),
]


@pytest.mark.parametrize(("body", "sentence"), SAID, ids=[json.dumps(body)[:40] for body, _ in SAID])
def test_message_of_json(body: Any, sentence: str) -> None:
    assert server_message(answer(400, body)) == sentence


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("Internal Server Error", "Internal Server Error"),
        ("  two\n\tlines  ", "two lines"),
        ("", "no explanation"),
        ('"a JSON text"', "a JSON text"),
        ("<html><head><title>503</title></head><body><h1>Down &amp; out</h1></body></html>", "503 Down & out"),
        (
            "<STYLE type='a'>b { c: d }</STYLE ><p>Gateway</p><script>\nalert(1 < 2)\n</script> time-out",
            "Gateway time-out",
        ),
        ("<html><br/></html>", "no explanation"),
        ("503 < 504", "503 < 504"),
    ],
)
def test_message_of_text_and_html(body: str, sentence: str) -> None:
    assert server_message(answer(503, body)) == sentence


def test_long_messages_are_cut() -> None:
    said = server_message(answer(500, "word " * 1000))
    assert said == "word " * 79 + "word  …"


def test_bytes_that_are_no_text() -> None:
    response = httpx.Response(500, content=b"\xff\xfe\x00{", headers={"content-type": "application/json"})
    assert "{" in server_message(response)
    assert fault_of_response(response) is not None


# -- prompts that are too long

TOO_LONG = {
    "vllm": (400, "This model's maximum context length is 512 tokens. However, your prompt contains 3100 input tokens"),
    "vllm, both": (
        400,
        "This model's maximum context length is 4096 tokens. However, you requested 5096 tokens (96 in the messages, "
        "5000 in the completion). Please reduce the length of the messages or completion.",
    ),
    "vllm, answer": (400, "max_tokens=600 cannot be greater than max_model_len=512. Please request fewer tokens."),
    "vllm, older": (400, "The decoder prompt (length 9000) is longer than the maximum model length of 4096."),
    "llama.cpp": (400, "request (3100 tokens) exceeds the available context size (1024 tokens), try increasing it"),
    "llama.cpp, older": (400, "the request exceeds the available context size. try increasing the context size"),
    "sglang": (400, "The input (9000 tokens) is longer than the model's context length (4096 tokens)."),
    "sglang, both": (400, "Requested token count exceeds the model's maximum context length of 4096 tokens."),
    "tgi, prompt": (422, "Input validation error: `inputs` must have less than 1024 tokens. Given: 2000"),
    "tgi, both": (422, "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 2048. Given: 9 and 2050"),
    "tei": (413, "Input validation error: `inputs` must have less than 512 tokens. Given: 600"),
    "openai": (
        400,
        "This model's maximum context length is 16385 tokens. However, your messages resulted in 20009 tokens. Please "
        "reduce the length of the messages.",
    ),
    "anthropic": (400, "prompt is too long: 210000 tokens > 200000 maximum"),
    "mistral": (
        400,
        "Prompt contains 40000 tokens and 0 draft tokens, too large for model with 32768 maximum context length",
    ),
    "gemini": (400, "The input token count (40000) exceeds the maximum number of tokens allowed (32768)."),
    "ollama": (400, "the input length exceeds the context length"),
}
NOT_TOO_LONG = {
    "stops": (400, "Invalid 'stop': array too long. Expected an array with maximum length 4, but got 5 instead."),
    "n": (400, "Field 'n': Value must be between 1 <= value <= 8, but got 12"),
    "top_logprobs": (400, "top_logprobs exceeds the maximum of 20"),
    "batch": (413, "batch size 64 > maximum allowed batch size 32"),
    "body": (413, "<html><head><title>413 Request Entity Too Large</title></head></html>"),
    "quota": (403, "too many tokens were used this month"),
    "seed": (400, "seed must have less than 20 digits"),
}


@pytest.mark.parametrize("server", TOO_LONG)
def test_a_prompt_that_is_too_long(server: str) -> None:
    status, said = TOO_LONG[server]
    for body in ({"error": {"message": said}}, {"error": said, "error_type": "validation"}, {"detail": said}, said):
        error = error_of_response(answer(status, body), ASKED)
        assert type(error) is ContextLengthError
        assert said in str(error)
        assert "max_new_tokens" in str(error)


@pytest.mark.parametrize("case", NOT_TOO_LONG)
def test_other_refusals_are_not_taken_for_it(case: str) -> None:
    status, said = NOT_TOO_LONG[case]
    assert isinstance(error_of_response(answer(status, said), ASKED), EndpointError)


# -- exceptions


@pytest.mark.parametrize(
    ("error", "kind", "becomes"),
    [
        (TimeoutError(), "slow", EndpointTimeoutError),
        (httpx.ReadTimeout(""), "silent", EndpointTimeoutError),
        (httpx.WriteTimeout(""), "silent", EndpointTimeoutError),
        (httpx.ConnectTimeout("slow"), "connect_timeout", EndpointConnectionError),
        (httpx.ConnectError("All connection attempts failed"), "refused", EndpointConnectionError),
        (httpx.RemoteProtocolError("peer closed connection"), "cut", EndpointConnectionError),
        (httpx.ReadError("reset"), "reset", EndpointConnectionError),
        (httpx.WriteError(""), "reset", EndpointConnectionError),
        (httpx.DecodingError("bad gzip"), "garbled", EndpointServerError),
        (httpx.ProxyError("502"), "reset", EndpointConnectionError),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_exception(error: Exception, kind: str, becomes: type[EndpointError]) -> None:
    fault = fault_of_exception(error)
    assert (fault.kind, fault.error, fault.status) == (kind, becomes, None)
    assert (fault.server_works, fault.permanent) == (False, False)
    assert not str(error) or becomes is EndpointTimeoutError or str(error) in fault.description
    assert not fault.description.rstrip(")").endswith((" ", ":")), "an exception without a text leaves no gap"


@pytest.mark.parametrize(
    ("number", "hopeless"), [(socket.EAI_NONAME, True), (socket.EAI_FAIL, True), (socket.EAI_AGAIN, False)]
)
def test_a_name_that_does_not_resolve_is_permanent_whatever_the_system_calls_it(number: int, hopeless: bool) -> None:
    try:
        try:
            raise socket.gaierror(number, "Der Name oder der Dienst ist nicht bekannt")
        except socket.gaierror as inner:
            raise httpx.ConnectError("keine Verbindung") from inner
    except httpx.ConnectError as error:
        fault = fault_of_exception(error)
    assert fault.kind == "refused"
    assert fault.permanent is hopeless
