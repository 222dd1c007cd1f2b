"""The frozen lower layers' states of every group, computed once and kept on the disk in half precision."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from darwin_align.small import policy_path
from darwin_align.small.weights import dequantised
from training.small.data import Group
from training.small.packing import Codec, Encoded, Packed
from training.small.tower import Tower

BOTTOM = 16
"""Layers below the trained ones."""
TOP = 20
"""Layers that the reward model keeps, of the policy's thirty."""


class Base:
    """The policy's weights and tokenizer, loaded on first use."""

    @cached_property
    def model(self) -> Any:
        """The ``LlamaModel`` of transformers, in float32."""
        return dequantised(policy_path()).model

    @cached_property
    def codec(self) -> Codec:
        """The policy's tokenizer and chat template."""
        from transformers import AutoTokenizer

        from darwin_align.backends.llama_cpp.gguf_file import open_gguf

        return Codec(AutoTokenizer.from_pretrained(open_gguf(policy_path()).folder))


@dataclass(frozen=True)
class Known:
    """A group with its states."""

    group: Group
    encoded: Encoded
    packed: Packed
    states: Tensor
    """Behind the lower layers, shape (tokens, hidden), half precision."""


class Cache:
    """States of groups in a folder, one file a group.

    Args:
        folder: where they lie.
        base: what computes them.
    """

    def __init__(self, folder: Path, base: Base) -> None:
        self.folder, self.base = folder, base
        folder.mkdir(parents=True, exist_ok=True)

    def _path(self, group: Group) -> Path:
        return self.folder / f"{group.name}-{BOTTOM}.safetensors"

    def has(self, group: Group) -> bool:
        """Whether a group's states are known."""
        return self._path(group).is_file()

    def fill(self, groups: Iterable[Group], *, seconds: float | None = None) -> None:
        """Compute what is missing, in order; ``seconds`` ends it early. A killed run goes on where it was."""
        wanted = [group for group in groups if not self.has(group)]
        if not wanted:
            return
        tower, embed = Tower(self.base.model, 0, BOTTOM), self.base.model.embed_tokens
        began, tokens = time.monotonic(), 0
        for number, group in enumerate(wanted, 1):
            packed = self.base.codec.pack(self.base.codec.encode(group))
            with torch.inference_mode():
                states = tower.run(embed(packed.ids), packed)
            if not states.abs().max() < torch.finfo(torch.float16).max:
                raise SystemExit(f"the states of {group.name} do not fit into half precision")
            path = self._path(group)
            save_file({"states": states.half()}, path.with_suffix(".part"))
            path.with_suffix(".part").rename(path)
            tokens += len(packed.ids)
            spent = time.monotonic() - began
            if number % 20 == 0 or number == len(wanted):
                print(f"states {number}/{len(wanted)} {tokens} tokens {tokens / spent:.0f}/s {spent:.0f}s", flush=True)
            if seconds is not None and spent > seconds:
                print(f"stopped after {spent:.0f}s with {number} of {len(wanted)}", flush=True)
                return

    def load(self, groups: Iterable[Group]) -> list[Known]:
        """Those of the groups whose states are known, with them."""
        found = []
        for group in groups:
            if self.has(group):
                encoded = self.base.codec.encode(group)
                states = load_file(self._path(group))["states"]
                found.append(Known(group, encoded, self.base.codec.pack(encoded), states))
        return found
