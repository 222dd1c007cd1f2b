"""What goes wrong over the wire: which failures are worth another attempt, and what is said of those that are not."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
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


_NO_SUCH_HOST = re.compile(r"name or service|nodename|getaddrinfo|no address|name resolution", re.IGNORECASE)


def fault_of_exception(error: Exception) -> Fault:
    """Say what a transport error, or the end of an attempt's time, was."""
    detail = f"{type(error).__name__}{f': {error}' if str(error) else ''}"
    match error:
        case TimeoutError():
            return Fault("slow", "the answer was not complete in the time of one attempt", EndpointTimeoutError)
        case httpx.ConnectTimeout():
            return Fault("connect_timeout", "no connection in time", EndpointConnectionError)
        case httpx.TimeoutException():
            return Fault("silent", "no byte came in time", EndpointTimeoutError)
        case httpx.ConnectError():
            unknown = bool(
                re.search(r"name or service|nodename|getaddrinfo|no address|name resolution", str(error), re.I)
            )
            return Fault("refused", f"no connection ({detail})", EndpointConnectionError, hopeless=unknown)
        case httpx.RemoteProtocolError():
            return Fault("cut", f"the answer broke off ({detail})", EndpointConnectionError)
        case _:
            return Fault("reset", f"the connection broke ({detail})", EndpointConnectionError)


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
        data: Any = response.json()
    except (ValueError, UnicodeDecodeError):
        text = re.sub(r"<[^>]*>", " ", response.text)
        return _line(text) or "no explanation"
    for key in ("error", "detail", "message", "msg"):
        while isinstance(data, dict) and data.get(key):
            data = data[key]
    if isinstance(data, dict) and "message" in data:
        data = data["message"]
    return _line(data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)) or "no explanation"


def _line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 400 else f"{line[:400]} …"


_TOO_LONG = re.compile(
    r"context (?:length|size|window)|maximum (?:context|model|input)? ?length|max_model_len|max_seq_len|too many tokens"
    r"|must have less than \d+ tokens|longer than the (?:model|maximum)|exceeds? the (?:available|maximum|model)"
    r"|exceed_context_size|prompt is too long|input is too long|max_total_tokens|max_input_(?:length|tokens)",
    re.IGNORECASE,
)


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
    if status == 413 or (status in (400, 422) and _TOO_LONG.search(said)):
        return ContextLengthError(
            f"{asked} was refused ({status}) because prompt and answer do not fit into the model's context: {said}. "
            "Shorten the conversation, lower max_new_tokens, or use a model with a longer context"
        )
    advice = _ADVICE.get(status, _Advice(EndpointRequestError, "the server refuses the request as it is"))
    return advice.error(f"{asked} failed ({status}): {advice.text}. The server says: {said}", status=status)
