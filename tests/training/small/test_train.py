"""What is compared in training, with which weights, and what the gates make of rewards."""

import random
from collections import Counter

import pytest
import torch

from training.small import data, gates
from training.small.contrasts import KINDS, spoilt
from training.small.data import Group, Pair, few_of, split_of, with_contrasts
from training.small.packing import Encoded, Packed, shares_of
from training.small.states import Known
from training.small.train import Tally, length_balance, length_penalty, loss_of, reads_of, terms_of

needs_data = pytest.mark.skipif(not data.DATA.is_dir(), reason="the judged answers are not in ../shared/data/real")


def known(lengths: list[int], pairs: list[Pair], wins: tuple[float, ...] = (), source: str = "pool") -> Known:
    cuts = tuple(tuple([cut for cut in (10, 20) if cut < length] + [length]) for length in lengths)
    encoded = Encoded((1, 2), tuple((3,) * length for length in lengths), cuts, (True,) * len(lengths))
    group = Group(source, "?", tuple("x" * length for length in lengths), tuple(pairs), wins)
    empty = torch.zeros(0)
    return Known(group, encoded, Packed(empty, empty, 2, (), ()), empty)


def test_pairs_are_compared_whole_and_at_shared_counts() -> None:
    one = known([30, 15], [Pair(0, 1)])
    terms = [term for term in terms_of(one, {}) if term.kind == "judged"]
    reads = reads_of(one.encoded)
    assert {(term.better, term.worse) for term in terms} == {
        (reads[0][10], reads[1][10]),
        (reads[0][30], reads[1][15]),
    }
    assert max(terms, key=lambda term: term.share).weight == 1.0
    assert min(term.weight for term in terms) < 0.5


def test_prefix_weights_grow_with_what_is_read() -> None:
    terms = [term for term in terms_of(known([40, 40], [Pair(0, 1)]), {}) if term.kind == "judged"]
    by_share = [term.weight for term in sorted(terms, key=lambda term: term.share)]
    assert by_share == sorted(by_share)
    assert len(by_share) == 3


def test_length_alone_earns_nothing() -> None:
    rng = random.Random(0)
    groups = [known([40, 25] if rng.random() < 0.7 else [25, 40], [Pair(0, 1)]) for _ in range(200)]
    weights = length_balance(groups)
    earned = Counter()
    for one, balance in zip(groups, weights, strict=True):
        earned[len(one.encoded.answers[0]) == 40] += balance[one.group.pairs[0]]
    assert earned[True] == pytest.approx(earned[False], rel=0.05)


def test_the_loss_falls_where_the_better_one_is_rewarded() -> None:
    one = known([30, 30], [Pair(0, 1)])
    terms = list(terms_of(one, {}))
    reads = reads_of(one.encoded)
    good = torch.zeros(sum(map(len, reads)))
    good[list(reads[0].values())] = 1.0
    assert loss_of(good, terms) < loss_of(-good, terms)
    tally = Tally()
    tally.add(good, one, terms)
    assert "whole pool 1.000" in tally.text()


def test_rewards_that_follow_length_are_penalised() -> None:
    one = known([30, 15, 60], [Pair(0, 1), Pair(2, 1)])
    reads = reads_of(one.encoded)
    flat = torch.zeros(sum(map(len, reads)))
    steep = flat.clone()
    for place, length in enumerate((30, 15, 60)):
        steep[reads[place][length]] = length / 10
    assert float(length_penalty(flat, one)) == 0.0
    assert float(length_penalty(steep, one)) == float(length_penalty(-steep, one)) > 1.0


def test_splits_go_by_the_prompts_letters() -> None:
    assert split_of("Why is the sky blue?") == split_of("  why is the Sky blue")
    counts = Counter(split_of(f"question {number}") for number in range(600))
    assert all(150 < counts[split] < 250 for split in ("reward", "gold", "held_out"))


def test_every_wrong_text_is_right_elsewhere() -> None:
    groups = [Group("made up", f"prompt {n}", (f"good {n} " * 8, f"bad {n} " * 8), (Pair(0, 1),)) for n in range(6)]
    for group in with_contrasts(groups, 1):
        other = next(pair for pair in group.pairs if pair.kind == "another prompt")
        assert any(group.answers[other.worse] in one.answers for one in groups if one.prompt != group.prompt)
        assert {pair.kind for pair in group.pairs} >= {"judged", "another prompt"}
    assert with_contrasts(groups, 1) == with_contrasts(groups, 1) != with_contrasts(groups, 2)


@pytest.mark.parametrize("seed", range(6))
def test_spoilt_copies_differ(seed: int) -> None:
    text = "Boil the water, wait a minute, then pour it over the leaves and take them out again."
    kind, bad = spoilt(text, random.Random(seed))
    assert kind in KINDS
    assert bad != text


def test_few_answers_say_most() -> None:
    answers = ("a" * 400, "b" * 100, "c" * 390, "d" * 380)
    wins = (0.95, 0.02, 0.03, 0.5)
    group = Group("pool", "?", answers, (Pair(0, 1), Pair(0, 2)), wins)
    few = few_of(group, "reference")
    assert few.answers == (answers[0], answers[2], "reference")
    assert {(pair.better, pair.worse) for pair in few.pairs} == {(0, 1), (0, 2), (2, 1)}


def test_figures_of_made_up_rewards() -> None:
    rows, counts = [], shares_of([30, 16, 40])
    for number in range(20):
        one = known([30, 16, 40], [Pair(0, 1), Pair(2, 0)], wins=(0.6, 0.1, 0.9))
        rewards = tuple(dict.fromkeys((*counts, length), length / 10 + number) for length in (30, 16, 40))
        rows.append(gates.Judged(one, rewards))
    made = gates.figures(rows)
    assert made["pool pairs"][0] == made["pool pairs, longer"][0] == 1.0
    assert made["best of 11"][0] == made["best of 11, oracle"][0] == pytest.approx(0.9)
    assert made["best of 11, random"][0] == pytest.approx(1.6 / 3)
    assert made["correlation with length, pool"][0] == pytest.approx(1.0)
    assert gates.agreement(rows, rows) == pytest.approx(1.0)
    assert "pool pairs" in gates.table(made)


@needs_data
def test_the_real_data() -> None:
    votes, judged = data.pandalm(), data.pool()
    assert sum(len(group.pairs) for group in votes) > 500
    assert (len(judged), len(judged[0].answers)) == (605, 11)
    training, held_out = data.training_groups(), data.held_out_groups()
    keys = {split_of(group.prompt) for group in training}
    assert keys == {"reward", "gold"}
    assert {group.split for group in held_out} == {"held_out"}
    assert not {group.source for group in training} & {group.source for group in held_out if "llmbar" in group.source}


def test_the_card_is_that_of_the_metrics() -> None:
    import json

    from training.small import card

    assert card.CARD.read_text(encoding="utf-8") == card.text(json.loads(gates.METRICS.read_text(encoding="utf-8")))
