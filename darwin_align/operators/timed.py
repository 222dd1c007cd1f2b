"""Decoding against a clock, on policies that cannot be stopped at a token: in pieces sized by the measured speed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from time import monotonic

from darwin_align.core.budget import Usage
from darwin_align.operators.policy import Continuation, Policy, Row
from darwin_align.operators.portal import OutOfTime, acall, has_own_submit
from darwin_align.operators.report import Report

__all__ = ["generate_call"]

_FIRST_PIECE = 16
"""Tokens of the first piece, from which the speed is measured."""
_SHARE = 0.5
"""Share of the remaining time that a piece is sized for: a server slows down as answers grow."""


def generate_call(policy: Policy, rows: Sequence[Row]) -> tuple[Callable[..., object], tuple[object, ...]]:
    """The function, and its arguments, by which a policy continues rows within their seconds.

    It returns continuations, or a report of them. A policy that stops in time is given the rows as they are, and so is
    one that writes whole answers.
    """
    generate = policy.submit if has_own_submit(policy) else policy.generate
    seconds = min((row.seconds for row in rows if row.seconds is not None), default=None)
    capabilities = policy.capabilities
    if seconds is None or capabilities.stops_in_time or not capabilities.continues:
        return generate, (rows,)
    return partial(_generate_in_pieces, generate), (rows, seconds)


async def _generate_in_pieces(
    generate: Callable[..., object], rows: Sequence[Row], seconds: float
) -> Report[list[Continuation]]:
    """Continue rows until each has its tokens or the time is over; a piece that is interrupted is lost."""
    end, size = monotonic() + seconds, _FIRST_PIECE
    found = [
        Continuation(
            text=row.text, tokens=row.tokens, thoughts=row.thoughts, thinking=row.thinking, text_from=row.text_from
        )
        for row in rows
    ]
    usage, notes = Usage(), dict[str, None]()
    while size and (pieces := _pieces(rows, found, size)):
        start = monotonic()
        try:
            report = Report.of(await acall(generate, list(pieces.values())))
        except OutOfTime:
            break
        for i, piece in zip(pieces, report.answer, strict=True):
            found[i] = _joined(found[i], piece, first=not found[i].new_tokens)
        usage += report.usage
        notes |= dict.fromkeys(report.notes)
        size = _next_size(size, monotonic() - start, end - monotonic())
    return Report(found, usage, tuple(notes))


def _pieces(rows: Sequence[Row], found: Sequence[Continuation], size: int) -> dict[int, Row]:
    """The rows that still need tokens, by index, each with its state so far."""
    return {
        i: replace(
            row,
            tokens=done.tokens,
            text=done.text,
            thoughts=done.thoughts,
            thinking=done.thinking,
            text_from=done.text_from,
            max_tokens=min(size, left),
        )
        for i, (row, done) in enumerate(zip(rows, found, strict=True))
        if done.finish_reason is None and (left := row.max_tokens - done.new_tokens) > 0
    }


def _joined(before: Continuation, piece: Continuation, *, first: bool) -> Continuation:
    logprobs = (piece.logprob,) if first else (before.logprob, piece.logprob)
    known = [logprob for logprob in logprobs if logprob is not None]
    return replace(
        piece,
        new_tokens=before.new_tokens + piece.new_tokens,
        logprob=sum(known) if len(known) == len(logprobs) else None,
        prefilled_tokens=before.prefilled_tokens + piece.prefilled_tokens,
    )


def _next_size(size: int, took: float, left: float) -> int:
    """Tokens of the next piece; 0 if the time left is not enough for one token."""
    speed = size / max(took, 1e-6)
    return min(4 * size, int(speed * left * _SHARE) or int(speed * left >= 1)) if left > 0 else 0
