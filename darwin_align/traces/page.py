"""The page: one file of HTML, with its styles and its script in it and nothing outside it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from functools import cache
from html import escape
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING

from darwin_align.core.result import SearchResult
from darwin_align.core.types import Beam
from darwin_align.traces.lineage import CycleLineage, Lane, Lineage, Point
from darwin_align.traces.markup import Markup, count, cut, element, head, join, number, section, signed
from darwin_align.traces.picture import colour, key, lineage_picture, name, parts_strip, reward_picture
from darwin_align.traces.tables import archive, conversation, cost, settings
from darwin_align.traces.texts import LONGEST, boxed, folded, legend, parts, text
from darwin_align.traces.words import changes

if TYPE_CHECKING:
    from darwin_align.traces.record import Trace

__all__ = ["page", "snippet"]

_SNIP = 120
"""Characters of one step's text before its middle is left out."""
_ENDED = {"target_reward": "target reward reached", "patience": "no further gain"}
_KINDS = {"same": None, "added": "ins", "removed": "del"}


def page(trace: Trace) -> str:
    """Return the whole page.

    It grows with the answer and the plain sample, and beside them by at most 14,000 characters a beam and 500 a beam's
    step, on 60,000 of its own: 15 beams of 50 steps in three cycles take 1.3 MB.
    """
    result, lineage = trace.result, trace.lineage()
    sections = [
        _answer(result, lineage),
        _lineage(result, lineage),
        _rewards(result, lineage),
        _instructions(result, lineage),
        cost(trace.costs(), result),
        archive(result),
        settings(result),
        conversation(result),
    ]
    return _filled(
        "page.html",
        title=join(f"{cut(result.request.instruction, 80)} · DARWIN search"),
        header=_header(result, lineage),
        main=Markup("\n".join(sections)),
        script=_read("page.js"),
        script_hash=_hash(_read("page.js")),
    )


def snippet(trace: Trace) -> str:
    """Return the short form in a frame of its own: its styles cannot reach the notebook, and it runs no script."""
    result, lineage = trace.result, trace.lineage()
    cycle = lineage.cycles[lineage.winner[0]]
    rows = len(cycle.lanes)
    main = join(
        element("p", *_against(result), class_="quiet"),
        parts(lineage.answer, cycle),
        _figure(cycle, lineage, result) if rows else Markup(),
    )
    inner = _filled("snippet.html", title=join("DARWIN search"), main=main)
    lines = sum(1 + len(line) // 95 for line in result.text.splitlines()) + 1
    height = min(900, 90 + 26 * lines + (90 + 26 * rows if rows else 0))
    return (
        f'<iframe sandbox srcdoc="{escape(inner)}" title="DARWIN search" loading="lazy" width="100%" '
        f'height="{height}" style="border:0"></iframe>'
    )


@cache
def _read(file: str) -> str:
    return files("darwin_align.traces").joinpath(file).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _filled(template: str, **parts: str) -> str:
    style = _read("page.css")
    return Template(_read(template)).substitute(parts, style=style, style_hash=_hash(style))


def _header(result: SearchResult, lineage: Lineage) -> Markup:
    config, usage = result.config, result.usage
    others = sum(not lane.first_response for lane in lineage.lanes)
    steps = sum(cycle.steps for cycle in lineage.cycles)
    begun = count(result.cycles, "cycle") if result.cycles else "plain sample"
    facts = [
        _fact("Reward", number(result.reward), *_against_first(result)),
        _fact("Searched", begun, f"{count(others, 'beam')}, {count(steps, 'step')}" if others else "no search"),
        _fact("Decoded", count(usage.decoded_tokens), "tokens"),
        _fact("Scored", count(usage.reward_calls), "responses"),
        *_reworded(result),
        _fact("Time in models", f"{usage.seconds:.2f} s", f"seed {config.seed}"),
        _fact("Ended by", _ended(result), f"limit {count(config.max_new_tokens, 'token')}"),
    ]
    return join(
        element("p", "DARWIN search", class_="eyebrow"),
        element("h1", result.request.instruction, dir="auto", class_="instruction"),
        _failure(result),
        element("dl", *facts, class_="facts"),
    )


def _reworded(result: SearchResult) -> Iterator[Markup]:
    """How many places hold a rewording, where any were wanted and the recording says so."""
    found = result.exploration
    if found and found.places:
        by_model = found.accepted - found.filled_by_aspects
        parts = [f"{by_model} of {count(found.places, 'place')}"]
        parts += [f"guidance sentences fill {found.filled_by_aspects}"] if found.filled_by_aspects else []
        yield _fact("Reworded", *parts, f"{count(found.wasted_tokens, 'token')} wasted")


def _fact(label: str, value: str, *notes: str) -> Markup:
    small = [element("small", note) for note in notes]
    return element("div", element("dt", label), element("dd", value, *small))


def _against_first(result: SearchResult) -> Iterator[str]:
    first = result.first_response.reward
    if result.best.first_response:
        yield "the plain sample itself"
    elif first is not None and result.reward is not None:
        yield f"{signed(result.reward - first)} over the plain sample"


def _against(result: SearchResult) -> Iterator[str]:
    yield element("b", f"Reward {number(result.reward)}")
    for comparison in _against_first(result):
        yield f" · {comparison}"
    yield f" · {count(result.usage.decoded_tokens, 'token')} decoded · {_ended(result)}"


def _ended(result: SearchResult) -> str:
    if (reason := result.stop_reason) in _ENDED:
        return _ENDED[reason]
    kind, _, what = reason.partition(": ")
    return {
        "cycles": "all cycles done" if result.cycles else "its end",
        "budget": f"budget of {what.replace('_', ' ')}",
    }.get(kind, f"failure in {what}")


def _failure(result: SearchResult) -> Markup:
    if result.failure is None:
        return Markup()
    return element(
        "p",
        element("strong", f"The {result.stop_reason.removeprefix('failure: ')} operator failed for good. "),
        element("bdi", cut(result.failure, LONGEST)),
        element("br"),
        "What follows is the best that was scored until then.",
        class_="failure",
        role="note",
    )


def _answer(result: SearchResult, lineage: Lineage) -> Markup:
    answer, cycle = lineage.answer, lineage.cycles[lineage.winner[0]]
    authors = {piece.beam for piece in answer.pieces if piece.text}
    if result.best.first_response:
        lead = "The plain sample: no beam did better."
    elif len(authors) > 1:
        lead = f"Recombined: {len(authors)} beams of cycle {cycle.cycle + 1} wrote parts of it, named by number."
    else:
        lead = f"Beam {answer.beam + 1} of cycle {cycle.cycle + 1} wrote it from start to end."
    strip = parts_strip(answer, cycle) if len(authors) > 1 else Markup()
    title = element("h3", f"Answer, reward {number(result.reward)}")
    shown = boxed(parts(answer, cycle), len(answer.text))
    own = element("div", title, strip, *folded(answer.thoughts), shown, legend(answer, cycle))
    if result.best.first_response:
        return section("Answer", "answer", element("div", own, class_="answers single"), lead=lead)
    first = result.first_response
    other = element(
        "div",
        element("h3", f"Plain sample, reward {number(first.reward)}"),
        *folded(first.thoughts),
        boxed(text(first.text, "text other"), len(first.text)),
        *_calls(first),
    )
    return section("Answer", "answer", element("div", own, other, class_="answers"), lead=lead)


def _calls(beam: Beam) -> Iterator[Markup]:
    if not beam.valid:
        yield element("p", "Invalid: it loses to every valid answer.", class_="quiet")


def _lineage(result: SearchResult, lineage: Lineage) -> Markup:
    taken = any(point.took is not None for lane in lineage.lanes for point in lane.points)
    lead = "Every line is a beam, every dot a scored state. "
    if taken:
        lead += "Where a line bends, a beam went on with another's state. "
    lead += "Choose a beam for its details; the coloured line is the answer's lineage."
    return section("Lineage", "lineage", _key(), *(_figure(c, lineage, result) for c in lineage.cycles), lead=lead)


def _key() -> Markup:
    def sign(d: str, class_: str, label: str) -> Markup:
        path = element("path", d=d, class_=class_)
        return element(
            "li",
            element("svg", element("g", path, class_="dots beam"), width="16", height="12", aria_hidden="true"),
            label,
        )

    return element(
        "ul",
        sign("M8 6h0", "best", "among the best"),
        sign("M8 6h0", "rest", "not among them"),
        sign("M3.5 6a4.5 4.5 0 1 1 9 0a4.5 4.5 0 1 1 -9 0", "mark", "ended"),
        sign("M4 2h8v8h-8z", "mark", "cut at the limit"),
        element("li", element("span", "◆ ", aria_hidden="true"), "instruction kept in the archive"),
        class_="legend",
    )


def _figure(cycle: CycleLineage, lineage: Lineage, result: SearchResult) -> Markup:
    most = max(other.steps for other in lineage.cycles)
    picture = lineage_picture(cycle, lineage, result.archive.rewards, most)
    return element(
        "figure",
        element("figcaption", *_caption(cycle, lineage, result)),
        element("div", picture, class_="scroll"),
    )


def _caption(cycle: CycleLineage, lineage: Lineage, result: SearchResult) -> Iterator[Markup]:
    if not result.cycles:
        yield element("b", "Plain sample")
        return
    yield element("b", f"Cycle {cycle.cycle + 1}")
    yield (
        join(f"{count(cycle.steps, 'step')} of {count(result.config.replacement_period, 'token')}, rewords ")
        if (result.config.replaces)
        else join("without replacement, rewords ")
    )
    yield join(_parent(cycle, lineage))


def _parent(cycle: CycleLineage, lineage: Lineage) -> str:
    before = (lane for lane in lineage.lanes if lane.cycle < cycle.cycle and lane.instruction == cycle.parent)
    best = max((lane for lane in before if not lane.first_response), key=lambda lane: lane.reward or 0.0, default=None)
    if cycle.cycle == 0 or best is None:
        return "the question as it was asked"
    return f"the instruction of beam {best.beam + 1} in cycle {best.cycle + 1}"


def _rewards(result: SearchResult, lineage: Lineage) -> Markup:
    if all(point.reward is None for lane in lineage.lanes for point in lane.points):
        return Markup()
    lead = "Every scored state, against the question as it was asked. The coloured line is the answer's lineage."
    figure = element("figure", element("div", reward_picture(lineage, result), class_="scroll"))
    return section("Rewards", "rewards", figure, lead=lead)


def _instructions(result: SearchResult, lineage: Lineage) -> Markup:
    lead = "What changed against the parent: words that came are marked, words that went are struck through."
    blocks: list[str] = []
    for cycle in lineage.cycles:
        origin = f" · rewordings of {_parent(cycle, lineage)}" if result.cycles else ""
        blocks.append(element("h3", element("b", f"Cycle {cycle.cycle + 1}"), origin, class_="cycle-head"))
        blocks += [_row(lane, cycle, lineage, result) for lane in cycle.lanes]
    return section("Instructions and beams", "instructions", *blocks, lead=lead)


def _row(lane: Lane, cycle: CycleLineage, lineage: Lineage, result: SearchResult) -> Markup:
    tags = [
        *(["answer"] if lane.place == lineage.winner else []),
        *(["in the archive"] if lane.instruction in result.archive.rewards else []),
        *([count(lane.wins, "win")] if lane.wins else []),
        *(["invalid"] if not lane.valid else []),
        *(["dropped"] if not lane.alive else []),
    ]
    chip = element("span", name(lane), class_=f"chip {colour(lane)}")
    tagged = element("span", " · ".join(tags), class_="tags") if tags else Markup()
    value = element("span", tagged, number(lane.reward), class_="value")
    title = "Plain sample" if lane.first_response else f"Beam {lane.beam + 1}, cycle {lane.cycle + 1}"
    return element(
        "details",
        element("summary", chip, _instruction(lane, cycle), value),
        element("div", *_panel(lane, cycle, tags), class_="panel", id=key(lane)),
        class_="beam-row",
        data_title=title,
    )


def _instruction(lane: Lane, cycle: CycleLineage) -> Markup:
    if lane.first_response:
        return element("span", "The question as it was asked, decoded once, outside the search", class_="muted")
    words = changes(cut(cycle.parent, LONGEST), cut(lane.instruction, LONGEST))
    marked = [element(tag, text) if (tag := _KINDS[kind]) else join(text) for kind, text in words]
    return element("span", *marked, class_="instruction", dir="auto")


def _panel(lane: Lane, cycle: CycleLineage, tags: Sequence[str]) -> Iterator[Markup]:
    facts = [f"reward {number(lane.reward)}", count(lane.length, "token"), *tags]
    if len({piece.beam for piece in lane.pieces if piece.text}) > 1:
        facts.append("text of more than one beam")
    yield element("p", " · ".join(facts), class_="quiet")
    yield from folded(cut(lane.thoughts, LONGEST))
    yield parts(lane, cycle, LONGEST)
    if lane.points:
        rows = [_step_row(point, lane) for point in lane.points]
        names = head("step", "n:tokens", "n:reward", "then", "decoded in this step")
        yield element("table", names, element("tbody", *rows), class_="steps")


def _step_row(point: Point, lane: Lane) -> Markup:
    return element(
        "tr",
        element("td", str(point.step + 1)),
        element("td", f"+{point.decoded}", class_="n"),
        element("td", "" if point.reward is None else number(point.reward), class_="n"),
        element("td", _then(point, lane)),
        element("td", cut(" ".join(point.added.split()), _SNIP), class_="snip", dir="auto"),
    )


def _then(point: Point, lane: Lane) -> str:
    if point.dropped:
        return "dropped"
    if point.took is not None:
        return f"took beam {point.took + 1}’s text"
    if point.finish_reason:
        return {"stop": "ended", "length": "cut", "tool_calls": "tool call"}[point.finish_reason]
    if point.in_tool_call:
        return "not replaced: open tool call"
    if point.thinking:
        return "not compared: it thinks"
    return "among the best" if point.won else "went on" if point is not lane.points[-1] else ""
