"""Chat models by name, as LangChain's ``init_chat_model`` knows them: ``"openai:gpt-5.5"``, ``"ollama:qwen3:8b"``."""

from __future__ import annotations

import re
from typing import Any

from langchain_core.language_models import BaseChatModel

from darwin_align.core.errors import ConfigError, MissingPackageError
from darwin_align.core.extras import missing_extra

__all__ = ["chat_model_of", "names_chat_model"]

# Two letters at least: "C:\models" is a folder. No address, no folder: a model's own name may contain anything.
_NAME = re.compile(r"[a-z][a-z0-9_]+:(?!//)\S+")


def names_chat_model(name: str) -> bool:
    r"""Whether a text has the form ``provider:model``; hub ids, folders and addresses have not.

    >>> names_chat_model("openai:gpt-5.5"), names_chat_model("ollama:qwen3:8b")
    (True, True)
    >>> [names_chat_model(name) for name in ("Qwen/Qwen3-8B", "http://127.0.0.1:8000", r"C:\models", "models/mine")]
    [False, False, False, False]
    """
    return _NAME.fullmatch(name) is not None


def chat_model_of(name: str, **options: Any) -> BaseChatModel:
    """Make the chat model of a provider by :func:`langchain.chat_models.init_chat_model`.

    >>> chat_model_of("openai:gpt-5.5", api_key="secret", temperature=0.2)  # doctest: +SKIP

    Args:
        name: ``provider:model``.
        options: of the provider's chat model, e.g. ``temperature``, ``base_url``, ``api_key``.

    Raises:
        ConfigError: the name has another form, or the provider is not known.
        MissingPackageError: ``langchain``, or the provider's package, is not installed.
    """
    if not names_chat_model(name):
        raise ConfigError(f"{name!r} names no chat model: give 'provider:model', e.g. 'openai:gpt-5.5'")
    try:
        from langchain.chat_models import init_chat_model
    except ImportError as error:
        raise MissingPackageError(
            f"{name!r} is a chat model by name: {missing_extra(error, 'langgraph', program=False)}"
        ) from error
    try:
        made: BaseChatModel = init_chat_model(name, **options)
    except ImportError as error:
        raise MissingPackageError(f"{name!r} needs its provider's package: {error}") from error
    except ValueError as error:
        raise ConfigError(f"no chat model {name!r} can be made: {error}") from error
    return made
