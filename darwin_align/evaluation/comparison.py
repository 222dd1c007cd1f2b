"""Every prompt by every method under every seed, each kept as soon as it is answered."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from darwin_align.evaluation.ledger import Ledger, Record
from darwin_align.evaluation.methods import Method, check_labels
from darwin_align.evaluation.runner import run_jobs

__all__ = ["Answer", "compared"]


class _Keyed(Protocol):
    @property
    def key(self) -> int | str: ...


P = TypeVar("P", bound=_Keyed)
Answer = Callable[[Method, int, P], Awaitable[Record]]
"""Answers a prompt by a method under a seed."""


def compared(
    methods: Sequence[Method],
    prompts: Sequence[P],
    key_of: Callable[[Method, int, P], str],
    answer: Answer[P],
    out: str | Path,
    *,
    settings: Mapping[str, Any],
    seeds: Iterable[int],
    concurrency: int,
    progress: bool,
    prepare: Callable[[], None] | None = None,
) -> list[Record]:
    """Answer what ``out`` does not hold yet.

    Prompts come one after another, each under all methods: a run that is cut short has whole prompts.

    Args:
        methods: the methods.
        prompts: the prompts.
        key_of: what an answer is known by.
        answer: makes it.
        out: folder of ``searches.jsonl``.
        settings: what decides answers beside methods, prompts and seeds, e.g. which models these are.
        seeds: the seeds.
        concurrency: answers at a time; seconds mean something only where it is 1.
        progress: show progress on stderr.
        prepare: called once, where an answer is missing.

    Returns:
        One record an answer, with ``method``, ``seed`` and ``key``.

    Raises:
        ConfigError: the folder was begun under other settings, or two methods share a label.
    """
    from darwin_align import __version__

    check_labels(methods)
    known_by = {"version": __version__, "timed": concurrency == 1, **settings}
    chosen = tuple(seeds)
    with Ledger(Path(out) / "searches.jsonl", known_by) as ledger:
        runs = {
            key_of(one, seed, prompt): (one, seed, prompt) for prompt in prompts for seed in chosen for one in methods
        }
        jobs = [
            partial(ledger.kept, key, partial(answer, *run)) for key, run in runs.items() if key not in ledger.records
        ]
        if jobs and prepare is not None:
            prepare()
        run_jobs(jobs, title="searches", concurrency=concurrency, progress=progress)
        return [
            {**ledger.records[key], "method": one.text, "seed": seed, "key": prompt.key}
            for key, (one, seed, prompt) in runs.items()
        ]
