"""Every slot's state on the device: the pending token, its position, and the key of its noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from darwin_align.backends.local.sampling import place_keys, seed_keys

__all__ = ["Entry", "SlotState", "to_host"]


@dataclass(frozen=True, slots=True)
class Entry:
    """A row as it enters a slot."""

    slot: int
    ids: Sequence[int]
    """All its tokens so far."""
    cached: int
    """How many of them the slot will contain: all, or all but the last one, which is pending."""
    seed: int
    drawn: int
    """Position of its next draw in the answer."""


class SlotState:
    """One number a slot in each tensor, so that a step over a range of slots works on plain views."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.pending = self._empty(0)
        """Each slot's last token, which is not in its cache yet."""
        self.lengths = self._empty(0)
        """Its position. An idle slot in a step's range also writes there, behind its tokens: nothing is lost."""
        self._seeds, self._drawn = self._empty(0), self._empty(0)
        self._history: Tensor | None = None

    def _empty(self, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=torch.int64, device=self._device)

    def lay_out(self, kept: Sequence[int], slots: int, width: int) -> None:
        """Make room for so many slots; the slots ``kept`` become the first ones, in that order."""
        for name in ("pending", "lengths", "_seeds", "_drawn"):
            laid_out = self._empty(slots)
            laid_out[: len(kept)] = getattr(self, name)[list(kept)]
            setattr(self, name, laid_out)
        if self._history is not None:
            history, before = self._empty(slots, width), min(width, self._history.shape[1])
            history[: len(kept), :before] = self._history[list(kept), :before]
            self._history = history

    def exchange(self, one: int, other: int) -> None:
        """Exchange two slots."""
        pair, crossed = [one, other], [other, one]
        tensors = [self.pending, self.lengths, self._seeds, self._drawn]
        for tensor in tensors if self._history is None else [*tensors, self._history]:
            tensor[pair] = tensor[crossed]

    def enter(self, entries: Sequence[Entry]) -> None:
        """Put rows into slots."""
        slots = [entry.slot for entry in entries]
        numbers = torch.tensor([[entry.ids[-1], entry.cached, entry.drawn] for entry in entries], device=self._device)
        self.pending[slots], self.lengths[slots], self._drawn[slots] = numbers.T
        self._seeds[slots] = seed_keys([entry.seed for entry in entries], self._device)

    def remember(self, entries: Sequence[Entry], slots: int, width: int) -> None:
        """Keep the ids of these rows as well: a repetition penalty reads them."""
        if self._history is None:
            self._history = self._empty(slots, width)
        for entry in entries:
            self._history[entry.slot, : len(entry.ids)] = torch.tensor(entry.ids, device=self._device)

    def keys(self, rows: range, steps: int) -> Tensor:
        """Noise keys of the next draws, int64 (steps, rows)."""
        here = slice(rows.start, rows.stop)
        return place_keys(self._seeds[here], self._drawn[here] + torch.arange(steps, device=self._device)[:, None])

    def history(self, rows: range, width: int) -> Tensor | None:
        """Ids of each row so far, int64 (rows, width). Behind its end a row repeats its first id."""
        if self._history is None:
            return None
        tensor = self._history[rows.start : rows.stop, :width]
        behind = torch.arange(tensor.shape[1], device=self._device) > self.lengths[rows.start : rows.stop, None]
        return torch.where(behind, tensor[:, :1], tensor)

    def advance(self, rows: range, tokens: Tensor, moving: Tensor | None) -> None:
        """Take the drawn tokens as pending.

        Args:
            rows: the range of slots.
            tokens: int64 (rows,).
            moving: bool (rows,), false for idle slots among them; ``None`` if there are none.
        """
        here = slice(rows.start, rows.stop)
        if moving is not None:
            tokens = torch.where(moving, tokens, self.pending[here])
        self.pending[here] = tokens
        self.lengths[here] += 1 if moving is None else moving
        self._drawn[here] += 1 if moving is None else moving
        if self._history is not None:
            at = self.lengths[here, None].clamp(max=self._history.shape[1] - 1)
            self._history[here].scatter_(1, at, tokens[:, None])


def to_host(places: Tensor | None, tokens: Tensor, logprobs: Tensor) -> tuple[Tensor, Tensor, torch.cuda.Event | None]:
    """Drawn tokens and their log-probabilities on the host, and the event of their arrival there.

    Args:
        places: int64, which of them count; ``None`` if all do.
        tokens: int64 (rows,).
        logprobs: (rows,).

    Returns:
        ``None`` in place of the event if they are there already.
    """
    if places is not None:
        tokens, logprobs = tokens[places], logprobs[places]
    if tokens.device.type != "cuda":
        return tokens, logprobs, None
    copies = [torch.empty(t.shape, dtype=t.dtype, pin_memory=True) for t in (tokens, logprobs)]
    for copy, original in zip(copies, (tokens, logprobs), strict=True):
        copy.copy_(original, non_blocking=True)
    arrival = torch.cuda.Event()  # type: ignore[no-untyped-call]
    arrival.record()
    return copies[0], copies[1], arrival
