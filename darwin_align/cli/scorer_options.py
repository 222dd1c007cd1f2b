"""The options for a scorer alone, shared by the commands that need no policy."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from darwin_align.cli.options import UsageError, check_key, load_reward

if TYPE_CHECKING:
    from darwin_align.operators.coerce import PopulationRunnable

__all__ = ["add_scorer", "build_scorer", "check_scorer_options", "scorer_name"]


def add_scorer(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose the scorer."""
    parser.add_argument(
        "--reward",
        metavar="MODEL",
        help="folder or hub id of a local model, or FILE.py:NAME or MODULE:NAME of a function or a scorer (default: "
        "the embedded one)",
    )
    parser.add_argument("--url", help="a reward endpoint, or with --judge a chat endpoint, in place of a local model")
    parser.add_argument("--dialect", metavar="NAME", help="which API the reward endpoint has")
    parser.add_argument("--model", metavar="NAME", help="the model's name at the URL")
    parser.add_argument(
        "--tokenizer", metavar="MODEL", help="folder or hub id whose chat template renders the conversation"
    )
    parser.add_argument("--api-key-env", metavar="NAME", help="environment variable that holds the key")
    parser.add_argument("--judge", action="store_true", help="the URL is a chat model that judges answers")


def check_scorer_options(arguments: argparse.Namespace) -> None:
    """Refuse options that contradict each other, before anything is loaded.

    Raises:
        UsageError: two options contradict each other, or one needs another.
        ConfigError: the environment variable of the key is not set.
    """
    given = {
        f"--{name.replace('_', '-')}"
        for name in ("dialect", "model", "tokenizer", "api_key_env", "judge")
        if getattr(arguments, name)
    }
    if arguments.url is None and given:
        raise UsageError(f"{min(given)} needs --url: it is for a scorer behind an endpoint")
    if arguments.url is not None and arguments.reward is not None:
        raise UsageError("--reward is a local model and --url a remote one: give one of them")
    if arguments.judge and (alien := given & {"--dialect", "--tokenizer"}):
        raise UsageError(f"{min(alien)} is for reward endpoints, and --judge is a chat model: leave one of them out")
    if arguments.judge and arguments.model is None:
        raise UsageError("--judge needs --model: the name of the chat model at the URL")
    if arguments.api_key_env is not None:
        check_key(arguments.api_key_env)


def build_scorer(arguments: argparse.Namespace) -> PopulationRunnable:
    """Load the scorer that the options name.

    Raises:
        ConfigError: code cannot be imported, or is no scorer.
        ModelLoadError: a model cannot be loaded.
    """
    if arguments.url is None:
        from darwin_align.pocket import reward_path

        # One thread: for a model this small, more threads only wait for each other.
        how = {"threads": 1} if arguments.reward is None else {}
        return load_reward(arguments.reward or str(reward_path()), **how)
    from pydantic import SecretStr

    from darwin_align.backends.endpoint import EndpointScorer, JudgeScorer

    names = ("model",) if arguments.judge else ("dialect", "model", "tokenizer")
    options = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    if arguments.api_key_env is not None:
        options["api_key"] = SecretStr(os.environ[arguments.api_key_env])
    kind = JudgeScorer if arguments.judge else EndpointScorer
    scorer: PopulationRunnable = kind(base_url=arguments.url, **options)
    return scorer


def scorer_name(arguments: argparse.Namespace) -> str:
    """The identity of the scorer. A server may move; its model's name counts, where it has one."""
    named: str | None = arguments.model or arguments.url or arguments.reward
    return named or "embedded"
