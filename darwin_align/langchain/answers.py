"""What a search found, as LangChain's messages, generations and chunks."""

from __future__ import annotations

from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

from darwin_align.core import Beam, SearchResult
from darwin_align.langchain.tools import call_chunks, message_of

__all__ = ["as_chunk", "chat_result", "end_chunk", "with_id"]


def with_id(chunk: ChatGenerationChunk, message_id: str) -> ChatGenerationChunk:
    """Give a chunk its message's id, so that whoever has seen the tokens knows the message again."""
    chunk.message.id = message_id
    return chunk


def end_chunk() -> ChatGenerationChunk:
    """Make the empty chunk that ends a stream."""
    return ChatGenerationChunk(message=AIMessageChunk(content="", chunk_position="last"))


def chat_result(result: SearchResult, n: int, model_name: str, policy: Any) -> ChatResult:
    """Make messages of the best answers of a search.

    Args:
        result: of the search.
        n: how many answers; there are fewer where the search found fewer.
        model_name: as their metadata tell it.
        policy: whoever wrote them, and knows how its model writes calls of tools.
    """
    beams = result.ranking[:n] or (result.best,)
    usage = UsageMetadata(
        input_tokens=result.usage.prefilled_tokens,
        output_tokens=result.usage.decoded_tokens,
        total_tokens=result.usage.prefilled_tokens + result.usage.decoded_tokens,
    )
    generations = []
    for rank, beam in enumerate(beams):
        metadata = {
            "model_name": model_name,
            "finish_reason": beam.finish_reason,
            "darwin": _darwin_metadata(result, beam),
        }
        # What the whole search spent is counted once, on its best answer.
        told: dict[str, Any] = {"response_metadata": metadata, "usage_metadata": usage if rank == 0 else None}
        message = message_of(result, beam, policy, **told)
        generations.append(ChatGeneration(message=message, generation_info={"finish_reason": beam.finish_reason}))
    return ChatResult(generations=generations, llm_output={"model_name": model_name, "usage": usage})


def _darwin_metadata(result: SearchResult, beam: Beam) -> dict[str, Any]:
    return {
        "reward": beam.reward,
        "first_response": result.first_response.text,
        "first_reward": result.first_response.reward,
        "instruction": beam.instruction,
        "cycles": result.cycles,
        "stop_reason": result.stop_reason,
        "failure": result.failure,
        "max_new_tokens": result.config.max_new_tokens,
        "seed": result.config.seed,
        "usage": result.usage.model_dump(),
    }


def as_chunk(result: ChatResult) -> ChatGenerationChunk:
    """Make one chunk of the best answer."""
    message = result.generations[0].message
    assert isinstance(message, AIMessage)  # noqa: S101 - built by chat_result
    chunk = AIMessageChunk(
        content=message.content,
        tool_call_chunks=call_chunks(message),
        response_metadata=message.response_metadata,
        usage_metadata=message.usage_metadata,
    )
    return ChatGenerationChunk(message=chunk, generation_info=result.generations[0].generation_info)
