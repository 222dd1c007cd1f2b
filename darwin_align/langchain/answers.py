"""A search's result as LangChain's messages, generations and chunks."""

from __future__ import annotations

from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

from darwin_align.core import Beam, SearchResult
from darwin_align.core.figures import Figure, figures_of
from darwin_align.langchain.tools import answer_message, call_chunks
from darwin_align.operators.policy import Policy

__all__ = ["FIGURES", "as_chunk", "best_of", "chat_result", "end_chunk", "with_id"]

FIGURES: tuple[Figure, ...] = (
    "reward",
    "first_response",
    "first_reward",
    "instruction",
    "cycles",
    "stop_reason",
    "failure",
    "max_new_tokens",
    "seed",
    "usage",
    "exploration",
)
"""Figures of a search in its messages' ``response_metadata["darwin"]``."""


def with_id(chunk: ChatGenerationChunk, message_id: str) -> ChatGenerationChunk:
    """Give a chunk its message's id, by which handlers match the message to its tokens."""
    chunk.message.id = message_id
    return chunk


def end_chunk() -> ChatGenerationChunk:
    """Make the empty chunk that ends a stream."""
    return ChatGenerationChunk(message=AIMessageChunk(content="", chunk_position="last"))


def best_of(result: SearchResult, n: int) -> tuple[Beam, ...]:
    """The ``n`` best answers, best first; fewer where the search found fewer, one at least."""
    return result.ranking[:n] or (result.best,)


def chat_result(result: SearchResult, n: int, model_name: str, policy: Policy | None) -> ChatResult:
    """Make messages of the best answers of a search.

    Args:
        result: of the search.
        n: how many answers; there are fewer where the search found fewer.
        model_name: for their metadata.
        policy: the one that decoded them: its tool syntax reads their tool calls.
    """
    usage = UsageMetadata(
        input_tokens=result.usage.prefilled_tokens,
        output_tokens=result.usage.decoded_tokens,
        total_tokens=result.usage.prefilled_tokens + result.usage.decoded_tokens,
    )
    generations = []
    for rank, beam in enumerate(best_of(result, n)):
        metadata = {
            "model_name": model_name,
            "finish_reason": beam.finish_reason,
            "darwin": figures_of(result, *FIGURES, beam=beam),
        }
        # The usage of the whole search is counted once, on its best answer.
        spent = usage if rank == 0 else None
        message = answer_message(result, beam, policy, response_metadata=metadata, usage_metadata=spent)
        generations.append(ChatGeneration(message=message, generation_info={"finish_reason": beam.finish_reason}))
    return ChatResult(generations=generations, llm_output={"model_name": model_name, "usage": usage})


def as_chunk(result: ChatResult) -> ChatGenerationChunk:
    """Make one chunk of the best answer."""
    message = result.generations[0].message
    assert isinstance(message, AIMessage)  # noqa: S101 - built by chat_result
    chunk = AIMessageChunk(
        content=message.content,
        tool_call_chunks=call_chunks(message),
        additional_kwargs=message.additional_kwargs,
        response_metadata=message.response_metadata,
        usage_metadata=message.usage_metadata,
    )
    return ChatGenerationChunk(message=chunk, generation_info=result.generations[0].generation_info)
