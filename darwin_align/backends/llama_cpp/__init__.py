"""A GGUF file as the policy: llama.cpp decodes it in a child process and is continued by token ids."""

from darwin_align.backends.llama_cpp.policy import LlamaCppPolicy

__all__ = ["LlamaCppPolicy"]
