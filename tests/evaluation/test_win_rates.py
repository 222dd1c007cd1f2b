"""Win rates: the figures are the alpaca_eval package's own."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from darwin_align.core.errors import ConfigError
from darwin_align.evaluation.win_rates import WinRates, win_rates
from tests.evaluation.kit import (
    CONTROLLED_BY_THE_PACKAGE,
    RAW_OF_THE_PACKAGE,
    annotations,
    write_difficulty,
    write_gamed,
)

pytest.importorskip("sklearn", reason="the extra eval is not installed")


def files(tmp_path: Path, glm: str) -> dict[str, Path]:
    if glm == "length_controlled_v1":
        return {"gamed": write_gamed(tmp_path / "df_gamed.csv")}
    return {"difficulty": write_difficulty(tmp_path / "difficulty.csv")} if "noreg" in glm else {}


@pytest.mark.parametrize("glm", CONTROLLED_BY_THE_PACKAGE)
def test_the_figures_are_the_packages_own(tmp_path: Path, glm: str) -> None:
    rates = win_rates(annotations(), **files(tmp_path, glm))
    assert rates.glm == glm
    assert {name: getattr(rates, name) for name in RAW_OF_THE_PACKAGE} == pytest.approx(RAW_OF_THE_PACKAGE, abs=1e-9)
    controlled = (rates.length_controlled_winrate, rates.lc_standard_error)
    assert controlled == pytest.approx(CONTROLLED_BY_THE_PACKAGE[glm], abs=1e-9)


def test_what_is_approximated_is_said(tmp_path: Path) -> None:
    notes_by_regression = {
        glm: win_rates(annotations(), **files(tmp_path, glm)).notes for glm in CONTROLLED_BY_THE_PACKAGE
    }
    assert notes_by_regression["length_controlled_v1"] == ()
    assert "not drawn to the two gamed baselines" in notes_by_regression["length_controlled_noreg"][0]
    assert "none for the instruction's difficulty" in notes_by_regression["length_controlled_minimal"][0]
    assert "not the leaderboard's figure" in notes_by_regression["length_controlled_minimal"][0]


def test_length_control_takes_away_what_length_won() -> None:
    """Of two models that are judged by length alone, the verbose one only seems to win."""
    verbose = [
        {**one, "output_2": one["output_1"] + "y" * (50 + i), "preference": 1.9 if i % 5 else 1.4}
        for i, one in enumerate(annotations())
    ]
    rates = win_rates(verbose)
    assert rates.length_controlled_winrate is not None
    assert rates.win_rate > 75
    assert rates.length_controlled_winrate < rates.win_rate


def test_the_interval_holds_the_mean_and_narrows_with_the_number() -> None:
    def width(n: int) -> float:
        rates = win_rates(annotations(n))
        assert rates.interval is not None
        assert rates.interval[0] < rates.win_rate < rates.interval[1]
        return rates.interval[1] - rates.interval[0]

    assert width(400) < width(40)
    assert win_rates(annotations()).interval == win_rates(annotations()).interval


def changed(**fields: Any) -> list[dict[str, Any]]:
    return [{**one, **fields} for one in annotations(12)]


def test_verdicts_that_cannot_be_read_are_left_out_and_counted() -> None:
    some = annotations()
    gaps: list[dict[str, Any]] = [{**one, "preference": None} if i % 10 == 0 else one for i, one in enumerate(some)]
    rates = win_rates(gaps)
    kept = win_rates([one for one in gaps if one["preference"] is not None])
    assert (rates.n_total, rates.unread) == (54, 6)
    assert rates.win_rate == kept.win_rate
    with pytest.raises(ConfigError, match="none of 12 verdicts can be read"):
        win_rates(changed(preference=None))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (annotations(4), "takes 5 verdicts at least"),
        (changed(generator_2="reference"), "against itself"),
        (changed(output_1="ab", output_2="abc"), "by the same length"),
    ],
)
def test_without_a_length_controlled_figure_the_reason_is_noted(given: list[dict[str, Any]], says: str) -> None:
    rates = win_rates(given)
    assert (rates.length_controlled_winrate, rates.lc_standard_error, rates.glm) == (None, None, None)
    assert says in rates.notes[0]
    assert rates.n_total == len(given)


def test_one_verdict_has_no_spread() -> None:
    rates = win_rates(annotations(1))
    assert (rates.standard_error, rates.interval) == (None, None)
    assert isinstance(rates, WinRates)
    assert asdict(rates) == rates.to_dict()


def test_files_of_other_prompts_are_refused(tmp_path: Path) -> None:
    short = write_gamed(tmp_path / "df_gamed.csv", 10)
    with pytest.raises(ConfigError, match="has no difficulty of instruction 10: it belongs to other prompts"):
        win_rates(annotations(), gamed=short)
    with pytest.raises(ConfigError, match="has no column 'std_delta_len'"):
        win_rates(annotations(), gamed=write_difficulty(tmp_path / "difficulty.csv").rename(tmp_path / "x.csv"))
    with pytest.raises(ConfigError, match="cannot read"):
        win_rates(annotations(), difficulty=tmp_path / "none.csv")


def test_a_subset_is_known_by_its_places(tmp_path: Path) -> None:
    """Difficulties belong to places in the official file, not to places among the annotations."""
    path = write_difficulty(tmp_path / "difficulty.csv")
    last = annotations()[30:]
    moved = [{**one, "index": i} for i, one in enumerate(last)]
    right, wrong = win_rates(last, difficulty=path), win_rates(moved, difficulty=path)
    assert right.length_controlled_winrate != pytest.approx(wrong.length_controlled_winrate, abs=1e-3)
