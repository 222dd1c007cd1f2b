"""Each preset is what its paper says: who survives, who is drawn, and exactly what it costs."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, product
from math import ceil, exp, floor, log
from statistics import fmean, stdev
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field
from scipy.stats import chisquare

from darwin_align import DarwinSearch, Response, SearchConfig, SearchResult
from darwin_align.backends.scripted import ScriptedPolicy, ScriptedScorer
from darwin_align.core import PRESETS, Beam, Event
from darwin_align.core.choice import Answer, in_order
from darwin_align.core.errors import ConfigError, OperatorError
from darwin_align.core.seeds import uniform
from darwin_align.core.selection import systematic_resampling
from darwin_align.operators import ARGSSelector, Continuation, FunctionSelector, Row, Scorer
from tests.core.kit import ASKED, DRAWN, REQUEST, Case, Trace, cases, mutator_of, preset_of, reword, search_of, trace

L = 23
"""Tokens of every answer here, the end included."""


class Distinct(Scorer):
    """Rewards every response differently, whatever its length; all responses differ by their words' order."""

    def score(self, request: Any, responses: Sequence[Response]) -> list[float]:
        return [sum((i + 1) * token for i, token in enumerate(r.tokens)) % 97 / 10 + len(r.tokens) for r in responses]


def traced(name: str, policy: Any = None, scorer: Any = None, **changes: Any) -> Trace:
    config = preset_of(name, **{"seed": 4, "max_new_tokens": 40, **changes})
    words = [f"w{i}" for i in range(40)]
    parts: dict[str, Any] = {"policy": policy or ScriptedPolicy(words, length=L - 1), "scorer": scorer or Distinct()}
    return trace(DarwinSearch(**parts, mutator=mutator_of(config), guard=None), config)


# What it costs


def formula(name: str, n: int, m: int, cycles: int, alpha: float = 0.5) -> tuple[int, int]:
    """Decoded tokens and reward calls, by the table in ``darwin_align.core.presets``."""
    steps = ceil(L / m)
    left = list(accumulate(range(steps - 1), lambda b, _: b - floor(alpha * b), initial=n))
    written = [min(m, L - m * s) for s in range(steps)]
    return {
        "sample": (L, 1),
        "best_of_n": ((n + 1) * L, n + 1),
        "soft_best_of_n": ((n + 1) * L, n + 1),
        "learned_clauses": ((n + 1) * L, n + 1),
        "sample_replace": ((n + 1) * L, n * steps + 1),
        "smc": ((n + 1) * L, n * steps + 1),
        "speculative_rejection": (
            L + sum(b * tokens for b, tokens in zip(left, written, strict=True)),
            1 + sum(left),
        ),
        "args": ((n + 1) * L, n * L + 1),
        "mutate_best_of_n": ((n * cycles + 1) * L, n * cycles + 1),
        "darwin": ((n * cycles + 1) * L, n * cycles * steps + 1),
    }[name]


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize(("n", "m", "alpha"), [(5, 6, 0.5), (12, 7, 0.3), (3, 23, 0.5), (8, 40, 0.9)])
def test_its_costs_are_those_of_the_table(name: str, n: int, m: int, alpha: float) -> None:
    changes: dict[str, Any] = {"mutations": n, "replacement_period": m}
    if name == "args":
        # No candidate is an end before the last token: then all of them are, and one response.
        changes, policy = {"mutations": n}, ScriptedPolicy([f"w{i}" for i in range(40)], length=L)
        run = traced(name, policy, **changes, max_new_tokens=L)
    elif name == "speculative_rejection":
        run = traced(name, **changes, rejection=alpha)
    elif name == "smc":
        run = traced(name, **changes, resample_below=0.0)  # who is not resampled differs from all others
    else:
        run = traced(name, **changes)
    decoded, calls = formula(name, n, m, run.config.cycles, alpha)
    usage = run.result.usage
    assert usage.decoded_tokens == decoded
    replaced = sum(after.beams[i].ancestor is not None for _, after in run.of("select") for i in after.contenders)
    assert usage.reward_calls == calls if not replaced or name == "args" else usage.reward_calls <= calls


@pytest.mark.parametrize("name", PRESETS)
def test_the_first_response_decodes_beside_each_of_them(name: str) -> None:
    alone = traced("sample").result
    run = traced(name)
    assert run.result.first_response == alone.best
    assert (run.result.stop_reason, run.result.cycles) == ("cycles", run.config.cycles)


# Speculative rejection


def test_the_worst_share_goes_after_every_period_and_the_best_of_the_rest_is_the_answer() -> None:
    run = traced("speculative_rejection", mutations=20, replacement_period=5)
    left = []
    for before, after in run.of("select"):
        ranked = sorted(before.contenders, key=lambda i: -before.beams[i].reward)
        keep = max(1, len(ranked) - floor(0.5 * len(ranked)))
        # In the last step they have all finished: there is nothing to be saved by dropping one.
        ended = [i for i in ranked if before.beams[i].finished]
        assert set(after.contenders) == {*ranked[:keep], *ended}
        assert all(after.beams[i].text == before.beams[i].text for i in before.contenders)
        left.append(len(after.contenders))
    assert left == [10, 5, 3, 2, 2]
    end = run.steps[-1][1]
    last = [run.result.first_response, *(end.beams[i] for i in end.contenders)]
    assert run.result.reward == max(beam.reward for beam in last)
    assert {beam.text for beam in run.result.ranking} == {beam.text for beam in last}


def test_who_was_dropped_decodes_and_is_scored_no_more() -> None:
    run = traced("speculative_rejection", mutations=8, replacement_period=4)
    dropped: set[int] = set()
    for question, after in run.steps:
        if question.operator in ("decode", "score"):
            assert all(after.beams[i] == question.population.beams[i] for i in dropped)
        dropped |= {i for i, beam in enumerate(after.beams) if not beam.alive}
    assert len(dropped) == 7


@given(cases(["speculative_rejection"]))
def test_one_beam_is_left_in_any_case(case: Case) -> None:
    for _, after in case.trace().steps:
        assert after.contenders


# Particles


@dataclass
class Coins:
    """Writes letters "a" and "b", each with its probability, three of them."""

    heads: float = 0.6
    length: int = 3

    def generate(self, rows: Sequence[Row]) -> list[Continuation]:
        return [self._continue(row) for row in rows]

    def _continue(self, row: Row) -> Continuation:
        text = row.text
        for _ in range(row.max_tokens):
            if len(text) == self.length:
                break
            text += "a" if uniform(row.seed, len(text)) < self.heads else "b"
        ended = len(text) == self.length
        return Continuation(text=text, new_tokens=len(text) - len(row.text), finish_reason="stop" if ended else None)

    def probability(self, text: str) -> float:
        return self.heads ** text.count("a") * (1 - self.heads) ** text.count("b")


REWARDS = {"": 0.0, "a": -1.0, "b": 0.7, "aa": 0.4, "ab": -0.3, "ba": 1.1, "bb": -0.8}
FINAL = dict(zip(map("".join, product("ab", repeat=3)), (0.3, -1.0, 0.9, 1.6, -0.4, 1.2, 0.1, 2.0), strict=True))
"""Partial rewards that mislead now and then, and final ones."""


def particles(seed: int, n: int = 6, **changes: Any) -> Trace:
    scorer = ScriptedScorer(reward=lambda text: {**REWARDS, **FINAL}[text])
    settings = {"mutations": n, "replacement_period": 1, "reward_temperature": 0.8, "resample_below": 1.0, **changes}
    return traced("smc", Coins(), scorer, seed=seed, **settings)


def weights(run: Trace) -> list[tuple[str, float]]:
    """Every particle's answer and its weight ``exp(reward / temperature + log_weight)``."""
    end, temperature = run.steps[-1][1], run.config.reward_temperature
    beams = [end.beams[i] for i in end.contenders]
    return [(beam.text, exp(beam.reward / temperature + beam.log_weight)) for beam in beams]


def moved(seed: int, n: int, threshold: float) -> list[tuple[str, float]]:
    """The same by hand, for tests of thousands of runs; a third of the answers end one letter early."""
    texts, carried = [""] * n, [0.0] * n
    for step in range(3):
        for i, text in enumerate(texts):
            if len(text) == step and not ends_early(text):
                texts[i] += "a" if uniform(seed, step, i) < Coins.heads else "b"
        finished = [len(text) == 3 or ends_early(text) for text in texts]
        rewards = [{**REWARDS, **FINAL}[text] for text in texts]
        if not all(finished):
            ancestors, carried, _ = systematic_resampling(
                rewards, finished, carried, seed + step, temperature=0.8, threshold=threshold
            )
            texts = [texts[ancestor] for ancestor in ancestors]
    return [(text, exp({**REWARDS, **FINAL}[text] / 0.8 + lw)) for text, lw in zip(texts, carried, strict=True)]


def ends_early(text: str) -> bool:
    return text == "ba"


@pytest.mark.parametrize("threshold", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("n", [2, 5])
def test_particles_are_properly_weighted(threshold: float, n: int) -> None:
    """The mean weight estimates the normalising constant without bias, and so for every answer's part in it.

    That holds for any number of particles, however misleading the partial rewards and whoever ends early: it is what
    would break if a weight were counted twice, or not at all, at a resampling.
    """
    coins, temperature, runs = Coins(), 0.8, 4000
    answers = {text: FINAL[text] for text in FINAL if not text.startswith("ba")} | {"ba": REWARDS["ba"]}
    parts: dict[str, list[float]] = {text: [] for text in answers}
    for seed in range(runs):
        total = Counter(dict.fromkeys(answers, 0.0))
        for text, weight in moved(1000 * seed, n, threshold):
            total[text] += weight / n
        for text, part in total.items():
            parts[text].append(part)
    for text, estimates in parts.items():
        exact = coins.probability(text) * exp(answers[text] / temperature)
        assert fmean(estimates) == pytest.approx(exact, abs=4.5 * stdev(estimates) / runs**0.5)
    totals = list(map(sum, zip(*parts.values(), strict=True)))
    constant = sum(coins.probability(text) * exp(reward / temperature) for text, reward in answers.items())
    assert fmean(totals) == pytest.approx(constant, abs=4 * stdev(totals) / runs**0.5)


def test_a_step_weighs_by_the_difference_of_rewards() -> None:
    """What a particle brings to a resampling is the growth of its reward since the last one, whatever came before."""
    grown = 0
    for seed in range(30):
        run = particles(seed)
        reference: dict[int, float] = {}
        for before, after in run.of("select"):
            slots = [i for i in before.contenders if not before.beams[i].finished]
            incremental = {i: (before.beams[i].reward - reference.get(i, 0.0)) / 0.8 for i in slots}
            carried = {i: before.beams[i].reward / 0.8 + before.beams[i].log_weight for i in slots}
            # Equal up to a constant that all share: the total weight so far.
            offsets = [carried[i] - incremental[i] for i in slots]
            assert offsets == pytest.approx([offsets[0]] * len(slots), abs=1e-9) if slots else True
            if any(after.beams[i].log_weight != before.beams[i].log_weight for i in slots):
                reference = {i: after.beams[i].reward for i in slots}
                grown += 1
    assert grown > 30


def test_without_resampling_partial_rewards_have_no_say() -> None:
    for text, weight in weights(particles(1, resample_below=0.0)):
        assert weight == pytest.approx(exp(FINAL[text] / 0.8))


def test_the_more_particles_the_closer_to_the_tilted_policy() -> None:
    """Few are misled by partial rewards: "bb" looks bad, and "bbb" is the likeliest answer."""
    coins = Coins()
    shares = {text: coins.probability(text) * exp(FINAL[text] / 0.8) for text in FINAL if text[:2] != "ba"}
    shares["ba"] = coins.probability("ba") * exp(REWARDS["ba"] / 0.8)
    gaps = []
    for n in (5, 50, 500):
        found = Counter(dict.fromkeys(shares, 0.0))
        for seed in range(40):
            weighted = moved(1000 * seed, n, 1.0)
            total = sum(weight for _, weight in weighted)
            for text, weight in weighted:
                found[text] += weight / total / 40
        gaps.append(sum(abs(found[text] - share / sum(shares.values())) for text, share in shares.items()) / 2)
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[0] > 0.2
    assert gaps[-1] < 0.04


@pytest.mark.slow
def test_the_answer_is_drawn_by_the_particles_weights() -> None:
    """The first response is one more particle, that was never resampled."""
    found, expected = Counter(), Counter()
    for seed in range(300):
        run = particles(seed, n=10)
        first = run.result.first_response
        drawn = [*weights(run), (first.text, exp(first.reward / 0.8))]
        for text, weight in drawn:
            expected[text] += weight / sum(weight for _, weight in drawn)
        found[run.result.text] += 1
    assert (
        chisquare([found[t] for t in FINAL], [expected[t] * 300 / sum(expected.values()) for t in FINAL]).pvalue > 1e-3
    )


# Soft best-of-n


def test_soft_best_of_n_draws_by_the_softmax_of_the_rewards() -> None:
    """Over many seeds, the place of the drawn sample among its n by reward is as the softmaxes say."""
    runs, temperature = 800, 0.7
    found, expected = Counter(), Counter()
    for seed in range(runs):
        run = traced("soft_best_of_n", Coins(), _final_scorer(), seed=seed, reward_temperature=temperature)
        end = run.steps[-1][1].beams
        ordered = sorted(end, key=lambda beam: -beam.reward)
        odds = [exp(beam.reward / temperature) for beam in ordered]
        for beam, share in zip(ordered, odds, strict=True):
            expected[beam.text] += share / sum(odds)
        found[run.result.text] += 1
        assert len(end) == 5
    assert sum(found.values()) == pytest.approx(sum(expected.values()))
    assert chisquare([found[t] for t in FINAL], [expected[t] for t in FINAL]).pvalue > 1e-3


def _final_scorer() -> ScriptedScorer:
    return ScriptedScorer(reward=lambda text: FINAL[text])


def test_the_temperature_leads_from_a_plain_sample_to_best_of_n() -> None:
    """The same samples: near zero the best of them is the answer, and the hotter the lower its reward on average."""
    best = [traced("best_of_n", seed=seed).result for seed in range(60)]
    means = []
    for temperature in (1e-3, 0.5, 2.0, 10.0, 1e6):
        soft = [traced("soft_best_of_n", seed=seed, reward_temperature=temperature).result for seed in range(60)]
        assert all(
            sorted(beam.text for beam in one.ranking) == sorted(beam.text for beam in other.ranking)
            for one, other in zip(soft, best, strict=True)
        )
        means.append(fmean(result.reward or 0.0 for result in soft))
    assert means[0] == fmean(result.reward or 0.0 for result in best)
    assert means == sorted(means, reverse=True)
    samples = [beam.reward or 0.0 for result in best for beam in result.ranking]
    assert means[-1] == pytest.approx(fmean(samples), abs=4 * stdev(samples) / 60**0.5)


def test_the_draw_is_the_seeds_and_the_ranking_is_a_draw_without_replacement() -> None:
    results = [traced("soft_best_of_n", seed=7).result for _ in range(2)]
    assert results[0].model_copy(update={"usage": results[1].usage}) == results[1]
    drawn = results[0]
    assert drawn.best == drawn.ranking[0]
    orders = {
        tuple(
            sorted(range(5), key=[beam.reward for beam in traced("soft_best_of_n", seed=s).result.ranking].__getitem__)
        )
        for s in range(12)
    }
    assert len(orders) > 4


def test_an_invalid_answer_is_not_drawn_while_there_is_a_valid_one() -> None:
    config = SearchConfig(choice="soft", reward_temperature=0.01, seed=1)
    bad, good = (
        Answer(Beam(instruction="Hi", reward=reward, finish_reason="stop", valid=valid), 0, place)
        for place, (reward, valid) in enumerate([(9.0, False), (0.0, True)])
    )
    assert in_order([bad, good], config)[0] is good


# ARGS


@dataclass
class Grammar:
    """A policy with a table: probabilities of the next letter by the last one; "." is the end."""

    table: dict[str, dict[str, float]]
    ranks_tokens = True

    def generate(self, rows: Sequence[Row]) -> list[Continuation]:
        return [self._continue(row) for row in rows]

    def _continue(self, row: Row) -> Continuation:
        text, logprob = "".join(map(chr, row.tokens)), 0.0
        for _ in range(row.max_tokens if row.rank is None else 1):
            likely = sorted(self.table[text[-1:]].items(), key=lambda item: -item[1])
            letter, share = likely[0 if row.rank is None else min(row.rank, len(likely) - 1)]
            text, logprob = text + letter, logprob + log(share)
            if letter == ".":
                break
        return Continuation(
            text=text.rstrip("."),
            tokens=tuple(map(ord, text)),
            new_tokens=len(text) - len(row.tokens),
            finish_reason="stop" if text.endswith(".") else None,
            logprob=logprob,
        )


TABLE = {
    "": {"a": 0.5, "b": 0.3, "c": 0.2},
    "a": {"a": 0.4, "b": 0.3, ".": 0.2, "c": 0.1},
    "b": {".": 0.6, "a": 0.3, "c": 0.1},
    "c": {"a": 0.9, ".": 0.1},
}


def value(text: str) -> float:
    """Likes "ab", "c" and, a little, ends ("." is known by its tokens)."""
    return 2.0 * text.count("ab") + 1.2 * text.count("c") - 0.3 * len(text)


class Valued(Scorer):
    """Rewards an end for being one."""

    ends: float = 0.5
    scored: Any = Field(default_factory=list)

    def score(self, request: Any, responses: Sequence[Response]) -> list[float]:
        self.scored.extend((r.text, r.finished) for r in responses)
        return [value(r.text) + self.ends * r.finished for r in responses]


def by_the_paper(k: int, weight: float, ends: float, most: int) -> tuple[str, float, int]:
    """ARGS-greedy written down once more: the answer, its reward, and how many candidates were rewarded."""
    text, calls = "", 0
    for length in range(1, most + 1):
        candidates = sorted(TABLE[text[-1:]].items(), key=lambda item: -item[1])[:k]
        scored = []
        for letter, share in candidates:
            ended = letter == "." or length == most
            reward = value((text + letter).rstrip(".")) + ends * ended
            scored.append((log(share) + weight * reward, letter, reward))
        calls += len(scored)
        _, letter, reward = max(scored)
        text += letter
        if letter == ".":
            break
    return text.rstrip("."), reward, calls


@pytest.mark.parametrize("k", [1, 2, 3, 4])
@pytest.mark.parametrize("weight", [0.2, 1.0, 3.0])
@pytest.mark.parametrize(("ends", "most"), [(0.5, 9), (-1.0, 9), (0.5, 3), (4.0, 9)])
def test_args_greedy_is_the_papers(k: int, weight: float, ends: float, most: int) -> None:
    scorer = Valued(ends=ends)
    run = traced("args", Grammar(TABLE), scorer, mutations=k, reward_weight=weight, max_new_tokens=most)
    text, reward, calls = by_the_paper(k, weight, ends, most)
    end = run.steps[-1][1]
    [(found, worth, finished)] = {(b.text, b.reward, b.finished) for b in (end.beams[i] for i in end.contenders)}
    assert (found, worth, finished) == (text, pytest.approx(reward), True)
    # The first response is the most likely answer here, as the only candidate is: equal responses are scored once.
    assert run.result.usage.reward_calls == calls + (k > 1)
    assert all(len(before.beams) == k + 1 for before, _ in run.of("decode"))


def test_candidates_are_the_most_likely_tokens_of_one_state_each_once() -> None:
    run = traced("args", Grammar(TABLE), Valued(), mutations=3)
    for before, after in run.of("decode"):
        contenders = before.contenders
        if not any(before.beams[i].open for i in contenders):
            continue
        [state] = {before.beams[i].tokens for i in contenders}
        letters = [chr(after.beams[i].tokens[-1]) for i in contenders]
        likely = sorted(TABLE["".join(map(chr, state))[-1:]].items(), key=lambda item: -item[1])
        expected = [letter for letter, _ in likely[:3]]
        assert letters[: len(expected)] == expected
        assert all(before.beams[i].finish_reason is None and not after.beams[i].finished for i in contenders)


def test_an_end_that_was_not_chosen_ends_nothing_and_one_that_was_ends_all() -> None:
    """After "b" the end is the most likely token, but with a weight on what may follow it is not taken."""
    run = traced("args", Grammar(TABLE), Valued(ends=-9.0), mutations=3, max_new_tokens=6)
    offered = [beam.pending_finish_reason for _, after in run.of("decode") for beam in after.beams]
    assert "stop" in offered
    chosen = [after for _, after in run.of("select")]
    assert all(beam.pending_finish_reason is None for after in chosen for beam in after.beams if beam.alive)
    assert [after.beams[0].finished for after in chosen] == [False] * (len(chosen) - 1) + [True]
    assert {beam.finish_reason for beam in chosen[-1].beams if not beam.first_response} == {"length"}


def test_a_candidate_that_ends_is_scored_as_a_finished_answer() -> None:
    scorer = Valued()
    run = traced("args", Grammar(TABLE), scorer, mutations=4)
    for before, _ in run.of("score"):
        for i in before.contenders:
            beam = before.beams[i]
            assert beam.response.finished == (beam.pending_finish_reason is not None or beam.finished)
    assert {finished for _, finished in scorer.scored} == {True, False}


@pytest.mark.slow
def test_args_stochastic_draws_the_first_token_by_the_softmax() -> None:
    runs, k, temperature = 600, 3, 1.4
    settings = {"reward_temperature": temperature, "max_new_tokens": 2}
    counts = Counter(
        next(traced("args", Grammar(TABLE), Valued(), mutations=k, seed=seed, **settings).of("select"))[1].beams[0].text
        for seed in range(runs)
    )
    odds = {text: exp((log(TABLE[""][text]) + value(text)) / temperature) for text in "abc"}
    total = sum(odds.values())
    assert chisquare([counts[t] for t in odds], [runs * o / total for o in odds.values()]).pvalue > 1e-3


def test_an_explicit_args_selector_owns_its_settings() -> None:
    config = SearchConfig.preset("args", mutations=3, seed=1, max_new_tokens=9)
    expected = trace(DarwinSearch(policy=Grammar(TABLE), scorer=Valued(), guard=None), config)
    settings = {"cycles": 1, "mutations": 3, "decoding": "candidates", "replacement_period": 1, "max_new_tokens": 9}
    given_ = {"selector": ARGSSelector(), "config": SearchConfig(**settings, mutator="identity", seed=1)}
    search = DarwinSearch(policy=Grammar(TABLE), scorer=Valued(), guard=None, **given_)
    assert search.invoke(ASKED).ranking == expected.result.ranking
    with pytest.raises(ConfigError, match="reward_weight only serves selector='args'"):
        search.invoke(ASKED, reward_weight=2.0)


def test_other_selectors_work_on_candidates_too() -> None:
    """The best two of three next tokens go on: a beam search by reward."""
    settings = {"decoding": "candidates", "replacement_period": 1, "survivors": 2, "mutations": 3, "cycles": 1}
    config = SearchConfig(**settings, mutator="identity", seed=1, max_new_tokens=8)
    run = trace(DarwinSearch(policy=Grammar(TABLE), scorer=Valued(), guard=None), config)
    assert run.result.reward >= max(beam.reward or 0.0 for beam in run.result.ranking)
    states = [{after.beams[i].tokens for i in after.contenders} for _, after in run.of("select")]
    assert max(map(len, states)) == 2


@pytest.mark.parametrize("policy", [lambda rows: [], type("Remote", (), {"generate": lambda self, rows: []})()])
async def test_a_policy_that_ranks_no_tokens_is_refused_before_any_call(policy: Any) -> None:
    scored: list[Any] = []
    config = SearchConfig.preset("args")
    search = DarwinSearch(policy=policy, scorer=lambda *given: scored.append(given), guard=None, config=config)
    refusal = r"decoding='candidates' needs the most likely next tokens, which .* does not rank: use a LocalPolicy"
    with pytest.raises(ConfigError, match=refusal):
        search.invoke(ASKED)
    with pytest.raises(ConfigError, match=refusal):
        await search.ainvoke(ASKED)
    assert scored == []
    assert search.config.replace(cycles=0).candidates is False


def test_args_without_log_probabilities_is_an_operators_error() -> None:
    class Mute(Grammar):
        def _continue(self, row: Row) -> Continuation:
            return replace(super()._continue(row), logprob=None)

    with pytest.raises(OperatorError, match="needs the log-probability of every state, and the policy reports none"):
        traced("args", Mute(TABLE), Valued())


# Stopping early


@pytest.mark.parametrize(
    "name", ["darwin", "sample_replace", "best_of_n", "learned_clauses", "speculative_rejection", "args"]
)
def test_a_target_that_is_met_ends_the_search_and_is_its_reason(name: str) -> None:
    def scorer() -> ScriptedScorer:
        return ScriptedScorer(reward=lambda text: float(len(text) % 7))

    small: dict[str, Any] = {"max_new_tokens": 30, "seed": 2} | ({} if name == "args" else {"replacement_period": 3})
    kit = search_of(ends=0.15, scorer=scorer(), mutator=None if name != "darwin" else reword)
    whole = trace(kit, preset_of(name, **small))
    rewards = sorted({beam.reward for _, after in whole.steps for beam in after.beams if beam.finished and beam.reward})
    for target in rewards:
        run = trace(kit, preset_of(name, **small, target_reward=target))
        met = [i for i, (_, after) in enumerate(run.steps) if _best(after) >= target]
        assert run.result.reward >= target
        assert run.result.usage.decoded_tokens <= whole.result.usage.decoded_tokens
        # Nothing is decoded after the step in which it was met; a selection may still follow.
        assert all(question.operator == "select" for question, _ in run.steps[met[0] + 1 :])
        ended_early = run.result.usage.decoded_tokens < whole.result.usage.decoded_tokens
        assert (run.result.stop_reason == "target_reward") >= ended_early
    never = trace(kit, preset_of(name, **small, target_reward=99.0)).result
    assert (never.best, never.stop_reason) == (whole.result.best, "cycles")


def _best(population: Any) -> float:
    return max((b.reward for b in population.beams if b.finished and b.alive and b.reward is not None), default=-1e9)


def test_a_partial_or_invalid_answer_meets_no_target() -> None:
    """Every partial answer is worth more than the target, no finished one is."""

    class Falling(Scorer):
        def score(self, request: Any, responses: Sequence[Response]) -> list[float]:
            return [1.0 if r.finished else 9.0 for r in responses]

    result = traced("sample_replace", scorer=Falling(), target_reward=5.0, replacement_period=4).result
    assert (result.stop_reason, result.reward) == ("cycles", 1.0)


def improving(*bests: float) -> DarwinSearch:
    """A search whose cycles' answers are worth these rewards, the first response's first."""
    texts = [f"answer{i}" for i in range(len(bests))]

    def generate(rows: Sequence[Row]) -> list[Continuation]:
        continuations = []
        for row in rows:
            number = 0 if row.request.instruction == ASKED else int(row.request.instruction.rpartition(" ")[2])
            continuations.append(Continuation(text=texts[number], new_tokens=1, finish_reason="stop"))
        return continuations

    cycle = iter(range(1, len(bests)))
    return DarwinSearch(
        policy=generate,
        scorer=lambda request, responses: [bests[texts.index(r.text)] for r in responses],
        mutator=lambda request, instruction, n, seed, number=cycle: [f"cycle {next(number)}"] * n,
        guard=None,
    )


@pytest.mark.parametrize(
    ("bests", "settings", "cycles", "reason"),
    [
        ((1, 2, 3, 4, 5), {"patience": 1}, 4, "cycles"),
        ((1, 2, 2, 4, 5), {"patience": 1}, 2, "patience"),
        ((1, 2, 2, 4, 4, 4, 9), {"patience": 2}, 5, "patience"),
        ((5, 1, 1, 1, 9), {"patience": 3}, 3, "patience"),  # nobody beats the first response
        ((5, 1, 9, 9, 9), {"patience": 3}, 4, "cycles"),
        ((1, 1.4, 1.8, 2.2, 2.3, 9), {"patience": 1, "min_improvement": 0.3}, 4, "patience"),
        ((0, 0.2, 0.4, 0.6, 0.8), {"patience": 2, "min_improvement": 0.3}, 4, "cycles"),  # it rises in two together
        ((0, 0.1, 0.2, 5), {"patience": 2, "min_improvement": 0.3}, 2, "patience"),
        ((0, 0, 0, 9), {"patience": 2}, 2, "patience"),
        ((-3, -3, -1), {"patience": 1}, 1, "patience"),
        ((1, 2, 3, 4, 5), {"target_reward": 3}, 2, "target_reward"),
        ((1, 2, 3, 4, 5), {"target_reward": 1}, 1, "target_reward"),  # the first response decodes with cycle one
        ((1, 2, 3, 4, 5), {"target_reward": 5}, 4, "cycles"),  # the last cycle was not cut
        ((1, 1, 3, 4, 5), {"target_reward": 3, "patience": 1}, 1, "patience"),
        ((3, 3, 3, 4, 5), {"target_reward": 3, "patience": 1}, 1, "target_reward"),
        ((1, 1, 3), {"patience": 1, "budget": {"reward_calls": 2}}, 1, "budget: reward_calls"),
    ],
)
def test_when_a_search_has_had_enough(bests: Any, settings: dict[str, Any], cycles: int, reason: str) -> None:
    config = SearchConfig(cycles=len(bests) - 1, mutations=2, seed=1, **settings)
    result = trace(improving(*map(float, bests)), config).result
    assert (result.cycles, result.stop_reason) == (cycles, reason)
    assert result.reward == max(bests[: cycles + 1])


@given(cases(DRAWN), st.integers(1, 2), st.sampled_from([0.0, 0.5]))
def test_patience_only_cuts_cycles_off(case: Case, patience: int, least: float) -> None:
    whole = case.trace(cycles=4)
    config = case.config.replace(cycles=4, patience=patience, min_improvement=least)
    cut = trace(case.search, config)
    assert [q.operator for q, _ in cut.steps] == [q.operator for q, _ in whole.steps[: len(cut.steps)]]
    assert cut.result.reward <= whole.result.reward
    assert cut.result.stop_reason == ("cycles" if cut.result.cycles == 4 else "patience")
    if cut.result.stop_reason == "cycles":
        assert cut.result.ranking == whole.result.ranking


# All of them together


VARIED: dict[str, dict[str, Any]] = {
    **{name: {} for name in PRESETS},
    "darwin": {"patience": 1, "min_improvement": 0.5, "target_reward": 4.0},
    "mutate_best_of_n": {"target_reward": 3.0},
    "speculative_rejection": {"mutations": 6},
    "args": {"mutations": 4, "target_reward": 4.0},
}


@given(st.sampled_from(sorted(PRESETS)), st.integers(0, 2**31), st.sampled_from([0.0, 0.1, 0.5]), st.integers(1, 14))
def test_every_preset_survives_json_and_replays(name: str, seed: int, ends: float, most: int) -> None:
    config = preset_of(name, **VARIED[name], seed=seed, max_new_tokens=most)
    if name != "args":
        config = config.replace(replacement_period=3)
    search = search_of(ends, mutator=mutator_of(config))
    settings = {name: getattr(config, name) for name in config.model_fields_set if name != "mutator"}
    search = search.model_copy(update={"config": config})
    result = search.invoke(REQUEST, seed=seed)
    assert SearchResult.from_json(result.to_json()) == result
    stored = [Event.from_json(event.to_json()) for event in result.events]
    assert search.invoke(REQUEST, replay=stored, seed=seed) == result
    half = search.invoke(REQUEST, replay=stored[: len(stored) // 2], seed=seed)
    assert half.ranking == result.ranking
    assert half.best == result.best
    assert settings["max_new_tokens"] == most


def test_a_selector_of_ones_own_may_weigh_a_drawn_answer() -> None:
    """Weights count in the draw: a beam that weighs nothing is never drawn."""

    def only_first(rewards: Any, finished: Any, weights: Any, seed: int) -> Any:
        return range(len(rewards)), [0.0] + [-1e6] * (len(rewards) - 1)

    texts = set()
    for seed in range(20):
        config = SearchConfig(
            cycles=1, mutations=4, choice="soft", replacement_period=3, max_new_tokens=9, seed=seed, mutator="identity"
        )
        search = search_of(0.0, mutator=None, selector=FunctionSelector(function=only_first), config=config)
        run = trace(search, config)
        end = run.steps[-1][1]
        assert run.result.text in (end.beams[0].text, run.result.first_response.text)
        texts.add(run.result.text)
    assert len(texts) > 5
