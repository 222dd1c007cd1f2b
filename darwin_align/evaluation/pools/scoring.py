"""Rewards of a pool's answers, each prompt's kept as soon as it is there: a run again costs nothing."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from langchain_core.runnables import Runnable

from darwin_align.core.errors import ConfigError
from darwin_align.evaluation.ledger import Ledger, Record
from darwin_align.evaluation.pools.records import PooledPrompt
from darwin_align.evaluation.runner import run_jobs
from darwin_align.evaluation.scorer_report import shortened
from darwin_align.evaluation.scoring import score_answers
from darwin_align.operators.coerce import ScorerLike, as_scorer
from darwin_align.operators.resources import released, resources_of

__all__ = ["ScoredPool", "score_pool"]


class ScoredPool(NamedTuple):
    """Rewards of a pool's answers."""

    rewards: list[tuple[float, ...]]
    """Of each prompt's answers, in the pool's order."""
    notes: tuple[str, ...]
    """What the scorer noted, each once."""


def score_pool(
    pool: Sequence[PooledPrompt],
    load: Callable[[], ScorerLike],
    out: str | Path,
    *,
    scorer: Mapping[str, Any],
    concurrency: int = 8,
    progress: bool = True,
) -> ScoredPool:
    """Score every answer of a pool; what ``out`` holds already is kept.

    Args:
        pool: the prompts.
        load: makes the scorer: a Scorer, a function, a chain, or an object with ``score``, as a search takes them. It
            is not called where all rewards are kept.
        out: folder of ``rewards.jsonl``.
        scorer: which scorer it is, in plain data: the guard against going on with another.
        concurrency: prompts at a time.
        progress: show progress on stderr.

    Raises:
        ConfigError: the folder was begun with another scorer or version, or what ``load`` gives is no scorer.
        RewardError: the scorer returned the wrong number of rewards, or one that is no finite number.
        OperatorError: the scorer raised an error of its own.
        EndpointError: a remote scorer could not be used.
    """
    from darwin_align import __version__

    if not pool:
        raise ConfigError("the pool is empty: give some prompts")
    settings = {"version": __version__, "scorer": dict(scorer)}
    with Ledger(Path(out) / "rewards.jsonl", settings) as ledger:
        missing = {prompt.key: prompt for prompt in pool if prompt.key not in ledger.records}
        if missing:
            made = as_scorer(load())
            search_id = uuid.uuid4().hex
            with released(resources_of([made]), search_id):
                jobs = [
                    partial(ledger.kept, key, partial(_rewards, made, prompt, search_id))
                    for key, prompt in missing.items()
                ]
                run_jobs(jobs, title="prompts", concurrency=concurrency, progress=progress)
        records = [ledger.records[prompt.key] for prompt in pool]
    notes = dict.fromkeys(note for record in records for note in record["notes"])
    return ScoredPool([tuple(map(float, record["rewards"])) for record in records], tuple(notes))


async def _rewards(scorer: Runnable[Any, Any], prompt: PooledPrompt, search_id: str) -> Record:
    answers = [(answer, True) for answer in prompt.answers]
    name = f"the answers to {shortened(prompt.request.instruction, 60)!r}"
    rewards, notes = await score_answers(scorer, prompt.request, answers, name=name, search_id=search_id)
    return {"rewards": rewards, "notes": notes}
