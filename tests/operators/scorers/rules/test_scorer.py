"""Rules as the reward of a search."""

import json
from collections.abc import Sequence

import pytest
from langchain_core.messages import HumanMessage

from darwin_align import DarwinChatModel, DarwinSearch, Request, Response, RuleScorer, SearchConfig
from darwin_align.backends.local import LocalScorer
from darwin_align.backends.scripted import ScriptedPolicy, ScriptedScorer
from darwin_align.core.errors import ConfigError
from darwin_align.langchain.identity import identity
from darwin_align.operators import LengthPenalty, WeightedSum, as_scorer
from darwin_align.operators.scorers.rules import JsonSchema, MaxWords, MustMention, MustNotMention, NoCommas
from darwin_align.pocket import reward_path

REQUEST = Request.of("Say a colour.")
RULES = [MustNotMention(("red",)), MaxWords(6), MustMention("green", 3, weight=2)]


def scored(scorer: RuleScorer, *texts: str, finished: bool = True) -> list[float]:
    return list(scorer.score(REQUEST, [Response(text=text, finished=finished) for text in texts]))


def search_of(scorer: object, **settings: object) -> DarwinSearch:
    config = SearchConfig(mutator="identity", replacement_period=2, **settings)  # type: ignore[arg-type]
    return DarwinSearch(policy=ScriptedPolicy(["red", "green", "blue"], length=6), scorer=scorer, config=config)  # type: ignore[arg-type]


def test_the_reward_is_the_weighted_mean_of_credits() -> None:
    scorer = RuleScorer(RULES)
    assert scored(scorer, "green green green", "green", "red", " ") == [1.0, 0.5, 0.25, 0.0]
    [two, red] = scored(scorer, "green green blue", "red green green ", finished=False)
    assert two == pytest.approx((0.75 + (0.25 + 0.5 * 4 / 7) + 2 * (0.25 + 0.5 * 2 / 3)) / 4)
    assert red == pytest.approx((0.0 + (0.25 + 0.5 * 4 / 7) + 2 * (0.25 + 0.5 * 2 / 3)) / 4)


def test_all_kept_is_exactly_one() -> None:
    rules = [MustMention(letter, weight=1 / 3) for letter in "abc"] + [NoCommas(weight=0.1)]
    assert scored(RuleScorer(rules), "abc") == [1.0]


def test_replacement_follows_the_rules_and_reaches_what_a_sample_does_not() -> None:
    rules = [MustNotMention(("red",)), MustMention("green", 3)]
    kept = dict.fromkeys(("sample", "sample_replace"), 0)
    for seed in range(20):
        for preset, changes in (("sample", {"cycles": 0}), ("sample_replace", {"cycles": 1, "mutations": 5})):
            kept[preset] += search_of(RuleScorer(rules), **changes).invoke("Say colours.", seed=seed).reward == 1.0
    assert kept["sample_replace"] >= kept["sample"] + 5


def test_a_list_of_rules_is_taken_wherever_a_scorer_is() -> None:
    first = search_of(RuleScorer(RULES), cycles=1).invoke("Say a colour.", seed=3)
    for given in (RULES, tuple(RULES)):
        assert search_of(given, cycles=1).invoke("Say a colour.", seed=3).text == first.text
    assert as_scorer(NoCommas()) == RuleScorer([NoCommas()])
    for name in ("scorer", "reward"):
        model = DarwinChatModel(**{name: [MaxWords(30)]}, cycles=1, mutator="identity", max_new_tokens=60)
        reward = model.invoke([HumanMessage("How do I brew green tea?")], seed=1).response_metadata["darwin"]["reward"]
        assert reward in (0.0, 1.0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([MaxWords(3), lambda request, responses: []], r"is no rule: give one of darwin_align.operators.scorers.rules"),
        ([], r"cannot use list \[\] as scorer"),
        ([len], r"cannot use list .* as scorer: give a Scorer"),
    ],
)
def test_other_lists_are_refused(given: Sequence[object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        as_scorer(given)


def test_without_a_rule_there_is_nothing_to_reward() -> None:
    with pytest.raises(ConfigError, match=r"RuleScorer\(\[\]\) has no rule to reward"):
        RuleScorer([])
    with pytest.raises(ConfigError, match=r"rules='MaxWords' is no list of rules"):
        RuleScorer("MaxWords")


def test_it_sums_with_a_reward_model() -> None:
    rules, model = RuleScorer([NoCommas()]), LocalScorer.from_pretrained(reward_path())
    request = Request.of("How do I brew green tea?")
    responses = [Response(text="Heat water and pour it."), Response(text="Heat water, and pour it.")]
    both = WeightedSum(scorers=(model, rules), weights=(1.0, 5.0)).score(request, responses).answer
    alone = WeightedSum(scorers=(model,), weights=(1.0,)).score(request, responses).answer
    assert both == pytest.approx([alone[0] + 5, alone[1]])
    assert LengthPenalty(scorer=rules, per_word=0.5).score(request, responses).answer == [-1.5, -2.5]
    assert WeightedSum(scorers=(ScriptedScorer(), rules), weights=(1, 1)).components[1] is rules


def test_rules_go_to_json_and_back_and_name_the_scorer() -> None:
    scorer = RuleScorer([*RULES, JsonSchema({"type": "object", "required": ["a"]})])
    again = RuleScorer.from_json(scorer.rules_json)
    assert again == scorer
    assert identity(again) == identity(scorer)
    assert identity(scorer) != identity(RuleScorer(RULES))
    assert identity(RuleScorer([MaxWords(3)])) != identity(RuleScorer([MaxWords(3, weight=2)]))
    assert "0x" not in identity(scorer)
    assert RuleScorer(**json.loads(scorer.model_dump_json(include={"rules"}))) == scorer
    for text in ("{", "[1]", '[{"rule": "Tea"}]'):
        with pytest.raises(ConfigError):
            RuleScorer.from_json(text)


def test_searches_replay() -> None:
    search = search_of(RULES, cycles=2)
    result = search.invoke("Say a colour.", seed=5)
    again = search.invoke("Say a colour.", seed=5, replay=result.events)
    assert (again.text, again.reward) == (result.text, result.reward)
