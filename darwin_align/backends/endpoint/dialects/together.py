"""Together, and services like it (experimental: from its documentation, not run here).

Raw text, or a trailing assistant message.

Source: https://docs.together.ai/reference/completions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from darwin_align.backends.endpoint.dialects.base import Dialect
from darwin_align.core.json_types import Json

__all__ = ["Together"]


class Together(Dialect):
    """Completions of raw text where the tokenizer is known, else chat with a trailing assistant message.

    It is not documented whether several choices differ under one seed, so rows with seeds are sent one by one.
    """

    name: ClassVar[str] = "together"
    by_prefill: ClassVar[bool] = True
    several: ClassVar[bool] = True
    hub_models: ClassVar[bool] = True
    sampling_fields: ClassVar[Mapping[str, tuple[str, Json]]] = {
        "top_k": ("top_k", None),
        "top_p": ("top_p", 1.0),
        "repetition_penalty": ("repetition_penalty", 1.0),
    }
