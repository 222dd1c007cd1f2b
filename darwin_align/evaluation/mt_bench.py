"""MT-Bench's answers: two turns by a search, as FastChat reads them.

The files in the output folder, with those of the grades:

* ``answers.jsonl``: every turn's answer as it came; a run that was killed goes on from it.
* ``fastchat/data/mt_bench/``: ``question.jsonl``, ``model_answer/NAME.jsonl`` and ``model_judgment/JUDGE_single.jsonl``
  as FastChat's own programs read them.
* ``judgments.jsonl``, ``results.json``: the judge's grades as they came, and their means.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path
from time import time
from typing import Any

from darwin_align.core.errors import ConfigError
from darwin_align.core.types import Message
from darwin_align.evaluation.ledger import Ledger
from darwin_align.evaluation.official import Question, digest
from darwin_align.evaluation.runner import run_jobs
from darwin_align.evaluation.subject import Subject
from darwin_align.storage.atomic import write_atomically

__all__ = ["TEMPERATURES", "Conversation", "answer", "data_folder", "write_lines"]

TEMPERATURES = {
    "writing": 0.7,
    "roleplay": 0.7,
    "extraction": 0.0,
    "math": 0.0,
    "coding": 0.0,
    "reasoning": 0.0,
    "stem": 0.1,
    "humanities": 0.1,
}
"""What FastChat answers each category at; any other at 0.7."""
_OTHER_TEMPERATURE = 0.7

_ALPHABET = "23456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
"""Of FastChat's answer ids."""


@dataclass(frozen=True)
class Conversation:
    """A question with its answers."""

    question: Question
    turns: tuple[str, ...]
    error: str | None = None
    """Why an answer is empty, if one is."""


# -- answers


def answer(
    subject: Subject,
    questions: Sequence[Question],
    out: str | Path,
    *,
    limit: int | None = None,
    category_temperatures: bool = False,
    concurrency: int = 8,
    progress: bool = True,
) -> tuple[Conversation, ...]:
    """Answer MT-Bench's questions, or go on where an earlier run was killed.

    A second turn is searched in the context of the first turn's answer. Every turn is kept once it is done.

    Args:
        subject: the search.
        questions: all of the benchmark's questions.
        out: folder for the files.
        limit: take only so many of them, the first ones; it may be raised later.
        category_temperatures: answer each category at FastChat's own temperature. At 0 all beams under one
            instruction are alike.
        concurrency: concurrent questions; they share the models' batches.
        progress: show progress on stderr.

    Raises:
        ConfigError: the folder holds answers of other settings or questions, or two temperatures are given.
        DarwinError: a search failed; what is done is kept.
    """
    if category_temperatures and "temperature" in subject.search.sampling.model_fields_set:
        raise ConfigError(
            "--category-temperatures and --set temperature=… contradict each other: leave one of them out"
        )
    out, chosen = Path(out), questions[:limit]
    settings = {
        "benchmark": "mt_bench",
        "prompts": digest([[q.id, q.turns] for q in questions]),
        "category_temperatures": category_temperatures,
        **subject.settings,
    }
    with Ledger(out / "answers.jsonl", settings) as ledger:
        asking = _Asking(subject, ledger, category_temperatures)
        jobs = [partial(asking.converse, q) for q in chosen if _key(q, len(q.turns)) not in ledger.records]
        run_jobs(jobs, title="questions", concurrency=concurrency, progress=progress)
        conversations = tuple(_conversation(q, ledger.records) for q in chosen)
        _write_answers(out, subject, conversations, ledger.records)
    return conversations


@dataclass(frozen=True)
class _Asking:
    subject: Subject
    ledger: Ledger
    category_temperatures: bool

    async def converse(self, question: Question) -> None:
        """Answer turn after turn, each in the context of those before."""
        turns: list[Message] = []
        for number, text in enumerate(question.turns, 1):
            turns.append(Message(role="user", content=text))
            record = await self.ledger.kept(_key(question, number), partial(self._turn, question, number, list(turns)))
            turns.append(Message(role="assistant", content=record["output"]))

    async def _turn(self, question: Question, number: int, turns: Sequence[Message]) -> dict[str, Any]:
        settings: dict[str, Any] = {}
        if self.category_temperatures:
            settings["temperature"] = TEMPERATURES.get(question.category, _OTHER_TEMPERATURE)
        seed = self.subject.seed_at("mt_bench", question.id, number)
        return {**await self.subject.answer(turns, seed, **settings), "tstamp": time()}


def _key(question: Question, number: int) -> str:
    return f"{question.id}:{number}"


def _conversation(question: Question, records: Mapping[str, Mapping[str, Any]]) -> Conversation:
    turns = [records[_key(question, number)] for number in range(1, len(question.turns) + 1)]
    error = next((record["error"] for record in turns if "error" in record), None)
    return Conversation(question, tuple(record["output"] for record in turns), error)


def _write_answers(
    out: Path, subject: Subject, conversations: Sequence[Conversation], records: Mapping[str, Mapping[str, Any]]
) -> None:
    """Write FastChat's files."""
    lines = []
    for one in conversations:
        question = one.question
        lines.append(
            {
                "question_id": question.id,
                "answer_id": _answer_id(subject.name, question.id, one.turns),
                "model_id": subject.name,
                "choices": [{"index": 0, "turns": list(one.turns)}],
                "tstamp": records[_key(question, len(question.turns))]["tstamp"],
            }
        )
    questions = [
        {"question_id": one.question.id, "category": one.question.category, "turns": list(one.question.turns)}
        for one in conversations
    ]
    write_lines(data_folder(out) / "question.jsonl", questions)
    write_lines(data_folder(out) / "model_answer" / f"{subject.name}.jsonl", lines)


def data_folder(out: Path) -> Path:
    """Where FastChat's files are; its programs run two folders above."""
    return out / "fastchat" / "data" / "mt_bench"


def write_lines(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Write JSONL."""
    write_atomically(path, "".join(json.dumps(line) + "\n" for line in lines))


def _answer_id(name: str, question: int | str, turns: Sequence[str]) -> str:
    """An id of FastChat's kind, the same for the same answer."""
    number = int.from_bytes(blake2b(json.dumps([name, question, list(turns)]).encode(), digest_size=16).digest(), "big")
    letters = ""
    for _ in range(22):
        number, letter = divmod(number, len(_ALPHABET))
        letters += _ALPHABET[letter]
    return letters
