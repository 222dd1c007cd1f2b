"""What the engine knows of every slot, against plain rows of ids."""

from __future__ import annotations

import pytest
import torch

from darwin_align.backends.local.engine.state import Entry, SlotState
from darwin_align.backends.local.sampling import place_keys, seed_keys

ROWS = {0: [5, 6, 7], 2: [8], 3: [9, 10, 11, 12]}
SEEDS = {0: 101, 2: -3, 3: 2**80}
DRAWN = {0: 1, 2: 0, 3: 7}


def entries(*slots):
    return [Entry(slot, ROWS[slot], len(ROWS[slot]) - 1, SEEDS[slot], DRAWN[slot]) for slot in slots]


@pytest.fixture
def state():
    """Three rows in five slots that are ten wide."""
    state = SlotState(torch.device("cpu"))
    state.lay_out([], 5, 10)
    state.enter(entries(3, 0, 2))
    return state


def key(slot, more=0):
    return place_keys(seed_keys([SEEDS[slot]]), torch.tensor([DRAWN[slot] + more])).item()


def keys(state, rows):
    [found] = state.keys(rows, 1).tolist()
    return found


def pending_of(state, *slots):
    return [(state.pending[slot].item(), state.lengths[slot].item()) for slot in slots]


def test_the_last_token_of_a_row_is_pending(state):
    assert pending_of(state, 0, 2, 3) == [(7, 2), (8, 0), (12, 3)]


def test_a_rows_noise_is_that_of_its_seed_and_its_draw_wherever_it_stands(state):
    assert keys(state, range(2, 4)) == [key(2), key(3)]
    state.exchange(0, 4)
    state.lay_out([4, 3], 6, 10)
    assert keys(state, range(2)) == [key(0), key(3)]
    state.advance(range(2), torch.tensor([1, 1]), None)
    assert keys(state, range(2)) == [key(0, 1), key(3, 1)]


def test_noise_of_many_steps_is_that_of_one_step_after_another(state):
    ahead = state.keys(range(5), 4).tolist()
    for step in ahead:
        assert step == keys(state, range(5))
        state.advance(range(5), torch.ones(5, dtype=torch.int64), None)
    assert ahead[3][2:4] == [key(2, 3), key(3, 3)]


def test_a_row_that_enters_again_begins_anew(state):
    state.advance(range(5), torch.ones(5, dtype=torch.int64), None)
    state.enter(entries(3))
    assert pending_of(state, 3) == [(12, 3)]
    assert keys(state, range(3, 4)) == [key(3)]


def test_exchanged_slots_have_each_others_rows(state):
    state.remember(entries(0, 3), 5, 10)
    state.exchange(0, 3)
    assert pending_of(state, 0, 3, 2) == [(12, 3), (7, 2), (8, 0)]
    assert keys(state, range(4))[::3] == [key(3), key(0)]
    assert state.history(range(4), 4)[::3].tolist() == [ROWS[3], [5, 6, 7, 5]]


def test_drawn_tokens_are_pending_behind_their_rows(state):
    state.advance(range(2, 4), torch.tensor([20, 21]), None)
    assert pending_of(state, 0, 2, 3) == [(7, 2), (20, 1), (21, 4)]


def test_idle_neighbours_stay_where_they_are(state):
    state.remember(entries(0, 2, 3), 5, 10)
    before = keys(state, range(5))
    history = state.history(range(5), 10).clone()
    state.advance(range(1, 4), torch.tensor([30, 31, 32]), torch.tensor([False, True, False]))
    assert pending_of(state, 0, 2, 3) == [(7, 2), (31, 1), (12, 3)]
    assert [after == was for after, was in zip(keys(state, range(5)), before, strict=True)] == [
        True,
        True,
        False,
        True,
        True,
    ]
    assert torch.equal(state.history(range(2), 10), history[:2])
    assert torch.equal(state.history(range(3, 5), 10), history[3:])
    assert state.history(range(2, 3), 3).tolist() == [[8, 31, 8]]


def test_history_is_the_rows_ids_and_their_first_id_behind_them(state):
    assert state.history(range(5), 10) is None
    state.remember(entries(0, 3), 5, 10)
    assert state.history(range(4), 6)[[0, 3]].tolist() == [[5, 6, 7, 5, 5, 5], [9, 10, 11, 12, 9, 9]]
    state.advance(range(4), torch.tensor([1, 2, 3, 4]), None)
    state.advance(range(4), torch.tensor([5, 6, 7, 8]), None)
    assert state.history(range(3, 4), 7).tolist() == [[9, 10, 11, 12, 4, 8, 9]]


def test_history_follows_its_rows_into_wider_slots(state):
    state.remember(entries(0, 3), 5, 5)
    state.advance(range(5), torch.tensor([0, 0, 0, 8, 0]), None)
    state.lay_out([3, 0], 2, 7)
    assert state.history(range(2), 7).tolist() == [[9, 10, 11, 12, 8, 9, 9], [5, 6, 7, 0, 5, 5, 5]]
    state.advance(range(2), torch.tensor([1, 2]), None)
    assert state.history(range(2), 7).tolist() == [[9, 10, 11, 12, 8, 1, 9], [5, 6, 7, 0, 2, 5, 5]]


def test_a_shorter_row_in_a_longer_rows_slot_has_none_of_its_history(state):
    state.remember(entries(3), 5, 10)
    state.enter([Entry(3, [1, 2], 1, 0, 0)])
    state.remember([Entry(3, [1, 2], 1, 0, 0)], 5, 10)
    assert state.history(range(3, 4), 5).tolist() == [[1, 2, 1, 1, 1]]


def test_a_full_idle_slot_does_not_write_beyond_its_history(state):
    state.enter([Entry(1, [1, 2, 3], 2, 0, 0)])
    state.remember([Entry(1, [1, 2, 3], 2, 0, 0)], 5, 3)
    state.advance(range(1, 2), torch.tensor([4]), None)
    state.advance(range(2), torch.tensor([5, 5]), torch.tensor([False, False]))
    assert pending_of(state, 1) == [(4, 3)]
    assert state.history(range(2), 3)[1, :2].tolist() == [1, 2]


def test_laid_out_slots_keep_their_rows_in_the_new_order(state):
    state.lay_out([3, 2], 4, 10)
    assert pending_of(state, 0, 1, 2, 3) == [(12, 3), (8, 0), (0, 0), (0, 0)]
    assert len(state.pending) == len(state.lengths) == 4
