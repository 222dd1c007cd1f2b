"""Settings of a search written as text, ``NAME=VALUE``, as command lines have them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from darwin_align.core import Sampling, SearchConfig
from darwin_align.core.errors import ConfigError
from darwin_align.langchain.settings import ALIASES

__all__ = ["settings_of"]


def settings_of(preset: str, given: Sequence[str], **defaults: Any) -> tuple[SearchConfig, Sampling]:
    """Read a preset and ``name=value`` changes to it.

    >>> settings_of("darwin", ["cycles=1", "temperature=0.2"])[0].cycles
    1

    Args:
        preset: its name.
        given: the changes. Values are JSON where they can be read as such, else the text itself.
        defaults: settings of the search, unless they are among the changes.

    Raises:
        ConfigError: a change is no such pair, unknown, impossible, or given twice.
    """
    changes: dict[str, dict[str, Any]] = {"search": {}, "sampling": {}}
    for text in given:
        name, equals, value = text.partition("=")
        name = ALIASES.get(name, name)
        if not equals:
            raise ConfigError(f"--set {text!r} is no pair: write --set {text or 'cycles'}=VALUE")
        _check_name(name)
        kind = "sampling" if name in Sampling.model_fields else "search"
        if name in changes[kind]:
            raise ConfigError(f"--set {name}=… is given twice: give it once")
        changes[kind][name] = _value(value)
    return SearchConfig.preset(preset, **{**defaults, **changes["search"]}), Sampling(**changes["sampling"])


def _check_name(name: str) -> None:
    known = SearchConfig.model_fields.keys() | Sampling.model_fields.keys() | ALIASES.keys()
    if name == "seed":
        raise ConfigError("--set seed=…: the seed has an option of its own, so give --seed")
    if name not in known and (close := get_close_matches(name, known, n=1)):
        raise ConfigError(f"--set {name!r} is unknown: did you mean {close[0]!r}?")
    # Other unknown names are refused by the settings' classes, which suggest the right one.


def _value(text: str) -> Any:
    """A number, ``null``, an object, else the text itself."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
