"""OpenRouter (experimental: from its documentation, not run here).

Whether a trailing assistant message is continued depends on the provider behind it.

Sources: https://openrouter.ai/docs/api-reference/overview (assistant prefill), https://openrouter.ai/docs/parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from darwin_align.backends.endpoint.dialects.base import Dialect
from darwin_align.core.json_types import Json

__all__ = ["OpenRouter"]


class OpenRouter(Dialect):
    """Chat with a trailing assistant message.

    A trial shows what one provider makes of it, so let all requests go to that one:
    ``extra_body={"provider": {"only": ["…"]}}``.
    """

    name: ClassVar[str] = "openrouter"
    by_text: ClassVar[bool] = False
    by_prefill: ClassVar[bool] = True
    sampling_fields: ClassVar[Mapping[str, tuple[str, Json]]] = {
        "top_k": ("top_k", 0),
        "top_p": ("top_p", 1.0),
        "repetition_penalty": ("repetition_penalty", 1.0),
    }
