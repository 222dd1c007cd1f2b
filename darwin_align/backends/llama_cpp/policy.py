"""A GGUF file as a policy."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Any

from darwin_align.backends.endpoint.limits import Limits
from darwin_align.backends.endpoint.policy import EndpointPolicy
from darwin_align.backends.llama_cpp.server import LlamaServer, ServerSettings, shared_server
from darwin_align.backends.templates import ChatTemplate
from darwin_align.core.errors import ConfigError, EndpointError, MissingPackageError
from darwin_align.core.types import Request
from darwin_align.formats.tool_syntax import ToolSyntax
from darwin_align.operators.policy import Capabilities, Continuation, Policy, Row
from darwin_align.operators.portal import acall
from darwin_align.operators.report import Report

__all__ = ["LlamaCppPolicy"]

_PATIENCE = 24 * 3600.0
"""Seconds for one request: a slow machine takes its time, and a child that ended breaks the connection at once."""


class LlamaCppPolicy(Policy):
    """Continues rows on a GGUF file, by llama.cpp in a child process (extra ``llama-cpp``).

    The child is started on first use. Policies on one file and with the same settings share it; it ends with the last
    of them, with the interpreter, and when this process is killed. It listens on the loopback interface alone and
    wants a random key. A child that crashed is started again, once for a question.

    Tokenizer and chat template come from the file. Answers are continued by token ids, and formats, tools and grounded
    values are enforced as :class:`~darwin_align.backends.endpoint.policy.EndpointPolicy` does by token ids.

    Under a seed an answer repeats itself as long as llama.cpp decodes it alone: beside other rows it rounds
    differently, which changes some of them.

    Args:
        path: the file; of a model in several parts, the first.
        slots: rows decoded side by side; more wait.
        threads: CPU threads; ``None`` takes torch's number, which is that of the CPU's cores.
        context: tokens of prompt and answer, for each slot. ``None`` takes what the model was trained with, 8,192 at
            most, and less if ``row_memory`` does not hold that.
        row_memory: bytes for the keys and values of all slots, which are allocated at the start; ``None`` is a quarter
            of the free memory. Nothing else grows with use.
        chat_template: Jinja source, or a path to a file with it, in place of the file's own.

    Raises:
        ModelLoadError: there is no such file, or it is no GGUF file. At first use: it is broken, llama.cpp does not
            know its architecture, or it has no chat template.
        DeviceMemoryError: at first use: too little memory.
        MissingPackageError: ``xllamacpp`` is missing.
        ConfigError: an impossible setting.

    >>> policy = LlamaCppPolicy("SmolLM2-135M-Instruct.Q4_1.gguf", slots=8)  # doctest: +SKIP
    """

    def __init__(
        self,
        path: str | Path,
        *,
        slots: int = 8,
        threads: int | None = None,
        context: int | None = None,
        row_memory: int | None = None,
        chat_template: str | Path | None = None,
    ) -> None:
        _check_settings(slots=slots, threads=threads, context=context, row_memory=row_memory)
        if find_spec("xllamacpp") is None:
            raise MissingPackageError(
                f"{str(path)!r} is a GGUF file, which llama.cpp runs: pip install 'darwin-align[llama-cpp]'. Without "
                "it, LocalPolicy.from_pretrained(…) reads such a file through transformers, which is slower"
            )
        settings = ServerSettings(Path(path).absolute(), slots, threads or _all_threads(), context, row_memory)
        self._recipe: dict[str, Any] = {
            "path": path,
            "slots": slots,
            "threads": threads,
            "context": context,
            "row_memory": row_memory,
            "chat_template": chat_template,
        }
        self._chat_template = chat_template
        self._server: LlamaServer = shared_server(settings)
        self._lock = Lock()
        self._connected: tuple[str, EndpointPolicy] | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self._recipe['path'])!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), **self._recipe), ()

    async def generate(self, rows: Sequence[Row]) -> Report[list[Continuation]]:
        """Continue every row by at most its ``max_tokens``.

        Raises:
            ModelLoadError: the file cannot be used, see the class.
            DeviceMemoryError: too little memory for it.
            EndpointError: llama.cpp failed twice.
            ContextLengthError: a prompt leaves no room for an answer.
            RequestError: the chat template refuses a conversation, or its format or tool choice cannot be enforced.
        """
        return await acall(self._generate, rows)  # type: ignore[no-any-return]

    async def _generate(self, rows: Sequence[Row]) -> Report[list[Continuation]]:
        policy = await asyncio.to_thread(self._endpoint)
        try:
            return await policy.generate(rows)
        except EndpointError:
            if self._server.alive:
                raise
        return await (await asyncio.to_thread(self._endpoint)).generate(rows)

    def _endpoint(self) -> EndpointPolicy:
        """The running server as a policy. Blocks while it starts."""
        address = self._server.address()
        with self._lock:
            if self._connected is None or self._connected[0] != address:
                policy = EndpointPolicy(
                    address,
                    dialect="llama.cpp",
                    continuation="ids",
                    tokenizer=self._server.model().folder,
                    chat_template=self._chat_template,
                    api_key=self._server.key,
                    limits=Limits(
                        concurrency=self._server.settings.slots,
                        attempts=2,
                        deadline=_PATIENCE,
                        attempt_timeout=_PATIENCE,
                        read_timeout=_PATIENCE,
                    ),
                )
                self._connected = address, policy
            return self._connected[1]

    @property
    def template(self) -> ChatTemplate | None:
        """The chat template of the file. Blocks: the first use starts the server."""
        return self._endpoint().template

    @property
    def tool_syntax(self) -> ToolSyntax:
        """The model's format of tool calls. Blocks: the first use starts the server.

        Raises:
            RequestError: the template shows no format that is recognised.
        """
        return self._endpoint().tool_syntax

    @property
    def supports_tools(self) -> bool:
        """Whether the chat template shows tools, calls and results. Before the first use it is assumed."""
        return self._connected is None or self._connected[1].supports_tools

    @property
    def capabilities(self) -> Capabilities:
        """It continues by token ids: formats, tools and grounded values are enforced."""
        if self._connected is not None:
            return self._connected[1].capabilities
        enforces = find_spec("llguidance") is not None
        return Capabilities(enforces_formats=enforces, enforces_grounding=True, reads_tool_calls=True)

    def describe(self) -> str:
        """Name the file and how it is run. Blocks: the first use starts the server.

        Raises:
            ModelLoadError: the file cannot be used.
            DeviceMemoryError: too little memory for it.
        """
        model, settings = self._server.model(), self._server.settings
        notes = self._endpoint().describe().partition("continues ")[2]
        return (
            f"{settings.path.name} ({model.architecture}) by llama.cpp in a child process, {settings.threads} threads, "
            f"{settings.slots} rows side by side: continues {notes}"
        )

    @property
    def context_length(self) -> int | None:  # type: ignore[override] # the file's, or what fits into memory
        """Tokens of prompt and answer; ``None`` before the first use."""
        return self._server.context

    def refusal(self, request: Request, max_new_tokens: int) -> str | None:
        """Return why a request leaves too little of the context for an answer; ``None`` if it fits.

        Blocks: the first use starts the server.

        Raises:
            RequestError: the request's ``response_format`` or ``tool_choice`` cannot be enforced.
        """
        return self._endpoint().refusal(request, max_new_tokens)


def _check_settings(**numbers: int | None) -> None:
    for name, number in numbers.items():
        if number is not None and number < 1:
            raise ConfigError(f"{name}={number} is impossible: give 1 or more, or leave it out")


def _all_threads() -> int:
    import torch

    return torch.get_num_threads()
