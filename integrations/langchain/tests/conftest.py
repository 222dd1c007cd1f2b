"""Settings and real servers are those of the library's own tests."""

from tests.conftest import embedded_gguf, llama  # noqa: F401 - fixtures
