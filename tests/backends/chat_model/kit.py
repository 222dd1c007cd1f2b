"""Chat models for the tests: one on the real server whose requests are seen, and fakes for what that never does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_openai import ChatOpenAI

from darwin_align import Request, Response

TEA = "How do I brew green tea?"


def length(request: Request, responses: list[Response]) -> list[float]:
    return [float(len(response.text)) for response in responses]


@dataclass
class Wire:
    """What a client sent, and the usage that the server answered with."""

    bodies: list[dict[str, Any]] = field(default_factory=list)
    usages: list[dict[str, int]] = field(default_factory=list)

    async def sent(self, request: httpx.Request) -> None:
        self.bodies.append(json.loads(await request.aread()))

    async def answered(self, response: httpx.Response) -> None:
        self.usages.append(json.loads(await response.aread()).get("usage") or {})

    def total(self, name: str) -> int:
        return sum(usage[name] for usage in self.usages)


def on_server(url: str, wire: Wire | None = None, **settings: Any) -> ChatOpenAI:
    """OpenAI's chat model on another server; with ``wire`` its requests are seen."""
    hooks = {} if wire is None else {"request": [wire.sent], "response": [wire.answered]}
    closing = httpx.Limits(max_keepalive_connections=0)  # nobody closes this client
    client = httpx.AsyncClient(event_hooks=hooks, trust_env=False, timeout=60, limits=closing)
    given = {"model": "embedded", "base_url": f"{url}/v1", "api_key": "none", "max_retries": 0, **settings}
    return ChatOpenAI(**{"http_async_client": client, **given})


class Fake(BaseChatModel):
    """Answers with what a function makes of the conversation, after some seconds."""

    says: Callable[[list[BaseMessage]], AIMessage]
    seconds: Callable[[], float] = lambda: 0.0
    calls: list[dict[str, Any]] = []  # noqa: RUF012 - pydantic copies it

    @property
    def _llm_type(self) -> str:
        return "fake"

    def _generate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **more: Any
    ) -> ChatResult:
        self.calls.append({"messages": messages, "stop": stop, **more})
        return ChatResult(generations=[ChatGeneration(message=self.says(messages))])

    async def _agenerate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **more: Any
    ) -> ChatResult:
        await asyncio.sleep(self.seconds())
        return self._generate(messages, stop, run_manager, **more)


class ToolFake(Fake):
    """One that takes tools."""

    def bind_tools(self, tools: Any, *, tool_choice: Any = None, **more: Any) -> Any:
        return self.bind(tools=tools, tool_choice=tool_choice, **more)


def in_turn(*messages: AIMessage) -> Callable[[list[BaseMessage]], AIMessage]:
    left: Iterator[AIMessage] = iter(messages)
    return lambda _: next(left)
