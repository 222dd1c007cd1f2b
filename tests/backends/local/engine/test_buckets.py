"""The laws of buckets, for rows that are only their lengths."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from darwin_align.backends.local.engine.buckets import MOST_PADDING, MOST_POSITIONS, next_bucket

LENGTHS = st.lists(st.integers(1, 60) | st.integers(1, 6000), min_size=1, max_size=40)


class Row:
    def __init__(self, length):
        self.length = length


def bucket_of(lengths, most_rows=64):
    return [row.length for row in next_bucket([Row(length) for length in lengths], lambda row: row.length, most_rows)]


@given(LENGTHS, st.integers(1, 10))
def test_buckets_serve_every_row_once_the_first_first_and_within_bounds(lengths, most_rows):
    waiting = [Row(length) for length in lengths]
    while waiting:
        bucket = next_bucket(waiting, lambda row: row.length, most_rows)
        assert waiting[0] in bucket
        assert len(set(bucket)) == len(bucket) <= most_rows
        positions = len(bucket) * max(row.length for row in bucket)
        padding = positions - sum(row.length for row in bucket)
        assert padding <= MOST_PADDING * positions
        assert positions <= MOST_POSITIONS or len(bucket) == 1
        before, waiting = waiting, [row for row in waiting if row not in bucket]
        assert len(waiting) == len(before) - len(bucket)


@given(st.integers(1, 200), st.integers(1, 80))
def test_rows_of_one_length_are_read_together(length, rows):
    assert len(bucket_of([length] * rows)) == min(rows, 64, MOST_POSITIONS // length)


@given(st.integers(4, 60), st.lists(st.integers(0, 1), max_size=10))
def test_rows_that_differ_by_a_token_are_read_together(length, more):
    assert sorted(bucket_of([length, *(length + one for one in more)])) == sorted([length, *(length + m for m in more)])


def test_as_much_padding_as_allowed_and_no_more():
    assert bucket_of([8, 4]) == [8, 4]
    assert bucket_of([100, 49]) == [100]
    assert bucket_of([4, 9]) == [4]


def test_the_nearest_in_length_come_first():
    assert bucket_of([100, 80, 120, 98, 101], most_rows=3) == [100, 101, 98]


def test_a_longer_row_counts_at_the_new_width():
    assert bucket_of([MOST_POSITIONS // 2, MOST_POSITIONS // 2]) == [MOST_POSITIONS // 2] * 2
    assert bucket_of([MOST_POSITIONS // 2, MOST_POSITIONS // 2 + 1]) == [MOST_POSITIONS // 2]


def test_a_row_that_is_too_long_is_read_alone():
    assert bucket_of([2 * MOST_POSITIONS, 2 * MOST_POSITIONS, 3]) == [2 * MOST_POSITIONS]
