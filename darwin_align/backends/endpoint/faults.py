"""What goes wrong over the wire: which failures are worth another attempt, and what is said of those that are not."""

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

__all__ = ["Fault", "explained", "fault_of_answer", "fault_of_exception", "server_message"]


class Fault(Exception):  # noqa: N818 - it never leaves this package
    """A failed attempt that is worth another one."""

    def __init__(
        self,
        kind: str,
        about: str,
        error: type[EndpointError],
        *,
        status: int | None = None,
        retry_after: float = 0.0,
        alive: bool = False,
        hopeless: bool = False,
    ) -> None:
        super().__init__(about)
        self.kind, self.about, self.error, self.status = kind, about, error, status
        self.retry_after = retry_after
        """Seconds that the server asked for."""
        self.alive = alive
        """Whether it shows a server that works: one that is merely busy."""
        self.hopeless = hopeless
        """Whether another attempt is nearly sure to fail likewise: a name that nobody knows."""
        self.elsewhere = False
        """Whether another server is there that this call has not failed on lately."""


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
    """Say what a transport error, or the end of an attempt's time, was."""
    _, kind, about, becomes = next(row for row in _KINDS if isinstance(error, row[0]))
    if str(error) and becomes is not EndpointTimeoutError:
        about = f"{about} ({type(error).__name__}: {error})"
    return Fault(kind, about, becomes, hopeless=_is_unknown_name(error))


def _is_unknown_name(error: BaseException | None) -> bool:
    """Whether a name server says that there is no such host; one that is merely out of reach does not say so."""
    while error is not None:
        if isinstance(error, socket.gaierror):
            return error.errno != socket.EAI_AGAIN
        error = error.__cause__ or error.__context__
    return False


def fault_of_answer(response: httpx.Response) -> Fault | None:
    """Return what is wrong with an answer and may pass, or ``None``: the rest is for :func:`explained`."""
    status = response.status_code
    wait = _retry_after(response)
    if status == 429:
        about = f"too many requests (429): {server_message(response)}"
        return Fault("rate_limit", about, EndpointRateLimitError, status=status, retry_after=wait, alive=True)
    if status in (408, 409, 425):
        about = f"status {status}: {server_message(response)}"
        return Fault("busy", about, EndpointServerError, status=status, retry_after=wait, alive=True)
    if status >= 500 and status not in (501, 505):
        about = f"the server failed with status {status}: {server_message(response)}"
        return Fault("unavailable", about, EndpointServerError, status=status, retry_after=wait)
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
    """What the server says of its error, in one line."""
    try:
        said = _said(response.json())
    except ValueError:
        said = unescape(re.sub(r"(?is)<(script|style)\b.*?(?:</\1\s*>|\Z)|<[^<>]*>", " ", response.text))
    return _line(said) or "no explanation"


def _said(data: Any) -> str:
    """The sentence in a JSON error: OpenAI's error object, FastAPI's detail, and their many relatives."""
    if isinstance(data, str):
        return data
    if isinstance(data, list):
        return "; ".join(filter(None, map(_said, data)))
    if not isinstance(data, dict):
        return "" if data is None else json.dumps(data)
    sentence = next((_said(data[key]) for key in ("message", "detail", "error", "errors", "msg") if data.get(key)), "")
    if sentence and isinstance(place := data.get("loc"), list):
        return f"{'.'.join(map(str, place))}: {sentence}"
    return sentence or (json.dumps(data, ensure_ascii=False) if data else "")


def _line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 400 else f"{line[:400]} …"


_TOO_LONG = re.compile(
    r"context (?:length|size|window)|maximum (?:context|model|input|sequence) length|longer than the (?:model|maximum)"
    r"|(?:prompt|input) is too long|too many tokens|maximum number of tokens|must have less than \d+ tokens"
    r"|max_new_tokens\W* must be <=|max_(?:model_len|seq_len|total_tokens|input_length|input_tokens)",
    re.IGNORECASE,
)
"""How servers say that a prompt, or a prompt and its answer, is too long (vLLM, llama.cpp, SGLang, TGI, OpenAI …)."""


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


def explained(response: httpx.Response, asked: str) -> DarwinError | None:
    """Return the error for an answer that is none and that asking again would not change.

    Args:
        response: the answer.
        asked: what was asked of whom, e.g. ``"POST http://127.0.0.1:8000/v1/completions"``.
    """
    status = response.status_code
    if status < 300:
        return None
    if status < 400:
        return EndpointRequestError(
            f"{asked} was redirected to {response.headers.get('location', 'nowhere')!r}: give that as base_url",
            status=status,
        )
    said = server_message(response)
    if status in (400, 413, 422) and _TOO_LONG.search(said):
        return ContextLengthError(
            f"{asked} was refused ({status}) because prompt and answer do not fit into the model's context: {said}. "
            "Shorten the conversation, lower max_new_tokens, or use a model with a longer context"
        )
    advice = _ADVICE.get(status, _Advice(EndpointRequestError, "the server refuses the request as it is"))
    return advice.error(f"{asked} failed ({status}): {advice.text}. The server says: {said}", status=status)
