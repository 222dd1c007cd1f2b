"""The scorer check: scorers of exact behaviour, the embedded reward model, and pairs as users write them."""

import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from itertools import count
from math import exp
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.runnables import RunnableLambda
from scipy.stats import binomtest

from darwin_align import Request, Response
from darwin_align.backends.local import LocalScorer
from darwin_align.core.errors import (
    ConfigError,
    ContextLengthError,
    EndpointConnectionError,
    EndpointRequestError,
    OperatorError,
    RewardError,
)
from darwin_align.core.seeds import uniform
from darwin_align.evaluation import (
    Pair,
    ScorerReport,
    Share,
    acheck,
    builtin_pairs,
    check,
    embedded_pairs,
    read_pairs,
)
from darwin_align.evaluation.scorer_check import _cut, _derangement
from darwin_align.operators import FunctionScorer, Report, Scorer, WeightedSum
from darwin_align.operators.portal import submits
from darwin_align.pocket import gold, reward_path
from darwin_align.pocket.world import parse

One = Callable[[Request, Response], float]


def made(i: int) -> Pair:
    """Both answers name the topic as their second word; the better one is the longer one in even pairs."""
    better, worse = ("more " * 12, "few " * 8) if i % 2 == 0 else ("few " * 8, "more " * 12)
    return Pair.of(f"Tell me about topic{i}", f"good topic{i} {better}end", f"bad topic{i} {worse}end")


PAIRS = tuple(made(i) for i in range(20))


def sane(request: Request, response: Response) -> float:
    """Reads prompt and answer, finished or not; every text gets a reward of its own."""
    words = [*response.text.split(), "", ""]
    quality = {"good": 3.0, "bad": -3.0}.get(words[0], -6.0)
    topic = 2.0 if words[1] and request.instruction.split()[-1] == words[1] else -2.0
    return quality + topic + 0.5 * uniform(0, request.instruction, response.text)


def scorer(one: One) -> FunctionScorer:
    return FunctionScorer(function=lambda request, responses: [one(request, response) for response in responses])


def checked(one: One, **options: Any) -> ScorerReport:
    return check(scorer(one), PAIRS, **options)


def severity(report: ScorerReport, words: str) -> str:
    """Severity of the one finding that has these words."""
    (found,) = [finding for finding in report.findings if words in finding.sentence]
    return found.severity


def sigmoid(x: float) -> float:
    return 1 / (1 + exp(-x))


# What is measured ---------------------------------------------------------------------------------------------------


def test_a_sane_scorer_passes_without_any_remark() -> None:
    report = checked(sane)
    assert [found.severity for found in report.findings] == ["ok"] * 8
    assert report.passed
    assert (report.scorer, report.pairs, report.seed) == ("FunctionScorer", 20, 0)
    assert (report.accuracy.wins, report.accuracy.ties, report.accuracy.n) == (20, 0, 20)
    assert report.sensitivity is not None
    assert report.sensitivity.share == 1.0
    assert [share and share.share for share in report.partial] == [1.0, 1.0, 1.0]
    assert report.margin == pytest.approx(6.0, abs=0.5)
    assert report.effect is not None
    assert report.effect > 10
    assert report.longer_wins is not None
    assert report.longer_better is not None
    assert report.longer_wins.share == report.longer_better.share == 0.5
    assert report.repeated == report.alone == 0.0
    assert (report.rewards.n, report.rewards.coarse, report.rewards.whole) == (20 * 9, False, False)
    assert report.rewards.lowest == pytest.approx(-1, abs=0.5)
    assert report.seconds_per_call > 0
    assert report.responses_per_second > 0


def test_outcomes_hold_the_rewards_themselves() -> None:
    pair, outcome = PAIRS[3], checked(sane).outcomes[3]
    assert outcome.instruction == "Tell me about topic3"
    assert outcome.better == sane(pair.request, Response(text=pair.better))
    assert outcome.worse == sane(pair.request, Response(text=pair.worse))
    foreign = {sane(other.request, Response(text=pair.better)) for other in PAIRS if other is not pair}
    assert outcome.shuffled in foreign
    half = "good topic3 few few few"
    assert outcome.partial[1] == (
        sane(pair.request, Response(text=half)),
        sane(pair.request, Response(text=_cut(pair.worse, 50))),
    )
    assert _cut(pair.better, 50) == half


async def test_sync_and_async_say_the_same_also_inside_a_loop() -> None:
    async def reward(request: Request, responses: Sequence[Response]) -> list[float]:
        return [sane(request, response) for response in responses]

    given = FunctionScorer(function=reward)
    outcomes = checked(sane).outcomes
    for report in (await acheck(given, PAIRS), check(given, PAIRS)):
        assert report.outcomes == outcomes
    assert check(given, PAIRS, seed=5).seed == 5


def test_whatever_a_search_takes_as_a_scorer_is_checked() -> None:
    class Object:
        def score(self, request: Request, responses: Sequence[Response]) -> list[float]:
            return [sane(request, response) for response in responses]

    def chain(given: dict[str, Any]) -> float:
        return sane(Request.of(given["instruction"]), Response(text=given["response"]))

    outcomes = checked(sane).outcomes
    for form in (Object(), Object().score, RunnableLambda(chain).with_retry(), scorer(sane).with_retry()):
        assert check(form, PAIRS).outcomes == outcomes
    with pytest.raises(ConfigError, match=r"cannot use int 3 as scorer"):
        check(3, PAIRS)


def test_it_scores_along_the_path_of_a_search() -> None:
    released: list[str] = []
    calls: list[tuple[Request, list[Response]]] = []

    class Holder:
        def release(self, search_id: str) -> None:
            released.append(search_id)

    class Queued(Scorer):
        @property
        def resources(self) -> tuple[Any, ...]:
            return (Holder(),)

        def score(self, request: Request, responses: Sequence[Response]) -> list[float]:
            raise AssertionError("a scorer that submits is called by submit")

        @submits
        def submit(self, request: Request, responses: Sequence[Response]) -> Future[Any]:
            calls.append((request, list(responses)))
            future: Future[Any] = Future()
            future.set_result(Report([sane(request, r) for r in responses], notes=("one note", "another")))
            return future

    report = check(Queued(), PAIRS[:10])
    assert report.notes == ("one note", "another")
    assert "- one note" in report.render()
    assert len(released) == 1
    # Ten requests, and ten shuffled answers; eight requests again and alone; three times an empty answer.
    assert report.calls == len(calls) == 10 + 10 + 8 + 8 + 3
    assert report.responses == sum(len(responses) for _, responses in calls)
    for request, responses in calls[:10]:
        texts = [response.text for response in responses]
        assert len(set(responses)) == len(responses) == 8
        assert [response.finished for response in responses] == [True, True, *[False] * 6]
        assert {text.split()[1] for text in texts} == {request.instruction.split()[-1]}
    for request, (guest,) in calls[10:20]:
        assert guest.finished
        assert guest.text.split()[1] != request.instruction.split()[-1]
    assert all(call in calls[:10] for call in calls[20:28])


def test_equal_beginnings_are_scored_once_and_not_compared() -> None:
    sizes: list[int] = []

    def reward(request: Request, responses: Sequence[Response]) -> list[float]:
        sizes.append(len(responses))
        return [len(response.text) for response in responses]

    report = check(reward, [Pair.of("Hi", "a b c good", "a b c bad")])
    assert sizes[0] == 5
    assert report.responses == sum(sizes)
    assert report.partial == (None, None, None)
    assert severity(report, "answers of each pair begin alike") == "warning"
    assert report.effect is None
    assert re.search(r"after 50% of the words +–\n", report.render())


async def test_so_many_calls_at_a_time_and_no_more() -> None:
    lock, under_way, most = threading.Lock(), 0, 0
    together = threading.Barrier(3)

    def reward(request: Request, responses: Sequence[Response]) -> list[float]:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        if len(responses) == 8 and request in [pair.request for pair in PAIRS[:18]]:
            together.wait(timeout=20)  # passes in threes only, and there are three places
        with lock:
            under_way -= 1
        return [sane(request, response) for response in responses]

    together_pairs = PAIRS[:18]
    report = check(_spotless(reward, together), together_pairs, concurrency=3)
    assert most == 3
    assert report.concurrency == 3
    with pytest.raises(ConfigError, match=r"concurrency=0 is impossible"):
        check(reward, PAIRS, concurrency=0)


def _spotless(reward: Any, barrier: threading.Barrier) -> Any:
    """After the first round nobody waits for others any more."""
    calls = count(1)

    def limited(request: Request, responses: Sequence[Response]) -> Any:
        if next(calls) > 18:
            return [sane(request, response) for response in responses]
        return reward(request, responses)

    return limited


def test_the_seed_decides_the_shuffled_prompts_and_nothing_else() -> None:
    one, same, other = checked(sane, seed=1), checked(sane, seed=1), checked(sane, seed=2)
    assert one.outcomes == same.outcomes
    assert [o.shuffled for o in one.outcomes] != [o.shuffled for o in other.outcomes]
    assert [o.better for o in one.outcomes] == [o.better for o in other.outcomes]


def test_the_seed_decides_which_pairs_are_scored_again() -> None:
    def again(seed: int) -> set[str]:
        scored: Counter[str] = Counter()

        def reward(request: Request, responses: Sequence[Response]) -> list[float]:
            scored[request.instruction] += 1
            return [sane(request, response) for response in responses]

        check(reward, PAIRS, seed=seed, concurrency=1)
        return {instruction for instruction, times in scored.items() if times > 2}

    assert len(again(1)) == 8
    assert again(1) == again(1) != again(2)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=20), st.integers(0, 99))
def test_shuffled_prompts_are_other_prompts(topics: list[int], seed: int) -> None:
    pairs = [Pair.of(f"topic{topic}", f"good {i}", f"bad {i}") for i, topic in enumerate(topics)]
    shuffle = _derangement(pairs, seed)
    assert all(topics[prompt_index] != topics[shuffled_index] for prompt_index, shuffled_index in shuffle.items())
    assert len(set(shuffle.values())) == len(shuffle)
    largest = max(topics.count(topic) for topic in topics)
    assert len(shuffle) == (len(topics) if 2 * largest <= len(topics) else 2 * (len(topics) - largest))


# What it means ------------------------------------------------------------------------------------------------------


def test_upside_down() -> None:
    report = checked(lambda q, r: -sane(q, r))
    assert not report.passed
    assert severity(report, "upside down") == "problem"
    assert severity(report, "good beginnings are taken for bad ones") == "problem"
    assert report.accuracy.share == 0.0
    assert report.margin < 0


def test_no_better_than_a_coin() -> None:
    report = checked(lambda q, r: uniform(0, r.text, q.instruction) - 4)
    assert severity(report, "no better than a coin") == "problem"
    assert severity(report, "replacement is left to chance") == "warning"


def test_right_in_three_of_four() -> None:
    def weak(request: Request, response: Response) -> float:
        upside_down = int(request.instruction.removeprefix("Tell me about topic")) % 20 >= 15
        return sane(request, response) * (-1 if upside_down and response.text.startswith(("good", "bad")) else 1)

    report = check(scorer(weak), PAIRS)
    assert report.accuracy.share == 0.75
    assert severity(report, "less than the 80% to expect on easy pairs") == "warning"
    assert report.passed
    wrong = report.render().split("Not in order")[1]
    assert [line.split()[0] for line in wrong.splitlines()[1:]] == ["16", "17", "18", "19", "20"]
    assert "Tell me about topic15" in wrong


def test_a_scorer_that_never_sees_the_prompt() -> None:
    report = checked(lambda q, r: sane(Request.of("x"), r))
    assert severity(report, "never sees the prompt") == "problem"
    assert report.sensitivity is not None
    assert (report.sensitivity.share, report.sensitivity.ties) == (0.5, 20)
    assert report.accuracy.share == 1.0


def test_a_scorer_for_which_the_prompt_hardly_counts() -> None:
    report = checked(lambda q, r: sane(Request.of("x"), r) + 0.1 * uniform(3, q.instruction))
    assert severity(report, "the prompt hardly counts") == "problem"
    assert severity(report, "the better answer is above".capitalize()) == "ok"


def test_some_prompt_sensitivity() -> None:
    def reads_most(request: Request, response: Response) -> float:
        words = response.text.split()
        deaf = len(words) > 1 and words[1] in {"topic3", "topic5", "topic7", "topic8", "topic9"}
        return sane(Request.of("x " + words[1]) if deaf else request, response)

    report = checked(reads_most)
    assert report.sensitivity is not None
    assert (report.sensitivity.wins, report.sensitivity.ties) == (15, 5)
    assert severity(report, "under its own prompt") == "ok"
    assert report.sensitivity.share == 0.875


@pytest.mark.parametrize("pairs", [PAIRS[:1], [Pair.of("One", f"good {i} a b", f"bad {i} a b") for i in range(12)]])
def test_with_one_prompt_only_its_part_is_unknown(pairs: Sequence[Pair]) -> None:
    report = check(scorer(sane), pairs)
    assert report.sensitivity is None
    assert all(outcome.shuffled is None for outcome in report.outcomes)
    assert severity(report, "All pairs ask the same") == "warning"


@pytest.mark.parametrize(
    ("partial", "words", "expected"),
    [
        (sane, "they can be judged", "ok"),
        (lambda q, r: 9 * uniform(0, r.text, q.instruction) - 4, "replacement is left to chance", "warning"),
        (lambda q, r: -sane(q, r), "good beginnings are taken for bad ones", "problem"),
    ],
)
def test_partial_answers(partial: One, words: str, expected: str) -> None:
    report = checked(lambda q, r: sane(q, r) if r.finished else partial(q, r))
    assert report.accuracy.share == 1.0
    assert severity(report, words) == expected


def test_only_late_beginnings_need_to_be_in_order() -> None:
    def late(request: Request, response: Response) -> float:
        early = not response.finished and len(response.text.split()) < 5
        return 9 * uniform(0, response.text, request.instruction) - 4 if early else sane(request, response)

    report = checked(late)
    assert report.partial[0] is not None
    assert 0.2 < report.partial[0].share < 0.8
    assert severity(report, "they can be judged") == "ok"


@pytest.mark.parametrize("error", [ValueError("no text"), RewardError("odd"), EndpointRequestError("400: empty input")])
def test_an_empty_answer_that_breaks_the_scorer_is_a_finding(error: Exception) -> None:
    def fragile(request: Request, response: Response) -> float:
        if not response.text:
            raise error
        return sane(request, response)

    report = checked(fragile)
    assert severity(report, "An empty answer makes the scorer fail") == "problem"
    assert str(error) in report.empty_answer
    assert str(error) in report.render()
    assert not report.passed


def test_a_nan_for_an_empty_answer_too() -> None:
    report = checked(lambda q, r: sane(q, r) if r.text else float("nan"))
    assert "is nan: rewards must be finite numbers" in report.empty_answer


def test_a_server_that_goes_away_is_no_finding() -> None:
    def fragile(request: Request, response: Response) -> float:
        if not response.text:
            raise EndpointConnectionError("gone")
        return sane(request, response)

    with pytest.raises(EndpointConnectionError, match=r"^gone\n"):
        checked(fragile)


def test_a_sigmoid_that_squashes() -> None:
    report = checked(lambda q, r: sigmoid(6 * sane(q, r)))
    assert severity(report, "a sigmoid or softmax squashes them") == "problem"
    assert '"use_activation": false' in report.findings[0].sentence
    assert report.rewards.near_ends > 0.5
    assert report.accuracy.share == 1.0  # the order alone would not show it


def test_a_sigmoid_that_might_be_meant() -> None:
    report = checked(lambda q, r: sigmoid(sane(q, r) / 1.5 - 1))
    assert severity(report, "a sigmoid or softmax is suspected") == "warning"
    assert report.rewards.near_ends == 0
    assert report.passed


def test_rewards_in_part_beyond_0_to_1_are_raw() -> None:
    report = checked(lambda q, r: sigmoid(sane(q, r) / 4) - 0.5)
    assert severity(report, "no sigmoid squashes them") == "ok"
    assert -0.5 < report.rewards.lowest < 0 < report.rewards.highest < 1


def test_all_rewards_equal() -> None:
    report = checked(lambda q, r: 1.0)
    assert [found.severity for found in report.findings] == ["problem", "ok"]
    assert severity(report, "All 180 rewards are 1: nothing can be selected") == "problem"
    assert not report.rewards.coarse
    assert "… and 10 more" in str(report)  # a tie is not in order
    assert (report.accuracy.share, report.accuracy.ties) == (0.5, 20)
    assert report.effect is None


@pytest.mark.parametrize(("scale", "whole"), [(1, True), (2, False)])
def test_a_coarse_judge(scale: int, whole: bool) -> None:
    report = checked(lambda q, r: round(sane(q, r)) / scale)
    assert severity(report, "a coarse scorer leaves ties to chance") == "warning"
    assert report.rewards.whole is whole
    assert ("all whole numbers" in str(report)) is whole
    assert report.rewards.distinct < 12
    assert report.passed


@pytest.mark.parametrize(("levels", "coarse"), [(11, True), (12, False)])
def test_how_many_levels_are_coarse(levels: int, coarse: bool) -> None:
    report = checked(lambda q, r: 0.3 * int(levels * uniform(0, q.instruction, r.text)) + 2)
    assert report.rewards.distinct == levels
    assert report.rewards.coarse is coarse
    assert not check(scorer(sane), PAIRS[:1]).rewards.coarse  # eight rewards, all distinct, are few and not coarse


def test_the_scale_of_rewards_does_not_matter() -> None:
    tiny = checked(lambda q, r: 1e-6 * sane(q, r))
    assert [found.severity for found in tiny.findings] == ["ok"] * 8
    drawn = count()
    noisy = checked(lambda q, r: 1e-6 * (sane(q, r) + 0.2 * uniform(1, next(drawn))))
    assert severity(noisy, "the same seed will not give the same answer") == "warning"
    blind = checked(lambda q, r: 1e6 * sane(Request.of("x"), r))
    assert severity(blind, "never sees the prompt") == "problem"


@pytest.mark.parametrize(
    ("noise", "words", "expected"),
    [
        (0.0005, "The same call twice gives the same rewards", "ok"),
        (0.2, "the same seed will not give the same answer", "warning"),
        (40.0, "chance outweighs quality", "problem"),
    ],
)
def test_noise(noise: float, words: str, expected: str) -> None:
    drawn = count()
    report = checked(lambda q, r: sane(q, r) + noise * (uniform(1, next(drawn)) - 0.5))
    assert severity(report, words) == expected
    assert report.repeated > 0
    assert severity(report, "A response alone and beside others") == "ok"  # it is noise and not the neighbours


@pytest.mark.parametrize(
    ("pull", "words", "expected"),
    [
        (0.00001, "neighbours do not count", "ok"),
        (0.02, "low precision", "warning"),
        (1.0, "neighbours count", "problem"),
    ],
)
def test_neighbours(pull: float, words: str, expected: str) -> None:
    def relative(request: Request, responses: Sequence[Response]) -> list[float]:
        rewards = [sane(request, response) for response in responses]
        return [reward - pull * sum(rewards) / len(rewards) for reward in rewards]

    report = check(relative, PAIRS)
    assert severity(report, words) == expected
    assert report.alone > 0
    assert report.repeated == 0


def test_a_softmax_over_the_batch_shows_twice() -> None:
    def softmax(request: Request, responses: Sequence[Response]) -> list[float]:
        raised = [exp(sane(request, response)) for response in responses]
        return [one / sum(raised) for one in raised]

    report = check(softmax, PAIRS)
    assert severity(report, "neighbours count") == "problem"
    assert severity(report, "a sigmoid or softmax") == "problem"


@pytest.mark.parametrize(("sign", "liking"), [(1, "long"), (-1, "short")])
def test_length_alone(sign: int, liking: str) -> None:
    report = checked(lambda q, r: sign * len(r.text) + 0.1 * uniform(0, q.instruction, r.text))
    assert severity(report, f"length alone counts, {liking} answers win") == "problem"


@pytest.mark.parametrize(("sign", "liking"), [(1, "long"), (-1, "short")])
def test_a_liking_for_length(sign: int, liking: str) -> None:
    def likes(request: Request, response: Response) -> float:
        swayed = int(request.instruction.removeprefix("Tell me about topic")) < 12
        return sane(request, response) + sign * swayed * len(response.text)

    report = checked(likes)
    assert severity(report, f"the scorer likes {liking} answers") == "warning"
    assert ("LengthPenalty" in report.render()) is (liking == "long")


def test_a_liking_for_length_that_may_be_chance() -> None:
    def likes(request: Request, response: Response) -> float:
        swayed = int(request.instruction.removeprefix("Tell me about topic")) < 8
        return sane(request, response) + swayed * len(response.text)

    report = checked(likes)
    assert report.longer_wins is not None
    assert report.longer_wins.share == 0.7
    assert severity(report, "The longer answer wins in 70%") == "ok"


def test_pairs_that_cannot_show_a_liking_for_length() -> None:
    equal = [Pair.of(f"topic{i}", f"good topic{i}", f"bad topic{i}") for i in range(12)]
    report = check(scorer(sane), equal)
    assert report.longer_wins is report.longer_better is None
    assert severity(report, "Fewer than 10 pairs differ in length") == "warning"
    unbalanced = [made(i) for i in range(0, 40, 2)]
    assert severity(check(scorer(sane), unbalanced), "length and quality cannot be told apart") == "warning"


def test_few_pairs_cannot_tell() -> None:
    report = check(scorer(sane), PAIRS[:3])
    few = [found for found in report.findings if "so few pairs cannot tell: give 10 or more" in found.sentence]
    assert [found.severity for found in few] == ["warning"] * 3
    assert report.passed
    assert not check(scorer(lambda q, r: -sane(q, r)), PAIRS[:3]).passed


@pytest.mark.parametrize(("wins", "ties", "n"), [(0, 0, 4), (7, 0, 9), (24, 0, 24), (10, 4, 20), (0, 20, 20)])
def test_wilsons_interval(wins: int, ties: int, n: int) -> None:
    share = Share.of([(1, 0)] * wins + [(1, 1)] * ties + [(0, 1)] * (n - wins - ties))
    interval = binomtest(wins + ties // 2, n).proportion_ci(method="wilson")
    assert share is not None
    assert (share.wins, share.ties, share.n) == (wins, ties, n)
    assert share.share == (wins + ties / 2) / n
    assert (share.low, share.high) == pytest.approx((interval.low, interval.high))
    assert Share.of([]) is None


# The report ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "one", [sane, lambda q, r: -sane(q, r), lambda q, r: sigmoid(3 * sane(q, r)), lambda q, r: 0.0]
)
def test_the_report_fits_a_terminal_and_survives_json(one: One) -> None:
    long = Pair.of("Why, " * 60, "good " * 30, "bad " * 20)
    report = check(scorer(one), [long, *PAIRS])
    assert max(map(len, str(report).splitlines())) <= 100
    assert str(report).splitlines()[0] == "Scorer check of FunctionScorer: 21 pairs, seed 0"
    assert ("NOT PASSED" in str(report)) is not report.passed
    assert ScorerReport.from_json(report.to_json()) == report
    for _, sentence in report.findings:
        assert " ".join(sentence.split()) in " ".join(str(report).split())


def test_problems_come_first_and_ten_wrong_pairs_are_enough() -> None:
    report = checked(lambda q, r: -sigmoid(sane(q, r)))
    order = [found.severity for found in report.findings]
    assert order == sorted(order, key=["problem", "warning", "ok"].index)
    assert {"problem", "ok"} <= set(order)
    listed = str(report).split("Not in order")[1].splitlines()
    assert len(listed) == 12
    assert listed[-1] == "… and 10 more"


# Scorers that fail --------------------------------------------------------------------------------------------------


def failing(error: Exception) -> One:
    def reward(request: Request, response: Response) -> float:
        if request == PAIRS[4].request:
            raise error
        return sane(request, response)

    return reward


@pytest.mark.parametrize("concurrency", [1, 8])
def test_an_error_names_its_request(concurrency: int) -> None:
    words = r"^pair 5 \(Tell me about topic4\): the scorer raised KeyError: 'logit'$"
    with pytest.raises(OperatorError, match=words) as caught:
        checked(failing(KeyError("logit")), concurrency=concurrency)
    assert isinstance(caught.value.__cause__, KeyError)
    with pytest.raises(OperatorError, match=r"^pair 5 .*: mine$") as own:
        checked(failing(OperatorError("mine")), concurrency=concurrency)
    assert type(own.value) is OperatorError


@pytest.mark.parametrize(
    "error", [EndpointConnectionError("no server at x"), ContextLengthError("2048 tokens, please")]
)
def test_errors_of_the_house_pass_through(error: Exception) -> None:
    with pytest.raises(type(error), match=f"^{error}\n") as caught:
        checked(failing(error))
    assert caught.value is error
    assert caught.value.__notes__ == ["asked for pair 5 (Tell me about topic4)"]


@pytest.mark.parametrize(
    ("rewards", "words"),
    [
        (
            lambda n: [1.0] * (n - 1),
            r"pair \d+ \(Tell me about topic\d+\): the scorer was given 8 responses and returned 7",
        ),
        (lambda n: [float("nan")] * n, r"pair \d+ .*reward for response 0 is nan"),
        (lambda n: None, r"pair \d+ .*not a list of 8 rewards"),
    ],
)
def test_rewards_that_are_none(rewards: Any, words: str) -> None:
    with pytest.raises(RewardError, match=words):
        check(lambda request, responses: rewards(len(responses)), PAIRS)


def test_a_runnable_that_leaves_a_beam_unscored_is_refused() -> None:
    class Lazy(FunctionScorer):
        async def ainvoke(self, input: Any, config: Any = None, **kwargs: Any) -> Any:
            return input

    with pytest.raises(RewardError, match=r"pair \d+ .*score left beams .* without a reward"):
        check(Lazy(function=sane), PAIRS)


# Pairs --------------------------------------------------------------------------------------------------------------


def test_the_built_in_pairs_are_balanced_and_unlike_each_other() -> None:
    pairs = builtin_pairs()
    assert len(pairs) == 24
    assert sum(better > worse for better, worse in (pair.words for pair in pairs)) == 12
    assert all(better != worse for better, worse in (pair.words for pair in pairs))
    assert len({pair.request.instruction for pair in pairs}) == 24
    assert all(pair.about for pair in pairs)
    # Some chat templates refuse a system message.
    assert {turn.role for pair in pairs for turn in pair.request.conversation} == {"user", "assistant"}
    assert [pair.request.instruction for pair in pairs if len(pair.request.conversation) > 1]
    # Beginnings tell the answers apart, or prefix accuracy would measure nothing.
    assert all(_cut(pair.better, 25) != _cut(pair.worse, 25) for pair in pairs)


def test_the_built_in_pairs_are_the_default() -> None:
    by_length = FunctionScorer(function=lambda request, responses: [len(r.text.split()) for r in responses])
    report = check(by_length)
    assert report.pairs == 24
    assert report.accuracy.share == 0.5
    assert {outcome.about for outcome in report.outcomes} == {pair.about for pair in builtin_pairs()}


def test_embedded_pairs_differ_clearly_in_gold() -> None:
    pairs = embedded_pairs(68)
    for pair in pairs:
        text = pair.request.instruction
        instruction = parse(text)
        assert instruction is not None
        assert instruction.split == "held_out"
        better, worse = gold(text, pair.better), gold(text, pair.worse)
        assert better.total - worse.total >= 4
        assert "garbled" not in {*better.parts, *worse.parts}
    assert sum(better > worse for better, worse in (pair.words for pair in pairs)) == 34
    assert len({parse(pair.request.instruction).topic.task for pair in pairs}) == 68  # type: ignore[union-attr]
    for pair, flaws in ((p, set(gold(p.request.instruction, p.worse).parts)) for p in pairs):
        assert pair.about == ("careful" if "rude" in flaws else "on the topic")
        assert "off-topic step" in flaws
    assert sum(pair.about == "careful" for pair in pairs) == 34
    assert embedded_pairs(5) == pairs[:5]
    assert embedded_pairs(5, seed=1) != pairs[:5]
    assert len(embedded_pairs(70)) == 70
    with pytest.raises(ConfigError, match=r"n=0 is impossible"):
        embedded_pairs(0)


@pytest.fixture(scope="module")
def embedded() -> LocalScorer:
    return LocalScorer.from_pretrained(reward_path(), threads=1)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_embedded_reward_model_passes(embedded: LocalScorer, seed: int) -> None:
    report = check(embedded, embedded_pairs(seed=seed), seed=seed)
    assert report.scorer == "LocalScorer"
    assert {found.severity for found in report.findings} == {"ok"}
    assert report.accuracy.share >= 0.95
    assert report.sensitivity is not None
    assert report.sensitivity.share >= 0.95
    assert all(share is not None and share.share >= 0.9 for share in report.partial)
    assert report.effect is not None
    assert report.effect > 2
    assert report.repeated < 1e-3
    assert report.alone < 1e-3


@pytest.mark.slow
def test_the_embedded_reward_model_wired_wrongly_does_not(embedded: LocalScorer) -> None:
    pairs = embedded_pairs(24)
    squashed = FunctionScorer(function=lambda q, rs: [sigmoid(3 * r) for r in embedded.score(q, rs).answer])
    blind = FunctionScorer(function=lambda q, rs: embedded.score(Request.of("How do I brew green tea?"), rs).answer)
    cut = FunctionScorer(function=lambda q, rs: embedded.score(q, [Response(text=r.text[:1]) for r in rs]).answer)
    for wrong, words in (
        (WeightedSum(scorers=(embedded,), weights=(-1.0,)), "upside down"),
        (squashed, "squashes"),
        (blind, "never sees the prompt"),
        (cut, "no better than a coin"),
    ):
        report = check(wrong, pairs)
        assert not report.passed
        assert any(words in sentence for _, sentence in report.findings), report.render()


def test_general_pairs_mean_nothing_to_the_embedded_reward_model(embedded: LocalScorer) -> None:
    assert not check(embedded).passed


TURNS = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello!"},
    {"role": "user", "content": "2 + 2?"},
]


def answered(text: str) -> list[dict[str, str]]:
    return [*TURNS, {"role": "assistant", "content": text}]


@pytest.mark.parametrize(
    ("row", "roles"),
    [
        ({"prompt": "2 + 2?", "better": "4", "worse": "5"}, ["user"]),
        ({"prompt": "2 + 2?", "better": "4", "worse": "5", "system": "Brief.", "about": "sums"}, ["system", "user"]),
        ({"prompt": "2 + 2?", "chosen": "4", "rejected": "5", "score": 1.0, "system": 3}, ["user"]),
        ({"messages": TURNS, "better": "4", "worse": "5"}, ["user", "assistant", "user"]),
        ({"messages": TURNS, "chosen": "4", "rejected": "5"}, ["user", "assistant", "user"]),
        ({"prompt": TURNS, "better": "4", "worse": "5"}, ["user", "assistant", "user"]),
        ({"chosen": answered("4"), "rejected": answered("5")}, ["user", "assistant", "user"]),
        # As UltraFeedback has it: the prompt again, and all messages of the chosen side.
        (
            {"prompt": "2 + 2?", "messages": answered("4"), "chosen": answered("4"), "rejected": answered("5")},
            ["user", "assistant", "user"],
        ),
        # As TRL has it: the answers alone.
        (
            {"prompt": TURNS, "chosen": answered("4")[-1:], "rejected": answered("5")[-1:]},
            ["user", "assistant", "user"],
        ),
        ({"better": answered("4"), "worse": answered("5")}, ["user", "assistant", "user"]),
    ],
)
def test_pairs_in_every_usual_form(tmp_path: Path, row: dict[str, Any], roles: list[str]) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text(f"\ufeff{json.dumps(row)}\r\n\n{json.dumps(row, ensure_ascii=False)}\n", encoding="utf-8")
    pair, again = read_pairs(file)
    assert pair == again
    assert (pair.request.instruction, pair.better, pair.worse) == ("2 + 2?", "4", "5")
    assert [turn.role for turn in pair.request.conversation] == roles
    assert pair.about == ("sums" if "about" in row else "")
    assert Pair.from_json(pair.to_json()) == pair


CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"id": "1", "type": "function", "function": {"name": "add", "arguments": "{}"}}],
}
GOOD = '{"prompt": "2 + 2?", "better": "4", "worse": "5"}'


def test_line_ends_inside_a_text_are_no_line_ends(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text(GOOD.replace("4", "4\u2028four"), encoding="utf-8")
    assert read_pairs(file)[0].better == "4\u2028four"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{'prompt': 1}", r"line 2, column 2: this is no JSON .*; write one object a line: \{\"prompt\""),
        ("[1]", r"line 2: a pair is an object such as .*, not \[1\]"),
        ('{"prompt": "x", "better": "4"}', r"line 2: the field 'worse' is missing; a pair looks like \{\"prompt\""),
        ('{"prompt": "x", "chosen": "4"}', r"line 2: the field 'rejected' is missing"),
        (
            '{"prompt": "x", "better": "4", "worse": "5", "sytem": "y"}',
            r"unknown field 'sytem': did you mean 'system'\?",
        ),
        ('{"prompt": "x", "better": "4", "worse": "5", "system": 3}', r"line 2: 'system' must be a text"),
        ('{"prompt": "x", "better": "4", "rejected": "5"}', r"use one pair of names"),
        (
            '{"prompt": "x", "better": "4", "worse": "4"}',
            r"line 2: both answers are '4': give a better and a worse one",
        ),
        ('{"prompt": "x", "better": " ", "worse": "4"}', r"line 2: the better answer is blank"),
        ('{"prompt": " ", "better": "5", "worse": "4"}', r"line 2: the last human message has no text"),
        ('{"better": "5", "worse": "4"}', r"line 2: there is no prompt: give 'prompt' with a text, or 'messages'"),
        ('{"prompt": "x", "messages": [], "better": "5", "worse": "4"}', r"give 'prompt' or 'messages', not both"),
        ('{"prompt": 7, "better": "5", "worse": "4"}', r"'prompt' must be a text or a list of messages, not 7"),
        (
            '{"prompt": "x", "better": 5, "worse": "4"}',
            r"'better' and 'worse' must be two texts, or two lists of messages",
        ),
        (
            '{"messages": [{"role": "bot", "content": "x"}], "better": "5", "worse": "4"}',
            r"cannot read the messages: .*'bot'",
        ),
        ('{"messages": [{"content": "x"}], "better": "5", "worse": "4"}', r"cannot read the messages: .*'role'"),
        (
            json.dumps({"messages": answered("4"), "better": "5", "worse": "4"}),
            r"line 2: the conversation ends with an AI",
        ),
        (
            json.dumps(
                {"messages": [{"role": "system", "content": "a"}, *TURNS], "system": "b", "better": "5", "worse": "4"}
            ),
            r"have a system message already: leave 'system' out",
        ),
        (
            json.dumps({"chosen": answered("4"), "rejected": TURNS}),
            r"last message of 'rejected' must be the assistant's",
        ),
        (
            json.dumps({"chosen": answered("4"), "rejected": [*TURNS, CALL]}),
            r"line 2: the last message of 'rejected' must be the assistant's answer, in text",
        ),
        (json.dumps({"chosen": [], "rejected": TURNS}), r"the last message of 'chosen' must be the assistant's answer"),
        (
            json.dumps({"chosen": answered("4"), "rejected": answered("5")[1:]}),
            r"'chosen' and 'rejected' must share all messages but the last one",
        ),
    ],
)
def test_a_bad_lines_error_names_position_and_remedy(tmp_path: Path, line: str, says: str) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text(f"{GOOD}\n{line}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=says) as caught:
        read_pairs(file)
    assert str(caught.value).startswith(f"{file}, line 2")
    assert "troubleshooting" not in str(caught.value)


@pytest.mark.parametrize("content", [None, b"", b"\n \n", b"\xff\xfe"])
def test_a_bad_file_is_named(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "mine.jsonl"
    if content is not None:
        file.write_bytes(content)
    readable = content is not None and content.strip() != b"\xff\xfe"
    with pytest.raises(ConfigError, match="holds no pairs: write one a line" if readable else "cannot read pairs from"):
        read_pairs(file)


def test_pairs_in_python() -> None:
    rows = [json.loads(GOOD), Pair.of("x", "4", "5")]
    assert check(scorer(sane), rows).pairs == 2
    assert Pair.of(Request.of("x"), "4", "5") == Pair.of([{"role": "user", "content": "x"}], "4", "5")
    assert Pair.of(TURNS, "4", "5") == Pair.of(Pair.of(TURNS, "4", "5").request.conversation, "4", "5")
    with pytest.raises(ConfigError, match=r"^pair 2: a pair is an object such as"):
        check(scorer(sane), [rows[0], 3])  # type: ignore[list-item]
    with pytest.raises(ConfigError, match=r"there are no pairs to check the scorer on"):
        check(scorer(sane), [])
    with pytest.raises(ConfigError, match=r"Pair.better = 3 is refused: input should be a valid string"):
        Pair.of("x", 3, "4")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"both answers are '4'"):
        Pair(request=Request.of("x"), better="4", worse="4")
