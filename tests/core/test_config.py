"""Settings: what is impossible is refused by a sentence that says what to change."""

from typing import Any

import pytest
from hypothesis import given

from darwin_align import Budget, DarwinError, Sampling, SearchConfig
from darwin_align.core import PRESETS
from darwin_align.core.errors import ConfigError
from tests.core.kit import CLAUSES, Case, cases, preset_of


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"survivors": 5}, r"survivors \(5\) must be fewer than the beams \(5 mutations x 1\).*lower survivors"),
        ({"survivors": 1, "mutations": 1}, r"survivors \(1\) must be fewer"),
        ({"survivors": 6, "mutations": 2, "beams_per_mutation": 3}, r"\(2 mutations x 3\)"),
        ({"champions": 6}, r"champions \(6\) are chosen among the mutations \(5\): lower champions or raise mutations"),
        ({"lookahead": 5, "selector": "none"}, r"lookahead only serves a selector: set lookahead=0"),
        ({"lookahead": 5, "cycles": 0}, r"lookahead only serves a selector"),
        ({"lookahead": 5, "cycles": 0, "decoding": "candidates"}, r"lookahead only serves a selector"),
        ({"rejection": 0.3}, r"rejection only serves selector='speculative_rejection': set that too, or leave rejec"),
        ({"resample_below": 0.3, "selector": "args"}, r"'args' chooses among the most likely next tokens: set decodi"),
        ({"resample_below": 0.3, "selector": "none"}, r"resample_below only serves selector='smc'"),
        ({"reward_weight": 2.0}, r"reward_weight only serves selector='args'"),
        (
            {"reward_temperature": 2.0},
            r"reward_temperature only serves choice='soft', selector='smc' or selector='args'",
        ),
        (
            {"clauses": CLAUSES},
            r"clauses only serves mutator='clauses' or mutator='aspects': set that too",
        ),
        ({"clauses": CLAUSES, "mutator": "identity"}, r"clauses only serves mutator='clauses'"),
        ({"clauses": ["Be kind."], "mutator": "clauses"}, r"SearchConfig.clauses.0 = 'Be kind.' is refused: input "),
        (
            {"mutator": "clause"},
            r"SearchConfig.mutator = 'clause' is refused: input should be 'auto', 'policy'",
        ),
        ({"min_improvement": 0.1}, r"min_improvement only serves patience: set that too, or leave min_improvement out"),
        ({"rejection": 1.0, "selector": "speculative_rejection"}, r"SearchConfig.rejection = 1.0 is refused"),
        ({"reward_temperature": 0.0, "choice": "soft"}, r"reward_temperature=0 leaves nothing to chance: set choice="),
        ({"reward_temperature": 0.0, "selector": "smc"}, r"reward_temperature=0 leaves nothing to chance"),
        ({"target_reward": 1.0, "choice": "soft"}, r"target_reward would be met, and the answer drawn all the same"),
        ({"patience": 3}, r"patience \(3\) must be less than the cycles \(3\).*raise cycles, or leave patience out"),
        ({"patience": 1, "cycles": 1}, r"patience \(1\) must be less than the cycles \(1\)"),
        (
            {"decoding": "candidates"},
            r"decoding='candidates' decodes one token a step: set replacement_period=1 and look",
        ),
        ({"decoding": "candidates", "replacement_period": 1, "lookahead": 1}, r"decodes one token a step: set repl"),
        ({"decoding": "candidates", "replacement_period": 1, "selector": "none"}, r"leaves the choice to a selector"),
        ({"selector": "args"}, r"selector='args' chooses among the most likely next tokens: set decoding='candidates'"),
        (
            {"choice": "worst"},
            r"SearchConfig.choice = 'worst' is refused: input should be 'best' or 'soft'",
        ),
        ({"survivor": 2}, r"unknown setting 'survivor' for SearchConfig: did you mean 'survivors'\?"),
        ({"zzz": 2}, r"unknown setting 'zzz' for SearchConfig: known are beams_per_mutation, budget"),
        ({"mutations": 0}, r"SearchConfig.mutations = 0 is refused: input should be greater than 0"),
        ({"mutations": "many"}, r"SearchConfig.mutations = 'many' is refused"),
        ({"replacement_period": -1}, r"SearchConfig.replacement_period = -1 is refused"),
        ({"cycles": -1}, r"SearchConfig.cycles = -1 is refused"),
        ({"max_new_tokens": 0}, r"SearchConfig.max_new_tokens = 0 is refused"),
        ({"selector": "best"}, r"SearchConfig.selector = 'best' is refused: input should be 'top_k', 'tournament'"),
        ({"on_failure": "ignore"}, r"SearchConfig.on_failure = 'ignore' is refused: input should be 'best_so_far' or"),
        ({"budget": {"tokens": -5}}, r"Budget.tokens = -5 is refused: input should be greater than 0"),
        ({"budget": {"token": 5}}, r"unknown setting 'token' for Budget: did you mean 'tokens'\?"),
    ],
)
def test_impossible_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SearchConfig(**settings)


@pytest.mark.parametrize("limit", ["tokens", "reward_calls", "seconds"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), "much"])
def test_a_budget_is_positive(limit: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"Budget.{limit} = .* is refused"):
        Budget(**{limit: value})


@pytest.mark.parametrize(
    "settings", [{"temperature": -0.1}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.1}, {"repetition_penalty": 0}]
)
def test_impossible_sampling(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"Sampling.{next(iter(settings))} = "):
        Sampling(**settings)


def test_several_mistakes_are_reported_at_once() -> None:
    with pytest.raises(ConfigError, match=r"mutations = 0 .*; unknown setting 'survivor'"):
        SearchConfig(mutations=0, survivor=1)


def test_config_errors_are_value_errors_of_the_library() -> None:
    assert issubclass(ConfigError, DarwinError)
    assert issubclass(ConfigError, ValueError)


def test_an_unknown_preset() -> None:
    with pytest.raises(ConfigError, match=r"unknown preset 'best_of': did you mean 'best_of_n'\?"):
        SearchConfig.preset("best_of")


def test_presets_are_the_papers_family() -> None:
    papers = {"darwin", "sample", "best_of_n", "sample_replace", "mutate_best_of_n", "args"}
    assert set(PRESETS) == papers | {"speculative_rejection", "smc", "soft_best_of_n", "learned_clauses"}
    assert SearchConfig.preset("darwin") == SearchConfig()
    assert (SearchConfig().mutations, SearchConfig().survivors, SearchConfig().replacement_period) == (5, 3, 40)
    assert SearchConfig.preset("sample").answers == 1
    assert SearchConfig.preset("best_of_n").answers == 5
    assert SearchConfig.preset("best_of_n", mutations=14).answers == 15
    assert not SearchConfig.preset("best_of_n").replaces
    assert SearchConfig.preset("sample_replace").replaces
    assert SearchConfig.preset("mutate_best_of_n").mutator == SearchConfig.preset("darwin").mutator == "auto"
    assert not SearchConfig.preset("mutate_best_of_n").replaces
    assert SearchConfig.preset("learned_clauses").mutator == "clauses"
    assert not SearchConfig.preset("learned_clauses").replaces


@given(cases())
def test_replace_checks_anew_and_changes_nothing_else(case: Case) -> None:
    assert case.config.replace() == case.config
    changed = case.config.replace(seed=5)
    assert changed.seed == 5
    assert changed.replace(seed=case.config.seed) == case.config
    with pytest.raises(ConfigError, match="cycles"):
        case.config.replace(cycles=-1)


def test_defaults_adapt_to_a_small_search_but_a_given_value_does_not() -> None:
    assert SearchConfig(mutations=2).survivors == 1
    assert SearchConfig(mutations=2).replace(mutations=5).survivors == 3
    assert SearchConfig(mutations=2).champions == 2
    with pytest.raises(ConfigError, match="survivors"):
        SearchConfig(survivors=2).replace(mutations=2)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_survives_json_changes_and_a_plain_sample_beside_it(name: str) -> None:
    config = preset_of(name, seed=3)
    again = SearchConfig.from_json(config.to_json())
    assert again == config
    assert again.identity == config.identity
    assert config.replace(max_new_tokens=9).replace(max_new_tokens=config.max_new_tokens) == config
    plain = config.replace(cycles=0, lookahead=0)  # what a chat model's bypass asks for
    assert (plain.candidates, plain.replaces, plain.answers) == (False, False, 1)


def test_settings_of_before_there_were_more_are_read_as_they_were_meant() -> None:
    old = '{"schema":1,"mutations":2,"cycles":1,"max_new_tokens":20,"selector":"smc","seed":11,"budget":{"tokens":9}}'
    config = SearchConfig.from_json(old)
    assert config.to_json() == old
    assert (config.decoding, config.choice, config.target_reward, config.patience) == ("sample", "best", None, None)
    assert (config.reward_temperature, config.resample_below) == (1.0, 0.5)  # what "smc" did
