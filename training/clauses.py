"""Learns the clauses of the preset ``learned_clauses`` for the embedded pair, from searches on dev instructions.

    python -m training.clauses [--n 150] [--seed 0]

Rewards alone decide: gold is not looked at. Writes ``darwin_align/pocket/clauses.json``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from darwin_align.core import Clause, SearchConfig, learn_clauses, write_clauses
from darwin_align.pocket import dev
from darwin_align.pocket.pair import pocket_search

FILE = Path(__file__).parents[1] / "darwin_align" / "pocket" / "clauses.json"


def learned(n: int, seed: int) -> tuple[tuple[Clause, ...], int]:
    """Search for answers to dev instructions and learn from it.

    Returns:
        The clauses, and the tokens that were decoded for them.
    """
    search = pocket_search(SearchConfig.preset("mutate_best_of_n"))
    results = search.batch(list(dev(n)), {"max_concurrency": 12}, seed=seed)
    return learn_clauses(results), sum(result.usage.decoded_tokens for result in results)


def main(n: int, seed: int, file: Path = FILE) -> None:
    """Learn, print, write."""
    clauses, tokens = learned(n, seed)
    about = f"python -m training.clauses: mutate_best_of_n on dev({n}), seed {seed}"
    rounded = [clause.model_copy(update={"worth": round(clause.worth, 3)}) for clause in clauses]
    write_clauses(file, rounded, about=about, decoded_tokens=tokens)
    print(file.read_text(encoding="utf-8"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--n", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    main(chosen.n, chosen.seed)
