"""Learning from finished searches: which sentences of their rewordings earned reward, whatever the request.

The paper's archive (arXiv 2406.15193, Alg. 1) ends with its search. What is learned here outlives it: the next searches
add what served the last ones, and spend no tokens on rewording.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from statistics import fmean, pstdev

from darwin_align.core.clauses import Clause, sentences
from darwin_align.core.errors import ConfigError
from darwin_align.core.result import SearchResult

__all__ = ["learn_clauses"]


def learn_clauses(results: Iterable[SearchResult], *, least: int = 10, most: int = 8) -> tuple[Clause, ...]:
    """Find the sentences of rewordings that earned reward.

    A sentence counts if rewordings added it to ``least`` different instructions: what belongs to one topic drops out.
    An answer counts by how many standard deviations its reward lies above the mean of its search. Answers that took
    over another beam's state are left out, because their reward has no single instruction: searches without
    replacement (``mutate_best_of_n``) teach most.

    Args:
        results: searches that reworded.
        least: instructions that a clause must have been seen on.
        most: clauses that are kept.

    Returns:
        The best clauses that raised rewards, best first.

    Raises:
        ConfigError: no clause did; the message states why.

    >>> learn_clauses([])
    Traceback (most recent call last):
    ...
    darwin_align.core.errors.ConfigError: no clause was added to 10 instructions in these 0 searches: give more searches
    """
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    searches = 0
    for result in results:
        searches += 1
        for clause, worth in _worths(result):
            found[clause][result.request.instruction].append(worth)
    common = {clause: seen for clause, seen in found.items() if len(seen) >= least}
    if not common:
        raise ConfigError(
            f"no clause was added to {least} instructions in these {searches} searches: give more searches"
        )
    means = [Clause(text=clause, worth=fmean(map(fmean, seen.values()))) for clause, seen in common.items()]
    best = sorted((clause for clause in means if clause.worth > 0), key=lambda clause: (-clause.worth, clause.text))
    if not best:
        raise ConfigError(
            f"none of the {len(common)} clauses that these searches share raised rewards: keep the policy's"
        )
    return tuple(best[:most])


def _worths(result: SearchResult) -> Iterable[tuple[str, float]]:
    """The added sentences of a search's answers, each with the answer's standardized reward."""
    own = set(sentences(result.request.instruction))
    beams = [beam for beam in result.ranking if beam.ancestor is None and beam.reward is not None]
    rewards = [beam.reward for beam in beams if beam.reward is not None]
    spread = pstdev(rewards) if len(rewards) > 1 else 0.0
    if not spread:
        return
    mean = fmean(rewards)
    for beam, reward in zip(beams, rewards, strict=True):
        for clause in set(sentences(beam.instruction)) - own:
            yield clause, (reward - mean) / spread
