"""The benchmarks' own files: found by path, or fetched from their hub."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from darwin_align.core.errors import ConfigError
from darwin_align.core.json_types import Json

__all__ = [
    "ALPACA_EVAL",
    "MT_BENCH",
    "HubFile",
    "Instruction",
    "Question",
    "digest",
    "instructions",
    "questions",
    "rows",
]

T = TypeVar("T")

_OFFICIAL = "c5770d532bf3f697"


@dataclass(frozen=True)
class HubFile:
    """A file on Hugging Face's hub."""

    repo: str
    path: str
    kind: str = "dataset"

    def fetch(self, option: str) -> Path:
        """Return where it lies on this machine, fetched if need be.

        Args:
            option: what a user gives a local path by.

        Raises:
            ConfigError: it cannot be fetched.
        """
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

        try:
            return Path(hf_hub_download(self.repo, self.path, repo_type=self.kind))
        except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
            why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ConfigError(
                f"cannot fetch {self.path} of {self.kind} {self.repo} from the hub ({why:.160}): give {option} FILE "
                "with a copy of it, or go online (HF_HUB_OFFLINE=0)"
            ) from None


ALPACA_EVAL = {
    "instructions": HubFile("tatsu-lab/alpaca_eval", "alpaca_eval_gpt4_baseline.json"),
    "reference": HubFile("tatsu-lab/alpaca_eval", "alpaca_eval_gpt4_baseline.json"),
    "gamed": HubFile("tatsu-lab/alpaca_eval", "df_gamed.csv"),
    "difficulty": HubFile("tatsu-lab/alpaca_eval", "instruction_difficulty.csv"),
}
"""AlpacaEval 2: the 805 instructions with the answers of its reference, GPT-4 Turbo; and what its length-controlled
win rate is fitted with."""

MT_BENCH = {
    "questions": HubFile("lmsys/mt-bench", "data/mt_bench/question.jsonl", "space"),
    "references": HubFile("lmsys/mt-bench", "data/mt_bench/reference_answer/gpt-4.jsonl", "space"),
    "judge_prompts": HubFile("lmsys/mt-bench", "data/judge_prompts.jsonl", "space"),
}
"""MT-Bench: the 80 questions, GPT-4's answers to those that need a reference, and FastChat's prompts for judges."""


@dataclass(frozen=True)
class Instruction:
    """A prompt of AlpacaEval."""

    index: int
    """Its index in the file, by which AlpacaEval lists difficulties."""
    instruction: str
    dataset: str


@dataclass(frozen=True)
class Question:
    """A conversation of MT-Bench."""

    id: int | str
    category: str
    turns: tuple[str, ...]


def instructions(path: str | Path | None = None) -> tuple[Instruction, ...]:
    """Read AlpacaEval's instructions: objects with ``instruction``, and ``dataset`` where they have one.

    Args:
        path: JSON or JSONL; ``None`` fetches the official file.

    Raises:
        ConfigError: the file cannot be had or read, or holds none.
    """
    path = ALPACA_EVAL["instructions"].fetch("--prompts") if path is None else Path(path)
    found = _each(path, _instruction)
    _check_once(path, [one.instruction for one in found], "instruction")
    return found


def questions(path: str | Path | None = None) -> tuple[Question, ...]:
    """Read MT-Bench's questions: objects with ``question_id``, ``category`` and ``turns``.

    Args:
        path: JSON or JSONL; ``None`` fetches the official file.

    Raises:
        ConfigError: the file cannot be had or read, or holds none.
    """
    path = MT_BENCH["questions"].fetch("--prompts") if path is None else Path(path)
    found = _each(path, _question)
    _check_once(path, [one.id for one in found], "question_id")
    return found


def found(given: str | None, file: HubFile, option: str) -> Path | None:
    """Where a file is: nowhere, on the hub for ``"official"``, else at a path.

    Raises:
        ConfigError: there is none.
    """
    if given is None:
        return None
    path = file.fetch(option) if given == "official" else Path(given)
    if not path.is_file():
        raise ConfigError(f"{option} {path}: there is no such file")
    return path


def is_official(prompts: Sequence[Instruction]) -> bool:
    """Whether these are AlpacaEval's 805 instructions, whose difficulties are listed by index."""
    return digest([one.instruction for one in prompts]) == _OFFICIAL


def rows(path: str | Path) -> list[dict[str, Any]]:
    """Read a JSON list of objects, or one object a line.

    Raises:
        ConfigError: it cannot be read.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path} ({getattr(error, 'strerror', None) or error})") from None
    try:
        data = json.loads(text) if text.startswith("[") else [json.loads(line) for line in text.split("\n") if line]
    except ValueError as error:
        raise ConfigError(f"{path} is neither a JSON list nor one JSON object a line: {error}") from None
    if not data or not all(isinstance(row, dict) for row in data):
        raise ConfigError(f"{path} holds no objects: it is to be a JSON list of them, or one a line")
    return data


def digest(data: Json) -> str:
    """A short fingerprint of plain data."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]


def _each(path: Path, make: Callable[[int, Mapping[str, Any]], T]) -> tuple[T, ...]:
    made = []
    for i, row in enumerate(rows(path)):
        try:
            made.append(make(i, row))
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"{path}, entry {i + 1}: {error.args[0]!r} is missing or is no such thing") from None
    return tuple(made)


def _instruction(i: int, row: Mapping[str, Any]) -> Instruction:
    return Instruction(i, _text(row, "instruction"), str(row.get("dataset", "")))


def _question(_: int, row: Mapping[str, Any]) -> Question:
    turns = row["turns"]
    if not isinstance(turns, Sequence) or isinstance(turns, str) or not turns:
        raise ValueError("turns")
    number = row["question_id"]
    if isinstance(number, bool) or not isinstance(number, int | str):
        raise ValueError("question_id")
    if not all(isinstance(turn, str) and turn.strip() for turn in turns):
        raise ValueError("turns")
    return Question(number, str(row.get("category", "")), tuple(turns))


def _text(row: Mapping[str, Any], name: str) -> str:
    value = row[name]
    if not isinstance(value, str) or not value.strip():
        raise ValueError(name)
    return value


def _check_once(path: Path, keys: Sequence[object], name: str) -> None:
    twice = next((key for i, key in enumerate(keys) if key in keys[:i]), None)
    if twice is not None:
        raise ConfigError(f"{path}: the {name} {str(twice)[:60]!r} is there twice; take one of the two out")
