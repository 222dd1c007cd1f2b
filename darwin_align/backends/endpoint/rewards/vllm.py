"""vLLM's pooling server (``--runner pooling``): ``/classify``, ``/pooling``, ``/score``.

All three return the one logit where it is requested by ``use_activation: false``. Without it, or on versions
without that field, they apply a sigmoid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from darwin_align.backends.endpoint.rewards.base import (
    Form,
    Item,
    RewardDialect,
    Wire,
    found,
    in_order,
    number,
    rows,
    single_number,
)
from darwin_align.core.json_types import Json

__all__ = ["VLLMClassify", "VLLMPooling", "VLLMScore"]


@dataclass(frozen=True)
class VLLMClassify(RewardDialect):
    """``POST /classify``: token ids, many responses in one request.

    Source: https://docs.vllm.ai/en/latest/models/pooling_models/; run against vLLM 0.32.
    """

    name: ClassVar[str] = "vllm"
    forms: ClassVar[tuple[Form, ...]] = ("ids", "messages")
    opens: ClassVar[bool] = True
    hint: ClassVar[str] = "vLLM has this path where it serves a reward model with --runner pooling"
    path: ClassVar[str] = "/classify"

    def request(self, model: str, items: Sequence[Item]) -> Wire:
        """Lists of ids, or one conversation whose last turn the server closes or leaves open."""
        body: dict[str, Any] = {"model": model, "use_activation": False}
        if items[0].form == "ids":
            return self.path, {**body, "input": [list(item.ids) for item in items]}
        (item,) = items
        if item.open:
            body["continue_final_message"] = True
        return self.path, {**body, "messages": list(item.messages), "add_generation_prompt": False}

    def read(self, data: Json) -> list[float]:
        """The logit stands where probabilities would."""
        return [single_number(found(entry, "probs"), "probs") for entry in in_order(rows(data, "data"))]


@dataclass(frozen=True)
class VLLMPooling(VLLMClassify):
    """``POST /pooling`` with the task "classify". Same numbers as :class:`VLLMClassify`."""

    name: ClassVar[str] = "vllm-pooling"
    path: ClassVar[str] = "/pooling"

    def request(self, model: str, items: Sequence[Item]) -> Wire:
        """Like :class:`VLLMClassify`, with the task."""
        path, body = super().request(model, items)
        return path, {**body, "task": "classify"}

    def read(self, data: Json) -> list[float]:
        """One number for each response; a process reward model returns one for each token."""
        return [single_number(found(entry, "data"), "data") for entry in in_order(rows(data, "data"))]


@dataclass(frozen=True)
class VLLMScore(RewardDialect):
    """``POST /score``: pairs of texts, which the server's tokenizer joins.

    It is made for cross-encoders: such a model (the "pair" recipe) reads question and answer exactly as it would here.
    Of a model that reads chats, the rendered text goes out in two parts, up to the answer and from there on. That is
    the same input only if the tokenizer puts nothing between two texts, which is checked once, with a warning if not.
    It takes no token ids, so an answer is tokenised anew: prefer "vllm".

    Source: https://docs.vllm.ai/en/latest/models/pooling_models/scoring/; run against vLLM 0.32.
    """

    name: ClassVar[str] = "vllm-score"
    joins: ClassVar[bool] = True
    forms: ClassVar[tuple[Form, ...]] = ("text", "pair")
    hint: ClassVar[str] = VLLMClassify.hint + " and one label"

    def request(self, model: str, items: Sequence[Item]) -> Wire:
        """As many queries as documents, paired in order."""
        pairs = [(item.question, item.answer) if item.form == "pair" else (item.before, item.after) for item in items]
        body = {"queries": [query for query, _ in pairs], "documents": [document for _, document in pairs]}
        return "/score", {"model": model, **body, "use_activation": False}

    def read(self, data: Json) -> list[float]:
        """One score for each pair."""
        return [number(found(entry, "score")) for entry in in_order(rows(data, "data"))]
