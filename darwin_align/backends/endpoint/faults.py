"""Failures over HTTP: which are worth another attempt, and the errors for those that are not."""

from __future__ import annotations

import json
import re
import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from html import unescape
from typing import Any

import httpx

from darwin_align.core.errors import (
    ContextLengthError,
    DarwinError,
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

__all__ = ["Fault", "error_of_response", "fault_of_exception", "fault_of_response", "server_message"]


class Fault(Exception):  # noqa: N818 - it never leaves this package
    """A failed attempt that is worth another one."""

    def __init__(
        self,
        kind: str,
        description: str,
        error: type[EndpointError],
        *,
        status: int | None = None,
        retry_after: float = 0.0,
        server_works: bool = False,
        permanent: bool = False,
    ) -> None:
        super().__init__(description)
        self.kind, self.description, self.error, self.status = kind, description, error, status
        self.retry_after = retry_after
        """Seconds of the server's Retry-After."""
        self.server_works = server_works
        """Whether it is the reply of a working server, one that is merely busy."""
        self.permanent = permanent
        """Whether another attempt would almost certainly fail too: a host name that does not resolve."""
        self.retry_elsewhere = False
        """Whether there is another server that this call has not failed on lately."""


_KINDS: tuple[tuple[type[Exception], str, str, type[EndpointError]], ...] = (
    (TimeoutError, "slow", "the answer was not complete in the time of one attempt", EndpointTimeoutError),
    (httpx.ConnectTimeout, "connect_timeout", "no connection in time", EndpointConnectionError),
    (httpx.TimeoutException, "silent", "no byte came in time", EndpointTimeoutError),
    (httpx.ConnectError, "refused", "no connection", EndpointConnectionError),
    (httpx.DecodingError, "garbled", "the answer cannot be unpacked", EndpointServerError),
    (httpx.RemoteProtocolError, "cut", "the answer broke off", EndpointConnectionError),
    (Exception, "reset", "the connection broke", EndpointConnectionError),
)


def fault_of_exception(error: Exception) -> Fault:
    """Return the fault of a transport error or of a timeout."""
    _, kind, description, error_type = next(row for row in _KINDS if isinstance(error, row[0]))
    if str(error) and error_type is not EndpointTimeoutError:
        description = f"{description} ({type(error).__name__}: {error})"
    return Fault(kind, description, error_type, permanent=_is_unknown_name(error))


def _is_unknown_name(error: BaseException | None) -> bool:
    """Whether a name server reported that there is no such host, as opposed to one that cannot be reached."""
    while error is not None:
        if isinstance(error, socket.gaierror):
            return error.errno != socket.EAI_AGAIN
        error = error.__cause__ or error.__context__
    return False


def fault_of_response(response: httpx.Response) -> Fault | None:
    """Return the fault of a response that another attempt may change, or ``None``: see :func:`error_of_response`."""
    status = response.status_code
    wait = _retry_after(response)
    if status == 429:
        description = f"too many requests (429): {server_message(response)}"
        return Fault(
            "rate_limit", description, EndpointRateLimitError, status=status, retry_after=wait, server_works=True
        )
    if status in (408, 409, 425):
        description = f"status {status}: {server_message(response)}"
        return Fault("busy", description, EndpointServerError, status=status, retry_after=wait, server_works=True)
    if status >= 500 and status not in (501, 505):
        description = f"the server failed with status {status}: {server_message(response)}"
        return Fault("unavailable", description, EndpointServerError, status=status, retry_after=wait)
    return None


def _retry_after(response: httpx.Response) -> float:
    """Seconds of a Retry-After header: a number, or an HTTP date (RFC 9110, 10.2.3)."""
    value = response.headers.get("retry-after", "").strip()
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return 0.0


def server_message(response: httpx.Response) -> str:
    """The server's error message, in one line."""
    try:
        message = _message_in(response.json())
    except ValueError:
        message = unescape(re.sub(r"(?is)<(script|style)\b.*?(?:</\1\s*>|\Z)|<[^<>]*>", " ", response.text))
    return _one_line(message) or "no explanation"


def _message_in(data: Any) -> str:
    """The sentence in a JSON error: OpenAI's error object, FastAPI's detail, and their many relatives."""
    if isinstance(data, str):
        return data
    if isinstance(data, list):
        return "; ".join(filter(None, map(_message_in, data)))
    if not isinstance(data, dict):
        return "" if data is None else json.dumps(data)
    sentence = next(
        (_message_in(data[key]) for key in ("message", "detail", "error", "errors", "msg") if data.get(key)), ""
    )
    if sentence and isinstance(location := data.get("loc"), list):
        return f"{'.'.join(map(str, location))}: {sentence}"
    return sentence or (json.dumps(data, ensure_ascii=False) if data else "")


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 400 else f"{line[:400]} …"


_TOO_LONG = re.compile(
    r"context (?:length|size|window)|maximum (?:context|model|input|sequence) length|longer than the (?:model|maximum)"
    r"|(?:prompt|input) is too long|too many tokens|maximum number of tokens|must have less than \d+ tokens"
    r"|max_new_tokens\W* must be <=|max_(?:model_len|seq_len|total_tokens|input_length|input_tokens)",
    re.IGNORECASE,
)
"""Messages of servers (vLLM, llama.cpp, SGLang, TGI, OpenAI …) for a prompt, or a prompt and its answer, too long."""


@dataclass(frozen=True)
class _Advice:
    error: type[EndpointError]
    text: str


_ADVICE = {
    401: _Advice(EndpointAuthenticationError, "the key is missing or wrong: give api_key=…"),
    402: _Advice(EndpointPermissionError, "the account cannot pay for this request"),
    403: _Advice(EndpointPermissionError, "this key may not do that"),
    404: _Advice(EndpointNotFoundError, "no such path or model: check base_url and model"),
    500: _Advice(EndpointServerError, "that path does not work there"),
    405: _Advice(EndpointNotFoundError, "the server has no such call: check base_url and dialect"),
    413: _Advice(EndpointRequestError, "the request is too large: send shorter texts, or fewer at a time"),
}


def error_of_response(response: httpx.Response, call: str) -> DarwinError | None:
    """Return the error of a response that another attempt would not change, or ``None`` if it was successful.

    Args:
        response: the response.
        call: the method and the URL, e.g. ``"POST http://127.0.0.1:8000/v1/completions"``.
    """
    status = response.status_code
    if status < 300:
        return None
    if status < 400:
        return EndpointRequestError(
            f"{call} was redirected to {response.headers.get('location', 'nowhere')!r}: give that as base_url",
            status=status,
        )
    message = server_message(response)
    if status in (400, 413, 422) and _TOO_LONG.search(message):
        return ContextLengthError(
            f"{call} was refused ({status}) because prompt and answer do not fit into the model's context: {message}. "
            "Shorten the conversation, lower max_new_tokens, or use a model with a longer context"
        )
    advice = _ADVICE.get(status, _Advice(EndpointRequestError, "the server refuses the request as it is"))
    return advice.error(f"{call} failed ({status}): {advice.text}. The server says: {message}", status=status)
