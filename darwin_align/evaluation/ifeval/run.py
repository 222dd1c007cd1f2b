"""Methods of the search compared on IFEval's prompts, at equal tokens, with the prompt's own rules as the reward.

Every search may decode the same number of tokens for a prompt, rewordings included, and ends with the first answer that
keeps all rules. One cycle follows another until then, so no method is left with tokens that it cannot spend; a plain
sample is one answer alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from darwin_align.core import PRESETS, Sampling, SearchConfig
from darwin_align.core.clauses import read_clauses
from darwin_align.core.errors import ConfigError
from darwin_align.core.record import did_you_mean
from darwin_align.core.types import Message
from darwin_align.evaluation.ifeval.prompts import Prompt, followed
from darwin_align.evaluation.ledger import Ledger, Record
from darwin_align.evaluation.runner import run_jobs
from darwin_align.evaluation.subject import Subject
from darwin_align.langchain.assignments import settings_of

if TYPE_CHECKING:
    from darwin_align.search import DarwinSearch

__all__ = ["ANSWER_TOKENS", "Method", "SearchOf", "measure"]

ANSWER_TOKENS = 512
"""Length at which answers are cut, unless a method's ``max_new_tokens`` says otherwise."""
_ANSWERS = 16
"""Answers of full length that a search may decode by default: as many as ``darwin`` has in its three cycles."""
_UNTIL_SPENT = 1000
"""Cycles: the tokens end a search long before."""
_FIGURES = ("output", "reward", "first_reward", "stop_reason", "finish_reason", "error")


@dataclass(frozen=True)
class Method:
    """One setting of the search that takes part.

    >>> Method.of("wide: best_of_n mutations=8", reward_ends=1.0).config.target_reward
    1.0
    >>> Method.of("darwin max_new_tokens=100").config.budget.tokens
    1600
    """

    label: str
    """What it is called in tables."""
    text: str
    """The preset and what is set otherwise: what its searches are known by."""
    config: SearchConfig
    sampling: Sampling

    @classmethod
    def of(cls, text: str, *, tokens: int | None = None, reward_ends: float | None = None) -> Method:
        """Read ``[LABEL:] PRESET [NAME=VALUE …]``; also ``clauses=FILE``.

        Args:
            text: the method.
            tokens: that a search may decode for a prompt; by default those of 16 answers of full length.
            reward_ends: the reward that ends a search.

        Raises:
            ConfigError: an unknown preset or setting, or an impossible value.
        """
        label, colon, rest = text.partition(": ")
        preset, *given = (rest if colon else text).split()
        if preset not in PRESETS:
            raise ConfigError(f"unknown preset {preset!r}: {did_you_mean(preset, PRESETS)}")
        clauses = [pair.partition("=")[2] for pair in given if pair.startswith("clauses=")]
        changes = [pair for pair in given if not pair.startswith("clauses=")]
        defaults: dict[str, Any] = {"max_new_tokens": ANSWER_TOKENS, "on_failure": "raise"}
        if PRESETS[preset].get("cycles"):
            defaults |= {"cycles": _UNTIL_SPENT}
            if PRESETS[preset].get("choice") != "soft":
                defaults |= {"target_reward": reward_ends}
        config, sampling = settings_of(preset, changes, **defaults)
        if clauses:
            config = config.replace(clauses=read_clauses(clauses[0]))
        if not config.budget.limited and config.cycles:
            config = config.replace(budget={"tokens": tokens or _ANSWERS * config.max_new_tokens})
        plain = " ".join([preset, *sorted(given)])
        return cls(label if colon else plain, plain, config, sampling)


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
    from darwin_align import __version__

    check_labels(methods)
    known_by = {"version": __version__, "timed": concurrency == 1, **settings}
    with Ledger(Path(out) / "searches.jsonl", known_by) as ledger:
        runs = {_key(one, seed, prompt): (one, seed, prompt) for one in methods for seed in seeds for prompt in prompts}
        missing = {key: run for key, run in runs.items() if key not in ledger.records}
        answering = partial(_answer, search_of, timed=concurrency == 1)
        jobs = [partial(ledger.kept, key, partial(answering, *run)) for key, run in missing.items()]
        run_jobs(jobs, title="searches", concurrency=concurrency, progress=progress)
        return [
            {**ledger.records[key], "method": one.text, "seed": seed, "key": prompt.key}
            for key, (one, seed, prompt) in runs.items()
        ]


def check_labels(methods: Sequence[Method], against: Sequence[str] = ()) -> None:
    """Refuse labels that are ambiguous or name no method.

    Raises:
        ConfigError: there are no methods, two share a label, or none has one of ``against``.
    """
    labels = [one.label for one in methods]
    if not labels:
        raise ConfigError("there are no methods: give one at least")
    if twice := [label for label in labels if labels.count(label) > 1]:
        raise ConfigError(
            f"two methods are called {twice[0]!r}: leave one out, or give each a label, 'LABEL: PRESET …'"
        )
    for label in against:
        if label not in labels:
            raise ConfigError(f"no method is called {label!r}: {did_you_mean(label, labels)}")


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
