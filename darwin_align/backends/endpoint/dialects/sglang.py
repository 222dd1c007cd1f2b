"""SGLang (experimental: from its documentation, not run here).

Its native ``/generate`` takes and returns token ids.

Sources: https://docs.sglang.io/basic_usage/sampling_params.html,
https://docs.sglang.io/advanced_features/deterministic_inference.html, ``GenerateReqInput`` in
https://github.com/sgl-project/sglang/blob/main/python/sglang/srt/managers/io_struct.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from darwin_align.backends.endpoint.dialects.base import (
    Choice,
    CompletionRequest,
    Dialect,
    TokenConstraint,
    Wire,
    is_id_list,
    logit_biases,
    merged,
)
from darwin_align.core.errors import EndpointServerError
from darwin_align.core.json_types import Json
from darwin_align.core.types import Sampling

__all__ = ["SGLang"]


class SGLang(Dialect):
    """SGLang's native call for ids and texts, in lists with settings for each prompt; OpenAI's for prefill.

    Its documentation discourages ``n``: the same prompt several times is no slower. Only servers started with
    ``--enable-deterministic-inference`` use a seed for each prompt; others ignore it.
    """

    name: ClassVar[str] = "sglang"
    by_ids: ClassVar[bool] = True
    by_prefill: ClassVar[bool] = True
    lists: ClassVar[bool] = True
    lists_seeded: ClassVar[bool] = True
    hub_models: ClassVar[bool] = True
    max_stop_strings: ClassVar[int] = 1000
    sampling_fields: ClassVar[Mapping[str, tuple[str, Json]]] = {
        "top_k": ("top_k", -1),
        "top_p": ("top_p", 1.0),
        "repetition_penalty": ("repetition_penalty", 1.0),
    }

    def sampling(self, sampling: Sampling) -> dict[str, Any]:
        """The model's generation config would set whatever is left out, so ``min_p`` is turned off too."""
        return {**super().sampling(sampling), "min_p": 0.0}

    def ids_request(self, request: CompletionRequest) -> Wire:
        """``input_ids`` and ``sampling_params``."""
        return self._generate(request, "input_ids", request.ids)

    def with_constraint(self, body: dict[str, Any], constraint: TokenConstraint) -> dict[str, Any]:
        """``logit_bias`` belongs to ``sampling_params``, of which there may be one for each prompt."""
        given = body["sampling_params"]
        each = [
            {**one, "logit_bias": {**(one.get("logit_bias") or {}), **logit_biases(constraint)}}
            for one in (given if isinstance(given, list) else [given])
        ]
        return {**body, "sampling_params": each if isinstance(given, list) else each[0]}

    def text_request(self, request: CompletionRequest) -> Wire:
        """``text`` and ``sampling_params``."""
        return self._generate(request, "text", [prompt for prompt in request.prompts if isinstance(prompt, str)])

    def _generate(self, request: CompletionRequest, name: str, prompts: Sequence[Json]) -> Wire:
        extra = dict(request.extra or {})
        parameters: dict[str, Any] = {
            "max_new_tokens": request.max_tokens,
            "temperature": request.sampling.temperature,
            **self.sampling(request.sampling),
            **({"stop": list(request.stop[: self.max_stop_strings])} if request.stop else {}),
            **extra.pop("sampling_params", {}),
        }
        seeded = [{**parameters, "sampling_seed": seed} for seed in request.seeds] or [parameters]
        body: dict[str, Any] = {name: prompts[0], "sampling_params": seeded[0]}
        if len(prompts) > 1:
            body = {name: list(prompts), "sampling_params": seeded if len(seeded) > 1 else seeded[0]}
        return "/generate", merged(body, extra)

    def read_text(self, data: Json, request: CompletionRequest) -> list[Choice]:
        """One object for each prompt, with ``output_ids`` and ``meta_info``."""
        answers = data if isinstance(data, list) else [data]
        if len(answers) != request.choices or not all(isinstance(answer, Mapping) for answer in answers):
            raise EndpointServerError(
                f"{request.choices} continuations were requested and the server returned: {str(data)[:200]}"
            )
        return [_choice(answer) for answer in answers]

    def prefill_fields(self) -> dict[str, Any]:
        """The server's template leaves the last turn open."""
        return {"continue_final_message": True}


def _choice(answer: Mapping[str, Any]) -> Choice:
    about, text, ids = answer.get("meta_info"), answer.get("text"), answer.get("output_ids")
    if not isinstance(about, Mapping) or not (isinstance(text, str) or is_id_list(ids)):
        raise EndpointServerError(f"a reply without meta_info, or without text and ids: {str(dict(answer))[:200]}")
    finish = about.get("finish_reason")
    return Choice(
        text=text or "",
        ids=tuple(ids) if is_id_list(ids) else None,
        finish=finish.get("type") if isinstance(finish, Mapping) else finish,
        new_tokens=about.get("completion_tokens"),
        prompt_tokens=about.get("prompt_tokens"),
        cached_tokens=about.get("cached_tokens") or 0,
    )
