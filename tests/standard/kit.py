"""The model that LangChain's standard tests are run on: the embedded pair with a small budget."""

from typing import Any

from darwin_align.backends.local import LocalPolicy, LocalScorer
from darwin_align.operators import ToolCallScorer, WeightedSum
from darwin_align.pocket import policy_path, reward_path


def pocket_params() -> dict[str, Any]:
    """A search of one cycle. Its reward is the embedded reward model's, and counts tool calls.

    Values are copied from the conversation where it holds any that fit: the pair is too small to copy by itself.
    """
    policy = LocalPolicy.from_pretrained(policy_path(), threads=1)
    scorers = (LocalScorer.from_pretrained(reward_path(), threads=1), ToolCallScorer(policy=policy))
    return {
        "scorer": WeightedSum(scorers=scorers, weights=(1.0, 10.0)),
        "cycles": 1,
        "mutations": 3,
        "max_tokens": 96,
        "replacement_period": 24,
        "seed": 5,
        "grounded": "where_possible",
    }
