"""Results as OpenAI's clients read them, whole and in chunks, with the search's figures beside them."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from langchain_core.messages import AIMessage
from openai.types import CompletionUsage
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import JsonValue

import darwin_align
from darwin_align import Policy
from darwin_align.core import Beam, SearchResult
from darwin_align.core.figures import figures_of
from darwin_align.langchain.answers import FIGURES, best_of
from darwin_align.langchain.tools import answer_message

from .conversation import call_chunks, invalid_text, thoughts_of, to_openai

__all__ = ["DONE", "Answer", "Answers", "Reply", "event"]

DONE = b"data: [DONE]\n\n"
_FINGERPRINT = f"darwin_align-{darwin_align.__version__}"


class Answer(NamedTuple):
    """A beam, and its text and tool calls as a message."""

    beam: Beam
    message: AIMessage

    @property
    def finish_reason(self) -> str | None:
        """Why it ended. One whose calls can all not be made has none to wait for."""
        reason = self.beam.finish_reason
        return "stop" if reason == "tool_calls" and not self.message.tool_calls else reason

    @property
    def darwin(self) -> dict[str, JsonValue]:
        """The ``darwin`` field of its choice."""
        return {"reward": self.beam.reward, "instruction": self.beam.instruction}


@dataclass(frozen=True)
class Answers:
    """The best answers of one search, best first."""

    result: SearchResult
    each: tuple[Answer, ...]

    @classmethod
    def of(cls, result: SearchResult, n: int, policy: Policy | None) -> Self:
        """Read the tool calls of the ``n`` best answers. The policy's tool syntax may take a request to a server."""
        return cls(result, tuple(Answer(beam, answer_message(result, beam, policy)) for beam in best_of(result, n)))

    @property
    def darwin(self) -> dict[str, JsonValue]:
        """The search's figures. Of a failure only the kind is returned: the rest may name servers of the operator's."""
        failure = self.result.failure
        kind = None if failure is None else failure.partition(":")[0]
        return {**figures_of(self.result, *FIGURES), "failure": kind}

    @property
    def headers(self) -> dict[str, str]:
        """The most important figures as headers, for clients that show nothing else."""
        figures = figures_of(self.result, "reward", "first_reward", "seed")
        return {
            f"x-darwin-{name.replace('_', '-')}": str(value) for name, value in figures.items() if value is not None
        }

    @property
    def usage(self) -> CompletionUsage:
        """What the whole search cost."""
        spent = self.result.usage
        prompt, completion = spent.prefilled_tokens, spent.decoded_tokens
        return CompletionUsage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion)


def event(data: Mapping[str, object]) -> bytes:
    """A server-sent event."""
    return b"data: " + json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


class Reply:
    """One reply's identity.

    Args:
        model: the name that the request gave.
    """

    def __init__(self, model: str) -> None:
        self.head = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": _FINGERPRINT,
        }

    def whole(self, answers: Answers) -> dict[str, Any]:
        """All answers at once, best first."""
        choices = [
            {
                "index": i,
                "message": to_openai(answer.message),
                "finish_reason": answer.finish_reason,
                "logprobs": None,
                "darwin": answer.darwin,
            }
            for i, answer in enumerate(answers.each)
        ]
        fields = {"object": "chat.completion", "usage": answers.usage, "darwin": answers.darwin}
        made = ChatCompletion.model_validate({**self.head, **fields, "choices": choices})
        return made.model_dump(mode="json", exclude_unset=True)

    def stream(self, answers: Answers) -> Iterator[bytes]:
        """All answers one after the other, best first; :meth:`begin` of the first was sent before."""
        for index, answer in enumerate(answers.each):
            if index:
                yield self.begin(index)
            if thoughts := thoughts_of(answer.message):
                yield self._chunk([_choice(index, {"reasoning_content": thoughts})])
            if text := answer.message.text + invalid_text(answer.message):
                yield self._chunk([_choice(index, {"content": text})])
            if calls := call_chunks(answer.message):
                yield self._chunk([_choice(index, {"tool_calls": calls})])
            end = _choice(index, {}, answer.finish_reason, darwin=answer.darwin)
            yield self._chunk([end], **({} if index else {"darwin": answers.darwin}))

    def begin(self, index: int = 0) -> bytes:
        """The first chunk of an answer."""
        return self._chunk([_choice(index, {"role": "assistant", "content": ""})])

    def usage(self, answers: Answers) -> bytes:
        """The chunk without choices that carries the usage."""
        return self._chunk([], usage=answers.usage)

    def _chunk(self, choices: list[dict[str, Any]], **fields: Any) -> bytes:
        made = ChatCompletionChunk.model_validate(
            {**self.head, "object": "chat.completion.chunk", "choices": choices, **fields}
        )
        return event(made.model_dump(mode="json", exclude_unset=True))


def _choice(index: int, delta: dict[str, Any], finish: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"index": index, "delta": delta, "finish_reason": finish, "logprobs": None, **fields}
