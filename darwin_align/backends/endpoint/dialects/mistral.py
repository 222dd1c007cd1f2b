"""Mistral's platform (experimental: from its documentation, not run here).

A message marked as prefix is continued.

Sources: https://docs.mistral.ai/api/endpoint/chat, https://docs.mistral.ai/guides/prefix (it cuts the prefix off the
answer, which begins with it).
"""

from __future__ import annotations

from typing import Any, ClassVar

from darwin_align.backends.endpoint.dialects.base import Dialect

__all__ = ["Mistral"]


class Mistral(Dialect):
    """Chat with a prefix, which the answer repeats; seeds are called ``random_seed``.

    It is not documented whether several choices differ under one seed, so rows with seeds are sent one by one.
    """

    name: ClassVar[str] = "mistral"
    by_text: ClassVar[bool] = False
    by_prefill: ClassVar[bool] = True
    several: ClassVar[bool] = True
    echoes: ClassVar[bool] = True
    seed_name: ClassVar[str] = "random_seed"

    def prefill_message(self, prefix: str) -> dict[str, Any]:
        """Marked as prefix."""
        return {"role": "assistant", "content": prefix, "prefix": True}
