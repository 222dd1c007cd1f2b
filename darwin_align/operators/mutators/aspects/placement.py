"""Where a guidance sentence goes: with the order, never into the material that the order is about.

Nothing of the instruction is changed. The sentence goes behind it, or before it where it holds material: a text to
work on, code, choices. Only where the material comes first, and the order behind it, it goes behind.
"""

from __future__ import annotations

import re

from darwin_align.operators.mutators.aspects.data import Bank, padded

__all__ = ["goes_before", "order_of", "placed"]

_BREAKS = re.compile(r"\n\s*\n")
_MARKS = frozenset("`{}<>|=[]“”„«»「」『』")
_QUOTES = frozenset("\"'”’“»«」』")
_ENDED = frozenset(".?!…。！？।")
_FULL_WIDTH = frozenset("。！？")
_POINTING_BACK = (
    " above ", " preceding ", " previous ", " obigen ", " oben ", " obige ", " ci dessus ", " précédent ", " anterior ",
    " acima ", "上述", "以上", "上面", "上記", "ऊपर",
)  # fmt: skip
_LONG = 240
"""Characters; an order at the end of a text is no longer."""


def placed(instruction: str, sentence: str, *, before: bool) -> str:
    r"""Add a sentence; the instruction is contained in the result as it is.

    >>> placed("How do I brew green tea?", "Be kind.", before=False)
    'How do I brew green tea? Be kind.'
    >>> placed("Translate into French: I am here", "Be accurate.", before=True)
    'Be accurate. Translate into French: I am here'
    """
    if before:
        return sentence + _gap(sentence, "\n\n" if "\n" in instruction else " ") + instruction
    text = instruction.rstrip()
    ended, tail = text[-1:] in _ENDED, instruction[len(text) :]
    if tail:
        return instruction + ("" if ended or "\n" in tail else "\n") + sentence
    return instruction + (_gap(instruction, " ") if ended else "\n") + sentence


def _gap(text: str, gap: str) -> str:
    """What separates a sentence from the text behind it; in scripts without spaces there is none."""
    return "" if gap == " " and text[-1:] in _FULL_WIDTH else gap


def goes_before(instruction: str, bank: Bank, *, closed: bool) -> bool:
    """Whether a sentence goes before an instruction.

    Args:
        instruction: without sentences of the bank.
        bank: of its language.
        closed: whether it fixes the whole answer, as orders about a text do.
    """
    return (closed or _has_material(instruction)) and not _ends_with_order(instruction, bank)


def order_of(instruction: str, bank: Bank) -> str:
    """The part of an instruction that is the order, as far as blank lines and colons show it."""
    parts = _BREAKS.split(instruction.strip())
    if _ends_with_order(instruction, bank):
        return parts[-1]
    return parts[0] if len(parts) > 1 else instruction.strip().split(":")[0].split("：")[0]


def _has_material(instruction: str) -> bool:
    text = instruction.strip()
    quoted = text[-1:] in _QUOTES or text[-2:-1] in _QUOTES
    return "\n" in text or quoted or not _MARKS.isdisjoint(text) or ":" in text or "：" in text


def _ends_with_order(instruction: str, bank: Bank) -> bool:
    """Whether the last paragraph is an order about the ones before it, none of which looks like one."""
    parts = _BREAKS.split(instruction.strip())
    if len(parts) < 2:
        parts = instruction.strip().split("\n")
    first, last = parts[0].strip(), parts[-1].strip()
    if len(parts) < 2 or len(last) > _LONG or first.endswith((":", "：")):
        return False
    if any(word in padded(last) for word in _POINTING_BACK):
        return True
    return _orders(last, bank) and not _orders(first, bank)


def _orders(text: str, bank: Bank) -> bool:
    """Whether a paragraph looks like a question or an order."""
    if bank.language in ("zh", "ja", "hi"):
        return text.endswith(("?", "？")) or any(word in text for word in bank.orders)
    first = padded(text[:80]).split()[:1]
    return text.endswith("?") or bool(first and first[0] in bank.orders)
