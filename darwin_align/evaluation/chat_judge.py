"""A chat model behind an OpenAI-compatible endpoint, which judges answers."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from darwin_align.core.errors import ConfigError, EndpointRequestError, EndpointServerError
from darwin_align.core.json_types import Json

if TYPE_CHECKING:
    from darwin_align.backends.endpoint.limits import Limits

__all__ = ["ChatJudge", "JudgeReply", "add_judge", "filled", "judge_of"]

Turns = Sequence[Mapping[str, str]]

_OPTIONAL = {
    "seed": re.compile(r"\bseed\b"),
    "temperature": re.compile(r"\btemperature\b"),
    "max_tokens": re.compile(r"\bmax_tokens\b"),
}
"""Fields that a server may not support, and how its refusal names them."""


@dataclass(frozen=True)
class JudgeReply:
    """A judge's reply."""

    text: str
    top: tuple[tuple[str, float], ...] = ()
    """Of its first token: the likeliest tokens with their log-probabilities, where requested."""
    tokens: int = 0
    """Tokens read and generated."""


@dataclass
class ChatJudge:
    """A judge: a model's name and its endpoint.

    What a server refuses among seed, temperature and ``max_tokens`` is left out from then on; see :attr:`notes`.

    >>> ChatJudge("http://127.0.0.1:8000", "Qwen/Qwen3-8B").model
    'Qwen/Qwen3-8B'
    """

    base_url: str | Sequence[str]
    model: str
    api_key: SecretStr | None = field(default=None, repr=False)
    limits: Limits | None = None

    def __post_init__(self) -> None:
        from darwin_align.backends.endpoint.client import Endpoint

        self._endpoint = Endpoint(self.base_url, role="judge", api_key=self.api_key, limits=self.limits)
        self._dropped: dict[str, str] = {}

    @property
    def notes(self) -> tuple[str, ...]:
        """The settings that the server refused."""
        return tuple(self._dropped.values())

    async def ask(self, turns: Turns, *, top: int = 0, **settings: Json) -> JudgeReply:
        """Send one request.

        Args:
            turns: messages with ``role`` and ``content``.
            top: how many of the first token's likeliest ones are returned with their log-probabilities.
            settings: further fields of the request.

        Raises:
            EndpointError: the judge cannot be used, or fails for good.
        """
        logprobs = {"logprobs": True, "top_logprobs": top} if top else {}
        body: dict[str, Any] = {"model": self.model, "messages": list(turns), **logprobs, **settings}
        while True:
            sent = {name: value for name, value in body.items() if name not in self._dropped}
            if "max_tokens" in self._dropped and "max_tokens" in body:
                sent["max_completion_tokens"] = body["max_tokens"]
            try:
                return self._read((await self._endpoint.post("/v1/chat/completions", sent)).data)
            except EndpointRequestError as error:
                self._drop(sent, error)

    def _drop(self, sent: Mapping[str, Any], error: EndpointRequestError) -> None:
        message = str(error)
        refused = next((name for name, words in _OPTIONAL.items() if name in sent and words.search(message)), None)
        if refused is None:
            raise error
        instead = "max_completion_tokens is sent" if refused == "max_tokens" else "it is left out"
        self._dropped[refused] = f"the judge {self.model} does not take {refused}: {instead}"

    def _read(self, data: Json) -> JudgeReply:
        try:
            choice = data["choices"][0]
            text = choice["message"].get("content") or ""
            tokens = (data.get("usage") or {}).get("total_tokens") or 0
            top = _top(choice.get("logprobs"))
        except (KeyError, IndexError, TypeError, AttributeError):
            raise EndpointServerError(
                f"the judge on {self._endpoint.roots[0]} answered without a message: does it speak OpenAI's chat "
                "completions?"
            ) from None
        return JudgeReply(str(text), top, int(tokens))


def _top(logprobs: Json) -> tuple[tuple[str, float], ...]:
    content = (logprobs or {}).get("content") or []
    listed = content[0].get("top_logprobs") or [] if content else []
    return tuple((str(one["token"]), float(one["logprob"])) for one in listed)


def filled(template: str, values: Mapping[str, str]) -> str:
    """Fill ``{name}`` in a template, once: texts of users and models may contain braces.

    >>> filled("{a} and {b} {c}", {"a": "{b}", "b": "2"})
    '{b} and 2 {c}'
    """
    names = "|".join(map(re.escape, values))
    return re.sub(rf"\{{({names})\}}", lambda match: values[match[1]], template)


# -- the command line


def add_judge(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add the options of the judge."""
    group = parser.add_argument_group("who judges (default: nobody; the answers are written for a judge of your own)")
    group.add_argument("--judge-url", metavar="URL", help="an OpenAI-compatible server with a chat model")
    group.add_argument("--judge-model", metavar="NAME", help="the model's name there")
    group.add_argument("--judge-api-key-env", metavar="NAME", help="environment variable with the judge's key")
    group.add_argument("--judge-concurrency", type=int, default=8, help="questions to it under way (default: 8)")
    return group


def judge_of(arguments: argparse.Namespace) -> ChatJudge | None:
    """The judge that the options describe, if any.

    Raises:
        ConfigError: options that contradict each other.
    """
    if arguments.judge_url is None:
        for name in ("judge_model", "judge_api_key_env"):
            if getattr(arguments, name) is not None:
                raise ConfigError(f"--{name.replace('_', '-')} needs --judge-url: it is for a judge behind an endpoint")
        return None
    if arguments.judge_model is None:
        raise ConfigError("--judge-url needs --judge-model: results are nobody's without their judge's name")
    if "/" in arguments.judge_model and arguments.judge_model.endswith("/"):
        raise ConfigError(f"--judge-model {arguments.judge_model!r} ends with a slash: give the model's name")
    if arguments.judge_concurrency < 1:
        raise ConfigError(f"--judge-concurrency {arguments.judge_concurrency} is impossible: allow one at least")
    key = None
    if (name := arguments.judge_api_key_env) is not None:
        if not os.environ.get(name):
            raise ConfigError(f"--judge-api-key-env: the environment variable {name} is not set")
        key = SecretStr(os.environ[name])
    return ChatJudge(arguments.judge_url, arguments.judge_model, key)
