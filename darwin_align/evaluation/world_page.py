"""What a run on the embedded world found, as a table of text, as JSON data, and as one page with plots."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from darwin_align.evaluation import chart_page
from darwin_align.evaluation.chart_page import Point
from darwin_align.evaluation.world import FIGURES, Summary, VariantSummary

__all__ = ["page", "plain", "table"]

_HEADS: Mapping[str, str] = {
    "gold": "gold",
    "reward": "reward",
    "decoded_tokens": "decoded",
    "prefilled_tokens": "read",
    "reward_tokens": "read by reward",
    "reward_calls": "reward calls",
    "seconds": "seconds",
    "cpu_seconds": "CPU seconds",
    "words": "words",
    "drifted": "drifted",
}
_PLOTS = (
    ("decoded_tokens", "gold", "Gold against tokens decoded"),
    ("reward_calls", "gold", "Gold against reward calls"),
    ("seconds", "gold", "Gold against seconds"),
    ("reward", "gold", "Gold against the proxy that is followed"),
    ("words", "gold", "Gold against length in words"),
)


def plain(found: Summary) -> dict[str, Any]:
    """The summary as JSON data."""
    return asdict(found)


def table(found: Summary) -> str:
    """The summary as lines of text."""
    return chart_page.text_table(_rows(found))


def _rows(found: Summary) -> list[list[str]]:
    return [_heads(found), *(_cells(found, standing) for standing in found.standings)]


def _shown(found: Summary) -> list[str]:
    return [name for name in FIGURES if any(name in standing.means for standing in found.standings)]


def _heads(found: Summary) -> list[str]:
    first, *rest = (_HEADS[name] for name in _shown(found))
    return ["", first, *(f"less {label}'s" for label in found.against), *rest]


def _cells(found: Summary, standing: VariantSummary) -> list[str]:
    first, *rest = (_figure(name, standing.means.get(name)) for name in _shown(found))
    differences = [standing.differences.get(label) for label in found.against]
    return [standing.label, first, *("" if one is None else one.signed(2) for one in differences), *rest]


def _figure(name: str, value: float | None) -> str:
    if value is None:
        return ""
    if name == "drifted":
        return f"{100 * value:.1f}%"
    return f"{value:,.0f}" if name.endswith(("tokens", "calls", "words")) else f"{value:.2f}"


def page(found: Summary) -> str:
    """One page without anything to load: the table and the plots.

    Raises:
        ModuleNotFoundError: matplotlib is missing (extra ``plots``).
    """
    names = {"held_out": "held-out", "dev": "dev"}
    seeds = f"{len(found.seeds)} seed{'s' if len(found.seeds) > 1 else ''}"
    meanings = "; ".join(f"{_HEADS[name]}: {FIGURES[name]}" for name in _shown(found))
    return chart_page.page(
        "The embedded world: what each setting is worth",
        f"Means over {found.instructions} {names[found.split]} instructions and {seeds}. Differences of gold are "
        "paired by instruction, with 95% bootstrap intervals.",
        _rows(found),
        note=f"{meanings}.",
        plots_title="What it costs, and what it follows",
        plots=[_plot(found, *one) for one in _PLOTS if _drawable(found, one[0])],
    )


def _drawable(found: Summary, name: str) -> bool:
    return all(name in standing.means for standing in found.standings)


def _plot(found: Summary, across: str, up: str, title: str) -> str:
    points = [
        Point(
            one.label,
            one.means[across],
            one.means[up],
            *one.intervals[up],
            f"{_figure(across, one.means[across])} and {_figure(up, one.means[up])}",
        )
        for one in found.standings
    ]
    logarithmic = across.endswith(("tokens", "calls", "seconds"))
    return chart_page.plot(title, FIGURES[across], _HEADS[up], points, logarithmic=logarithmic)
