"""A chat model's run, as the parent of its search's runs.

LangChain's chat models have no children: their run managers have no ``get_child``, and ``stream`` calls ``_stream``
without any. These helpers give them children all the same.
"""

from __future__ import annotations

from typing import Any, cast
from uuid import UUID

from langchain_core.callbacks import (
    AsyncCallbackManagerForLLMRun,
    BaseCallbackHandler,
    CallbackManager,
    CallbackManagerForLLMRun,
    Callbacks,
)
from langchain_core.callbacks.base import BaseCallbackManager
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import ensure_config
from langchain_core.utils.uuid import uuid7

__all__ = ["RunManager", "children_of", "run_and_children"]

RunManager = CallbackManagerForLLMRun | AsyncCallbackManagerForLLMRun


def children_of(run_manager: RunManager) -> RunnableConfig:
    """Return a config whose runs are children of the chat model's run.

    Its callback manager also has the handlers that the chat model's constructor was given. They are not inheritable:
    they receive the custom events of the chat model's own run, and nothing of its children.
    """
    return RunnableConfig(
        callbacks=_children(
            run_manager.handlers,
            run_manager.inheritable_handlers,
            run_manager.run_id,
            run_manager.inheritable_tags,
            run_manager.inheritable_metadata,
        )
    )


def run_and_children(config: RunnableConfig | None, own: Callbacks) -> tuple[RunnableConfig, RunnableConfig]:
    """Return a config for ``stream`` and one for the children of the run that it will start.

    Args:
        config: the call's.
        own: callbacks that were given to the chat model's constructor.

    The run's id is drawn here, where it is not given, and so are the handlers that the environment adds: a tracer of
    its own would not have its parent.
    """
    config = ensure_config(config)
    config["run_id"] = run_id = config.get("run_id") or uuid7()
    known = CallbackManager.configure(_plain(config.get("callbacks")))
    handlers = CallbackManager.configure(_plain(config.get("callbacks")), _plain(own)).handlers
    config["callbacks"] = known
    tags = [*known.inheritable_tags, *config.get("tags", [])]
    metadata = {**known.inheritable_metadata, **config.get("metadata", {})}
    return config, RunnableConfig(callbacks=_children(handlers, known.inheritable_handlers, run_id, tags, metadata))


def _plain(callbacks: Callbacks) -> Callbacks:
    # An asynchronous manager's fields serve a plain one as well: both run both kinds of handlers.
    return cast("Callbacks", callbacks) if isinstance(callbacks, BaseCallbackManager) else list(callbacks or [])


def _children(
    handlers: list[BaseCallbackHandler],
    inheritable: list[BaseCallbackHandler],
    run_id: UUID,
    tags: list[str],
    metadata: dict[str, Any],
) -> CallbackManager:
    manager = CallbackManager(handlers=list(handlers), inheritable_handlers=list(inheritable), parent_run_id=run_id)
    manager.add_tags(list(dict.fromkeys(tags)))
    # Metadata that names the chat model belongs to the model's own run.
    manager.add_metadata({name: value for name, value in metadata.items() if not name.startswith("ls_")})
    return manager
