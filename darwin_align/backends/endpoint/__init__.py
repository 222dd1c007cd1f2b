"""Policy and reward models behind URLs: httpx and tenacity."""

from darwin_align.backends.endpoint.client import Endpoint
from darwin_align.backends.endpoint.judge import JudgeScorer, Rubric
from darwin_align.backends.endpoint.limits import Limits
from darwin_align.backends.endpoint.policy import EndpointPolicy
from darwin_align.backends.endpoint.rewards import NIM, REWARD_DIALECTS, RewardDialect
from darwin_align.backends.endpoint.scorer import EndpointScorer

__all__ = [
    "NIM",
    "REWARD_DIALECTS",
    "Endpoint",
    "EndpointPolicy",
    "EndpointScorer",
    "JudgeScorer",
    "Limits",
    "RewardDialect",
    "Rubric",
]
