"""Text classification as Hugging Face's inference endpoints serve it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from darwin_align.backends.endpoint.rewards.base import (
    Form,
    Item,
    RewardDialect,
    UnexpectedReply,
    Wire,
    found,
    rows,
    single_number,
)
from darwin_align.core.json_types import Json

__all__ = ["HuggingFace"]


@dataclass(frozen=True)
class HuggingFace(RewardDialect):
    """``POST`` to the endpoint's own address: the ``text-classification`` pipeline of transformers, without a function.

    Two labels are requested, so that a model with more than one is detected.

    Sources: https://huggingface.co/docs/inference-providers/tasks/text-classification and ``handler.py`` of
    https://github.com/huggingface/huggingface-inference-toolkit, which hands inputs and parameters to the pipeline. Run
    against that pipeline.
    """

    name: ClassVar[str] = "huggingface"
    forms: ClassVar[tuple[Form, ...]] = ("text", "pair")
    has_models: ClassVar[bool] = False

    @property
    def calls_address(self) -> bool:
        """The address is the model's."""
        return True

    def request(self, model: str, items: Sequence[Item]) -> Wire:  # noqa: ARG002 - the address is the model's
        """Texts, or pairs in the format of the pipeline."""
        inputs = [
            {"text": item.question, "text_pair": item.answer} if item.form == "pair" else item.text for item in items
        ]
        return "", {"inputs": inputs, "parameters": {"function_to_apply": "none", "top_k": 2}}

    def read(self, data: Json) -> list[float]:
        """A list of labels for each response; some servers unwrap lists of one."""
        if isinstance(data, Mapping) and "error" in data:
            raise UnexpectedReply(str(data["error"])[:200])
        return [
            single_number(
                [found(label, "score") for label in (labels if isinstance(labels, list) else [labels])], "a prediction"
            )
            for labels in rows(data)
        ]
