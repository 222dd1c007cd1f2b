"""Middleware before the routes: requests are counted, their keys are checked, their bodies are bounded."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import uuid
from collections import Counter
from collections.abc import Collection, Sequence
from time import perf_counter

from pydantic import SecretStr
from pydantic_core import from_json
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .faults import Fault, draining, fault_of, refusal
from .metrics import Metrics
from .settings import host_name

__all__ = ["BoundedBody", "HostAllowed", "KeyRequired", "PacedReads", "Watched"]

logger = logging.getLogger(__name__)

_DRAIN_FACTOR = 16
"""A body up to so many times too long is read to its end and discarded: a client that is still sending when the
connection closes does not see the error."""
_LARGE = 1 << 16
"""Bytes of a body above which parsing blocks the event loop for more than a millisecond or two."""
_BYTES_A_SECOND = 1 << 22
"""Of one client's large bodies."""
_READS_A_SECOND = 20
"""GET requests of one client."""


class _RateLimiter:
    """Spreads the work of each client over time: what one sends beyond its pace waits, without delay for others."""

    def __init__(self) -> None:
        self._next: dict[str, float] = {}
        """When each client has its next turn, by the loop's clock."""

    async def turn(self, scope: Scope, seconds: float) -> None:
        """Wait for the turn of a request's client; its next one comes so many seconds later."""
        client, now = scope.get("state", {}).get("client", ""), asyncio.get_running_loop().time()
        turn = max(now, self._next.get(client, now))
        self._next[client] = turn + seconds
        if turn > now:
            await asyncio.sleep(turn - now)


class Watched:
    """Names requests, counts them, and answers errors that nothing else handled."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics, routes: Collection[str]) -> None:
        self.app, self.metrics, self.routes = app, metrics, routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id, status, began = f"req-{uuid.uuid4().hex}", 0, perf_counter()
        scope.setdefault("state", {})["request_id"] = request_id

        async def named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        try:
            await self.app(scope, receive, named)
        except asyncio.CancelledError:  # the server ends: a client that leaves cancels nothing here
            if status:
                raise
            await refusal(draining("the server ended before this request did"))(scope, receive, named)
        except Exception as error:  # nothing else can answer it
            if status:
                raise
            await refusal(fault_of(error, request_id))(scope, receive, named)
        finally:
            seconds = perf_counter() - began
            route = scope["path"] if scope["path"] in self.routes else "other"
            self.metrics.requests.labels(route, str(status or 499)).inc()
            self.metrics.seconds.labels(route).observe(seconds)
            logger.info("%s %s: %s in %.3f s, %s", scope["method"], route, status or "client left", seconds, request_id)


class HostAllowed:
    """Answers only requests that address the server by one of its names.

    A web page can have a name of its own resolve to 127.0.0.1 (DNS rebinding), and then reads what a server without a
    key answers. Its requests carry that name in the ``Host`` header.
    """

    def __init__(self, app: ASGIApp, *, names: Collection[str], free: Collection[str]) -> None:
        self.app, self.names, self.free = app, frozenset(names), frozenset(free)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it (421)."""
        if scope["type"] == "http" and scope["path"] not in self.free:
            given = Headers(scope=scope).getlist("host")
            if len(given) != 1 or host_name(given[0]) not in self.names:
                await refusal(self._fault(", ".join(given)))(scope, receive, send)
                return
        await self.app(scope, receive, send)

    @staticmethod
    def _fault(given: str) -> Fault:
        message = (
            f"this server does not answer to the host {given!r:.200}: use http://127.0.0.1 or localhost, or have "
            "its operator add the name to allowed_hosts"
        )
        return Fault(421, message, code="host_not_allowed")


class KeyRequired:
    """Accepts requests with a key. Digests are compared, all of them and in constant time.

    Args:
        app: the application.
        keys: any of them is accepted; without any, every request is.
        free: paths that need no key.
        most_each: requests of one key that may be open at the same time.
    """

    def __init__(self, app: ASGIApp, *, keys: Sequence[SecretStr], free: Collection[str], most_each: int) -> None:
        self.app, self.free, self.most_each = app, free, most_each
        self._digests = [_digest(key.get_secret_value().encode()) for key in keys]
        self._open: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it (401, 429)."""
        if scope["type"] != "http" or not self._digests or scope["path"] in self.free:
            await self.app(scope, receive, send)
            return
        if (client := self._client(Headers(scope=scope))) is None:
            await refusal(self._unknown())(scope, receive, send)
        elif self._open[client] >= self.most_each:
            await refusal(self._too_many())(scope, receive, send)
        else:
            scope.setdefault("state", {})["client"] = client
            self._open[client] += 1
            try:
                await self.app(scope, receive, send)
            finally:
                self._open[client] -= 1

    def _client(self, headers: Headers) -> str | None:
        """The index of the request's key among the accepted ones."""
        scheme, _, key = headers.get("authorization", "").partition(" ")
        given = _digest(key.strip().encode())
        found = [hmac.compare_digest(given, known) for known in self._digests]
        return str(found.index(True)) if scheme.lower() == "bearer" and any(found) else None

    @staticmethod
    def _unknown() -> Fault:
        return Fault(
            401,
            "a valid API key is needed: send it as 'Authorization: Bearer KEY'",
            kind="authentication_error",
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )

    def _too_many(self) -> Fault:
        return Fault(
            429,
            f"{self.most_each} requests of this API key are open already: end some first",
            kind="rate_limit_error",
            code="rate_limit_exceeded",
            headers={"Retry-After": "1"},
        )


def _digest(text: bytes) -> bytes:
    return hashlib.sha256(text).digest()


class PacedReads:
    """Spreads the GET requests of a client over time: hundreds in one packet would else keep the event loop busy.

    Args:
        app: the application.
        free: paths that are answered at once.
    """

    def __init__(self, app: ASGIApp, *, free: Collection[str]) -> None:
        self.app, self.free, self._limiter = app, free, _RateLimiter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on when it is its client's turn."""
        if scope["type"] == "http" and scope["method"] != "POST" and scope["path"] not in self.free:
            await self._limiter.turn(scope, 1 / _READS_A_SECOND)
        await self.app(scope, receive, send)


class BoundedBody:
    """Reads a body before its route runs: strict JSON, not too large, and within a time."""

    def __init__(self, app: ASGIApp, *, most: int, seconds: float) -> None:
        self.app, self.most, self.seconds = app, most, seconds
        self._limiter = _RateLimiter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it (400, 408, 413, 415)."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        try:
            body = await self._read_in_time(Headers(scope=scope), receive)
            if len(body) >= _LARGE:
                await self._limiter.turn(scope, len(body) / _BYTES_A_SECOND)
            _check_json(body)
        except ClientDisconnect:
            return
        except Fault as fault:
            await refusal(fault)(scope, receive, send)
            return
        sent = False

        async def replay() -> Message:
            nonlocal sent
            if sent:
                return await receive()
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, replay, send)

    async def _read_in_time(self, headers: Headers, receive: Receive) -> bytes:
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise Fault(415, f"the body is of type {kind!r:.80}: send application/json")
        try:
            async with asyncio.timeout(self.seconds):
                body = await self._read(headers, receive)
        except TimeoutError:
            message = f"the body did not arrive within {self.seconds:g} s"
            raise Fault(408, message, kind="timeout_error", headers={"Connection": "close"}) from None
        return body

    async def _read(self, headers: Headers, receive: Receive) -> bytes:
        declared = headers.get("content-length", "0")
        if declared.isdecimal() and int(declared[:20]) > self.most * _DRAIN_FACTOR:
            raise self._too_large()
        body, size, more = bytearray(), 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            size += len(message.get("body", b""))
            if size > self.most * _DRAIN_FACTOR:
                break
            if size <= self.most:
                body += message.get("body", b"")
            more = message.get("more_body", False)
        if size > self.most:
            raise self._too_large()
        return bytes(body)

    def _too_large(self) -> Fault:
        message = f"the body is larger than this server takes: {self.most} bytes at most"
        return Fault(413, message, code="request_too_large", headers={"Connection": "close"})


def _check_json(body: bytes) -> None:
    try:
        from_json(body, allow_inf_nan=False, cache_strings="none")
    except ValueError as error:
        raise Fault(400, f"the body is no JSON: {error}") from None
