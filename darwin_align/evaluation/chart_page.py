"""One page without anything to load: a table, and plots whose points bear names."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

__all__ = ["Point", "page", "plot", "text_table"]

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


@dataclass(frozen=True)
class Point:
    """A point of a plot."""

    label: str
    x: float
    y: float
    low: float
    high: float
    """Ends of the interval of ``y``."""
    shown: str
    """Its numbers in words, for those who cannot see the plot."""


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as lines of text: the first column on the left, the others on the right.

    >>> print(text_table([["", "gold"], ["sample", "1.2"]]))
            gold
    sample   1.2
    """
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = (
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def page(
    title: str, about: str, rows: Sequence[Sequence[str]], *, note: str, plots_title: str, plots: Sequence[str]
) -> str:
    """The page as HTML.

    Args:
        title: of the page.
        about: what was measured, in a sentence or two.
        rows: of the table, its heads first.
        note: what the columns mean.
        plots_title: above the plots.
        plots: what :func:`plot` returned.
    """
    head = "".join(f"<th scope=col>{escape(cell)}</th>" for cell in rows[0])
    body = "\n".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows[1:])
    drawings = "\n".join(plots)
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
<h1>{escape(title)}</h1>
<p>{escape(about)}</p>
<div class="wide"><table>
<thead><tr>{head}</tr></thead>
<tbody>
{body}
</tbody>
</table></div>
<p class="note">{escape(note)}</p>
<h2>{escape(plots_title)}</h2>
<div class="plots">
{drawings}
</div>
</html>
"""


def plot(title: str, across: str, up: str, points: Sequence[Point], *, logarithmic: bool) -> str:
    """A plot as an SVG figure.

    Raises:
        ModuleNotFoundError: matplotlib is missing (extra ``plots``).
    """
    label = "; ".join(f"{point.label}: {point.shown}" for point in points)
    drawing = _drawn(across, up, points, logarithmic)
    drawing = drawing.replace("<svg ", f'<svg role="img" aria-label="{escape(f"{title}. {label}")}" ', 1)
    return f"<figure>{drawing}<figcaption>{escape(title)}</figcaption></figure>"


def _drawn(across: str, up: str, points: Sequence[Point], logarithmic: bool) -> str:
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
        for one in points:
            spread = [[max(0.0, one.y - one.low)], [max(0.0, one.high - one.y)]]
            axes.errorbar([one.x], [one.y], yerr=spread, fmt="o", color=_POINT, elinewidth=1, capsize=2, markersize=4)
        if logarithmic:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
        axes.margins(x=0.2)
        axes.set_xlabel(across)
        axes.set_ylabel(up)
        axes.spines[["top", "right"]].set_visible(False)
        figure.draw_without_rendering()
        _label(axes, [(one.x, one.y, one.label) for one in points])
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
