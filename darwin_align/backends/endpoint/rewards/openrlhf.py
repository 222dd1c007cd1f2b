"""OpenRLHF's remote reward model: ``/get_reward``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from darwin_align.backends.endpoint.rewards.base import Form, Item, RewardDialect, Wire, number, rows
from darwin_align.core.json_types import Json

__all__ = ["OpenRLHF"]


@dataclass(frozen=True)
class OpenRLHF(RewardDialect):
    """``POST /get_reward``: rendered texts; the prompts are included for servers that need them, the labels are empty.

    The stock server tokenises without special tokens (since it is sent prompts; older ones add them, and an EOS).

    Source: ``openrlhf/cli/serve_rm.py`` and ``openrlhf/utils/remote_rm_utils.py`` of
    https://github.com/OpenRLHF/OpenRLHF. Not run against a server.
    """

    name: ClassVar[str] = "openrlhf"
    forms: ClassVar[tuple[Form, ...]] = ("text",)
    special = False
    has_models: ClassVar[bool] = False
    caution: ClassVar[str] = (
        "an OpenRLHF server silently cuts what is longer than its --max_len: give context_length=… to have "
        "such answers refused instead"
    )

    def request(self, model: str, items: Sequence[Item]) -> Wire:  # noqa: ARG002 - it serves one model
        """Three lists of one length."""
        return "/get_reward", {
            "query": [item.text for item in items],
            "prompts": [item.before for item in items],
            "labels": [""] * len(items),
        }

    def read(self, data: Json) -> list[float]:
        """``rewards``; newer servers give ``scores`` and logs beside them."""
        return [number(reward) for reward in rows(data, "rewards")]
