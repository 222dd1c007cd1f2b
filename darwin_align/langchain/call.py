"""The settings of one call of a chat model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Self

from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import patch_config

from darwin_align.core.errors import ConfigError
from darwin_align.core.record import did_you_mean
from darwin_align.langchain.structured import as_response_format
from darwin_align.langchain.tools import bound_tools

__all__ = ["Call", "deciding", "streamable"]


class Call:
    """One call's settings, as the search takes them, and what the chat model itself reads of them.

    Args:
        given: the call's keyword arguments.
        stop: texts that end an answer.
        configurable: returns the ids that ``given["configurable"]`` may contain.

    Raises:
        ConfigError: ``n``, a tool or a configurable id cannot be used.
    """

    def __init__(
        self, given: Mapping[str, Any], stop: Iterable[str], configurable: Callable[[], Iterable[str]]
    ) -> None:
        self.settings = dict(given)
        if stop := list(stop):
            self.settings["stop"] = stop
        self.settings.pop("stream", None)  # decides how the answer comes, not the answer
        if isinstance(form := self.settings.get("response_format"), type):
            self.settings["response_format"] = as_response_format(form)
        if (tools := self.settings.get("tools")) and not all(isinstance(tool, dict) for tool in tools):
            self.settings.update(bound_tools(tools))
        self.configurable = self.settings.pop("configurable", None)
        if self.configurable:
            known = list(configurable())
            if unknown := sorted(self.configurable.keys() - set(known)):
                raise ConfigError(f"no operator has a configurable {unknown[0]!r}: {did_you_mean(unknown[0], known)}")
        n = self.settings.pop("n", None)
        self.n: int = 1 if n is None else n
        if not isinstance(self.n, int) or self.n < 1:
            raise ConfigError(f"n = {n!r}: it is the number of answers to return, best first, so at least 1")

    def plain(self) -> Self:
        """Make it one plain sample."""
        self.settings.update(cycles=0, lookahead=0)
        return self

    def config(self, parent: RunnableConfig | None = None) -> RunnableConfig:
        """Return the config of the search: the parent's, with what the call makes configurable."""
        return patch_config(parent, configurable=self.configurable)


def deciding(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call that may decide its answer."""
    return {name: value for name, value in given.items() if name not in ("on_event", "progress", "stream")}


def streamable(given: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call that is streamed.

    Raises:
        ConfigError: several answers are requested.
    """
    if given.get("n") not in (None, 1):
        raise ConfigError(f"n = {given['n']!r}: a stream carries one answer; leave n out, or call generate(…, n=…)")
    return given
