"""Texts on the page, marked by the beams that wrote them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from darwin_align.traces.lineage import CycleLineage, Lane, Piece
from darwin_align.traces.markup import Markup, count, cut, element, join
from darwin_align.traces.picture import colour, key, name

__all__ = ["LONGEST", "boxed", "called", "folded", "legend", "parts", "text"]

LONGEST = 6000
"""Characters of another beam's text, an instruction or a turn before their middle is left out. The answer, the plain
sample and the question are shown whole."""
_DENSE = 60
"""Parts of a text after which they are distinguished by colour and tooltip alone: their numbers would drown it."""
_BOXED = 2400


def text(content: str, class_: str) -> Markup:
    """A text as its writer meant it, in its own direction."""
    if not content:
        return element("p", "(empty)", class_="muted")
    return element("div", content, class_=class_, dir="auto")


def boxed(shown: Markup, length: int) -> Markup:
    """Give a long text a box of its own, so that the rest of the page stays near."""
    if length <= _BOXED:
        return shown
    return element("div", shown, class_="box", tabindex="0", role="region", aria_label="Text, scrolls")


def folded(thoughts: str) -> Iterator[Markup]:
    """What a reasoning model thought before its text, shown on request."""
    if thoughts:
        body = boxed(text(thoughts, "text other"), len(thoughts))
        yield element("details", element("summary", f"Thoughts, {count(len(thoughts), 'character')}"), body)


def parts(lane: Lane, cycle: CycleLineage, most: int | None = None) -> Markup:
    """A text, marked by the beams that wrote it, if they are several."""
    runs = [(beam, list(run)) for beam, run in groupby((p for p in lane.pieces if p.text), lambda piece: piece.beam)]
    if len(runs) < 2:
        return text(lane.text if most is None else cut(lane.text, most), "text answer-text")
    shares = [_part(cycle.lanes[beam], run) for beam, run in runs]
    shown = join(*(_span(part, part.text) for part in shares)) if most is None else _shortened(shares, most)
    return text(shown, "text answer-text" + (" dense" if len(runs) > _DENSE else ""))


class _Part(NamedTuple):
    """Text that one beam wrote in a row."""

    author: Lane
    text: str
    title: str


def _part(author: Lane, run: Sequence[Piece]) -> _Part:
    first, last = run[0].step + 1, run[-1].step + 1
    steps = f"step {first}" if first == last else f"steps {first} to {last}"
    return _Part(author, "".join(piece.text for piece in run), f"{called(author)}, {steps}")


def _span(part: _Part, text: str) -> Markup:
    author = part.author
    return element("span", text, class_=f"part {colour(author)}", data_name=name(author), title=part.title)


def _shortened(parts: Sequence[_Part], most: int) -> Markup:
    """Leave out the middle of a text that is too long, as :func:`cut` does."""
    total = sum(len(part.text) for part in parts)
    if total <= most:
        return join(*(_span(part, part.text) for part in parts))
    head, tail, start = most // 2, total - most // 2, 0
    before, after = [], []
    for part in parts:
        if kept := part.text[: max(0, head - start)]:
            before.append(_span(part, kept))
        if kept := part.text[max(0, tail - start) :]:
            after.append(_span(part, kept))
        start += len(part.text)
    gap = element("span", f" … {count(tail - head, 'character')} … ", class_="muted")
    return join(*before, gap, *after)


def called(lane: Lane) -> str:
    """A beam in words."""
    return "Plain sample" if lane.first_response else f"Beam {lane.beam + 1}"


def legend(lane: Lane, cycle: CycleLineage) -> Markup:
    """Who wrote how much of a text, and when."""
    beams = list(dict.fromkeys(piece.beam for piece in lane.pieces if piece.text))
    if len(beams) < 2:
        return Markup()
    entries = [_entry(lane, cycle.lanes[beam]) for beam in beams]
    return element("ul", *entries, class_="legend", aria_label="Who wrote the answer")


def _entry(lane: Lane, author: Lane) -> Markup:
    own = [piece for piece in lane.pieces if piece.beam == author.beam]
    share = sum(len(piece.text) for piece in own) / max(1, len(lane.text))
    steps = ", ".join(_runs([piece.step + 1 for piece in own]))
    chip = element("span", name(author), class_=f"chip {colour(author)}")
    caption = f" {called(author)} · {share:.0%} · step{'s' if len(own) > 1 else ''} {steps}"
    return element("li", element("a", chip, caption, href=f"#{key(author)}"))


def _runs(numbers: Sequence[int]) -> Iterator[str]:
    for _, run in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
        seen = [value for _, value in run]
        yield str(seen[0]) if len(seen) == 1 else f"{seen[0]}–{seen[-1]}"
