"""Rows of published preference sets, read as pairs of a better and a worse answer.

* PandaLM (Wang et al. 2024, arXiv 2306.05087): ``instruction``, ``input``, ``response1``, ``response2`` and the votes
  of several people, as a list ``votes`` or as ``annotator1`` and so on: 1 or 2 for an answer, 0 for a tie.
* LLMBar (Zeng et al. 2024, arXiv 2310.07641): ``instruction`` or ``input``, ``output_1``, ``output_2``, and ``label``,
  1 or 2, the better one.

RewardBench's rows (Lambert et al. 2024, arXiv 2403.13787) are those of other preference datasets with ``chosen`` and
``rejected``; :mod:`darwin_align.evaluation.pairs` reads them. ``subset`` is kept of all, where there is one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

from darwin_align.core.errors import ConfigError

__all__ = ["NoBetterAnswerError", "Preference", "is_preference", "preference_of"]

_SIDES = (("response1", "response2"), ("output_1", "output_2"))


class NoBetterAnswerError(ConfigError):
    """The votes on a pair name no better answer, or a blank one: it is no pair to check by."""


class Preference(NamedTuple):
    """A prompt with a better and a worse answer."""

    prompt: str
    better: str
    worse: str
    subset: str


def is_preference(row: Mapping[str, Any]) -> bool:
    """Whether a row has the two answers of one of these sets.

    >>> is_preference({"instruction": "Hi", "output_1": "a", "output_2": "b", "label": 1})
    True
    """
    return any(name in row for names in _SIDES for name in names)


def preference_of(row: Mapping[str, Any]) -> Preference:
    """Read a row.

    Raises:
        NoBetterAnswerError: its votes are a tie, there is no majority, or a blank answer is the better one.
        ConfigError: a field is missing, or is no such thing.

    >>> preference_of({"instruction": "Hi", "response1": "a", "response2": "b", "votes": [2, 2, 0]})[1:3]
    ('b', 'a')
    """
    first, second = next(names for names in _SIDES if any(name in row for name in names))
    answers = _text(row, first), _text(row, second)
    better = _majority(row) if first == "response1" else _label(row)
    if not answers[better - 1].strip():
        raise NoBetterAnswerError(f"answer {better} is the better one, and blank: leave the row out")
    subset = row.get("subset") or ""
    if not isinstance(subset, str):
        raise ConfigError(f"'subset' must be a text, not {subset!r:.60}")
    return Preference(_prompt(row), answers[better - 1], answers[2 - better], subset)


def _prompt(row: Mapping[str, Any]) -> str:
    given = [_text(row, name) for name in ("instruction", "input") if row.get(name)]
    if not given:
        raise ConfigError("there is no prompt: give 'instruction', and 'input' where there is more")
    return "\n\n".join(given)


def _majority(row: Mapping[str, Any]) -> int:
    votes = row["votes"] if "votes" in row else [row[name] for name in sorted(row) if name.startswith("annotator")]
    known = isinstance(votes, list) and all(type(vote) is int and vote in (0, 1, 2) for vote in votes)
    if not votes or not known:
        raise ConfigError(f"'votes' must be a list of 1, 2 and 0 (a tie), not {votes!r:.60}")
    ((vote, count),) = Counter(votes).most_common(1)
    if vote == 0 or 2 * count <= len(votes):
        raise NoBetterAnswerError(f"the votes {votes} name no better answer: leave the row out")
    return int(vote)


def _label(row: Mapping[str, Any]) -> int:
    label = row.get("label")
    if type(label) is not int or label not in (1, 2):
        raise ConfigError(f"'label' must be 1 or 2, the better answer, not {label!r:.60}")
    return int(label)


def _text(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if not isinstance(value, str):
        raise ConfigError(f"{name!r} must be a text, not {value!r:.60}")
    return value
