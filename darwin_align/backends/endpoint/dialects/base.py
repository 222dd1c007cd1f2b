"""What a dialect is: how one kind of server is asked to continue, and how its answer is read.

The base class speaks plain OpenAI; a dialect overrides what its server does differently.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeGuard

from darwin_align.core.errors import ConfigError, EndpointServerError
from darwin_align.core.types import Sampling

__all__ = [
    "BIAS",
    "LENGTH",
    "STOP",
    "Chat",
    "Choice",
    "CompletionRequest",
    "Dialect",
    "Prompt",
    "TokenConstraint",
    "Wire",
    "are_ids",
    "biases",
    "merged",
]

STOP = frozenset({"stop", "eos_token", "eos", "stop_sequence", "end_turn", "abort_stop", "tool_calls"})
"""What servers call the end of an answer."""
LENGTH = frozenset({"length", "max_tokens", "limit", "model_length"})
"""What they call an answer that is cut."""
BIAS = 100.0
"""The largest that OpenAI allows: no other token has a chance."""

_THOUGHTS = ("reasoning_content", "reasoning", "thinking")

Wire = tuple[str, dict[str, Any]]
"""Path and body of a request."""


@dataclass(frozen=True)
class Chat:
    """A conversation as OpenAI writes it, and the beginning of the answer to it."""

    messages: tuple[dict[str, Any], ...]
    prefix: str = ""


Prompt = tuple[int, ...] | str | Chat


@dataclass(frozen=True)
class TokenConstraint:
    """Which tokens may come next."""

    tokens: tuple[int, ...]
    only: bool
    """Whether these and no others may come, or all but these."""


@dataclass(frozen=True)
class CompletionRequest:
    """One request: prompts of one kind to be continued under one setting."""

    model: str
    prompts: tuple[Prompt, ...]
    max_tokens: int
    sampling: Sampling
    n: int = 1
    """Choices for each prompt."""
    seeds: tuple[int, ...] = ()
    """One for each prompt, or one for all, or none."""
    stop: tuple[str, ...] = ()
    extra: Mapping[str, Any] | None = None
    """What the user wants in every body."""
    steering: TokenConstraint | None = None
    """Of a request by token ids for one token."""

    @property
    def seed(self) -> int | None:
        """The seed of a request that takes but one."""
        return self.seeds[0] if self.seeds else None

    @property
    def ids(self) -> list[list[int]]:
        """The prompts of a request by token ids."""
        return [list(prompt) for prompt in self.prompts if isinstance(prompt, tuple)]

    @property
    def choices(self) -> int:
        """How many continuations must come back, prompt by prompt."""
        return self.n * len(self.prompts)


@dataclass(frozen=True)
class Choice:
    """One choice of an answer. What the server does not tell is ``None``."""

    text: str = ""
    ids: tuple[int, ...] | None = None
    """Token ids written now, the end token included where the server gives it."""
    finish: str | None = None
    """The server's own word."""
    new_tokens: int | None = None
    prompt_tokens: int | None = None
    cached_tokens: int = 0


class Dialect:
    """A server that speaks OpenAI's ``/v1/completions`` and ``/v1/chat/completions``, and no more is known of it."""

    name: ClassVar[str] = "openai"
    by_ids: ClassVar[bool] = False
    """Takes token ids and gives them back."""
    by_text: ClassVar[bool] = True
    """Continues any text as it stands, without a template of its own."""
    by_prefill: ClassVar[bool] = False
    """Continues the beginning of an assistant's turn."""
    seeds: ClassVar[bool] = True
    """Takes a seed for each request."""
    several: ClassVar[bool] = False
    """Gives ``n`` choices for one prompt."""
    several_seeded: ClassVar[bool] = False
    """They differ under a seed, too."""
    lists: ClassVar[bool] = False
    """Takes several prompts in one request."""
    lists_seeded: ClassVar[bool] = False
    """Takes a seed for each of them."""
    hub_models: ClassVar[bool] = False
    """Its models go by hub ids or folders, so that their tokenizers can be loaded by name."""
    adds_special: ClassVar[bool] = False
    """Reads texts with the special tokens that its tokenizer adds, and does not count what it read."""
    masks: ClassVar[bool] = False
    """Takes a list of the only tokens that may come, which changes nothing about these."""
    echoes: ClassVar[bool] = False
    """Repeats the beginning of an assistant's turn; where that is not said here, a trial shows it."""
    seed_name: ClassVar[str] = "seed"
    most_stops: ClassVar[int] = 4
    """Stop strings that it takes; further ones are looked for in what comes back."""
    knobs: ClassVar[Mapping[str, tuple[str, Any]]] = {"top_p": ("top_p", 1.0)}
    """Sampling's names: what the server calls them, and its word for "off"."""

    # -- asking

    def ids_request(self, asked: CompletionRequest) -> Wire:
        """Ask for continuations of token ids."""
        return self.text_request(asked)

    def steered(self, body: dict[str, Any], steering: TokenConstraint) -> dict[str, Any]:
        """A body that also says which tokens may come next."""
        return {**body, "logit_bias": {**(body.get("logit_bias") or {}), **biases(steering)}}

    def text_request(self, asked: CompletionRequest) -> Wire:
        """Ask for continuations of texts."""
        prompts = [list(prompt) if isinstance(prompt, tuple) else prompt for prompt in asked.prompts]
        return "/v1/completions", {**self.common(asked), "prompt": prompts if len(prompts) > 1 else prompts[0]}

    def chat_request(self, asked: CompletionRequest) -> Wire:
        """Ask for the rest of an assistant's turn."""
        (chat,) = asked.prompts
        assert isinstance(chat, Chat)  # noqa: S101 - the caller's own rule
        body = {**self.common(asked), "messages": list(chat.messages)}
        if chat.prefix:
            body["messages"].append(self.begun(chat.prefix))
            body.update(self.continues())
        return "/v1/chat/completions", body

    def begun(self, prefix: str) -> dict[str, Any]:
        """The message that holds the beginning of an answer."""
        return {"role": "assistant", "content": prefix}

    def continues(self) -> dict[str, Any]:
        """What else says that the last message is to be continued."""
        return {}

    def common(self, asked: CompletionRequest) -> dict[str, Any]:
        """What a request holds beside its prompts."""
        body: dict[str, Any] = {
            "model": asked.model,
            "max_tokens": asked.max_tokens,
            "temperature": asked.sampling.temperature,
            **self.sampling(asked.sampling),
        }
        if asked.n > 1:
            body["n"] = asked.n
        if asked.stop:
            body["stop"] = list(asked.stop[: self.most_stops])
        if asked.seed is not None and self.seeds:
            body[self.seed_name] = asked.seed
        return merged(body, asked.extra)

    def sampling(self, sampling: Sampling) -> dict[str, Any]:
        """The sampling settings in the server's words; what is off is said to be off, since servers have defaults."""
        return {
            name: off if (value := getattr(sampling, ours)) is None else value
            for ours, (name, off) in self.knobs.items()
            if off is not None or getattr(sampling, ours) is not None
        }

    def unsupported(self, sampling: Sampling) -> list[str]:
        """Settings that the server cannot take.

        Raises:
            ConfigError: one of them was set by hand.
        """
        lacking = [
            name
            for name in ("top_k", "top_p", "repetition_penalty")
            if name not in self.knobs and getattr(sampling, name) is not None
        ]
        for name in lacking:
            if name in sampling.model_fields_set:
                raise ConfigError(
                    f"{name} is no parameter of {self.name} servers: set {name}=None, or use another server"
                )
        return lacking

    # -- reading

    def read_ids(self, data: Any, asked: CompletionRequest) -> list[Choice]:
        """Read the answer to :meth:`ids_request`."""
        return self.read_text(data, asked)

    def read_text(self, data: Any, asked: CompletionRequest) -> list[Choice]:
        """Read the answer to :meth:`text_request`: one choice for each prompt and n, prompt by prompt."""
        return self._read(data, asked, lambda choice: choice.get("text"))

    def read_chat(self, data: Any, asked: CompletionRequest) -> list[Choice]:
        """Read the answer to :meth:`chat_request`."""
        return self._read(data, asked, self._said)

    def _said(self, choice: Mapping[str, Any]) -> Any:
        message = choice.get("message")
        if not isinstance(message, Mapping):
            return None
        content = message.get("content")
        pieces = content if isinstance(content, list) else []
        text = "".join(str(piece.get("text", "")) for piece in pieces) if pieces else content or ""
        if not text and any(part.get(name) for part in (message, *pieces) for name in _THOUGHTS):
            raise EndpointServerError(
                "the model thinks before it answers, and a thought cannot be continued over a chat endpoint: turn "
                "thinking off on the server (or by extra_body=…), or continue by token ids"
            )
        return text

    def _read(self, data: Any, asked: CompletionRequest, said: Any) -> list[Choice]:
        choices = data.get("choices") if isinstance(data, Mapping) else None
        if not isinstance(choices, list) or not all(isinstance(choice, Mapping) for choice in choices):
            raise EndpointServerError(f"the server's answer has no list of choices: {str(data)[:200]}")
        if len(choices) != asked.choices:
            raise EndpointServerError(
                f"{asked.choices} continuations were asked for and {len(choices)} came back: a {self.name} server was "
                "expected to give as many as asked"
            )
        usage = data.get("usage")
        usage = usage if isinstance(usage, Mapping) else {}
        ordered = sorted(choices, key=lambda choice: choice.get("index") or 0)
        return [self._written(choice, said(choice), usage, asked) for choice in ordered]

    def _written(
        self, choice: Mapping[str, Any], text: Any, usage: Mapping[str, Any], asked: CompletionRequest
    ) -> Choice:
        if not isinstance(text, str):
            raise EndpointServerError(f"a choice of the server's answer has no text: {str(dict(choice))[:200]}")
        ids = choice.get("token_ids")
        # The usage is the whole request's: it says nothing of a row among others.
        one_prompt, details = len(asked.prompts) == 1, usage.get("prompt_tokens_details")
        cached = details.get("cached_tokens") if one_prompt and isinstance(details, Mapping) else None
        return Choice(
            text=text,
            ids=tuple(ids) if are_ids(ids) else None,
            finish=choice.get("finish_reason"),
            new_tokens=_number(usage.get("completion_tokens")) if asked.choices == 1 else None,
            prompt_tokens=_number(usage.get("prompt_tokens")) if one_prompt else None,
            cached_tokens=_number(cached) or 0,
        )


def biases(steering: TokenConstraint) -> dict[str, float]:
    """The constraint as OpenAI's ``logit_bias``."""
    return {str(token): BIAS if steering.only else -BIAS for token in steering.tokens}


def merged(body: Mapping[str, Any], extra: Mapping[str, Any] | None) -> dict[str, Any]:
    """A body with what the user wants in it; where both have an object by one name, the object holds both."""
    found = dict(body)
    for name, value in (extra or {}).items():
        ours = found.get(name)
        found[name] = {**ours, **value} if isinstance(ours, Mapping) and isinstance(value, Mapping) else value
    return found


def are_ids(value: Any) -> TypeGuard[Sequence[int]]:
    """Whether this is a list of token ids."""
    return isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(token, int) for token in value)


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
