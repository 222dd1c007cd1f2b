"""Policy and reward models on this machine: torch and transformers."""

from darwin_align.backends.local.policy import LocalPolicy
from darwin_align.backends.local.recipes import RECIPES, Recipe
from darwin_align.backends.local.reward import LocalScorer, RewardModel

__all__ = ["RECIPES", "LocalPolicy", "LocalScorer", "Recipe", "RewardModel"]
