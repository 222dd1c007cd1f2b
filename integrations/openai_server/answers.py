"""Answers as OpenAI's clients read them, whole and in chunks, with what the search says of itself beside them."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from langchain_core.messages import AIMessage
from openai.types import CompletionUsage
from openai.types.chat import ChatCompletion, ChatCompletionChunk

import darwin_align

from .conversation import call_chunks, invalid_text, to_openai

__all__ = ["DONE", "Reply", "darwin_of", "event", "headers_of"]

DONE = b"data: [DONE]\n\n"
_FINGERPRINT = f"darwin_align-{darwin_align.__version__}"


def darwin_of(message: AIMessage) -> dict[str, Any]:
    """What a search says of itself. Of a failure it tells the kind: the rest may name servers of the operator's."""
    told = dict(message.response_metadata["darwin"])
    if told["failure"] is not None:
        told["failure"] = str(told["failure"]).partition(":")[0]
    return told


def headers_of(message: AIMessage) -> dict[str, str]:
    """The most important of it as headers, for clients that show nothing else."""
    told = darwin_of(message)
    names = {"x-darwin-reward": "reward", "x-darwin-first-reward": "first_reward", "x-darwin-seed": "seed"}
    return {header: str(told[name]) for header, name in names.items() if told[name] is not None}


def event(data: Mapping[str, Any]) -> bytes:
    """A server-sent event."""
    return b"data: " + json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


class Reply:
    """One reply's identity.

    Args:
        model: the name that was asked for.
    """

    def __init__(self, model: str) -> None:
        self.head = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": _FINGERPRINT,
        }

    def whole(self, messages: Sequence[AIMessage]) -> dict[str, Any]:
        """All answers at once, best first."""
        choices = [
            {
                "index": i,
                "message": to_openai(message),
                "finish_reason": _finish(message),
                "logprobs": None,
                "darwin": _of_choice(message),
            }
            for i, message in enumerate(messages)
        ]
        fields = {"object": "chat.completion", "usage": _usage(messages[0]), "darwin": darwin_of(messages[0])}
        made = ChatCompletion.model_validate({**self.head, **fields, "choices": choices})
        return made.model_dump(mode="json", exclude_unset=True)

    def piece(self, text: str, index: int = 0) -> bytes:
        """Text of an answer."""
        return self._chunk([_choice(index, {"content": text})])

    def begin(self, index: int = 0) -> bytes:
        """The first chunk of an answer."""
        return self._chunk([_choice(index, {"role": "assistant", "content": ""})])

    def body(self, message: AIMessage, index: int) -> Iterator[bytes]:
        """An answer's text and calls, and its end."""
        if text := message.text + invalid_text(message):
            yield self.piece(text, index)
        if calls := call_chunks(message):
            yield self._chunk([_choice(index, {"tool_calls": calls})])
        finish = _choice(index, {}, _finish(message), darwin=_of_choice(message))
        yield self._chunk([finish], **({"darwin": darwin_of(message)} if index == 0 else {}))

    def usage(self, message: AIMessage) -> bytes:
        """The chunk without choices that tells what was spent."""
        return self._chunk([], usage=_usage(message))

    def _chunk(self, choices: list[dict[str, Any]], **fields: Any) -> bytes:
        made = ChatCompletionChunk.model_validate(
            {**self.head, "object": "chat.completion.chunk", "choices": choices, **fields}
        )
        return event(made.model_dump(mode="json", exclude_unset=True))


def _choice(index: int, delta: dict[str, Any], finish: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"index": index, "delta": delta, "finish_reason": finish, "logprobs": None, **fields}


def _finish(message: AIMessage) -> str:
    """Why an answer ended. One whose calls can all not be made has none to wait for."""
    reason: str = message.response_metadata["finish_reason"]
    return "stop" if reason == "tool_calls" and not message.tool_calls else reason


def _of_choice(message: AIMessage) -> dict[str, Any]:
    told = message.response_metadata["darwin"]
    return {"reward": told["reward"], "instruction": told["instruction"]}


def _usage(message: AIMessage) -> CompletionUsage:
    spent = message.response_metadata["darwin"]["usage"]
    read, written = spent["prefilled_tokens"], spent["decoded_tokens"]
    return CompletionUsage(prompt_tokens=read, completion_tokens=written, total_tokens=read + written)
