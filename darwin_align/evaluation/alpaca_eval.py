"""AlpacaEval 2's answers: one by a search for each instruction, as the ``alpaca_eval`` package reads them.

The files in the output folder, with those of the verdicts:

* ``answers.jsonl``: every answer as it came, with its rewards and what it cost; a run that was killed goes on from it.
* ``model_outputs.json``: the official format. ``first_responses.json`` holds the plain samples that the searches began
  with, in the same format.
* ``judgments.jsonl``, ``annotations.json``, ``results.json``: the judge's verdicts as they came, in the package's
  format, and the win rates.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from darwin_align.core.types import Message
from darwin_align.evaluation.ledger import Ledger
from darwin_align.evaluation.official import Instruction, digest
from darwin_align.evaluation.runner import run_jobs
from darwin_align.evaluation.subject import Subject
from darwin_align.storage.atomic import write_atomically

__all__ = ["Answers", "Output", "answer"]

Output = dict[str, Any]
"""An entry of the official format."""


@dataclass(frozen=True)
class Answers:
    """What a benchmark got."""

    outputs: tuple[Output, ...]
    """The answers in the official format, in the prompts' order."""
    first: tuple[Output, ...]
    """The plain samples that the searches began with."""
    notes: tuple[str, ...]
    """Notes for readers of the figures."""


def answer(
    subject: Subject,
    prompts: Sequence[Instruction],
    out: str | Path,
    *,
    limit: int | None = None,
    concurrency: int = 8,
    progress: bool = True,
) -> Answers:
    """Answer AlpacaEval's instructions, or go on where an earlier run was killed.

    Args:
        subject: the search.
        prompts: all of the benchmark's instructions.
        out: folder for the files.
        limit: take only so many of them, the first ones; it may be raised later.
        concurrency: concurrent prompts; they share the models' batches.
        progress: show progress on stderr.

    Raises:
        ConfigError: the folder holds answers of other settings or prompts.
        DarwinError: a search failed; what is done is kept.
    """
    out = Path(out)
    settings = {"benchmark": "alpaca_eval", "prompts": digest([p.instruction for p in prompts]), **subject.settings}
    chosen = prompts[:limit]
    with Ledger(out / "answers.jsonl", settings) as ledger:

        async def job(prompt: Instruction) -> None:
            turns = [Message(role="user", content=prompt.instruction)]
            seed = subject.seed_at("alpaca_eval", prompt.index)
            await ledger.kept(str(prompt.index), lambda: subject.answer(turns, seed))

        jobs = [partial(job, prompt) for prompt in chosen if str(prompt.index) not in ledger.records]
        run_jobs(jobs, title="answers", concurrency=concurrency, progress=progress)
        records = [ledger.records[str(prompt.index)] for prompt in chosen]
    answers = Answers(
        tuple(_output(p, r["output"], subject.name) for p, r in zip(chosen, records, strict=True)),
        tuple(
            _output(p, r.get("first_response", ""), f"{subject.name}-first")
            for p, r in zip(chosen, records, strict=True)
        ),
        _notes(records),
    )
    for name, outputs in (("model_outputs", answers.outputs), ("first_responses", answers.first)):
        write_atomically(out / f"{name}.json", json.dumps(outputs, indent=2) + "\n")
    return answers


def _output(prompt: Instruction, text: str, generator: str) -> Output:
    return {"dataset": prompt.dataset, "instruction": prompt.instruction, "output": text, "generator": generator}


def _notes(records: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    refused = [record["error"] for record in records if "error" in record]
    broken = sum(record.get("failure") is not None for record in records)
    notes = []
    if refused:
        notes.append(f"{len(refused)} of {len(records)} prompts got an empty answer, e.g. because {refused[0]}")
    if broken:
        notes.append(f"{broken} of {len(records)} searches broke off and gave the best that they had")
    return tuple(notes)
