"""The embedded world as a benchmark: what any setting of the search is worth there, and what it costs.

The world has a *gold* rule for the true worth of an answer, which no search sees; the reward model is the
*proxy* that the search follows. Every search is one line of a ledger, so a run that was killed goes on, and settings,
instructions and seeds may be added later.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Any, Literal

from darwin_align.core import PRESETS, Sampling, SearchConfig, SearchResult
from darwin_align.core.clauses import read_clauses
from darwin_align.core.errors import ConfigError
from darwin_align.core.record import did_you_mean
from darwin_align.core.seeds import derive
from darwin_align.evaluation.ledger import Ledger, Record
from darwin_align.evaluation.options import need_packages
from darwin_align.evaluation.runner import run_jobs
from darwin_align.langchain.assignments import settings_of
from darwin_align.pocket import dev, gold, held_out
from darwin_align.pocket.world import understand

if TYPE_CHECKING:
    from darwin_align.search import DarwinSearch

__all__ = ["FIGURES", "Contender", "Difference", "Summary", "VariantSummary", "check_labels", "measure", "summary"]

Split = Literal["held_out", "dev"]

FIGURES: Mapping[str, str] = {
    "gold": "what the answer is really worth",
    "reward": "the reward model's score",
    "decoded_tokens": "decoded tokens",
    "prefilled_tokens": "prefilled tokens",
    "reward_tokens": "tokens that the reward model read",
    "reward_calls": "texts that were scored",
    "seconds": "wall time of the search",
    "cpu_seconds": "processor time of the search",
    "words": "length of the answer",
    "drifted": "share of winning instructions about another topic, or about none",
}
"""What is recorded of a search. Seconds only where searches ran one after another."""

_SPREAD: tuple[str, ...] = ("gold", "reward")
_OWN = ("guard", "policy", "reward", "clauses")
_NEED = ("numpy", "scipy")
_MOST = 10_000
"""Instructions of a split. The world has about three times as many, but the rare ones take minutes to draw."""


@dataclass(frozen=True)
class Contender:
    """One setting of the search that takes part.

    >>> Contender.of("wide: best_of_n mutations=14 temperature=1.0").label
    'wide'
    >>> Contender.of("darwin cycles=2").text
    'darwin cycles=2'
    """

    label: str
    """What it is called in tables."""
    text: str
    """The preset and what is set otherwise: what its searches are known by."""
    config: SearchConfig
    sampling: Sampling
    guard: bool = True
    """Whether rewordings must keep the topic."""
    policy: str = ""
    reward: str = ""
    """Folders of models in place of the embedded ones."""

    @classmethod
    def of(cls, text: str) -> Contender:
        """Read ``[LABEL:] PRESET [NAME=VALUE …]``.

        Settings are those of the search and of its sampling, and ``guard=off``, ``policy=FOLDER``, ``reward=FOLDER``,
        ``clauses=FILE`` (JSON as ``darwin_align/pocket/clauses.json``).

        Raises:
            ConfigError: an unknown preset or setting, or an impossible value.
        """
        label, colon, rest = text.partition(": ")
        preset, *given = (rest if colon else text).split()
        own = dict(pair.partition("=")[::2] for pair in given if pair.partition("=")[0] in _OWN)
        if preset not in PRESETS:
            raise ConfigError(f"unknown preset {preset!r}: {did_you_mean(preset, PRESETS)}")
        if (guard := own.get("guard", "on")) not in ("on", "off"):
            raise ConfigError(f"guard={guard} is unknown: use guard=on or guard=off")
        for role in ("policy", "reward"):
            if role in own and not Path(own[role]).is_dir():
                raise ConfigError(f"{role}={own[role]}: there is no such folder")
        changes = [pair for pair in given if pair.partition("=")[0] not in _OWN]
        config, sampling = settings_of(preset, changes, on_failure="raise")
        if "clauses" in own:
            config = config.replace(clauses=read_clauses(own["clauses"]))
        plain = " ".join([preset, *sorted(given)])
        return cls(
            label if colon else plain,
            plain,
            config,
            sampling,
            guard == "on",
            own.get("policy", ""),
            own.get("reward", ""),
        )

    def search(self) -> DarwinSearch:
        """The search over the embedded pair, or over the models that replace it."""
        from darwin_align.pocket.pair import pocket_search

        unguarded = {} if self.guard else {"guard": None}
        return pocket_search(self.config, policy=self.policy, reward=self.reward, sampling=self.sampling, **unguarded)


def measure(
    contenders: Sequence[Contender],
    out: str | Path,
    *,
    n: int = 100,
    seeds: Iterable[int] = (0,),
    split: Split = "held_out",
    concurrency: int = 1,
    progress: bool = True,
) -> list[Record]:
    """Search for an answer to every instruction, under every setting and seed; what ``out`` holds already is kept.

    Args:
        contenders: the settings.
        out: folder of ``searches.jsonl``.
        n: instructions of the split.
        seeds: each search's seed is derived from one of them and the instruction's index.
        split: combinations of topic, phrasing and clauses that the training never saw ("dev" to try settings on).
        concurrency: searches at a time; seconds are recorded only where it is 1.
        progress: show progress on stderr.

    Returns:
        One record a search: contender, seed, instruction, and the :data:`FIGURES`.

    Raises:
        ConfigError: the folder was begun under another split, version or manner of timing, two contenders share a
            label, a number is impossible, or the extra ``eval`` is not installed.
    """
    from darwin_align import __version__

    need_packages("the world's figures", *_NEED)
    check_labels(contenders)
    _check_numbers(n, concurrency)
    timed = concurrency == 1
    instructions = (held_out if split == "held_out" else dev)(n)
    settings = {"version": __version__, "split": split, "timed": timed}
    with Ledger(Path(out) / "searches.jsonl", settings) as ledger:
        wanted = [(one, seed, i) for one in contenders for seed in seeds for i in range(n)]
        runs_by_key = {_key(one, seed, i): (one, seed, i) for one, seed, i in wanted}
        runs = _Runs(timed)
        missing = {key: run for key, run in runs_by_key.items() if key not in ledger.records}
        jobs = [partial(ledger.kept, key, partial(runs.run, *run, instructions)) for key, run in missing.items()]
        run_jobs(jobs, title="searches", concurrency=concurrency, progress=progress)
        return [{**ledger.records[key], "contender": one.text} for key, (one, _, _) in runs_by_key.items()]


def _check_numbers(n: int, concurrency: int) -> None:
    if n < 1:
        raise ConfigError(f"n={n} is none: give 1 instruction or more")
    if n > _MOST:
        raise ConfigError(f"n={n} is too many: the world gives at most {_MOST} instructions of a split, give fewer")
    if concurrency < 1:
        raise ConfigError(f"concurrency={concurrency} is impossible: allow one search at a time at least")


def _key(contender: Contender, seed: int, index: int) -> str:
    return f"{contender.text} seed={seed} #{index}"


@dataclass
class _Runs:
    """Searches of contenders, each built once."""

    timed: bool
    made: dict[str, DarwinSearch] = field(default_factory=dict)

    async def run(self, contender: Contender, seed: int, index: int, instructions: Sequence[str]) -> Record:
        search = self.made.get(contender.text)
        if search is None:
            search = self.made[contender.text] = contender.search()
            await search.ainvoke("How do I brew green tea?", seed=seed)  # warm-up: first calls are not measured
        clock, processor = perf_counter(), process_time()
        result = await search.ainvoke(instructions[index], seed=derive(seed, "world", index) % 2**31)
        seconds = {"seconds": perf_counter() - clock, "cpu_seconds": process_time() - processor} if self.timed else {}
        return {"seed": seed, "instruction": instructions[index], **_figures(instructions[index], result), **seconds}


def _figures(instruction: str, result: SearchResult) -> dict[str, Any]:
    first, about, winner = result.first_response, understand(instruction), understand(result.best.instruction)
    return {
        "gold": gold(instruction, result.text).total,
        "reward": result.reward,
        "first_gold": gold(instruction, first.text).total,
        "first_reward": first.reward,
        "decoded_tokens": result.usage.decoded_tokens,
        "prefilled_tokens": result.usage.prefilled_tokens,
        "reward_tokens": result.usage.reward_tokens,
        "reward_calls": result.usage.reward_calls,
        "words": len(result.text.split()),
        "drifted": float(about is not None and (winner is None or winner.topic != about.topic)),
        "cycles": result.cycles,
        "stop_reason": result.stop_reason,
    }


def check_labels(contenders: Sequence[Contender], against: Sequence[str] = ()) -> None:
    """Refuse labels that are ambiguous or name no contender.

    Args:
        contenders: the contenders.
        against: labels of those that all others are compared with.

    Raises:
        ConfigError: there are no contenders, two share a label, or none has one of ``against``.
    """
    labels = [contender.label for contender in contenders]
    if not labels:
        raise ConfigError("there are no contenders: give one at least")
    if twice := [label for label in labels if labels.count(label) > 1]:
        raise ConfigError(
            f"two contenders are called {twice[0]!r}: leave one out, or give each a label, as in "
            f"'other: {next(one.text for one in contenders if one.label == twice[0])}'"
        )
    for label in against:
        if label not in labels:
            raise ConfigError(f"no contender is called {label!r}: {did_you_mean(label, labels)}")


# -- what came out


@dataclass(frozen=True)
class Difference:
    """A mean difference of gold, paired by instruction, with its 95% bootstrap interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.2f} [{self.low:.2f}, {self.high:.2f}]"


@dataclass(frozen=True)
class VariantSummary:
    """One contender's means over instructions and seeds."""

    label: str
    text: str
    searches: int
    means: Mapping[str, float]
    """Of :data:`FIGURES`, as far as recorded."""
    intervals: Mapping[str, tuple[float, float]]
    """95% bootstrap intervals of gold and reward."""
    differences: Mapping[str, Difference]
    """Gold of the contender less that of others, by their labels."""


@dataclass(frozen=True)
class Summary:
    """What a run found."""

    split: str
    instructions: int
    seeds: tuple[int, ...]
    against: tuple[str, ...]
    standings: tuple[VariantSummary, ...]


def summary(
    contenders: Sequence[Contender], records: Sequence[Record], *, split: Split, against: Sequence[str] = ()
) -> Summary:
    """Means, intervals, and paired differences of gold.

    An instruction's figures under several seeds are averaged first: instructions, not seeds, are the sample.

    Args:
        contenders: who took part, in the order of the table.
        records: what :func:`measure` returned.
        split: the instructions' split.
        against: labels of those that all others are compared with.

    Raises:
        ConfigError: no contender has such a label, two share one, or the extra ``eval`` is not installed.
    """
    need_packages("the world's figures", *_NEED)
    check_labels(contenders, against)
    golds = {one.label: _by_instruction(records, one, "gold") for one in contenders}
    standings = []
    for one in contenders:
        mine = [record for record in records if record["contender"] == one.text]
        names = [name for name in FIGURES if all(record.get(name) is not None for record in mine)]
        means = {name: fmean(float(record[name]) for record in mine) for name in names}
        spreads = {name: _interval(list(_by_instruction(records, one, name).values())) for name in _SPREAD}
        less = {label: _less(golds[one.label], golds[label]) for label in against if label != one.label}
        standings.append(VariantSummary(one.label, one.text, len(mine), means, spreads, less))
    seeds = tuple(sorted({int(record["seed"]) for record in records}))
    return Summary(split, len(next(iter(golds.values()))), seeds, tuple(against), tuple(standings))


def _by_instruction(records: Sequence[Record], contender: Contender, figure: str) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for record in records:
        if record["contender"] == contender.text:
            found.setdefault(record["instruction"], []).append(float(record[figure]))
    return {instruction: fmean(values) for instruction, values in found.items()}


def _less(mine: Mapping[str, float], theirs: Mapping[str, float]) -> Difference:
    differences = [mine[instruction] - theirs[instruction] for instruction in mine]
    return Difference(fmean(differences), *_interval(differences))


def _interval(values: Sequence[float]) -> tuple[float, float]:
    """95% of a mean, by BCa bootstrap."""
    import numpy as np
    from scipy.stats import bootstrap

    if len(values) < 2 or len(set(values)) == 1:
        return values[0], values[0]
    found = bootstrap((np.array(values),), np.mean, rng=np.random.default_rng(0)).confidence_interval
    return float(found.low), float(found.high)
