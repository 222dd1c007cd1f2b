"""A comparison as a table of text, as JSON data, and as one page with plots."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from darwin_align.evaluation import chart_page
from darwin_align.evaluation.chart_page import Point
from darwin_align.evaluation.prompts.summary import FIGURES, MethodSummary, Summary

__all__ = ["page", "plain", "table"]

_HEADS: Mapping[str, str] = {
    "gold": "gold",
    "gold_at_length": "at length",
    "reward": "reward",
    "words": "words",
    "decoded_tokens": "decoded",
    "reward_calls": "scored",
    "reward_tokens": "read by reward",
    "seconds": "seconds",
    "reworded": "reworded",
    "guided": "guided",
    "unchanged": "unchanged",
    "wasted": "wasted",
}
_SHARES = ("reworded", "guided", "unchanged")
_AT_EQUAL = {"decoded_tokens": "tokens", "seconds": "seconds"}
_PLOTS = (
    ("decoded_tokens", "{} against tokens decoded"),
    ("seconds", "{} against seconds"),
    ("words", "{} against length in words"),
)


def plain(found: Summary) -> dict[str, Any]:
    """The summary as JSON data."""
    return asdict(found)


def table(found: Summary) -> str:
    """The summary as lines of text."""
    about = f"{found.prompts} prompts; differences of {found.judged_by}, paired by prompt, with 95% intervals"
    return f"{about}\n\n{chart_page.text_table(_rows(found))}"


def page(found: Summary) -> str:
    """One page without anything to load.

    Raises:
        ModuleNotFoundError: matplotlib is missing (extra ``plots``).
    """
    seeds = f"{len(found.seeds)} seed{'s' if len(found.seeds) > 1 else ''}"
    up = found.judged_by
    return chart_page.page(
        "Methods of the search, compared",
        f"Means over {found.prompts} prompts and {seeds}. Differences of {up} are paired by prompt, with 95% bootstrap "
        "intervals. At equal tokens, or seconds: less what best of n gets at the method's mean cost.",
        _rows(found),
        note="; ".join(f"{_HEADS[name]}: {FIGURES[name]}" for name in _shown(found)) + ".",
        plots_title=f"What {up} costs",
        plots=[_plot(found, across, title.format(up.capitalize())) for across, title in _PLOTS if _all(found, across)],
    )


def _shown(found: Summary) -> list[str]:
    return [name for name in FIGURES if any(name in one.means for one in found.methods)]


def _all(found: Summary, name: str) -> bool:
    return all(name in one.means for one in found.methods)


def _rows(found: Summary) -> list[list[str]]:
    names, costs = _shown(found), [cost for cost in _AT_EQUAL if any(cost in one.at_equal for one in found.methods)]
    less = [f"less {label}'s" for label in found.against]
    heads = ["", *less, *(f"at equal {_AT_EQUAL[cost]}" for cost in costs), *(_HEADS[name] for name in names)]
    return [heads, *(_cells(found, one, costs, names) for one in found.methods)]


def _cells(found: Summary, one: MethodSummary, costs: list[str], names: list[str]) -> list[str]:
    differences = [one.differences.get(label) for label in found.against] + [one.at_equal.get(cost) for cost in costs]
    shown = ["" if difference is None else difference.signed() for difference in differences]
    return [one.label, *shown, *(_figure(name, one) for name in names)]


def _figure(name: str, one: MethodSummary) -> str:
    if name not in one.means:
        return ""
    value = one.means[name].mean
    if name in _SHARES:
        return f"{100 * value:.0f}%"
    whole = name.endswith(("tokens", "calls", "words"))
    return f"{value:,.0f}" if whole else f"{value:.1f}" if name == "seconds" else f"{value:.3f}"


def _plot(found: Summary, across: str, title: str) -> str:
    up = found.judged_by
    points = [
        Point(
            one.label,
            one.means[across].mean,
            one.means[up].mean,
            one.means[up].low,
            one.means[up].high,
            f"{_figure(across, one)} and {_figure(up, one)}",
        )
        for one in found.methods
    ]
    return chart_page.plot(title, FIGURES[across], up, points, logarithmic=across != "words")
