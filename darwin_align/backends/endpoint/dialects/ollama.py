"""Ollama (experimental: from its documentation, not run here).

Raw text through ``/api/generate``.

Sources: https://docs.ollama.com/api/generate, https://docs.ollama.com/api/chat, and for what these leave out
https://github.com/ollama/ollama/blob/main/api/types.go (``truncate``, ``shift``) and
https://github.com/ollama/ollama/issues/6778 (a trailing assistant message is continued).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from darwin_align.backends.endpoint.dialects.base import Choice, CompletionRequest, Dialect, Wire, merged
from darwin_align.core.errors import EndpointServerError
from darwin_align.core.json_types import Json

__all__ = ["Ollama"]


class Ollama(Dialect):
    """Ollama's native calls: raw mode continues any text, and a chat's trailing assistant message is continued.

    How long its context is depends on the machine, 4096 tokens on most. For another length give ``context_length=8192,
    extra_body={"options": {"num_ctx": 8192}}``.
    """

    name: ClassVar[str] = "ollama"
    by_prefill: ClassVar[bool] = True
    max_stop_strings: ClassVar[int] = 1000
    sampling_fields: ClassVar[Mapping[str, tuple[str, Json]]] = {
        "top_k": ("top_k", 0),
        "top_p": ("top_p", 1.0),
        "repetition_penalty": ("repeat_penalty", 1.0),
    }

    def text_request(self, request: CompletionRequest) -> Wire:
        """``raw`` turns off the server's own template."""
        (prompt,) = request.prompts
        return "/api/generate", {**self._body(request), "prompt": prompt, "raw": True}

    def chat_request(self, request: CompletionRequest) -> Wire:
        """The native chat, which takes all sampling settings."""
        _, body = super().chat_request(request)
        return "/api/chat", {**self._body(request), "messages": body["messages"]}

    def _body(self, request: CompletionRequest) -> dict[str, Any]:
        options: dict[str, Any] = {
            "num_predict": request.max_tokens,
            "temperature": request.sampling.temperature,
            **self.sampling(request.sampling),
            "min_p": 0.0,
            **({"stop": list(request.stop)} if request.stop else {}),
            **({"seed": request.seed} if request.seed is not None else {}),
        }
        # A conversation that is too long must be refused; by default Ollama silently drops its beginning.
        body = {"model": request.model, "stream": False, "truncate": False, "shift": False, "options": options}
        return merged(body, request.extra)

    def read_text(self, data: Json, request: CompletionRequest) -> list[Choice]:  # noqa: ARG002
        """``response``, ``done_reason`` and counts."""
        return [_choice(data, data.get("response") if isinstance(data, Mapping) else None)]

    def read_chat(self, data: Json, request: CompletionRequest) -> list[Choice]:  # noqa: ARG002
        """The same around a message."""
        return [_choice(data, self._message_text(data) if isinstance(data, Mapping) else None)]


def _choice(data: Json, text: Json) -> Choice:
    if not isinstance(text, str):
        raise EndpointServerError(f"a reply without a text: {str(data)[:200]}")
    return Choice(
        text,
        finish=data.get("done_reason"),
        new_tokens=data.get("eval_count"),
        prompt_tokens=data.get("prompt_eval_count"),
    )
