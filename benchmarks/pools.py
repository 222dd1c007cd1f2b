"""Choices that resist over-optimisation, and answers saved by stopping early, on a recorded pool; no GPU, no model.

    python -m benchmarks.pools ../shared/data/real/bon_pool.jsonl.gz

Scorers of known quality: length; shortness; the share of the prompt's words in the answer; and the verdict with noise:
good, weak, weak with heavy tails, and good but "hacked" by a tenth of the answers, which it takes for the best by far.
Temperatures are in median standard deviations of a
prompt's rewards. Settings are calibrated on 50 prompts and measured on the others, for several splits. Everything that
is tried is in the table. Prints tables as Markdown and writes ``benchmarks/results/pools.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict
from math import tan
from pathlib import Path
from statistics import NormalDist, fmean, median, stdev
from typing import Any

from benchmarks.pool_budgets import saved_by_sharing, saved_by_stopping
from darwin_align import __version__
from darwin_align.core.calibration import TUNED, calibrate, expected_best
from darwin_align.core.choice import chances
from darwin_align.core.config import Choice
from darwin_align.core.seeds import derive, uniform
from darwin_align.evaluation.intervals import Bootstrap
from darwin_align.evaluation.pools.figures import Chooser, PoolFigures, Scored, pool_figures
from darwin_align.evaluation.pools.records import PooledPrompt, read_pool

RESULTS = Path(__file__).parent / "results" / "pools.json"
NS = (1, 2, 4, 8, 11)
TEMPERATURES = (0.25, 1.0)
DRAWN: tuple[Choice, ...] = ("soft",)
NOISE = {"good": 0.2, "weak": 1.0, "heavy": 0.25}
"""In units of the verdict, which goes from 0 to 1. Heavy tails are Cauchy's, at this scale."""
HACKED, BONUS = 0.1, 2.0
"""Share of the answers that the hacked scorer is fooled by, and by how much."""
SPLITS, JUDGED = 10, 50


def length(prompt: PooledPrompt, i: int) -> float:
    """The longer the better."""
    return float(len(prompt.answers[i]))


def shortness(prompt: PooledPrompt, i: int) -> float:
    """The shorter the better."""
    return -length(prompt, i)


def hacked(prompt: PooledPrompt, i: int) -> float:
    """As the good one, but some answers are overrated whatever they are worth."""
    fooled = uniform(0, "hacked", prompt.key, i) < HACKED
    return noisy("good")(prompt, i) + BONUS * fooled


def overlap(prompt: PooledPrompt, i: int) -> float:
    """The share of the prompt's words that come up in the answer."""
    asked = set(prompt.request.instruction.lower().split())
    return len(asked & set(prompt.answers[i].lower().split())) / len(asked)


def noisy(kind: str) -> Callable[[PooledPrompt, int], float]:
    """The verdict with noise by position."""

    def reward(prompt: PooledPrompt, i: int) -> float:
        chance = min(max(uniform(0, "noise", kind, prompt.key, i), 1e-9), 1 - 1e-9)
        drawn = tan(3.141592653589793 * (chance - 0.5)) if kind == "heavy" else NormalDist().inv_cdf(chance)
        return prompt.verdicts[i] + NOISE[kind] * drawn

    return reward


SCORERS: dict[str, Callable[[PooledPrompt, int], float]] = {
    "length": length,
    "short": shortness,
    "overlap": overlap,
    "hacked": hacked,
    "heavy": noisy("heavy"),
    "weak": noisy("weak"),
    "good": noisy("good"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("pool", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--draws", type=int, default=4)
    parser.add_argument("--results", type=Path, default=RESULTS)
    chosen = parser.parse_args(arguments)
    pool = read_pool(chosen.pool)
    about = {"about": "python -m benchmarks.pools bon_pool.jsonl.gz", "version": __version__}
    about |= {"machine": f"{platform.machine()}, {os.cpu_count()} cores", "python": platform.python_version()}
    setup = {
        "prompts": len(pool),
        "seed": chosen.seed,
        "draws": chosen.draws,
        "noise": NOISE,
        "hacked": {"share": HACKED, "bonus": BONUS},
    }
    data: dict[str, Any] = {**about, **setup, "splits": SPLITS, "judged": JUDGED, "scorers": {}}
    for name, reward in SCORERS.items():
        scored = [Scored(one, tuple(reward(one, i) for i in range(len(one.answers)))) for one in pool]
        found = measured(scored, chosen.seed, chosen.draws)
        data["picked"] = found.pop("picked")  # the same with every scorer
        data["scorers"][name] = found
        print(f"\n## {name}\n\n{shown(found)}", flush=True)
    chosen.results.write_text(written(rounded(data)) + "\n", encoding="utf-8")


def measured(scored: Sequence[Scored], seed: int, draws: int) -> dict[str, Any]:
    """All that is measured of one scorer."""
    spread = median(stdev(one.rewards) for one in scored)
    choosers = [Chooser(f"{choice} {t:g}", choice, t * spread) for choice in DRAWN for t in TEMPERATURES]
    found = pool_figures(scored, choosers, NS, seed=seed, draws=draws)
    return {
        "spread": spread,
        "rows": [asdict(row) for row in found.rows],
        "overoptimisation": [{**asdict(one), "found": one.found} for one in found.overoptimisation],
        **{name: asdict(getattr(found, name)) for name in ("random", "longest", "oracle", "reward_and_verdict")},
        **{name: asdict(getattr(found, name)) for name in ("reward_and_length", "pair_accuracy", "pair_longer")},
        "picked": picked(found),
        "calibrated": calibrated(scored, seed),
        "stopping": saved_by_stopping(scored, seed),
        "sharing": saved_by_sharing(scored, seed),
    }


def picked(found: PoolFigures) -> dict[str, Any]:
    """What published reward models took of all 16 answers, where that one was judged."""
    return {
        name: {"prompts": n, "verdict": asdict(verdict), "random": asdict(beside)}
        for name, (n, verdict, beside) in found.picked.items()
    }


def calibrated(scored: Sequence[Scored], seed: int) -> dict[str, Any]:
    """What calibrated settings are worth on other prompts, less the best of all answers, mean over splits."""
    found: dict[str, Any] = {}
    best = [worth(one, {}) for one in scored]
    for tune in TUNED:
        gains: dict[int, list[float]] = {}
        settings = []
        for split in range(SPLITS):
            order = sorted(range(len(scored)), key=lambda i: derive(seed, "split", split, scored[i].prompt.key))
            judged = [(scored[i].rewards, scored[i].prompt.verdicts) for i in order[:JUDGED]]
            settings.append(calibrate(judged, tune).settings)
            for i in order[JUDGED:]:
                gains.setdefault(i, []).append(worth(scored[i], settings[-1]) - best[i])
        means = [fmean(own) for own in gains.values()]
        found[tune] = {"gain": asdict(Bootstrap(len(means), seed).mean(means)), "settings": settings}
    return found


def worth(one: Scored, settings: dict[str, Any]) -> float:
    """The expected verdict under calibrated settings."""
    choice, answers = settings.get("choice", "best"), len(one.rewards)
    if choice == "best":
        n = 1 if settings.get("cycles") == 0 else settings.get("mutations", answers - 1) + 1
        return expected_best(one.rewards, one.prompt.verdicts, n)
    drawn = chances(one.rewards, choice, settings["reward_temperature"])
    return sum(chance * verdict for chance, verdict in zip(drawn, one.prompt.verdicts, strict=True))


def shown(found: dict[str, Any]) -> str:
    """The figures of one scorer as Markdown."""
    lines = ["| choice | n | verdict | less best of n | characters |", "|---|---|---|---|---|"]
    for row in found["rows"]:
        gain = "" if row["gain"] is None else between(row["gain"], "+")
        cells = (row["choice"], f"{row['n']}", between(row["verdict"]), gain, f"{row['characters']:,.0f}")
        lines.append(f"| {' | '.join(cells)} |")
    for name in ("random", "longest", "oracle", "pair_accuracy", "reward_and_length"):
        lines.append(f"| {name} | | {between(found[name])} | | |")
    for tune, one in found["calibrated"].items():
        lines.append(f"| calibrated {tune} | | | {between(one['gain'], '+')} | |")
    lines += ["", "| budget | answers | verdict | less best of n | saved at the verdict | saved at the reward |"]
    lines.append("|---|---|---|---|---|---|")
    for kind in ("stopping", "sharing"):
        for one in found[kind]:
            saved = (f"{one['saved_at_verdict']:+.0%}", f"{one['saved_at_reward']:+.0%}")
            cells = (f"{kind} {one['setting']:g}, {one['estimate']}", f"{one['answers']:.2f}", f"{one['verdict']:.3f}")
            lines.append(f"| {' | '.join([*cells, between(one['gain'], '+'), *saved])} |")
    return "\n".join(lines)


def choices_table(data: dict[str, Any]) -> str:
    """Choices by scorers: verdicts of the best of n, and what others add to the best of all, as Markdown."""
    scorers, last = data["scorers"], max(NS)
    rows = [("", *scorers), ("---",) * (len(scorers) + 1)]
    for n in (1, 4, last):
        rows.append((f"best of {n}", *(f"{_row(one, 'best', n)['verdict']['mean']:.3f}" for one in scorers.values())))
    drawn = dict.fromkeys(row["choice"] for row in data["scorers"]["length"]["rows"] if row["choice"] != "best")
    for name in drawn:
        rows.append((f"{name}, {last}", *(between(_row(one, name, last)["gain"], "+") for one in scorers.values())))
    for tune in TUNED:
        gains = (between(one["calibrated"][tune]["gain"], "+") for one in scorers.values())
        rows.append((f"{tune}, calibrated", *gains))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def budgets_table(data: dict[str, Any]) -> str:
    """What budgets add at equal answers and what they save at an equal verdict, by scorers, as Markdown."""
    scorers = data["scorers"]
    rows = [("", *scorers), ("---",) * (len(scorers) + 1)]
    for kind in ("stopping", "sharing"):
        for i, named in enumerate(next(iter(scorers.values()))[kind]):
            cells = []
            for one in scorers.values():
                found = one[kind][i]
                rises = _row(one, "best", max(NS))["verdict"]["mean"] > _row(one, "best", 1)["verdict"]["mean"]
                saved = f", {found['saved_at_verdict']:+.0%}" if rises else ""  # else fewer answers are always better
                cells.append(f"{found['answers']:.1f}: {found['gain']['mean']:+.3f}{saved}")
            rows.append((f"{kind} {named['setting']:g}, {named['estimate']}", *cells))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _row(one: dict[str, Any], choice: str, n: int) -> dict[str, Any]:
    return next(row for row in one["rows"] if (row["choice"], row["n"]) == (choice, n))


def between(one: dict[str, float], sign: str = "") -> str:
    """A mean with its interval."""
    return f"{one['mean']:{sign}.3f} [{one['low']:{sign}.3f}, {one['high']:{sign}.3f}]"


def written(data: Any, margin: str = "") -> str:
    """Plain data as JSON, with what holds numbers and texts alone on one line."""
    parts = data.values() if isinstance(data, dict) else data if isinstance(data, list) else ()
    if not any(isinstance(part, dict | list) for part in parts):
        return json.dumps(data, ensure_ascii=False)
    inner = margin + " "
    if isinstance(data, dict):
        lines = [f"{inner}{json.dumps(name)}: {written(part, inner)}" for name, part in data.items()]
        return "{\n" + ",\n".join(lines) + f"\n{margin}}}"
    return "[\n" + ",\n".join(f"{inner}{written(part, inner)}" for part in data) + f"\n{margin}]"


def rounded(data: Any) -> Any:
    """Plain data with four significant decimals."""
    if isinstance(data, float):
        return round(data, 4)
    if isinstance(data, dict):
        return {name: rounded(value) for name, value in data.items()}
    return [rounded(value) for value in data] if isinstance(data, list | tuple) else data


if __name__ == "__main__":
    main()
