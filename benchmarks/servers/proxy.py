"""A proxy in front of a real server that spoils a known share of its answers, in a known order."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import struct
from collections import Counter
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from math import ceil
from threading import Event, Thread
from time import time
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

from benchmarks.servers.launch import free_port

__all__ = ["FAULTS", "FaultProxy"]

FAULTS = ("reset", "cut", "hang", "drip", "rate_limit", "unavailable", "half_json", "refused")
"""All kinds of faults, see :class:`FaultProxy`."""

T = TypeVar("T")
# They describe one connection, or how its bytes are framed, and are generated anew.
_HOP_BY_HOP = {"host", "connection", "keep-alive", "transfer-encoding", "content-length", "accept-encoding"}
_BUSY = {"error": {"message": "Rate limit reached", "type": "rate_limit_error", "code": "rate_limit_exceeded"}}
_AWAY = b"<html><head><title>503 Service Unavailable</title></head><body><h1>Service Unavailable</h1></body></html>"


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def keeps_alive(self) -> bool:
        return self.headers.get("connection", "").lower() != "close"


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    def head(self, length: int | None = None) -> bytes:
        """Status line and headers, which promise as many bytes as there are or a given number of them."""
        reason = HTTPStatus(self.status).phrase if self.status in HTTPStatus.__members__.values() else ""
        lines = [f"HTTP/1.1 {self.status} {reason}", *(f"{name}: {value}" for name, value in self.headers.items())]
        lines.append(f"content-length: {len(self.body) if length is None else length}")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


class FaultProxy:
    """A proxy for HTTP/1.1 in a thread of its own: ``with FaultProxy(server.url) as proxy: ... proxy.url ...``.

    Requests are numbered as they arrive. Among every ``len(faults) / share`` of them each kind of fault is met exactly
    once, at positions shuffled by the seed; the same requests in the same order get the same faults.

    * ``reset``: half of the true answer, then the connection is reset;
    * ``cut``: half of the true answer, then the connection is closed as if it were whole;
    * ``hang``: no answer, until the client gives up or ``hang_s`` is over;
    * ``drip``: the true answer, a byte each ``drip_s``: no timeout of a single read ever passes;
    * ``rate_limit``: 429 with ``Retry-After``, in turn as seconds and as a date;
    * ``unavailable``: 503 with a page of HTML;
    * ``half_json``: 200 with half of the true body and its right length;
    * ``refused``: the connection is reset before any answer, and for ``outage_s`` seconds no connection is accepted.

    Args:
        target_url: the server that answers.
        faults: the kinds to use.
        share: how many of the requests are spoiled; 0 for none.
        seed: shuffles the positions.
        delay: seconds before each answer.
        hang_s: the longest silence.
        drip_s: seconds before each byte of a drip.
        retry_after: what a 429 asks for, in seconds. (By the standard whole ones; a date is rounded up to them.)
        outage_s: seconds without new connections.
    """

    def __init__(
        self,
        target_url: str,
        *,
        faults: Sequence[str] = FAULTS,
        share: float = 0.2,
        seed: int = 0,
        delay: float = 0.0,
        hang_s: float = 60.0,
        drip_s: float = 0.05,
        retry_after: float = 1,
        outage_s: float = 0.05,
    ) -> None:
        if unknown := set(faults) - set(FAULTS):
            raise ValueError(f"unknown faults: {sorted(unknown)}")
        if not 0 <= share <= 1:
            raise ValueError(f"share must lie between 0 and 1, not {share}")
        target = urlsplit(target_url)
        self._target, self._faults, self._seed = (target.hostname, target.port), tuple(faults), seed
        self._period = max(round(len(faults) / share), len(faults)) if share and faults else 0
        self._delay, self._hang, self._drip = delay, hang_s, drip_s
        self._retry_after, self._outage = retry_after, outage_s
        self._port = free_port()
        self._counts: Counter[str] = Counter()
        self._requests = self._in_flight = self._peak = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._ready = Event()
        self._thread = Thread(target=lambda: asyncio.run(self._run()), name="fault proxy", daemon=True)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def requests(self) -> int:
        """Requests that arrived."""
        return self._requests

    @property
    def in_flight_peak(self) -> int:
        """The most requests that waited for their answers at a time."""
        return self._peak

    @property
    def counts(self) -> dict[str, int]:
        """Requests by what they met: a kind of fault, or ``clean``.

        Without a fault they may also be ``abandoned``, if the client went away before the answer. A request is also
        counted under ``bad_gateway`` if the server gave no answer to pass on.
        """
        return {kind: count for kind, count in self._counts.items() if count}

    def fault(self, number: int) -> str | None:
        """What the request of this number meets, counted from 0."""
        if not self._period:
            return None
        block, position = divmod(number, self._period)
        return _positions(self._seed, block, self._period, self._faults).get(position)

    def __enter__(self) -> Self:
        self._listener = self._listen()
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    async def _run(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._loop.add_reader(self._listener, self._accept)
        self._ready.set()
        await self._stop.wait()
        self._close_listener()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _listen(self) -> socket.socket:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self._port))
        listener.listen(1024)
        listener.setblocking(False)
        return listener

    def _accept(self) -> None:
        with suppress(BlockingIOError):
            while True:
                connection, _ = self._listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                task = self._loop.create_task(self._serve(connection))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    def _close_listener(self) -> None:
        if self._listener.fileno() >= 0:
            self._loop.remove_reader(self._listener)
            self._listener.close()

    def _go_away(self) -> None:
        """Accept no connections for a while. Open ones stay open."""
        if self._listener.fileno() < 0:
            return
        self._accept()  # the system would reset queued connections, uncounted
        self._close_listener()
        self._loop.call_later(self._outage, self._come_back)

    def _come_back(self) -> None:
        if not self._stop.is_set():
            self._listener = self._listen()
            self._loop.add_reader(self._listener, self._accept)

    async def _serve(self, connection: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=connection)
        try:
            while (request := await _read_request(reader)) is not None:
                if not await self._handle(request, reader, writer):
                    return
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def _handle(self, request: _Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; return whether the connection is still good."""
        fault = self.fault(self._requests)
        self._requests += 1
        self._in_flight += 1
        self._peak = max(self._peak, self._in_flight)
        if fault:
            self._counts[fault] += 1
        try:
            return await self._answer(fault, request, reader, writer)
        except _GoneError:
            self._counts["abandoned"] += not fault
            return False
        except _BadGatewayError:
            self._counts["bad_gateway"] += 1
            await _send(writer, _Answer(502, {"content-type": "text/plain"}, b"Bad Gateway"))
            return request.keeps_alive
        finally:
            self._in_flight -= 1

    async def _answer(
        self, fault: str | None, request: _Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        if fault == "refused":
            self._go_away()
            _reset(writer)
            return False
        if fault == "hang":
            await _unless_gone(reader, asyncio.sleep(self._hang))
            return False
        await _unless_gone(reader, asyncio.sleep(self._delay))
        if fault == "rate_limit":
            await _send(writer, self._busy())
        elif fault == "unavailable":
            await _send(writer, _Answer(503, {"content-type": "text/html"}, _AWAY))
        else:
            answer = await _unless_gone(reader, self._forward(request))
            if fault in ("reset", "cut"):
                await _send_half(writer, answer)
                if fault == "reset":
                    _reset(writer)
                return False
            if fault == "drip":
                await _unless_gone(reader, self._send_slowly(writer, answer))
            elif fault == "half_json":
                await _send(writer, _Answer(answer.status, answer.headers, answer.body[: len(answer.body) // 2]))
            else:
                self._counts["clean"] += 1  # before it is sent: who has the answer finds it counted
                await _send(writer, answer)
        return request.keeps_alive

    def _busy(self) -> _Answer:
        seconds = self._counts["rate_limit"] % 2 == 1
        wait = f"{self._retry_after:g}" if seconds else formatdate(ceil(time() + self._retry_after), usegmt=True)
        return _Answer(429, {"content-type": "application/json", "retry-after": wait}, json.dumps(_BUSY).encode())

    async def _forward(self, request: _Request) -> _Answer:
        """Ask the server on a connection of its own: one that was kept could turn out to be closed."""
        host, port = self._target
        headers = {name: value for name, value in request.headers.items() if name not in _HOP_BY_HOP}
        headers |= {"host": f"{host}:{port}", "connection": "close", "accept-encoding": "identity"}
        lines = [f"{request.method} {request.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        lines.append(f"content-length: {len(request.body)}")
        try:
            reader, writer = await asyncio.open_connection(host, port)
        except OSError as error:
            raise _BadGatewayError from error
        try:
            writer.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + request.body)
            return _parse_answer(await reader.read())
        except (OSError, ValueError) as error:
            raise _BadGatewayError from error
        finally:
            writer.close()

    async def _send_slowly(self, writer: asyncio.StreamWriter, answer: _Answer) -> None:
        for byte in answer.head() + answer.body:
            await asyncio.sleep(self._drip)
            writer.write(bytes([byte]))
            await writer.drain()


class _GoneError(ConnectionError):
    """The client gave up."""


class _BadGatewayError(Exception):
    """The server gave no whole answer."""


def _parse_answer(data: bytes) -> _Answer:
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = _headers(lines)
    if headers.get("transfer-encoding") == "chunked":
        body = _unchunked(body)
    elif (length := headers.get("content-length")) is not None and len(body) != int(length):
        raise ValueError(f"{len(body)} bytes instead of {length}")
    kept = {name: value for name, value in headers.items() if name not in _HOP_BY_HOP}
    return _Answer(int(first.split(" ")[1]), kept, body)


def _unchunked(body: bytes) -> bytes:
    parts, start = [], 0
    while True:
        end = body.index(b"\r\n", start)
        size = int(body[start:end].partition(b";")[0], 16)
        if not size:
            return b"".join(parts)
        parts.append(body[end + 2 : end + 2 + size])
        start = end + 2 + size + 2


def _headers(lines: Sequence[str]) -> dict[str, str]:
    return {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


@lru_cache(maxsize=256)
def _positions(seed: int, block: int, period: int, faults: tuple[str, ...]) -> dict[int, str]:
    """Where in a block which fault is met."""
    return dict(zip(random.Random(f"{seed}/{block}").sample(range(period), len(faults)), faults, strict=True))


async def _read_request(reader: asyncio.StreamReader) -> _Request | None:
    """The next request of a connection, or ``None`` at its end."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.decode("latin-1").split("\r\n")[:-2]
    method, path, _ = first.split(" ")
    headers = _headers(lines)
    if "transfer-encoding" in headers:
        raise NotImplementedError("the proxy reads only bodies of a known length")
    return _Request(method, path, headers, await reader.readexactly(int(headers.get("content-length", 0))))


async def _unless_gone(reader: asyncio.StreamReader, work: Coroutine[Any, Any, T]) -> T:
    """Do the work, and drop it as soon as the client is gone."""
    task = asyncio.ensure_future(work)
    try:
        while not (await asyncio.wait({task}, timeout=0.05))[0]:
            if reader.at_eof() or reader.exception():
                raise _GoneError
        return await task
    finally:
        task.cancel()


async def _send(writer: asyncio.StreamWriter, answer: _Answer) -> None:
    writer.write(answer.head() + answer.body)
    await writer.drain()


async def _send_half(writer: asyncio.StreamWriter, answer: _Answer) -> None:
    length = max(len(answer.body), 1)
    writer.write(answer.head(length) + answer.body[: length // 2])
    await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close at once with a reset: that is what no linger means."""
    connection: socket.socket = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
