"""Whether a policy can reword: tried once for each policy object, and remembered as long as the object lives."""

from __future__ import annotations

import asyncio
import logging
import uuid
import weakref
from collections.abc import Hashable
from contextvars import Context
from dataclasses import dataclass

from darwin_align.core.types import Request
from darwin_align.operators.checks.intent import LexicalIntent
from darwin_align.operators.context import MutationContext
from darwin_align.operators.mutator import Check
from darwin_align.operators.mutators.policy import PolicyMutator
from darwin_align.operators.policy import Policy, current_search
from darwin_align.operators.portal import acall
from darwin_align.operators.report import Report

__all__ = ["Probe", "probed"]

logger = logging.getLogger(__name__)

_CONTEXT = MutationContext.of(Request.of("How do I brew green tea?"), n=5, seed=0)
"""The fixed request that every policy is to reword."""


@dataclass(frozen=True, slots=True)
class Probe:
    """What came of trying a policy."""

    able: bool
    """Whether at least half of the rewordings passed the checks."""
    accepted: int = 0
    wanted: int = 0
    tokens: int = 0
    """Tokens that were decoded."""


class _Memory:
    """Results by policy object and by the settings of the mutator, without keeping the objects alive."""

    def __init__(self) -> None:
        self._kept: dict[int, tuple[weakref.ref[object], dict[Hashable, asyncio.Task[Probe]]]] = {}

    def of(self, policy: Policy) -> dict[Hashable, asyncio.Task[Probe]]:
        """What is kept for a policy; it is forgotten with the object that stands for its model."""
        place = id(policy.remembered_by)
        try:
            reference = weakref.ref(policy.remembered_by, lambda _: self._kept.pop(place, None))
        except TypeError:  # of a class with slots, for example
            place = id(policy)
            reference = weakref.ref(policy, lambda _: self._kept.pop(place, None))
        return self._kept.setdefault(place, (reference, {}))[1]


_memory = _Memory()


async def probed(mutator: PolicyMutator) -> Probe:
    """Try whether the policy of a mutator can reword, once for the policy object and these settings.

    Call it by :func:`~darwin_align.operators.portal.call` or :func:`~darwin_align.operators.portal.acall`: so it runs
    on the portal's loop, where simultaneous callers wait for one and the same attempt. A caller that is cancelled
    leaves it running. What the policy raises is raised, and is not remembered.

    Args:
        mutator: with the policy, the prompt and the checks.
    """
    if (declared := mutator.policy.capabilities.rewords) is not None:
        return Probe(declared)
    kept = _memory.of(mutator.policy)
    settings = (mutator.prompt, mutator.sampling.to_json(), mutator.max_tokens)
    task = kept.get(settings)
    if task is None or (not task.done() and task.get_loop() is not asyncio.get_running_loop()):  # in a forked child
        # In a context of its own: no search's budget limits it, and no search's callbacks count it.
        task = kept[settings] = asyncio.get_running_loop().create_task(_try_out(mutator), context=Context())
    try:
        return await asyncio.shield(task)
    finally:
        if task.done() and (task.cancelled() or task.exception()):
            kept.pop(settings, None)


async def _try_out(mutator: PolicyMutator) -> Probe:
    """Run in a context of its own: the attempt is a search by itself to the policy, which keeps nothing of it."""
    search_id = f"probe {uuid.uuid4().hex}"
    current_search.set(search_id)
    try:
        report = Report.of(await acall(mutator.mutate, _CONTEXT))
    finally:
        await acall(mutator.policy.release, search_id)
    checks: tuple[Check, ...] = (*mutator.checks, LexicalIntent())
    accepted = 0
    for mutation in report.answer[: _CONTEXT.n]:
        for check in checks:
            if not mutation.strip() or await acall(check, _CONTEXT.request, mutation):
                break
        else:
            accepted += 1
    found = Probe(2 * accepted >= _CONTEXT.n, accepted, _CONTEXT.n, report.usage.decoded_tokens)
    logger.log(
        logging.INFO if found.able else logging.WARNING,
        "%s was tried once for %d tokens: %d of %d rewordings could be used, so mutator='auto' %s",
        f"{mutator.policy!r:.80}",  # a kept record must not keep the policy
        found.tokens,
        accepted,
        _CONTEXT.n,
        "has it reword" if found.able else "adds guidance sentences instead",
    )
    return found
