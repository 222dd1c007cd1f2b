"""The embedded pair: a tiny policy and a tiny reward model made from nothing, and the world that they were trained on.

Importing this package is cheap; the models are folders that any loader of transformers reads.
"""

from importlib.resources import files
from pathlib import Path

from darwin_align.pocket.gold import Gold, GoldLine, gold
from darwin_align.pocket.world import MUTATION_PROMPT, dev, held_out, topics

__all__ = [
    "MUTATION_PROMPT",
    "Gold",
    "GoldLine",
    "dev",
    "gold",
    "held_out",
    "policy_path",
    "reward_path",
    "topics",
]


def _folder(name: str) -> Path:
    path = Path(str(files(__name__) / name))
    if not (path / "model.safetensors").is_file():
        raise FileNotFoundError(f"the embedded {name} model is missing from {path}: run `make pair` in a checkout")
    return path


def policy_path() -> Path:
    """Folder of the embedded policy (causal language model, tokenizer, chat template)."""
    return _folder("policy")


def reward_path() -> Path:
    """Folder of the embedded reward model (one-logit sequence classifier, same tokenizer)."""
    return _folder("reward")
