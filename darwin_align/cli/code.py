"""Objects that an option names by the file or the module that defines them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from darwin_align.core.errors import ConfigError
from darwin_align.core.record import did_you_mean

__all__ = ["load_object", "names_code"]


def names_code(text: str) -> bool:
    """Whether a text has the form ``FILE.py:NAME`` or ``MODULE:NAME``, and is no path that exists.

    >>> names_code("scorer.py:score"), names_code("package.module:score"), names_code("meta-llama/Llama-3-8B")
    (True, True, False)
    """
    where, colon, name = text.rpartition(":")
    is_module = all(part.isidentifier() for part in where.split("."))
    return bool(colon) and name.isidentifier() and (where.endswith(".py") or is_module) and not Path(text).exists()


def load_object(option: str, text: str) -> Any:
    """Import what ``FILE.py:NAME`` or ``MODULE:NAME`` names. The code runs with all the rights of this process.

    Args:
        option: which option named it, for messages.
        text: what it was given.

    Raises:
        ConfigError: there is no such file, module or name, or importing it raises.
    """
    where, _, name = text.rpartition(":")
    if where.endswith(".py") and not Path(where).is_file():
        raise ConfigError(f"{option} {text}: there is no file {where}")
    try:
        module = _module_of(Path(where)) if where.endswith(".py") else import_module(where)
    except Exception as error:
        raise ConfigError(
            f"{option} {text}: importing it failed ({type(error).__name__}: {error}); give package.module:name, or "
            "FILE.py:NAME"
        ) from error
    names: Mapping[str, Any] = vars(module)
    if name not in names:
        public = [one for one in names if not one.startswith("_")]
        raise ConfigError(f"{option} {text}: {where} defines no {name!r}: {did_you_mean(name, public)}")
    return names[name]


def _module_of(path: Path) -> ModuleType:
    name = path.stem if path.stem not in sys.modules else f"{path.stem} of {path.parent.resolve()}"
    spec = spec_from_file_location(name, path.resolve())
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = sys.modules[name] = module_from_spec(spec)  # dataclasses and pickles look their own module up there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
