"""How a judge is called: a chat endpoint, or a LangChain chat model (or any other chain from a text to a reply)."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import httpx
from langchain_core.exceptions import ModelError, ModelInvalidRequestError
from langchain_core.messages import BaseMessage
from langchain_core.runnables import Runnable
from tenacity import (
    AsyncRetrying,
    retry_if_exception,
    stop_after_attempt,
    stop_after_delay,
    stop_any,
    wait_random_exponential,
)

from darwin_align.backends.concurrency import Places
from darwin_align.backends.endpoint.client import Endpoint
from darwin_align.backends.endpoint.limits import Limits
from darwin_align.backends.endpoint.server import identify_server
from darwin_align.backends.langchain_models import cut_answer, message_of, model_in, rewrapped, structured
from darwin_align.core.errors import EndpointRequestError, EndpointServerError, EndpointTimeoutError
from darwin_align.core.json_types import Json
from darwin_align.operators.usage import counting

__all__ = ["ChainJudge", "EndpointJudge", "Judge"]

_OPTIONAL = {
    "response_format": re.compile(r"response_format|json.?schema|structured|grammar|guided", re.IGNORECASE),
    "seed": re.compile(r"\bseed\b"),
    "temperature": re.compile(r"\btemperature\b"),
    "max_tokens": re.compile(r"\bmax_tokens\b"),
}
"""Fields that a server may not support, and how its error names them."""


class Judge(Protocol):
    """What answers a judge's questions."""

    name: str
    """For errors and notes."""
    dropped: dict[str, str]
    """What it does not take, and a note on each."""

    async def reply(self, prompt: str, schema: dict[str, Any], seed: int) -> tuple[Json, int]:
        """The judge's reply, and the tokens of prompt and reply."""


class ChainJudge:
    """A LangChain chat model, with its structured output if it has any; or any chain from a prompt text to a reply.

    Failures that may pass are tried again within the limits: those that LangChain calls retryable, broken connections
    and time that is over.
    """

    def __init__(self, chain: Runnable[Any, Any], limits: Limits) -> None:
        self.name = f"the judge {type(model_in(chain) or chain).__name__}"
        self.dropped: dict[str, str] = {}
        self._chain, self._limits, self._places = chain, limits, Places(limits.concurrency)

    async def reply(self, prompt: str, schema: dict[str, Any], seed: int) -> tuple[Json, int]:  # noqa: ARG002
        """Call it; a seed is its own."""
        async with self._places():
            with counting() as counter:
                output = await self._attempted(prompt, schema)
        return output, counter.as_reward.reward_tokens

    async def _attempted(self, prompt: str, schema: dict[str, Any]) -> Json:
        limits = self._limits
        retrying = AsyncRetrying(
            retry=retry_if_exception(_may_pass),
            stop=stop_any(stop_after_attempt(limits.attempts), stop_after_delay(limits.deadline)),
            wait=wait_random_exponential(multiplier=limits.backoff, max=limits.max_backoff),
            reraise=True,
        )
        try:
            return await retrying(self._asked, prompt, schema)
        except ModelInvalidRequestError as error:
            if "response_format" in self.dropped or not _OPTIONAL["response_format"].search(str(error)):
                raise
            self.dropped["response_format"] = f"{self.name} does not take response_format: its replies are read as text"
        return await retrying(self._asked, prompt, schema)

    async def _asked(self, prompt: str, schema: dict[str, Any]) -> Json:
        limit = self._limits.attempt_timeout
        try:
            async with asyncio.timeout(limit) as timeout:
                return await self._answer(prompt, schema)
        except TimeoutError:
            if not timeout.expired():
                raise
            raise EndpointTimeoutError(f"{self.name} did not answer in {limit:g} s (limits.attempt_timeout)") from None

    async def _answer(self, prompt: str, schema: dict[str, Any]) -> Json:
        if model_in(self._chain) is None or "response_format" in self.dropped:
            output = await self._chain.ainvoke(prompt)
            return str(output.text) if isinstance(output, BaseMessage) else output
        chain = rewrapped(self._chain, lambda one: structured(one, "rating", schema) or one)
        try:
            message, parsed = message_of(await chain.ainvoke(prompt))
        except Exception as error:
            if (cut := cut_answer(error)) is None:
                raise
            message, parsed = cut, None
        return parsed if isinstance(parsed, Mapping) else str(message.text)


def _may_pass(error: BaseException) -> bool:
    retryable = isinstance(error, ModelError) and error.is_retryable
    return retryable or isinstance(error, (httpx.TransportError, TimeoutError, ConnectionError, EndpointTimeoutError))


class EndpointJudge:
    """A chat endpoint, at ``/v1/chat/completions``, with a JSON schema for its reply.

    A field that it refuses is left out from then on.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        model: str | None,
        *,
        temperature: float,
        max_tokens: int,
        without_secrets: Callable[[Json], Json],
    ) -> None:
        self.name = f"the judge on {endpoint.roots[0]}"
        self.dropped: dict[str, str] = {}
        self._endpoint, self._model, self._temperature, self._max_tokens = endpoint, model, temperature, max_tokens
        self._without_secrets = without_secrets

    async def reply(self, prompt: str, schema: dict[str, Any], seed: int) -> tuple[Json, int]:
        """Request a reply."""
        model = await self._model_name()
        while True:
            body = self._body(model, prompt, schema, seed)
            try:
                reply = await self._endpoint.post("/v1/chat/completions", body)
            except EndpointRequestError as error:
                self._drop(body, error)
            else:
                data = self._without_secrets(reply.data)
                return self._message_text(data), _tokens(data)

    async def _model_name(self) -> str:
        if self._model is not None:
            return self._model
        async with self._endpoint.lock():
            if self._model is None:
                self._model = (await identify_server(self._endpoint)).model(None, self._endpoint.roots[0]).id
        return self._model

    def _body(self, model: str, prompt: str, schema: dict[str, Any], seed: int) -> dict[str, Any]:
        form = {"name": "rating", "strict": True, "schema": schema}
        optional = {
            "response_format": {"type": "json_schema", "json_schema": form},
            "seed": seed,
            "temperature": self._temperature,
            "max_tokens": self._max_tokens,
        }
        body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": prompt}]}
        body |= {name: value for name, value in optional.items() if name not in self.dropped}
        return body | ({"max_completion_tokens": self._max_tokens} if "max_tokens" in self.dropped else {})

    def _drop(self, body: Mapping[str, Any], error: EndpointRequestError) -> None:
        """Leave out the field that the server refused.

        Raises:
            EndpointRequestError: it refused something else.
        """
        message = str(error)
        refused = next((name for name, pattern in _OPTIONAL.items() if name in body and pattern.search(message)), None)
        if refused is None or error.status not in (400, 422):
            raise error
        instead = {
            "response_format": "its replies are read as text",
            "max_tokens": "it is sent max_completion_tokens",
        }.get(refused, "it is left out")
        self.dropped[refused] = f"{self.name} does not take {refused}: {instead}"

    def _message_text(self, data: Json) -> str:
        try:
            choice = data["choices"][0]
            content = choice["message"].get("content") or ""
            if not isinstance(content, str):
                raise TypeError
        except (KeyError, IndexError, TypeError, AttributeError):
            raise EndpointServerError(f"{self.name} replied without a message: {str(data)[:200]!r}") from None
        if not content and choice.get("finish_reason") == "length":
            raise EndpointServerError(
                f"{self.name} thought for {self._max_tokens} tokens and gave no answer: raise max_tokens"
            )
        return content


def _tokens(data: Mapping[str, Any]) -> int:
    usage = data.get("usage")
    total = usage.get("total_tokens") if isinstance(usage, Mapping) else None
    return total if isinstance(total, int) else 0
