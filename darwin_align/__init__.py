"""Aligned answers without retraining: DARWIN (arXiv 2406.15193) as a LangChain chat model.

Names load on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from darwin_align.lazy import lazy_getattr

if TYPE_CHECKING:
    from darwin_align.chat_model import DarwinChatModel
    from darwin_align.core import (
        Budget,
        Clause,
        Population,
        Request,
        Response,
        Sampling,
        SearchConfig,
        SearchResult,
        learn_clauses,
    )
    from darwin_align.core.errors import DarwinError
    from darwin_align.operators import Decoder, Mutator, Scorer, Selector
    from darwin_align.search import DarwinSearch

__version__ = "0.1.0"

_HOMES = {
    "Budget": "darwin_align.core",
    "Clause": "darwin_align.core",
    "DarwinChatModel": "darwin_align.chat_model",
    "DarwinError": "darwin_align.core.errors",
    "DarwinSearch": "darwin_align.search",
    "Decoder": "darwin_align.operators",
    "Mutator": "darwin_align.operators",
    "Population": "darwin_align.core",
    "Request": "darwin_align.core",
    "Response": "darwin_align.core",
    "Sampling": "darwin_align.core",
    "Scorer": "darwin_align.operators",
    "SearchConfig": "darwin_align.core",
    "SearchResult": "darwin_align.core",
    "Selector": "darwin_align.operators",
    "learn_clauses": "darwin_align.core",
}

__all__ = [
    "Budget",
    "Clause",
    "DarwinChatModel",
    "DarwinError",
    "DarwinSearch",
    "Decoder",
    "Mutator",
    "Population",
    "Request",
    "Response",
    "Sampling",
    "Scorer",
    "SearchConfig",
    "SearchResult",
    "Selector",
    "learn_clauses",
]


__getattr__ = lazy_getattr(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
