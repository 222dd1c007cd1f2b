"""An endpoint: one role's servers, asked patiently: retries, deadlines, breakers, failover, one bounded limit."""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from math import inf
from time import monotonic
from typing import Any, TypeVar

import httpx
from pydantic import Field, SecretStr
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from darwin_align.backends.endpoint.breaker import Breaker
from darwin_align.backends.endpoint.faults import Fault, explained, fault_of_answer, fault_of_exception
from darwin_align.backends.endpoint.pool import borrowed_client
from darwin_align.core.errors import ConfigError, DarwinError, EndpointServerError, EndpointTimeoutError
from darwin_align.core.record import Settings

__all__ = ["Endpoint", "Limits", "Reply", "gathered"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

_KEYS = {
    "openrouter.ai": "OPENROUTER_API_KEY",
    "api.mistral.ai": "MISTRAL_API_KEY",
    "api.deepseek.com": "DEEPSEEK_API_KEY",
    "api.together.xyz": "TOGETHER_API_KEY",
    "api.together.ai": "TOGETHER_API_KEY",
    "api.openai.com": "OPENAI_API_KEY",
    "integrate.api.nvidia.com": "NVIDIA_API_KEY",
    "api-inference.huggingface.co": "HF_TOKEN",
    "router.huggingface.co": "HF_TOKEN",
}
"""Where a provider's customary variable is read. It is sent to that provider only; ``DARWIN_ALIGN_API_KEY`` to any."""

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CALLS = (
    "/chat/completions",
    "/completions",
    "/completion",
    "/models",
    "/generate",
    "/embeddings",
    "/classify",
    "/pooling",
    "/score",
    "/rerank",
    "/predict",
    "/get_reward",
)
"""Calls that people copy from documentation together with the address."""
_HIGHEST_PORT = 65535
_SHORTEST_SECRET = 6
"""Shorter values of headers are no keys: to strike them out of messages would only garble these."""
_FIRST_CONTACT = 4
"""Attempts on a server that refuses connections and never answered yet: most often its address is wrong."""


class Limits(Settings):
    """How much is asked of a server at once, and how patiently.

    >>> Limits(attempts=3).concurrency
    32
    """

    concurrency: int = Field(32, gt=0)
    """Requests in flight at most, of all searches together."""
    attempts: int = Field(8, gt=0)
    """Times that one call is tried."""
    deadline: float = Field(600.0, gt=0)
    """Seconds for one call, with all its attempts and waits; waiting for a place among ``concurrency`` apart. So long
    may a server be away in the middle of a search."""
    attempt_timeout: float = Field(180.0, gt=0)
    """Seconds for one attempt, from the first byte sent to the last one read: an answer that drips in ends here."""
    read_timeout: float = Field(120.0, gt=0)
    """Seconds without any byte. A server is silent while it decodes a chunk, so this is no small number."""
    connect_timeout: float = Field(5.0, gt=0)
    """Seconds for a connection."""
    backoff: float = Field(0.25, ge=0)
    """Seconds that the first wait between attempts lasts at most; it doubles each time, and is drawn from 0 up."""
    max_backoff: float = Field(10.0, ge=0)
    """Seconds that such a wait lasts at most. What a server asks for by ``Retry-After`` is waited in addition."""
    breaker_failures: int = Field(10, gt=0)
    """Failures in a row after which a server is left alone."""
    breaker_pause: float = Field(5.0, gt=0)
    """Seconds for which it is; twice as long each time, a minute at most."""


@dataclass(frozen=True)
class Reply:
    """A JSON answer."""

    data: Any
    headers: Mapping[str, str]
    url: str
    """Base URL of the server that gave it."""


class _KeyAuth(httpx.Auth):
    """Writes the key into the request and nowhere else."""

    def __init__(self, key: SecretStr | None, headers: Mapping[str, SecretStr]) -> None:
        self._key, self._headers = key, headers

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        if self._key is not None and self._key.get_secret_value():
            request.headers["Authorization"] = f"Bearer {self._key.get_secret_value()}"
        for name, value in self._headers.items():
            request.headers[name] = value.get_secret_value()
        yield request


@dataclass(eq=False)
class _Host:
    """One base URL."""

    root: str
    breaker: Breaker
    in_flight: int = 0
    answered: bool = False
    unknown: bool = False
    """Whether nobody knows its name."""

    def lives(self) -> None:
        """It answered."""
        self.answered, self.unknown = True, False
        self.breaker.succeeded()


@dataclass
class _Live:
    """What belongs to one event loop."""

    loop: asyncio.AbstractEventLoop
    places: asyncio.Semaphore
    lock: asyncio.Lock
    hosts: list[_Host]

    def ready(self) -> list[_Host]:
        """The hosts that may be asked now."""
        return [host for host in self.hosts if host.breaker.ready_in(monotonic()) == 0]


@dataclass
class _Call:
    """One call and its attempts."""

    method: str
    path: str
    body: Any
    deadline: asyncio.Timeout = field(default_factory=lambda: asyncio.timeout(None))
    attempts: int = 0
    failed: list[tuple[_Host, Fault]] = field(default_factory=list)
    tried: list[_Host] = field(default_factory=list)
    """The servers that it failed on since it last waited."""

    def left(self, now: float) -> float:
        """Seconds until its deadline."""
        return inf if (when := self.deadline.when()) is None else when - now


class Endpoint:
    """Base URLs that serve one role, and how they are asked.

    Several base URLs share the calls: each goes to the one with the fewest in flight, and a failed one is tried at the
    next. All searches that use the object share its limit. It may be used from any thread and loop through the
    operators; copies after a fork and pickles start anew. A pickle holds the key.

    Args:
        base_url: ``http://host:port``, with or without ``/v1``; or several of them.
        api_key: sent as a bearer token, unless it is empty. ``None`` reads the provider's own variable for its own
            host by https, else ``DARWIN_ALIGN_API_KEY``.
        headers: further headers; their values are kept as secrets.
        limits: how much, how patiently.
        exact: whether a base URL is itself what is called. Otherwise the name of a call at its end, such as
            ``/v1/chat/completions``, is cut off, and the log says so.

    Raises:
        ConfigError: a base URL, a key or a header cannot be used.

    >>> Endpoint("http://127.0.0.1:8000/v1", api_key="secret")
    Endpoint('http://127.0.0.1:8000')
    """

    def __init__(
        self,
        base_url: str | Sequence[str],
        *,
        api_key: str | SecretStr | None = None,
        headers: Mapping[str, str | SecretStr] | None = None,
        limits: Limits | None = None,
        exact: bool = False,
    ) -> None:
        urls = [base_url] if isinstance(base_url, str) else list(base_url)
        if not urls:
            raise ConfigError("base_url is empty: give the server's address, e.g. 'http://127.0.0.1:8000'")
        self.roots = tuple(dict.fromkeys(_root(url, exact=exact) for url in urls))
        self.limits = limits or Limits()
        self._key = _secret(api_key, "api_key") if api_key is not None else _key_from_environment(self.roots)
        self._headers = {_header(name): _secret(value, f"header {name}") for name, value in (headers or {}).items()}
        self._live: _Live | None = None
        self._turn = count()
        self.counts: Counter[str] = Counter()
        """What happened so far: "requests", "answers", and failed attempts by kind."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.roots))})"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_live": None, "_turn": count(), "counts": Counter()}

    @property
    def host(self) -> str:
        """Host name of the first base URL."""
        return httpx.URL(self.roots[0]).host

    async def get(self, path: str) -> Reply:
        """Ask by GET; see :meth:`post`. A status of 500 is taken for an answer here: the path does not work there."""
        return await self._called(_Call("GET", path, None))

    async def post(self, path: str, body: Mapping[str, Any]) -> Reply:
        """Post JSON and return the JSON that comes back. To be awaited on the portal's loop.

        Args:
            path: behind the base URL without its ``/v1``, e.g. ``"/v1/completions"``.
            body: what is sent.

        Raises:
            EndpointError: the subclass says what is wrong: refused, or failed for good.
            ContextLengthError: the server says that the prompt is too long.
        """
        return await self._called(_Call("POST", path, body))

    def lock(self) -> asyncio.Lock:
        """For what is to be found out about the servers once. To be used on the portal's loop."""
        return self._on_this_loop().lock

    async def _called(self, call: _Call) -> Reply:
        live = self._on_this_loop()
        retrying = AsyncRetrying(
            stop=stop_after_attempt(self.limits.attempts),
            wait=_Wait(self.limits),
            retry=retry_if_exception_type(Fault),
            before_sleep=_logged,
            reraise=True,
        )
        try:
            async with asyncio.timeout(self.limits.deadline) as call.deadline:
                return await retrying(self._attempt, live, call)
        except Fault as fault:
            raise self._for_good(call, fault) from fault.__cause__
        except TimeoutError as error:
            if not call.deadline.expired():
                raise
            raise self._late(call) from error

    async def _attempt(self, live: _Live, call: _Call) -> Reply:
        while True:
            # No place is held meanwhile: all that wait for a server that is away give up in time, not in turns.
            while not live.ready():
                await asyncio.sleep(min(host.breaker.ready_in(monotonic()) for host in live.hosts) + 0.001)
            async with self._place(live, call):
                if ready := live.ready():
                    return await self._ask(live, self._chosen(ready, call), call)

    async def _ask(self, live: _Live, host: _Host, call: _Call) -> Reply:
        number = host.breaker.begin()
        host.in_flight += 1
        call.attempts += 1
        self.counts["requests"] += 1
        try:
            reply = await self._asked(host, call)
        except Fault as fault:
            self._note_fault(live, host, call, fault, number)
            raise
        except DarwinError:
            host.lives()  # it answered: the request is what it does not like
            raise
        except BaseException:
            host.breaker.abandoned(number)
            raise
        finally:
            host.in_flight -= 1
        host.lives()
        self.counts["answers"] += 1
        return reply

    @asynccontextmanager
    async def _place(self, live: _Live, call: _Call) -> AsyncIterator[None]:
        """A place among the requests in flight. The deadline stands still while others hold them all."""
        left = call.left(live.loop.time())
        call.deadline.reschedule(None)
        async with live.places:
            call.deadline.reschedule(live.loop.time() + left)
            yield

    async def _asked(self, host: _Host, call: _Call) -> Reply:
        asked = f"{call.method} {host.root}{call.path}"
        response = await self._answer(host, call)
        if response.is_success:
            with suppress(ValueError):
                return Reply(response.json(), response.headers, host.root)
        response = self._without_secrets(response)
        if call.method == "GET" and response.is_success and "html" in response.headers.get("content-type", ""):
            # A page for people, at a path that is no call: asking again would not change that.
            raise EndpointServerError(f"{asked} is a web page: is base_url right?", status=response.status_code)
        broken_path = call.method == "GET" and response.status_code == httpx.codes.INTERNAL_SERVER_ERROR
        if not broken_path and (fault := fault_of_answer(response)):
            raise fault
        if refusal := explained(response, asked):
            raise refusal
        kind = response.headers.get("content-type", "no content type")
        about = f"status {response.status_code}, but the body is no JSON ({kind}): {response.text[:80]!r}"
        raise Fault("no_json", about, EndpointServerError, status=response.status_code)

    async def _answer(self, host: _Host, call: _Call) -> httpx.Response:
        limits, url = self.limits, host.root + call.path
        timeout = httpx.Timeout(limits.read_timeout, connect=limits.connect_timeout, pool=None)
        auth = _KeyAuth(self._key, self._headers)
        try:
            with borrowed_client(host.root) as client:
                async with asyncio.timeout(limits.attempt_timeout):
                    return await client.request(call.method, url, json=call.body, timeout=timeout, auth=auth)
        except (httpx.RequestError, TimeoutError) as error:
            raise fault_of_exception(error) from error

    def _chosen(self, ready: Sequence[_Host], call: _Call) -> _Host:
        """The server to ask now: one that this call has not failed on lately, with the fewest requests in flight."""
        turn, last = next(self._turn), call.failed[-1][0] if call.failed else None
        order = [ready[(turn + i) % len(ready)] for i in range(len(ready))]
        return min(order, key=lambda host: (host in call.tried, host is last, host.in_flight))

    def _note_fault(self, live: _Live, host: _Host, call: _Call, fault: Fault, number: int) -> None:
        self.counts[fault.kind] += 1
        call.failed.append((host, fault))
        call.tried.append(host)
        host.unknown = fault.hopeless and not host.answered
        if fault.alive:
            host.lives()
        elif host.breaker.failed(number, monotonic()):
            logger.warning("%s fails and is left alone for a while: %s", host.root, fault.about)
        fault.elsewhere = any(other not in call.tried for other in live.ready())
        if not fault.elsewhere:
            call.tried.clear()
            self._check_hope(live, call, fault)

    def _check_hope(self, live: _Live, call: _Call, fault: Fault) -> None:
        """Give up early where another attempt would not help."""
        never = not any(host.answered for host, _ in call.failed)
        if all(host.unknown for host in live.hosts):
            raise self._for_good(call, fault) from fault.__cause__
        if fault.kind in ("refused", "connect_timeout") and never and call.attempts >= _FIRST_CONTACT:
            raise self._for_good(call, fault) from fault.__cause__
        if call.attempts < self.limits.attempts and fault.retry_after > max(call.left(live.loop.time()), 0.0):
            fault.about += (
                f" (asked to come back in {fault.retry_after:.0f} s, which is behind the deadline of "
                f"{self.limits.deadline:g} s for one call)"
            )
            raise self._for_good(call, fault) from fault.__cause__

    def _for_good(self, call: _Call, fault: Fault) -> DarwinError:
        host, _ = call.failed[-1]
        tried = f"after {call.attempts} attempts" if call.attempts > 1 else "at the first attempt"
        advice = "" if fault.alive or host.answered else ". Is base_url right, and does the server run?"
        asked = f"{call.method} {host.root}{call.path}"
        return fault.error(f"{asked} failed {tried}: {fault.about}{advice}", status=fault.status)

    def _late(self, call: _Call) -> DarwinError:
        where, last = self.roots[0], ""
        if call.failed:
            host, fault = call.failed[-1]
            where, last = host.root, f", the last that failed: {fault.about}"
        return EndpointTimeoutError(
            f"{call.method} {where}{call.path} was not answered within the deadline of {self.limits.deadline:g} s "
            f"({call.attempts} attempts{last}): raise Limits(deadline=…), or look after the server"
        )

    def _without_secrets(self, response: httpx.Response) -> httpx.Response:
        """An answer to be spoken of: some servers repeat the key that they were sent."""
        values = [secret.get_secret_value() for secret in (self._key, *self._headers.values()) if secret is not None]
        # The longest first: one may hold another.
        secrets = sorted((value for value in values if len(value) >= _SHORTEST_SECRET), key=len, reverse=True)

        def hidden(text: str) -> str:
            for secret in secrets:
                text = text.replace(secret, "***")
            return text

        kept = [name for name in ("content-type", "retry-after", "location") if name in response.headers]
        return httpx.Response(
            response.status_code,
            headers={name: hidden(response.headers[name]) for name in kept},
            content=hidden(response.text).encode(response.encoding or "utf-8", "replace"),
        )

    def _on_this_loop(self) -> _Live:
        loop = asyncio.get_running_loop()
        if self._live is None or self._live.loop is not loop:
            limits = self.limits
            hosts = [_Host(root, Breaker(limits.breaker_failures, limits.breaker_pause)) for root in self.roots]
            self._live = _Live(loop, asyncio.Semaphore(limits.concurrency), asyncio.Lock(), hosts)
        return self._live


class _Wait:
    """How long to wait after a failed attempt: not at all while another server is untried, else with jitter."""

    def __init__(self, limits: Limits) -> None:
        self._jitter = wait_random_exponential(multiplier=limits.backoff, max=limits.max_backoff)

    def __call__(self, state: RetryCallState) -> float:
        fault = state.outcome.exception() if state.outcome else None
        if not isinstance(fault, Fault):
            return 0.0
        return 0.0 if fault.elsewhere else fault.retry_after + float(self._jitter(state))


def _logged(state: RetryCallState) -> None:
    fault = state.outcome.exception() if state.outcome else None
    logger.info("attempt %d failed (%s): trying again in %.2f s", state.attempt_number, fault, state.upcoming_sleep)


async def gathered(coroutines: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Await all at once, in order; the first error cancels the others and is raised as it is."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


def _secret(value: str | SecretStr, name: str) -> SecretStr:
    secret = value if isinstance(value, SecretStr) else SecretStr(value)
    plain = secret.get_secret_value()
    if not (plain.isascii() and plain.isprintable() and plain == plain.strip()):
        raise ConfigError(f"{name} holds something that no header can, perhaps a line end or a space around it")
    return secret


def _header(name: str) -> str:
    if not _HEADER_NAME.fullmatch(name):
        raise ConfigError(f"{name!r:.80} is no name for a header")
    return name


def _root(url: str, *, exact: bool) -> str:
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, TypeError):
        raise ConfigError(f"{_shown(url)} is no URL: give e.g. 'http://127.0.0.1:8000'") from None
    if parsed.scheme not in ("http", "https") or not parsed.host or (parsed.port or 0) > _HIGHEST_PORT:
        raise ConfigError(f"{_shown(url)} is no web address: give e.g. 'http://127.0.0.1:8000'")
    if parsed.userinfo or parsed.query or parsed.fragment:
        raise ConfigError("a base_url holds an address only: give keys as api_key=… or headers=…")
    root = url.rstrip("/")
    if not exact and (call := next((call for call in _CALLS if parsed.path.rstrip("/").endswith(call)), None)):
        root = root.removesuffix(call).removesuffix("/v1").rstrip("/")
        logger.warning("base_url=%r ends with the name of a call: %r is taken for the server's address", url, root)
    return root.removesuffix("/v1")


def _shown(url: object) -> str:
    """A URL that cannot be used, unless it may hold a password."""
    return "base_url" if {*"@?#"} & {*str(url)} else f"base_url={url!r:.80}"


def _key_from_environment(roots: Sequence[str]) -> SecretStr | None:
    urls = {(url.scheme, url.host) for url in map(httpx.URL, roots)}
    scheme, host = urls.pop() if len(urls) == 1 else ("", "")
    own = _KEYS.get(host, "") if scheme == "https" else ""
    return next((_secret(key, name) for name in (own, "DARWIN_ALIGN_API_KEY") if (key := os.environ.get(name))), None)
