"""Dialects: what one kind of server wants to hear, one a file."""

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

__all__ = ["DIALECTS", "Chat", "Choice", "CompletionRequest", "Dialect"]

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
