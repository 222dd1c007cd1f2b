"""Every selection keeps exactly the laws that it declares."""

from collections import Counter
from collections.abc import Callable
from functools import partial
from math import exp, fsum

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.special import logsumexp, softmax
from scipy.stats import binomtest, chisquare

from darwin_align.core.selection import (
    LAWS,
    Law,
    Selection,
    no_selection,
    one_for_all,
    speculative_rejection,
    systematic_resampling,
    top_k_replacement,
    tournament,
)
from darwin_align.operators import (
    ARGSSelector,
    NoSelection,
    SMCSelector,
    SpeculativeRejection,
    TopKReplacement,
    Tournament,
)

Contenders = tuple[list[float], list[bool], list[float], int]


@st.composite
def contenders(draw: Callable[..., object]) -> Contenders:
    """Rewards with ties, flags, weights and a seed."""
    n = draw(st.integers(1, 9))
    rewards = draw(st.lists(st.integers(-4, 4).map(float), min_size=n, max_size=n))
    finished = draw(st.lists(st.booleans(), min_size=n, max_size=n))
    weights = draw(st.lists(st.floats(-2, 2), min_size=n, max_size=n))
    return rewards, finished, weights, draw(st.integers(0, 2**62))


KINDS = {
    top_k_replacement: st.builds(partial, st.just(top_k_replacement), k=st.integers(1, 12)),
    tournament: st.builds(partial, st.just(tournament), size=st.integers(1, 12)),
    systematic_resampling: st.builds(
        partial, st.just(systematic_resampling), temperature=st.floats(0.3, 3), threshold=st.floats(0, 1)
    ),
    speculative_rejection: st.builds(partial, st.just(speculative_rejection), alpha=st.floats(0.01, 0.99)),
    one_for_all: st.builds(partial, st.just(one_for_all), temperature=st.sampled_from([0.0, 0.5, 3.0])),
    no_selection: st.just(no_selection),
}


def keeping(law: Law) -> st.SearchStrategy[Callable[..., Selection]]:
    return st.one_of([KINDS[function] for function, laws in LAWS.items() if law in laws])


def donors(ancestors: tuple[int | None, ...]) -> set[int]:
    return {a for i, a in enumerate(ancestors) if a is not None and a != i}


def test_every_selection_declares_its_laws() -> None:
    assert set(LAWS) == set(KINDS)
    assert {law for laws in LAWS.values() for law in laws} == set(Law)
    for selector, function in {
        TopKReplacement: top_k_replacement,
        Tournament: tournament,
        SMCSelector: systematic_resampling,
        SpeculativeRejection: speculative_rejection,
        ARGSSelector: one_for_all,
        NoSelection: no_selection,
    }.items():
        assert selector.laws == LAWS[function]


@given(st.one_of(list(KINDS.values())), contenders())
def test_shape(select: Callable[..., Selection], given: Contenders) -> None:
    n = len(given[0])
    ancestors, weights, winners = select(*given)
    assert len(ancestors) == len(weights) == n
    assert set(ancestors) - {None} | winners <= set(range(n))
    assert select(*given) == (ancestors, weights, winners)


@given(keeping(Law.FINISHED_STAY), contenders())
def test_finished_stay(select: Callable[..., Selection], given: Contenders) -> None:
    assert all(select(*given).ancestors[i] == i for i, done in enumerate(given[1]) if done)


@given(keeping(Law.NONE_DROPPED), contenders())
def test_none_dropped(select: Callable[..., Selection], given: Contenders) -> None:
    assert None not in select(*given).ancestors


@given(keeping(Law.BEST_STAYS), contenders())
def test_best_stays(select: Callable[..., Selection], given: Contenders) -> None:
    best = max(range(len(given[0])), key=lambda i: given[0][i])
    assert select(*given).ancestors[best] == best


@given(keeping(Law.NEVER_WORSE), contenders())
def test_never_worse(select: Callable[..., Selection], given: Contenders) -> None:
    rewards = given[0]
    assert all(rewards[a] >= rewards[i] for i, a in enumerate(select(*given).ancestors))


@given(keeping(Law.DONORS_STAY), contenders())
def test_donors_stay(select: Callable[..., Selection], given: Contenders) -> None:
    ancestors = select(*given).ancestors
    assert all(ancestors[donor] == donor for donor in donors(ancestors))


@given(keeping(Law.ORDER_BLIND), contenders())
def test_order_blind(select: Callable[..., Selection], given: Contenders) -> None:
    rewards, *rest = given
    bent = [exp(reward) * 100 - 7 for reward in rewards]
    assert select(bent, *rest) == select(rewards, *rest)


@given(contenders(), st.floats(0.3, 3))
def test_balanced_no_count_is_off_by_one(given: Contenders, temperature: float) -> None:
    rewards, finished, weights, _ = given
    slots = [i for i, done in enumerate(finished) if not done]
    selection = systematic_resampling(*given, temperature=temperature, threshold=1.0)
    assume(selection.ancestors != tuple(range(len(rewards))))
    share = softmax([rewards[i] / temperature + weights[i] for i in slots])
    counts = Counter(selection.ancestors[i] for i in slots)
    for slot, p in zip(slots, share, strict=True):
        assert abs(counts[slot] - len(slots) * p) < 1 + 1e-9


def test_balanced_expected_copies_follow_the_weights() -> None:
    rewards, runs = [0.0, 1.0, 1.5, -1.0, 2.2], 4000
    share = softmax(rewards)
    copies: Counter[int | None] = Counter()
    for seed in range(runs):
        selection = systematic_resampling(rewards, [False] * 5, [0.0] * 5, seed, threshold=1.0)
        copies.update(selection.ancestors)
    for i, p in enumerate(share):
        sure, chance = divmod(5 * p, 1)  # a count is the whole part, or one more
        assert binomtest(copies[i] - round(sure) * runs, runs, chance).pvalue > 1e-4


@given(contenders(), st.floats(0.3, 3), st.floats(0, 1))
def test_resampling_keeps_the_total_weight(given: Contenders, temperature: float, threshold: float) -> None:
    rewards, finished, weights, _ = given
    assume(not all(finished))
    ancestors, carried, _ = systematic_resampling(*given, temperature=temperature, threshold=threshold)
    slots = [i for i, done in enumerate(finished) if not done]
    before = logsumexp([rewards[i] / temperature + weights[i] for i in slots])
    after = logsumexp([rewards[ancestors[i]] / temperature + carried[i] for i in slots])
    assert after == pytest.approx(before, abs=1e-9)
    assert all(carried[i] == weights[i] for i, done in enumerate(finished) if done)
    if ancestors != tuple(range(len(rewards))):  # resampled beams share one weight
        shared = [rewards[ancestors[i]] / temperature + carried[i] for i in slots]
        assert shared == pytest.approx([shared[0]] * len(slots), abs=1e-9)


@given(contenders(), st.floats(0.3, 3), st.floats(0.01, 1))
def test_resampling_waits_until_the_weights_are_uneven(given: Contenders, temperature: float, threshold: float) -> None:
    rewards, finished, weights, _ = given
    slots = [i for i, done in enumerate(finished) if not done]
    assume(slots)
    share = softmax([rewards[i] / temperature + weights[i] for i in slots])
    effective = 1 / fsum(p * p for p in share)
    assume(abs(effective - threshold * len(slots)) > 1e-6)
    selection = systematic_resampling(*given, temperature=temperature, threshold=threshold)
    if effective > threshold * len(slots):
        assert selection.ancestors == tuple(range(len(rewards)))
        assert selection.log_weights == tuple(weights)
    else:
        assert selection.log_weights != tuple(weights)


@given(contenders(), st.integers(1, 12))
def test_top_k_replaces_by_survivors_only(given: Contenders, k: int) -> None:
    rewards, finished, _, _ = given
    ancestors, _, winners = top_k_replacement(*given, k=k)
    assert len(winners) == min(k, len(rewards))
    assert min(rewards[i] for i in winners) >= max((r for i, r in enumerate(rewards) if i not in winners), default=-9)
    for i, ancestor in enumerate(ancestors):
        assert ancestor in winners if not (finished[i] or i in winners) else ancestor == i


def test_top_k_draws_donors_uniformly_and_one_may_be_finished() -> None:
    counts = Counter(
        top_k_replacement([3.0, 2.0, 1.0, 0.0], [True, False, False, False], [0.0] * 4, seed, k=3).ancestors[3]
        for seed in range(3000)
    )
    assert chisquare([counts[i] for i in range(3)]).pvalue > 1e-3


def test_survivors_no_fewer_than_beams_replace_none() -> None:
    assert top_k_replacement([1.0, 2.0], [False] * 2, [0.0] * 2, 1, k=5).ancestors == (0, 1)


def test_a_tournament_takes_the_best_that_a_beam_met() -> None:
    rewards = [float(i) for i in range(6)]
    for seed in range(50):
        small = tournament(rewards, [False] * 6, [0.0] * 6, seed, size=1).ancestors
        large = tournament(rewards, [False] * 6, [0.0] * 6, seed, size=4).ancestors
        assert all(a <= b for a, b in zip(small, large, strict=True))  # it met the same and others


def test_equals_stay_in_a_tournament() -> None:
    assert tournament([1.0] * 5, [False] * 5, [0.0] * 5, 1, size=9).ancestors == tuple(range(5))


def test_no_selection_lets_all_win() -> None:
    assert no_selection([1.0, 2.0], [False, True], [0.5, 0.0], 1) == ((0, 1), (0.5, 0.0), frozenset({0, 1}))


@given(contenders(), st.floats(0.01, 0.99))
def test_rejection_gives_up_the_worst_share_and_never_the_last(given: Contenders, alpha: float) -> None:
    rewards, finished, _, seed = given
    n = len(rewards)
    ancestors, weights, kept = speculative_rejection(rewards, finished, [0.0] * n, seed, alpha=alpha)
    assert len(kept) == max(1, n - int(alpha * n + 1e-9)) >= 1
    assert min(rewards[i] for i in kept) >= max((rewards[i] for i in range(n) if i not in kept), default=-9.0)
    for i in range(n):
        assert ancestors[i] == (i if i in kept or finished[i] else None)
        assert (weights[i] == 0.0) == (i in kept)


@pytest.mark.parametrize(
    ("alpha", "left"),
    [
        (0.5, [20, 10, 5, 3, 2, 1, 1]),
        (0.7, [10, 3, 1, 1]),
        (0.29, [100, 71, 51]),  # 0.29 * 100 in floats is less than 29
        (0.1, [9, 9]),  # a tenth of nine is nobody
        (0.95, [3, 1, 1]),
    ],
)
@pytest.mark.parametrize("done", [0, 1])
def test_how_many_are_left_depends_on_the_share_alone(alpha: float, left: list[int], done: int) -> None:
    """Finished beams count until they are rejected: then they neither come back nor shield others."""
    rewards, weights = [float(i) for i in range(left[0])], [0.0] * left[0]
    alive = list(range(left[0]))
    finished = [bool(done) and i % 3 == 0 for i in alive]
    counts = [left[0]]
    for seed in range(len(left) - 1):
        selection = speculative_rejection(
            [rewards[i] for i in alive], [finished[i] for i in alive], [weights[i] for i in alive], seed, alpha=alpha
        )
        for i, weight in zip(alive, selection.log_weights, strict=True):
            weights[i] = weight
        alive = [i for i, ancestor in zip(alive, selection.ancestors, strict=True) if ancestor is not None]
        kept = [i for i in alive if weights[i] == 0.0]
        assert kept == list(range(left[0] - len(kept), left[0]))  # rewards rise with the index
        assert all(finished[i] for i in alive if i not in kept)
        counts.append(len(kept))
    assert counts == left


def test_one_for_all_takes_the_best_that_is_not_finished() -> None:
    rewards, finished = [9.0, 1.0, 3.0, 2.0], [True, False, False, False]
    assert one_for_all(rewards, finished, [0.0] * 4, 1, temperature=0.0) == ((0, 2, 2, 2), (0.0,) * 4, frozenset({2}))
    assert one_for_all([1.0, 2.0], [True, True], [0.0] * 2, 1, temperature=0.0).ancestors == (0, 1)


def test_one_for_all_draws_by_the_softmax() -> None:
    rewards, temperature, runs = [0.0, 1.0, 1.5, -1.0, 2.2], 1.3, 4000
    counts = Counter(
        one_for_all(rewards, [False] * 5, [0.0] * 5, seed, temperature=temperature).ancestors[0] for seed in range(runs)
    )
    expected = softmax([reward / temperature for reward in rewards]) * runs
    assert chisquare([counts[i] for i in range(5)], expected).pvalue > 1e-3
