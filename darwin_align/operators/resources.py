"""What operators keep for a search, and its release when the search is over."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import ensure_config

from darwin_align.operators.base import Operator, Resource
from darwin_align.operators.coerce import parts_of

__all__ = ["released", "resources_of"]


def resources_of(operators: Iterable[Runnable[Any, Any]], config: RunnableConfig | None = None) -> list[Resource]:
    """Return the operators that may answer in a run with this config and what they keep, each once."""
    config = ensure_config(config)
    parts = [part for operator in operators for part in parts_of(operator, config) if isinstance(part, Operator)]
    resources: list[Resource] = [one for part in parts for one in (part, *part.resources)]
    return list({id(one): one for one in resources}.values())


@contextmanager
def released(resources: Iterable[Resource], search_id: str) -> Iterator[None]:
    """Release resources at the end of a search, also of one that failed or was cancelled."""
    try:
        yield
    finally:
        for resource in resources:
            resource.release(search_id)
