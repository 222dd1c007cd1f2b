"""The input of a reward server: in which form conversation and answers are sent, and with which tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from langchain_core.messages import convert_to_openai_messages

from darwin_align.backends.endpoint.rewards import REWARD_DIALECTS
from darwin_align.backends.endpoint.rewards.base import Form, Item, RewardDialect
from darwin_align.backends.recipes import Recipe
from darwin_align.backends.templates import ChatTemplate, Turn
from darwin_align.backends.turns import question_of, without_thoughts
from darwin_align.core.errors import ConfigError
from darwin_align.core.types import Request, Response
from darwin_align.operators.messages import to_langchain

__all__ = ["RewardInputFormat", "form_of"]

_TRIAL = Request.of("Which colour has the sky?"), Response(text="It is blue.")


@dataclass(frozen=True)
class RewardInputFormat:
    """The dialect of a server and the form of its inputs, detected once."""

    dialect: RewardDialect
    model: str
    where: str
    form: Form
    turn: Turn
    recipe: Recipe
    tokenizer: Any
    template: ChatTemplate | None
    context_length: int | None
    max_batch: int
    """Most responses in one request."""
    notes: tuple[str, ...] = ()

    def items(self, request: Request, responses: Sequence[Response]) -> list[Item]:
        """The item to send for each response."""
        blank = Item(self.form, question=question_of(request.conversation))
        if self.form == "pair":
            return [replace(blank, answer=response.whole) for response in responses]
        return [
            replace(blank, answer=response.whole, **own)
            for response, own in zip(responses, self._inputs(request, responses), strict=True)
        ]

    def _inputs(self, request: Request, responses: Sequence[Response]) -> list[dict[str, Any]]:
        if self.form == "ids":
            return [{"ids": tuple(ids)} for ids in self._required_template.answer_ids(request, responses, self.turn)]
        if self.form == "text":
            texts = self._required_template.answer_texts(request, responses, self.turn, special=self.dialect.special)
            return [{"before": before, "after": after} for before, after in texts]
        turns = to_langchain(without_thoughts(request.conversation))
        conversation = convert_to_openai_messages(turns, text_format="string")
        answers = [{"role": "assistant", "content": response.whole} for response in responses]
        return [{"messages": (*conversation, answer), "open": self.turn == "open"} for answer in answers]

    def lengths(self, request: Request, responses: Sequence[Response]) -> list[int] | None:
        """Tokens that the model reads for each response; ``None`` without its tokenizer."""
        if self.recipe.inputs == "pair" and self.tokenizer is not None:
            return [
                len(self.tokenizer(question_of(request.conversation), r.whole, verbose=False)["input_ids"])
                for r in responses
            ]
        if self.template is None:
            return None
        return [len(ids) for ids in self.template.answer_ids(request, responses, self.turn)]

    def unseen_notes(self, request: Request) -> tuple[str, ...]:
        """Notes on parts of a request that the server does not see."""
        if request.tools and self.form in ("messages", "pair"):
            return (f"{self.where} ({self.dialect.name}) rewards answers without seeing the request's tools",)
        return ()

    def adapted_notes(self, request: Request) -> tuple[str, ...]:
        """Notes on parts of a request that the chat template renders in another form; the template logs them."""
        return self._required_template.notes(request) if self.form in ("ids", "text") else ()

    def token_mismatch(self) -> str | None:
        """A warning if the server reads other tokens from a text than a local reward model would; else ``None``."""
        if self.form != "text" or self.tokenizer is None:
            return None
        request, response = _TRIAL
        [ours] = self._required_template.answer_ids(request, [response], self.turn)
        [item] = self.items(request, [response])
        if self.dialect.joins:
            theirs = self.tokenizer(item.before, item.after, verbose=False)["input_ids"]
        else:
            theirs = self.tokenizer.encode(item.text, add_special_tokens=self.dialect.special, verbose=False)
        if list(theirs) == list(ours):
            return None
        return (
            f"{self.where} ({self.dialect.name}) reads other tokens than the chat template makes, for the tokenizer "
            f"adds special ones to the texts that it is sent ({len(theirs)} tokens instead of {len(ours)} in a trial): "
            "its rewards are not those of the model run here. vLLM's /classify and SGLang take token ids, with which "
            "this cannot happen"
        )

    @property
    def _required_template(self) -> ChatTemplate:
        assert self.template is not None  # noqa: S101 - forms that need one are chosen only with one
        return self.template


def form_of(dialect: RewardDialect, recipe: Recipe, template: ChatTemplate | None, missing: str, where: str) -> Form:
    """The best form that the dialect takes and that can be made."""
    if dialect.forms == ("pair",):
        return "pair"
    if recipe.inputs == "pair":
        if "pair" not in dialect.forms:
            raise ConfigError(
                f"the {recipe.name!r} recipe reads a pair of texts, which {dialect.name} does not take: use one of "
                f"{', '.join(name for name, one in REWARD_DIALECTS.items() if 'pair' in one.forms)}"
            )
        return "pair"
    for form in dialect.forms:
        if form == "messages" or (form in ("ids", "text") and template is not None):
            return form
    raise ConfigError(f"{where} ({dialect.name}) is to be sent what the chat template makes, but {missing}")
