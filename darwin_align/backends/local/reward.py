"""The local reward model: any one-logit sequence-classification model of transformers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from darwin_align.backends.local.loading import (
    Kind,
    LoadedModel,
    ModelSource,
    SharedModel,
    model_context_length,
    threads_limited_to,
)
from darwin_align.backends.local.recipes import Recipe, recipe_for, recipe_named
from darwin_align.backends.local.templates import ChatTemplate, Turn, to_chat
from darwin_align.core.budget import Usage
from darwin_align.core.errors import ConfigError, ContextLengthError, ModelLoadError
from darwin_align.core.types import Request, Response
from darwin_align.operators.base import Report, Scorer

__all__ = ["LocalScorer", "RewardModel"]


@dataclass(frozen=True)
class _Input:
    """What the model reads for one response."""

    ids: tuple[int, ...]
    types: tuple[int, ...] | None = None
    """Segment ids of a pair, where the tokenizer makes them."""


@dataclass(frozen=True)
class _Options:
    recipe: Recipe
    turn: Turn
    chat_template: str | Path | None
    threads: int | None
    batch_size: int

    def __post_init__(self) -> None:
        if self.turn not in ("closed", "open"):
            raise ConfigError(f"turn={self.turn!r} is unknown: use 'closed' or 'open'")
        if self.turn == "open" and (self.recipe.inputs == "pair" or self.recipe.reads == "get_score"):
            raise ConfigError(f"the {self.recipe.name!r} recipe always closes the turn: use turn='closed'")
        if self.batch_size < 1:
            raise ConfigError(f"batch_size={self.batch_size} is impossible: read one answer at a time at least")


class RewardModel(SharedModel):
    """Scores answers, partial or finished, with a sequence-classification model.

    Threads may share it; their calls take turns. Copies and pickles share or load the weights anew.

    Args:
        model: a transformers sequence-classification model with one logit.
        tokenizer: its tokenizer.
        recipe: name of a known family (:data:`~darwin_align.backends.local.recipes.RECIPES`).
        turn: "closed" ends the assistant's turn as the template does, "open" stops behind the answer.
        chat_template: Jinja source, or a path to a file with it, in place of the tokenizer's own.
        threads: CPU threads while it works; ``None`` leaves torch's number.
        batch_size: answers read side by side.

    Raises:
        ModelLoadError: the model has not exactly one label, or the tokenizer has no chat template.
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
        batch_size: int = 16,
    ) -> None:
        options = _Options(recipe_named(recipe), turn, chat_template, threads, batch_size)
        self._setup(LoadedModel(model, tokenizer), options)

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        recipe: str | None = None,
        turn: Turn = "closed",
        device: str = "auto",
        dtype: str = "auto",
        revision: str | None = None,
        chat_template: str | Path | None = None,
        threads: int | None = None,
        trust_remote_code: bool = False,
        batch_size: int = 16,
    ) -> Self:
        """Load a folder or a hub id; ``recipe=None`` recognises known families by name.

        Raises:
            ModelLoadError: there is no such model, it has not exactly one label, or it needs code of its own.
        """
        known = recipe_for(str(path)) if recipe is None else recipe_named(recipe)
        if known.custom_code and not trust_remote_code:
            raise ModelLoadError(
                f"{str(path)!r} belongs to the {known.name!r} family of reward models, which run code from their own "
                f"repository ({known.about}): read that code, then give trust_remote_code=True; or choose a reward "
                "model with one plain logit"
            )
        kind: Kind = "custom_reward" if known.reads == "get_score" else "reward"
        source = ModelSource(str(path), kind, revision, device, dtype, trust_remote_code)
        return cls._restore(source, _Options(known, turn, chat_template, threads, batch_size))

    def _setup(self, loaded: LoadedModel, options: _Options) -> None:
        recipe = self.recipe = options.recipe
        _check_labels(loaded, recipe)
        self._loaded, self._options = loaded, options
        self.context_length = model_context_length(loaded)
        if recipe.inputs == "pair":
            # Some encoders reserve positions; their tokenizers know.
            self.context_length = min(self.context_length, loaded.tokenizer.model_max_length)
        self._template = None
        if recipe.inputs == "chat" and recipe.reads != "get_score":
            self._template = ChatTemplate(
                loaded.tokenizer, options.chat_template, name=f"the reward model {loaded.name!r}", bos=recipe.bos
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
        if self.recipe.reads == "get_score":
            return self._own_scores(request, responses), 0
        rewards: dict[_Input, float] = {}
        with self._loaded.lock, threads_limited_to(self._options.threads), torch.inference_mode():
            inputs = self._inputs(request, responses)
            unique = sorted(set(inputs), key=lambda one: (len(one.ids), one.ids))
            self._check_context(unique)
            for start in range(0, len(unique), self._options.batch_size):
                batch = unique[start : start + self._options.batch_size]
                rewards.update(zip(batch, self._rewards(batch).tolist(), strict=True))
        return [rewards[one] for one in inputs], sum(len(one.ids) for one in unique)

    def room(self, request: Request) -> int | None:
        """Tokens of an answer that fit into the context behind the conversation; ``None`` if the model counts itself.

        They are tokens of this model's tokenizer: a policy with another one may need more or fewer for the same text.
        """
        if self.recipe.reads == "get_score":
            return None
        return int(self.context_length) - max(len(one.ids) for one in self._inputs(request, [Response(text="")]))

    def _inputs(self, request: Request, responses: Sequence[Response]) -> list[_Input]:
        if self._template is not None:
            return [_Input(tuple(ids)) for ids in self._template.answer_ids(request, responses, self._options.turn)]
        question = "\n\n".join(message.text for message in request.conversation)
        return [self._pair(question, response.text) for response in responses]

    def _pair(self, question: str, answer: str) -> _Input:
        encoded = self._loaded.tokenizer(question, answer, verbose=False)
        types = encoded.get("token_type_ids")
        return _Input(tuple(encoded["input_ids"]), None if types is None else tuple(types))

    def _check_context(self, inputs: Iterable[_Input]) -> None:
        longest = max((len(one.ids) for one in inputs), default=0)
        if longest > self.context_length:
            raise ContextLengthError(
                f"the conversation and an answer are {longest} tokens long and the reward model's context is "
                f"{self.context_length}: lower max_new_tokens, shorten the conversation or use a reward model with a "
                "longer context"
            )

    def _rewards(self, batch: Sequence[_Input]) -> Tensor:
        """Rewards of a batch, float32 of shape (rows,)."""
        model, device = self._loaded.model, self._loaded.device
        lengths = torch.tensor([len(one.ids) for one in batch])
        ids = _padded([one.ids for one in batch], _pad_id(self._loaded)).to(device)
        mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long().to(device)
        inputs = {"input_ids": ids, "attention_mask": mask}
        if batch[0].types is not None:
            inputs["token_type_ids"] = _padded([one.types or () for one in batch], 0).to(device)
        head = getattr(model, "score", None)
        if self.recipe.reads == "score":
            rewards: Tensor = model(**inputs).score
        elif isinstance(head, torch.nn.Module):
            # The model's own pooling looks for the pad id and reads the wrong token when a turn ends with it.
            hidden = model.base_model(**inputs, use_cache=False).last_hidden_state
            rewards = head(hidden[torch.arange(len(batch), device=device), (lengths - 1).to(device)])
        else:
            rewards = model(**inputs).logits
        return rewards.reshape(len(batch)).float()

    def _own_scores(self, request: Request, responses: Sequence[Response]) -> list[float]:
        model, tokenizer, chat = self._loaded.model, self._loaded.tokenizer, to_chat(request.conversation)
        with self._loaded.lock, threads_limited_to(self._options.threads), torch.inference_mode():
            unique = dict.fromkeys(response.text for response in responses)
            rewards = {
                text: float(model.get_score(tokenizer, [*chat, {"role": "assistant", "content": text}]))
                for text in unique
            }
        return [rewards[response.text] for response in responses]


class LocalScorer(Scorer):
    """Scores with a local reward model.

    >>> LocalScorer.from_pretrained("Skywork/Skywork-Reward-V2-Qwen3-0.6B")  # doctest: +SKIP
    """

    reward_model: RewardModel

    @classmethod
    def from_pretrained(cls, path: str | Path, **options: Any) -> Self:
        """Load a reward model; the options are those of :meth:`RewardModel.from_pretrained`.

        Raises:
            ModelLoadError: there is no such model, it has not exactly one label, or it needs code of its own.
        """
        return cls(reward_model=RewardModel.from_pretrained(path, **options))

    def room(self, request: Request) -> int | None:
        """Tokens of an answer that the model can still read."""
        return self.reward_model.room(request)

    def score(self, request: Request, responses: Sequence[Response]) -> Report[list[float]]:
        """Score the responses and report how many tokens were read."""
        rewards, tokens = self.reward_model.score(request, responses)
        return Report(rewards, Usage(reward_tokens=tokens))


def _check_labels(loaded: LoadedModel, recipe: Recipe) -> None:
    labels = loaded.model.config.num_labels
    if recipe.reads == "logits" and labels != 1:
        raise ModelLoadError(
            f"the reward model {loaded.name!r} has {labels} labels (num_labels), and a reward is one number: use a "
            "model that was trained with num_labels=1"
        )


def _padded(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    width = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows])


def _pad_id(loaded: LoadedModel) -> int:
    # Masked in any case; but some encoders number their positions by looking for it.
    for owner in (loaded.model.config.get_text_config(), loaded.tokenizer):
        if isinstance(pad := getattr(owner, "pad_token_id", None), int) and pad >= 0:
            return pad
    return 0
