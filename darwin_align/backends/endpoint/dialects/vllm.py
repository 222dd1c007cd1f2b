"""vLLM (run against 0.32): token ids in and out, lists, several choices, seeds exact under load."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from darwin_align.backends.endpoint.dialects.base import CompletionRequest, Dialect, TokenConstraint, Wire, merged
from darwin_align.core.types import Sampling

__all__ = ["VLLM"]


class VLLM(Dialect):
    """vLLM's OpenAI server. Under a seed, choice k is what the seed plus k writes alone."""

    name: ClassVar[str] = "vllm"
    by_ids: ClassVar[bool] = True
    by_prefill: ClassVar[bool] = True
    several: ClassVar[bool] = True
    several_seeded: ClassVar[bool] = True
    lists: ClassVar[bool] = True
    masks: ClassVar[bool] = True
    hub_models: ClassVar[bool] = True
    most_stops: ClassVar[int] = 1000
    knobs: ClassVar[Mapping[str, tuple[str, Any]]] = {
        "top_k": ("top_k", 0),
        "top_p": ("top_p", 1.0),
        "repetition_penalty": ("repetition_penalty", 1.0),
    }

    def sampling(self, sampling: Sampling) -> dict[str, Any]:
        """The model's own generation config would decide what is left out."""
        return {**super().sampling(sampling), "min_p": 0.0}

    def ids_request(self, asked: CompletionRequest) -> Wire:
        """Ids come back by ``return_token_ids``."""
        path, body = super().ids_request(asked)
        return path, {**body, "return_token_ids": True}

    def steered(self, body: dict[str, Any], steering: TokenConstraint) -> dict[str, Any]:
        """``allowed_token_ids`` masks all others; -100 is as good as a mask for a few."""
        if steering.only:
            return {**body, "allowed_token_ids": list(steering.tokens)}
        return super().steered(body, steering)

    def text_request(self, asked: CompletionRequest) -> Wire:
        """The template is rendered already, with its special tokens."""
        path, body = super().text_request(asked)
        return path, merged({"add_special_tokens": False}, body)

    def continues(self) -> dict[str, Any]:
        """Its template leaves the last turn open."""
        return {"continue_final_message": True, "add_generation_prompt": False}
