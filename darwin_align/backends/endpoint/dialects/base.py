"""The base dialect: how a completion request becomes a path and a body, and how a reply becomes choices.

The base class is plain OpenAI; a dialect overrides what its server does differently.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeGuard

from darwin_align.core.errors import ConfigError, EndpointServerError
from darwin_align.core.json_types import Json
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
    "is_id_list",
    "logit_biases",
    "merged",
]

STOP = frozenset({"stop", "eos_token", "eos", "stop_sequence", "end_turn", "abort_stop", "tool_calls"})
"""Finish reasons of servers for an answer that ended."""
LENGTH = frozenset({"length", "max_tokens", "limit", "model_length"})
"""Finish reasons of servers for an answer that was cut at ``max_tokens``."""
BIAS = 100.0
"""The largest bias that OpenAI allows: a token with it outweighs all others."""

_THOUGHTS = ("reasoning_content", "reasoning", "thinking")

Wire = tuple[str, dict[str, Any]]
"""Path and body of a request."""


@dataclass(frozen=True)
class Chat:
    """A conversation in OpenAI's format, and the beginning of the answer to it."""

    messages: tuple[dict[str, Any], ...]
    prefix: str = ""
    switches: Mapping[str, Json] = field(default_factory=dict)
    """Of the server's chat template."""


Prompt = tuple[int, ...] | str | Chat


@dataclass(frozen=True)
class TokenConstraint:
    """Which tokens the server may generate next."""

    tokens: tuple[int, ...]
    only: bool
    """Whether only these tokens are allowed, or all but these."""


@dataclass(frozen=True)
class CompletionRequest:
    """One request: prompts of one kind, to be continued under the same settings."""

    model: str
    prompts: tuple[Prompt, ...]
    max_tokens: int
    sampling: Sampling
    n: int = 1
    """Choices for each prompt."""
    seeds: tuple[int, ...] = ()
    """One for each prompt, one for all of them, or none."""
    stop: tuple[str, ...] = ()
    extra: Mapping[str, Any] | None = None
    """The user's ``extra_body``, merged into every body."""
    constraint: TokenConstraint | None = None
    """Of requests by token ids for a single token."""

    @property
    def seed(self) -> int | None:
        """The seed of a request that takes only one."""
        return self.seeds[0] if self.seeds else None

    @property
    def ids(self) -> list[list[int]]:
        """The prompts of a request by token ids."""
        return [list(prompt) for prompt in self.prompts if isinstance(prompt, tuple)]

    @property
    def choices(self) -> int:
        """How many choices the reply must have: ``n`` for each prompt, prompt by prompt."""
        return self.n * len(self.prompts)


@dataclass(frozen=True)
class Choice:
    """One choice of a reply. What the server does not report is ``None``."""

    text: str = ""
    ids: tuple[int, ...] | None = None
    """New token ids, the end token included where the server returns it."""
    finish: str | None = None
    """The server's finish reason, as it stands."""
    new_tokens: int | None = None
    prompt_tokens: int | None = None
    cached_tokens: int = 0


class Dialect:
    """Any server with OpenAI's ``/v1/completions`` and ``/v1/chat/completions``: only what all of these support."""

    name: ClassVar[str] = "openai"
    by_ids: ClassVar[bool] = False
    """Takes and returns token ids."""
    by_text: ClassVar[bool] = True
    """Continues a raw text, without applying its own chat template."""
    by_prefill: ClassVar[bool] = False
    """Continues an assistant turn that the request begins (prefill)."""
    seeds: ClassVar[bool] = True
    """Takes a seed for each request."""
    several: ClassVar[bool] = False
    """Returns ``n`` choices for one prompt."""
    several_seeded: ClassVar[bool] = False
    """These choices differ under a seed, too."""
    lists: ClassVar[bool] = False
    """Takes several prompts in one request."""
    lists_seeded: ClassVar[bool] = False
    """Takes a seed for each of them."""
    hub_models: ClassVar[bool] = False
    """Names its models by hub ids or folders, so that their tokenizers can be loaded by name."""
    adds_special: ClassVar[bool] = False
    """Adds the tokenizer's special tokens to a text, and does not report the number of prompt tokens."""
    masks: ClassVar[bool] = False
    """Takes a list of the only allowed tokens and leaves their probabilities relative to each other unchanged."""
    echoes: ClassVar[bool] = False
    """Always repeats the prefill at the beginning of the reply; otherwise a trial request shows whether it does."""
    seed_name: ClassVar[str] = "seed"
    max_stop_strings: ClassVar[int] = 4
    """Stop strings that one request may have; further ones are searched for in the reply."""
    sampling_fields: ClassVar[Mapping[str, tuple[str, Json]]] = {"top_p": ("top_p", 1.0)}
    """Field of ``Sampling`` → the server's name for it, and its value for "off" (``None``: leave the field out)."""

    # -- requests

    def ids_request(self, request: CompletionRequest) -> Wire:
        """Path and body of a request whose prompts are token ids."""
        return self.text_request(request)

    def with_constraint(self, body: dict[str, Any], constraint: TokenConstraint) -> dict[str, Any]:
        """Return the body of a request by token ids with the allowed or forbidden tokens added."""
        return {**body, "logit_bias": {**(body.get("logit_bias") or {}), **logit_biases(constraint)}}

    def text_request(self, request: CompletionRequest) -> Wire:
        """Path and body of a request whose prompts are texts."""
        prompts = [list(prompt) if isinstance(prompt, tuple) else prompt for prompt in request.prompts]
        return "/v1/completions", {**self.common(request), "prompt": prompts if len(prompts) > 1 else prompts[0]}

    def chat_request(self, request: CompletionRequest) -> Wire:
        """Path and body of a chat request that continues the assistant's turn."""
        (chat,) = request.prompts
        assert isinstance(chat, Chat)  # noqa: S101 - only chats are requested this way
        body = {**self.common(request), "messages": list(chat.messages)}
        if chat.prefix:
            body["messages"].append(self.prefill_message(chat.prefix))
            body.update(self.prefill_fields())
        if chat.switches:
            body["chat_template_kwargs"] = dict(chat.switches)
        return "/v1/chat/completions", body

    def prefill_message(self, prefix: str) -> dict[str, Any]:
        """The message with the beginning of the answer."""
        return {"role": "assistant", "content": prefix}

    def prefill_fields(self) -> dict[str, Any]:
        """Further body fields by which the server continues the last message."""
        return {}

    def common(self, request: CompletionRequest) -> dict[str, Any]:
        """The body of a request without its prompts."""
        body: dict[str, Any] = {
            "model": request.model,
            "max_tokens": request.max_tokens,
            "temperature": request.sampling.temperature,
            **self.sampling(request.sampling),
        }
        if request.n > 1:
            body["n"] = request.n
        if request.stop:
            body["stop"] = list(request.stop[: self.max_stop_strings])
        if request.seed is not None and self.seeds:
            body[self.seed_name] = request.seed
        return merged(body, request.extra)

    def sampling(self, sampling: Sampling) -> dict[str, Any]:
        """The sampling settings under the server's names. "Off" is sent explicitly, since servers have defaults."""
        return {
            name: off if (value := getattr(sampling, ours)) is None else value
            for ours, (name, off) in self.sampling_fields.items()
            if off is not None or getattr(sampling, ours) is not None
        }

    def unsupported(self, sampling: Sampling) -> list[str]:
        """Names of the settings that the server cannot take.

        Raises:
            ConfigError: one of them was set explicitly.
        """
        lacking = [
            name
            for name in ("top_k", "top_p", "repetition_penalty")
            if name not in self.sampling_fields and getattr(sampling, name) is not None
        ]
        for name in lacking:
            if name in sampling.model_fields_set:
                raise ConfigError(
                    f"{name} is no parameter of {self.name} servers: set {name}=None, or use another server"
                )
        return lacking

    # -- replies

    def read_ids(self, data: Json, request: CompletionRequest) -> list[Choice]:
        """Read the reply to :meth:`ids_request`."""
        return self.read_text(data, request)

    def read_text(self, data: Json, request: CompletionRequest) -> list[Choice]:
        """Read the reply to :meth:`text_request`: one choice for each prompt and n, prompt by prompt."""
        return self._read(data, request, lambda choice: choice.get("text"))

    def read_chat(self, data: Json, request: CompletionRequest) -> list[Choice]:
        """Read the reply to :meth:`chat_request`."""
        return self._read(data, request, self._message_text)

    def _message_text(self, choice: Mapping[str, Any]) -> Json:
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

    def _read(
        self, data: Json, request: CompletionRequest, text_of: Callable[[Mapping[str, Any]], Json]
    ) -> list[Choice]:
        choices = data.get("choices") if isinstance(data, Mapping) else None
        if not isinstance(choices, list) or not all(isinstance(choice, Mapping) for choice in choices):
            raise EndpointServerError(f"the server's reply has no list of choices: {str(data)[:200]}")
        if len(choices) != request.choices:
            raise EndpointServerError(
                f"{request.choices} continuations were requested and {len(choices)} returned: a {self.name} server was "
                "expected to return as many as requested"
            )
        usage = data.get("usage")
        usage = usage if isinstance(usage, Mapping) else {}
        ordered = sorted(choices, key=lambda choice: choice.get("index") or 0)
        return [self._choice(choice, text_of(choice), usage, request) for choice in ordered]

    def _choice(
        self, choice: Mapping[str, Any], text: Json, usage: Mapping[str, Any], request: CompletionRequest
    ) -> Choice:
        if not isinstance(text, str):
            raise EndpointServerError(f"a choice of the server's reply has no text: {str(dict(choice))[:200]}")
        ids = choice.get("token_ids")
        # The usage is that of the whole request: it gives no count for one row among others.
        one_prompt, details = len(request.prompts) == 1, usage.get("prompt_tokens_details")
        cached = details.get("cached_tokens") if one_prompt and isinstance(details, Mapping) else None
        return Choice(
            text=text,
            ids=tuple(ids) if is_id_list(ids) else None,
            finish=choice.get("finish_reason"),
            new_tokens=_number(usage.get("completion_tokens")) if request.choices == 1 else None,
            prompt_tokens=_number(usage.get("prompt_tokens")) if one_prompt else None,
            cached_tokens=_number(cached) or 0,
        )


def logit_biases(constraint: TokenConstraint) -> dict[str, float]:
    """The constraint as OpenAI's ``logit_bias``."""
    return {str(token): BIAS if constraint.only else -BIAS for token in constraint.tokens}


def merged(body: Mapping[str, Any], extra: Mapping[str, Any] | None) -> dict[str, Any]:
    """A body with the user's fields; where both have an object under one name, the two objects are merged."""
    found = dict(body)
    for name, value in (extra or {}).items():
        ours = found.get(name)
        found[name] = {**ours, **value} if isinstance(ours, Mapping) and isinstance(value, Mapping) else value
    return found


def is_id_list(value: Json) -> TypeGuard[Sequence[int]]:
    """Whether this is a list of token ids."""
    return isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(token, int) for token in value)


def _number(value: Json) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
