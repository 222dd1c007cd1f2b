"""The byte-level tokenizers of the backends' tests."""

from tests.backends.conftest import tokenizers

__all__ = ["tokenizers"]
