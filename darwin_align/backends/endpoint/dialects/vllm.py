"""vLLM (run against 0.32): token ids in and out, lists, several choices, seeds exact under load."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from darwin_align.backends.endpoint.dialects.base import CompletionRequest, Dialect, TokenConstraint, Wire, merged
from darwin_align.core.json_types import Json
from darwin_align.core.types import Sampling

__all__ = ["VLLM"]


class VLLM(Dialect):
    """vLLM's OpenAI server. Under a seed, choice k is what a request with seed + k returns."""

    name: ClassVar[str] = "vllm"
    by_ids: ClassVar[bool] = True
    by_prefill: ClassVar[bool] = True
    several: ClassVar[bool] = True
    several_seeded: ClassVar[bool] = True
    lists: ClassVar[bool] = True
    masks: ClassVar[bool] = True
    hub_models: ClassVar[bool] = True
    max_stop_strings: ClassVar[int] = 1000
    sampling_fields: ClassVar[Mapping[str, tuple[str, Json]]] = {
        "top_k": ("top_k", 0),
        "top_p": ("top_p", 1.0),
        "repetition_penalty": ("repetition_penalty", 1.0),
    }

    def sampling(self, sampling: Sampling) -> dict[str, Any]:
        """The model's generation config would set whatever is left out, so ``min_p`` is turned off too."""
        return {**super().sampling(sampling), "min_p": 0.0}

    def ids_request(self, request: CompletionRequest) -> Wire:
        """``return_token_ids`` returns the ids of the answer."""
        path, body = super().ids_request(request)
        return path, {**body, "return_token_ids": True}

    def with_constraint(self, body: dict[str, Any], constraint: TokenConstraint) -> dict[str, Any]:
        """``allowed_token_ids`` masks all other tokens; a few forbidden ones get a bias of -100."""
        if constraint.only:
            return {**body, "allowed_token_ids": list(constraint.tokens)}
        return super().with_constraint(body, constraint)

    def text_request(self, request: CompletionRequest) -> Wire:
        """The template is rendered already, with its special tokens."""
        path, body = super().text_request(request)
        return path, merged({"add_special_tokens": False}, body)

    def prefill_fields(self) -> dict[str, Any]:
        """The server's template leaves the last turn open."""
        return {"continue_final_message": True, "add_generation_prompt": False}
