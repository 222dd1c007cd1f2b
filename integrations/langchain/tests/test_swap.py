"""Another selector and scorer for one run: the trace tells which ran."""

from typing import Any

import pytest

from darwin_align import DarwinChatModel
from darwin_align.integrations.langchain import swap
from darwin_align.operators import SMCSelector, TopKReplacement, Tournament

SMALL: dict[str, Any] = {"max_tokens": 72, "mutations": 4}
RAN: list[tuple[dict[str, Any], set[str]]] = [
    ({}, {"LocalScorer", "TopKReplacement"}),
    ({"selector": "tournament"}, {"LocalScorer", "Tournament"}),
    ({"selector": "smc"}, {"LocalScorer", "SMCSelector"}),
    ({"scorer": "brief"}, {"FunctionScorer", "TopKReplacement"}),
    ({"selector": "tournament", "scorer": "brief"}, {"FunctionScorer", "Tournament"}),
]


@pytest.fixture(scope="module")
def model() -> DarwinChatModel:
    return swap.build(**SMALL)


@pytest.mark.parametrize(("choice", "ran"), RAN)
def test_a_choice_is_what_runs(choice: dict[str, Any], ran: set[str], model: DarwinChatModel) -> None:
    assert swap.ask(model, choice)[1] == ran


@pytest.mark.parametrize(
    ("choice", "selector"),
    [
        ({"survivors": 1}, TopKReplacement(survivors=1)),
        pytest.param({}, TopKReplacement(survivors=3), marks=pytest.mark.slow),
        pytest.param({"selector": "tournament"}, Tournament(), marks=pytest.mark.slow),
        pytest.param({"selector": "smc"}, SMCSelector(), marks=pytest.mark.slow),
    ],
)
def test_a_swap_answers_as_a_model_built_so(choice: dict[str, Any], selector: Any, model: DarwinChatModel) -> None:
    assert swap.ask(model, choice)[0] == swap.build(selector=selector, **SMALL).invoke(swap.QUESTION).text


def test_a_swap_is_for_one_run(model: DarwinChatModel) -> None:
    before = swap.ask(model, {})
    short = swap.ask(model, {"scorer": "brief"})
    assert swap.ask(model, {}) == before
    assert len(short[0].split()) < len(before[0].split())


def test_what_may_be_chosen_is_reported(model: DarwinChatModel) -> None:
    assert {spec.id for spec in model.config_specs} == {"selector", "survivors", "scorer"}
    with pytest.raises(ValueError, match="Unknown alternative: best"):
        swap.ask(model, {"selector": "best"})


@pytest.mark.slow
def test_main_shows_every_choice(capsys: pytest.CaptureFixture[str]) -> None:
    swap.main()
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "as built: LocalScorer, TopKReplacement"
    assert len(shown) == 2 * len(swap.CHOICES)
