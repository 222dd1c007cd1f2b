"""Dialects: how each kind of server is requested and read, one a file.

Those in :data:`EXPERIMENTAL` were written from documentation and were never run against a server.
"""

from darwin_align.backends.endpoint.dialects.base import Chat, Choice, CompletionRequest, Dialect
from darwin_align.backends.endpoint.dialects.deepseek import DeepSeek
from darwin_align.backends.endpoint.dialects.llama_cpp import LlamaCpp
from darwin_align.backends.endpoint.dialects.mistral import Mistral
from darwin_align.backends.endpoint.dialects.ollama import Ollama
from darwin_align.backends.endpoint.dialects.openrouter import OpenRouter
from darwin_align.backends.endpoint.dialects.sglang import SGLang
from darwin_align.backends.endpoint.dialects.tgi import TGI
from darwin_align.backends.endpoint.dialects.together import Together
from darwin_align.backends.endpoint.dialects.transformers_serve import TransformersServe
from darwin_align.backends.endpoint.dialects.vllm import VLLM

__all__ = ["DIALECTS", "EXPERIMENTAL", "Chat", "Choice", "CompletionRequest", "Dialect"]

DIALECTS: dict[str, Dialect] = {
    dialect.name: dialect()
    for dialect in (
        VLLM,
        SGLang,
        LlamaCpp,
        TransformersServe,
        TGI,
        OpenRouter,
        Mistral,
        DeepSeek,
        Ollama,
        Together,
        Dialect,
    )
}
"""By name; "openai" is any other server."""

EXPERIMENTAL: frozenset[str] = frozenset(
    dialect.name for dialect in (SGLang, TGI, OpenRouter, Mistral, DeepSeek, Ollama, Together)
)
"""Dialects of servers that were never run: the matrix in ``docs/models.md`` marks the same ones."""
