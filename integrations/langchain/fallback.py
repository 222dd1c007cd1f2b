"""An endpoint, and this machine for when it is down: ``with_fallbacks``.

Run ``python -m darwin_align.integrations.langchain.fallback [--url http://host:port]``. Without a server there is none
at the address, and this machine answers.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from langchain_core.exceptions import ModelError
from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable

from darwin_align import DarwinChatModel
from darwin_align.backends.endpoint import EndpointPolicy, Limits
from darwin_align.backends.local import LocalScorer
from darwin_align.pocket import policy_path, reward_path

__all__ = ["DOWN", "QUESTION", "build", "local", "main", "remote", "who"]

QUESTION = "How do I brew green tea?"
DOWN = "http://127.0.0.1:9"
"""An address without a server."""
SEARCH: dict[str, Any] = {"cycles": 1, "mutations": 3, "max_tokens": 240, "seed": 7}


def remote(url: str) -> DarwinChatModel:
    """Return a search whose policy is behind a URL, and whose reward model is here.

    ``on_failure="raise"`` hands a search over also when the server goes away in its middle; without it such a search
    ends with the best answer so far, and there is nothing to fall back from.
    """
    policy = EndpointPolicy(url, tokenizer=policy_path(), limits=Limits(attempts=2, connect_timeout=2))
    scorer = LocalScorer.from_pretrained(reward_path(), threads=1)
    return DarwinChatModel(policy=policy, scorer=scorer, model_name="endpoint", on_failure="raise", **SEARCH)


def local() -> DarwinChatModel:
    """Return the same search on this machine alone."""
    return DarwinChatModel(model_name="local", **SEARCH)


def build(url: str) -> Runnable[Any, AIMessage]:
    """Return the endpoint's model, with this machine's to stand in where the server cannot be used.

    Only for that: a misspelt setting or an impossible request is no outage, and is raised.
    """
    return remote(url).with_fallbacks([local()], exceptions_to_handle=(ModelError,))


def who(answer: AIMessage) -> str:
    """Name the model that answered."""
    return str(answer.response_metadata["model_name"])


def main(argv: Sequence[str] | None = None) -> None:
    """Print which model answered, and its answer."""
    parser = argparse.ArgumentParser(
        description="An endpoint, and this machine for when it is down.", allow_abbrev=False
    )
    parser.add_argument("--url", default=DOWN, help="a server with the embedded policy (default: one that is down)")
    url = parser.parse_args(argv).url
    answer = build(url).invoke(QUESTION)
    print(f"asked     {url}\nanswered  {who(answer)}\n{answer.text}")


if __name__ == "__main__":
    main()
