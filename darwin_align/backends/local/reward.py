"""The local reward model: any one-logit sequence-classification model of transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from math import nan
from pathlib import Path
from typing import Any, Self, TypeVar

import torch
from torch import Tensor

from darwin_align.backends.local.engine import ReadSequence
from darwin_align.backends.local.heads import check_class, is_sequence_classifier
from darwin_align.backends.local.loading import (
    DeviceMap,
    Kind,
    LoadedModel,
    ModelSource,
    SharedModel,
    model_context_length,
)
from darwin_align.backends.recipes import Recipe, recipe_for, recipe_named
from darwin_align.backends.request_bounds import check_fits
from darwin_align.backends.templates import ChatTemplate, Turn
from darwin_align.backends.turns import question_of, to_chat, with_tool_turns_as_text
from darwin_align.core.errors import ConfigError, ContextLengthError, ModelLoadError, RequestError
from darwin_align.core.types import Request, Response
from darwin_align.operators.policy import current_search
from darwin_align.operators.portal import wait

__all__ = ["RewardModel"]

T = TypeVar("T")


@dataclass(frozen=True)
class _Input:
    """What the model reads for one response."""

    ids: tuple[int, ...]
    types: tuple[int, ...] | None = None
    """Segment ids of a pair, where the tokenizer makes them."""


@dataclass(eq=False)
class _RewardSequence(ReadSequence):
    """The sequence of one response, and its reward once it is read."""

    input: _Input = field(kw_only=True)
    reward: float = field(default=nan, init=False)


@dataclass(frozen=True)
class _Options:
    recipe: Recipe
    turn: Turn
    chat_template: str | Path | None
    threads: int | None
    batch_size: int
    row_memory: int | None

    def __post_init__(self) -> None:
        if self.turn not in ("closed", "open"):
            raise ConfigError(f"turn={self.turn!r} is unknown: use 'closed' or 'open'")
        if self.turn == "open" and (self.recipe.inputs == "pair" or self.recipe.reads == "get_score"):
            raise ConfigError(f"the {self.recipe.name!r} recipe always closes the turn: use turn='closed'")
        if self.batch_size < 1:
            raise ConfigError(f"batch_size={self.batch_size} is impossible: read one answer at a time at least")


class RewardModel(SharedModel):
    """Scores answers, partial or finished, with a sequence-classification model.

    Every token of a conversation and its answers is read once: the engine continues where an answer, or another that
    begins with the same tokens, was read before. Threads, tasks and searches may share it. Copies and pickles share the
    weights or load them again.

    Args:
        model: a transformers sequence-classification model with one logit.
        tokenizer: its tokenizer.
        recipe: name of a known family (:data:`~darwin_align.backends.recipes.RECIPES`).
        turn: "closed" ends the assistant's turn as the template does, "open" stops behind the answer.
        chat_template: Jinja source, or a path to a file with it, in place of the tokenizer's own.
        threads: CPU threads while it works; ``None`` measures once which number up to torch's own is fastest.
        batch_size: answers read side by side.
        row_memory: bytes for the keys and values of what was read; ``None`` is a quarter of the device's (free) memory.

    Raises:
        ModelLoadError: the model is no sequence classification model, has not exactly one label, or its tokenizer has
            no chat template.
        ConfigError: an unknown recipe, or a turn that it does not know.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        recipe: str = "generic",
        turn: Turn = "closed",
        chat_template: str | Path | None = None,
        threads: int | None = None,
        batch_size: int = 64,
        row_memory: int | None = None,
    ) -> None:
        options = _Options(recipe_named(recipe), turn, chat_template, threads, batch_size, row_memory)
        self._setup(LoadedModel(model, tokenizer), options)

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        recipe: str | None = None,
        turn: Turn = "closed",
        device: str = "auto",
        device_map: DeviceMap | None = None,
        dtype: str | torch.dtype = "auto",
        quantization: Any = None,
        attn_implementation: str | None = None,
        revision: str | None = None,
        chat_template: str | Path | None = None,
        threads: int | None = None,
        trust_remote_code: bool = False,
        batch_size: int = 64,
        row_memory: int | None = None,
    ) -> Self:
        """Load a folder or a hub id. Reward models on one folder and with the same options for the weights share them.

        Args:
            path: a folder or a hub id.
            recipe: name of a known family; ``None`` recognises it by the model's name.
            turn: "closed" or "open".
            device: "auto" (CUDA, then MPS, then the CPU), "cpu", "cuda:1" …
            device_map: in place of ``device``, as for
                :meth:`~darwin_align.backends.local.policy.LocalPolicy.from_pretrained`, like the next three.
            dtype: "auto", "float32", "bfloat16" … or a torch dtype.
            quantization: "4bit", "8bit" or a quantization config of transformers.
            attn_implementation: "sdpa", "eager" …
            revision: of a hub id.
            chat_template: Jinja source, or a path to a file with it, in place of the tokenizer's own.
            threads: CPU threads while it works.
            trust_remote_code: run Python code that comes with the model.
            batch_size: answers read side by side.
            row_memory: bytes for the keys and values of what was read.

        Raises:
            ModelLoadError: there is no such model, it has another head, not exactly one label, or weights that are
                missing or would be left out, it needs remote code, it cannot be loaded with these options, or a package
                for that is missing.
            ConfigError: options that contradict each other.
        """
        known = recipe_for(str(path)) if recipe is None else recipe_named(recipe)
        if known.custom_code and not trust_remote_code:
            raise ModelLoadError(
                f"{str(path)!r} belongs to the {known.name!r} family of reward models, which run code from their own "
                f"repository ({known.about}): read that code, then give trust_remote_code=True; or choose a reward "
                "model with one plain logit"
            )
        kind: Kind = "custom_reward" if known.reads == "get_score" else "reward"
        source = ModelSource.of(
            path,
            kind,
            device=device,
            device_map=device_map,
            dtype=dtype,
            quantization=quantization,
            attn_implementation=attn_implementation,
            revision=revision,
            trust_remote_code=trust_remote_code,
        )
        return cls._restore(source, _Options(known, turn, chat_template, threads, batch_size, row_memory))

    def _setup(self, loaded: LoadedModel, options: _Options) -> None:
        recipe = self.recipe = options.recipe
        if recipe.reads == "logits":
            check_class("reward", loaded.model, loaded.name)
        _check_labels(loaded, recipe)
        self._loaded, self._options = loaded, options
        self.context_length = model_context_length(loaded)
        if recipe.inputs == "pair":
            # Some encoders reserve positions; their tokenizers know.
            self.context_length = min(self.context_length, loaded.tokenizer.model_max_length)
        self.engine = loaded.engine(options.batch_size, options.row_memory)
        # A model with custom code may pool its tokens differently than by its head on the last one.
        head = getattr(loaded.model, "score", None) if is_sequence_classifier(loaded.model) else None
        self._head = head if recipe.reads == "logits" and isinstance(head, torch.nn.Module) else None
        self._template = None
        if recipe.inputs == "chat" and recipe.reads != "get_score":
            self._template = ChatTemplate(
                loaded.tokenizer,
                options.chat_template,
                name=f"the reward model {loaded.name!r}",
                role="reward model",
                bos=recipe.bos,
            )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._loaded.name!r}, recipe={self.recipe.name!r}, turn={self._options.turn!r})"

    def score(self, request: Request, responses: Sequence[Response]) -> tuple[list[float], int]:
        """Score the responses to a request.

        Returns:
            One reward a response, in order, and the number of tokens that the model read. Equal inputs are read once.

        Raises:
            ContextLengthError: the conversation and an answer are longer than the model's context.
            RequestError: the chat template refuses the conversation.
        """
        return wait(self.submit(request, responses, lambda rewards, tokens: (rewards, tokens)))

    def submit(
        self, request: Request, responses: Sequence[Response], finish: Callable[[list[float], int], T]
    ) -> Future[T]:
        """Queue responses on the engine: it reads what it has not read before, side by side with other callers'.

        Args:
            request: the conversation.
            responses: answers to it.
            finish: makes the future's result of the rewards and the number of tokens read.

        Raises:
            ContextLengthError: the conversation and an answer are longer than the model's context.
            RequestError: the chat template refuses the conversation.
        """
        if self.recipe.reads == "get_score":
            return self._submit_to_engine([], lambda: finish(self._custom_scores(request, responses), 0))
        return self._submit(self._inputs(request, responses), finish)

    def notes(self, request: Request) -> tuple[str, ...]:
        """What of a request the model reads in another form than it has, or not at all."""
        return () if self._template is None else self._template.notes(request)

    @property
    def reads_ids(self) -> bool:
        """Whether a text, as the chat template renders it, is all that the model reads."""
        return self._template is not None

    def encode(self, text: str, *, special_tokens: bool = False) -> list[int]:
        """Token ids of a rendered text, with the tokenizer's own special tokens or without.

        Raises:
            ContextLengthError: the text is so long that it cannot fit.
        """
        self._check_fits((text,))
        return list(self._loaded.tokenizer.encode(text, add_special_tokens=special_tokens, verbose=False))

    def submit_ids(self, rows: Sequence[Sequence[int]], finish: Callable[[list[float], int], T]) -> Future[T]:
        """Queue inputs that are token ids already; else as :meth:`submit`.

        Raises:
            RequestError: the model reads more than one text, a row is empty, or it holds an id that the model lacks.
            ContextLengthError: a row is longer than the model's context.
        """
        if not self.reads_ids:
            raise RequestError(f"the recipe {self.recipe.name!r} reads more than one text: score conversations instead")
        known = int(self._loaded.model.get_input_embeddings().num_embeddings)
        for row in rows:
            if not row:
                raise RequestError("an input has no tokens: there is nothing to reward")
            if min(row) < 0 or max(row) >= known:
                raise RequestError(f"an input has a token id outside of the model's 0 to {known - 1}")
        return self._submit([_Input(tuple(row)) for row in rows], finish)

    def _submit_to_engine(self, answers: Sequence[_RewardSequence], finish: Callable[[], T], **how: Any) -> Future[T]:
        threads = self._options.threads
        return self.engine.submit(answers, finish, owner=current_search.get(), threads=threads, **how)

    def _submit(self, inputs: Sequence[_Input], finish: Callable[[list[float], int], T]) -> Future[T]:
        answers = {one: _RewardSequence(self._read_ids(one), input=one) for one in dict.fromkeys(inputs)}
        self._check_context(answers)
        ordered = sorted(answers.values(), key=lambda answer: (len(answer.ids), answer.ids))

        def rewards() -> T:
            self._apply_head([one for one in ordered if one.hidden is not None])
            read = sum(len(one.ids) - one.reused for one in ordered)
            return finish([answers[one].reward for one in inputs], read)

        return self._submit_to_engine(
            ordered, rewards, without_slots=self._score_without_slots, over_slots=self._head is not None
        )

    def release(self, search_id: str) -> None:
        """Let the rows of a search go."""
        self.engine.release(search_id)

    def max_response_tokens(self, request: Request) -> int | None:
        """Tokens of an answer that fit into the context behind the conversation; ``None`` if the model counts itself.

        They are tokens of this model's tokenizer: a policy with another one may need more or fewer for the same text.
        """
        if self.recipe.reads == "get_score":
            return None
        return int(self.context_length) - max(len(one.ids) for one in self._inputs(request, [Response(text="")]))

    def _inputs(self, request: Request, responses: Sequence[Response]) -> list[_Input]:
        texts = [one.text for one in request.conversation]
        self._check_fits([*texts, max((one.whole for one in responses), key=len, default="")])
        if self._template is not None:
            return [_Input(tuple(ids)) for ids in self._template.answer_ids(request, responses, self._options.turn)]
        question = question_of(request.conversation)
        return [self._pair(question, response.whole) for response in responses]

    def _pair(self, question: str, answer: str) -> _Input:
        encoded = self._loaded.tokenizer(question, answer, verbose=False)
        types = encoded.get("token_type_ids")
        return _Input(tuple(encoded["input_ids"]), None if types is None else tuple(types))

    def _check_fits(self, texts: Iterable[str]) -> None:
        check_fits(texts, self._loaded.characters_per_token, self.context_length, role="reward model")

    def _check_context(self, inputs: Iterable[_Input]) -> None:
        longest = max((len(one.ids) for one in inputs), default=0)
        if longest > self.context_length:
            raise ContextLengthError(
                f"the conversation and an answer are {longest} tokens long and the reward model's context is "
                f"{self.context_length}: lower max_new_tokens, shorten the conversation or use a reward model with a "
                "longer context"
            )

    def _read_ids(self, one: _Input) -> list[int]:
        """The ids up to the one whose hidden state is rewarded: as in transformers, the last that is no padding.

        It is what the model was trained with, and what its own ``logits`` are of: where the pad token also ends a turn
        (Phi-3.5, DeepSeek), that end is passed over in training too.
        """
        end = len(one.ids)
        if self._head is not None and (pad := self._loaded.model.config.get_text_config().pad_token_id) is not None:
            while end > 1 and one.ids[end - 1] == pad:
                end -= 1
        return list(one.ids[:end])

    def _apply_head(self, answers: Sequence[_RewardSequence]) -> None:
        """Apply the reward head to the hidden states that the engine read."""
        if answers and self._head is not None:
            hidden = torch.stack([answer.hidden for answer in answers if answer.hidden is not None])
            for answer, reward in zip(answers, _numbers(self._head(hidden)), strict=True):
                answer.reward = reward

    def _score_without_slots(self, answers: Sequence[_RewardSequence]) -> None:
        """Score answers in one forward pass, without cached slots."""
        model, device = self._loaded.model, self._loaded.device
        batch = [answer.input for answer in answers]
        lengths = torch.tensor([len(answer.ids) for answer in answers])
        ids = _padded([answer.ids for answer in answers], _pad_id(self._loaded)).to(device)
        mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long().to(device)
        inputs = {"input_ids": ids, "attention_mask": mask}
        if batch[0].types is not None:
            inputs["token_type_ids"] = _padded([one.types or () for one in batch], 0).to(device)
        if self.recipe.reads == "score":
            rewards = model(**inputs).score
        elif self._head is not None:
            # The model's own pooling refuses a batch if it has no pad id.
            hidden = model.base_model(**inputs, use_cache=False).last_hidden_state
            last = torch.arange(len(batch), device=hidden.device), (lengths - 1).to(hidden.device)
            rewards = self._head(hidden[last])
        else:
            rewards = model(**inputs).logits
        for answer, reward in zip(answers, _numbers(rewards), strict=True):
            answer.reward, answer.reused = reward, 0

    def _custom_scores(self, request: Request, responses: Sequence[Response]) -> list[float]:
        model, tokenizer = self._loaded.model, self._loaded.tokenizer
        chat = with_tool_turns_as_text(to_chat(request.conversation))
        unique = dict.fromkeys(response.whole for response in responses)
        rewards = {
            text: float(model.get_score(tokenizer, [*chat, {"role": "assistant", "content": text}])) for text in unique
        }
        return [rewards[response.whole] for response in responses]


def _check_labels(loaded: LoadedModel, recipe: Recipe) -> None:
    labels = loaded.model.config.num_labels
    if recipe.reads == "logits" and labels != 1:
        raise ModelLoadError(
            f"the reward model {loaded.name!r} has {labels} labels (num_labels), and a reward is one number: use a "
            "model that was trained with num_labels=1"
        )


def _numbers(rewards: Tensor) -> list[float]:
    values = rewards.flatten()
    return (values if values.dtype == torch.float64 else values.float()).tolist()


def _padded(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    width = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows])


def _pad_id(loaded: LoadedModel) -> int:
    # Masked in any case; but some encoders number their positions by looking for it.
    for owner in (loaded.model.config.get_text_config(), loaded.tokenizer):
        if isinstance(pad := getattr(owner, "pad_token_id", None), int) and pad >= 0:
            return pad
    return 0
