"""Pictures as SVG: one of a cycle's lineage, one of the rewards. Colours and fonts are the page's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from math import floor, isfinite, log10

from darwin_align.core.result import SearchResult
from darwin_align.traces.lineage import CycleLineage, Lane, Lineage
from darwin_align.traces.markup import Markup, columns, count, element, number
from darwin_align.traces.words import changes

__all__ = ["COLOURS", "colour", "key", "lineage_picture", "name", "parts_strip", "reward_picture", "story"]

COLOURS = 8
"""Hues of the page. Beams further down take them again, dashed; every one is named by its number, too."""

_LABEL, _REWARD = 256, 122
_WIDEST = 1200
"""What is wider keeps its size and scrolls."""
_SEPARATORS = " \t\n.,;:?!。，；：？！"
_Place = Callable[[int, int], tuple[float, float]]
"""From a step and a beam to a point of the picture; step -1 is where a cycle starts."""


def name(lane: Lane) -> str:
    """How a beam is called within its cycle."""
    return "first" if lane.first_response else str(lane.beam + 1)


def key(lane: Lane) -> str:
    """The id of a beam's panel."""
    return f"beam-{lane.cycle + 1}-{lane.beam + 1}"


def colour(lane: Lane) -> str:
    """The classes of a beam's colour."""
    if lane.first_response:
        return "plain"
    return f"c{lane.beam % COLOURS}" + (" again" if lane.beam // COLOURS % 2 else "")


def trail(lane: Lane) -> list[tuple[int, int]]:
    """The steps of a beam's state, each with the beam that decoded then."""
    return [(piece.step, piece.beam) for piece in lane.pieces]


def lineage_picture(cycle: CycleLineage, lineage: Lineage, kept: Iterable[str], most_steps: int) -> Markup:
    """Draw one cycle: beams are lines from left to right, and a line that bends took another beam's state.

    Args:
        cycle: what to draw.
        lineage: the whole, for the answer's path.
        kept: instructions that ended in the archive.
        most_steps: steps of the longest cycle, so that all pictures have one scale.
    """
    wide, high = _steps_wide(most_steps), 26 if len(cycle.lanes) <= 8 else 20
    last = max((_end(lane) for lane in cycle.lanes), default=0)
    width, top = _LABEL + wide * (last + 1.5) + _REWARD, 26.0

    def place(step: int, beam: int) -> tuple[float, float]:
        return _LABEL + wide * (step + 1), top + high * (beam + 0.5)

    height = top + high * len(cycle.lanes) + 6
    title = f"picture-{cycle.cycle + 1}"
    return element(
        "svg",
        element("title", f"Lineage of cycle {cycle.cycle + 1}: {_counts(cycle)}", id=title),
        _ticks(cycle.steps, wide, top, height),
        element("path", d="".join(_edge(place, *edge) for edge in _edges(cycle, taken=False)), class_="edges"),
        element("path", d="".join(_edge(place, *edge) for edge in _edges(cycle, taken=True)), class_="edges taken"),
        element("path", d="".join(_waiting(lane, place, last) for lane in cycle.lanes), class_="edges waiting"),
        _dots(cycle, place),
        *(_beam(lane, cycle, place, (width, high), _standing(lane, lineage, kept)) for lane in cycle.lanes),
        *(_path(lineage.answer, cycle, place, width) if lineage.answer.cycle == cycle.cycle else ()),
        viewBox=f"0 0 {_n(width)} {_n(height)}",
        width=_n(width),
        height=_n(height),
        role="group",
        aria_labelledby=title,
        class_="lineage" + (" dense" if wide < 24 else "") + (" wide" if width > _WIDEST else ""),
    )


def _steps_wide(steps: int) -> float:
    return max(10.0, min(84.0, 640 / (steps + 0.5)))


def _counts(cycle: CycleLineage) -> str:
    taken = sum(point.took is not None for lane in cycle.lanes for point in lane.points)
    return f"{count(len(cycle.lanes), 'beam')}, {count(cycle.steps, 'step')}, {count(taken, 'state')} taken over"


def _ticks(steps: int, wide: float, top: float, height: float) -> Markup:
    every = next(every for every in (1, 2, 5, 10, 20, 50, 10**9) if every * wide >= 22)
    at = [step for step in range(steps) if (step + 1) % every == 0 or every == 1]
    lines = "".join(f"M{_n(_LABEL + wide * (step + 1))} {_n(top - 4)}V{_n(height - 6)}" for step in at)
    labels = [element("text", str(step + 1), x=_n(_LABEL + wide * (step + 1)), y="14") for step in at]
    head = element("text", "step", x=_n(_LABEL - 8), y="14", class_="end")
    return element("g", element("path", d=lines), head, *labels, class_="ticks", aria_hidden="true")


def _edges(cycle: CycleLineage, *, taken: bool) -> Iterator[tuple[int, int, int]]:
    """Step, the beam that was gone on from, the beam that went on; also to a finished state that was taken."""
    for lane in cycle.lanes:
        for point in lane.points:
            if (point.source != lane.beam) == taken:
                yield point.step, point.source, lane.beam
        last = lane.points[-1] if lane.points else None
        if taken and last and _ended_by_taking(lane):
            yield last.step + 1, last.took or 0, lane.beam


def _ended_by_taking(lane: Lane) -> bool:
    return bool(lane.points) and lane.points[-1].took is not None and lane.finish_reason is not None


def _end(lane: Lane) -> int:
    """The step at which a beam's line ends; one that took a finished state has that a step later."""
    return lane.points[-1].step + _ended_by_taking(lane) if lane.points else 0


def _waiting(lane: Lane, place: _Place, last: int) -> str:
    """A finished beam goes on to be a donor."""
    (x, y), (to_x, _) = place(_end(lane), lane.beam), place(last, lane.beam)
    waits = lane.finish_reason and lane.alive and not lane.first_response and x < to_x
    return f"M{_n(x)} {_n(y)}H{_n(to_x)}" if waits else ""


def _edge(place: _Place, step: int, source: int, beam: int) -> str:
    (x, y), (to_x, to_y) = place(step - 1, source), place(step, beam)
    if source == beam:
        return f"M{_n(x)} {_n(y)}H{_n(to_x)}"
    bend = (x + to_x) / 2
    return f"M{_n(x)} {_n(y)}C{_n(bend)} {_n(y)} {_n(bend)} {_n(to_y)} {_n(to_x)} {_n(to_y)}"


def _dots(cycle: CycleLineage, place: _Place) -> Markup:
    kinds: dict[str, list[str]] = {"best": [], "rest": []}
    for lane in cycle.lanes:
        for point in lane.points:
            x, y = place(point.step, lane.beam)
            kinds["best" if point.won else "rest"].append(f"M{_n(x)} {_n(y)}h0")
    return element(
        "g",
        *(element("path", d="".join(dots), class_=kind) for kind, dots in kinds.items()),
        class_="dots",
        aria_hidden="true",
    )


def _beam(lane: Lane, cycle: CycleLineage, place: _Place, size: tuple[float, float], standing: set[str]) -> Markup:
    (width, high), (_, y) = size, place(0, lane.beam)
    chip = 38 if lane.first_response else 26
    end = width - _REWARD
    return element(
        "a",
        element("title", story(lane, "kept" in standing)),
        element("rect", x="1", y=_n(y - high / 2 + 1), width=_n(width - 2), height=_n(high - 2), rx="5", class_="hit"),
        element("text", _label(lane, cycle), x="8", y=_n(y + 4), class_="words"),
        element("rect", x=_n(_LABEL - 8 - chip), y=_n(y - 8.5), width=_n(chip), height="17", rx="4"),
        element("text", name(lane), x=_n(_LABEL - 8 - chip / 2), y=_n(y + 4), class_="name"),
        element("path", d="".join(_edge(place, *edge) for edge in _own_edges(lane)), class_="trail"),
        *_ends(lane, place),
        element("text", number(lane.reward), x=_n(end + 42), y=_n(y + 4), class_="end value"),
        element("text", "◆", x=_n(end + 50), y=_n(y + 4), class_="kept") if "kept" in standing else Markup(),
        href=f"#{key(lane)}",
        class_=" ".join(["beam", colour(lane), *sorted(standing - {"kept"})]),
    )


def _standing(lane: Lane, lineage: Lineage, kept: Iterable[str]) -> set[str]:
    facts = {"kept": lane.instruction in set(kept), "won": lane.place == lineage.winner, "gone": not lane.alive}
    return {fact for fact, holds in facts.items() if holds}


def _own_edges(lane: Lane) -> list[tuple[int, int, int]]:
    steps = trail(lane)
    before = [steps[0][1], *(beam for _, beam in steps)] if steps else []
    return [(step, source, beam) for (step, beam), source in zip(steps, before, strict=False)]


def _ends(lane: Lane, place: _Place) -> Iterator[Markup]:
    """Where a beam's own line ends: finished, cut at the limit, dropped, or with a finished state that it took."""
    if not lane.points:
        return
    last = lane.points[-1]
    x, y = place(last.step, lane.beam)
    if last.dropped:
        yield element("path", d=f"M{_n(x - 4)} {_n(y - 4)}l8 8m0 -8l-8 8", class_="dropped")
    elif last.finish_reason:
        yield _mark(x, y, last.finish_reason)
    elif lane.finish_reason and _ended_by_taking(lane):
        yield _mark(*place(_end(lane), lane.beam), lane.finish_reason)


def _mark(x: float, y: float, reason: str) -> Markup:
    if reason == "length":
        return element("rect", x=_n(x - 4), y=_n(y - 4), width="8", height="8", class_="mark")
    return element("circle", cx=_n(x), cy=_n(y), r="4.5", class_="mark")


def _label(lane: Lane, cycle: CycleLineage) -> str:
    """The words by which an instruction differs from its parent."""
    if lane.first_response:
        return "plain sample"
    new = (part.text for part in changes(cycle.parent, lane.instruction) if part.kind == "added")
    added = " … ".join(filter(None, (text.strip(_SEPARATORS) for text in new)))
    return columns(added, 26) if added else "(as its parent)"


def story(lane: Lane, kept: bool) -> str:
    """Describe a beam in a sentence, for screen readers."""
    who = "The plain sample" if lane.first_response else f"Beam {lane.beam + 1} of cycle {lane.cycle + 1}"
    took = [f"took the state of beam {p.took + 1} after step {p.step + 1}" for p in lane.points if p.took is not None]
    more = [f"and so on, {count(len(took), 'time')} in all"] if len(took) > 3 else []
    how = {
        "stop": "ended",
        "length": "was cut at the limit",
        "tool_calls": "ended with a tool call",
        None: "unfinished",
    }
    end = how[lane.finish_reason] if lane.alive else "was dropped"
    last = [f"{end}, reward {number(lane.reward)}", *(["kept in the archive"] if kept else [])]
    return f"{who}: {', '.join([*took[:3], *more, *last])}."


def _path(answer: Lane, cycle: CycleLineage, place: _Place, width: float) -> Iterator[Markup]:
    """The answer's path, in the colour of the beam that decoded each step."""
    edges = _own_edges(answer)
    for step, source, beam in edges:
        yield element("path", d=_edge(place, step, source, beam), class_=f"path {colour(cycle.lanes[beam])}")
    if edges:
        step, _, beam = edges[-1]
        x, y = place(step, beam)
        yield element("circle", cx=_n(x), cy=_n(y), r="5.5", class_=f"goal {colour(cycle.lanes[beam])}")
    _, y = place(0, answer.beam)
    yield element("text", "answer", x=_n(width - _REWARD + 68), y=_n(y + 4), class_="answer")


def parts_strip(lane: Lane, cycle: CycleLineage) -> Markup:
    """Draw how much of a text came from which beam, in the order of the text."""
    total, x, bars = max(1, len(lane.text)), 0.0, []
    for piece in lane.pieces:
        width = 1000 * len(piece.text) / total
        author = colour(cycle.lanes[piece.beam])
        bars.append(element("rect", x=_n(x), y="0", width=_n(width), height="6", class_=f"bar {author}"))
        x += width
    return element(
        "svg",
        *bars,
        viewBox="0 0 1000 6",
        preserveAspectRatio="none",
        class_="strip",
        aria_hidden="true",
    )


def reward_picture(lineage: Lineage, result: SearchResult) -> Markup:
    """Draw every scored state: cycles side by side, the answer's own path in its colours."""
    left, right, top, bottom, gap = 54.0, 150.0, 26.0, 250.0, 30.0
    steps = sum(cycle.steps for cycle in lineage.cycles)
    wide = max(5.0, min(84.0, (846 - gap * len(lineage.cycles)) / max(1, steps)))
    y, ticks = _scale(list(_rewards(lineage)), top, bottom)
    panels, x = [], left
    for cycle in lineage.cycles:
        panels.append(_panel(cycle, lineage, partial(_at, x, wide, y), (x, wide, bottom)))
        x += wide * cycle.steps + gap
    width = max(x + right, 520.0)
    lines = "".join(f"M{_n(left)} {_n(y(tick))}H{_n(x)}" for tick in ticks)
    labels = [element("text", _tick(tick), x=_n(left - 10), y=_n(y(tick) + 4), class_="end") for tick in ticks]
    return element(
        "svg",
        element("title", _summary(lineage, result), id="picture-rewards"),
        element("g", element("path", d=lines), *labels, class_="ticks", aria_hidden="true"),
        *panels,
        *_references(lineage, result, left, x, y),
        viewBox=f"0 0 {_n(width)} {_n(bottom + 36)}",
        width=_n(width),
        height=_n(bottom + 36),
        role="img",
        aria_labelledby="picture-rewards",
        class_="rewards" + (" dense" if wide < 12 else "") + (" wide" if width > _WIDEST else ""),
    )


def _rewards(lineage: Lineage) -> Iterator[float]:
    for lane in lineage.lanes:
        yield from (point.reward for point in lane.points if point.reward is not None)


def _summary(lineage: Lineage, result: SearchResult) -> str:
    best = (
        f"cycle {cycle.cycle + 1} up to {number(max(ended))}"
        for cycle in lineage.cycles
        if (ended := [lane.reward for lane in cycle.lanes if lane.reward is not None])
    )
    first = number(result.first_response.reward)
    return f"Rewards by step: {', '.join(best)}; answer {number(result.reward)}, plain sample {first}."


def _scale(values: Sequence[float], top: float, bottom: float) -> tuple[Callable[[float], float], list[float]]:
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if low == high:
        low, high = low - 0.5 - abs(low) / 10, high + 0.5 + abs(high) / 10
    half = high / 2 - low / 2  # halves, for the whole of two huge numbers is not finite

    def y(value: float) -> float:
        return bottom - (bottom - top) * (value / 2 - low / 2) / half

    rough = half / 2.5
    step = 10.0 ** floor(log10(rough)) if rough > 0 and isfinite(10 * half) else 0.0
    step *= next((m for m in (1, 2, 2.5, 5, 10) if m * step >= rough), 1)
    first = floor(low / step) + 1 if step else 0
    ticks = [t * step for t in range(first, first + 12) if low <= t * step <= high] if step else [low, high]
    return y, ticks


def _tick(value: float) -> str:
    return f"{value:.4g}".replace("-", "−", 1)


def _at(x: float, wide: float, y: Callable[[float], float], step: int, reward: float) -> str:
    return f"{_n(x + wide * (step + 0.5))} {_n(y(reward))}"


def _panel(
    cycle: CycleLineage, lineage: Lineage, at: Callable[[int, float], str], box: tuple[float, float, float]
) -> Markup:
    x, wide, bottom = box
    lines = "".join(
        "M" + "L".join(at(p.step, p.reward) for p in lane.points if p.reward is not None)
        for lane in cycle.lanes
        if not lane.first_response and any(p.reward is not None for p in lane.points)
    )
    dots = "".join(f"M{at(p.step, p.reward)}h0" for lane in cycle.lanes for p in lane.points if p.reward is not None)
    title = f"Cycle {cycle.cycle + 1}" if wide * cycle.steps >= 48 else str(cycle.cycle + 1)
    every = next(every for every in (1, 2, 5, 10, 20, 50, 10**9) if every * wide >= 22)
    steps = [
        element("text", str(s), x=_n(x + wide * (s - 0.5)), y=_n(bottom + 22))
        for s in range(1, cycle.steps + 1)
        if s % every == 0
    ]
    return element(
        "g",
        element("g", element("text", title, x=_n(x), y="14", class_="start"), *steps, class_="ticks"),
        element("path", d=lines, class_="curves"),
        element("path", d=dots, class_="curve-dots"),
        *(_answer_curve(cycle, lineage.answer, at) if lineage.answer.cycle == cycle.cycle else ()),
    )


def _answer_curve(cycle: CycleLineage, answer: Lane, at: Callable[[int, float], str]) -> Iterator[Markup]:
    rewards = {(point.step, lane.beam): point.reward for lane in cycle.lanes for point in lane.points}
    seen = [(step, beam, r) for step, beam in trail(answer) if (r := rewards.get((step, beam))) is not None]
    for (step, _, reward), (then, beam, later) in pairwise(seen):
        line = f"M{at(step, reward)}L{at(then, later)}"
        yield element("path", d=line, class_=f"path {colour(cycle.lanes[beam])}")
    if seen:
        step, beam, reward = seen[-1]
        x, y = at(step, reward).split()
        yield element("circle", cx=x, cy=y, r="5.5", class_=f"goal {colour(cycle.lanes[beam])}")


def _references(
    lineage: Lineage, result: SearchResult, left: float, x: float, y: Callable[[float], float]
) -> Iterator[Markup]:
    first, best = lineage.first_response.reward, lineage.answer.reward
    heights = {}
    if first is not None:
        yield element("path", d=f"M{_n(left)} {_n(y(first))}H{_n(x)}", class_="reference")
        heights["plain"] = y(first)
    if best is not None and not result.best.first_response:
        heights["answer"] = y(best)
    if len(heights) == 2 and abs(gap := heights["plain"] - heights["answer"]) < 16:
        heights["plain"] += (16 - abs(gap)) * (1 if gap >= 0 else -1)  # labels keep clear of each other
    texts = {"plain": f"plain sample {number(first)}", "answer": f"answer {number(best)}"}
    for kind, height in heights.items():
        yield element("text", texts[kind], x=_n(x + 8), y=_n(height + 4), class_=f"start {kind}")


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
