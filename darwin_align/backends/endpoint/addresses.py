"""Base URLs, keys and headers as users give them: checked, and read from the environment."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence

import httpx
from pydantic import SecretStr

from darwin_align.core.errors import ConfigError

__all__ = ["KEY_VARIABLES", "base_url_of", "header_name", "key_from_environment", "secret_of"]

logger = logging.getLogger(__name__)

KEY_VARIABLES = {
    "openrouter.ai": "OPENROUTER_API_KEY",
    "api.mistral.ai": "MISTRAL_API_KEY",
    "api.deepseek.com": "DEEPSEEK_API_KEY",
    "api.together.xyz": "TOGETHER_API_KEY",
    "api.together.ai": "TOGETHER_API_KEY",
    "api.openai.com": "OPENAI_API_KEY",
    "integrate.api.nvidia.com": "NVIDIA_API_KEY",
    "api-inference.huggingface.co": "HF_TOKEN",
    "router.huggingface.co": "HF_TOKEN",
}
"""Environment variable of each provider's key. It is sent to that provider only; ``DARWIN_ALIGN_API_KEY`` to any."""

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CALLS = (
    "/chat/completions",
    "/completions",
    "/completion",
    "/models",
    "/generate",
    "/embeddings",
    "/classify",
    "/pooling",
    "/score",
    "/rerank",
    "/predict",
    "/get_reward",
)
"""Paths of calls that users copy from documentation together with the address."""
_HIGHEST_PORT = 65535


def secret_of(value: str | SecretStr, name: str) -> SecretStr:
    """Check and wrap a key or the value of a header.

    Raises:
        ConfigError: it cannot be sent in a header.
    """
    secret = value if isinstance(value, SecretStr) else SecretStr(value)
    plain = secret.get_secret_value()
    if not (plain.isascii() and plain.isprintable() and plain == plain.strip()):
        raise ConfigError(f"{name} contains something that no header can, perhaps a line end or a space around it")
    return secret


def header_name(name: str) -> str:
    """Check the name of a header.

    Raises:
        ConfigError: it has characters that no name may have.
    """
    if not _HEADER_NAME.fullmatch(name):
        raise ConfigError(f"{name!r:.80} is no name for a header")
    return name


def base_url_of(url: str, *, exact: bool) -> str:
    """Check a base URL and remove a trailing ``/v1``; unless ``exact``, also the path of a call, with a warning.

    Raises:
        ConfigError: it is no HTTP address, or it has a user name, a query or a fragment.
    """
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, TypeError):
        raise ConfigError(f"{_shown(url)} is no URL: give e.g. 'http://127.0.0.1:8000'") from None
    if parsed.scheme not in ("http", "https") or not parsed.host or (parsed.port or 0) > _HIGHEST_PORT:
        raise ConfigError(f"{_shown(url)} is no web address: give e.g. 'http://127.0.0.1:8000'")
    if parsed.userinfo or parsed.query or parsed.fragment:
        raise ConfigError("a base_url contains an address only: give keys as api_key=… or headers=…")
    root = url.rstrip("/")
    if not exact and (call := next((call for call in _CALLS if parsed.path.rstrip("/").endswith(call)), None)):
        root = root.removesuffix(call).removesuffix("/v1").rstrip("/")
        logger.warning("base_url=%r ends with the name of a call: %r is taken for the server's address", url, root)
    return root.removesuffix("/v1")


def _shown(url: object) -> str:
    """A URL that cannot be used, unless it may hold a password."""
    return "base_url" if {*"@?#"} & {*str(url)} else f"base_url={url!r:.80}"


def key_from_environment(roots: Sequence[str]) -> SecretStr | None:
    """The key for these base URLs, if the environment has one. A provider's own needs HTTPS and no other host."""
    urls = {(url.scheme, url.host) for url in map(httpx.URL, roots)}
    scheme, host = urls.pop() if len(urls) == 1 else ("", "")
    own = KEY_VARIABLES.get(host, "") if scheme == "https" else ""
    return next((secret_of(key, name) for name in (own, "DARWIN_ALIGN_API_KEY") if (key := os.environ.get(name))), None)
