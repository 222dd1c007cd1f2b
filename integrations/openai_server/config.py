"""The configuration file of ``darwin-align serve``: YAML, checked against a schema, with the line of every mistake."""

from __future__ import annotations

import argparse
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    JsonValue,
    SecretStr,
    Tag,
    ValidationError,
    field_validator,
)
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import ErrorDetails

from darwin_align.cli.options import add_models, add_settings
from darwin_align.cli.parsing import Parser
from darwin_align.core.errors import ConfigError
from darwin_align.core.record import did_you_mean

from .settings import SearchLimits, ServerSettings

__all__ = ["ConfigFile", "ModelConfig", "ServeConfig", "json_schema", "read_file", "serve_config"]

KeyPath = tuple[str | int, ...]
Urls = str | list[str] | None
_SECRET = ("key", "keys", "token", "secret", "password")
"""What the names of settings end with that nobody should write into a file."""


class ModelConfig(BaseModel):
    """A policy, a reward model and the settings of their searches: the options of the command line by their names."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    pair: str | None = None
    policy: str | None = None
    reward: str | None = None
    policy_url: Urls = None
    policy_model: str | None = None
    policy_tokenizer: str | None = None
    policy_dialect: str | None = None
    reward_url: Urls = None
    reward_model: str | None = None
    reward_tokenizer: str | None = None
    reward_dialect: str | None = None
    api_key_env: str | None = None
    requests_in_flight: int | None = None
    device: str | None = None
    dtype: str | None = None
    threads: int | None = None
    preset: str | None = None
    set: dict[str, JsonValue] = {}
    clauses: str | None = None
    seed: int | None = None

    def arguments(self) -> argparse.Namespace:
        """What the command line's parser would have read."""
        changes = [f"{name}={json.dumps(value)}" for name, value in self.set.items()]
        urls = {name: [url] for name in ("policy_url", "reward_url") if isinstance(url := getattr(self, name), str)}
        return argparse.Namespace(**{**self.model_dump(), **urls, "set": changes})


Models = Annotated[
    Annotated[dict[str, ModelConfig], Tag("by_name")] | Annotated[str, Tag("by_code")],
    Discriminator(lambda value: "by_code" if isinstance(value, str) else "by_name"),
]


class ServeConfig(ServerSettings):
    """The settings of a server as a process of its own.

    Raises:
        ValidationError: an unknown name, or an impossible value.
    """

    api_keys: SkipJsonSchema[tuple[SecretStr, ...]] = ()
    api_keys_file: Path | None = None
    """A file with API keys, one a line; or put them into the environment variable ``DARWIN_ALIGN_SERVER_KEYS``."""
    workers: int = Field(1, gt=0)
    """Processes. Limits on work at the same time are each process's own."""
    models: Models = Field(default_factory=dict)
    """Models by name, or where Python code has them, as ``package.module:name`` or ``FILE.py:name``."""

    @field_validator("models", mode="before")
    @classmethod
    def _with_defaults(cls, models: Any) -> Any:
        """A name without settings, ``small:``, is a model with the defaults."""
        if not isinstance(models, Mapping):
            return models
        return {name: {} if model is None else model for name, model in models.items()}


def json_schema() -> dict[str, Any]:
    """The JSON schema of the file, for editors and other programs."""
    schema = ServeConfig.model_json_schema()
    parser = Parser(add_help=False)
    add_models(parser)
    add_settings(parser, seed="drawn anew for each request")
    of_model = schema["$defs"][ModelConfig.__name__]["properties"]
    for action in parser._actions:
        of_model[action.dest]["description"] = action.help
    of_model["set"]["description"] = "settings of the search or of its sampling, by name"
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "darwin-align serve"}


@dataclass(frozen=True)
class ConfigFile:
    """What a file says, and on which lines."""

    name: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)
    lines: Mapping[KeyPath, int] = field(default_factory=dict)

    def located(self, path: KeyPath, message: str) -> str:
        """A message about a setting, behind its place in the file, or its name where it is not from the file."""
        name = ".".join(map(str, path))
        message = f"{name}: {message}" if name else message
        while path and path not in self.lines:
            path = path[:-1]
        return f"{self.name}:{self.lines[path]}: {message}" if path else message


def read_file(path: Path) -> ConfigFile:
    """Read a file; only its syntax is checked.

    Raises:
        ConfigError: it cannot be read, is no YAML mapping, or names a setting twice.
        MissingPackageError: PyYAML is not installed.
    """
    try:
        import yaml
    except ModuleNotFoundError as error:
        raise ConfigError("--config needs PyYAML: pip install 'darwin-align[serve]'") from error
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config: {path} cannot be read ({getattr(error, 'strerror', 'it is no UTF-8')})") from None
    try:
        node, values = yaml.compose(text, Loader=yaml.SafeLoader), yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{path}:{line}: this is no YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is no YAML: {error}") from None
    if not isinstance(values, Mapping):
        raise ConfigError(f"{path}: write settings as in `port: 8000`, one a line")
    lines: dict[KeyPath, int] = {}
    for at, line in _lines(node):
        if at in lines:
            raise ConfigError(f"{path}:{line}: {'.'.join(map(str, at))} stands on line {lines[at]} already")
        lines[at] = line
    return ConfigFile(str(path), values, lines)


def _lines(node: Any, at: KeyPath = ()) -> Iterator[tuple[KeyPath, int]]:
    """The line of every key of a YAML node."""
    if node.id == "mapping":
        for key, value in node.value:
            yield (*at, key.value), key.start_mark.line + 1
            yield from _lines(value, (*at, key.value))
    elif node.id == "sequence":
        for index, value in enumerate(node.value):
            yield (*at, index), value.start_mark.line + 1
            yield from _lines(value, (*at, index))


def serve_config(file: ConfigFile, given: Mapping[str, Any], keys: Sequence[SecretStr]) -> ServeConfig:
    """Check what a file says under what the command line says.

    Args:
        file: the file.
        given: settings of the command line; they replace those of the file, limits one by one.
        keys: the server's API keys.

    Raises:
        ConfigError: every mistake, with its line.
    """
    if "api_keys" in file.values:
        raise ConfigError(file.located(("api_keys",), _no_keys("api_keys")))
    merged = {**file.values, **given, "api_keys": tuple(keys)}
    if isinstance(limits := file.values.get("limits"), Mapping):
        merged["limits"] = {**limits, **given.get("limits", {})}
    try:
        return ServeConfig.model_validate(merged)
    except ValidationError as error:
        mistakes = [_mistake(file, merged, given, one) for one in error.errors(include_input=False)]
        raise ConfigError("\n".join(mistakes)) from None


def _mistake(file: ConfigFile, values: Any, given: Any, detail: ErrorDetails) -> str:
    path: KeyPath = ()
    for part in detail["loc"]:  # which also has the tags of unions
        if part in _keys(values):
            path, values, given = (*path, part), values[part], given[part] if part in _keys(given) else None
    message = str(detail["msg"]).removeprefix("Value error, ")
    if path and given is not None:  # by an option, whatever the file says
        option = "-".join(map(str, path)).replace("limits-", "limit-").replace("_", "-")
        return f"--{option}: {message}"
    if detail["type"] == "extra_forbidden":
        return file.located(path, _unknown(path))
    return file.located(path, message)


def _keys(values: Any) -> Collection[Any]:
    return range(len(values)) if isinstance(values, list | tuple) else values if isinstance(values, Mapping) else ()


def _unknown(path: KeyPath) -> str:
    name = str(path[-1])
    if name.lower().endswith(_SECRET):
        return _no_keys(name)
    kinds: dict[int, type[BaseModel]] = {1: ServeConfig, 2: SearchLimits}
    known = kinds.get(len(path), ModelConfig).model_fields.keys() - {"api_keys"}
    return f"there is no such setting: {did_you_mean(name, known)}"


def _no_keys(name: str) -> str:
    if name == "api_keys":
        where = "put the server's into the environment variable DARWIN_ALIGN_SERVER_KEYS or a file (api_keys_file)"
    else:
        where = "name the environment variable that has it (api_key_env)"
    return f"no key stands in this file: {where}"
