"""The local policy: any causal language model of transformers."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from darwin_align.backends.local.detokenizer import Detokenizer, first_stop
from darwin_align.backends.local.loading import (
    LoadedModel,
    ModelSource,
    SharedModel,
    model_context_length,
    threads_limited_to,
)
from darwin_align.backends.local.sampling import Sampler, place_keys
from darwin_align.backends.local.templates import ChatTemplate
from darwin_align.core.errors import ConfigError, ContextLengthError, RequestError
from darwin_align.core.types import FinishReason, Request
from darwin_align.operators.policy import Continuation, Row

__all__ = ["LocalPolicy"]


@dataclass(frozen=True)
class _Options:
    chat_template: str | Path | None
    threads: int | None
    max_batch_rows: int

    def __post_init__(self) -> None:
        if self.max_batch_rows < 1:
            raise ConfigError(f"max_batch_rows={self.max_batch_rows} is impossible: decode one row at a time at least")


class LocalPolicy(SharedModel):
    """Continues rows on a causal language model: a :class:`~darwin_align.operators.policy.Policy`.

    A row's tokens depend on its prompt, its state, its settings and its seed. They do not depend on the rows beside it
    or on how many calls its answer takes, up to float rounding (in float32 that is: never in practice).

    Threads may share a policy; their calls take turns. Copies and pickles share or load the weights anew.

    Args:
        model: a transformers causal language model.
        tokenizer: its tokenizer.
        chat_template: Jinja source, or a path to a file with it, in place of the tokenizer's own.
        threads: CPU threads while this policy works; ``None`` leaves torch's number.
        max_batch_rows: rows decoded side by side; more are decoded one batch after another.

    Raises:
        ModelLoadError: the tokenizer has no chat template.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        chat_template: str | Path | None = None,
        threads: int | None = None,
        max_batch_rows: int = 64,
    ) -> None:
        self._setup(LoadedModel(model, tokenizer), _Options(chat_template, threads, max_batch_rows))

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        device: str = "auto",
        dtype: str = "auto",
        revision: str | None = None,
        chat_template: str | Path | None = None,
        threads: int | None = None,
        trust_remote_code: bool = False,
        max_batch_rows: int = 64,
    ) -> Self:
        """Load a folder or a hub id. Policies on one folder, revision, dtype and device share their weights.

        Raises:
            ModelLoadError: there is no such model, it is no language model, or it has no chat template.
        """
        source = ModelSource(str(path), "causal", revision, device, dtype, trust_remote_code)
        return cls._restore(source, _Options(chat_template, threads, max_batch_rows))

    def _setup(self, loaded: LoadedModel, options: _Options) -> None:
        self._loaded, self._options = loaded, options
        self.template = ChatTemplate(loaded.tokenizer, options.chat_template, name=f"the model {loaded.name!r}")
        self.context_length = model_context_length(loaded)
        self.eos_ids = _eos_ids(loaded, self.template)
        framing = self.template.detokenizer.hidden
        self._detokenizer = Detokenizer(loaded.tokenizer, framing | self.eos_ids)
        self._forward = _Forward(loaded.model)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._loaded.name!r}, device={str(self._loaded.device)!r})"

    def prompt_length(self, request: Request) -> int:
        """Tokens of the rendered conversation."""
        return len(self.template.prompt_ids(request))

    def refusal(self, request: Request, max_new_tokens: int) -> str | None:
        """Return why a request leaves too little of the context for an answer, or ``None`` if it fits.

        Too little is less than ``max_new_tokens`` and also less than an eighth of the context: ``max_new_tokens`` is
        where answers are cut, not what they need, and may itself be longer than the context.
        """
        prompt = self.prompt_length(request)
        room, needed = self.context_length - prompt, min(max_new_tokens, max(1, self.context_length // 8))
        if room >= needed:
            return None
        return (
            f"its prompt of {prompt} tokens leaves {max(room, 0)} of the context's {self.context_length} for the "
            f"answer, which needs {needed}"
        )

    def generate(self, rows: Sequence[Row]) -> list[Continuation]:
        """Continue every row by at most its ``max_tokens``.

        Raises:
            ContextLengthError: a prompt leaves no room for an answer.
            RequestError: the chat template refuses a conversation.
        """
        lines = [self._line(row) for row in rows]
        waiting = [line for line in lines if line.wanted > 0]
        with self._loaded.lock, threads_limited_to(self._options.threads), torch.inference_mode():
            for batch in self._batches(waiting):
                self._decode(batch)
        return [line.continuation(self._detokenizer) for line in lines]

    def _line(self, row: Row) -> _Line:
        if row.text and not row.tokens:
            raise RequestError(
                "a row has text but no token ids: a local policy continues only what it (or its tokenizer) wrote itself"
            )
        prompt = self.template.prompt_ids(row.request)
        if len(prompt) >= self.context_length:
            raise ContextLengthError(
                f"the conversation is {len(prompt)} tokens long and the model's context is {self.context_length}: "
                "there is no room for an answer. Shorten the conversation or use a model with a longer context"
            )
        line = _Line(row, prompt, list(row.tokens), self.context_length)
        if line.state and (line.state[-1] in self.eos_ids or line.stopped(self._detokenizer)):
            line.finish_reason = "stop"
        return line

    def _batches(self, lines: Sequence[_Line]) -> Iterator[list[_Line]]:
        # Rows of like length side by side need the least padding.
        ordered, most = sorted(lines, key=lambda line: len(line.ids)), self._options.max_batch_rows
        groups = [ordered]
        if not self._forward.pads:
            groups = [list(group) for _, group in groupby(ordered, key=lambda line: len(line.ids))]
        for group in groups:
            for start in range(0, len(group), most):
                yield group[start : start + most]

    def _decode(self, lines: list[_Line]) -> None:
        steps = max(line.wanted for line in lines)
        device = self._loaded.device
        batch = _Batch.of([line.ids for line in lines], steps, device)
        keys = place_keys([line.row.seed for line in lines], [len(line.state) for line in lines], steps, device)
        sampler = Sampler([line.row.request.sampling for line in lines], keys, batch.ids)
        for line in lines:
            line.prefilled = len(line.ids)
        logits = self._forward.prefill(batch)
        for _ in range(steps):
            tokens, logprobs = sampler.draw(logits)
            for line, token, logprob in zip(lines, tokens.tolist(), logprobs.tolist(), strict=True):
                line.push(token, logprob, self.eos_ids, self._detokenizer)
            going = [i for i, line in enumerate(lines) if line.wanted > 0]
            if not going:
                return
            if len(going) < len(lines):
                lines = [lines[i] for i in going]
                rows = torch.tensor(going, device=device)
                tokens = tokens[rows]
                batch.keep(rows)
                sampler.keep(rows)
            logits = self._forward.step(batch, tokens)


@dataclass
class _Line:
    """A row while it is being continued."""

    row: Row
    prompt: list[int]
    state: list[int]
    context_length: int
    written: int = 0
    logprob: float = 0.0
    prefilled: int = 0
    finish_reason: FinishReason | None = None

    def __post_init__(self) -> None:
        self._check_room()

    @property
    def ids(self) -> list[int]:
        return self.prompt + self.state

    @property
    def wanted(self) -> int:
        """How many tokens may still be written now."""
        if self.finish_reason is not None:
            return 0
        room = self.context_length - len(self.prompt) - len(self.state)
        return min(self.row.max_tokens - self.written, room)

    def push(self, token: int, logprob: float, eos_ids: frozenset[int], detokenizer: Detokenizer) -> None:
        self.state.append(token)
        self.written += 1
        self.logprob += logprob
        if token in eos_ids or self.stopped(detokenizer):
            self.finish_reason = "stop"
        else:
            self._check_room()

    def stopped(self, detokenizer: Detokenizer) -> bool:
        stops = self.row.request.stop
        return bool(stops) and detokenizer.ends_with_stop(self.state, stops)

    def _check_room(self) -> None:
        if len(self.prompt) + len(self.state) >= self.context_length:
            self.finish_reason = "length"

    def continuation(self, detokenizer: Detokenizer) -> Continuation:
        text = detokenizer.text(self.state, finished=self.finish_reason == "stop")
        return Continuation(
            text=text[: first_stop(text, self.row.request.stop)],
            tokens=tuple(self.state),
            new_tokens=self.written,
            finish_reason=self.finish_reason,
            logprob=self.logprob,
            prefilled_tokens=self.prefilled,
        )


@dataclass
class _Batch:
    """Rows of unequal length, padded on the left so that they grow together."""

    ids: Tensor
    """int64 (rows, width): prompt and state."""
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
        self.mask, self.positions = self.mask[rows], self.positions[rows]
        self.cache.reorder_cache(rows)


class _Forward:
    """Runs a model over a batch: one prefill, then token by token over its own kind of cache."""

    def __init__(self, model: Any) -> None:
        self._model = model
        accepted = inspect.signature(model.forward).parameters
        self._takes_positions = "position_ids" in accepted
        self._extra = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}
        self._cache = "past_key_values" if "past_key_values" in accepted else "cache_params"
        self.pads = self._cache == "past_key_values"
        """Whether padding is exact. Purely recurrent models (Mamba) carry it along in their state."""

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
        logits: Tensor = output.logits[:, -1].float()
        return logits


def _eos_ids(loaded: LoadedModel, template: ChatTemplate) -> frozenset[int]:
    """Every id that ends an answer: the generation config's, the tokenizer's, and the template's end of turn."""
    generation = getattr(loaded.model, "generation_config", None)
    return frozenset(
        (
            *_ids(getattr(generation, "eos_token_id", None)),
            *_ids(loaded.tokenizer.eos_token_id),
            *_ids(template.end_of_turn),
        )
    )


def _ids(value: Any) -> Iterator[int]:
    if isinstance(value, (list, tuple)):
        yield from value
    elif value is not None:
        yield value
