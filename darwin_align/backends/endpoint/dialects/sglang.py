"""SGLang (from its documentation, not run here): its own ``/generate`` takes and gives token ids."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from darwin_align.backends.endpoint.dialects.base import Asked, Dialect, Wire, Written
from darwin_align.core.errors import EndpointServerError

__all__ = ["SGLang"]


class SGLang(Dialect):
    """SGLang's native call for ids; OpenAI's for text and prefill.

    A seed for each request is taken only by servers that were started with ``--enable-deterministic-inference``; others
    ignore it.
    """

    name: ClassVar[str] = "sglang"
    by_ids: ClassVar[bool] = True
    by_prefill: ClassVar[bool] = True
    several: ClassVar[bool] = True
    lists: ClassVar[bool] = True
    hub_models: ClassVar[bool] = True
    knobs: ClassVar[Mapping[str, tuple[str, Any]]] = {
        "top_k": ("top_k", -1),
        "top_p": ("top_p", 1.0),
        "repetition_penalty": ("repetition_penalty", 1.0),
    }

    def ids_request(self, asked: Asked) -> Wire:
        """``input_ids`` and ``sampling_params``."""
        parameters: dict[str, Any] = {
            "max_new_tokens": asked.max_tokens,
            "temperature": asked.sampling.temperature,
            **self.sampling(asked.sampling),
            "n": asked.n,
            **({"stop": list(asked.stop)} if asked.stop else {}),
            **({"sampling_seed": asked.seed} if asked.seed is not None else {}),
        }
        ids = asked.ids
        body = {"input_ids": ids if len(ids) > 1 else ids[0], "sampling_params": parameters}
        return "/generate", {**body, **(asked.extra or {})}

    def read_ids(self, data: Any, asked: Asked) -> list[Written]:
        """One object a choice, with ``output_ids`` and ``meta_info``."""
        answers = data if isinstance(data, list) else [data]
        if len(answers) != asked.choices or not all(isinstance(answer, Mapping) for answer in answers):
            raise EndpointServerError(
                f"{asked.choices} continuations were asked for and this came back: {str(data)[:200]}"
            )
        return [_written(answer) for answer in answers]

    def continues(self) -> dict[str, Any]:
        """Its template leaves the last turn open."""
        return {"continue_final_message": True}


def _written(answer: Mapping[str, Any]) -> Written:
    about, ids = answer.get("meta_info"), answer.get("output_ids")
    if not isinstance(about, Mapping) or not isinstance(ids, list):
        raise EndpointServerError(f"an answer without meta_info and output_ids: {str(dict(answer))[:200]}")
    finish = about.get("finish_reason")
    return Written(
        text=str(answer.get("text", "")),
        ids=tuple(ids),
        finish=finish.get("type") if isinstance(finish, Mapping) else finish,
        new_tokens=about.get("completion_tokens"),
        prompt_tokens=about.get("prompt_tokens"),
        cached_tokens=about.get("cached_tokens") or 0,
    )
