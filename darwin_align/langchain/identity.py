"""Settings that decide an answer, as text: equal settings give equal text, different ones never do.

``repr`` will not do: it leaves settings out, and the addresses that it shows of functions and plain objects are given
away again once their owner is gone, to the next one in this process and to anybody in another.
"""

from __future__ import annotations

import functools
import threading
import types
import uuid
import weakref
from collections.abc import Callable, Mapping, Set
from contextlib import suppress
from dataclasses import fields, is_dataclass
from enum import Enum
from hashlib import sha256
from pathlib import PurePath
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.language_models.base import LangSmithParams
from pydantic import BaseModel, SecretBytes, SecretStr

from darwin_align.core.config import SearchConfig
from darwin_align.core.types import Sampling

__all__ = ["identifying_params", "identity", "with_langsmith_names"]

_PLAIN = (bool, int, float, complex, bytes, type(None), Enum, PurePath)
_LONGEST = 240
_TELLING = ("darwin_align", "torch")
"""Packages whose own ``repr`` names every setting."""

_OTHERWISE = frozenset({"search", "model_name", "stop", "streaming", "configurable_settings"})
"""Fields of a chat model that decide no answer, or that have another name here."""
_UNDECIDING = frozenset(BaseChatModel.model_fields) - {"output_version"} | _OTHERWISE

_lock = threading.Lock()
_names: dict[int, tuple[Callable[[], object], str]] = {}


def identity(value: object) -> str:
    """Describe a value by everything that it is made of.

    Objects without readable fields, like functions, get a unique name. Secrets are left
    out: they give access, and decide no answer. Long texts are cut, with their digest.

    >>> identity({"a": (1, 2.0)}), identity("x" * 999)[:8]
    ("{'a': (1, 2.0)}", "'xxxxxxx")
    >>> f, g = (lambda: 0), (lambda: 0)
    >>> identity(f) == identity(f), identity(f) == identity(g)
    (True, False)
    """
    return _plain(value) or _listed(value) or _named(value) or _opaque(value)


def with_langsmith_names(
    params: LangSmithParams, config: SearchConfig, sampling: Sampling, model_name: str, stop: tuple[str, ...]
) -> LangSmithParams:
    """Add what LangSmith shows of a chat model's call; settings of the call itself stay."""
    params["ls_provider"] = "darwin_align"
    params["ls_model_name"] = model_name
    params.setdefault("ls_temperature", sampling.temperature)
    params.setdefault("ls_max_tokens", config.max_new_tokens)
    if stop:
        params.setdefault("ls_stop", list(stop))
    return params


def identifying_params(
    model: BaseChatModel, search: BaseModel, *, model_name: str, stop: tuple[str, ...]
) -> dict[str, Any]:
    """Name every setting that decides a chat model's answer: LangChain's cache keys are made of it."""
    own = {name: getattr(model, name) for name in type(model).model_fields if name not in _UNDECIDING}
    parts = {name: getattr(search, name) for name in type(search).model_fields if name not in ("name", "progress")}
    names = {"model_name": model_name, "default_stop": identity(stop)}  # "stop" is the call's own
    return {**names, **{name: identity(value) for name, value in {**parts, **own}.items()}}


def _plain(value: object) -> str | None:
    if isinstance(value, str):
        return repr(value) if len(value) <= _LONGEST else f"{value[:80]!r}…#{_digest(value)}"
    if isinstance(value, (SecretStr, SecretBytes)):
        return "<secret>"
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    return repr(value) if isinstance(value, _PLAIN) else None


def _listed(value: object) -> str | None:
    if isinstance(value, Mapping):
        return "{" + ", ".join(sorted(f"{identity(k)}: {identity(v)}" for k, v in value.items())) + "}"
    if isinstance(value, (list, tuple)):
        return "(" + ", ".join(map(identity, value)) + ")"
    return "{" + ", ".join(sorted(map(identity, value))) + "}" if isinstance(value, Set) else None


def _named(value: object) -> str | None:
    """The identity of what consists of named parts."""
    if isinstance(value, BaseModel):
        # Private attributes are derived from the fields; excluded fields are clients, callbacks, caches.
        parts = {name: getattr(value, name) for name, field in type(value).model_fields.items() if not field.exclude}
        return _call(type(value), parts)
    if is_dataclass(value):
        return _call(type(value), {field.name: getattr(value, field.name) for field in fields(value)})
    if isinstance(value, functools.partial):
        return _call(type(value), {"func": value.func, "args": value.args, "keywords": value.keywords})
    if isinstance(value, types.MethodType):
        return f"{identity(value.__self__)}.{value.__func__.__qualname__}"
    return None


def _call(kind: type, parts: Mapping[str, object]) -> str:
    return f"{kind.__qualname__}({', '.join(f'{name}={identity(part)}' for name, part in parts.items())})"


def _opaque(value: object) -> str:
    """Whatever is left: by its recipe if it has one, else by a name of its own."""
    kind: Any = type(value)
    home = kind.__module__.partition(".")[0]
    if isinstance(value, types.FunctionType):
        if (value.__module__ or "").startswith("darwin_align.") and "<" not in value.__qualname__:
            return f"{value.__module__}.{value.__qualname__}"
    elif home == "darwin_align" and kind.__reduce__ is not object.__reduce__:
        with suppress(TypeError):  # made of objects in memory: another process cannot make it
            return f"{kind.__qualname__}{identity(value.__reduce__()[1])}"
    elif home in _TELLING and kind.__repr__ is not object.__repr__:
        return identity(repr(value)) if len(repr(value)) > _LONGEST else repr(value)
    return f"<{getattr(value, '__qualname__', kind.__qualname__)} {_name(value)}>"


def _name(value: object) -> str:
    """A name that lasts as long as the object, and that no other object ever has."""
    key = id(value)
    with _lock:
        known = _names.get(key)
        if known is None or known[0]() is not value:
            known = _names[key] = (_reference(value, key), uuid.uuid4().hex)
        return known[1]


def _reference(value: object, key: int) -> Callable[[], object]:
    try:
        return weakref.ref(value, lambda _: _names.pop(key, None))
    except TypeError:  # kept for good, so that its address is never another's
        return lambda: value


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:16]
