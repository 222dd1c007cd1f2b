"""The embedded pair as a search, with the settings that suit it."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

from darwin_align.core import Clause, SearchConfig
from darwin_align.core.clauses import read_clauses
from darwin_align.operators.checks.intent import LexicalIntent
from darwin_align.operators.prompts import MutationPrompt
from darwin_align.pocket import MUTATION_PROMPT, policy_path, reward_path
from darwin_align.pocket.world import CLAUSES
from darwin_align.search import DarwinSearch

__all__ = ["DEFAULTS", "pocket_clauses", "pocket_config", "pocket_search"]

DEFAULTS: dict[str, Any] = {"replacement_period": 24, "max_new_tokens": 320}
"""Its answers are short: about a sentence and a half between two replacements."""


def pocket_config(config: SearchConfig | None = None) -> SearchConfig:
    """Fill in the embedded pair's defaults for what was not set by hand.

    >>> pocket_config(SearchConfig(cycles=1)).replacement_period
    24
    """
    by_hand = {name: getattr(config, name) for name in config.model_fields_set} if config else {}
    return SearchConfig(**{**DEFAULTS, **by_hand})


@cache
def pocket_clauses() -> tuple[Clause, ...]:
    """What searches on dev instructions learned (``training/clauses.py``), best first.

    >>> pocket_clauses()[0].text
    'Leave nothing out.'
    """
    return read_clauses(Path(__file__).parent / "clauses.json")


def pocket_search(
    config: SearchConfig | None = None, *, policy: str | Path = "", reward: str | Path = "", **parts: Any
) -> DarwinSearch:
    """Return a search over the embedded pair.

    Args:
        config: settings; what is not set by hand suits the pair (:data:`DEFAULTS`).
        policy: folder of another policy of this kind, e.g. a newly trained one.
        reward: folder of another reward model of this kind.
        parts: further arguments of :class:`DarwinSearch`; a ``scorer`` replaces the reward model.
    """
    from darwin_align.backends.local import LocalPolicy, LocalScorer

    parts.setdefault("clauses", pocket_clauses())
    if parts.get("mutator") is None:
        template = MUTATION_PROMPT.replace("<request>\n{instruction}\n</request>", "{instruction}")
        parts.setdefault("mutation_prompt", MutationPrompt(template, bare_tag=True))
    parts.setdefault("guard", LexicalIntent(ignore=_clause_words()))
    if "scorer" not in parts:
        parts["scorer"] = LocalScorer.from_pretrained(reward or reward_path(), threads=1)
    # One thread: for models this small, more threads only wait for each other.
    return DarwinSearch(
        policy=LocalPolicy.from_pretrained(policy or policy_path(), threads=1),
        config=pocket_config(config),
        **parts,
    )


def _clause_words() -> tuple[str, ...]:
    """The words of request clauses, which carry no topic."""
    words = re.findall(r"[a-z]+", " ".join(text for texts in CLAUSES.values() for text in texts).lower())
    return tuple(sorted(set(words)))
