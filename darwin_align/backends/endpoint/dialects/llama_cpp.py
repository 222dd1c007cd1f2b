"""llama.cpp (run against its server of October 2026): its own ``/completion`` takes and gives token ids."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from darwin_align.backends.endpoint.dialects.base import (
    BIAS,
    Choice,
    CompletionRequest,
    Dialect,
    TokenConstraint,
    Wire,
    is_id_list,
)
from darwin_align.core.errors import EndpointServerError
from darwin_align.core.json_types import Json
from darwin_align.core.types import Sampling

__all__ = ["LlamaCpp"]

_FINISH = {"limit": "length", "eos": "stop", "word": "stop"}


class LlamaCpp(Dialect):
    """llama.cpp's native call for ids; OpenAI's for text and prefill, which also go through routers.

    Under a seed it repeats itself as long as it decodes one row at a time. Beside other rows it rounds differently, so
    that some rows change: one in thirty on a CPU, at 45 tokens. It returns several choices too, but no more than it has
    slots, and with its prompt cache one request for each is no slower.
    """

    name: ClassVar[str] = "llama.cpp"
    by_ids: ClassVar[bool] = True
    by_prefill: ClassVar[bool] = True
    lists: ClassVar[bool] = True
    max_stop_strings: ClassVar[int] = 1000
    sampling_fields: ClassVar[Mapping[str, tuple[str, Json]]] = {
        "top_k": ("top_k", 0),
        "top_p": ("top_p", 1.0),
        "repetition_penalty": ("repeat_penalty", 1.0),
    }

    def sampling(self, sampling: Sampling) -> dict[str, Any]:
        """Runs its samplers in the order of transformers' warpers, and turns off those that ``Sampling`` lacks."""
        fields = super().sampling(sampling)
        if sampling.repetition_penalty is not None:
            fields["repeat_last_n"] = 2**17  # the default window is the last 64 tokens; -1 is refused
        return {**fields, "samplers": ["penalties", "temperature", "top_k", "top_p"], "min_p": 0.0}

    def ids_request(self, request: CompletionRequest) -> Wire:
        """Ids as ``prompt``; ``return_tokens`` returns those of the answer."""
        common = self.common(request)
        prompts = request.ids
        body = {
            **common,
            "n_predict": common["max_tokens"],
            "prompt": prompts if len(prompts) > 1 else prompts[0],
            "return_tokens": True,
        }
        return "/completion", body

    def with_constraint(self, body: dict[str, Any], constraint: TokenConstraint) -> dict[str, Any]:
        """``logit_bias`` is a list of pairs; ``false`` forbids a token."""
        given = body.get("logit_bias") or []
        if isinstance(given, Mapping):
            given = [[int(token) if str(token).isdecimal() else token, bias] for token, bias in given.items()]
        return {
            **body,
            "logit_bias": [*given, *([token, BIAS if constraint.only else False] for token in constraint.tokens)],
        }

    def read_ids(self, data: Json, request: CompletionRequest) -> list[Choice]:
        """One object for each choice, with ``tokens`` and ``stop_type``."""
        answers = data if isinstance(data, list) else [data]
        if len(answers) != request.choices or not all(isinstance(answer, Mapping) for answer in answers):
            raise EndpointServerError(
                f"{request.choices} continuations were requested and the server returned: {str(data)[:200]}"
            )
        return [_choice(answer) for answer in sorted(answers, key=lambda answer: answer.get("index") or 0)]


def _choice(answer: Mapping[str, Any]) -> Choice:
    tokens, timings = answer.get("tokens"), answer.get("timings")
    if not isinstance(answer.get("content"), str):
        raise EndpointServerError(f"a reply without content: {str(dict(answer))[:200]}")
    return Choice(
        text=answer["content"],
        ids=tuple(tokens) if is_id_list(tokens) else None,
        finish=_FINISH.get(str(answer.get("stop_type")), answer.get("stop_type")),
        new_tokens=answer.get("tokens_predicted"),
        prompt_tokens=answer.get("tokens_evaluated"),
        cached_tokens=timings.get("cache_n", 0) if isinstance(timings, Mapping) else 0,
    )
