"""Means of a comparison, differences paired by prompt, and best of n read off at a method's own cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

from darwin_align.core.errors import ConfigError
from darwin_align.evaluation.intervals import Bootstrap, Estimate
from darwin_align.evaluation.ledger import Record
from darwin_align.evaluation.methods import Method, check_labels
from darwin_align.evaluation.options import need_packages

__all__ = ["FIGURES", "MethodSummary", "Summary", "summary"]

FIGURES: Mapping[str, str] = {
    "gold": "what a scorer that no search saw makes of the answer",
    "gold_at_length": "gold without what it owes to the answer's length",
    "reward": "the reward that was followed",
    "words": "length of the answer",
    "decoded_tokens": "decoded tokens, rewordings included",
    "reward_calls": "texts that were scored",
    "reward_tokens": "tokens that the reward model read",
    "seconds": "wall time of the search",
    "reworded": "share of places that hold a rewording by the mutator's model",
    "guided": "share of places with a guidance sentence",
    "unchanged": "share of places that the parent instruction filled",
    "wasted": "tokens of rewordings that brought nothing, for each token of an answer",
}
"""What the table shows, as far as recorded."""

_COSTS = ("decoded_tokens", "seconds")
_PLAIN = ("sample", "best_of_n")
"""Presets whose methods, by their cost, are the line that others are compared with at equal cost."""
_RESAMPLE_SEED = 0


@dataclass(frozen=True)
class MethodSummary:
    """One method's means over prompts; a prompt's seeds are averaged first."""

    label: str
    text: str
    searches: int
    failed: int
    """Searches whose prompt did not fit into a model: they are left out."""
    means: Mapping[str, Estimate]
    """Of :data:`FIGURES`, as far as recorded."""
    differences: Mapping[str, Estimate]
    """Of gold (of the reward where there is none), less another method's, by its label."""
    at_equal: Mapping[str, Estimate]
    """The same less that of best of n at this method's mean cost, by the cost; read off between two widths of it."""


@dataclass(frozen=True)
class Summary:
    """What a run found."""

    prompts: int
    seeds: tuple[int, ...]
    judged_by: str
    """ "gold", or "reward" where there is no gold: what the differences are of."""
    against: tuple[str, ...]
    length_slope: float | None
    """What ten times the words earn in gold, within a prompt."""
    methods: tuple[MethodSummary, ...]


Values = dict[str, float]
"""One number a prompt."""


def summary(methods: Sequence[Method], records: Sequence[Record], against: Sequence[str] = ()) -> Summary:
    """Means with 95% bootstrap intervals over prompts, and paired differences.

    Gold at equal length: within prompts, gold is regressed on the logarithm of the answer's words over all methods;
    each answer's gold is moved along that line to the usual length.

    Args:
        methods: who took part, in the order of the table.
        records: what :func:`~darwin_align.evaluation.prompts.run.measure` returned.
        against: labels of those that all others are compared with.

    Raises:
        ConfigError: no method has such a label, two share one, or no prompt was answered by all.
    """
    need_packages("the figures", "numpy")
    check_labels(methods, against)
    failed = {record["key"] for record in records if record.get("error")}
    whole = [record for record in records if record["key"] not in failed]
    if not whole:
        raise ConfigError("no prompt was answered by all methods: are they too long for the models?")
    judged_by = "gold" if all("gold" in record for record in whole) else "reward"
    slope = _length_slope(whole) if judged_by == "gold" else None
    usual = fmean(map(_size, whole))
    tables = {one.label: _Table([r for r in whole if r["method"] == one.text], slope, usual) for one in methods}
    keys = list(next(iter(tables.values())).keys)
    bootstrap = Bootstrap(len(keys), _RESAMPLE_SEED)
    line = [tables[one.label] for one in methods if one.text.split()[0] in _PLAIN]

    def row(one: Method) -> MethodSummary:
        table = tables[one.label]
        mine = table.of(judged_by)
        less = {label: tables[label].of(judged_by) for label in against if label != one.label}
        equal = {cost: _read_off(line, cost, table.mean(cost), judged_by) for cost in _COSTS if table.has(cost)}
        return MethodSummary(
            one.label,
            one.text,
            len(table.records),
            sum(record["method"] == one.text and bool(record.get("error")) for record in records),
            {name: bootstrap.mean(list(table.of(name).values())) for name in FIGURES if table.has(name)},
            {label: _less(bootstrap, mine, other) for label, other in less.items()},
            {cost: _less(bootstrap, mine, other) for cost, other in equal.items() if other and table not in line},
        )

    seeds = tuple(sorted({int(record["seed"]) for record in records}))
    return Summary(len(keys), seeds, judged_by, tuple(against), slope, tuple(map(row, methods)))


class _Table:
    """One method's records."""

    def __init__(self, records: Sequence[Record], slope: float | None, usual_size: float) -> None:
        self.records, self._slope, self._usual_size = records, slope, usual_size
        self.keys = list(dict.fromkeys(record["key"] for record in records))

    def has(self, name: str) -> bool:
        """Whether all records have a figure."""
        return all(self._value(record, name) is not None for record in self.records)

    def of(self, name: str) -> Values:
        """A figure by prompt, the mean over seeds."""
        found: dict[str, list[float]] = {key: [] for key in self.keys}
        for record in self.records:
            found[record["key"]].append(float(self._value(record, name) or 0.0))
        return {key: fmean(values) for key, values in found.items()}

    def mean(self, name: str) -> float:
        """A figure's mean."""
        return fmean(self.of(name).values())

    def _value(self, record: Record, name: str) -> float | None:
        if name == "gold_at_length":
            if self._slope is None:
                return None
            return float(record["gold"]) - self._slope * (_size(record) - self._usual_size)
        if name in _EXPLORED:
            explored = record.get("exploration")
            return _EXPLORED[name](explored) if explored else None
        value: float | None = record.get(name)
        return value


_EXPLORED: Mapping[str, Callable[[Mapping[str, float]], float]] = {
    "reworded": lambda one: (one["accepted"] - one["filled_by_aspects"]) / one["places"],
    "guided": lambda one: one["filled_by_aspects"] / one["places"],
    "unchanged": lambda one: one["filled_by_parent"] / one["places"],
    "wasted": lambda one: one["wasted_tokens"] / one["answer_tokens"] if one["answer_tokens"] else 0.0,
}


def _size(record: Record) -> float:
    return math.log10(record["words"] + 1)


def _length_slope(records: Sequence[Record]) -> float:
    """Of gold on the logarithm of the words, within prompts."""
    above = below = 0.0
    for key in {record["key"] for record in records}:
        mine = [record for record in records if record["key"] == key]
        size, gold = fmean(map(_size, mine)), fmean(record["gold"] for record in mine)
        above += sum((_size(record) - size) * (record["gold"] - gold) for record in mine)
        below += sum((_size(record) - size) ** 2 for record in mine)
    return above / below if below else 0.0


def _read_off(line: Sequence[_Table], cost: str, spent: float, name: str) -> Values | None:
    """What best of n would get at a mean cost, by prompt: between its two nearest widths, in proportion.

    ``None`` where none of them costs as little, or none as much.
    """
    known = sorted((table for table in line if table.has(cost)), key=lambda table: table.mean(cost))
    for cheap, dear in pairwise(known):
        low, high = cheap.mean(cost), dear.mean(cost)
        if low <= spent <= high and low < high:
            share = (spent - low) / (high - low)
            ours, theirs = cheap.of(name), dear.of(name)
            return {key: (1 - share) * ours[key] + share * theirs[key] for key in ours}
    return None


def _less(bootstrap: Bootstrap, mine: Values, theirs: Values) -> Estimate:
    return bootstrap.mean([mine[key] - theirs[key] for key in mine])
