"""The selector: says who takes whose state."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from math import inf, nextafter
from operator import index
from typing import Any, ClassVar

from darwin_align.core.errors import OperatorError, RewardError
from darwin_align.core.laws import is_ordered
from darwin_align.core.seeds import derive
from darwin_align.core.selection import Selection, winners_of
from darwin_align.core.types import Ancestor, Beam, OperatorName, Population
from darwin_align.operators.base import Dialogue, Operator, Reply

__all__ = ["Selected", "Selector"]

Selected = Selection | tuple[Sequence[int | None], Sequence[float]]
"""A selection, or its ancestors and weights alone."""


class Selector(Operator):
    """Decides who goes on with whose state: override :meth:`select`. Then the step is over.

    Beams that end within a tool call take no part: they stay as they are, and their state is not taken.
    """

    role: ClassVar[OperatorName] = "select"

    @abstractmethod
    def select(
        self, rewards: Sequence[float], finished: Sequence[bool], weights: Sequence[float], seed: int
    ) -> Reply[Selected]:
        """Return an ancestor for each contender and the weights that they carry on.

        The ancestor is the index of the contender whose state is taken: its own to stay as it is, ``None`` to be
        dropped. A finished contender must keep its own. An invalid contender comes with a reward below all others.
        With ``choice="soft"`` an answer is drawn in proportion to ``exp(reward / temperature + weight)``.
        """

    def worth(self, beams: Sequence[Beam]) -> list[float]:
        """What :meth:`select` is given as rewards, one for each beam: their rewards, unless this is overridden."""
        return [beam.reward for beam in beams if beam.reward is not None]

    def _dialogue(self, population: Population) -> Dialogue:
        indices, step = population.selectable, population.step
        beams = [population.beams[i] for i in indices]
        if unscored := [i for i, beam in zip(indices, beams, strict=True) if beam.reward is None]:
            raise RewardError(
                f"select needs a reward for every beam; beams {unscored} have none: put a scorer before it"
            )
        finished = [beam.finished for beam in beams]
        seed = derive(step.seed, "select", step.index)
        advanced = step.model_copy(update={"operator": "decode", "index": step.index + 1})
        if not indices:  # every beam is inside a tool call
            return population.model_copy(update={"step": advanced})
        reply = yield (
            self.select,
            (_invalid_last(self.worth(beams), beams), finished, [beam.log_weight for beam in beams], seed),
        )
        selection = reply if isinstance(reply, Selection) else _selection(reply, finished)
        _check_selection(selection, len(beams), finished)
        taken = {i: _select(population, indices, j, selection) for j, i in enumerate(indices)}
        return population.with_beams(taken, step=advanced)


def _invalid_last(rewards: Sequence[float], beams: Sequence[Beam]) -> list[float]:
    lowest = min(rewards, default=0.0)
    below_all = min(lowest - 1.0, nextafter(lowest, -inf))  # a huge number minus one is the same number
    return [reward if beam.valid else below_all for beam, reward in zip(beams, rewards, strict=True)]


def _selection(reply: Any, finished: Sequence[bool]) -> Selection:
    try:
        if not is_ordered(reply):
            raise TypeError
        ancestors, weights = reply
        if not (is_ordered(ancestors) and is_ordered(weights)):
            raise TypeError
        ancestors, weights = tuple(ancestors), tuple(weights)
        if any(isinstance(weight, str) for weight in weights):
            raise TypeError
        ancestors = tuple(None if ancestor is None else index(ancestor) for ancestor in ancestors)
        weights = tuple(float(weight) for weight in weights)
    except (TypeError, ValueError):
        raise OperatorError(
            f"select must return (ancestors, weights), not {reply!r:.80}: two lists in the order of the contenders"
        ) from None
    _check_length(len(ancestors), len(weights), len(finished))
    return Selection(ancestors, weights, winners_of(ancestors, finished))


def _check_length(ancestors: int, weights: int, n: int) -> None:
    if ancestors != n or weights != n:
        raise OperatorError(f"select was given {n} contenders and returned {ancestors} ancestors and {weights} weights")


def _check_selection(selection: Selection, n: int, finished: Sequence[bool]) -> None:
    ancestors, weights, _ = selection
    _check_length(len(ancestors), len(weights), n)
    for i, ancestor in enumerate(ancestors):
        if ancestor is not None and ancestor not in range(n):
            raise OperatorError(f"select gave contender {i} the ancestor {ancestor!r}; contenders are 0 to {n - 1}")
        if finished[i] and ancestor != i:
            raise OperatorError(f"select gave contender {i} the ancestor {ancestor}, but it is finished and must stay")


def _select(population: Population, indices: Sequence[int], j: int, selection: Selection) -> Beam:
    beam, ancestor = population.beams[indices[j]], selection.ancestors[j]
    update: dict[str, Any] = {
        "log_weight": float(selection.log_weights[j]),
        "wins": beam.wins + (j in selection.winners),
    }
    if ancestor is None:
        return beam.model_copy(update={**update, "alive": False})
    if ancestor != j:
        donor = indices[ancestor]
        beam = beam.take_state(population.beams[donor])
        update["ancestor"] = Ancestor(beam=donor, step=population.step.index)
    return beam.settled.model_copy(update=update)
