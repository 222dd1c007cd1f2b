"""The options for models and settings that the commands share, and the search that they describe."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from darwin_align.cli.activity import working
from darwin_align.core import PRESETS, Sampling, SearchConfig, read_clauses
from darwin_align.core.errors import ConfigError
from darwin_align.langchain.assignments import settings_of
from darwin_align.small.wheel import INSTALL

if TYPE_CHECKING:
    from darwin_align.operators.coerce import PolicyLike, PopulationRunnable
    from darwin_align.search import DarwinSearch

__all__ = [
    "UsageError",
    "add_models",
    "add_settings",
    "build_search",
    "check_models",
    "has_own_policy",
    "is_small",
    "load_policy",
    "load_reward",
    "load_scorer",
    "model_name",
    "read_settings",
]

JUDGE = "judge"
"""The ``--reward-dialect`` of a chat model that grades answers."""
_REMOTE = {
    "policy": ("policy_model", "policy_tokenizer", "policy_dialect"),
    "reward": ("reward_model", "reward_tokenizer", "reward_dialect"),
}
PAIRS = ("embedded", "small")
"""Pairs of models that need no name: the package's own toy, and SmolLM2-135M-Instruct with our reward adapter."""
_LOCAL = ("device", "dtype", "threads")
_ENDPOINTS = ("api_key_env", "requests_in_flight")
_KINDS = {
    "policy": "folder or hub id of a causal language model, a GGUF file, or PROVIDER:MODEL of LangChain",
    "reward": "folder or hub id of a one-logit reward model; PROVIDER:MODEL of a judge; or FILE.py:NAME or "
    "MODULE:NAME of a function score(request, responses) or a scorer",
}


class UsageError(ConfigError):
    """Options that contradict each other: the command answers with its usage."""


def add_models(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose the policy and the reward model."""
    group = parser.add_argument_group("models (default: the embedded pair)")
    group.add_argument(
        "--pair",
        metavar="NAME",
        help=f"'embedded', a toy; or 'small', SmolLM2-135M-Instruct and a reward model on the same weights ({INSTALL})",
    )
    for role, kind in _KINDS.items():
        group.add_argument(f"--{role}", metavar="MODEL", help=kind)
    for role in _KINDS:
        judge = f", or {JUDGE!r}: a chat model grades the answers" if role == "reward" else ""
        group.add_argument(
            f"--{role}-url",
            metavar="URL",
            nargs="+",
            action="extend",
            help=f"a server that has the {role} model, in its place; or several, which share the work",
        )
        group.add_argument(f"--{role}-model", metavar="NAME", help="the model's name at that URL")
        group.add_argument(f"--{role}-tokenizer", metavar="MODEL", help="folder or hub id of that model's tokenizer")
        group.add_argument(
            f"--{role}-dialect", metavar="NAME", help=f"which API that server has (default: found out){judge}"
        )
    group.add_argument("--api-key-env", metavar="NAME", help="environment variable with the key of these servers")
    group.add_argument(
        "--requests-in-flight", type=int, metavar="N", help="at the servers of each of the two, together (default: 32)"
    )
    group.add_argument("--device", help='of local models: "cpu", "cuda:0" … (default: the best one there is)')
    group.add_argument("--dtype", help='of local models: "bfloat16" … (default: as they are stored)')
    group.add_argument("--threads", type=int, metavar="N", help="CPU threads of local models (default: measured)")


def add_settings(parser: argparse.ArgumentParser, *, seed: str) -> None:
    """Add the options that set up the search.

    Args:
        parser: of the command.
        seed: what happens without ``--seed``, for the help.
    """
    group = parser.add_argument_group("search")
    group.add_argument("--preset", metavar="NAME", help=f"one of {', '.join(PRESETS)} (default: darwin)")
    group.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting of the search or of its sampling, e.g. cycles=1 or temperature=0.7; may be repeated",
    )
    group.add_argument("--clauses", metavar="FILE", help="what --preset learned_clauses adds, kept by write_clauses")
    group.add_argument("--seed", type=int, metavar="N", help=f"same seed, same answer (default: {seed})")


def check_models(arguments: argparse.Namespace, *, own_reward: bool = False) -> None:
    """Refuse options that contradict each other, before anything is loaded.

    Args:
        arguments: what the parser read.
        own_reward: the command rewards answers itself, so that a policy needs no reward model beside it.

    Raises:
        UsageError: two options contradict each other, or one needs another.
        ConfigError: the environment variable of the key is not set.
    """
    for role, options in _REMOTE.items():
        local, url = getattr(arguments, role), getattr(arguments, f"{role}_url")
        if local is not None and url is not None:
            raise UsageError(f"--{role} is a local model and --{role}-url a remote one: give one of them")
        if url is None and (alien := next((name for name in options if getattr(arguments, name) is not None), None)):
            raise UsageError(f"{_flag(alien)} needs --{role}-url: it is for a model behind an endpoint")
    _check_named_pair(arguments)
    if not own_reward:
        _check_pair(arguments)
    own = arguments.policy is not None or (arguments.reward is not None and not _is_code(arguments.reward))
    taken = ("threads",) if is_small(arguments) else ()
    alien = next((name for name in _LOCAL if name not in taken and getattr(arguments, name) is not None), None)
    if not own and alien is not None:
        raise UsageError(f"--{alien} needs --policy or --reward: it is for local models of your own")
    if arguments.threads is not None and arguments.threads < 1:
        raise UsageError(f"--threads {arguments.threads} is impossible: give 1 or more")
    if arguments.reward_dialect == JUDGE:
        if arguments.reward_model is None:
            raise UsageError(f"--reward-dialect {JUDGE} needs --reward-model: the name of the chat model at the URL")
        if arguments.reward_tokenizer is not None:
            raise UsageError("--reward-tokenizer is for reward models, and a judge is a chat model: leave it out")
    _check_endpoints(arguments)


def _check_endpoints(arguments: argparse.Namespace) -> None:
    if arguments.policy_url is None and arguments.reward_url is None:
        remote = next((name for name in _ENDPOINTS if getattr(arguments, name) is not None), None)
        if remote is not None:
            raise UsageError(f"{_flag(remote)} needs --policy-url or --reward-url: it is for endpoints")
    if arguments.requests_in_flight is not None and arguments.requests_in_flight < 1:
        raise UsageError(f"--requests-in-flight {arguments.requests_in_flight} is impossible: give 1 or more")
    if arguments.api_key_env is not None:
        check_key(arguments.api_key_env)


def _check_named_pair(arguments: argparse.Namespace) -> None:
    name = arguments.pair
    if name is None:
        return
    if name not in PAIRS:
        raise UsageError(f"there is no --pair {name}: give {' or '.join(PAIRS)}")
    policy, reward = _given(arguments, "policy"), _given(arguments, "reward")
    if policy is not None or (reward is not None and not _is_code(reward)):
        raise UsageError(f"--pair {name} and --{'policy' if policy is not None else 'reward'} both give models")


def _check_pair(arguments: argparse.Namespace) -> None:
    policy, reward = _given(arguments, "policy"), _given(arguments, "reward")
    if (policy is None) == (reward is None) or (policy is None and reward is not None and _is_code(reward)):
        return
    missing = "--reward (or --reward-url)" if reward is None else "--policy (or --policy-url)"
    raise UsageError(
        f"--policy and --reward go together, each a local model or, as --policy-url and --reward-url, a remote one: "
        f"give {missing} too, or neither for the embedded pair"
    )


def check_key(name: str) -> None:
    """Refuse the name of an environment variable without a key.

    Raises:
        ConfigError: it is not set.
    """
    if not os.environ.get(name):
        raise ConfigError(f"--api-key-env: the environment variable {name} is not set")


def read_settings(arguments: argparse.Namespace, **defaults: Any) -> tuple[SearchConfig, Sampling]:
    """Read what :func:`add_settings` added, apart from the seed.

    Args:
        arguments: what the parser read.
        defaults: settings of the search, unless ``--set`` sets them.

    Raises:
        ConfigError: an unknown or impossible setting, or one that is given twice.
    """
    config, sampling = settings_of(arguments.preset or "darwin", arguments.set, **defaults)
    if arguments.clauses is not None:
        if "clauses" in config.model_fields_set:
            raise UsageError("--clauses and --set clauses=… give the same setting: give one of them")
        config = config.replace(clauses=read_clauses(arguments.clauses))
    return config, sampling


def build_search(
    arguments: argparse.Namespace, *, rewording_tokens: int | None = None, **defaults: Any
) -> DarwinSearch:
    """Load the models that the options name, and make the search.

    Args:
        arguments: what the parser read.
        rewording_tokens: of one reply at most, when a policy of one's own rewords; ``None`` for the mutator's number.
        defaults: settings of the search, unless ``--set`` sets them.

    Raises:
        ConfigError: options that contradict each other, or an unknown setting.
        ModelLoadError: a model cannot be loaded.
    """
    check_models(arguments)
    if is_small(arguments) and arguments.preset is None:
        from darwin_align.small import DEFAULTS

        defaults = {**DEFAULTS, **defaults}
    config, sampling = read_settings(arguments, **defaults)
    # Code is cheap to load, and its errors show before minutes are spent on models.
    scorer = _code(arguments.reward) if _is_code(arguments.reward or "") else None
    with working("loading models"):
        if is_small(arguments):
            from darwin_align.small import small_search

            given = {} if scorer is None else {"scorer": scorer}
            return small_search(config, threads=arguments.threads, sampling=sampling, **given)
        if not has_own_policy(arguments):
            from darwin_align.pocket.pair import pocket_search

            if scorer is None:
                return pocket_search(config, sampling=sampling)
            return pocket_search(config, sampling=sampling, scorer=scorer)
        from darwin_align.search import DarwinSearch

        policy, mutator = _policy(arguments), None
        scorer = scorer or _scorer(arguments)
        if rewording_tokens is not None:
            from darwin_align.operators import AutoMutator, PolicyMutator

            mutator = AutoMutator(rewording=PolicyMutator(policy=policy, max_tokens=rewording_tokens))
        return DarwinSearch(policy=policy, scorer=scorer, mutator=mutator, config=config, sampling=sampling)


def load_policy(arguments: argparse.Namespace) -> PolicyLike:
    """Load the policy that the options name.

    Raises:
        ModelLoadError: it cannot be loaded.
    """
    with working("loading the policy"):
        if is_small(arguments):
            from darwin_align.small import small_policy

            return small_policy(threads=arguments.threads)
        return _policy(arguments)


def load_scorer(arguments: argparse.Namespace) -> PopulationRunnable:
    """Load the reward model, or the code, that the options name.

    Raises:
        ConfigError: the code cannot be imported, or is no scorer.
        ModelLoadError: the model cannot be loaded.
    """
    with working("loading the reward model"):
        if is_small(arguments) and arguments.reward is None:
            from darwin_align.small import small_scorer

            return small_scorer(threads=arguments.threads)
        return _scorer(arguments)


def has_own_policy(arguments: argparse.Namespace) -> bool:
    """Whether the policy is another than the embedded one."""
    return is_small(arguments) or _given(arguments, "policy") is not None


def is_small(arguments: argparse.Namespace) -> bool:
    """Whether the small pair was chosen."""
    return bool(arguments.pair == "small")


def model_name(arguments: argparse.Namespace, role: str) -> str:
    """The identity of a model. A server may move; its model's name counts, where it has one."""
    named: str | None = getattr(arguments, f"{role}_model")
    return named or _given(arguments, role) or arguments.pair or "embedded"


def load_reward(name: str, **how: Any) -> PopulationRunnable:
    """Load a scorer: code, or a local reward model.

    Args:
        name: what ``--reward`` was given.
        how: options for a reward model, as :meth:`LocalScorer.from_pretrained
            <darwin_align.backends.local.LocalScorer.from_pretrained>` takes them.

    Raises:
        ConfigError: the code cannot be imported, or is no scorer.
        ModelLoadError: the model cannot be loaded.
    """
    if _is_code(name):
        return _code(name)
    from darwin_align.langchain import given_models

    return given_models.load_reward(name, **how)


def _code(name: str) -> PopulationRunnable:
    from darwin_align.cli.code import load_object
    from darwin_align.operators.coerce import as_scorer

    return as_scorer(load_object("--reward", name))


def _is_code(name: str) -> bool:
    from darwin_align.cli.code import names_code

    return names_code(name)


def _policy(arguments: argparse.Namespace) -> PolicyLike:
    if arguments.policy is not None:
        from darwin_align.langchain import given_models

        return given_models.load_policy(arguments.policy, **_how(arguments))
    from darwin_align.backends.endpoint import EndpointPolicy

    return EndpointPolicy(arguments.policy_url, **_endpoint(arguments, "policy"))


def _scorer(arguments: argparse.Namespace) -> PopulationRunnable:
    if arguments.reward is not None:
        return load_reward(arguments.reward, **_how(arguments))
    from darwin_align.backends.endpoint import EndpointScorer, JudgeScorer

    options = _endpoint(arguments, "reward")
    if options.get("dialect") == JUDGE:
        del options["dialect"]
        return JudgeScorer(base_url=arguments.reward_url, **options)
    return EndpointScorer(base_url=arguments.reward_url, **options)


def _how(arguments: argparse.Namespace) -> dict[str, Any]:
    return {name: value for name in _LOCAL if (value := getattr(arguments, name)) is not None}


def _endpoint(arguments: argparse.Namespace, role: str) -> dict[str, Any]:
    given: Mapping[str, Any] = {name.partition("_")[2]: getattr(arguments, name) for name in _REMOTE[role]}
    options = {name: value for name, value in given.items() if value is not None}
    if arguments.api_key_env is not None:
        from pydantic import SecretStr

        options["api_key"] = SecretStr(os.environ[arguments.api_key_env])
    if arguments.requests_in_flight is not None:
        from darwin_align.backends.endpoint import Limits

        options["limits"] = Limits(concurrency=arguments.requests_in_flight)
    return options


def _given(arguments: argparse.Namespace, role: str) -> str | None:
    local: str | None = getattr(arguments, role)
    urls: list[str] | None = getattr(arguments, f"{role}_url")
    return " ".join(urls) if local is None and urls else local


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
