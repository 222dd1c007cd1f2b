"""What a run on a pool found, as a table of text and as JSON data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from darwin_align.core.calibration import Calibration
from darwin_align.evaluation.intervals import Estimate
from darwin_align.evaluation.pools.figures import Overoptimisation, PoolFigures, Row

__all__ = ["plain", "table"]


def plain(found: PoolFigures, calibrations: dict[str, Calibration] | None = None) -> dict[str, Any]:
    """The figures as JSON data."""
    data = asdict(found)
    for entry, one in zip(data["overoptimisation"], found.overoptimisation, strict=True):
        entry["found"] = one.found
    picked = found.picked.items()
    data["picked"] = {
        name: {"prompts": n, "verdict": asdict(taken), "random": asdict(beside)} for name, (n, taken, beside) in picked
    }
    if calibrations:
        data["calibrations"] = {
            name: {"settings": one.settings, "prompts": one.prompts, "curve": [point._asdict() for point in one.curve]}
            for name, one in calibrations.items()
        }
    return data


def table(found: PoolFigures, calibrations: dict[str, Calibration] | None = None) -> str:
    """The figures as lines of text."""
    head = ("choice", "n", "verdict", "reward", "characters", "less best of n")
    lines = [
        f"{found.prompts} prompts, each shuffled {found.draws} times by seed {found.seed}; in brackets 95% intervals",
        "",
        *_aligned([head, *map(_cells, found.rows), *_references(found)]),
        "",
        *(_overoptimised(one) for one in found.overoptimisation),
        "",
        *_aligned(_agreement(found)),
    ]
    if found.picked:
        lines += ["", *_aligned([("recorded choices", "prompts", "verdict", "random there"), *_picked(found)])]
    if calibrations:
        lines += ["", *_aligned([("calibrated", "prompts", "settings"), *_calibrated(calibrations)])]
    return "\n".join(lines)


def _cells(row: Row) -> tuple[str, ...]:
    gain = row.gain.signed() if row.gain else ""
    return (row.choice, f"{row.n}", f"{row.verdict}", f"{row.reward:.4g}", f"{row.characters:,.0f}", gain)


def _references(found: PoolFigures) -> Iterable[tuple[str, ...]]:
    most = f"{max(row.n for row in found.rows)}"
    for name, n, estimate in (
        ("a random answer", "1", found.random),
        ("the longest", most, found.longest),
        ("the best verdict", most, found.oracle),
    ):
        yield (name, n, f"{estimate}", "", "", "")


def _overoptimised(one: Overoptimisation) -> str:
    if one.peak == one.last:
        return f"{one.choice}: the verdict is largest at the largest n ({one.last})"
    fact = (
        f"from n={one.peak} to n={one.last} the verdict changes by {one.fall.signed()} "
        f"and the reward by {one.rise:+.4g}"
    )
    if one.found:
        return f"{one.choice}: OVER-OPTIMISED, {fact}"
    return f"{one.choice}: no over-optimisation is shown, {fact}"


def _agreement(found: PoolFigures) -> list[tuple[str, str]]:
    return [
        ("rank correlation within a prompt", ""),
        ("  of reward and verdict", _known(found.reward_and_verdict)),
        ("  of reward and length", _known(found.reward_and_length)),
        ("  of length and verdict", _known(found.length_and_verdict)),
        (f"of {found.pairs:,} pairs with verdicts far apart", ""),
        ("  the reward has in order", _known(found.pair_accuracy)),
        ("  the longer answer is better", _known(found.pair_longer)),
    ]


def _known(estimate: Estimate | None) -> str:
    return "unknown: one of them never differs" if estimate is None else f"{estimate}"


def _picked(found: PoolFigures) -> Iterable[tuple[str, ...]]:
    for name, (n, taken, beside) in found.picked.items():
        yield (name, f"{n}", f"{taken}", f"{beside}")


def _calibrated(calibrations: dict[str, Calibration]) -> Iterable[tuple[str, ...]]:
    for name, one in calibrations.items():
        settings = " ".join(f"{key}={_short(value)}" for key, value in one.settings.items())
        yield (name, f"{one.prompts}", settings)


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else f"{value}"


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
