"""A text's tokens, as a chat model counts them."""

from __future__ import annotations

from darwin_align.core.errors import ConfigError
from darwin_align.operators.policy import Policy

__all__ = ["token_ids"]


def token_ids(policy: Policy | None, text: str) -> list[int]:
    """Return the token ids of a text by the policy's tokenizer, without special tokens.

    Raises:
        ConfigError: the policy has no tokenizer on this machine.
    """
    if (template := getattr(policy, "template", None)) is None:
        raise ConfigError(
            f"{type(policy).__name__} has no tokenizer here to count tokens by: give custom_get_token_ids=…, or an "
            "EndpointPolicy its tokenizer=…"
        )
    return list(template.tokenizer.encode(text, add_special_tokens=False))
