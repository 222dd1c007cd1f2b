"""Whether the servers behind this one answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping
from time import monotonic
from typing import Any

from langchain_core.runnables import Runnable
from pydantic import JsonValue

from darwin_align import DarwinChatModel, Scorer
from darwin_align.backends.endpoint import EndpointPolicy
from darwin_align.backends.endpoint.client import Endpoint
from darwin_align.backends.endpoint.rewards.remote import RemoteScorer
from darwin_align.operators.portal import acall
from darwin_align.operators.resources import resources_of

__all__ = ["Readiness", "endpoints_of"]

logger = logging.getLogger(__name__)

_FRESH = 5.0
"""Seconds for which a verdict holds."""


class Readiness:
    """Asks the servers behind this one, at most once in a few seconds however often it is asked itself.

    Args:
        endpoints: by names that strangers may read: of models and roles, not of machines.
    """

    def __init__(self, endpoints: Mapping[str, Endpoint]) -> None:
        self.endpoints = endpoints
        self._lock = asyncio.Lock()
        self._backends: dict[str, JsonValue] = {}
        self._ready, self._until = False, -1.0

    async def verdict(self) -> tuple[bool, dict[str, JsonValue]]:
        """Whether at least one server of each role answers, and how many of each do."""
        async with self._lock:
            if monotonic() >= self._until:
                found = await asyncio.gather(*(self._ask(*one) for one in self.endpoints.items()))
                self._ready = all(answering for answering, _ in found)
                self._backends = dict(zip(self.endpoints, (report for _, report in found), strict=True))
                self._until = monotonic() + _FRESH
            return self._ready, self._backends

    @staticmethod
    async def _ask(name: str, endpoint: Endpoint) -> tuple[int, dict[str, JsonValue]]:
        faults = {root: fault for root, fault in (await acall(endpoint.probe)).items() if fault is not None}
        for root, fault in faults.items():
            logger.warning("%s: %s does not answer: %s", name, root, fault.description)
        answering = len(endpoint.roots) - len(faults)
        report: dict[str, JsonValue] = {"servers": len(endpoint.roots), "answering": answering}
        return answering, report | ({"faults": sorted({fault.kind for fault in faults.values()})} if faults else {})


def endpoints_of(
    models: Mapping[str, DarwinChatModel], rewards: Mapping[str, Scorer] | None = None
) -> dict[str, Endpoint]:
    """The servers of policies and reward models, each once, by the names of model and role.

    Args:
        models: pairs; a mutator may have servers of its own.
        rewards: further reward models.
    """
    parts: list[tuple[str, Runnable[Any, Any]]] = []
    for name, model in models.items():
        operators = model.search.operators(model.search.config)
        parts += [(f"{name}:policy", operators["decode"]), (f"{name}:reward", operators["score"])]
        parts += [(f"{name}:mutator", operators["mutate"])]
    found: dict[str, Endpoint] = {}
    for name, part in [*parts, *(rewards or {}).items()]:
        for endpoint in _endpoints(part):
            if endpoint not in found.values():
                more = sum(one.split(" ")[0] == name for one in found)
                found[f"{name} {more + 1}" if more else name] = endpoint
    return found


def _endpoints(operator: Runnable[Any, Any]) -> Iterator[Endpoint]:
    for one in resources_of([operator]):
        endpoint = one.endpoint if isinstance(one, EndpointPolicy | RemoteScorer) else None
        if endpoint is not None:
            yield endpoint
