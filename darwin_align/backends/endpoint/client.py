"""An endpoint: the servers of one role, with retries, deadlines, circuit breakers, failover and a concurrency limit."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import count
from math import inf
from time import monotonic
from typing import Any, TypeVar

import httpx
from pydantic import SecretStr
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from darwin_align.backends.endpoint.addresses import base_url_of, header_name, key_from_environment, secret_of
from darwin_align.backends.endpoint.breaker import Breaker
from darwin_align.backends.endpoint.faults import Fault, error_of_response, fault_of_exception, fault_of_response
from darwin_align.backends.endpoint.limits import Limits
from darwin_align.backends.endpoint.pool import borrowed_client
from darwin_align.backends.endpoint.rendezvous import score
from darwin_align.core.errors import (
    ConfigError,
    DarwinError,
    EndpointAuthenticationError,
    EndpointError,
    EndpointServerError,
    EndpointTimeoutError,
)
from darwin_align.core.json_types import Json
from darwin_align.operators.observers import Attempt, CallObserver, observed_call

__all__ = ["Endpoint", "Reply", "gather_all"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

_SHORTEST_SECRET = 6
"""Shorter header values are no keys, and removing them from messages would make these unreadable."""
_REFUSED = frozenset({401, 403})
_AWAY = frozenset({502, 503, 504})
"""Statuses of a gateway without its server, and of a server that is not ready."""
_MAX_ATTEMPTS_UNSEEN_HOST = 4
"""Attempts on a server that refuses connections and has never replied: its address is probably wrong."""


@dataclass(frozen=True)
class Reply:
    """A JSON reply."""

    data: Json
    headers: Mapping[str, str]
    url: str
    """Base URL of the server that sent it."""
    status: int = 200


class _KeyAuth(httpx.Auth):
    """Adds the key and the secret headers to a request, so that they are stored nowhere else."""

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
    has_replied: bool = False
    unresolvable: bool = False
    """Whether its host name does not resolve."""

    def mark_working(self) -> None:
        """Note a reply."""
        self.has_replied, self.unresolvable = True, False
        self.breaker.succeeded()


@dataclass
class _LoopState:
    """The state that belongs to one event loop."""

    loop: asyncio.AbstractEventLoop
    slots: asyncio.Semaphore
    lock: asyncio.Lock
    hosts: list[_Host]

    def ready(self) -> list[_Host]:
        """The hosts that may get a request now."""
        return [host for host in self.hosts if host.breaker.ready_in(monotonic()) == 0]


@dataclass
class _Call:
    """One call and its attempts."""

    method: str
    path: str
    body: Json
    prefix: int | None = None
    deadline: asyncio.Timeout = field(default_factory=lambda: asyncio.timeout(None))
    attempts: int = 0
    observer: CallObserver = field(default_factory=CallObserver)
    failed: list[tuple[_Host, Fault]] = field(default_factory=list)
    tried: list[_Host] = field(default_factory=list)
    """The servers that it failed on since it last waited."""

    def left(self, now: float) -> float:
        """Seconds until its deadline."""
        return inf if (when := self.deadline.when()) is None else when - now


class Endpoint:
    """The base URLs of one role, and how they are called.

    Several base URLs share the calls: those that share a prefix go to the same one
    (:mod:`~darwin_align.backends.endpoint.rendezvous`), all others to the one with the fewest in flight, and after a
    failure to another one. All searches that use the object share its limit. It may be used from any thread and loop
    through the operators; copies after a fork and pickles start with no state. A pickle contains the key.

    Args:
        base_url: ``http://host:port``, with or without ``/v1``; or several of them.
        role: "policy", "reward" or "judge": observers report it.
        api_key: sent as a bearer token, unless it is empty. ``None`` reads the provider's own variable for its own
            host by https, else ``DARWIN_ALIGN_API_KEY``.
        headers: further headers; their values are secrets.
        limits: concurrency, attempts and timeouts.
        exact: whether a base URL is itself the address of the calls. Otherwise a path of a call at its end, such as
            ``/v1/chat/completions``, is removed with a warning.

    Raises:
        ConfigError: a base URL, a key or a header cannot be used.

    >>> Endpoint("http://127.0.0.1:8000/v1", api_key="secret")
    Endpoint('http://127.0.0.1:8000')
    """

    def __init__(
        self,
        base_url: str | Sequence[str],
        *,
        role: str = "policy",
        api_key: str | SecretStr | None = None,
        headers: Mapping[str, str | SecretStr] | None = None,
        limits: Limits | None = None,
        exact: bool = False,
    ) -> None:
        urls = [base_url] if isinstance(base_url, str) else list(base_url)
        if not urls:
            raise ConfigError("base_url is empty: give the server's address, e.g. 'http://127.0.0.1:8000'")
        self.roots = tuple(dict.fromkeys(base_url_of(url, exact=exact) for url in urls))
        self.role, self.limits = role, limits or Limits()
        self._key = secret_of(api_key, "api_key") if api_key is not None else key_from_environment(self.roots)
        self._headers = {
            header_name(name): secret_of(value, f"header {name}") for name, value in (headers or {}).items()
        }
        self._loop_state: _LoopState | None = None
        self._round_robin = count()
        self.counts: Counter[str] = Counter()
        """Counts so far: "requests", "answers", and failed attempts by kind."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.roots))})"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_loop_state": None, "_round_robin": count(), "counts": Counter()}

    @property
    def host(self) -> str:
        """Host name of the first base URL."""
        return httpx.URL(self.roots[0]).host

    async def get(self, path: str) -> Reply:
        """Send a GET; see :meth:`post`. A status of 500 is not retried: the path does not work on that server."""
        return await self._call(_Call("GET", path, None))

    async def post(self, path: str, body: Mapping[str, Any], *, prefix: int | None = None) -> Reply:
        """Post JSON and return the JSON of the reply. To be awaited on the portal's loop.

        Args:
            path: appended to the base URL without its ``/v1``, e.g. ``"/v1/completions"``.
            body: the JSON object to send.
            prefix: digest of what the prompt begins with: requests with the same one go to the same server.

        Raises:
            EndpointError: the server refused the request, or every attempt failed: see its subclasses.
            ContextLengthError: the server reports that the prompt is too long.
        """
        return await self._call(_Call("POST", path, body, prefix))

    async def probe(self, seconds: float = 2.0) -> dict[str, Fault | None]:
        """Ask every server, once, whether it is there. To be awaited on the portal's loop.

        A server without ``/health`` or ``/v1/models`` is there if it answers that it has none.

        Args:
            seconds: for its answer.

        Returns:
            What is wrong with each base URL; ``None`` if nothing is.
        """
        found = await asyncio.gather(*(self._probe(root, seconds) for root in self.roots))
        return dict(zip(self.roots, found, strict=True))

    async def _probe(self, root: str, seconds: float) -> Fault | None:
        auth = _KeyAuth(self._key, self._headers)
        try:
            with borrowed_client(root) as client:
                async with asyncio.timeout(seconds):
                    for path in ("/health", "/v1/models"):
                        status = (await client.get(root + path, timeout=seconds, auth=auth)).status_code
                        if status in _REFUSED:
                            return Fault("key", f"it refuses the key (status {status})", EndpointAuthenticationError)
                        if status in _AWAY:
                            return Fault("unavailable", f"status {status} at {path}", EndpointServerError)
        except (httpx.RequestError, TimeoutError) as error:
            return fault_of_exception(error)
        return None

    def lock(self) -> asyncio.Lock:
        """Guards what is detected once about the servers. To be used on the portal's loop."""
        return self._state_of_loop().lock

    async def _call(self, call: _Call) -> Reply:
        with observed_call(self.role, call.method, call.path, call.body or {}) as call.observer:
            return await self._answered(call)

    async def _answered(self, call: _Call) -> Reply:
        state = self._state_of_loop()
        retrying = AsyncRetrying(
            stop=stop_after_attempt(self.limits.attempts),
            wait=_Wait(self.limits),
            retry=retry_if_exception_type(Fault),
            before_sleep=_log_retry,
            reraise=True,
        )
        try:
            async with asyncio.timeout(self.limits.deadline) as call.deadline:
                return await retrying(self._attempt, state, call)
        except Fault as fault:
            raise self._final_error(call, fault) from fault.__cause__
        except TimeoutError as error:
            if not call.deadline.expired():
                raise
            raise self._deadline_error(call) from error

    async def _attempt(self, state: _LoopState, call: _Call) -> Reply:
        while True:
            # Wait for the breakers without a slot: the deadlines of calls that wait for a slot stand still, so those
            # calls would give up one after another instead of all in time.
            while not state.ready():
                await asyncio.sleep(min(host.breaker.ready_in(monotonic()) for host in state.hosts) + 0.001)
            async with self._slot(state, call):
                if ready := state.ready():
                    return await self._send(state, self._next_host(ready, call), call)

    async def _send(self, state: _LoopState, host: _Host, call: _Call) -> Reply:
        number = host.breaker.begin()
        host.in_flight += 1
        call.attempts += 1
        self.counts["requests"] += 1
        call.observer.sent(host.root)
        began, attempt = monotonic(), Attempt(host.root, "cancelled", call.attempts, seconds=0.0)
        try:
            reply = await self._reply_of(host, call)
        except Fault as fault:
            attempt = replace(attempt, outcome=fault.kind, status=fault.status)
            self._note_fault(state, host, call, fault, number)
            raise
        except DarwinError as error:
            status = error.status if isinstance(error, EndpointError) else None
            attempt = replace(attempt, outcome="rejected", status=status)
            host.mark_working()  # a refusal is a reply: the request is at fault, not the server
            raise
        except BaseException:
            host.breaker.abandoned(number)
            raise
        else:
            attempt = replace(attempt, outcome="answered", status=reply.status, data=reply.data)
            host.mark_working()
        finally:
            host.in_flight -= 1
            seconds, is_open = monotonic() - began, host.breaker.is_open
            call.observer.attempted(replace(attempt, seconds=seconds, breaker_open=is_open))
        self.counts["answers"] += 1
        return reply

    @asynccontextmanager
    async def _slot(self, state: _LoopState, call: _Call) -> AsyncIterator[None]:
        """Take one of the ``concurrency`` slots. The wait for it does not count towards the call's deadline."""
        left = call.left(state.loop.time())
        call.deadline.reschedule(None)
        async with state.slots:
            call.deadline.reschedule(state.loop.time() + left)
            yield

    async def _reply_of(self, host: _Host, call: _Call) -> Reply:
        target = f"{call.method} {host.root}{call.path}"
        response = await self._request(host, call)
        if response.is_success:
            with suppress(ValueError):
                return Reply(response.json(), response.headers, host.root, response.status_code)
        response = self._without_secrets(response)
        if call.method == "GET" and response.is_success and "html" in response.headers.get("content-type", ""):
            # A page for a browser, at a path that is no API call: another attempt would return the same.
            raise EndpointServerError(f"{target} is a web page: is base_url right?", status=response.status_code)
        broken_path = call.method == "GET" and response.status_code == httpx.codes.INTERNAL_SERVER_ERROR
        if not broken_path and (fault := fault_of_response(response)):
            raise fault
        if refusal := error_of_response(response, target):
            raise refusal
        kind = response.headers.get("content-type", "no content type")
        description = f"status {response.status_code}, but the body is no JSON ({kind}): {response.text[:80]!r}"
        raise Fault("no_json", description, EndpointServerError, status=response.status_code)

    async def _request(self, host: _Host, call: _Call) -> httpx.Response:
        limits, url = self.limits, host.root + call.path
        timeout = httpx.Timeout(limits.read_timeout, connect=limits.connect_timeout, pool=None)
        auth = _KeyAuth(self._key, self._headers)
        try:
            with borrowed_client(host.root) as client:
                async with asyncio.timeout(limits.attempt_timeout):
                    return await client.request(
                        call.method, url, json=call.body, timeout=timeout, auth=auth, headers=call.observer.headers()
                    )
        except (httpx.RequestError, TimeoutError) as error:
            raise fault_of_exception(error) from error

    def _next_host(self, ready: Sequence[_Host], call: _Call) -> _Host:
        """The ready host that ranks highest for the call's prefix, or, without one, has the fewest requests in flight.

        Those that this call failed on lately come last.
        """
        offset, last = next(self._round_robin), call.failed[-1][0] if call.failed else None
        order = [ready[(offset + i) % len(ready)] for i in range(len(ready))]

        def rank(host: _Host) -> tuple[bool, bool, int]:
            choice = host.in_flight if call.prefix is None else -score(call.prefix, host.root)
            return host in call.tried, host is last, choice

        return min(order, key=rank)

    def _note_fault(self, state: _LoopState, host: _Host, call: _Call, fault: Fault, number: int) -> None:
        self.counts[fault.kind] += 1
        call.failed.append((host, fault))
        call.tried.append(host)
        host.unresolvable = fault.permanent and not host.has_replied
        if fault.server_works:
            host.mark_working()
        elif host.breaker.failed(number, monotonic()):
            logger.warning("%s keeps failing and gets no requests for a while: %s", host.root, fault.description)
        fault.retry_elsewhere = any(other not in call.tried for other in state.ready())
        if not fault.retry_elsewhere:
            call.tried.clear()
            self._raise_if_unrecoverable(state, call, fault)

    def _raise_if_unrecoverable(self, state: _LoopState, call: _Call, fault: Fault) -> None:
        """Raise the final error early where another attempt would not help."""
        never_replied = not any(host.has_replied for host, _ in call.failed)
        if all(host.unresolvable for host in state.hosts):
            raise self._final_error(call, fault) from fault.__cause__
        if (
            fault.kind in ("refused", "connect_timeout")
            and never_replied
            and call.attempts >= _MAX_ATTEMPTS_UNSEEN_HOST
        ):
            raise self._final_error(call, fault) from fault.__cause__
        if call.attempts < self.limits.attempts and fault.retry_after > max(call.left(state.loop.time()), 0.0):
            fault.description += (
                f" (asked to retry after {fault.retry_after:.0f} s, which is after the deadline of "
                f"{self.limits.deadline:g} s for one call)"
            )
            raise self._final_error(call, fault) from fault.__cause__

    def _final_error(self, call: _Call, fault: Fault) -> DarwinError:
        host, _ = call.failed[-1]
        tried = f"after {call.attempts} attempts" if call.attempts > 1 else "at the first attempt"
        advice = "" if fault.server_works or host.has_replied else ". Is base_url right, and does the server run?"
        target = f"{call.method} {host.root}{call.path}"
        return fault.error(f"{target} failed {tried}: {fault.description}{advice}", status=fault.status)

    def _deadline_error(self, call: _Call) -> DarwinError:
        where, last = self.roots[0], ""
        if call.failed:
            host, fault = call.failed[-1]
            where, last = host.root, f", the last that failed: {fault.description}"
        return EndpointTimeoutError(
            f"{call.method} {where}{call.path} was not answered within the deadline of {self.limits.deadline:g} s "
            f"({call.attempts} attempts{last}): raise Limits(deadline=…), or check the server"
        )

    def _without_secrets(self, response: httpx.Response) -> httpx.Response:
        """A copy of a response that messages may quote: some servers repeat the key that they were sent."""
        values = [secret.get_secret_value() for secret in (self._key, *self._headers.values()) if secret is not None]
        # The longest first: one may contain another.
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

    def _state_of_loop(self) -> _LoopState:
        loop = asyncio.get_running_loop()
        if self._loop_state is None or self._loop_state.loop is not loop:
            limits = self.limits
            hosts = [_Host(root, Breaker(limits.breaker_failures, limits.breaker_pause)) for root in self.roots]
            self._loop_state = _LoopState(loop, asyncio.Semaphore(limits.concurrency), asyncio.Lock(), hosts)
        return self._loop_state


class _Wait:
    """Seconds to wait after a failed attempt: none while another server is untried, else with jitter."""

    def __init__(self, limits: Limits) -> None:
        self._jitter = wait_random_exponential(multiplier=limits.backoff, max=limits.max_backoff)

    def __call__(self, state: RetryCallState) -> float:
        fault = state.outcome.exception() if state.outcome else None
        if not isinstance(fault, Fault):
            return 0.0
        return 0.0 if fault.retry_elsewhere else fault.retry_after + float(self._jitter(state))


def _log_retry(state: RetryCallState) -> None:
    fault = state.outcome.exception() if state.outcome else None
    logger.info("attempt %d failed (%s): trying again in %.2f s", state.attempt_number, fault, state.upcoming_sleep)


async def gather_all(coroutines: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Await all at once, in order; the first error cancels the others and is raised as it is."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
