"""Settings are those of the library's own tests: no hub, one thread, no tracing service."""

import tests.conftest  # noqa: F401
