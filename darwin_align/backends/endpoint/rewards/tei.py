"""Text Embeddings Inference's ``/predict``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from darwin_align.backends.endpoint.rewards.base import Form, Item, RewardDialect, Wire, found, rows, single_number
from darwin_align.core.json_types import Json

__all__ = ["TEIPredict"]


@dataclass(frozen=True)
class TEIPredict(RewardDialect):
    """``POST /predict`` with raw scores, without truncation: an input too long is an error.

    A batch is a list of lists, of one text or of a pair; a flat list of two texts would be one pair.

    Source: ``docs/openapi.json`` of https://github.com/huggingface/text-embeddings-inference (``PredictRequest``). Not
    run against a server.
    """

    name: ClassVar[str] = "tei"
    forms: ClassVar[tuple[Form, ...]] = ("text", "pair")
    info_path: ClassVar[str | None] = "/info"
    hint: ClassVar[str] = "TEI has /predict where it serves a classifier"

    def request(self, model: str, items: Sequence[Item]) -> Wire:  # noqa: ARG002 - it serves one model
        """A list of lists."""
        inputs = [[item.question, item.answer] if item.form == "pair" else [item.text] for item in items]
        return "/predict", {"inputs": inputs, "raw_scores": True, "truncate": False}

    def read(self, data: Json) -> list[float]:
        """A list of the labels' scores for each response."""
        return [
            single_number([found(label, "score") for label in rows(labels)], "a prediction") for labels in rows(data)
        ]

    def most_in(self, info: Json) -> int | None:
        """Its own limit; 32 unless the server was started with another."""
        most = info.get("max_client_batch_size") if isinstance(info, Mapping) else None
        return most if isinstance(most, int) and most > 0 else None
