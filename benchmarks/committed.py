"""How much of an answer streams before its search ends, setting by setting, under ``streaming_mode="committed"``.

    python -m benchmarks.committed [--n 24] [--seed 0]

Searches of the embedded pair over held-out instructions. Counted are the characters that came before the search's last
question was answered; where a stream begins is told as the share of its seconds. Writes
``benchmarks/results/committed.json``.
"""

from __future__ import annotations

import argparse
import json
import platform
from statistics import fmean
from time import perf_counter
from typing import Any

import torch

from benchmarks.held_out import RESULTS
from darwin_align import DarwinChatModel, SearchConfig, __version__
from darwin_align.core.errors import ConfigError
from darwin_align.pocket import held_out
from darwin_align.pocket.pair import pocket_search

SETTINGS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("darwin", "darwin", {}),
    ("darwin, cycles=1", "darwin", {"cycles": 1}),
    ("darwin, cycles=1, survivors=1", "darwin", {"cycles": 1, "survivors": 1}),
    ("sample_replace", "sample_replace", {}),
    ("sample_replace, survivors=1", "sample_replace", {"survivors": 1}),
    ("mutate_best_of_n", "mutate_best_of_n", {}),
    ("best_of_n", "best_of_n", {}),
    ("sample", "sample", {}),
)


def measure(preset: str, changes: dict[str, Any], n: int, seed: int) -> dict[str, float]:
    """Means over held-out instructions: the share of characters before the end, and when the first one came."""
    search = pocket_search(SearchConfig.preset(preset, **changes))
    model = DarwinChatModel(search=search, streaming_mode="committed")
    figures = [_one(model, instruction, seed) for instruction in held_out(n)]
    return {name: fmean(one[name] for one in figures) for name in figures[0]}


def _one(model: DarwinChatModel, question: str, seed: int) -> dict[str, float]:
    answered: list[float] = []
    came: list[tuple[int, float, int]] = []
    start = perf_counter()
    for chunk in model.stream(question, seed=seed, on_event=lambda *_: answered.append(perf_counter())):
        if chunk.text:
            came.append((len(answered), perf_counter() - start, len(chunk.text)))
    whole, last = perf_counter() - start, len(answered)
    early = sum(length for events, _, length in came if events < last)
    return {
        "share_before_the_end": early / sum(length for *_, length in came),
        "first_text_at": came[0][1] / whole,
        "some_before_the_end": float(early > 0),
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--n", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    rows: dict[str, Any] = {}
    print(f"{'':32}{'before the end':>16}{'first text at':>16}{'answers with some':>20}")
    for name, preset, changes in SETTINGS:
        try:
            rows[name] = measure(preset, changes, chosen.n, chosen.seed)
            print(
                f"{name:32}"
                + "".join(f"{100 * v:{w}.0f}%" for v, w in zip(rows[name].values(), (15, 15, 19), strict=True))
            )
        except ConfigError as error:
            rows[name] = {"refused": str(error)}
            print(f"{name:32}refused: {error}")
    about = {"darwin_align": __version__, "torch": torch.__version__, "python": platform.python_version()}
    written = {"n": chosen.n, "seed": chosen.seed, "device": "cpu", "threads": 1, **about, "settings": rows}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "committed.json").write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
