"""Recipes: the inputs of known families of reward models, recognised by name; ``recipe=…`` overrides that."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from darwin_align.backends.text_encoder import BosFrom
from darwin_align.core.errors import ConfigError

__all__ = ["RECIPES", "Recipe", "recipe_for", "recipe_named"]


@dataclass(frozen=True)
class Recipe:
    """How a reward model's input is made and where its score is read."""

    name: str
    about: str
    source: str = ""
    """Where this is documented."""
    pattern: str = ""
    """Regular expression over the lower-case folder or hub id."""
    bos: BosFrom = "template"
    """Who writes the BOS token, see :class:`~darwin_align.backends.templates.ChatTemplate`."""
    inputs: Literal["chat", "pair"] = "chat"
    """A chat through the template, or a pair of question and answer without one."""
    reads: Literal["logits", "score", "get_score"] = "logits"
    """The one logit, the output's ``score``, or the model's own ``get_score(tokenizer, chat)``."""

    @property
    def custom_code(self) -> bool:
        """Whether the model only runs with code from its own repository."""
        return self.reads != "logits"


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="generic",
            about="Chat template as it is, one logit at the last token.",
            source="https://huggingface.co/docs/transformers/chat_templating",
        ),
        Recipe(
            name="rlhflow",
            about="The card removes the BOS from the rendered text and lets the tokenizer add it.",
            source="https://huggingface.co/sfairXC/FsfairX-LLaMA3-RM-v0.1",
            pattern=r"fsfairx|rlhflow.*(?:reward|[-_]rm)|offsetbias-rm",
            bos="tokenizer",
        ),
        Recipe(
            name="skywork",
            about="Skywork-Reward v1 and v2: the cards remove a duplicate BOS from the rendered text.",
            source="https://huggingface.co/Skywork/Skywork-Reward-V2-Llama-3.1-8B",
            pattern=r"skywork-reward",
            bos="tokenizer",
        ),
        Recipe(
            name="armorm",
            about="Nineteen objectives under a gate: the scalar is the output's `score`.",
            source="https://huggingface.co/RLHFlow/ArmoRM-Llama3-8B-v0.1",
            pattern=r"armorm",
            reads="score",
        ),
        Recipe(
            name="internlm2",
            about="Scores through the model's own `get_score`, which renders the chat itself.",
            source="https://huggingface.co/internlm/internlm2-7b-reward",
            pattern=r"internlm2.*reward",
            reads="get_score",
        ),
        Recipe(
            name="pair",
            about="Question and answer as a pair of texts, e.g. OpenAssistant's DeBERTa models. "
            "Their card shows one question; earlier turns in front of it are our reading.",
            source="https://huggingface.co/OpenAssistant/reward-model-deberta-v3-large-v2",
            pattern=r"reward-model-(?:deberta|electra)",
            inputs="pair",
        ),
    )
}


def recipe_for(path: str) -> Recipe:
    """Return the family that a folder's name or hub id belongs to, ``generic`` if it is unknown.

    >>> recipe_for("Skywork/Skywork-Reward-V2-Qwen3-0.6B").name
    'skywork'
    >>> recipe_for("models/my-own").name
    'generic'
    """
    # Narrow families first: ArmoRM's owner is RLHFlow too.
    families = sorted((r for r in RECIPES.values() if r.pattern), key=lambda recipe: not recipe.custom_code)
    return next((r for r in families if re.search(r.pattern, path.lower())), RECIPES["generic"])


def recipe_named(name: str) -> Recipe:
    """Return a recipe by its name.

    Raises:
        ConfigError: there is none.
    """
    if name not in RECIPES:
        raise ConfigError(f"unknown reward recipe {name!r}: known are {', '.join(sorted(RECIPES))}")
    return RECIPES[name]
