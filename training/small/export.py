"""From a trained tower to the adapter that is shipped, and back."""

from __future__ import annotations

from darwin_align.small import Adapter, policy_path
from darwin_align.small.adapter import FIRST, SECOND
from darwin_align.small.weights import file_digest
from training.small.states import BOTTOM, TOP, Base
from training.small.tower import Tower

HEAD, NORM = "score.weight", "model.norm.weight"


def adapter_of(tower: Tower) -> Adapter:
    """The factors in half precision, norm and head in single."""
    tensors = {HEAD: tower.score.weight.detach().clone(), NORM: tower.norm.weight.detach().clone()}
    for name, owner, attribute in tower.matrices():
        part = getattr(owner, attribute)
        tensors[f"{name}{FIRST}"] = part.lora_a.detach().half().contiguous()
        tensors[f"{name}{SECOND}"] = part.lora_b.detach().half().contiguous()
    return Adapter(tensors, TOP, file_digest(policy_path()))


def tower_of(adapter: Adapter, base: Base) -> Tower:
    """The tower whose rewards the shipped adapter gives."""
    rank = next(len(value) for name, value in adapter.tensors.items() if name.endswith(FIRST))
    tower = Tower(base.model, BOTTOM, TOP, rank=rank)
    tower.score.weight.data.copy_(adapter.tensors[HEAD])
    tower.norm.weight.data.copy_(adapter.tensors[NORM])
    for name, owner, attribute in tower.matrices():
        part = getattr(owner, attribute)
        part.lora_a.data.copy_(adapter.tensors[f"{name}{FIRST}"])
        part.lora_b.data.copy_(adapter.tensors[f"{name}{SECOND}"])
    return tower.eval()
