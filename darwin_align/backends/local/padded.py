"""Decodes rows without slots, over the model's own kind of cache: one prefill a call, rows padded side by side.

It serves models that cannot be rolled back or take no 4-D mask. Their cache is probed with a few tokens, as slots are:
renamed arguments and custom code must lead to a refusal, never to wrong tokens.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from time import monotonic
from typing import Any

import torch
from torch import Tensor

from darwin_align.backends.local.engine import DecodeSequence
from darwin_align.backends.local.engine.forward import CACHE_ARGUMENTS, cache_argument, stretches, tolerance
from darwin_align.backends.local.sampling import Sampler, place_keys, seed_keys

__all__ = ["PaddedForward"]

_TRIAL = (3, 12, 12)
"""Prompt lengths of the rows that a model is tried on: with padding all of them, without the last two."""
_STEPS = 4
"""Tokens that are decoded on each of them."""


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
    """Runs a model over a batch: one prefill, then token by token over its own kind of cache.

    Args:
        model: a causal language model of transformers, in evaluation mode.
        device: where its input embeddings are; ``None`` is the model's device.
    """

    def __init__(self, model: Any, device: torch.device | None = None) -> None:
        self._model = model
        self._device = torch.device(model.device) if device is None else device
        accepted = inspect.signature(model.forward).parameters
        self._takes_positions = "position_ids" in accepted
        self._extra = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}
        self._cache_argument = cache_argument(model.forward)

    @cached_property
    def refusal(self) -> str:
        """Why the model cannot be decoded over its own cache; "" if that gives the same as a full recompute."""
        if not self._cache_argument:
            return f"its forward takes no cache by a known name ({', '.join(CACHE_ARGUMENTS)})"
        return self._wrong(_TRIAL[1:])

    @cached_property
    def pads(self) -> bool:
        """Whether rows of unequal length can be padded: a recurrent state may carry the padding along."""
        return not stretches(self._model.config.get_text_config()) and not self._wrong(_TRIAL)

    # -- probes

    def _wrong(self, lengths: Sequence[int]) -> str:
        """Why decoding rows of these lengths side by side goes wrong; "" if it does not.

        Tokens are fixed, not drawn, so that the logits of every step can be compared with those of a full recompute.
        After two steps the first row leaves, as a row that has ended does.
        """
        vocabulary = self._model.get_input_embeddings().num_embeddings
        rows = [[(5 * i * i + 3 * at + 1) % vocabulary for i in range(n + _STEPS)] for at, n in enumerate(lengths)]
        try:
            gap = self._gap(rows, lengths)
        except Exception as error:  # noqa: BLE001 - any error of an unknown model means that it does not work
            about = str(error).partition("\n")[0]
            return f"decoding over its own cache fails ({type(error).__name__}: {about:.120})"
        return "" if gap <= tolerance(self._model) else f"decoding over its own cache differs by {gap:.2g} from none"

    def _gap(self, rows: Sequence[Sequence[int]], lengths: Sequence[int]) -> float:
        """Largest difference between logits over the cache and a full recompute's, relative to the largest of them."""
        batch = _Batch.of([row[:n] for row, n in zip(rows, lengths, strict=True)], _STEPS, self._device)
        going, found, gap = list(range(len(rows))), self.prefill(batch), 0.0
        for step in range(_STEPS):
            expected = torch.cat([self._recomputed(rows[i][: lengths[i] + step]) for i in going])
            gap = max(gap, float((found - expected).abs().max() / expected.abs().max()))
            if step == 1 and len(going) > 1:
                batch.keep(torch.tensor(range(1, len(going)), device=self._device))
                going = going[1:]
            found = self.step(batch, torch.tensor([rows[i][lengths[i] + step] for i in going], device=self._device))
        return gap

    def _recomputed(self, ids: Sequence[int]) -> Tensor:
        """The next token's logits without any cache, (1, vocabulary)."""
        output = self._model(input_ids=torch.tensor([ids], device=self._device), use_cache=False)
        logits: Tensor = output.logits[:, -1]
        return logits if logits.dtype == torch.float64 else logits.float()

    # -- decoding

    def decode(self, sequences: Sequence[DecodeSequence], deadline: float | None = None) -> None:
        """Decode every sequence to its end, or until the deadline, which is on the clock of :func:`time.monotonic`."""
        for batch in self._batches([sequence for sequence in sequences if sequence.remaining > 0]):
            if deadline is None or monotonic() < deadline:
                self._decode(batch, deadline)

    def _batches(self, sequences: Sequence[DecodeSequence]) -> Iterator[list[DecodeSequence]]:
        ordered = sorted(sequences, key=lambda sequence: len(sequence.ids))
        if not ordered:
            return
        if self.pads:
            yield ordered
            return
        for _, group in groupby(ordered, key=lambda sequence: len(sequence.ids)):
            yield list(group)

    def _decode(self, sequences: list[DecodeSequence], deadline: float | None) -> None:
        steps, device = max(sequence.remaining for sequence in sequences), self._device
        batch = _Batch.of([sequence.ids for sequence in sequences], steps, device)
        seeds = seed_keys([sequence.seed for sequence in sequences], device)
        for sequence in sequences:
            sequence.reused = 0
        sampler = _sampler(sequences, device)
        logits = self.prefill(batch)
        while True:
            positions = torch.tensor([sequence.drawn for sequence in sequences], device=device)
            tokens, logprobs = sampler.draw(logits, place_keys(seeds, positions), batch.ids)
            for sequence, token, logprob in zip(sequences, tokens.tolist(), logprobs.tolist(), strict=True):
                sequence.push(token, logprob)
            going = [i for i, sequence in enumerate(sequences) if sequence.remaining > 0]
            if not going or (deadline is not None and monotonic() >= deadline):
                return
            batch.ids = torch.cat([batch.ids, tokens[:, None]], dim=1)
            if len(going) < len(sequences):
                sequences = [sequences[i] for i in going]
                rows = torch.tensor(going, device=device)
                tokens, seeds = tokens[rows], seeds[rows]
                batch.keep(rows)
                sampler = _sampler(sequences, device)
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
            attention_mask=batch.mask[:, : batch.width] if batch.padded else None,
            use_cache=True,
            **{self._cache_argument: batch.cache},
            **placed,
            **self._extra,
        )
        batch.cache = getattr(output, self._cache_argument)
        logits: Tensor = output.logits[:, -1]
        return logits if logits.dtype == torch.float64 else logits.float()


def _sampler(sequences: Sequence[DecodeSequence], device: torch.device) -> Sampler:
    constraints, ranks = [sequence.constraint for sequence in sequences], [sequence.rank for sequence in sequences]
    return Sampler([sequence.sampling for sequence in sequences], device, constraints, ranks)
