"""The slots of one model: who has them, their keys and values, and their state on the device."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from darwin_align.backends.local.engine.forward import SlotForward
from darwin_align.backends.local.engine.slot_manager import Slot, SlotManager
from darwin_align.backends.local.engine.state import SlotState

__all__ = ["SlotStore"]

_WIDTH_STEP = 64
"""Slots are as wide as a multiple of this."""


class SlotStore:
    """Keeps the manager's slots, the cache's tensors and the device state in the same layout.

    Invariant: index i means the same slot in all three, and cache and state have at least as many slots as the manager.
    So whatever adds, moves, widens or drops slots does so here, in all three.

    Args:
        forward: the model over slots.
        device: where the state is.
        budget: bytes that all slots together may take.
    """

    def __init__(self, forward: SlotForward, device: torch.device, budget: int) -> None:
        self.cache = forward.cache
        self.manager = SlotManager(forward.position_bytes, budget)
        self.state = SlotState(device)

    def widen(self, needed: int) -> bool:
        """Make every slot wide enough; half as wide again as before where memory allows, since this copies all slots.

        Returns:
            Whether they are; false if that would take busy slots away.
        """
        manager = self.manager
        if needed <= manager.width:
            return True
        exact, ample = (
            -(-width // _WIDTH_STEP) * _WIDTH_STEP for width in (needed, max(needed, manager.width * 3 // 2))
        )
        affordable = manager.budget // max(1, ample * manager.position_bytes) > len(manager.slots)
        for width in (ample, exact) if affordable else (exact,):
            if (kept := manager.fit(width)) is not None:
                self._lay_out(kept, min(max(self.cache.slots, len(kept)), manager.limit))
                return True
        return False

    def grow(self, needed: int) -> None:
        """Have tensors for so many slots; for twice as many as before where memory allows."""
        if needed > self.cache.slots:
            self._lay_out(range(self.cache.slots), max(needed, min(2 * self.cache.slots, self.manager.limit)))

    def _lay_out(self, kept: Sequence[int], slots: int) -> None:
        self.state.lay_out(kept, slots, self.manager.width)
        self.cache.lay_out(kept, slots, self.manager.width)

    def copy_prefix(self, source: Slot, target: Slot, length: int) -> None:
        """Copy the keys and values of the first tokens of a slot to another."""
        self.cache.copy(source.index, target.index, length)

    def exchange(self, one: int, other: int, one_length: int, other_length: int) -> None:
        """Exchange two slots of which so many positions are in use."""
        slots = self.manager.slots
        self.cache.exchange(one, other, one_length, other_length)
        self.state.exchange(one, other)
        slots[one], slots[other] = slots[other], slots[one]
        slots[one].index, slots[other].index = one, other

    def clear(self) -> None:
        """Drop all slots and their memory."""
        self.manager.clear()
        self.cache.lay_out([], 0, 0)
        self.state.lay_out([], 0, 0)
