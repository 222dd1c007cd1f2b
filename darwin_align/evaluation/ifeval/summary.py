"""What a run on IFEval found: accuracies by IFEval's two levels and two readings, as a table and as JSON data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from darwin_align.evaluation.chart_page import text_table
from darwin_align.evaluation.ifeval.prompts import Prompt
from darwin_align.evaluation.intervals import Bootstrap, Estimate
from darwin_align.evaluation.ledger import Record
from darwin_align.evaluation.methods import Method, check_labels

__all__ = ["GROUPS", "MethodSummary", "Summary", "plain", "points", "summary", "table"]

GROUPS: Mapping[str, str] = {
    "broken": "instructions that the beginning of an answer can break",
    "kept": "instructions that it can fulfil",
    "end": "instructions that only the whole answer decides",
}
"""Instructions by what a prefix can decide; one that it can both break and fulfil is in the first group."""

_RESAMPLE_SEED = 0


@dataclass(frozen=True)
class MethodSummary:
    """One method's accuracies, from 0 to 1, over prompts and seeds."""

    label: str
    text: str
    tokens: int | None
    """What a search may decode for a prompt; ``None`` for a plain sample."""
    searches: int
    prompt_strict: float
    prompt_loose: float
    instruction_strict: float
    instruction_loose: float
    groups: Mapping[str, float]
    """Instruction-level strict accuracy by :data:`GROUPS`."""
    kinds: Mapping[str, Mapping[str, float]]
    """By kind: ``instructions``, and the accuracies ``strict`` and ``loose``."""
    reward: float
    decoded_tokens: float
    reward_calls: float
    seconds: float | None
    """Of a search; ``None`` where several ran at a time."""
    differences: Mapping[str, Mapping[str, Estimate]]
    """By another method's label: ``prompt_strict``, and the groups."""


@dataclass(frozen=True)
class Summary:
    """What a run found."""

    prompts: int
    instructions: int
    group_sizes: Mapping[str, int]
    seeds: tuple[int, ...]
    against: tuple[str, ...]
    methods: tuple[MethodSummary, ...]


Counts = dict[int | str, tuple[float, int]]
"""By a prompt's key: how many were followed, and of how many."""


def summary(
    methods: Sequence[Method], prompts: Sequence[Prompt], records: Sequence[Record], against: Sequence[str] = ()
) -> Summary:
    """Accuracies and paired differences.

    Args:
        methods: who took part, in the order of the table.
        prompts: the prompts.
        records: what :func:`~darwin_align.evaluation.ifeval.run.measure` returned.
        against: labels of those that all others are compared with.

    Raises:
        ConfigError: no method has such a label, or two share one.
    """
    check_labels(methods, against)
    tallies = {one.label: _Tally(prompts, [r for r in records if r["method"] == one.text]) for one in methods}
    sizes = {group: sum(one.decides == group for prompt in prompts for one in prompt.instructions) for group in GROUPS}
    return Summary(
        len(prompts),
        sum(sizes.values()),
        sizes,
        tuple(sorted({int(record["seed"]) for record in records})),
        tuple(against),
        tuple(_summed(one, tallies, [label for label in against if label != one.label]) for one in methods),
    )


class _Tally:
    """Counts over one method's records."""

    def __init__(self, prompts: Sequence[Prompt], records: Sequence[Record]) -> None:
        self.records = records
        self._prompts = {prompt.key: prompt for prompt in prompts}

    def counts(self, reading: str, chosen: Callable[[str, str], bool] = lambda *_: True) -> Counts:
        """Instructions that were followed, those chosen by kind and group."""
        found: Counts = {}
        for record in self.records:
            instructions = self._prompts[record["key"]].instructions
            marks = [
                mark for mark, one in zip(record[reading], instructions, strict=True) if chosen(one.kind, one.decides)
            ]
            kept, number = found.get(record["key"], (0, 0))
            found[record["key"]] = (kept + sum(marks), number + len(marks))
        return found

    def group(self, name: str) -> Counts:
        """Instructions of a group that were strictly followed."""
        return self.counts("strict", lambda _, group: group == name)

    def whole(self, reading: str) -> Counts:
        """Prompts all of whose instructions were followed."""
        found: Counts = {}
        for record in self.records:
            kept, number = found.get(record["key"], (0, 0))
            found[record["key"]] = (kept + all(record[reading]), number + 1)
        return found

    def mean(self, figure: str) -> float:
        """Mean over the searches that have the figure."""
        return fmean([float(record[figure]) for record in self.records if record.get(figure) is not None] or [0.0])


def _summed(method: Method, tallies: Mapping[str, _Tally], against: Sequence[str]) -> MethodSummary:
    tally = tallies[method.label]
    kinds = sorted({one.kind for prompt in tally._prompts.values() for one in prompt.instructions})
    return MethodSummary(
        label=method.label,
        text=method.text,
        tokens=method.config.budget.tokens,
        searches=len(tally.records),
        prompt_strict=_share(tally.whole("strict")),
        prompt_loose=_share(tally.whole("loose")),
        instruction_strict=_share(tally.counts("strict")),
        instruction_loose=_share(tally.counts("loose")),
        groups={group: _share(tally.group(group)) for group in GROUPS},
        kinds={kind: _of_kind(tally, kind) for kind in kinds},
        reward=tally.mean("reward"),
        decoded_tokens=tally.mean("decoded_tokens"),
        reward_calls=tally.mean("reward_calls"),
        seconds=tally.mean("seconds") if all("seconds" in record for record in tally.records) else None,
        differences={label: _differences(tally, tallies[label]) for label in against},
    )


def _of_kind(tally: _Tally, kind: str) -> dict[str, float]:
    strict, loose = (tally.counts(reading, lambda one, _: one == kind) for reading in ("strict", "loose"))
    return {"instructions": sum(n for _, n in strict.values()), "strict": _share(strict), "loose": _share(loose)}


def _share(counts: Counts) -> float:
    number = sum(n for _, n in counts.values())
    return sum(kept for kept, _ in counts.values()) / number if number else 0.0


def _differences(mine: _Tally, other: _Tally) -> dict[str, Estimate]:
    pairs = {"prompt_strict": (mine.whole("strict"), other.whole("strict"))}
    pairs |= {group: (mine.group(group), other.group(group)) for group in GROUPS}
    return {name: _difference(*both) for name, both in pairs.items()}


def _difference(mine: Counts, other: Counts) -> Estimate:
    """Of two shares, prompts drawn with replacement."""
    more = [mine[key][0] - other[key][0] for key in mine]
    found = Bootstrap(len(mine), _RESAMPLE_SEED).ratio(more, [number for _, number in mine.values()])
    return found or Estimate(0.0, 0.0, 0.0)


# -- as text and data


def plain(found: Summary) -> dict[str, Any]:
    """The summary as JSON data."""
    return asdict(found)


def table(found: Summary) -> str:
    """The summary as lines of text; accuracies in percent."""
    sizes = found.group_sizes
    heads = ["", "prompt", "loose", "instr.", "loose"]
    heads += [f"{name} ({sizes[group]})" for group, name in _GROUP_HEADS.items()] + ["tokens", "limit"]
    rows = [heads, *(_cells(one) for one in found.methods)]
    text = f"{found.prompts} prompts, {found.instructions} instructions; accuracies in percent\n\n{text_table(rows)}"
    for label in found.against:
        others = [one for one in found.methods if label in one.differences]
        rows = [[f"less {label}", "prompt", *_GROUP_HEADS.values()]]
        rows += [[one.label, *map(points, one.differences[label].values())] for one in others]
        text += f"\n\n{text_table(rows)}" if others else ""
    return text


def points(one: Estimate) -> str:
    """A difference in percentage points.

    >>> points(Estimate(0.1, -0.017, 0.217))
    '+10.0 [-1.7, 21.7]'
    """
    return f"{100 * one.mean:+.1f} [{100 * one.low:.1f}, {100 * one.high:.1f}]"


_GROUP_HEADS = {"broken": "can break", "kept": "can fulfil", "end": "whole only"}


def _cells(one: MethodSummary) -> list[str]:
    shares = (one.prompt_strict, one.prompt_loose, one.instruction_strict, one.instruction_loose, *one.groups.values())
    limit = "one answer" if one.tokens is None else str(one.tokens)
    return [one.label, *(f"{100 * share:.1f}" for share in shares), f"{one.decoded_tokens:.0f}", limit]
