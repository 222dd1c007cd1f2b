"""The same pictures by matplotlib (extra ``bench``), for papers and notebooks."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from darwin_align.core.errors import ConfigError
from darwin_align.core.record import did_you_mean
from darwin_align.trace.lineage import CycleLineage, Lineage
from darwin_align.trace.markup import number

try:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator
except ImportError:
    raise ConfigError("plots need matplotlib: pip install 'darwin-align[bench]', or use to_html()") from None

if TYPE_CHECKING:
    from darwin_align.trace.record import Trace

__all__ = ["plot"]

_COLOURS = ("#0840cd", "#f1670d", "#197d71", "#81077b", "#8c5800", "#d05ab9", "#2c1245", "#408ffb")
"""Those of the page."""
_GREY, _DARK = "#aeb5bf", "#5a6472"


def plot(trace: Trace, kind: str) -> Figure:
    """Draw one picture of a search; nothing of pyplot's global state is touched.

    Raises:
        ConfigError: there is no such plot.
    """
    kinds: dict[str, Callable[[Trace], Figure]] = {"rewards": _rewards, "lineage": _lineages, "dynamics": _dynamics}
    if kind not in kinds:
        raise ConfigError(f"there is no plot {kind!r}: {did_you_mean(kind, kinds)}")
    return kinds[kind](trace)


def _panels(lineage: Lineage, high: float, *, down: bool) -> tuple[Figure, list[Axes]]:
    cycles = len(lineage.cycles)
    figure = Figure(figsize=(9, high * cycles if down else high), layout="constrained")
    shape = (cycles, 1) if down else (1, cycles)
    panels: list[Axes] = list(figure.subplots(*shape, sharey=not down, sharex=down, squeeze=False).flat)
    for cycle, panel in zip(lineage.cycles, panels, strict=True):
        panel.spines[["top", "right"]].set_visible(False)
        panel.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
        panel.set_title(f"cycle {cycle.cycle + 1}", loc="left", fontsize="medium")
        panel.set_xlabel("step")
        panel.label_outer()
    return figure, panels


def _rewards(trace: Trace) -> Figure:
    lineage, first = trace.lineage(), trace.result.first_response.reward
    figure, panels = _panels(lineage, 3.6, down=False)
    for cycle, panel in zip(lineage.cycles, panels, strict=True):
        for lane in cycle.lanes:
            seen = [(p.step + 1, p.reward) for p in lane.points if p.reward is not None and not lane.first_response]
            panel.plot([x for x, _ in seen], [y for _, y in seen], color=_GREY, linewidth=0.9, marker=".", markersize=4)
        if first is not None:
            panel.axhline(first, color=_DARK, linewidth=0.9, linestyle="--", label=f"plain sample {number(first)}")
        if cycle.cycle == lineage.winner[0]:
            _answer_curve(panel, cycle, lineage)
        if panel.get_legend_handles_labels()[0]:
            panel.legend(frameon=False, fontsize="small")
    panels[0].set_ylabel("reward")
    return figure


def _answer_curve(panel: Axes, cycle: CycleLineage, lineage: Lineage) -> None:
    rewards = {(p.step, lane.beam): p.reward for lane in cycle.lanes for p in lane.points}
    own = [(piece.step, piece.beam) for piece in lineage.answer.pieces]
    seen = [(step + 1, reward) for step, beam in own if (reward := rewards.get((step, beam))) is not None]
    colour = _COLOURS[lineage.answer.beam % len(_COLOURS)]
    label = f"answer {number(lineage.answer.reward)}"
    panel.plot([x for x, _ in seen], [y for _, y in seen], color=colour, linewidth=2.2, marker="o", label=label)


def _lineages(trace: Trace) -> Figure:
    lineage = trace.lineage()
    high = 0.6 + 0.24 * max(len(cycle.lanes) for cycle in lineage.cycles)
    figure, panels = _panels(lineage, high, down=True)
    for cycle, panel in zip(lineage.cycles, panels, strict=True):
        _lineage(panel, cycle, lineage)
    return figure


def _lineage(panel: Axes, cycle: CycleLineage, lineage: Lineage) -> None:
    for lane in cycle.lanes:
        for p in lane.points:
            start = lane.beam if p.step == 0 else p.source
            panel.plot([p.step, p.step + 1], [start, lane.beam], color=_GREY, linewidth=1)
            panel.plot([p.step + 1], [lane.beam], color=_DARK if p.won else _GREY, marker=".", markersize=6)
    if cycle.cycle == lineage.winner[0]:
        before = None
        for piece in lineage.answer.pieces:
            start = piece.beam if before is None else before
            colour = _COLOURS[piece.beam % len(_COLOURS)]
            panel.plot([piece.step, piece.step + 1], [start, piece.beam], color=colour, linewidth=2.6)
            before = piece.beam
    names = ["first" if lane.first_response else str(lane.beam + 1) for lane in cycle.lanes]
    panel.set_yticks(range(len(names)), names)
    panel.invert_yaxis()
    panel.set_ylabel("beam")


def _dynamics(trace: Trace) -> Figure:
    dynamics = trace.dynamics()
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
    axes.set(xlabel="replacement step", ylim=(-0.03, 1.03))
    steps = dynamics.by_step()
    curves = {
        "winning instruction among the best": [(s.step + 1, s.has_winner) for s in steps],
        "Jaccard similarity": [(s.step + 1, s.jaccard) for s in steps if s.jaccard is not None],
        f"rank-biased overlap, p = {dynamics.p}": [(s.step + 1, s.overlap) for s in steps if s.overlap is not None],
    }
    for (label, seen), colour, marker in zip(curves.items(), _COLOURS, "os^", strict=False):
        axes.plot([x for x, _ in seen], [y for _, y in seen], color=colour, marker=marker, markersize=4, label=label)
    axes.legend(frameon=False, fontsize="small")
    return figure
