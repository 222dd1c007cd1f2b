"""Which layers know most: a linear head on each layer's states, cross-validated on training prompts.

    python -m training.small.probe [--groups 40]

It takes the cached states. It is how :data:`~training.small.states.TOP` was chosen; nothing held out is read.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from training.small.data import Group, training_groups
from training.small.packing import Encoded
from training.small.states import BOTTOM, Base, Cache, Known
from training.small.tower import Tower
from training.small.train import reads_of

LAYERS = tuple(range(BOTTOM, 31, 2))
FOLDS = 5
PENALTIES = (30.0, 100.0, 300.0, 1000.0)


def features(base: Base, known: Known) -> dict[int, Tensor]:
    """Normalised states at a group's reads, by layer, shape (reads, hidden)."""
    found, below, states = {}, BOTTOM, known.states.float()
    with torch.inference_mode():
        for layer in LAYERS:
            states = Tower(base.model, below, layer).run(states, known.packed)
            read = states[list(known.packed.reads)]
            found[layer] = functional.rms_norm(read, read.shape[1:]).clone() / read.shape[1] ** 0.5
            below = layer
    return found


def differences(group: Group, encoded: Encoded, states: Tensor) -> tuple[Tensor, list[bool]]:
    """Of each comparison the better one's states less the worse one's, and whether it is of judged wholes."""
    reads, rows, wholes = reads_of(encoded), [], []
    for pair in group.pairs:
        one, other = reads[pair.better], reads[pair.worse]
        ends = len(encoded.answers[pair.better]), len(encoded.answers[pair.worse])
        if encoded.whole[pair.better] and encoded.whole[pair.worse]:
            rows.append(states[one[ends[0]]] - states[other[ends[1]]])
            wholes.append(pair.kind == "judged")
        for cut in sorted(one.keys() & other.keys() - set(ends)):
            rows.append(states[one[cut]] - states[other[cut]])
            wholes.append(False)
    return torch.stack(rows) if rows else torch.zeros(0, states.shape[1]), wholes


def head_of(rows: Tensor, penalty: float) -> Tensor:
    """The weights of a logistic regression on differences, shape (hidden,)."""
    weights = torch.zeros(rows.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        # States are of length one: the penalty is on weights in units of their differences.
        loss = -functional.logsigmoid(rows @ weights).mean() + (weights**2).sum() / penalty / len(rows)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return weights.detach()


def accuracy(folds: Sequence[tuple[Tensor, Tensor]], penalty: float) -> float:
    """Share of judged wholes that are ordered rightly by heads that were fitted on the other folds."""
    right = total = 0
    for number, (_, tested) in enumerate(folds):
        weights = head_of(torch.cat([rows for other, (rows, _) in enumerate(folds) if other != number]), penalty)
        right, total = right + int((tested @ weights > 0).sum()), total + len(tested)
    return right / total


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--groups", type=int, default=40, help="of the pool; PandaLM's are all taken")
    parser.add_argument("--work", type=Path, required=True, help="the folder that `states` filled")
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    base, groups = Base(), training_groups()
    votes = [group for group in groups if group.source == "pandalm"]
    groups = [*votes, *[group for group in groups if group.source == "pool"][: chosen.groups]]
    began, known = time.monotonic(), []
    for number, one in enumerate(Cache(chosen.work / "states", base).load(groups), 1):
        known.append((one.group, one.encoded, features(base, one)))
        if number % 20 == 0:
            print(f"{number}/{len(groups)} {time.monotonic() - began:.0f}s", flush=True)
    print(
        f"{'layer':8}"
        + "".join(f"{source + ' ' + format(p, 'g'):>14}" for source in ("pandalm", "pool") for p in PENALTIES)
    )
    for layer in LAYERS:
        cells = []
        for source in ("pandalm", "pool"):
            folds = []
            for fold in range(FOLDS):
                mine = [one for place, one in enumerate(known) if place % FOLDS == fold]
                made = [(group, *differences(group, encoded, states[layer])) for group, encoded, states in mine]
                tested = [
                    rows[torch.tensor(wholes)] for group, rows, wholes in made if group.source == source and wholes
                ]
                folds.append((torch.cat([rows for _, rows, _ in made]), torch.cat(tested)))
            cells += [accuracy(folds, penalty) for penalty in PENALTIES]
        print(f"{layer:<8}" + "".join(f"{value:14.3f}" for value in cells), flush=True)


if __name__ == "__main__":
    main()
