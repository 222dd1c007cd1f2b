"""Randomness by position."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest, pearsonr

from darwin_align.core.seeds import below, derive, uniform

PLACES = st.lists(st.one_of(st.integers(), st.text()), max_size=4)


@given(st.integers(), PLACES)
def test_ranges(seed: int, place: list[int | str]) -> None:
    assert 0 <= derive(seed, *place) < 2**63
    assert 0.0 <= uniform(seed, *place) < 1.0
    assert derive(seed, *place) == derive(seed, *place)


@given(st.integers(1, 10**9), st.integers(), PLACES)
def test_below_stays_below(bound: int, seed: int, place: list[int | str]) -> None:
    assert 0 <= below(bound, seed, *place) < bound


@given(st.integers(), PLACES, st.integers(), PLACES)
def test_other_places_have_other_seeds(seed: int, place: list[int | str], other: int, elsewhere: list) -> None:
    same = (seed, place, list(map(type, place))) == (other, elsewhere, list(map(type, elsewhere)))
    assert (derive(seed, *place) == derive(other, *elsewhere)) == same


def test_a_number_and_its_text_are_two_places() -> None:
    assert derive(1, 2) != derive(1, "2")
    assert derive(1, "a", "b") != derive(1, "ab")


def test_known_values_so_that_old_runs_can_be_repeated() -> None:
    assert derive(0) == 4761921975702974394
    assert derive(7, "decode", 0) == 1000162778389650894


def test_uniform_is_uniform() -> None:
    assert kstest([uniform(3, "draw", i) for i in range(4000)], "uniform").pvalue > 1e-3


def test_below_is_uniform() -> None:
    counts = Counter(below(7, seed, "draw") for seed in range(7000))
    assert chisquare([counts[i] for i in range(7)]).pvalue > 1e-3


def test_neighbouring_seeds_and_places_are_independent() -> None:
    draws = [uniform(seed, "x") for seed in range(4001)]
    assert pearsonr(draws[1:], draws[:-1]).pvalue > 1e-3
    assert pearsonr([uniform(1, i, 0) for i in range(4000)], [uniform(1, i, 1) for i in range(4000)]).pvalue > 1e-3
