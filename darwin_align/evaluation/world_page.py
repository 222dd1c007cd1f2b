"""What a run on the embedded world found, as a table of text, as JSON data, and as one page with plots."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict
from html import escape
from typing import Any

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
_POINT = "#2f6fde"
_LINE = 9.0
"""Height of a name, in points of print."""
_STYLE = """
:root { color-scheme: light dark; --ink: #1a1c20; --paper: #fff; --line: #d8dbe0; --soft: #666c76 }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e6ea; --paper: #15171a; --line: #34383f; --soft: #9aa1ac } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto;
  max-width: 70rem; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.1rem; margin-top: 2rem } p.note { color: var(--soft) }
div.wide { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap }
th:first-child, td:first-child { text-align: left }
div.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(26rem, 1fr)); gap: 1.5rem }
figure { margin: 0 } figure svg { width: 100%; height: auto; color: var(--ink) }
"""


def plain(found: Summary) -> dict[str, Any]:
    """The summary as JSON data."""
    return asdict(found)


def table(found: Summary) -> str:
    """The summary as lines of text."""
    rows = [_heads(found), *(_cells(found, standing) for standing in found.standings)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        first, *rest = row
        lines.append(
            "  ".join([first.ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(rest, widths[1:], strict=True))])
        )
    return "\n".join(line.rstrip() for line in lines)


def _shown(found: Summary) -> list[str]:
    return [name for name in FIGURES if any(name in standing.means for standing in found.standings)]


def _heads(found: Summary) -> list[str]:
    first, *rest = (_HEADS[name] for name in _shown(found))
    return ["", first, *(f"less {label}'s" for label in found.against), *rest]


def _cells(found: Summary, standing: VariantSummary) -> list[str]:
    first, *rest = (_figure(name, standing.means.get(name)) for name in _shown(found))
    differences = [standing.differences.get(label) for label in found.against]
    return [standing.label, first, *("" if one is None else str(one) for one in differences), *rest]


def _figure(name: str, value: float | None) -> str:
    if value is None:
        return ""
    if name == "drifted":
        return f"{100 * value:.1f}%"
    return f"{value:,.0f}" if name.endswith(("tokens", "calls", "words")) else f"{value:.2f}"


# -- the page


def page(found: Summary) -> str:
    """One page without anything to load: the table and the plots.

    Raises:
        ModuleNotFoundError: matplotlib is missing (extra ``bench``).
    """
    head = "".join(f"<th scope=col>{escape(cell)}</th>" for cell in _heads(found))
    body = "\n".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in _cells(found, standing)) + "</tr>"
        for standing in found.standings
    )
    plots = "\n".join(_plot(found, *one) for one in _PLOTS if _drawable(found, one[0]))
    names = {"held_out": "held-out", "dev": "dev"}
    seeds = f"{len(found.seeds)} seed{'s' if len(found.seeds) > 1 else ''}"
    meanings = "; ".join(f"{_HEADS[name]}: {FIGURES[name]}" for name in _shown(found))
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>The embedded world: what each setting is worth</title>
<style>{_STYLE}</style>
<h1>The embedded world: what each setting is worth</h1>
<p>Means over {found.instructions} {names[found.split]} instructions and {seeds}. Differences of gold are paired by
instruction, with 95% bootstrap intervals.</p>
<div class="wide"><table>
<thead><tr>{head}</tr></thead>
<tbody>
{body}
</tbody>
</table></div>
<p class="note">{escape(meanings)}.</p>
<h2>What it costs, and what it follows</h2>
<div class="plots">
{plots}
</div>
</html>
"""


def _drawable(found: Summary, name: str) -> bool:
    return all(name in standing.means for standing in found.standings)


def _plot(found: Summary, across: str, up: str, title: str) -> str:
    drawing = _drawn(found, across, up)
    label = "; ".join(
        f"{one.label}: {_figure(across, one.means[across])} and {_figure(up, one.means[up])}" for one in found.standings
    )
    drawing = drawing.replace("<svg ", f'<svg role="img" aria-label="{escape(f"{title}. {label}")}" ', 1)
    return f"<figure>{drawing}<figcaption>{escape(title)}</figcaption></figure>"


def _drawn(found: Summary, across: str, up: str) -> str:
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullFormatter

    settings: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": "darwin_align",
        "font.family": "sans-serif",
        "font.size": 9,
    }
    with mpl.rc_context(settings):
        figure = Figure(figsize=(6, 4), layout="constrained")
        axes: Any = figure.subplots()
        for one in found.standings:
            x, y = one.means[across], one.means[up]
            low, high = one.intervals[up]
            spread = [[max(0.0, y - low)], [max(0.0, high - y)]]
            axes.errorbar([x], [y], yerr=spread, fmt="o", color=_POINT, elinewidth=1, capsize=2, markersize=4)
        if across.endswith(("tokens", "calls", "seconds")):
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
        axes.margins(x=0.2)
        axes.set_xlabel(FIGURES[across])
        axes.set_ylabel(_HEADS[up])
        axes.spines[["top", "right"]].set_visible(False)
        figure.draw_without_rendering()
        _label(axes, [(one.means[across], one.means[up], one.label) for one in found.standings])
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return _in_ink(file.getvalue()[file.getvalue().index("<svg") :])


def _label(axes: Any, points: list[tuple[float, float, str]]) -> None:
    """Name the points, lowest first, each name moved up until it covers none that is there."""
    boxes: list[tuple[float, float, float]] = []  # left, right and middle, in points of print
    for x, y, label in sorted(points, key=lambda point: point[1]):
        left, middle = axes.transData.transform((x, y)) * 72 / axes.figure.dpi
        right, rise = left + 5 * len(label), 0.0
        while any(left < end and start < right and abs(middle + rise - other) < _LINE for start, end, other in boxes):
            rise += 1.0
        boxes.append((left, right, middle + rise))
        axes.annotate(label, (x, y), xytext=(5, rise), textcoords="offset points", va="center", fontsize=8)


def _in_ink(drawing: str) -> str:
    """Black takes the page's own colour, so that the drawing can be read on a dark page; ids stay apart by drawing."""
    swap: Callable[[re.Match[str]], str] = lambda match: f"{match[1]}currentColor"  # noqa: E731
    return re.sub(r"((?:fill|stroke): ?)#(?:000000|262626)", swap, drawing)
