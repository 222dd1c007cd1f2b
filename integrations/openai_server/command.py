"""The command ``darwin-align serve``: options and models. What is heavy is imported once they are known to be sound."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr, ValidationError

from darwin_align.core import PRESETS
from darwin_align.core.errors import ConfigError, DarwinError

from .settings import SearchLimits, ServerSettings

if TYPE_CHECKING:
    from darwin_align import DarwinChatModel

__all__ = ["KEYS", "add_arguments", "main", "run"]

KEYS = "DARWIN_ALIGN_SERVER_KEYS"
"""Environment variable that holds API keys, with commas between them."""
_LIMITS = tuple(SearchLimits.model_fields)
_OWN = ("host", "port", "max_searches", "max_scorings", "body_bytes", "grace_seconds")


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until told to end. Exit codes: 1 a model cannot be loaded, 2 bad settings, 130 interrupted."""
    parser = argparse.ArgumentParser(prog="darwin-align serve", description="An OpenAI-compatible server for searches.")
    add_arguments(parser)
    arguments = parser.parse_args(argv)
    try:
        return run(arguments)
    except ConfigError as error:
        return _fail(error, 2)
    except (DarwinError, FileNotFoundError) as error:
        return _fail(error, 1)
    except KeyboardInterrupt:  # uvicorn passes it on once it has ended
        return 130


def _fail(error: Exception, code: int) -> int:
    sys.stderr.write(f"darwin-align serve: {error}\n")
    return code


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to a parser."""
    add = parser.add_argument
    add("--policy", metavar="MODEL", help="folder or hub id of a causal language model (default: the embedded pair)")
    add("--reward", metavar="MODEL", help="folder or hub id of a one-logit reward model")
    add("--name", help="what the pair is called (default: pocket, or the policy's own last name)")
    add("--models", metavar="MODULE:NAME", help="a dict of DarwinChatModels, or a function that makes one, by import")
    add("--presets", default=",".join(PRESETS), help="which presets are served, with commas (default: all)")
    add("--api-keys-file", type=Path, metavar="FILE", help=f"API keys, one a line (or the variable {KEYS})")
    add("--open-metrics", action="store_true", help="/metrics needs no key")
    for name in _OWN:
        field = ServerSettings.model_fields[name]
        kind = type(field.default)
        add(_flag(name), type=kind, metavar="ADDRESS" if kind is str else "N", help=f"(default: {field.default})")
    for name in _LIMITS:
        field = SearchLimits.model_fields[name]
        kind = float if name == "seconds" else int
        add(_flag(f"limit_{name}"), type=kind, metavar="N", help=f"a request's most (default: {field.default})")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def run(arguments: argparse.Namespace) -> int:
    """Load the models and serve them.

    Raises:
        ConfigError: settings that are impossible, or open to strangers.
        DarwinError: a model cannot be loaded.
    """
    settings = _settings(arguments)  # before anything heavy is imported, and minutes are spent on loading
    try:
        from .app import create_app
        from .listening import server
    except ModuleNotFoundError as error:
        raise ConfigError(f"{error.name} is not installed: pip install 'darwin-align[serve]'") from error
    app = create_app(settings, _models(arguments))
    if not logging.getLogger().handlers:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    server(app, settings).run()
    return 0


def _settings(arguments: argparse.Namespace) -> ServerSettings:
    own = {name: value for name in _OWN if (value := getattr(arguments, name)) is not None}
    limits = {name: value for name in _LIMITS if (value := getattr(arguments, f"limit_{name}")) is not None}
    try:
        return ServerSettings(
            **own,
            limits=SearchLimits(**limits),
            presets=tuple(filter(None, arguments.presets.split(","))),
            api_keys=_keys(arguments.api_keys_file),
            open_metrics=arguments.open_metrics,
        )
    except ValidationError as error:
        raise ConfigError("; ".join(_sentence(detail) for detail in error.errors(include_input=False))) from None


def _sentence(detail: Mapping[str, Any]) -> str:
    name, message = ".".join(map(str, detail["loc"])), str(detail["msg"]).removeprefix("Value error, ")
    return f"{name}: {message}" if name else message


def _keys(file: Path | None) -> tuple[SecretStr, ...]:
    """Keys of the file and of the environment."""
    texts = os.environ.get(KEYS, "").split(",")
    if file is not None:
        try:
            texts += file.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise ConfigError(f"--api-keys-file: {file} cannot be read ({error.strerror})") from None
    keys = tuple(SecretStr(text.strip()) for text in texts if text.strip())
    if file is not None and not keys:
        raise ConfigError(f"--api-keys-file: {file} holds no key: write one a line")
    return keys


def _models(arguments: argparse.Namespace) -> Mapping[str, DarwinChatModel]:
    from darwin_align import DarwinChatModel

    if arguments.models is not None:
        if arguments.policy or arguments.reward or arguments.name:
            raise ConfigError("--models names its pairs itself: leave out --policy, --reward and --name")
        return _imported(arguments.models)
    if (arguments.policy is None) != (arguments.reward is None):
        raise ConfigError("--policy and --reward go together: give both, or neither for the embedded pair")
    if arguments.policy is None:
        return {arguments.name or "pocket": DarwinChatModel()}
    name = arguments.name or Path(arguments.policy).name.replace(":", "-")
    return {name: DarwinChatModel.from_pretrained(arguments.policy, arguments.reward)}


def _imported(where: str) -> Mapping[str, DarwinChatModel]:
    from darwin_align import DarwinChatModel

    module, _, name = where.partition(":")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"--models {where}: {error}; give package.module:name") from error
    found = found() if callable(found) else found
    if not isinstance(found, Mapping) or not all(isinstance(one, DarwinChatModel) for one in found.values()):
        raise ConfigError(f"--models {where} is no dict of DarwinChatModels: make it {{name: DarwinChatModel(…)}}")
    return found
