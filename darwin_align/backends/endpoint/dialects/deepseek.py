"""DeepSeek's platform (experimental: from its documentation, not run here).

A message marked as prefix is continued, under ``/beta``.

Sources: https://api-docs.deepseek.com/guides/chat_prefix_completion,
https://api-docs.deepseek.com/api/create-chat-completion.
"""

from __future__ import annotations

from typing import Any, ClassVar

from darwin_align.backends.endpoint.dialects.base import CompletionRequest, Dialect, Wire

__all__ = ["DeepSeek"]


class DeepSeek(Dialect):
    """Chat with a prefix. It takes no seed, so a run does not repeat. Give the base URL without ``/beta``."""

    name: ClassVar[str] = "deepseek"
    by_text: ClassVar[bool] = False
    by_prefill: ClassVar[bool] = True
    seeds: ClassVar[bool] = False
    max_stop_strings: ClassVar[int] = 16

    def prefill_message(self, prefix: str) -> dict[str, Any]:
        """Marked as prefix."""
        return {"role": "assistant", "content": prefix, "prefix": True}

    def chat_request(self, request: CompletionRequest) -> Wire:
        """Prefixes are a feature of the beta path."""
        _, body = super().chat_request(request)
        return "/beta/chat/completions", body
