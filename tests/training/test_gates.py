import json

import pytest

from training.cards import write_cards
from training.gates import GATES, METRICS, passed, report, table, verdicts
from training.search_measures import interval, summary

GOOD = {gate.figure: gate.bound for gate in GATES}


def test_all_gates_at_their_bounds_pass():
    assert passed(GOOD)
    assert "MISSED" not in table(GOOD)


@pytest.mark.parametrize("gate", GATES, ids=lambda gate: gate.figure)
def test_one_missed_gate_fails_the_pair(gate):
    missed = {**GOOD, gate.figure: gate.bound + (-0.01 if gate.at_least else 0.01)}
    assert passed(missed) is gate.may_fail
    assert "MISSED" in table(missed)


def test_what_was_not_measured_does_not_pass():
    assert not passed({})
    assert not any(found["holds"] for found in verdicts({"pair accuracy": float("nan")}))


def test_only_the_tool_gate_may_fail():
    assert [gate.figure for gate in GATES if gate.may_fail] == ["tool calls right, household, sampled"]


def test_intervals_hold_the_mean_and_are_repeatable():
    low, high = interval([0.0, 1.0, 2.0, 3.0] * 10)
    assert low < 1.5 < high
    assert interval([0.0, 1.0, 2.0, 3.0] * 10) == (low, high)
    runs = {"a": {"gold": [3.0, 4.0]}, "b": {"gold": [1.0, 2.0]}}
    assert summary(runs, [("a", "b")]) == {
        "search gold, a": 3.5,
        "search gold, b": 1.5,
        "a - b": 2.0,
        "a - b, low": 2.0,
        "a - b, high": 2.0,
    }


def test_cards_tell_measured_figures(tmp_path):
    metrics = tmp_path / "metrics.json"
    report({**GOOD, "pair accuracy": 0.876, "final-only: pair accuracy": 0.765}, metrics)
    for name in ("policy", "reward", "ablation"):
        (tmp_path / name).mkdir()
    write_cards(metrics, tmp_path, tmp_path / "ablation")
    assert "| pair accuracy | 0.876 |" in (tmp_path / "reward" / "MODEL_CARD.md").read_text()
    assert "| pair accuracy | 0.765 |" in (tmp_path / "ablation" / "MODEL_CARD.md").read_text()
    assert "| topic drift | 0.010 |" in (tmp_path / "policy" / "MODEL_CARD.md").read_text()


def test_the_shipped_metrics_passed_their_gates():
    shipped = json.loads(METRICS.read_text())
    assert shipped["passed"] is True
    again = verdicts(shipped["figures"])
    assert [found["holds"] for found in shipped["gates"]] == [found["holds"] for found in again]
    assert [found["value"] for found in shipped["gates"]] == pytest.approx(
        [found["value"] for found in again], abs=1e-4
    )
