"""SGLang's native ``/classify`` (``--is-embedding``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from darwin_align.backends.endpoint.rewards.base import Form, Item, RewardDialect, Wire, found, rows, single_number
from darwin_align.core.json_types import Json

__all__ = ["SGLangClassify"]


@dataclass(frozen=True)
class SGLangClassify(RewardDialect):
    """``POST /classify`` with ``input_ids``: the score head's own number comes back as an embedding of one.

    The documentation shows ``text``; ``input_ids`` in its place stands in the source, which takes either. (Its
    ``/v1/classify`` is another call: that one applies a softmax, which is 1.0 for one label.)

    Sources: https://docs.sglang.io/docs/basic_usage/native_api (reward model) and ``EmbeddingReqInput`` in
    ``sglang/srt/managers/io_struct.py``. Not run against a server.
    """

    name: ClassVar[str] = "sglang"
    forms: ClassVar[tuple[Form, ...]] = ("ids",)
    hint: ClassVar[str] = "SGLang has this path where it serves a reward model with --is-embedding"

    def request(self, model: str, items: Sequence[Item]) -> Wire:
        """A list of ids for each response."""
        return "/classify", {"model": model, "input_ids": [list(item.ids) for item in items]}

    def read(self, data: Json) -> list[float]:
        """A list of answers, in order."""
        return [single_number(found(entry, "embedding"), "embedding") for entry in rows(data)]

    def tokens(self, data: Json) -> int | None:
        """Each answer counts its own."""
        metas = [entry.get("meta_info") if isinstance(entry, Mapping) else None for entry in rows(data)]
        counts = [meta.get("prompt_tokens") if isinstance(meta, Mapping) else None for meta in metas]
        known = [count for count in counts if isinstance(count, int)]
        return sum(known) if len(known) == len(counts) else None
