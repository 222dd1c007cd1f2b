"""Decodes one token at a time on all rows that are read, side by side."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from darwin_align.backends.local.engine.forward import SlotForward
from darwin_align.backends.local.engine.rows import Batch, Row
from darwin_align.backends.local.engine.slot_manager import Slot, contiguous_range, leading_range
from darwin_align.backends.local.engine.slot_store import SlotStore
from darwin_align.backends.local.engine.state import to_host
from darwin_align.backends.local.sampling import Sampler, penalises

__all__ = ["StepDecoder"]

_KEYS = 32
"""Steps whose noise keys are hashed at once."""
_WIDTH = 256
"""A compiled step attends to a multiple of this: each width is compiled once."""


class StepDecoder:
    """The rows under decoding and the steps whose tokens the host has not read yet.

    A step is issued on the device before the tokens of the last ``lag`` steps are on the host, so that a GPU never
    waits. A row may thus take a step more than it needs: its surplus tokens are dropped in :meth:`collect`.

    Args:
        forward: the model over slots.
        store: its slots.
        placed: the row of each busy slot, kept by the caller.
    """

    def __init__(self, forward: SlotForward, store: SlotStore, placed: Mapping[Slot, Row]) -> None:
        self._forward, self._store, self._placed = forward, store, placed
        self.rows: list[Row] = []
        self._batch: Batch | None = None
        """The rows of the next step. It stays valid as long as the same rows stay in the same slots."""
        self.pending: deque[tuple[list[Row], Tensor, Tensor, torch.cuda.Event | None]] = deque()
        """The issued steps whose tokens the host has not read: rows, tokens, log-probabilities, arrival on the host."""

    @property
    def busy(self) -> bool:
        """Whether there are rows to decode, or tokens that the host has not read."""
        return bool(self.rows or self.pending)

    def add(self, rows: Sequence[Row]) -> None:
        """Let rows that are read take part from the next step on."""
        self.rows.extend(rows)
        if penalised := [row.entry for row in rows if penalises(row.decode.sampling)]:
            self._store.state.remember(penalised, self._store.cache.slots, self._store.cache.width)
        if rows:
            self._batch = None

    def remove(self, row: Row) -> None:
        """Take a row out."""
        self.rows.remove(row)
        self._batch = None

    def invalidate(self) -> None:
        """The slots were laid out anew: the next step forms its batch again."""
        self._batch = None

    def clear(self) -> None:
        """Drop all rows and all tokens that the host has not read."""
        self.rows.clear()
        self.pending.clear()
        self._batch = None

    def step(self, lag: int) -> list[Row]:
        """Issue one step for every row that may take one, and read the tokens of all but the last ``lag`` steps.

        Returns:
            The rows that ended.
        """
        batch = self._batch or self._new_batch()
        if batch is not None:
            self._issue(batch)
        # The next draw of a constrained row depends on this one.
        return self.collect(lag if batch is not None and not batch.sampler.constrained else 0)

    def _issue(self, batch: Batch) -> None:
        forward, state, slots = self._forward, self._store.state, batch.slots
        here = slice(slots.start, slots.stop)
        width = batch.width
        if forward.compiled:
            width = min(-(-width // _WIDTH) * _WIDTH, self._store.cache.width)
        logits = forward.step(slots, state.pending[here], state.lengths[here], width)
        history = state.history(slots, batch.width) if batch.sampler.reads_history else None
        if batch.step == len(batch.keys):
            batch.keys, batch.step = state.keys(slots, _KEYS).unbind(), 0
        tokens, logprobs = batch.sampler.draw(logits, batch.keys[batch.step], history)
        batch.step += 1
        state.advance(slots, tokens, batch.moving)
        forward.count(len(batch.rows))
        batch.width += 1
        self.pending.append((batch.rows, *to_host(batch.active, tokens, logprobs)))
        for row in batch.rows:
            row.issued += 1
            if not row.steps:
                self._batch = None

    def _new_batch(self) -> Batch | None:
        """Bring the rows that may take a step side by side."""
        rows = [row for row in self.rows if row.steps > 0]
        if not rows:
            return None
        device, compiled = self._forward.device, self._forward.compiled
        active = [row.slot.index for row in rows]
        slots, exchanges = leading_range(active, self._store.manager.limit) if compiled else contiguous_range(active)
        self._store.grow(len(slots))
        for one, other in exchanges:
            self._store.exchange(one, other, self._used_length(one), self._used_length(other))
        rows.sort(key=lambda row: row.slot.index)
        idle = len(slots) > len(rows)
        moving = active_rows = None
        by_slot: list[Row | None] = [None] * len(slots)
        for row in rows:
            by_slot[row.slot.index - slots.start] = row
        if idle:
            moving = torch.tensor([row is not None for row in by_slot], device=device)
            active_rows = moving.nonzero()[:, 0]
        # An idle slot in the range draws as the first row does; its draw is never read.
        settings = [(row or rows[0]).decode.sampling for row in by_slot]
        constraints = [row.decode.constraint if row else None for row in by_slot]
        ranks = [row.decode.rank if row else None for row in by_slot]
        width = max(row.length for row in rows)
        self._batch = Batch(rows, slots, Sampler(settings, device, constraints, ranks), moving, active_rows, width)
        return self._batch

    def _used_length(self, index: int) -> int:
        # A row under decoding has more tokens in its slot than the slot's key, which is set when the row leaves.
        slot = self._store.manager.slots[index]
        row = self._placed.get(slot)
        return max(slot.length, row.length if row is not None and row.issued else 0)

    def collect(self, lag: int = 0) -> list[Row]:
        """Read the tokens of all but the last ``lag`` steps.

        Returns:
            The rows that ended, each once.
        """
        ended: dict[Row, None] = {}
        while len(self.pending) > lag:
            rows, tokens, logprobs, arrival = self.pending.popleft()
            if arrival is not None:
                arrival.synchronize()
            for row, token, logprob in zip(rows, tokens.tolist(), logprobs.tolist(), strict=True):
                row.pushed += 1
                if row.remaining:
                    row.decode.push(token, logprob)
                if not row.remaining and self._placed.get(row.slot) is row:
                    ended[row] = None
        return list(ended)
