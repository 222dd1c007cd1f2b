"""Which row gets which slot: the engine's decisions, as plain data without tensors.

A slot contains the keys and values of one row and is identified by the token ids that they stand for, and by nothing
else. A new row takes the slot with the longest common prefix, or copies the prefix from it. A prefix may be reused
because the keys and values of a token depend on the tokens before it alone, never on who computed them. So a lost slot
costs time and never changes an answer.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Collection, Sequence
from dataclasses import dataclass

__all__ = [
    "Slot",
    "SlotAllocation",
    "SlotManager",
    "SlotRequest",
    "common_prefix",
    "contiguous_range",
    "leading_range",
    "packed",
]

_WORD = array("i").itemsize
MIN_CROSS_SEARCH_PREFIX = 64
"""Common tokens from which on a row of another search is reused: a conversation, not only a template's header."""
SLACK = 8
"""Tokens that may be read twice to save a wave: rows of one wave are read side by side, waves one after another."""


def packed(ids: Sequence[int]) -> bytes:
    """Token ids as bytes: compared at memory speed."""
    return array("i", ids).tobytes()


def common_prefix(one: bytes, other: bytes) -> int:
    """How many tokens two packed rows share.

    >>> common_prefix(packed([5, 6, 7, 8]), packed([5, 6, 9]))
    2
    """
    end = min(len(one), len(other)) // _WORD
    if one[: end * _WORD] == other[: end * _WORD]:
        return end
    start = 0  # the first `start` tokens are equal, the first `end` are not
    while end - start > 1:
        middle = (start + end) // 2
        if one[start * _WORD : middle * _WORD] == other[start * _WORD : middle * _WORD]:
            start = middle
        else:
            end = middle
    return start


@dataclass(eq=False, slots=True)
class Slot:
    """The keys and values of one row."""

    index: int
    key: bytes = b""
    """Packed token ids whose keys and values are here now."""
    owner: str | None = None
    """The search that uses it; ``None`` if it is free."""
    used: int = 0
    """When it was last given to a row."""
    busy: bool = False
    """Whether a row is being read or decoded here: no other row may take the slot, but the tokens of its key may be
    copied."""

    @property
    def length(self) -> int:
        """Tokens in the slot."""
        return len(self.key) // _WORD


@dataclass(frozen=True, slots=True)
class SlotRequest:
    """A row that needs a slot."""

    key: bytes
    """All its token ids so far. The last one is always read again: its hidden state gives the next token's logits."""
    owner: str = ""
    since: int = 0
    """:attr:`SlotManager.now` when its call began: older slots of its search that no row continues are overwritten."""

    @property
    def length(self) -> int:
        """Tokens."""
        return len(self.key) // _WORD


@dataclass(slots=True)
class SlotAllocation:
    """The slot of a row, and how much of the row is there already."""

    slot: Slot
    shared: int
    """Tokens that need not be read."""
    source: Slot | None = None
    """Whose keys and values are copied first; ``None`` if they are in the slot."""
    after: int | None = None
    """The request of the same call that must be read before ``source`` holds them."""


@dataclass(slots=True)
class _Match:
    slot: Slot | None = None
    shared: int = 0


class SlotManager:
    """Keeps the slots of one model.

    Args:
        position_bytes: memory of one token's keys and values.
        budget: bytes that all slots together may take. One row is served in any case.
    """

    def __init__(self, position_bytes: int, budget: int) -> None:
        self.position_bytes, self.budget = position_bytes, budget
        self.slots: list[Slot] = []
        self.width = 0
        """Tokens that fit into every slot."""
        self.now = 0
        """Counts the calls of :meth:`allocate`."""

    @property
    def limit(self) -> int:
        """Slots that the budget allows at this width."""
        return self.limit_at(self.width)

    def limit_at(self, width: int) -> int:
        """Slots that the budget allows at another width."""
        return max(1, self.budget // max(1, width * self.position_bytes))

    # -- layout

    def fit(self, width: int) -> list[int] | None:
        """Make every slot at least so wide.

        Returns:
            The old indices of the slots that stay, in their new order, or ``None`` if too many busy ones would go.
        """
        width = max(width, self.width)
        most = self.limit_at(width)
        if sum(slot.busy for slot in self.slots) > most:
            return None
        if len(self.slots) > most:
            order = sorted(self.slots, key=lambda slot: (not slot.busy, slot.owner is None, -slot.used))[:most]
            self.slots = sorted(order, key=lambda slot: slot.index)
        self.width = width
        kept = [slot.index for slot in self.slots]
        for index, slot in enumerate(self.slots):
            slot.index = index
        return kept

    def release(self, owner: str) -> None:
        """Free the slots of a search that is over.

        Their content is dropped: so a search that runs alone finds the same slots, and rounds the same, every time.
        """
        for slot in self.slots:
            if slot.owner == owner:
                slot.owner = None
                if not slot.busy:
                    slot.key = b""

    def clear(self) -> None:
        """Forget everything, e.g. after an error in the middle of a forward pass."""
        self.slots.clear()
        self.width = 0

    # -- allocation

    def allocate(
        self, requests: Sequence[SlotRequest], later: Sequence[SlotRequest] = ()
    ) -> list[SlotAllocation | None]:
        """Give slots to requests; ``None`` to those for which none is free. Slots that ``later`` ones match are kept.

        A request takes over the slot with its longest common prefix if that belongs to its search, and copies the
        prefix otherwise. Where several requests share more with each other than with any slot, one is read first.
        """
        self.now += 1
        matches = [self._match(request) for request in requests]
        taken = self._taken_over(requests, matches)
        sources = {id(match.slot) for match in (*matches, *map(self._match, later)) if match.slot is not None}
        allocations: list[SlotAllocation | None] = []
        for i, (request, match) in enumerate(zip(requests, matches, strict=True)):
            slot = taken.get(i) or self._victim(request, sources)
            allocation = self._shared_slot_fallback(taken.values(), match) if slot is None else _allocation(slot, match)
            allocations.append(allocation)
            if allocation is not None:
                allocation.slot.owner, allocation.slot.used, allocation.slot.busy = request.owner, self.now, True
        _share(requests, allocations)
        for request, allocation in zip(requests, allocations, strict=True):
            if allocation is not None:
                valid = 0 if allocation.after is not None else allocation.shared
                allocation.slot.key = request.key[: valid * _WORD]
        return allocations

    def _match(self, request: SlotRequest) -> _Match:
        """The slot with a request's longest prefix: among those of its search, or among all if these share little."""
        own = [slot for slot in self.slots if slot.owner == request.owner]
        best = _longest(request, own)
        if 2 * best.shared < request.length:
            other = _longest(request, [slot for slot in self.slots if slot.owner != request.owner])
            if other.shared >= max(MIN_CROSS_SEARCH_PREFIX, best.shared):
                best = other
        return best

    @staticmethod
    def _taken_over(requests: Sequence[SlotRequest], matches: Sequence[_Match]) -> dict[int, Slot]:
        """The slots that requests take over with their content: each goes to the request that shares most with it."""
        taken: dict[int, Slot] = {}
        gone: set[int] = set()
        for i in sorted(range(len(requests)), key=lambda i: -matches[i].shared):
            slot = matches[i].slot
            if slot is None or id(slot) in gone or slot.busy:
                continue
            if _may_take_over(requests[i], matches[i].shared, slot):
                taken[i] = slot
                gone.add(id(slot))
        return taken

    def _victim(self, request: SlotRequest, sources: Collection[int]) -> Slot | None:
        """A slot to overwrite: an unused one of the same search, else a free one, else a new one, else the oldest."""
        idle = [slot for slot in self.slots if not slot.busy and id(slot) not in sources]
        if unused := [slot for slot in idle if slot.owner == request.owner and slot.used < request.since]:
            return min(unused, key=lambda slot: slot.used)
        if free := [slot for slot in idle if slot.owner is None]:
            return free[0]
        if len(self.slots) < self.limit:
            self.slots.append(Slot(len(self.slots)))
            return self.slots[-1]
        return min(idle, key=lambda slot: slot.used, default=None)

    def _shared_slot_fallback(self, taken: Collection[Slot], match: _Match) -> SlotAllocation | None:
        """A slot that other requests copy from: the request's own match, else the oldest, without any prefix."""
        idle = [slot for slot in self.slots if not slot.busy and slot not in taken]
        if match.slot in idle:
            return SlotAllocation(match.slot, match.shared)
        return SlotAllocation(min(idle, key=lambda slot: slot.used), 0) if idle else None


def _allocation(slot: Slot, match: _Match) -> SlotAllocation:
    return SlotAllocation(slot, match.shared, None if match.slot is slot or not match.shared else match.slot)


def _may_take_over(request: SlotRequest, shared: int, slot: Slot) -> bool:
    return slot.owner == request.owner and (slot.used < request.since or shared == slot.length)


def _longest(request: SlotRequest, slots: Sequence[Slot]) -> _Match:
    best, most = _Match(), request.length - 1
    for slot in slots:
        shared = min(common_prefix(request.key, slot.key), most)
        if shared > best.shared:
            best = _Match(slot, shared)
            if shared == most:
                break
    return best


def _share(requests: Sequence[SlotRequest], allocations: Sequence[SlotAllocation | None]) -> None:
    """Let requests wait for others of the same call that they share more with than with any slot.

    In sorted order a row shares most with its neighbour, and less with rows further away. A request waits only for
    earlier ones in this order, so no two wait for each other.
    """
    order = sorted(
        (i for i, allocation in enumerate(allocations) if allocation is not None), key=lambda i: requests[i].key
    )
    wave = [0] * len(requests)
    for at, i in enumerate(order):
        allocation, best = allocations[i], 0
        assert allocation is not None  # noqa: S101 - filtered above
        chosen: tuple[int, int, int] | None = None  # wave, minus what is shared, which request
        for j in reversed(order[:at]):
            # The last token of either is not read with the rest of it.
            shared = min(
                common_prefix(requests[i].key, requests[j].key), min(requests[i].length, requests[j].length) - 1
            )
            if shared <= allocation.shared + SLACK or shared < best - SLACK:
                break
            best = max(best, shared)
            other = (wave[j] + 1, -shared, j)
            chosen = other if chosen is None else min(chosen, other)
        if chosen is not None:
            wave[i], _, allocation.after = chosen
            leader = allocations[allocation.after]
            assert leader is not None  # noqa: S101 - filtered above
            allocation.shared, allocation.source = -chosen[1], leader.slot


def contiguous_range(active: Collection[int]) -> tuple[range, list[tuple[int, int]]]:
    """How to bring slots side by side, so that a step works on a plain view of them.

    Up to an eighth of the range may be idle slots: computing a few rows in vain is cheaper than moving one.

    Args:
        active: indices of the slots that take the next step; at least one.

    Returns:
        The range that then contains them, and the pairs of slots to exchange first.

    >>> contiguous_range([0, 1, 2])
    (range(0, 3), [])
    >>> contiguous_range([0, 1, 7])
    (range(0, 3), [(7, 2)])
    """
    ordered, n = sorted(active), len(active)
    if ordered[-1] + 1 - ordered[0] <= n + n // 8:
        return range(ordered[0], ordered[-1] + 1), []
    # The window of n slots that holds most of them.
    start = max(ordered, key=lambda first: bisect_left(ordered, first + n) - bisect_left(ordered, first))
    start = min(start, ordered[-1] + 1 - n)
    window, inside = range(start, start + n), set(ordered)
    holes = [index for index in window if index not in inside]
    outside = [index for index in ordered if index not in window]
    return window, list(zip(outside, holes, strict=True))


def leading_range(active: Collection[int], most: int) -> tuple[range, list[tuple[int, int]]]:
    """The same for a compiled step, which has few shapes: at the front, with idle slots up to the next size.

    Args:
        active: indices of the slots that take the next step.
        most: slots that memory allows.

    >>> leading_range([0, 1, 7], most=100)
    (range(0, 4), [(7, 2)])
    """
    n = len(active)
    size = 1 << (n - 1).bit_length()  # a power of two, or three quarters of one
    size = size * 3 // 4 if size >= 16 and n <= size * 3 // 4 else size
    inside = set(active)
    holes = [index for index in range(n) if index not in inside]
    outside = sorted(index for index in active if index >= n)
    return range(min(size, max(n, most))), list(zip(outside, holes, strict=True))
