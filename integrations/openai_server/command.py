"""The command ``darwin-align serve``: options and models. What is heavy is imported once they are known to be sound."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr, ValidationError

from darwin_align.cli.code import load_object, names_code
from darwin_align.cli.options import (
    UsageError,
    add_models,
    add_settings,
    build_search,
    check_models,
    has_own_policy,
    model_name,
    read_settings,
)
from darwin_align.cli.parsing import Commands, Parser, examples
from darwin_align.core import PRESETS
from darwin_align.core.errors import ConfigError, DarwinError
from darwin_align.core.terminal import PrintableFormatter, printable

from .settings import SearchLimits, ServerSettings

if TYPE_CHECKING:
    from darwin_align import DarwinChatModel

__all__ = ["KEYS", "add_arguments", "add_parser", "main", "run"]

KEYS = "DARWIN_ALIGN_SERVER_KEYS"
"""Environment variable of API keys, separated by commas."""
_USAGE = "%(prog)s [options]"
_DESCRIPTION = "An OpenAI-compatible server for searches and rewards."
_EPILOG = examples("""
    darwin-align serve
    darwin-align serve --policy FOLDER --reward FOLDER --name mine --preset best_of_n
    darwin-align serve --policy-url http://127.0.0.1:8001 --reward scorer.py:score --port 8080
    darwin-align serve --models my_package.serving:models
""")
_LIMITS = tuple(SearchLimits.model_fields)
_OWN: dict[str, type[str | int | float]] = {
    "host": str,
    "port": int,
    "max_searches": int,
    "max_scorings": int,
    "max_connections": int,
    "max_searches_per_key": int,
    "max_scorings_per_key": int,
    "max_requests_per_key": int,
    "body_bytes": int,
    "write_seconds": float,
    "grace_seconds": int,
}
"""Settings of the server that have an option, and what its value is read as."""


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until a signal ends it. Exit codes: 1 a model cannot be loaded, 2 bad settings, 130 interrupted."""
    parser = Parser(prog="darwin-align serve", usage=_USAGE, description=_DESCRIPTION, epilog=_EPILOG)
    add_arguments(parser)
    arguments = parser.parse_args(argv)
    try:
        return run(arguments)
    except UsageError as error:
        return parser.refuse(str(error))
    except ConfigError as error:
        return _fail(error, 2)
    except (DarwinError, FileNotFoundError) as error:
        return _fail(error, 1)
    except KeyboardInterrupt:  # uvicorn passes it on once it has ended
        return 130


def _fail(error: Exception, code: int) -> int:
    sys.stderr.write(printable(f"darwin-align serve: {error}") + "\n")
    return code


def add_parser(commands: Commands) -> None:
    """Add the command to the subparsers of ``darwin-align``."""
    serve = commands.add_parser(
        "serve",
        help="an OpenAI-compatible server for searches and rewards (extra serve)",
        usage=_USAGE,
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    add_arguments(serve)
    serve.set_defaults(run=run, parser=serve)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to a parser."""
    add_models(parser)
    add_settings(parser, seed="drawn anew for each request; a request may give its own")
    add = parser.add_argument_group("server").add_argument
    add("--name", help="what the pair is called (default: pocket, or the policy's own last name)")
    add(
        "--models",
        metavar="MODULE:NAME",
        help="a dict of DarwinChatModels, or a function that makes one, by MODULE:NAME or FILE.py:NAME",
    )
    add("--presets", default=",".join(PRESETS), metavar="NAMES", help="which are served, with commas (default: all)")
    add("--api-keys-file", type=Path, metavar="FILE", help=f"API keys, one a line (or the variable {KEYS})")
    add("--open-metrics", action="store_true", help="/metrics needs no key")
    add(
        "--allowed-hosts",
        default="",
        metavar="NAMES",
        help="hosts beside localhost that are answered, with commas",
    )
    for name, kind in _OWN.items():
        default = ServerSettings.model_fields[name].default
        about = "(default: half of all, where there are several keys)" if default is None else f"(default: {default})"
        add(_flag(name), type=kind, metavar="ADDRESS" if kind is str else "N", help=about)
    limit = parser.add_argument_group("limits of a request").add_argument
    for name in _LIMITS:
        field = SearchLimits.model_fields[name]
        kind = float if name == "seconds" else int
        limit(
            _flag(f"limit_{name}"), type=kind, metavar="N", help=f"{_bound(name)} (default: {field.default or 'none'})"
        )


def _bound(name: str) -> str:
    what = name.removeprefix("shortest_").replace("_", " ")
    return f"{what} of a request, at least" if name.startswith("shortest_") else f"{what} of a request, at most"


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def run(arguments: argparse.Namespace) -> int:
    """Load the models and serve them.

    Raises:
        ConfigError: settings that are impossible, or open to strangers.
        DarwinError: a model cannot be loaded.
    """
    _check_models(arguments)
    settings = _settings(arguments)  # before anything heavy is imported, and minutes are spent on loading
    try:
        from .listening import server  # isort: skip - it misses uvicorn before anything heavy is imported

        from .app import create_app
    except ModuleNotFoundError as error:
        raise ConfigError(f"{error.name} is not installed: pip install 'darwin-align[serve]'") from error
    app = create_app(settings, _models(arguments))
    if not logging.getLogger().handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(PrintableFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        logging.basicConfig(level=logging.INFO, handlers=[handler])
    server(app, settings).run()
    return 0


def _listed(text: str) -> tuple[str, ...]:
    return tuple(filter(None, map(str.strip, text.split(","))))


def _settings(arguments: argparse.Namespace) -> ServerSettings:
    own = {name: value for name in _OWN if (value := getattr(arguments, name)) is not None}
    limits = {name: value for name in _LIMITS if (value := getattr(arguments, f"limit_{name}")) is not None}
    try:
        return ServerSettings(
            **own,
            limits=SearchLimits(**limits),
            presets=_listed(arguments.presets),
            api_keys=_keys(arguments.api_keys_file),
            allowed_hosts=_listed(arguments.allowed_hosts),
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
        return _imported(arguments.models)
    policy = model_name(arguments, "policy") if has_own_policy(arguments) else "pocket"
    search = build_search(arguments, **({} if arguments.seed is None else {"seed": arguments.seed}))
    name = arguments.name or Path(policy.rstrip("/")).name.replace(":", "-")
    return {name: DarwinChatModel(search=search, model_name=policy)}


def _check_models(arguments: argparse.Namespace) -> None:
    """Refuse options that contradict each other, before anything heavy is imported."""
    check_models(arguments)
    read_settings(arguments)
    own = ("pair", "policy", "reward", "policy_url", "reward_url", "name", "preset", "set", "clauses", "seed")
    if arguments.models is not None and any(getattr(arguments, name) not in (None, []) for name in own):
        raise UsageError(
            "--models names its pairs and their settings itself: leave out --pair, --policy, --reward, their URLs, "
            "--name, --preset, --set, --clauses and --seed"
        )


def _imported(where: str) -> Mapping[str, DarwinChatModel]:
    from darwin_align import DarwinChatModel

    if not names_code(where):
        raise ConfigError(f"--models {where}: give package.module:name, or FILE.py:NAME")
    found = load_object("--models", where)
    found = found() if callable(found) else found
    if not isinstance(found, Mapping) or not all(isinstance(one, DarwinChatModel) for one in found.values()):
        raise ConfigError(f"--models {where} is no dict of DarwinChatModels: make it {{name: DarwinChatModel(…)}}")
    return found
