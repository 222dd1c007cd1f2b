"""Hugging Face's text-generation-inference (experimental: from its documentation, not run here).

Texts, through ``/generate``.

Source: https://github.com/huggingface/text-generation-inference/blob/main/docs/openapi.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from darwin_align.backends.endpoint.dialects.base import Choice, CompletionRequest, Dialect, Wire, merged
from darwin_align.core.errors import EndpointServerError
from darwin_align.core.json_types import Json

__all__ = ["TGI"]


class TGI(Dialect):
    """TGI's native call: it takes every sampling setting, which its OpenAI calls do not."""

    name: ClassVar[str] = "tgi"
    hub_models: ClassVar[bool] = True
    adds_special: ClassVar[bool] = True
    sampling_fields: ClassVar[Mapping[str, tuple[str, Json]]] = {
        "top_k": ("top_k", None),
        "top_p": ("top_p", None),
        "repetition_penalty": ("repetition_penalty", None),
    }

    def text_request(self, request: CompletionRequest) -> Wire:
        """``inputs`` and ``parameters``. A temperature of 0 is ``do_sample: false``; a top_p of 1 is refused there."""
        (prompt,) = request.prompts
        greedy = request.sampling.temperature == 0
        settings = {
            name: value for name, value in self.sampling(request.sampling).items() if (name, value) != ("top_p", 1)
        }
        penalty = {name: value for name, value in settings.items() if name == "repetition_penalty"}
        parameters: dict[str, Any] = {
            "max_new_tokens": request.max_tokens,
            "do_sample": not greedy,
            "details": True,
            "return_full_text": False,
            **(penalty if greedy else {"temperature": request.sampling.temperature, **settings}),
            **({"stop": list(request.stop[: self.max_stop_strings])} if request.stop else {}),
            **({"seed": request.seed} if request.seed is not None else {}),
        }
        return "/generate", merged({"inputs": prompt, "parameters": parameters}, request.extra)

    def read_text(self, data: Json, request: CompletionRequest) -> list[Choice]:  # noqa: ARG002
        """``generated_text`` and ``details``."""
        answer = data[0] if isinstance(data, list) and len(data) == 1 else data
        details = answer.get("details") if isinstance(answer, Mapping) else None
        if not isinstance(details, Mapping) or not isinstance(answer.get("generated_text"), str):
            raise EndpointServerError(f"a reply without generated_text and details: {str(data)[:200]}")
        tokens = details.get("generated_tokens")
        return [Choice(answer["generated_text"], finish=details.get("finish_reason"), new_tokens=tokens)]
