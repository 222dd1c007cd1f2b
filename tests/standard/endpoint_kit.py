"""The embedded pair with its policy behind a URL: a search of one cycle, like that of the local kit."""

from functools import lru_cache
from typing import Any

from darwin_align.backends.endpoint import EndpointPolicy
from darwin_align.backends.local import LocalScorer
from darwin_align.operators import ToolCallScorer, WeightedSum
from darwin_align.pocket import policy_path, reward_path
from darwin_align.pocket.pair import pocket_search


@lru_cache
def _parts(url: str) -> dict[str, Any]:
    policy = EndpointPolicy(url, tokenizer=policy_path(), continuation="ids", extra_body={"cache_prompt": False})
    scorers = (LocalScorer.from_pretrained(reward_path(), threads=1), ToolCallScorer(policy=policy))
    pocket = pocket_search(scorer=WeightedSum(scorers=scorers, weights=(1.0, 10.0)))
    parts = {name: getattr(pocket, name) for name in ("scorer", "mutation_prompt", "guard")}
    return {"policy": policy, **parts}


def endpoint_params(url: str) -> dict[str, Any]:
    """By token ids. The reward is the embedded reward model's, on this machine, and counts tool calls."""
    settings = {"cycles": 1, "mutations": 3, "replacement_period": 24, "seed": 5, "grounded": "where_possible"}
    return {**_parts(url), **settings}
