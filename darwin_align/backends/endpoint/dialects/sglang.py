"""SGLang (from its documentation, not run here): its own ``/generate`` takes and gives token ids.

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
    are_ids,
    biases,
    merged,
)
from darwin_align.core.errors import EndpointServerError
from darwin_align.core.types import Sampling

__all__ = ["SGLang"]


class SGLang(Dialect):
    """SGLang's native call for ids and texts, in lists with settings of their own; OpenAI's for prefill.

    Its documentation discourages ``n``: the same prompt several times is no dearer. A seed for each prompt is obeyed
    only by servers that were started with ``--enable-deterministic-inference``; others ignore it.
    """

    name: ClassVar[str] = "sglang"
    by_ids: ClassVar[bool] = True
    by_prefill: ClassVar[bool] = True
    lists: ClassVar[bool] = True
    lists_seeded: ClassVar[bool] = True
    hub_models: ClassVar[bool] = True
    most_stops: ClassVar[int] = 1000
    knobs: ClassVar[Mapping[str, tuple[str, Any]]] = {
        "top_k": ("top_k", -1),
        "top_p": ("top_p", 1.0),
        "repetition_penalty": ("repetition_penalty", 1.0),
    }

    def sampling(self, sampling: Sampling) -> dict[str, Any]:
        """The model's own generation config would decide what is left out."""
        return {**super().sampling(sampling), "min_p": 0.0}

    def ids_request(self, asked: CompletionRequest) -> Wire:
        """``input_ids`` and ``sampling_params``."""
        return self._generate(asked, "input_ids", asked.ids)

    def steered(self, body: dict[str, Any], steering: TokenConstraint) -> dict[str, Any]:
        """``logit_bias`` is one of the ``sampling_params``, which may be one for each prompt."""
        given = body["sampling_params"]
        each = [
            {**one, "logit_bias": {**(one.get("logit_bias") or {}), **biases(steering)}}
            for one in (given if isinstance(given, list) else [given])
        ]
        return {**body, "sampling_params": each if isinstance(given, list) else each[0]}

    def text_request(self, asked: CompletionRequest) -> Wire:
        """``text`` and ``sampling_params``."""
        return self._generate(asked, "text", [prompt for prompt in asked.prompts if isinstance(prompt, str)])

    def _generate(self, asked: CompletionRequest, name: str, prompts: Sequence[Any]) -> Wire:
        extra = dict(asked.extra or {})
        parameters: dict[str, Any] = {
            "max_new_tokens": asked.max_tokens,
            "temperature": asked.sampling.temperature,
            **self.sampling(asked.sampling),
            **({"stop": list(asked.stop[: self.most_stops])} if asked.stop else {}),
            **extra.pop("sampling_params", {}),
        }
        seeded = [{**parameters, "sampling_seed": seed} for seed in asked.seeds] or [parameters]
        body: dict[str, Any] = {name: prompts[0], "sampling_params": seeded[0]}
        if len(prompts) > 1:
            body = {name: list(prompts), "sampling_params": seeded if len(seeded) > 1 else seeded[0]}
        return "/generate", merged(body, extra)

    def read_text(self, data: Any, asked: CompletionRequest) -> list[Choice]:
        """One object a prompt, with ``output_ids`` and ``meta_info``."""
        answers = data if isinstance(data, list) else [data]
        if len(answers) != asked.choices or not all(isinstance(answer, Mapping) for answer in answers):
            raise EndpointServerError(
                f"{asked.choices} continuations were asked for and this came back: {str(data)[:200]}"
            )
        return [_written(answer) for answer in answers]

    def continues(self) -> dict[str, Any]:
        """Its template leaves the last turn open."""
        return {"continue_final_message": True}


def _written(answer: Mapping[str, Any]) -> Choice:
    about, text, ids = answer.get("meta_info"), answer.get("text"), answer.get("output_ids")
    if not isinstance(about, Mapping) or not (isinstance(text, str) or are_ids(ids)):
        raise EndpointServerError(f"an answer without meta_info, or without text and ids: {str(dict(answer))[:200]}")
    finish = about.get("finish_reason")
    return Choice(
        text=text or "",
        ids=tuple(ids) if are_ids(ids) else None,
        finish=finish.get("type") if isinstance(finish, Mapping) else finish,
        new_tokens=about.get("completion_tokens"),
        prompt_tokens=about.get("prompt_tokens"),
        cached_tokens=about.get("cached_tokens") or 0,
    )
