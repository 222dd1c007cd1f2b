"""The job: actors with the models answer a plan's parts, and Ray writes the answers as parquet."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
import ray.data

from darwin_align import DarwinChatModel, DarwinSearch
from darwin_align.batch import Answerer, BadPromptError, Errors, Fields, Index, Prompt, RunFile, lock
from darwin_align.core.errors import ConfigError
from darwin_align.integrations.ray.answers_file import failure_row, rows_of, table_of
from darwin_align.integrations.ray.metrics import RayRecord
from darwin_align.integrations.ray.plan import Plan, read_part
from darwin_align.operators.observers import observing
from darwin_align.operators.portal import call
from darwin_align.telemetry.measurements import Measuring

__all__ = ["Answering", "RayReport", "answer_on_ray"]

Make = Callable[[], DarwinChatModel | DarwinSearch]
"""Makes a chat model or a search, in whatever process it is called."""


@dataclass(frozen=True)
class RayReport:
    """How a job ended."""

    out: Path
    answered: int
    """Prompts with an answer, those of earlier runs included."""
    new: int
    bad: int
    """Rows that no run can answer."""
    failed: int
    """Prompts that the next run tries again."""

    @property
    def code(self) -> int:
        """0: all is answered, 1: something is not."""
        return 1 if self.bad or self.failed else 0


class Answering:
    """An actor: answers parts of the plan by one policy and one reward model, local or behind endpoints."""

    def __init__(self, make: Make, seed: int | None, concurrency: int) -> None:
        self._answerer, self._concurrency = Answerer(make(), seed), concurrency
        self._observer = Measuring(RayRecord())

    def __call__(self, table: pa.Table) -> pa.Table:
        """Answer the parts whose paths are in the table."""
        prompts = [prompt for path in table.column("part").to_pylist() for prompt in read_part(path)]
        with observing(self._observer):
            return table_of(call(partial(self._all, prompts)))

    async def _all(self, prompts: list[Prompt]) -> list[dict[str, Any]]:
        places = asyncio.Semaphore(self._concurrency)

        async def one(prompt: Prompt) -> dict[str, Any]:
            async with places:
                return await self._one(prompt)

        return await asyncio.gather(*map(one, prompts))

    async def _one(self, prompt: Prompt) -> dict[str, Any]:
        try:
            record: dict[str, Any] = (await self._answerer.answer(prompt))[0]
        except BadPromptError as error:
            return dict(failure_row(prompt.key, prompt.line, prompt.digest, "bad", str(error)))
        except Exception as error:  # noqa: BLE001 - the other prompts go on, the next run tries this one again
            reason = f"{type(error).__name__}: {error}"
            return dict(failure_row(prompt.key, prompt.line, prompt.digest, "failed", reason))
        return {**record, "line": prompt.line}


def answer_on_ray(
    make: Make,
    source: str | Path | Iterable[Mapping[str, Any] | str],
    out: str | Path,
    *,
    seed: int | None = None,
    actors: int = 1,
    concurrency: int = 16,
    rows_per_part: int = 64,
    fields: Fields = Fields(),  # noqa: B008 - frozen
    accept_changes: bool = False,
    resources: Mapping[str, Any] | None = None,
) -> RayReport:
    """Answer every prompt of a source that has no answer in a folder yet, on the cluster that Ray is connected to.

    Args:
        make: makes the model; called once in every actor, and once to learn its settings. It and what it refers to must
            be importable, or picklable, where the actors run.
        source: a JSONL or parquet file, or texts and mappings, as :func:`darwin_align.batch.run_batch` takes them.
        out: a folder that every machine sees under this name. Answers are parquet files in ``out/answers``.
        seed: of the run, as there.
        actors: how many load the models and work side by side.
        concurrency: prompts in flight in each.
        rows_per_part: prompts that an actor answers at a time, best some multiple of ``concurrency``. A part is written
            when all of it is answered, so that is what a killed job loses for each actor.
        fields: other names of the rows' fields.
        accept_changes: go on although settings or input are others than those of the answers in the folder.
        resources: what an actor needs, e.g. ``{"num_gpus": 2}``; one CPU by default.

    Raises:
        ConfigError: source or folder cannot be used, or the folder was begun under other settings.
    """
    if min(actors, concurrency, rows_per_part) < 1:
        raise ConfigError("actors, concurrency and rows_per_part are 1 at least")
    out, needs = Path(out), dict(resources or {"num_cpus": 1})
    plan = Plan(out, source, fields, rows_per_part)
    with ExitStack() as stack:
        _lock_folder(out, stack)
        index = stack.enter_context(closing(Index()))
        plan.load(index)
        settings = ray.get(ray.remote(**needs)(_settings).remote(make, seed))
        RunFile(out / "run.json", out).check(settings, begun=plan.answered > 0, accept_changes=accept_changes)
        errors = stack.enter_context(closing(Errors(out / "errors.jsonl")))
        plan.make(index, errors, accept_changes=accept_changes)
        before = {path.name for path in (out / "answers").glob("*.parquet")}
        if plan.parts:
            _answer(plan.parts, out / "answers", (make, seed, concurrency), actors, needs)
        return _report(plan, before, index, errors)


def _settings(make: Make, seed: int | None) -> dict[str, Any]:
    return Answerer(make(), seed).settings


def _lock_folder(out: Path, stack: ExitStack) -> None:
    try:
        (out / "answers").mkdir(parents=True, exist_ok=True)
        file = os.open(out / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise ConfigError(f"cannot write to {out} ({error.strerror}): give another folder") from None
    stack.callback(os.close, file)
    lock(file, out)


def _answer(parts: list[str], answers: Path, arguments: tuple[object, ...], actors: int, needs: dict[str, Any]) -> None:
    # One block a part, so that each is written as soon as it is answered.
    paths = ray.data.from_items([{"part": part} for part in parts], override_num_blocks=len(parts))
    answered = paths.map_batches(
        Answering,
        fn_constructor_args=arguments,
        batch_size=1,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=min(actors, len(parts))),
        **needs,
    )
    answered.write_parquet(os.fspath(answers.resolve()))


def _report(plan: Plan, before: set[str], index: Index, errors: Errors) -> RayReport:
    new, without = 0, {"bad": plan.bad, "failed": 0}
    for row in rows_of(plan.out / "answers", beside=before):
        if row["error"] is None:
            new += index.add_answer(row["id"], row["input"])
        else:
            errors.append({"line": row["line"], "id": row["id"], "kind": row["kind"], "reason": row["error"]})
            without[row["kind"]] += 1
    return RayReport(plan.out, plan.answered + new, new, **without)
