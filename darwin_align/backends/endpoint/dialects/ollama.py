"""Ollama (from its documentation, not run here): raw text through ``/api/generate``.

Sources: https://docs.ollama.com/api/generate, https://docs.ollama.com/api/chat, and for what these leave out
https://github.com/ollama/ollama/blob/main/api/types.go (``truncate``, ``shift``) and
https://github.com/ollama/ollama/issues/6778 (a trailing assistant message is continued).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from darwin_align.backends.endpoint.dialects.base import Choice, CompletionRequest, Dialect, Wire, merged
from darwin_align.core.errors import EndpointServerError

__all__ = ["Ollama"]


class Ollama(Dialect):
    """Ollama's native calls: raw mode continues any text, and a chat's trailing assistant message is continued.

    How long its context is depends on the machine, 4096 tokens on most. For another length give ``context_length=8192,
    extra_body={"options": {"num_ctx": 8192}}``.
    """

    name: ClassVar[str] = "ollama"
    by_prefill: ClassVar[bool] = True
    most_stops: ClassVar[int] = 1000
    knobs: ClassVar[Mapping[str, tuple[str, Any]]] = {
        "top_k": ("top_k", 0),
        "top_p": ("top_p", 1.0),
        "repetition_penalty": ("repeat_penalty", 1.0),
    }

    def text_request(self, asked: CompletionRequest) -> Wire:
        """``raw`` leaves the template to us."""
        (prompt,) = asked.prompts
        return "/api/generate", {**self._body(asked), "prompt": prompt, "raw": True}

    def chat_request(self, asked: CompletionRequest) -> Wire:
        """The native chat, which takes all sampling settings."""
        _, body = super().chat_request(asked)
        return "/api/chat", {**self._body(asked), "messages": body["messages"]}

    def _body(self, asked: CompletionRequest) -> dict[str, Any]:
        options: dict[str, Any] = {
            "num_predict": asked.max_tokens,
            "temperature": asked.sampling.temperature,
            **self.sampling(asked.sampling),
            "min_p": 0.0,
            **({"stop": list(asked.stop)} if asked.stop else {}),
            **({"seed": asked.seed} if asked.seed is not None else {}),
        }
        # A conversation that is too long is to be refused, not to lose its beginning unnoticed.
        body = {"model": asked.model, "stream": False, "truncate": False, "shift": False, "options": options}
        return merged(body, asked.extra)

    def read_text(self, data: Any, asked: CompletionRequest) -> list[Choice]:  # noqa: ARG002
        """``response``, ``done_reason`` and counts."""
        return [_written(data, data.get("response") if isinstance(data, Mapping) else None)]

    def read_chat(self, data: Any, asked: CompletionRequest) -> list[Choice]:  # noqa: ARG002
        """The same around a message."""
        return [_written(data, self._said(data) if isinstance(data, Mapping) else None)]


def _written(data: Any, text: Any) -> Choice:
    if not isinstance(text, str):
        raise EndpointServerError(f"an answer without a text: {str(data)[:200]}")
    return Choice(
        text,
        finish=data.get("done_reason"),
        new_tokens=data.get("eval_count"),
        prompt_tokens=data.get("prompt_eval_count"),
    )
