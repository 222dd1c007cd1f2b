"""How long a batch takes on policy and reward servers, and what it waits for: asymptotic bounds of a queueing network.

A prompt demands seconds of policy GPUs and seconds of reward GPUs (its tokens ÷ tokens a second). Neither side can give
more than its GPUs, so the slower one sets the throughput X; by Little's law X times the seconds of one search under
load is the number of searches that keep it busy (Denning and Buzen 1978). Estimates: servers are taken as equally
loaded and as fast as they were measured, and the client as never the bottleneck.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from darwin_align.core.budget import Usage
from darwin_align.core.config import SearchConfig
from darwin_align.core.errors import ConfigError

__all__ = ["Demand", "Plan", "Speeds", "plan_batch"]

_DECODING = 0.75
"""Share of a search's rows that decode, in the mean over its time at the policy: beams end before the longest one, and
rewording is one request. Measured: 0.83 for darwin and 0.85 for best of n on the embedded pair; 0.70 in the simulation
of ``benchmarks.replicas``."""
_QUEUE = 4
"""Searches that wait at a reward GPU at most: a longer queue would keep it no busier."""


@dataclass(frozen=True, kw_only=True)
class Demand:
    """Tokens of one prompt, as a dry run's mean."""

    decoded: float
    prefilled: float
    """Prompt tokens that the policy read."""
    scored: float
    """Tokens that the reward model read."""
    width: float
    """Requests that a search has at the policy, in the mean over its time there."""

    @classmethod
    def of(
        cls, usage: Usage, prompts: int, config: SearchConfig, *, policy_hits: float = 0.0, reward_hits: float = 0.0
    ) -> Self:
        """The mean of so many prompts.

        Args:
            usage: of all of them.
            prompts: how many.
            config: their search.
            policy_hits: share of the counted prompt tokens that the servers' prefix caches will hold.
            reward_hits: of the scored tokens, likewise.

        Raises:
            ConfigError: nothing was decoded, or a share is none.
        """
        if prompts < 1 or usage.decoded_tokens < 1:
            raise ConfigError("the dry run decoded nothing: give it prompts that can be answered")
        if not (0 <= policy_hits < 1 and 0 <= reward_hits < 1):
            raise ConfigError("shares of cached tokens are at least 0 and less than 1")
        return cls(
            decoded=usage.decoded_tokens / prompts,
            prefilled=usage.prefilled_tokens * (1 - policy_hits) / prompts,
            scored=usage.reward_tokens * (1 - reward_hits) / prompts,
            # The first response decodes beside the beams of the first cycle.
            width=_DECODING * (config.beams + 1 / config.cycles) if config.cycles else 1,
        )


@dataclass(frozen=True, kw_only=True)
class Speeds:
    """Tokens a second of one GPU, measured with ``rows`` requests in flight on it."""

    policy: float
    """Decoded, of all requests together."""
    reward: float
    """Read by the reward model."""
    prefill: float
    """Read by the policy."""
    rows: int = 64
    """Requests in flight on a policy GPU."""

    def __post_init__(self) -> None:
        if min(self.policy, self.reward, self.prefill, self.rows) <= 0:
            raise ConfigError("speeds and requests in flight are more than 0: measure them on one GPU")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """An estimate of a batch."""

    policy_gpus: int
    reward_gpus: int
    """0: one GPU has both models, which take turns."""
    seconds: float
    per_second: float
    """Prompts a second."""
    policy_busy: float
    """Share of the time that the policy's GPUs work."""
    reward_busy: float
    prompts_in_flight: int
    requests_in_flight: int
    """At all policy servers together."""

    @property
    def bottleneck(self) -> str:
        """The side that the other one waits for."""
        if not self.reward_gpus:
            return "the GPU that both share"
        return "policy" if self.policy_busy >= self.reward_busy else "reward"


def plan_batch(demand: Demand, speeds: Speeds, *, prompts: int, gpus: int) -> Plan:
    """Share GPUs out so that the batch ends soonest.

    >>> demand = Demand(decoded=2400, prefilled=600, scored=4800, width=5.3)
    >>> plan = plan_batch(demand, Speeds(policy=2000, reward=20000, prefill=20000), prompts=10000, gpus=8)
    >>> plan.policy_gpus, plan.reward_gpus, plan.bottleneck, round(plan.seconds / 3600, 2)
    (6, 2, 'policy', 0.57)

    Args:
        demand: of one prompt.
        speeds: of one GPU.
        prompts: in the batch.
        gpus: for policy and reward model together, each holding one copy of one of them. A single one holds both.

    Raises:
        ConfigError: no prompts or no GPUs.
    """
    if prompts < 1 or gpus < 1:
        raise ConfigError("a plan needs 1 prompt and 1 GPU at least")
    policy = demand.decoded / speeds.policy + demand.prefilled / speeds.prefill
    reward = demand.scored / speeds.reward
    if gpus == 1:
        return _plan(demand, speeds, prompts, (policy + reward, 1), (reward, 0))
    split = min(range(1, gpus), key=lambda n: max(policy / n, reward / (gpus - n)))
    return _plan(demand, speeds, prompts, (policy, split), (reward, gpus - split))


def _plan(demand: Demand, speeds: Speeds, prompts: int, policy: tuple[float, int], reward: tuple[float, int]) -> Plan:
    (policy_seconds, policy_gpus), (reward_seconds, reward_gpus) = policy, reward
    per_second = 1 / max(policy_seconds / policy_gpus, reward_seconds / reward_gpus if reward_gpus else 0)
    busy = [
        per_second * policy_seconds / policy_gpus,
        per_second * reward_seconds / reward_gpus if reward_gpus else 0.0,
    ]
    # Little's law at the policy, whose GPUs hold `rows` requests each; at the reward model a queue (M/M/1).
    decoding = min(prompts, busy[0] * speeds.rows * policy_gpus / demand.width)
    waiting = reward_gpus * min(busy[1] / (1 - busy[1]) if busy[1] < 1 else _QUEUE, _QUEUE)
    in_flight = min(prompts, decoding + waiting)
    # The last searches leave servers idle: half of one search's seconds under load.
    seconds = prompts / per_second + in_flight / per_second / 2
    return Plan(
        policy_gpus=policy_gpus,
        reward_gpus=reward_gpus,
        seconds=seconds,
        per_second=per_second,
        policy_busy=busy[0],
        reward_busy=busy[1],
        prompts_in_flight=max(1, round(in_flight)),
        requests_in_flight=max(1, round(decoding * demand.width)),
    )
