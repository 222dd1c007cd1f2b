"""Markup that is safe by its type: what is no :class:`Markup` is escaped before it comes near a page."""

from __future__ import annotations

from html import escape

from darwin_align.traces.words import wide

__all__ = ["Markup", "columns", "count", "cut", "element", "head", "join", "number", "plain", "section", "signed"]

_VOID = frozenset({"meta", "br", "wbr"})
_PICTURES = {c: chr(0x2400 + c) for c in range(32) if chr(c) not in "\t\n"} | {0x7F: "\u2421"}
_OVERRIDES = [0x202D, 0x202E]  # would turn the letters around that follow, ours too
_NOT_TO_WRITE = _PICTURES | dict.fromkeys([*range(0x80, 0xA0), *range(0xFDD0, 0xFDF0), *_OVERRIDES], "\ufffd")


class Markup(str):
    """Text that is markup already."""

    __slots__ = ()


def plain(text: str) -> str:
    r"""Return a text without characters that a page cannot contain: control characters become pictures of themselves.

    >>> plain("bell: \x07, half a pair: \ud83d")
    'bell: ␇, half a pair: �'
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n").translate(_NOT_TO_WRITE)
    return "".join("\ufffd" if "\ud800" <= c <= "\udfff" or ord(c) & 0xFFFE == 0xFFFE else c for c in text)


def element(tag: str, *children: str, **attributes: str | float | bool | None) -> Markup:
    """Return an element. An attribute of ``None`` or ``False`` is left out; ``class_`` and ``data_x`` are written so.

    >>> element("p", "1 < 2", element("b", "!"), class_="note", data_beam=3)
    '<p class="note" data-beam="3">1 &lt; 2<b>!</b></p>'
    """
    rendered = "".join(_attribute(name, value) for name, value in attributes.items() if value not in (None, False))
    if tag in _VOID:
        return Markup(f"<{tag}{rendered}>")
    return Markup(f"<{tag}{rendered}>{join(*children)}</{tag}>")


def _attribute(name: str, value: str | float | bool | None) -> str:
    name = name.removesuffix("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{escape(plain(str(value)))}"'


def join(*children: str) -> Markup:
    """Put pieces together, escaped where they are plain text."""
    return Markup("".join(child if isinstance(child, Markup) else escape(plain(child)) for child in children))


def number(value: float | None) -> str:
    """Write a reward.

    >>> number(5.296), number(-3.0), number(None), number(1.5e12)
    ('5.30', '−3.00', 'unscored', '1.5e+12')
    """
    if value is None:
        return "unscored"
    small = value == 0 or 5e-3 <= abs(value) < 1e6
    return (f"{value:.2f}" if small else f"{value:.3g}").replace("-", "−", 1)


def signed(value: float) -> str:
    """Write a difference.

    >>> signed(2.5), signed(-0.25)
    ('+2.50', '−0.25')
    """
    return ("+" if value >= 0 else "") + number(value)


def count(amount: int, noun: str = "") -> str:
    """Write a number of things.

    >>> count(2367), count(1, "step"), count(2, "step")
    ('2,367', '1 step', '2 steps')
    """
    return f"{amount:,}" + (f" {noun}{'s' if amount != 1 else ''}" if noun else "")


def columns(text: str, most: int) -> str:
    """Cut a text to so many columns; Chinese characters and emoji take two.

    >>> columns("step by step", 8), columns("一步一步地", 8)
    ('step by…', '一步一…')
    """
    text, width = " ".join(text.split()), 0
    for place, sign in enumerate(text):
        width += 2 if wide(sign) else 1
        if width > most - (place < len(text) - 1):
            return text[:place].rstrip(" …") + "…"
    return text


def cut(text: str, most: int) -> str:
    """Leave out the middle of a text that is too long for a page, and state how much.

    >>> cut("abcdefghij", 6)
    'abc … 4 characters … hij'
    """
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]} … {count(len(text) - 2 * half, 'character')} … {text[-half:]}"


def section(title: str, place: str, *children: str, lead: str = "") -> Markup:
    """Return a section of the page under its heading."""
    introduction = element("p", lead) if lead else Markup()
    return element(
        "section",
        element("h2", title, id=f"{place}-title"),
        introduction,
        *children,
        id=place,
        aria_labelledby=f"{place}-title",
    )


def head(*names: str) -> Markup:
    """Return a table's head; columns whose names begin with ``n:`` hold numbers."""
    cells = [
        element("th", n.removeprefix("n:"), scope="col", class_="n" if n.startswith("n:") else None) for n in names
    ]
    return element("thead", element("tr", *cells))
