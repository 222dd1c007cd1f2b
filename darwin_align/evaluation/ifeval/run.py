"""Methods of the search compared on IFEval's prompts, at equal tokens, with the prompt's own rules as the reward.

Every search may decode the same number of tokens for a prompt, rewordings included, and ends with the first answer that
keeps all rules. One cycle follows another until then, so no method is left with tokens that it cannot spend; a plain
sample is one answer alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from darwin_align.core.types import Message
from darwin_align.evaluation.comparison import compared
from darwin_align.evaluation.ifeval.prompts import Prompt, followed
from darwin_align.evaluation.ledger import Record
from darwin_align.evaluation.methods import Method
from darwin_align.evaluation.subject import Subject

if TYPE_CHECKING:
    from darwin_align.search import DarwinSearch

__all__ = ["SearchOf", "measure"]

_FIGURES = ("output", "reward", "first_reward", "stop_reason", "finish_reason", "error")


SearchOf = Callable[[Method, Prompt], "DarwinSearch"]
"""Makes the search of a method for a prompt. It is called only for prompts that have no record yet."""


def measure(
    methods: Sequence[Method],
    prompts: Sequence[Prompt],
    search_of: SearchOf,
    out: str | Path,
    *,
    settings: dict[str, Any],
    seeds: Iterable[int] = (0,),
    concurrency: int = 1,
    progress: bool = True,
) -> list[Record]:
    """Answer every prompt by every method under every seed; what ``out`` holds already is kept.

    Prompts come one after another, each under all methods: a run that is cut short has whole prompts.

    Args:
        methods: the methods.
        prompts: the prompts.
        search_of: makes the searches.
        out: folder of ``searches.jsonl``.
        settings: what decides answers beside methods, prompts and seeds, e.g. which models these are.
        seeds: each search's seed is derived from one of them and the prompt's key.
        concurrency: searches at a time; seconds are recorded only where it is 1.
        progress: show progress on stderr.

    Returns:
        One record a search: method, seed, key, the answer, which instructions it follows, and what it cost.

    Raises:
        ConfigError: the folder was begun under other settings, or two methods share a label.
    """
    answer = partial(_answer, search_of, timed=concurrency == 1)
    return compared(
        methods, prompts, _key, answer, out, settings=settings, seeds=seeds, concurrency=concurrency, progress=progress
    )


def _key(method: Method, seed: int, prompt: Prompt) -> str:
    limit = method.config.budget.tokens
    return f"{method.text} tokens={limit} seed={seed} {prompt.key} {prompt.digest}"


async def _answer(search_of: SearchOf, method: Method, seed: int, prompt: Prompt, *, timed: bool) -> Record:
    subject = Subject(search_of(method, prompt), method.label, seed)
    clock = perf_counter()
    found = await subject.answer(
        [Message(role="user", content=prompt.text)], subject.seed_at("ifeval", str(prompt.key))
    )
    seconds = {"seconds": perf_counter() - clock} if timed else {}
    usage = found.get("usage", {})
    return {
        **{name: found.get(name) for name in _FIGURES},
        **followed(prompt, found["output"]),
        "decoded_tokens": usage.get("decoded_tokens", 0),
        "prefilled_tokens": usage.get("prefilled_tokens", 0),
        "reward_calls": usage.get("reward_calls", 0),
        **seconds,
    }
