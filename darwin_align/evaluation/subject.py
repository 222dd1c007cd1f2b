"""Who takes a benchmark: a search by its command line, and the name and settings that it is known by."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from darwin_align.core import PRESETS, Request, Sampling, SearchConfig, SearchResult
from darwin_align.core.errors import ConfigError, ContextLengthError
from darwin_align.core.noun import did_you_mean
from darwin_align.core.seeds import derive
from darwin_align.core.types import Message

if TYPE_CHECKING:
    from darwin_align.search import DarwinSearch

__all__ = ["Subject", "add_subject", "settings_of", "subject_of"]

_ALIASES = {"max_tokens": "max_new_tokens"}
_REMOTE = {
    "policy": ("policy_model", "policy_tokenizer", "policy_dialect"),
    "reward": ("reward_model", "reward_tokenizer", "reward_dialect"),
}


@dataclass(frozen=True)
class Subject:
    """A search that takes a benchmark.

    >>> from darwin_align.pocket.pair import pocket_search
    >>> Subject(pocket_search(SearchConfig(cycles=0)), name="toy", seed=3).settings["seed"]
    3
    """

    search: DarwinSearch
    name: str
    """What its answers go by: ``generator`` in AlpacaEval's files, ``model_id`` in FastChat's."""
    seed: int = 0
    """Every prompt's own seed is derived from it and the prompt's place."""
    models: Mapping[str, Any] = field(default_factory=dict)
    """Which models they are, in plain data: for the guard against going on with others."""

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides an answer, as plain data."""
        from darwin_align import __version__

        config = json.loads(self.search.config.identity)
        config.pop("schema", None)
        config.pop("seed", None)
        return {
            "version": __version__,
            "name": self.name,
            "seed": self.seed,
            "models": dict(self.models),
            "search": config,
            "sampling": self.search.sampling.model_dump(mode="json", exclude_unset=True),
        }

    def seed_at(self, *place: int | str) -> int:
        """The seed of a prompt."""
        return derive(self.seed, *place) % 2**31

    async def answer(self, turns: Sequence[Message], seed: int, **settings: Any) -> dict[str, Any]:
        """Search for an answer, and tell of the search in plain data.

        A conversation that does not fit into a model is answered by an empty text, with ``error`` saying why: a
        benchmark counts it as lost instead of leaving it out.

        Raises:
            DarwinError: anything else that kept the search from an answer: it is likely to keep all others from theirs.
        """
        request = Request(conversation=tuple(turns), sampling=self.search.sampling)
        try:
            result = await self.search.ainvoke(request, seed=seed, **settings)
        except ContextLengthError as error:
            return {"output": "", "error": str(error), "seed": seed}
        return _told(result)


def _told(result: SearchResult) -> dict[str, Any]:
    first = result.first_response
    return {
        "output": result.text,
        "reward": result.reward,
        "first_response": first.text,
        "first_reward": first.reward,
        "seed": result.config.seed,
        "stop_reason": result.stop_reason,
        "finish_reason": result.best.finish_reason,
        "failure": result.failure,
        "notes": len(result.notes),
        "usage": result.usage.model_dump(mode="json"),
    }


# -- the command line


def add_subject(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which search takes the benchmark."""
    group = parser.add_argument_group("who answers (default: the embedded pair)")
    group.add_argument("--preset", default="darwin", help=f"one of {', '.join(PRESETS)} (default: darwin)")
    group.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting of the search or of its sampling, e.g. cycles=1 or temperature=0.7; may be repeated",
    )
    group.add_argument("--seed", type=int, default=0, help="every prompt's seed is derived from it (default: 0)")
    for role, kind in (("policy", "causal language model"), ("reward", "one-logit reward model")):
        group.add_argument(f"--{role}", metavar="MODEL", help=f"folder or hub id of a {kind}")
        group.add_argument(f"--{role}-url", metavar="URL", help=f"a server that has the {role} model, in its place")
        group.add_argument(f"--{role}-model", metavar="NAME", help="the model's name at that URL")
        group.add_argument(f"--{role}-tokenizer", metavar="MODEL", help="folder or hub id of that model's tokenizer")
        group.add_argument(f"--{role}-dialect", metavar="NAME", help="what that server speaks")
    group.add_argument("--api-key-env", metavar="NAME", help="environment variable with the key of these servers")
    group.add_argument("--device", help='of local models: "cpu", "cuda:0" … (default: the best one there is)')
    group.add_argument("--dtype", help='of local models: "bfloat16" … (default: as they are stored)')
    group.add_argument("--name", help="what the answers go by (default: from the policy and the preset)")


def subject_of(arguments: argparse.Namespace) -> Subject:
    """Build the search that the options describe.

    Raises:
        ConfigError: options that contradict each other, or an unknown setting.
        ModelLoadError: a model cannot be loaded.
    """
    _check(arguments)
    config, sampling = settings_of(arguments.preset, arguments.set)
    if _given(arguments, "policy") is None:
        from darwin_align.pocket.pair import pocket_search

        search = pocket_search(config, sampling=sampling)
    else:
        from darwin_align.search import DarwinSearch

        search = DarwinSearch(policy=_policy(arguments), scorer=_scorer(arguments), config=config, sampling=sampling)
    name = arguments.name or _name(arguments)
    if "/" in name or name.startswith("."):
        raise ConfigError(f"--name {name!r} is to be a file's name: leave out slashes and a leading dot")
    return Subject(search, name, arguments.seed, {role: _model(arguments, role) for role in _REMOTE})


def settings_of(preset: str, given: Sequence[str]) -> tuple[SearchConfig, Sampling]:
    """Read a preset and ``name=value`` changes to it.

    A benchmark wants whole searches: unless ``on_failure`` is set, a server that fails for good is an error and not a
    worse answer.

    >>> settings_of("darwin", ["cycles=1", "temperature=0.2"])[0].cycles
    1

    Raises:
        ConfigError: something is no such pair, unknown, impossible, or given twice.
    """
    changes: dict[str, dict[str, Any]] = {"search": {}, "sampling": {}}
    known = SearchConfig.model_fields.keys() | Sampling.model_fields.keys() | _ALIASES.keys()
    for text in given:
        name, equals, value = text.partition("=")
        name = _ALIASES.get(name, name)
        if not equals:
            raise ConfigError(f"--set {text!r} is no pair: write --set {text or 'cycles'}=VALUE")
        if name not in known:
            raise ConfigError(f"--set {name!r} is unknown: {did_you_mean(name, known)}")
        if name == "seed":
            raise ConfigError(
                "--set seed=… would be the same for every prompt: give --seed, which all are derived from"
            )
        kind = "sampling" if name in Sampling.model_fields else "search"
        if name in changes[kind]:
            raise ConfigError(f"--set {name}=… is given twice: give it once")
        changes[kind][name] = _value(value)
    changes["search"].setdefault("on_failure", "raise")
    return SearchConfig.preset(preset, **changes["search"]), Sampling(**changes["sampling"])


def _value(text: str) -> Any:
    """A number, ``null``, an object, else the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _check(arguments: argparse.Namespace) -> None:
    for role, options in _REMOTE.items():
        folder, url = getattr(arguments, role), getattr(arguments, f"{role}_url")
        if folder is not None and url is not None:
            raise ConfigError(f"--{role} is a local model and --{role}-url a remote one: give one of them")
        if url is None and (alien := next((name for name in options if getattr(arguments, name) is not None), None)):
            raise ConfigError(f"--{alien.replace('_', '-')} needs --{role}-url: it is for a model behind an endpoint")
    if (_given(arguments, "policy") is None) != (_given(arguments, "reward") is None):
        raise ConfigError("policy and reward model go together: give both, or neither for the embedded pair")
    local = arguments.policy is not None or arguments.reward is not None
    for name in ("device", "dtype"):
        if getattr(arguments, name) is not None and not local:
            raise ConfigError(f"--{name} needs --policy or --reward: it is for local models of your own")
    remote = arguments.policy_url is not None or arguments.reward_url is not None
    if arguments.api_key_env is not None:
        if not remote:
            raise ConfigError("--api-key-env needs --policy-url or --reward-url: it is for endpoints")
        if not os.environ.get(arguments.api_key_env):
            raise ConfigError(f"--api-key-env: the environment variable {arguments.api_key_env} is not set")


def _given(arguments: argparse.Namespace, role: str) -> str | None:
    local: str | None = getattr(arguments, role)
    return getattr(arguments, f"{role}_url") if local is None else local


def _model(arguments: argparse.Namespace, role: str) -> str:
    """What says which model it is. A server may move; its model's name is what counts, where it has one."""
    named: str | None = getattr(arguments, f"{role}_model")
    return named or _given(arguments, role) or "embedded"


def _name(arguments: argparse.Namespace) -> str:
    policy = Path(_model(arguments, "policy").rstrip("/")).name or "policy"
    return "-".join([policy, arguments.preset, *(text.replace("=", "") for text in arguments.set)]).replace("/", "_")


def _how(arguments: argparse.Namespace) -> dict[str, Any]:
    return {name: value for name in ("device", "dtype") if (value := getattr(arguments, name)) is not None}


def _policy(arguments: argparse.Namespace) -> Any:
    if arguments.policy is not None:
        from darwin_align.backends.local import LocalPolicy

        return LocalPolicy.from_pretrained(arguments.policy, **_how(arguments))
    from darwin_align.backends.endpoint import EndpointPolicy

    return EndpointPolicy(arguments.policy_url, **_endpoint(arguments, "policy"))


def _scorer(arguments: argparse.Namespace) -> Any:
    if arguments.reward is not None:
        from darwin_align.backends.local import LocalScorer

        return LocalScorer.from_pretrained(arguments.reward, **_how(arguments))
    from darwin_align.backends.endpoint import EndpointScorer

    return EndpointScorer(base_url=arguments.reward_url, **_endpoint(arguments, "reward"))


def _endpoint(arguments: argparse.Namespace, role: str) -> dict[str, Any]:
    given = {name.partition("_")[2]: getattr(arguments, name) for name in _REMOTE[role]}
    options = {name: value for name, value in given.items() if value is not None}
    if arguments.api_key_env is not None:
        from pydantic import SecretStr

        options["api_key"] = SecretStr(os.environ[arguments.api_key_env])
    return options
