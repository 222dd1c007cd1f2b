"""The local policy: any causal language model of transformers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from time import monotonic
from typing import Any, Self

import torch
import transformers

from darwin_align.backends.detokenizer import Detokenizer
from darwin_align.backends.local.constraints import Constraints
from darwin_align.backends.local.decode_row import DecodeRow
from darwin_align.backends.local.engine import Engine
from darwin_align.backends.local.heads import check_class
from darwin_align.backends.local.loading import (
    DeviceMap,
    LoadedModel,
    ModelSource,
    SharedModel,
    model_context_length,
)
from darwin_align.backends.local.padded import PaddedForward
from darwin_align.backends.local.thinking import ThinkingConstraint
from darwin_align.backends.request_bounds import check_fits, takes_long
from darwin_align.backends.templates import ChatTemplate
from darwin_align.core.errors import ConfigError, ContextLengthError, ModelLoadError, RequestError
from darwin_align.core.json_types import Json
from darwin_align.core.types import Request
from darwin_align.formats.request_formats import takes_calls
from darwin_align.formats.thinking import ThinkingPhase
from darwin_align.formats.tool_syntax import ToolSyntax
from darwin_align.operators.policy import Capabilities, Continuation, Policy, Row
from darwin_align.operators.portal import off_loop, submits, wait

__all__ = ["LocalPolicy"]


@dataclass(frozen=True)
class _Options:
    chat_template: str | Path | None
    threads: int | None
    max_batch_rows: int
    row_memory: int | None
    compiled: bool
    switches: dict[str, Json] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.max_batch_rows < 1:
            raise ConfigError(f"max_batch_rows={self.max_batch_rows} is impossible: decode one row at a time at least")


class LocalPolicy(SharedModel, Policy):
    """Continues rows on a causal language model.

    A row's tokens depend on its prompt, its state, its settings and its seed. They do not depend on the rows beside it
    or on how many calls its answer takes, up to float rounding (in float32 that is: never in practice).

    Threads, tasks and searches may share a policy: the engine decodes their rows side by side. Policies on the same
    weights share one engine. Copies and pickles share the weights or load them again.

    A request's ``response_format`` and a ``tool_choice`` that forces a call are enforced token by token (extra
    ``constrained``): any decoded text is the beginning of an answer that keeps them. It ends when it is complete, or
    where ``max_tokens``, the context or a stop string cuts it. ``grounded`` values are copied by the same mechanism:
    free text is a span of the request's sources, and a number is one that occurs in them.

    A reasoning model's thoughts are found by its chat template and its tokenizer. They are kept apart from the text;
    stop strings, formats and forced calls begin behind them.

    Args:
        model: a transformers causal language model.
        tokenizer: its tokenizer.
        chat_template: Jinja source, or a path to a file with it, in place of the tokenizer's own.
        chat_template_kwargs: switches of the chat template, e.g. ``{"enable_thinking": False}``; a request's overrule
            them.
        threads: CPU threads while this policy works; ``None`` measures once which number up to torch's own is fastest.
        max_batch_rows: rows decoded side by side; more wait.
        row_memory: bytes for the keys and values of all rows; ``None`` is a quarter of the device's (free) memory. Rows
            that do not fit are read again when they are needed.
        compile: compile the decoding step by ``torch.compile``; on a GPU it then runs as CUDA graphs. Every new number
            of rows (powers of two) and width (multiples of 256 tokens) takes time to compile first, half a minute on a
            small CPU. A model that cannot be compiled raises torch's own error.

    Raises:
        ModelLoadError: the model is no causal language model, its tokenizer has no chat template, or it decodes
            wrongly, both over slots and over its own cache.
    """

    context_length: int
    enforces_grounding = True
    """``grounded`` requests are enforced."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        chat_template: str | Path | None = None,
        chat_template_kwargs: Mapping[str, Json] | None = None,
        threads: int | None = None,
        max_batch_rows: int = 256,
        row_memory: int | None = None,
        compile: bool = False,
    ) -> None:
        switches = dict(chat_template_kwargs or {})
        options = _Options(chat_template, threads, max_batch_rows, row_memory, compile, switches)
        self._setup(LoadedModel(model, tokenizer), options)

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        device: str = "auto",
        device_map: DeviceMap | None = None,
        dtype: str | torch.dtype = "auto",
        quantization: Any = None,
        attn_implementation: str | None = None,
        revision: str | None = None,
        chat_template: str | Path | None = None,
        chat_template_kwargs: Mapping[str, Json] | None = None,
        threads: int | None = None,
        trust_remote_code: bool = False,
        max_batch_rows: int = 256,
        row_memory: int | None = None,
        compile: bool = False,
    ) -> Self:
        """Load a folder or a hub id. Policies on one folder and with the same options for the weights share them.

        Args:
            path: a folder or a hub id.
            device: "auto" (CUDA, then MPS, then the CPU), "cpu", "cuda:1" …
            device_map: in place of ``device``, where transformers puts the parts of a large model: "auto", or module
                name → device. Needs the extra ``gpu``.
            dtype: "auto", "float32", "bfloat16" … or a torch dtype.
            quantization: "4bit" (NF4 that multiplies in ``dtype``) or "8bit" through bitsandbytes, which need the extra
                ``quantized``; or a quantization config of transformers. With "8bit" a row's tokens may depend on the
                rows beside it: bitsandbytes rounds less where any of them has an outlier.
            attn_implementation: "sdpa", "eager" … ``None`` leaves it to transformers. Others than these two cost the
                engine its reuse.
            revision: of a hub id.
            chat_template: Jinja source, or a path to a file with it, in place of the tokenizer's own.
            chat_template_kwargs: switches of the chat template, e.g. ``{"enable_thinking": False}``.
            threads: CPU threads while this policy works.
            trust_remote_code: run Python code that comes with the model.
            max_batch_rows: rows decoded side by side.
            row_memory: bytes for the keys and values of all rows.
            compile: compile the decoding step.

        Raises:
            ModelLoadError: there is no such model, it is no language model, it has no chat template, it cannot be
                loaded with these options, or a package for that is missing.
            ConfigError: options that contradict each other.
        """
        source = ModelSource.of(
            path,
            "causal",
            device=device,
            device_map=device_map,
            dtype=dtype,
            quantization=quantization,
            attn_implementation=attn_implementation,
            revision=revision,
            trust_remote_code=trust_remote_code,
        )
        switches = dict(chat_template_kwargs or {})
        return cls._restore(source, _Options(chat_template, threads, max_batch_rows, row_memory, compile, switches))

    def _setup(self, loaded: LoadedModel, options: _Options) -> None:
        check_class("causal", loaded.model, loaded.name)
        self._loaded, self._options = loaded, options
        self.template = ChatTemplate(
            loaded.tokenizer, options.chat_template, name=f"the model {loaded.name!r}", switches=options.switches
        )
        self.context_length = model_context_length(loaded)
        self.eos_ids = _eos_ids(loaded, self.template)
        framing = self.template.detokenizer.hidden
        self._detokenizer = Detokenizer(loaded.tokenizer, framing | self.eos_ids)
        self._constraints = Constraints(loaded.tokenizer, self.template, self.eos_ids)
        self._padded = PaddedForward(loaded.model, loaded.device)
        self.engine = loaded.engine(options.max_batch_rows, options.row_memory, options.compiled)
        _check_decodable(loaded, self.engine, self._padded)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._loaded.name!r}, device={str(self._loaded.device)!r})"

    @property
    def model_name(self) -> str:
        """The hub id, or the folder's name."""
        name = self._loaded.name
        return Path(name).name if Path(name).exists() else name

    def describe(self) -> str:
        """Name the model, its size, type and device."""
        model, loaded = self._loaded.model, self._loaded
        return (
            f"{loaded.name} ({type(model).__name__}, {model.num_parameters() / 1e6:,.0f}M parameters, "
            f"{str(model.dtype).removeprefix('torch.')}) on {loaded.device}: continues answers by token ids"
        )

    @property
    def tool_syntax(self) -> ToolSyntax:
        """The model's format of tool calls, by which they are read from its answers.

        Raises:
            RequestError: the template shows no format of a call that is recognised.
        """
        return self.template.tool_syntax

    def check_tools(self, request: Request) -> None:
        """Refuse tools that the chat template cannot show, and calls of a form that could not be read.

        Raises:
            RequestError: it refuses them, or its form of a call is not recognised.
        """
        self.template.check_tools(request)
        if takes_calls(request):
            _ = self.tool_syntax

    @property
    def supports_tools(self) -> bool:
        """Whether the chat template shows tools, calls of them and their results to the model."""
        return self.template.renders_tool_conversations

    @property
    def enforces_formats(self) -> bool:
        """Whether a ``response_format`` and a forced ``tool_choice`` can be enforced, token by token."""
        return find_spec("llguidance") is not None

    @property
    def capabilities(self) -> Capabilities:
        """It ranks tokens and stops at a token; what is enforced depends on the template and on what is installed."""
        return Capabilities(
            ranks_tokens=True,
            stops_in_time=True,
            stops_at_text=True,
            enforces_formats=self.enforces_formats,
            enforces_grounding=self.enforces_grounding,
            supports_tools=self.supports_tools,
            reads_tool_calls=True,
        )

    def prompt_length(self, request: Request) -> int:
        """Tokens of the rendered conversation.

        Raises:
            RequestError: the chat template refuses the conversation, or its format or tool choice cannot be enforced.
        """
        self._constraints.check(request)
        return len(self.template.prompt_ids(request))

    def refusal(self, request: Request, max_new_tokens: int) -> str | None:
        """Return why a request leaves too little of the context for an answer, or ``None`` if it fits.

        Too little is less than ``max_new_tokens`` and also less than an eighth of the context: ``max_new_tokens`` is
        where answers are cut, not what they need, and may itself be longer than the context.
        """
        prompt = self.prompt_length(request)
        fitting, needed = self.context_length - prompt, min(max_new_tokens, max(1, self.context_length // 8))
        if fitting >= needed:
            return None
        return (
            f"its prompt of {prompt} tokens leaves {max(fitting, 0)} of the context's {self.context_length} for the "
            f"answer, which needs {needed}"
        )

    def generate(self, rows: Sequence[Row]) -> list[Continuation]:
        """Continue every row by at most its ``max_tokens``.

        Raises:
            ContextLengthError: a prompt leaves no room for an answer.
            RequestError: the chat template refuses a conversation, or its format or tool choice cannot be enforced.
        """
        return wait(self.submit(rows))

    @submits
    def submit(self, rows: Sequence[Row]) -> Future[list[Continuation]]:
        """Queue rows on the engine, where they are decoded side by side with those of other callers.

        Returns:
            A future of what :meth:`generate` returns; cancelling it frees the rows.

        Raises:
            ContextLengthError: a prompt leaves no room for an answer.
            RequestError: the chat template refuses a conversation, or its format or tool choice cannot be enforced.
        """
        seconds = min((row.seconds for row in rows if row.seconds is not None), default=None)
        deadline = None if seconds is None else monotonic() + seconds
        usual = torch.get_num_threads()  # the caller's own number, not that of a pool thread
        if any(takes_long(row.request) for row in rows):
            return off_loop(lambda: self._queued(rows, usual, deadline))
        return self._queued(rows, usual, deadline)

    def _queued(self, rows: Sequence[Row], usual_threads: int, deadline: float | None) -> Future[list[Continuation]]:
        sequences = [self._sequence(row) for row in rows]
        owners = {row.search_id for row in rows}
        return self.engine.submit(
            [one for one in sequences if one.remaining > 0],
            lambda: [one.continuation() for one in sequences],
            without_slots=partial(self._padded.decode, deadline=deadline),
            owner=owners.pop() if len(owners) == 1 else "",
            threads=self._options.threads,
            usual_threads=usual_threads,
            deadline=deadline,
        )

    def release(self, search_id: str) -> None:
        """Let the rows of a search go."""
        self.engine.release(search_id)

    def _check_ids(self, tokens: Sequence[int]) -> None:
        """Refuse ids that the model does not have: on a GPU they would end the process."""
        known = self._loaded.model.get_input_embeddings().num_embeddings
        if tokens and not (set(map(type, tokens)) == {int} and min(tokens) >= 0 and max(tokens) < known):
            alien = next(token for token in tokens if type(token) is not int or not 0 <= token < known)
            raise RequestError(f"a row's state holds {alien!r}: the token ids of this model are 0 to {known - 1}")

    def _sequence(self, row: Row) -> DecodeRow:
        if row.text and not row.tokens:
            raise RequestError(
                "a row has text but no token ids: a local policy continues only what it (or its tokenizer) generated"
            )
        self._check_ids(row.tokens)
        texts = (one.text for one in row.request.conversation)
        check_fits(texts, self._loaded.characters_per_token, self.context_length)
        prompt = self.template.prompt_ids(row.request)
        if len(prompt) >= self.context_length:
            raise ContextLengthError(
                f"the conversation is {len(prompt)} tokens long and the model's context is {self.context_length}: "
                "there is no room for an answer. Shorten the conversation or use a model with a longer context"
            )
        form, phase = self.template.thoughts(row.request), None
        limit, constrained = row.request.sampling.max_thinking_tokens, False
        if form is not None:
            constrained = self._constraints.constrains(row.request)
            phase = ThinkingPhase(form, row.tokens, limit=limit, constrained=constrained)
        sequence = DecodeRow(row, prompt, self.context_length, self.eos_ids, self._detokenizer, form=form, phase=phase)
        sequence.check_end()
        if sequence.remaining <= 0:
            return sequence
        if phase is None:
            sequence.constraint = self._constraints.constraint(row.request, row.tokens)
        elif constrained or limit is not None:
            text_grammar = partial(self._constraints.constraint, row.request)
            sequence.constraint = ThinkingConstraint(phase, len(self._loaded.tokenizer), text_grammar)
        return sequence


def _check_decodable(loaded: LoadedModel, engine: Engine, padded: PaddedForward) -> None:
    """Refuse a model that decodes wrongly both over slots and over its own cache.

    Raises:
        ModelLoadError: with both reasons.
    """
    if not (over_slots := engine.prepare()):
        return
    with torch.inference_mode():
        refusal = padded.refusal
    if refusal:
        raise ModelLoadError(
            f"the model {loaded.name!r} ({type(loaded.model).__name__}) cannot be decoded with transformers "
            f"{transformers.__version__}: {refusal}; and {over_slots}. Use a version of transformers that is known to "
            "work with this model, or serve the model elsewhere and use an EndpointPolicy"
        )


def _eos_ids(loaded: LoadedModel, template: ChatTemplate) -> frozenset[int]:
    """Every id that ends an answer: the generation config's, the tokenizer's, and the template's ends of turns."""
    generation = getattr(loaded.model, "generation_config", None)
    return frozenset(
        (
            *_ids(getattr(generation, "eos_token_id", None)),
            *_ids(loaded.tokenizer.eos_token_id),
            *_ids(sorted(template.ends)),
        )
    )


def _ids(value: Any) -> Iterator[int]:
    if isinstance(value, (list, tuple)):
        yield from value
    elif value is not None:
        yield value
