"""``POST /v1/chat/completions``: a search as a task that ends when its client leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping

from langchain_core.runnables import RunnableConfig
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from darwin_align import Population
from darwin_align.core import Event, SearchResult
from darwin_align.langchain.model_errors import model_errors
from darwin_align.operators.observers import MODEL, observing
from darwin_align.operators.portal import acall

from .answers import DONE, Answers, Reply, event
from .faults import fault_of
from .gate import ClientGone, Gate, client_left, client_of, while_connected
from .metrics import Metrics
from .resolved import ResolvedRequest
from .served import SearchModel
from .settings import ServerSettings
from .wire import ChatRequest, ignored_names

__all__ = ["Chats"]

_KEEPALIVE = b": searching\n\n"
_UNBUFFERED = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
"""nginx, too, passes a stream on at once."""


class Chats:
    """Answers chat requests.

    Args:
        settings: of the server.
        metrics: record every search.
    """

    def __init__(self, settings: ServerSettings, metrics: Metrics) -> None:
        self.settings, self.metrics = settings, metrics
        self.gate = Gate(settings.max_searches, "searches", settings.per_key("searches"))

    async def answer(self, request: Request, served: SearchModel, body: ChatRequest) -> Response:
        """Search, and reply in whole or as a stream.

        Raises:
            Fault: too many searches are in progress, or the request exceeds the limits.
            ConfigError: settings that contradict each other.
            RequestError: a conversation that cannot be answered.
            ClientGone: the client left.
        """
        search = _Search(served, body, self)
        task = self.gate.run(search.run, client_of(request))
        try:
            if body.stream:
                return await self._stream(search, task, body, request)
            answers = await while_connected(request.receive, task)
        except ClientGone:
            self.metrics.cancelled.labels("search").inc()
            raise
        return JSONResponse(Reply(served.id).whole(answers), headers={**search.headers, **answers.headers})

    async def _stream(
        self, search: _Search, task: asyncio.Task[Answers], body: ChatRequest, request: Request
    ) -> Response:
        # A failure before anything is scored still gets a status of its own.
        begun, left = asyncio.create_task(search.begun.wait()), asyncio.create_task(client_left(request.receive))
        try:
            silence = self.settings.silence_seconds
            await asyncio.wait({task, begun, left}, timeout=silence, return_when=asyncio.FIRST_COMPLETED)
            if left.done():
                raise ClientGone
            if task.done():
                task.result()
        except BaseException:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            raise
        finally:
            begun.cancel()
            left.cancel()
        usage = bool(body.stream_options and body.stream_options.include_usage)
        events = search.events(task, include_usage=usage, request_id=request.state.request_id)
        return _Stream(events, task, self.metrics, search.headers)


class _Search:
    """One search in progress."""

    def __init__(self, served: SearchModel, body: ChatRequest, owner: Chats) -> None:
        self.served, self.body, self.settings, self.metrics = served, body, owner.settings, owner.metrics
        self.begun = asyncio.Event()
        """Set once anything is scored."""

    async def run(self) -> Answers:
        """Search for the answers."""
        # In a thread: a long conversation takes a while.
        resolved: ResolvedRequest = await acall(ResolvedRequest.of, self.body, self.served, self.settings.limits)
        async with asyncio.timeout(resolved.seconds + self.settings.late_seconds):
            answers = await self._answers(resolved)
        _check_decoded(answers.result)
        return answers

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the reply that depend on the request alone."""
        ignored = sorted(ignored_names(self.body))
        return {"x-darwin-ignored": ", ".join(ignored)} if ignored else {}

    async def _answers(self, resolved: ResolvedRequest) -> Answers:
        model = self.served.model
        metadata = {**(model.metadata or {}), MODEL: self.served.id}
        config = RunnableConfig(callbacks=model.callbacks, tags=model.tags or [], metadata=metadata)
        if model.rate_limiter is not None:
            await model.rate_limiter.aacquire(blocking=True)
        with model_errors(), observing(self.metrics.observer):
            result = await model.search.ainvoke(resolved.request, config, **resolved.settings, on_event=self._on_event)
            answers: Answers = await acall(Answers.of, result, resolved.n, model.search.policy_for())
        return answers

    def _on_event(self, answered: Event, _: Population) -> None:
        if answered.operator == "score":  # what fails later ends the search with the best so far
            self.begun.set()

    async def events(
        self, task: asyncio.Task[Answers], *, include_usage: bool, request_id: str
    ) -> AsyncIterator[bytes]:
        """The answer as server-sent events."""
        reply = Reply(self.served.id)
        yield reply.begin()
        while not (await asyncio.wait({task}, timeout=self.settings.silence_seconds))[0]:
            yield _KEEPALIVE
        try:
            answers = await task
        except Exception as error:  # noqa: BLE001 - the headers are sent: the stream carries the error
            yield event(fault_of(error, request_id).body)
            return
        for chunk in reply.stream(answers):
            yield chunk
        if include_usage:
            yield reply.usage(answers)
        yield DONE


def _check_decoded(result: SearchResult) -> None:
    """Distinguish a policy that decoded no token in time from an answer that is empty.

    Raises:
        TimeoutError: the time was over before the first token.
    """
    if result.stop_reason == "budget: seconds" and not result.usage.decoded_tokens:
        raise TimeoutError


class _Stream(StreamingResponse):
    """A stream that cancels its search when it ends early."""

    def __init__(
        self, events: AsyncIterator[bytes], task: asyncio.Task[Answers], metrics: Metrics, headers: Mapping[str, str]
    ) -> None:
        super().__init__(events, media_type="text/event-stream", headers={**_UNBUFFERED, **headers})
        self._task, self._metrics = task, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            if not self._task.done():
                self._metrics.cancelled.labels("search").inc()
                self._task.cancel()
                await asyncio.gather(self._task, return_exceptions=True)
