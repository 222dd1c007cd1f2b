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
    are_ids,
)
from darwin_align.core.errors import EndpointServerError
from darwin_align.core.types import Sampling

__all__ = ["LlamaCpp"]

_FINISH = {"limit": "length", "eos": "stop", "word": "stop"}


class LlamaCpp(Dialect):
    """llama.cpp's native call for ids; OpenAI's for text and prefill, which also go through routers.

    Under a seed it repeats itself while it writes one row at a time. Beside other rows it rounds otherwise, so that now
    and then a row takes another turn: on a CPU it was one in thirty, of 45 tokens. It gives several choices too, but no
    more than it has slots, and with its prompt cache a request for each costs no more.
    """

    name: ClassVar[str] = "llama.cpp"
    by_ids: ClassVar[bool] = True
    by_prefill: ClassVar[bool] = True
    lists: ClassVar[bool] = True
    most_stops: ClassVar[int] = 1000
    knobs: ClassVar[Mapping[str, tuple[str, Any]]] = {
        "top_k": ("top_k", 0),
        "top_p": ("top_p", 1.0),
        "repetition_penalty": ("repeat_penalty", 1.0),
    }

    def sampling(self, sampling: Sampling) -> dict[str, Any]:
        """Its samplers run in the order of transformers' warpers, and those that nobody asked for are left out."""
        wanted = super().sampling(sampling)
        if sampling.repetition_penalty is not None:
            wanted["repeat_last_n"] = 2**17  # its own window is the last 64 tokens; -1 is refused
        return {**wanted, "samplers": ["penalties", "temperature", "top_k", "top_p"], "min_p": 0.0}

    def ids_request(self, asked: CompletionRequest) -> Wire:
        """``prompt`` holds ids, and ``return_tokens`` gives them back."""
        common = self.common(asked)
        prompts = asked.ids
        body = {
            **common,
            "n_predict": common["max_tokens"],
            "prompt": prompts if len(prompts) > 1 else prompts[0],
            "return_tokens": True,
        }
        return "/completion", body

    def steered(self, body: dict[str, Any], steering: TokenConstraint) -> dict[str, Any]:
        """Its ``logit_bias`` is a list of pairs; ``false`` rules a token out."""
        given = body.get("logit_bias") or []
        if isinstance(given, Mapping):
            given = [[int(token) if str(token).isdecimal() else token, bias] for token, bias in given.items()]
        return {
            **body,
            "logit_bias": [*given, *([token, BIAS if steering.only else False] for token in steering.tokens)],
        }

    def read_ids(self, data: Any, asked: CompletionRequest) -> list[Choice]:
        """One object a choice, with ``tokens`` and ``stop_type``."""
        answers = data if isinstance(data, list) else [data]
        if len(answers) != asked.choices or not all(isinstance(answer, Mapping) for answer in answers):
            raise EndpointServerError(
                f"{asked.choices} continuations were asked for and this came back: {str(data)[:200]}"
            )
        return [_written(answer) for answer in sorted(answers, key=lambda answer: answer.get("index") or 0)]


def _written(answer: Mapping[str, Any]) -> Choice:
    tokens, timings = answer.get("tokens"), answer.get("timings")
    if not isinstance(answer.get("content"), str):
        raise EndpointServerError(f"an answer without content: {str(dict(answer))[:200]}")
    return Choice(
        text=answer["content"],
        ids=tuple(tokens) if are_ids(tokens) else None,
        finish=_FINISH.get(str(answer.get("stop_type")), answer.get("stop_type")),
        new_tokens=answer.get("tokens_predicted"),
        prompt_tokens=answer.get("tokens_evaluated"),
        cached_tokens=timings.get("cache_n", 0) if isinstance(timings, Mapping) else 0,
    )
