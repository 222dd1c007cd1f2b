"""AlpacaEval 2's figures from annotations: the raw and the length-controlled win rate.

The second is the win rate that a model would have, were its answers as long as the reference's: a logistic regression
with a term for the model, one for the difference in length and one for the instruction's difficulty (Dubois et al.,
arXiv 2404.04475), fitted as the ``alpaca_eval`` package fits it, with scikit-learn (the extra ``eval``).
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from darwin_align.core.errors import ConfigError
from darwin_align.evaluation.options import need_packages

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[np.float64]]

__all__ = ["WIN_RATES_NEED", "WinRates", "win_rates"]

WIN_RATES_NEED = ("numpy", "scipy", "sklearn")
"""Modules that the figures take, of the extra ``eval``."""

_FOLDS = 5
_GAMED_WEIGHT = 0.2 / 2
"""Of an annotation of one of the two gamed baselines, against 1 for a real one."""
_LOWEST = 1e-15

_APPROXIMATED = {
    "length_controlled_v1": (),
    "length_controlled_noreg": (
        "the length-controlled win rate is the package's variant length_controlled_noreg: without df_gamed.csv "
        "(--gamed FILE) the fit is not drawn to the two gamed baselines",
    ),
    "length_controlled_minimal": (
        "the length-controlled win rate is the package's variant length_controlled_minimal: without df_gamed.csv "
        "(--gamed FILE) it has terms for the model and the length, but none for the instruction's difficulty, and the "
        "fit is not drawn to the two gamed baselines. It is not the leaderboard's figure",
    ),
}


@dataclass(frozen=True)
class WinRates:
    """Figures in percent, by the package's names."""

    win_rate: float
    standard_error: float | None
    interval: tuple[float, float] | None
    """95% bootstrap interval of the win rate, over the instructions."""
    length_controlled_winrate: float | None
    lc_standard_error: float | None
    glm: str | None
    """Which of the package's regressions it is; "length_controlled_v1" is the leaderboard's."""
    discrete_win_rate: float
    n_wins: int
    n_wins_base: int
    n_draws: int
    n_total: int
    unread: int
    """Instructions on which the judge gave no verdict that can be read: they are left out."""
    avg_length: int
    avg_length_reference: int
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The figures as plain data."""
        return asdict(self)


def win_rates(
    annotations: Sequence[Mapping[str, Any]],
    *,
    gamed: str | Path | None = None,
    difficulty: str | Path | None = None,
) -> WinRates:
    """Compute the win rates of ``output_2`` against ``output_1``.

    Args:
        annotations: as the package has them: ``output_1``, ``output_2`` and ``preference``, from 1 (the first is
            better) to 2 (the second is), or ``None``; ``index`` is the instruction's index in AlpacaEval's file.
        gamed: AlpacaEval's ``df_gamed.csv``, with the instructions' difficulties and the gamed baselines.
        difficulty: its ``instruction_difficulty.csv``, where only that is at hand.

    Raises:
        ConfigError: there is no verdict at all, a file does not fit, or the extra ``eval`` is not installed.
    """
    need_packages("win rates", *WIN_RATES_NEED)
    import numpy as np

    read = [one for one in annotations if one["preference"] is not None]
    if not read:
        raise ConfigError(f"none of {len(annotations)} verdicts can be read: is the judge a chat model that obeys?")
    shares = np.array([_share(one["preference"]) for one in read])
    wins, draws = int((shares > 0.5).sum()), int((shares == 0.5).sum())
    glm, controlled, why = _controlled(annotations, gamed, difficulty)
    return WinRates(
        win_rate=float(shares.mean() * 100),
        standard_error=_standard_error(shares),
        interval=_interval(shares),
        length_controlled_winrate=None if controlled is None else float(controlled.mean() * 100),
        lc_standard_error=None if controlled is None else _standard_error(controlled),
        glm=glm,
        discrete_win_rate=(wins + draws / 2) / len(read) * 100,
        n_wins=wins,
        n_wins_base=len(read) - wins - draws,
        n_draws=draws,
        n_total=len(read),
        unread=len(annotations) - len(read),
        avg_length=int(np.mean([len(one["output_2"]) for one in annotations])),
        avg_length_reference=int(np.mean([len(one["output_1"]) for one in annotations])),
        notes=why,
    )


def _share(preference: float) -> float:
    """From 0 (lost) to 1 (won); the package writes ties as 1.5 or, in older versions, as 0."""
    return 0.5 if preference == 0 else float(preference) - 1


def _standard_error(shares: Array) -> float | None:
    return float(shares.std(ddof=1) / len(shares) ** 0.5 * 100) if len(shares) > 1 else None


def _interval(shares: Array) -> tuple[float, float] | None:
    import numpy as np
    from scipy.stats import bootstrap

    if len(shares) < 2:
        return None
    drawn = bootstrap((shares,), np.mean, method="percentile", rng=np.random.default_rng(0)).confidence_interval
    return float(drawn.low * 100), float(drawn.high * 100)


# -- length control


def _controlled(
    annotations: Sequence[Mapping[str, Any]], gamed: str | Path | None, difficulty: str | Path | None
) -> tuple[str | None, Array | None, tuple[str, ...]]:
    """The regression's name, the shares that it predicts at equal lengths, and notes on it."""
    import numpy as np

    names = {one["generator_1"] for one in annotations}, {one["generator_2"] for one in annotations}
    if names[0] == names[1]:
        return None, None, ("a model against itself has no length-controlled win rate but 50",)
    difference = np.array([len(one["output_1"]) - len(one["output_2"]) for one in annotations], float)
    spread = difference.std(ddof=1) if len(difference) > 1 else 0.0
    if not spread > 0:
        return None, None, ("all answers differ from the reference's by the same length: there is nothing to control",)
    verdicts = np.array([nan if (p := one["preference"]) is None else _share(p) for one in annotations])
    lengths = np.tanh(difference / spread)
    ones = np.ones_like(lengths)
    weights = ones
    name, hard, more = _hardness(annotations, gamed, difficulty)
    columns = [lengths, ones] if hard is None else [lengths, hard, ones]
    levelled = [np.zeros_like(lengths), *columns[1:]]
    terms, targets = np.stack(columns, axis=1), np.stack(levelled, axis=1)
    if more is not None:
        terms = np.concatenate([more[0], terms])
        verdicts = np.concatenate([more[1], verdicts])
        weights = np.concatenate([np.full(len(more[1]), _GAMED_WEIGHT), weights])
    known = ~np.isnan(verdicts)
    if known.sum() < _FOLDS:
        return None, None, (f"a length-controlled win rate takes {_FOLDS} verdicts at least",)
    return name, _fitted(terms[known], verdicts[known], weights[known], targets), _APPROXIMATED[name]


def _hardness(
    annotations: Sequence[Mapping[str, Any]], gamed: str | Path | None, difficulty: str | Path | None
) -> tuple[str, Array | None, tuple[Array, Array] | None]:
    """The regression's name, each instruction's difficulty, and the gamed baselines' terms and verdicts."""
    import numpy as np

    if gamed is None and difficulty is None:
        return "length_controlled_minimal", None, None
    path = Path(str(gamed if gamed is not None else difficulty))
    if gamed is None:
        table = {int(row[0]): float(row[1]) for row in _csv(path)[1:]}
        return "length_controlled_noreg", _looked_up(annotations, table, path), None
    head, *rows = _csv(path)
    wanted = ("index", "instruction_difficulty", "std_delta_len", "preference")
    if missing := [name for name in wanted if name not in head]:
        raise ConfigError(f"{path} has no column {missing[0]!r}: give AlpacaEval's df_gamed.csv")
    index, hard, length, verdict = (np.array([float(row[head.index(n)] or nan) for row in rows]) for n in wanted)
    table = {int(i): float(h) for i, h in zip(index[::-1], hard[::-1], strict=True)}  # the first of each counts
    terms = np.stack([np.tanh(length), hard, np.zeros_like(hard)], axis=1)
    return "length_controlled_v1", _looked_up(annotations, table, path), (terms, verdict)


def _csv(path: Path) -> list[list[str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [row for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path} ({getattr(error, 'strerror', None) or error})") from None


def _looked_up(annotations: Sequence[Mapping[str, Any]], table: Mapping[int, float], path: Path) -> Array:
    import numpy as np

    indices = [int(one.get("index", i)) for i, one in enumerate(annotations)]
    if (unknown := next((index for index in indices if index not in table), None)) is not None:
        raise ConfigError(
            f"{path} has no difficulty of instruction {unknown}: it belongs to other prompts than these; leave it out"
        )
    return np.array([table[index] for index in indices])


def _fitted(terms: Array, verdicts: Array, weights: Array, targets: Array) -> Array:
    """Fit by L1-regularised logistic regression, its strength chosen by cross-validation, and predict.

    A verdict is a probability: each row is there twice, as won and as lost, weighted by it.
    """
    import numpy as np
    import sklearn
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.metrics import make_scorer
    from sklearn.model_selection import GroupKFold

    rows = np.concatenate([terms, terms])
    won = np.repeat([1, 0], len(terms))
    chances, weights = np.concatenate([verdicts, 1 - verdicts]), np.concatenate([weights, weights])
    groups = np.tile(np.arange(len(terms)), 2)  # both halves of a row are held out together
    with sklearn.config_context(enable_metadata_routing=True):
        score = make_scorer(_log_loss, response_method="predict_proba", greater_is_better=False)
        model = LogisticRegressionCV(
            cv=GroupKFold(n_splits=_FOLDS),
            scoring=score.set_score_request(chances=True, weights=True),
            solver="liblinear",
            l1_ratios=(1.0,),
            fit_intercept=False,
            random_state=123,  # the package's: liblinear draws
            use_legacy_attributes=False,
        ).set_fit_request(sample_weight=True)
        routed = {"groups": groups, "chances": chances, "weights": weights}
        model.fit(rows, won, sample_weight=chances * weights, **routed)
    predicted: Array = model.predict_proba(targets)[:, 1]
    return predicted


def _log_loss(won: Array, guess: Array, chances: Array, weights: Array) -> float:
    import numpy as np

    guess = np.clip(guess, _LOWEST, 1 - _LOWEST)
    truth = np.where(won == 1, chances, 1 - chances)
    return float(-np.mean((truth * np.log(guess) + (1 - truth) * np.log(1 - guess)) * weights))
