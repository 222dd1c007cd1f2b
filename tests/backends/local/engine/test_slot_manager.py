"""The manager of slots, against a world that remembers which tokens every slot truly holds."""

from __future__ import annotations

import random
from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darwin_align.backends.local.engine.slot_manager import (
    MIN_CROSS_SEARCH_PREFIX,
    SLACK,
    Slot,
    SlotAllocation,
    SlotManager,
    SlotRequest,
    common_prefix,
    contiguous_range,
    leading_range,
    packed,
)

OWNERS = ["one", "two", "three"]
HEADS = [
    0,
    3,
    12,
    MIN_CROSS_SEARCH_PREFIX - 1,
    MIN_CROSS_SEARCH_PREFIX,
    MIN_CROSS_SEARCH_PREFIX + 1,
    2 * MIN_CROSS_SEARCH_PREFIX,
]


def some_row(rng):
    """Rows that often begin alike, and often one with the other."""
    tail = [2] * rng.randint(1, 30) if rng.random() < 0.5 else [rng.randint(0, 1) for _ in range(rng.randint(1, 4))]
    return [9] * rng.choice(HEADS) + tail


def shared_by(one, other):
    count = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        count += 1
    return count


def tokens_of(slot):
    return array("i", slot.key).tolist()


def want(ids, owner="one", since=0):
    return SlotRequest(packed(ids), owner, since)


def anew(manager, *rows, owner="one"):
    """What a new call of a search asks for."""
    return [want(ids, owner, manager.now + 1) for ids in rows]


def ample(slots=100):
    """A manager with room for so many slots."""
    manager = SlotManager(1, slots)
    manager.fit(1)
    return manager


def finish(place, ids):
    place.slot.key, place.slot.busy = packed(ids), False


def lived_in(manager, rows, owner="one"):
    """Slots that hold rows which are over, in the order of their last use."""
    slots = []
    for ids in rows:
        occupied = Slot(len(manager.slots), packed(ids), owner)
        manager.slots.append(occupied)
        [place] = manager.allocate([want([*ids, 0], owner)])
        assert place is not None
        assert place.slot is occupied
        finish(place, ids)
        slots.append(occupied)
    return slots


@given(st.lists(st.integers(0, 2)), st.lists(st.integers(0, 2)), st.lists(st.integers(-(2**31), 2**31 - 1)))
def test_common_prefix_is_what_a_loop_finds(one, other, head):
    for a, b in ((one, other), (head + one, head + other), (one, head)):
        assert common_prefix(packed(a), packed(b)) == shared_by(a, b)


def test_tokens_that_share_bytes_are_not_common():
    assert common_prefix(packed([1, 256, 7]), packed([1, 256 + 1, 7])) == 1
    assert common_prefix(packed([1, 2**24]), packed([1, 2**25])) == 1


class World:
    """Does with tokens what the engine does with keys and values, in any order that the manager must allow."""

    def __init__(self, rng, pending):
        self.rng = rng
        self.pending = pending  # last tokens that are not in a row's slot yet when it is read
        self.manager = SlotManager(2, 1200)
        assert self.manager.fit(rng.choice([60, 100, 150, 300, 1000])) == []
        self.holds: dict[Slot, list[int]] = {}
        self.rows: dict[Slot, list[int]] = {}
        self.unread: list[SlotAllocation] = []
        self.written: list[Slot] = []
        self.followers: dict[Slot, list[SlotAllocation]] = {}

    def some_rows(self, least):
        owner = self.rng.choice(OWNERS)
        known = [self.rows[slot] for slot in self.manager.slots]
        rows = []
        for _ in range(self.rng.randint(least, 4)):
            ids = some_row(self.rng)
            if known and self.rng.random() < 0.6:  # goes on with what there was
                ids = [*self.rng.choice(known)[: self.rng.choice([None, None, 5, 70])], *ids[-3:]]
            rows.append((ids, self.rng.choice([owner, owner, *OWNERS])))
        return rows

    def place(self):
        rows, later, since = self.some_rows(1), self.some_rows(0), self.manager.now + 1 - self.rng.randint(0, 3)
        slots = list(self.manager.slots)
        owners, keys = {slot: slot.owner for slot in slots}, {slot: tokens_of(slot) for slot in slots}
        busy = {slot for slot in slots if slot.busy}
        places = self.manager.allocate(*([want(*one, since) for one in some] for some in (rows, later)))

        assert sum(place is not None for place in places) == min(len(rows), self.manager.limit - len(busy))
        served = [(place, *one) for place, one in zip(places, rows, strict=True) if place is not None]
        assert len({place.slot for place, _, _ in served} | busy) == len(served) + len(busy)
        assert all(slot.busy and slot.owner == owners[slot] for slot in busy)
        for place, ids, owner in served:
            assert (place.slot.busy, place.slot.owner) == (True, owner)
            assert 0 <= place.shared < len(ids)
            if place.after is None and place.shared and owners[place.source or place.slot] != owner:
                assert place.shared >= MIN_CROSS_SEARCH_PREFIX
            if len(slots) + len(rows) <= self.manager.limit:  # nothing need be given up
                own = [shared_by(keys[slot], ids[:-1]) for slot in slots if owners[slot] == owner]
                assert place.shared >= max(own, default=0)
        copies = [one for one in served if one[0].after is None and one[0].source is not None]
        self.rng.shuffle(copies)
        for place, ids, _ in copies:
            self.copy(place, ids)
        for place, ids, _ in served:
            self.rows[place.slot] = ids
            if place.after is None:
                assert self.holds.get(place.slot, [])[: place.shared] == ids[: place.shared]
                self.holds[place.slot] = ids[: place.shared]
                self.unread.append(place)
            else:
                leader = places[place.after]
                assert place.source is leader.slot is not place.slot
                self.holds[place.slot] = []
                self.followers.setdefault(leader.slot, []).append(place)

    def copy(self, place, ids):
        assert self.holds[place.source][: place.shared] == ids[: place.shared]
        self.holds[place.slot] = ids[: place.shared]

    def read(self):
        place = self.one_of(self.unread)
        ids = self.rows[place.slot]
        self.holds[place.slot] = ids[: max(place.shared, len(ids) - self.pending)]
        place.slot.key = packed(self.holds[place.slot])
        self.written.append(place.slot)
        for follower in self.followers.pop(place.slot, []):
            self.copy(follower, self.rows[follower.slot])
            follower.slot.key = packed(self.holds[follower.slot])
            self.unread.append(follower)

    def write_and_finish(self):
        slot = self.one_of(self.written)
        self.rows[slot] = self.holds[slot] = self.rows[slot] + [self.rng.randint(0, 1)] * self.rng.randint(0, 9)
        slot.key, slot.busy = packed(self.holds[slot]), False

    def one_of(self, some):
        return some.pop(self.rng.randrange(len(some)))

    def release(self):
        owner, owners = self.rng.choice(OWNERS), [slot.owner for slot in self.manager.slots]
        self.manager.release(owner)
        assert [slot.owner for slot in self.manager.slots] == [None if one == owner else one for one in owners]

    def fit(self):
        slots, before = list(self.manager.slots), self.manager.width
        width = self.manager.width + self.rng.choice([-10, 0, 20, 50, 100, 200])
        kept = self.manager.fit(width)
        most = max(1, 1200 // (2 * max(width, before)))
        if kept is None:
            assert sum(slot.busy for slot in slots) > most
            assert (self.manager.slots, self.manager.width) == (slots, before)
            return
        assert self.manager.width == max(width, before)
        assert self.manager.slots == [slots[index] for index in kept]
        assert len(kept) == min(len(slots), most)
        worth = [(slot.busy, slot.owner is not None, slot.used) for slot in self.manager.slots]
        for slot in set(slots) - set(self.manager.slots):
            assert not slot.busy
            assert min(worth) >= (False, slot.owner is not None, slot.used)

    def live(self, turns):
        for _ in range(turns):
            deeds = [self.place] * 3 + [self.release, self.fit]
            deeds += [self.read] * 8 * bool(self.unread) + [self.write_and_finish] * 8 * bool(self.written)
            self.rng.choice(deeds)()
            assert [slot.index for slot in self.manager.slots] == list(range(len(self.manager.slots)))
            assert len(self.manager.slots) <= self.manager.limit
            for slot in self.manager.slots:
                assert tokens_of(slot) == self.holds[slot][: slot.length]


@pytest.mark.parametrize("pending", [0, 1])
@settings(max_examples=400, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_what_a_slot_states_is_there(seed, pending):
    World(random.Random(seed), pending).live(60)


@given(rng=st.randoms(use_true_random=True), copies=st.integers(2, 5))
def test_identical_rows_are_read_once(rng, copies):
    manager, ids = ample(), some_row(rng)
    for _ in range(rng.randint(0, 4)):
        row = some_row(rng)
        [place] = manager.allocate([want(row, rng.choice(OWNERS))])
        finish(place, row)
    first, *others = sorted(manager.allocate([want(ids)] * copies), key=lambda place: place.after is not None)
    for place in others:
        unread = len(ids) - 1 - place.shared
        assert (unread == 0) if place.after is not None else (unread <= SLACK)
    assert first.after is None


def test_identical_rows_wait_for_one_of_them():
    places = ample().allocate([want(range(100)), want([*range(50), 0, 1]), want(range(100)), want(range(100))])
    [leader] = [place for place in places if place.after is None]
    assert sorted(place.shared for place in places) == [0, 50, 99, 99]
    assert len({place.after for place in places if place is not leader and place.shared == 99}) == 1


def test_rows_with_little_more_in_common_than_is_in_a_slot_do_not_wait():
    manager = ample()
    lived_in(manager, [list(range(50))])
    for extra, waits in ((SLACK, False), (SLACK + 1, True)):
        ids = [*range(50), *range(200, 200 + extra)]
        places = manager.allocate([want([*ids, 1, 1]), want([*ids, 2, 2])])
        assert any(place.after is not None for place in places) == waits
        for place in places:
            finish(place, [])
            manager.release("one")
        manager.clear()
        lived_in(manager, [list(range(50))])


def test_rows_wait_for_the_earliest_that_shares_almost_as_much():
    stem = list(range(100))
    places = ample().allocate([want(stem), want([*stem, 0, 0]), want([*stem, 0, 1])])
    assert [place.after for place in places] == [None, 0, 0]
    longer = [*stem, *([0] * 20)]
    places = ample().allocate([want(stem), want([*longer, 0]), want([*longer, 1])])
    assert [place.after for place in places] == [None, 0, 1]


def test_a_row_that_goes_on_with_another_reads_its_last_token_itself():
    first, second = ample().allocate([want(range(100)), want(range(120))])
    assert (first.after, second.after, second.shared) == (None, 0, 99)


def test_a_row_goes_on_in_its_own_slot_and_copies_what_others_hold():
    manager = ample()
    [slot] = lived_in(manager, [list(range(80))])
    [mine] = manager.allocate([want(range(90))])
    assert (mine.slot, mine.shared, mine.source) == (slot, 80, None)
    [copied] = manager.allocate([want(range(85), "two")])
    assert copied.slot is not slot
    assert (copied.shared, copied.source) == (80, slot)


def test_a_slot_goes_to_the_row_that_shares_most_with_it():
    manager = ample()
    [slot] = lived_in(manager, [list(range(80))])
    short, long = manager.allocate(anew(manager, [*range(40), 0], [*range(70), 0]))
    assert (long.slot, long.shared, long.source) == (slot, 70, None)
    assert short.slot is not slot
    assert (short.shared, short.source) == (40, slot)


def test_a_row_of_the_same_call_is_gone_on_with_whole_or_copied():
    for common, taken in ((80, True), (79, False)):
        manager = ample()
        since = manager.now + 1
        [slot] = lived_in(manager, [list(range(80))])
        [place] = manager.allocate([want([*range(common), 0], since=since)])
        assert place.shared == common
        assert (place.slot is slot) == taken
        assert (place.source is slot) != taken


def test_a_row_of_another_search_serves_from_a_conversation_on():
    for common, shared in ((MIN_CROSS_SEARCH_PREFIX - 1, 0), (MIN_CROSS_SEARCH_PREFIX, MIN_CROSS_SEARCH_PREFIX)):
        manager = ample()
        [slot] = lived_in(manager, [list(range(200))], "one")
        [place] = manager.allocate([want([*range(common), 0], "two")])
        assert place.shared == shared
        assert place.source is (slot if shared else None)
        assert slot.owner == "one"


def test_a_row_of_another_search_is_not_looked_for_where_the_own_holds_half():
    manager = ample()
    [own] = lived_in(manager, [list(range(70))], "one")
    lived_in(manager, [list(range(100))], "two")
    [place] = manager.allocate([want([*range(100), *range(30)])])
    assert (place.slot, place.shared) == (own, 70)


def test_a_search_overwrites_its_dead_rows_before_the_book_grows():
    manager = ample()
    older, newer = lived_in(manager, [[1, 2, 3], [4, 5, 6]])
    first, second, third = manager.allocate(anew(manager, [7], [8], [9]))
    assert (first.slot, second.slot) == (older, newer)
    assert third.slot.index == 2


def test_rows_of_the_same_call_are_not_dead():
    manager = ample()
    older, newer = lived_in(manager, [[1, 2, 3], [4, 5, 6]])
    [place] = manager.allocate([want([7], since=manager.now)])
    assert place.slot is older
    [place] = manager.allocate([want([8], since=manager.now - 1)])
    assert place.slot not in (older, newer)


def test_what_later_rows_go_on_with_is_spared():
    manager = ample()
    kept, _ = lived_in(manager, [[1, 2, 3], [4, 5, 6]])
    places = manager.allocate(anew(manager, [7], [8]), anew(manager, [1, 2, 3, 4]))
    assert kept not in [place.slot for place in places]


def test_released_slots_are_forgotten_and_serve_others_before_the_book_grows():
    manager = ample()
    [slot, _] = lived_in(manager, [list(range(80)), [5]])
    [beside] = manager.allocate([want([7], "two")])
    assert beside.slot.index == 2
    manager.release("one")
    [there] = manager.allocate([want(range(90), "three")])
    assert (there.slot, there.shared, there.source) == (slot, 0, None)


def test_a_busy_slot_of_a_released_search_keeps_its_row_and_is_not_given_away():
    manager = ample(slots=1)
    [slot] = lived_in(manager, [list(range(80))])
    [place] = manager.allocate([want(range(90))])
    manager.release("one")
    assert (slot.length, slot.busy) == (80, True)
    assert manager.allocate([want(range(90), "two")]) == [None]
    finish(place, range(90))
    assert manager.allocate([want(range(90), "two")])[0].slot is slot


def test_the_longest_unused_slot_of_others_goes_when_memory_is_out():
    manager = ample(slots=2)
    older, newer = lived_in(manager, [[1, 2, 3], [4, 5, 6]])
    [place] = manager.allocate([want([1, 2, 3, 4])])
    finish(place, [1, 2, 3, 4])
    [place] = manager.allocate([want([7], "two")])
    assert place.slot is newer
    assert older.owner == "one"


def test_a_row_goes_on_where_it_would_copy_from_when_memory_is_out():
    manager = ample(slots=1)
    [slot] = lived_in(manager, [list(range(80))])
    [place] = manager.allocate([want([*range(70), 0])])
    assert (place.slot, place.shared, place.source) == (slot, 70, None)


def test_a_source_outlives_its_copies_while_others_can_be_overwritten():
    manager = ample(slots=3)
    source, _ = lived_in(manager, [list(range(100)), [1, 1]], "one")
    [place, other] = manager.allocate([want([*range(80), 0], "two"), want([5, 5], "three")])
    assert (place.source, place.shared) == (source, 80)
    assert source not in (place.slot, other.slot)


def test_one_row_is_served_whatever_the_budget():
    manager = SlotManager(1000, 1)
    assert manager.fit(10**6) == []
    [place, none] = manager.allocate([want([1, 2]), want([1, 2])])
    assert none is None
    finish(place, [1, 2])
    assert manager.allocate([want([1, 2, 3])])[0].shared == 2


def test_fit_keeps_the_busy_and_the_last_used():
    manager = ample(slots=60)
    oldest, middle, newest = lived_in(manager, [[1], [2], [3]])
    [busy] = manager.allocate([want([1, 5])])
    assert busy.slot is oldest
    assert manager.fit(30) == [0, 2]
    assert manager.slots == [oldest, newest]
    assert newest.index == 1
    manager.allocate([want([3, 3])])
    assert manager.fit(31) is None
    assert (manager.width, manager.limit, manager.slots) == (30, 2, [oldest, newest])
    assert middle.index == 1


def test_fit_prefers_a_searchs_slots_to_free_ones_and_never_narrows():
    manager = ample(slots=60)
    [mine] = lived_in(manager, [[1]], "one")
    lived_in(manager, [[2]], "two")
    manager.release("two")
    assert manager.fit(60) == [0]
    assert manager.slots == [mine]
    assert manager.fit(10) == [0]
    assert manager.width == 60


def test_a_cleared_book_holds_nothing():
    manager = ample()
    lived_in(manager, [list(range(80))])
    manager.clear()
    [place] = manager.allocate([want(range(90))])
    assert (place.slot.index, place.shared, place.source) == (0, 0, None)


@given(st.sets(st.integers(0, 30), min_size=1))
def test_contiguous_range_brings_the_active_side_by_side_with_the_fewest_exchanges(active):
    rows, exchanges = contiguous_range(active)
    n, at = len(active), list(range(31))
    assert n <= len(rows) <= n + n // 8
    assert min(active) <= rows.start
    assert rows.stop <= max(active) + 1
    assert len({slot for pair in exchanges for slot in pair}) == 2 * len(exchanges)
    for one, other in exchanges:
        assert one in active
        assert other not in active
        at[one], at[other] = at[other], at[one]
    assert {slot for slot in at if slot in active} <= {at[index] for index in rows}
    if max(active) - min(active) < n + n // 8:
        assert exchanges == []
    else:
        assert len(rows) == n
        assert len(exchanges) == n - max(len(active & set(range(first, first + n))) for first in range(31))


@given(st.integers(1, 40), st.integers(0, 9), st.randoms(use_true_random=False))
def test_up_to_an_eighth_of_idle_slots_stay_among_the_active(n, start, order):
    for idle in (n // 8, n // 8 + 1):
        inside = range(start + 1, start + n + idle - 1)
        if len(inside) >= idle:
            active = set(range(start, start + n + idle)) - set(order.sample(inside, idle))
            assert (contiguous_range(active) == (range(start, start + n + idle), [])) == (idle == n // 8)


@pytest.mark.parametrize("n", range(1, 61))
def test_fronted_brings_the_active_to_the_front_of_few_known_shapes(n):
    active = set(random.Random(n).sample(range(61), n))
    rows, exchanges = leading_range(active, most=10**6)
    at = list(range(61))
    assert rows == range(next(size for size in (1, 2, 4, 8, 12, 16, 24, 32, 48, 64) if size >= n))
    assert len({slot for pair in exchanges for slot in pair}) == 2 * len(exchanges)
    for one, other in exchanges:
        assert one in active
        assert other not in active
        at[one], at[other] = at[other], at[one]
    assert set(at[:n]) == active
    assert len(exchanges) == len(active - set(range(n)))


@given(st.sets(st.integers(0, 200), min_size=1), st.randoms(use_true_random=False))
def test_contiguous_range_does_not_depend_on_order(active, order):
    shuffled = list(active)
    order.shuffle(shuffled)
    assert contiguous_range(shuffled) == contiguous_range(sorted(active))
