"""The embedded world as a benchmark: what any setting of the search is worth there, and what it costs.

The world has a *gold* rule for the true worth of an answer, which no search sees; the reward model is the
*proxy* that the search follows. Every search is one line of a ledger, so a run that was killed goes on, and settings,
instructions and seeds may be added later.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Any, Literal, Self

from darwin_align.core import SearchConfig, SearchResult
from darwin_align.core.errors import ConfigError
from darwin_align.core.seeds import derive
from darwin_align.evaluation.intervals import Bootstrap, Estimate
from darwin_align.evaluation.ledger import Ledger, Record
from darwin_align.evaluation.methods import Method, check_labels, method_parts
from darwin_align.evaluation.options import need_packages
from darwin_align.evaluation.runner import run_jobs
from darwin_align.pocket import dev, gold, held_out
from darwin_align.pocket.world import understand

if TYPE_CHECKING:
    from darwin_align.search import DarwinSearch

__all__ = ["FIGURES", "Summary", "VariantSummary", "WorldMethod", "measure", "summary"]

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
_OWN = ("guard", "policy", "reward")
_NEED = ("numpy",)
_RESAMPLE_SEED = 0
_MOST = 10_000
"""Instructions of a split. The world has about three times as many, but the rare ones take minutes to draw."""


@dataclass(frozen=True)
class WorldMethod(Method):
    """A method whose models may be others than the embedded pair.

    >>> WorldMethod.of("wide: best_of_n mutations=14 temperature=1.0").label
    'wide'
    >>> WorldMethod.of("darwin cycles=2").text
    'darwin cycles=2'
    """

    guard: bool = True
    """Whether rewordings must keep the topic."""
    policy: str = ""
    reward: str = ""
    """Folders of models in place of the embedded ones."""

    @classmethod
    def of(cls, text: str, **defaults: Any) -> Self:
        """Read ``[LABEL:] PRESET [NAME=VALUE …]``; also ``guard=off``, ``policy=FOLDER``, ``reward=FOLDER``.

        Raises:
            ConfigError: an unknown preset or setting, or an impossible value.
        """
        label, preset, given = method_parts(text)
        own = dict(pair.partition("=")[::2] for pair in given if pair.partition("=")[0] in _OWN)
        if (guard := own.get("guard", "on")) not in ("on", "off"):
            raise ConfigError(f"guard={guard} is unknown: use guard=on or guard=off")
        for role in ("policy", "reward"):
            if role in own and not Path(own[role]).is_dir():
                raise ConfigError(f"{role}={own[role]}: there is no such folder")
        searched = " ".join([preset, *(pair for pair in given if pair.partition("=")[0] not in _OWN)])
        return replace(
            super().of(searched, **{"max_new_tokens": SearchConfig().max_new_tokens, **defaults}),
            label=label,
            text=" ".join([preset, *sorted(given)]),
            guard=guard == "on",
            policy=own.get("policy", ""),
            reward=own.get("reward", ""),
        )

    def search(self) -> DarwinSearch:
        """The search over the embedded pair, or over the models that replace it."""
        from darwin_align.pocket.pair import pocket_search

        unguarded = {} if self.guard else {"guard": None}
        return pocket_search(self.config, policy=self.policy, reward=self.reward, sampling=self.sampling, **unguarded)


def measure(
    methods: Sequence[WorldMethod],
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
        methods: the settings.
        out: folder of ``searches.jsonl``.
        n: instructions of the split.
        seeds: each search's seed is derived from one of them and the instruction's index.
        split: combinations of topic, phrasing and clauses that the training never saw ("dev" to try settings on).
        concurrency: searches at a time; seconds are recorded only where it is 1.
        progress: show progress on stderr.

    Returns:
        One record a search: method, seed, instruction, and the :data:`FIGURES`.

    Raises:
        ConfigError: the folder was begun under another split, version or manner of timing, two methods share a
            label, a number is impossible, or the extra ``eval`` is not installed.
    """
    from darwin_align import __version__

    need_packages("the world's figures", *_NEED)
    check_labels(methods)
    _check_numbers(n, concurrency)
    timed = concurrency == 1
    instructions = (held_out if split == "held_out" else dev)(n)
    settings = {"version": __version__, "split": split, "timed": timed}
    with Ledger(Path(out) / "searches.jsonl", settings) as ledger:
        wanted = [(one, seed, i) for one in methods for seed in seeds for i in range(n)]
        runs_by_key = {_key(one, seed, i): (one, seed, i) for one, seed, i in wanted}
        runs = _Runs(timed)
        missing = {key: run for key, run in runs_by_key.items() if key not in ledger.records}
        jobs = [partial(ledger.kept, key, partial(runs.run, *run, instructions)) for key, run in missing.items()]
        run_jobs(jobs, title="searches", concurrency=concurrency, progress=progress)
        return [{**ledger.records[key], "method": one.text} for key, (one, _, _) in runs_by_key.items()]


def _check_numbers(n: int, concurrency: int) -> None:
    if n < 1:
        raise ConfigError(f"n={n} is none: give 1 instruction or more")
    if n > _MOST:
        raise ConfigError(f"n={n} is too many: the world gives at most {_MOST} instructions of a split, give fewer")
    if concurrency < 1:
        raise ConfigError(f"concurrency={concurrency} is impossible: allow one search at a time at least")


def _key(method: WorldMethod, seed: int, index: int) -> str:
    return f"{method.text} seed={seed} #{index}"


@dataclass
class _Runs:
    """Searches of methods, each built once."""

    timed: bool
    made: dict[str, DarwinSearch] = field(default_factory=dict)

    async def run(self, method: WorldMethod, seed: int, index: int, instructions: Sequence[str]) -> Record:
        search = self.made.get(method.text)
        if search is None:
            search = self.made[method.text] = method.search()
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


# -- what came out


@dataclass(frozen=True)
class VariantSummary:
    """One method's means over instructions and seeds."""

    label: str
    text: str
    searches: int
    means: Mapping[str, float]
    """Of :data:`FIGURES`, as far as recorded."""
    intervals: Mapping[str, tuple[float, float]]
    """95% bootstrap intervals of gold and reward."""
    differences: Mapping[str, Estimate]
    """Gold of the method less that of others, by their labels."""


@dataclass(frozen=True)
class Summary:
    """What a run found."""

    split: str
    instructions: int
    seeds: tuple[int, ...]
    against: tuple[str, ...]
    standings: tuple[VariantSummary, ...]


def summary(
    methods: Sequence[WorldMethod], records: Sequence[Record], *, split: Split, against: Sequence[str] = ()
) -> Summary:
    """Means, intervals, and paired differences of gold.

    An instruction's figures under several seeds are averaged first: instructions, not seeds, are the sample.

    Args:
        methods: who took part, in the order of the table.
        records: what :func:`measure` returned.
        split: the instructions' split.
        against: labels of those that all others are compared with.

    Raises:
        ConfigError: no method has such a label, two share one, or the extra ``eval`` is not installed.
    """
    need_packages("the world's figures", *_NEED)
    check_labels(methods, against)
    bootstrap = Bootstrap(len({record["instruction"] for record in records}), _RESAMPLE_SEED)
    golds = {one.label: _by_instruction(records, one, "gold") for one in methods}
    standings = []
    for one in methods:
        mine = [record for record in records if record["method"] == one.text]
        names = [name for name in FIGURES if all(record.get(name) is not None for record in mine)]
        means = {name: fmean(float(record[name]) for record in mine) for name in names}
        spreads = {name: bootstrap.mean(list(_by_instruction(records, one, name).values())) for name in _SPREAD}
        less = {
            label: bootstrap.mean([gold - golds[label][key] for key, gold in golds[one.label].items()])
            for label in against
            if label != one.label
        }
        intervals = {name: (found.low, found.high) for name, found in spreads.items()}
        standings.append(VariantSummary(one.label, one.text, len(mine), means, intervals, less))
    seeds = tuple(sorted({int(record["seed"]) for record in records}))
    return Summary(split, len(next(iter(golds.values()))), seeds, tuple(against), tuple(standings))


def _by_instruction(records: Sequence[Record], method: WorldMethod, figure: str) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for record in records:
        if record["method"] == method.text:
            found.setdefault(record["instruction"], []).append(float(record[figure]))
    return {instruction: fmean(values) for instruction, values in found.items()}
