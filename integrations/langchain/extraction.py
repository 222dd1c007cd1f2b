"""Structured extraction: sentences in, objects out, on the embedded pair.

Run ``python -m darwin_align.integrations.langchain.extraction``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.runnables import Runnable
from pydantic import BaseModel, ConfigDict

from darwin_align import DarwinChatModel

__all__ = ["TEXTS", "Note", "build", "extract", "main"]

TEXTS = (
    "Leave Anna a note: milk in the cellar.",
    "Write a note to Tom that says soap in the hall.",
    "Leave Yuki a note: candles in the study.",
)


class Note(BaseModel):
    """Leave a note for a person."""

    # What the model reads as the schema's name. The embedded policy fills schemas whose names it was trained on.
    model_config = ConfigDict(title="leave_note")

    person: str
    text: str


def build(schema: type[BaseModel] = Note, **settings: Any) -> Runnable[Any, Any]:
    """Return the chain from a text to an object.

    The embedded policy generates calls, and was never trained on bare JSON: hence
    ``method="function_calling"``. On a model of your own the default, ``"json_schema"``, is as good. A local model
    cannot break the schema with either method.

    Args:
        schema: what is extracted.
        settings: of :class:`DarwinChatModel`.
    """
    model = DarwinChatModel(**{"cycles": 1, "mutations": 3, "max_tokens": 64, "seed": 1, **settings})
    return model.with_structured_output(schema, method="function_calling")


def extract(texts: Sequence[str], chain: Runnable[Any, Any] | None = None) -> list[Any]:
    """Extract an object from each text, all at once."""
    return (chain or build()).batch(list(texts))


def main() -> None:
    """Extract notes."""
    for text, note in zip(TEXTS, extract(TEXTS), strict=True):
        print(f"{text:48} -> {note!r}")


if __name__ == "__main__":
    main()
