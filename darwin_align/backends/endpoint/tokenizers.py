"""Tokenizers of remote models, loaded on this machine."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from darwin_align.backends.templates import ChatTemplate
from darwin_align.backends.text_encoder import BosFrom
from darwin_align.core.errors import ModelLoadError
from darwin_align.core.json_types import Json

__all__ = ["load_template", "load_tokenizer", "may_be_loaded", "tokenizer_length"]

logger = logging.getLogger(__name__)

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+", re.ASCII)

_NO_LIMIT = 10**9
"""Tokenizers without a limit have a ``model_max_length`` far above this."""


@lru_cache(maxsize=16)
def load_tokenizer(path: str | Path) -> Any:
    """Load a tokenizer from a folder or by its hub id, once a process.

    Raises:
        ModelLoadError: there is none, or it needs remote code.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelLoadError(
            f"cannot load a tokenizer from {str(path)!r}: give a folder, or a hub id that can be reached "
            f"({str(error).splitlines()[0] if str(error) else type(error).__name__})"
        ) from error


def may_be_loaded(name: str, given: str | None) -> bool:
    """Whether a tokenizer may be loaded by the name that a server reports for its model.

    Servers are not trusted. They may name a public repository, but no file on this machine: a path is refused, and so
    is a hub id that is also a path relative to the working directory.

    Args:
        name: the server's name for its model, or where it reports to have loaded it from.
        given: the model's name as the user gave it; any is accepted.
    """
    if name == given:
        return True
    if _HUB_ID.fullmatch(name) and ".." not in name and not Path(name).exists():
        logger.info(
            "the server names its model %r: the tokenizer of that name is loaded from the hub or its cache", name
        )
        return True
    logger.info("the server names its model %r, which is no hub id or is a path here: no tokenizer is loaded", name)
    return False


def tokenizer_length(path: str | Path) -> int | None:
    """The context length that a tokenizer states, if it states one."""
    length = load_tokenizer(path).model_max_length
    return int(length) if 0 < length < _NO_LIMIT else None


def load_template(
    path: str | Path,
    chat_template: str | Path | None = None,
    *,
    bos: BosFrom = "template",
    switches: Mapping[str, Json] | None = None,
) -> ChatTemplate:
    """Load a tokenizer and its chat template.

    Raises:
        ModelLoadError: there is no such tokenizer, or it has no chat template.
        ConfigError: the template does not read a switch.
    """
    return ChatTemplate(
        load_tokenizer(path), chat_template, name=f"the model {str(path)!r}", bos=bos, switches=switches
    )
