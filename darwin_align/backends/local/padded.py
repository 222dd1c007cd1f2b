"""Writes rows without slots: what cannot be rolled back or takes no 4-D mask is padded and read anew for every call."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from darwin_align.backends.local.engine import Line
from darwin_align.backends.local.engine.forward import stretches
from darwin_align.backends.local.sampling import Sampler, place_keys, seed_keys

__all__ = ["PaddedForward"]


@dataclass
class _Batch:
    """Rows of unequal length, padded on the left so that they grow together."""

    ids: Tensor
    """int64 (rows, width): prompt and state, growing."""
    mask: Tensor
    """int64 (rows, width + steps): 0 on padding."""
    positions: Tensor
    """int64 (rows, 1): position of the next token."""
    padded: bool
    width: int
    cache: Any = field(default=None, repr=False)

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]], steps: int, device: torch.device) -> _Batch:
        lengths = [len(row) for row in rows]
        width = max(lengths)
        # Padding repeats the row's first token: it is masked, and a repetition penalty sees no id that is not there.
        ids = torch.tensor([[row[0]] * (width - len(row)) + list(row) for row in rows], device=device)
        pads = width - torch.tensor(lengths, device=device)[:, None]
        mask = (torch.arange(width + steps, device=device) >= pads).long()
        return cls(ids, mask, width - pads, min(lengths) < width, width)

    def keep(self, rows: Tensor) -> None:
        self.ids, self.mask, self.positions = self.ids[rows], self.mask[rows], self.positions[rows]
        self.cache.reorder_cache(rows)


class PaddedForward:
    """Runs a model over a batch: one prefill, then token by token over its own kind of cache."""

    def __init__(self, model: Any, device: torch.device | None = None) -> None:
        self._model = model
        self._device = torch.device(model.device) if device is None else device
        accepted = inspect.signature(model.forward).parameters
        self._takes_positions = "position_ids" in accepted
        self._extra = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}
        self._cache = "past_key_values" if "past_key_values" in accepted else "cache_params"
        self.pads = self._cache == "past_key_values" and not stretches(model.config.get_text_config())
        """Whether padding is exact. Purely recurrent models (Mamba) carry it along in their state."""

    def write(self, lines: Sequence[Line]) -> None:
        """Write every line to its end."""
        for batch in self._batches(lines):
            self._write(batch)

    def _batches(self, lines: Sequence[Line]) -> Iterator[list[Line]]:
        ordered = sorted(lines, key=lambda line: len(line.ids))
        if self.pads:
            yield ordered
            return
        for _, group in groupby(ordered, key=lambda line: len(line.ids)):
            yield list(group)

    def _write(self, lines: list[Line]) -> None:
        steps, device = max(line.wanted for line in lines), self._device
        batch = _Batch.of([line.ids for line in lines], steps, device)
        seeds = seed_keys([line.seed for line in lines], device)
        for line in lines:
            line.reused = 0
        sampler = _sampler(lines, device)
        logits = self.prefill(batch)
        while True:
            positions = torch.tensor([line.drawn for line in lines], device=device)
            tokens, logprobs = sampler.draw(logits, place_keys(seeds, positions), batch.ids)
            for line, token, logprob in zip(lines, tokens.tolist(), logprobs.tolist(), strict=True):
                line.push(token, logprob)
            going = [i for i, line in enumerate(lines) if line.wanted > 0]
            if not going:
                return
            batch.ids = torch.cat([batch.ids, tokens[:, None]], dim=1)
            if len(going) < len(lines):
                lines = [lines[i] for i in going]
                rows = torch.tensor(going, device=device)
                tokens, seeds = tokens[rows], seeds[rows]
                batch.keep(rows)
                sampler = _sampler(lines, device)
            logits = self.step(batch, tokens)

    def prefill(self, batch: _Batch) -> Tensor:
        """Read prompts and states; return the next token's logits, float32 (rows, vocabulary)."""
        positions = batch.mask[:, : batch.width].cumsum(dim=1).sub(1).clamp(min=0)
        return self._run(batch, batch.ids, positions)

    def step(self, batch: _Batch, tokens: Tensor) -> Tensor:
        """Read one token a row; return the next token's logits, float32 (rows, vocabulary)."""
        batch.width += 1
        logits = self._run(batch, tokens[:, None], batch.positions)
        batch.positions = batch.positions + 1
        return logits

    def _run(self, batch: _Batch, ids: Tensor, positions: Tensor) -> Tensor:
        placed = {"position_ids": positions} if self._takes_positions else {}
        output = self._model(
            input_ids=ids,
            attention_mask=batch.mask[:, : batch.width] if batch.padded or (self.pads and not placed) else None,
            use_cache=True,
            **{self._cache: batch.cache},
            **placed,
            **self._extra,
        )
        batch.cache = getattr(output, self._cache)
        logits: Tensor = output.logits[:, -1]
        return logits if logits.dtype == torch.float64 else logits.float()


def _sampler(lines: Sequence[Line], device: torch.device) -> Sampler:
    guides, ranks = [line.guide for line in lines], [line.rank for line in lines]
    return Sampler([line.sampling for line in lines], device, guides, ranks)
