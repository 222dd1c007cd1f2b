"""Keys and values of many rows in one tensor for each layer: a transformers cache for unmodified models.

A row is a slot, a token is a position in it. Invariant: what lies beyond a row's length is overwritten before any token
attends to it. So slots are never cleared, and padding and idle slots may write behind a row's end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

__all__ = ["SlotCache", "Window"]


@dataclass(eq=False)
class Window:
    """Which slots a forward pass works on, and where it writes."""

    rows: slice | Tensor
    """A range of slots (then their keys are a view), or int64 indices (then they are gathered)."""
    positions: Tensor
    """int64 (rows * new tokens,): slot * width of the slots + position, for every token of the pass."""
    width: int
    """The most positions that are attended to."""
    _elsewhere: dict[torch.device, tuple[slice | Tensor, Tensor]] = field(default_factory=dict)

    def on(self, device: torch.device) -> tuple[slice | Tensor, Tensor]:
        """``rows`` and ``written`` on a layer's device."""
        if self.positions.device == device:
            return self.rows, self.positions
        if device not in self._elsewhere:
            rows = self.rows.to(device) if isinstance(self.rows, Tensor) else self.rows
            self._elsewhere[device] = rows, self.positions.to(device)
        return self._elsewhere[device]


class _SlotLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """One layer's keys and values, each of shape (slots, width, heads, dimension)."""

    is_sliding = False
    keys: Tensor
    values: Tensor

    def __init__(self, cache: SlotCache) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._cache = cache

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate the tensors."""
        self.keys, self.values = self._cache.empty(key_states), self._cache.empty(value_states)
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Write (rows, heads, new tokens, dimension); return (rows, heads, width, dimension)."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        return self._write(self.keys, key_states), self._write(self.values, value_states)

    def _write(self, tensor: Tensor, new: Tensor) -> Tensor:
        window = self._cache.window
        rows, positions = window.on(tensor.device)
        tensor.flatten(0, 1).index_copy_(0, positions, new.transpose(1, 2).flatten(0, 1))
        return tensor[rows, : window.width].transpose(1, 2)

    def get_seq_length(self) -> int:
        """Nothing: positions are always given."""
        return 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:  # noqa: ARG002
        """Width and offset; masks are always given too."""
        return self._cache.window.width, 0

    def get_max_length(self) -> int:
        """No limit."""
        return -1

    get_max_cache_shape = get_max_length
    """The name in earlier versions of transformers."""


class SlotCache(Cache):
    """The cache of all slots. Set :attr:`window` before every forward pass."""

    window: Window
    layers: list[_SlotLayer]  # type: ignore[assignment]

    def __init__(self, layers: int) -> None:
        super().__init__(layers=[_SlotLayer(self) for _ in range(layers)])
        self.slots = self.width = 0
        self.static = False
        """Whether compiled code keeps the tensors' addresses between two layouts."""

    def empty(self, states: Tensor) -> Tensor:
        """Zeros for all slots, for states of shape (rows, heads, new tokens, dimension)."""
        return states.new_zeros((self.slots, self.width, states.shape[1], states.shape[3]))

    def lay_out(self, kept: Sequence[int], slots: int, width: int) -> None:
        """Make room for so many slots of such a width; the slots ``kept`` become the first ones, in that order."""
        if (slots, width) == (self.slots, self.width) and list(kept) == list(range(len(kept))):
            return
        before, self.slots, self.width = min(self.width, width), slots, width
        for layer in self.layers:
            if layer.is_initialized:
                layer.keys = self._laid_out(layer.keys, kept, before)
                layer.values = self._laid_out(layer.values, kept, before)

    def _laid_out(self, tensor: Tensor, kept: Sequence[int], width: int) -> Tensor:
        laid_out = tensor.new_zeros((self.slots, self.width, *tensor.shape[2:]))
        if kept:
            laid_out[: len(kept), :width] = tensor[list(kept), :width]
        if self.static:
            torch._dynamo.mark_static_address(laid_out)
        return laid_out

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first positions of a slot to another."""
        for layer in self.layers:
            for tensor in (layer.keys, layer.values):
                tensor[target, :length] = tensor[source, :length]

    def exchange(self, one: int, other: int, one_length: int, other_length: int) -> None:
        """Exchange two slots of which so many positions are in use."""
        for layer in self.layers:
            for tensor in (layer.keys, layer.values):
                aside = tensor[one, :one_length].clone()
                tensor[one, :other_length] = tensor[other, :other_length]
                tensor[other, :one_length] = aside
