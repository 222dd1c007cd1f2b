"""The command ``darwin-align serve``: options and models. What is heavy is imported once they are known to be sound."""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

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
from darwin_align.core.errors import ConfigError, DarwinError
from darwin_align.core.terminal import PrintableFormatter, printable

from .config import ConfigFile, ModelConfig, ServeConfig, json_schema, read_file, serve_config
from .settings import SearchLimits
from .workers import refuse_copies, run_workers, several_copies, share_metrics

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
    darwin-align serve --config serve.yaml --check
""")
_LIMITS = tuple(SearchLimits.model_fields)
_OWN: dict[str, type[str | int | float]] = {
    "host": str,
    "port": int,
    "workers": int,
    "max_searches": int,
    "max_scorings": int,
    "max_connections": int,
    "max_searches_per_key": int,
    "max_scorings_per_key": int,
    "max_requests_per_key": int,
    "body_bytes": int,
    "write_seconds": float,
    "drain_seconds": int,
}
"""Settings of the server that have an option, and what its value is read as."""


@dataclass(frozen=True)
class _Serving:
    """What is served: plain data, which goes to worker processes."""

    settings: ServeConfig
    models: Mapping[str, argparse.Namespace] | str
    """Options by the models' names, or where Python code has the models."""


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until a signal ends it. Exit codes: 1 a model cannot be loaded, 2 bad settings, 130 interrupted."""
    parser = Parser(prog="darwin-align serve", usage=_USAGE, description=_DESCRIPTION, epilog=_EPILOG)
    add_arguments(parser)
    arguments = parser.parse_args(argv)
    try:
        return _exit_code(partial(run, arguments))
    except UsageError as error:
        return parser.refuse(str(error))


def _exit_code(work: Callable[[], int]) -> int:
    try:
        return work()
    except UsageError:
        raise
    except ConfigError as error:
        return _fail(error, 2)
    except (DarwinError, OSError) as error:
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
    """Add the command's options to a parser. Without a value they are ``None``, ``False`` or empty."""
    add_models(parser)
    add_settings(parser, seed="drawn anew for each request; a request may give its own")
    file = parser.add_argument_group("configuration file").add_argument
    file("--config", type=Path, metavar="FILE", help="settings as YAML; options given beside it replace them")
    file(
        "--check",
        nargs="?",
        const="settings",
        choices=("settings", "load"),
        help="serve nothing: check the settings, ask the servers of policies and reward models, and tell what would be "
        "served; 'load' also loads the models and has each answer a question. Exit code 2 if anything is wrong",
    )
    file("--schema", action="store_true", help="print the JSON schema of the file")
    add = parser.add_argument_group("server").add_argument
    add("--name", help="what the pair is called (default: pocket, or the policy's own last name)")
    add(
        "--models",
        metavar="MODULE:NAME",
        help="a dict of DarwinChatModels, or a function that makes one, by MODULE:NAME or FILE.py:NAME",
    )
    add("--presets", type=_listed, metavar="NAMES", help="which are served, with commas (default: all)")
    add("--api-keys-file", type=Path, metavar="FILE", help=f"API keys, one a line (or the variable {KEYS})")
    add("--open-metrics", action="store_true", help="/metrics needs no key")
    add("--allowed-hosts", type=_listed, metavar="NAMES", help="hosts beside localhost that are answered, with commas")
    for name, kind in _OWN.items():
        default = ServeConfig.model_fields[name].default
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


def _listed(text: str) -> tuple[str, ...]:
    return tuple(filter(None, map(str.strip, text.split(","))))


def run(arguments: argparse.Namespace) -> int:
    """Load the models and serve them, or check that this would work.

    Raises:
        ConfigError: settings that are impossible, or open to strangers.
        DarwinError: a model cannot be loaded.
    """
    if arguments.schema:
        print(json.dumps(json_schema(), indent=2))
        return 0
    file = ConfigFile() if arguments.config is None else read_file(arguments.config)
    serving = _serving(arguments, file)  # before anything heavy is imported, and minutes are spent on loading
    if arguments.check is not None:
        return _check(serving, load=arguments.check == "load")
    if serving.settings.workers > 1:
        _log_to_stderr()
        return run_workers(partial(_work, serving), serving.settings)
    return _serve(serving)


# -- settings


def _serving(arguments: argparse.Namespace, file: ConfigFile) -> _Serving:
    own = (*_OWN, "presets", "allowed_hosts", "open_metrics", "api_keys_file")
    given = {name: value for name in own if not ((value := getattr(arguments, name)) is None or value is False)}
    limits = {name: value for name in _LIMITS if (value := getattr(arguments, f"limit_{name}")) is not None}
    keys_file = arguments.api_keys_file or file.values.get("api_keys_file")
    keys = _keys(keys_file if isinstance(keys_file, str | Path) else None)
    settings = serve_config(file, given | ({"limits": limits} if limits else {}), keys)
    serving = _Serving(settings, _models_of(arguments, settings))
    if not isinstance(serving.models, str):
        for name, one in serving.models.items():
            try:
                _check_model(one, settings.workers)
            except ConfigError as error:
                if ("models", name) not in file.lines:
                    raise
                place = ("models", name, *_setting_in(str(error)))
                place = place if place in file.lines else ("models", name)
                raise ConfigError(file.located(place, str(error))) from None
    return serving


def _setting_in(message: str) -> tuple[str, ...]:
    """The setting of a model that an error is about, by the words that it begins with."""
    if found := re.match(r"--set '(\w+)'", message):
        return ("set", found[1])
    found = re.match(r"(?:--|unknown )([\w-]+)", message)
    return (found[1].replace("-", "_"),) if found else ()


def _models_of(arguments: argparse.Namespace, settings: ServeConfig) -> Mapping[str, argparse.Namespace] | str:
    """The models of the file, or of the command line, or the file's only one with the command line's changes."""
    given = {name for name in ModelConfig.model_fields if getattr(arguments, name) not in (None, [])}
    if arguments.models is not None:
        if given or arguments.name is not None:
            raise UsageError(
                "--models names its pairs and their settings itself: leave out --pair, --policy, --reward, their URLs, "
                "--name, --preset, --set, --clauses and --seed"
            )
        return str(arguments.models)
    if not settings.models:
        return {arguments.name or _default_name(arguments): arguments}
    if not (given or arguments.name):
        models = settings.models
        return models if isinstance(models, str) else {name: one.arguments() for name, one in models.items()}
    if isinstance(settings.models, str) or len(settings.models) > 1:
        raise UsageError(
            f"{_flag(min(given, default='name'))} would change one model and the file has several: change it there"
        )
    [(name, only)] = settings.models.items()
    return {arguments.name or name: _changed(only.arguments(), arguments, given)}


def _changed(model: argparse.Namespace, arguments: argparse.Namespace, given: set[str]) -> argparse.Namespace:
    changed = argparse.Namespace(**{**vars(model), **{name: getattr(arguments, name) for name in given}})
    names = {text.partition("=")[0] for text in arguments.set}
    changed.set = [text for text in model.set if text.partition("=")[0] not in names] + arguments.set
    return changed


def _default_name(arguments: argparse.Namespace) -> str:
    policy = model_name(arguments, "policy") if has_own_policy(arguments) else "pocket"
    return Path(policy.rstrip("/")).name.replace(":", "-")


def _check_model(arguments: argparse.Namespace, workers: int) -> None:
    """Refuse options that contradict each other, before anything heavy is imported."""
    check_models(arguments)
    read_settings(arguments)
    if workers > 1 and (local := _local_role(arguments)) is not None:
        raise ConfigError(several_copies(local))


def _local_role(arguments: argparse.Namespace) -> str | None:
    """Which of the models is in this process, if any; what a provider has or Python code does is not."""
    from darwin_align.backends.chat_model import names_chat_model

    for role in ("policy", "reward"):
        name = getattr(arguments, role)
        elsewhere = name is not None and (names_chat_model(name) or (role == "reward" and names_code(name)))
        if getattr(arguments, f"{role}_url") is None and (not elsewhere or Path(name).exists()):
            return role
    return None


def _keys(file: str | Path | None) -> tuple[SecretStr, ...]:
    """Keys of the file and of the environment."""
    texts = os.environ.get(KEYS, "").split(",")
    if file is not None:
        try:
            texts += Path(file).read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise ConfigError(f"--api-keys-file: {file} cannot be read ({error.strerror})") from None
    keys = tuple(SecretStr(text.strip()) for text in texts if text.strip())
    if file is not None and not keys:
        raise ConfigError(f"--api-keys-file: {file} holds no key: write one a line")
    return keys


# -- checking


def _check(serving: _Serving, *, load: bool) -> int:
    from .check import ask, describe, try_models

    describe(serving.settings, serving.models)
    try:
        if load:
            models = _loaded(serving)
            sound = try_models(serving.settings, models)
        elif isinstance(serving.models, str):
            print("the code that makes the models is not run: --check load does")
            return 0
        else:
            sound = ask(serving.models)
    except DarwinError as error:
        return _fail(error, 2)
    return 0 if sound else 2


# -- serving


def _serve(serving: _Serving, sockets: list[socket.socket] | None = None, **shared: Any) -> int:
    try:
        from .listening import server  # isort: skip - it misses uvicorn before anything heavy is imported

        from .app import create_app
    except ModuleNotFoundError as error:
        raise ConfigError(f"{error.name} is not installed: pip install 'darwin-align[serve]'") from error
    signal.signal(signal.SIGTERM, _end)  # uvicorn passes it on once it has ended
    app = create_app(serving.settings, _loaded(serving))
    if shared:
        share_metrics(app.state, **shared)
    _log_to_stderr()
    server(app, serving.settings).run(sockets)
    return 0


def _end(*_: object) -> None:
    sys.exit(0)


def _log_to_stderr() -> None:
    if not logging.getLogger().handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(PrintableFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        logging.basicConfig(level=logging.INFO, handlers=[handler])


def _work(serving: _Serving, listening: socket.socket, **shared: Any) -> int:
    """Be a worker process."""
    return _exit_code(partial(_serve, serving, [listening], **shared))


def _loaded(serving: _Serving) -> Mapping[str, DarwinChatModel]:
    from darwin_align import DarwinChatModel

    if isinstance(serving.models, str):
        found = _imported(serving.models)
        if serving.settings.workers > 1:
            refuse_copies(found)
        return found
    models = {}
    for name, one in serving.models.items():
        search = build_search(one, **({} if one.seed is None else {"seed": one.seed}))
        shown = model_name(one, "policy") if has_own_policy(one) else "pocket"
        models[name] = DarwinChatModel(search=search, model_name=shown)
    return models


def _imported(where: str) -> Mapping[str, DarwinChatModel]:
    from darwin_align import DarwinChatModel

    if not names_code(where):
        raise ConfigError(f"--models {where}: give package.module:name, or FILE.py:NAME")
    found = load_object("--models", where)
    found = found() if callable(found) else found
    if not isinstance(found, Mapping) or not all(isinstance(one, DarwinChatModel) for one in found.values()):
        raise ConfigError(f"--models {where} is no dict of DarwinChatModels: make it {{name: DarwinChatModel(…)}}")
    return found
