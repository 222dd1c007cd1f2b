"""Policy and reward models on this machine: torch and transformers."""

from darwin_align.backends.local.policy import LocalPolicy
from darwin_align.backends.local.reward import RewardModel
from darwin_align.backends.local.scorer import LocalScorer
from darwin_align.backends.recipes import RECIPES, Recipe

__all__ = ["RECIPES", "LocalPolicy", "LocalScorer", "Recipe", "RewardModel"]
