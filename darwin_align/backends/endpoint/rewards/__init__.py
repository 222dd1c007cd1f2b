"""Dialects of reward servers, one a file.

Those in :data:`EXPERIMENTAL` were written from documentation and were never run against a server.
"""

from darwin_align.backends.endpoint.rewards.base import (
    Form,
    Item,
    RewardDialect,
    UnexpectedReply,
    Wire,
    found,
    in_order,
    number,
    rows,
)
from darwin_align.backends.endpoint.rewards.huggingface import HuggingFace
from darwin_align.backends.endpoint.rewards.nim import NIM
from darwin_align.backends.endpoint.rewards.openrlhf import OpenRLHF
from darwin_align.backends.endpoint.rewards.sglang import SGLangClassify
from darwin_align.backends.endpoint.rewards.tei import TEIPredict
from darwin_align.backends.endpoint.rewards.vllm import VLLMClassify, VLLMPooling, VLLMScore

__all__ = [
    "EXPERIMENTAL",
    "NIM",
    "REWARD_DIALECTS",
    "Form",
    "HuggingFace",
    "Item",
    "OpenRLHF",
    "RewardDialect",
    "SGLangClassify",
    "TEIPredict",
    "UnexpectedReply",
    "VLLMClassify",
    "VLLMPooling",
    "VLLMScore",
    "Wire",
    "found",
    "in_order",
    "number",
    "rows",
]

REWARD_DIALECTS: dict[str, RewardDialect] = {
    dialect.name: dialect
    for dialect in (
        VLLMClassify(),
        VLLMPooling(),
        VLLMScore(),
        SGLangClassify(),
        TEIPredict(),
        OpenRLHF(),
        HuggingFace(),
        NIM(),
    )
}
"""What ``EndpointScorer(dialect=…)`` takes by name."""

EXPERIMENTAL: frozenset[str] = frozenset(
    dialect.name for dialect in (SGLangClassify, TEIPredict, OpenRLHF, HuggingFace, NIM)
)
"""Dialects of servers that were never run: the matrix in ``docs/models.md`` marks the same ones."""
