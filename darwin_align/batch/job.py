"""One run of a batch: a window of prompts in flight, each answer appended as it comes."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, BinaryIO

from darwin_align.batch.answers import Answer, Answerer
from darwin_align.batch.index import Index
from darwin_align.batch.output import Answers, Errors, RunFile
from darwin_align.batch.progress import ProgressReporter, reporting
from darwin_align.batch.prompt import BadPromptError, Fields, Prompt
from darwin_align.batch.row_checks import check_row, error_record, refuse_orphaned_answers
from darwin_align.batch.source import Read, Source, source_of
from darwin_align.core import Usage
from darwin_align.core.errors import ConfigError
from darwin_align.langchain.model_errors import error_message
from darwin_align.operators.portal import acall, call
from darwin_align.storage.files import refuse_irregular
from darwin_align.storage.workers import Stop, Workers

if TYPE_CHECKING:
    from darwin_align.chat_model import DarwinChatModel
    from darwin_align.search import DarwinSearch

__all__ = ["BatchReport", "Stop", "check_sink", "companion_paths", "run_batch"]

_CLOSING_SECONDS = 60.0


@dataclass
class BatchReport:
    """How a run of a batch ended."""

    output: Path
    errors: Path
    answered: int = 0
    """Prompts with an answer in the output, those of earlier runs included."""
    new: int = 0
    """Answers of this run."""
    bad: int = 0
    """Rows that no run can answer."""
    failed: int = 0
    """Prompts that the next run tries again."""
    interrupted: bool = False
    """Whether a stop was requested."""
    gave_up: str | None = None
    """Why the run ended before its time, if it did."""
    unused: tuple[str, ...] = ()
    """Fields of rows that were not read."""
    usage: Usage = field(default_factory=Usage)
    """What this run's answers cost, all that is counted; ``seconds`` are those of all searches, added up."""
    seconds: float = 0.0
    """Of this run, by the clock."""

    @property
    def code(self) -> int:
        """Exit code: 0 all is answered, 1 something is not, 130 interrupted."""
        if self.interrupted:
            return 130
        return 1 if self.bad or self.failed or self.gave_up else 0


def run_batch(
    model: DarwinChatModel | DarwinSearch,
    source: str | Path | BinaryIO | Iterable[Mapping[str, Any] | str],
    sink: str | Path,
    *,
    seed: int | None = None,
    concurrency: int = 16,
    fields: Fields = Fields(),  # noqa: B008 - frozen
    accept_changes: bool = False,
    give_up_after: int = 20,
    progress: bool = False,
    stop: Stop | None = None,
) -> BatchReport:
    """Answer every prompt of a source that has no answer in the sink yet.

    Args:
        model: a chat model or a search. Its models' engines merge the work of all prompts in flight.
        source: a JSONL or parquet file, an open binary file of JSONL, or texts and mappings; see
            :mod:`darwin_align.batch` for their fields. Files and sequences are read twice, for the number of prompts
            and to see whether the sink's answers are theirs; nothing is kept in memory.
        sink: the JSONL file of answers; two more files are written beside it.
        seed: of the run. ``None`` takes the search's own, else 0.
        concurrency: prompts in flight at most.
        fields: other names of the rows' fields.
        accept_changes: go on although settings or input are others than those of the answers in the sink.
        give_up_after: the run ends when so many prompts in a row have failed: a server is away, or a setting is wrong.
        progress: report the run's progress on stderr.
        stop: ends the run early on request.

    Returns:
        The numbers of the run. Prompts without an answer are listed in ``errors``, and raise nothing.

    Raises:
        ConfigError: source or sink cannot be used, or the sink was begun under other settings.
        DarwinError: the disk is full.

    >>> import tempfile
    >>> from darwin_align.backends.scripted import ScriptedPolicy, ScriptedScorer
    >>> from darwin_align.search import DarwinSearch
    >>> search = DarwinSearch(policy=ScriptedPolicy(), scorer=ScriptedScorer())
    >>> folder = tempfile.TemporaryDirectory()
    >>> report = run_batch(search, ["Say something good.", {"prompt": 5}], Path(folder.name) / "answers.jsonl")
    >>> report.answered, report.bad, report.code
    (1, 1, 1)
    >>> folder.cleanup()
    """
    if concurrency < 1 or give_up_after < 1:
        raise ConfigError("concurrency and give_up_after are 1 at least: allow one prompt at a time, and one failure")
    answerer = Answerer(model, seed)
    with reporting(progress, concurrency) as reporter:
        job = _Job(answerer, source_of(source, fields), check_sink(sink, source), stop or Stop(), reporter)
        job.accept_changes, job.give_up_after = accept_changes, give_up_after
        try:
            call(partial(job.run, concurrency))
        except KeyboardInterrupt:
            job.ended.wait(_CLOSING_SECONDS)  # the caller may run it again at once
            raise
    return job.report


def companion_paths(sink: Path) -> tuple[Path, Path]:
    """The files of errors and of settings that belong to an output.

    >>> [path.name for path in companion_paths(Path("answers.jsonl"))]
    ['answers.errors.jsonl', 'answers.run.json']
    """
    stem = sink.name.removesuffix(".jsonl")
    return sink.with_name(f"{stem}.errors.jsonl"), sink.with_name(f"{stem}.run.json")


def check_sink(sink: str | Path, source: object) -> Path:
    """Refuse an output that cannot take a batch's answers.

    Args:
        sink: the file of answers.
        source: what :func:`run_batch` takes.

    Raises:
        ConfigError: the output, or a file beside it, is no regular file (a folder, device, pipe or socket), cannot be
            written, has a name that is not JSONL's, or is the input.
    """
    path = Path(sink)
    if path.suffix in (".parquet", ".pq"):
        raise ConfigError(f"{path}: answers are written as JSONL; give a name that ends with .jsonl")
    mine = (path, *companion_paths(path))
    for one in mine:
        refuse_irregular(one)
    if isinstance(source, (str, Path)) and Path(source).resolve() in [one.resolve() for one in mine]:
        raise ConfigError(f"{source} is the input and would be written over: give another output")
    return path


class _Job:
    """One run. Its files are opened and closed where it runs, also if the caller is interrupted."""

    def __init__(self, answerer: Answerer, source: Source, sink: Path, stop: Stop, reporter: ProgressReporter) -> None:
        self.answerer, self.source, self.sink, self.stop, self.reporter = answerer, source, sink, stop, reporter
        self.accept_changes, self.give_up_after = False, 20
        errors, self._run_file = companion_paths(sink)
        self.report = BatchReport(sink, errors)
        self.ended = threading.Event()
        self._reading = threading.Lock()
        self._reporting = threading.Lock()
        """Rows are read and answers are appended in two threads, and both report."""
        self._failures = 0
        self._through = False
        """Whether all rows were read."""
        self._answers: Answers
        self._errors: Errors
        self._index: Index
        self._rows: Iterator[Read]

    async def run(self, concurrency: int) -> None:
        """Answer what has no answer yet."""
        start, workers = monotonic(), self._workers(concurrency)
        try:
            with ExitStack() as files:
                await acall(self._open, files)
                await workers.run()
                await acall(self._answers.sync)
                self.report.answered = self._answers.count
        finally:
            self.report.interrupted = self.stop.requested and (workers.dropped or not self._through)
            self.report.unused = tuple(sorted(self.source.unused))
            self.report.seconds = monotonic() - start
            self.ended.set()

    def _workers(self, concurrency: int) -> Workers[Prompt, Answer]:
        return Workers(
            partial(acall, self._next),
            self.answerer.answer,
            done=lambda _, answer: self._append(answer),
            failed=self._fail,
            concurrency=concurrency,
            stop=self.stop,
        )

    def _open(self, files: ExitStack) -> None:
        self._answers = files.enter_context(closing(Answers(self.sink)))
        self._index = files.enter_context(closing(Index()))
        files.push(lambda *_: self._wait_for_reader())
        self._answers.load(self._index, lambda: self.stop.requested)
        begun = self._answers.count > 0
        run_file = RunFile(self._run_file, self.sink)
        run_file.check(self.answerer.settings, begun=begun, accept_changes=self.accept_changes)
        total = self._scan() if self.source.twice else None
        self.reporter.begin(total, self._answers.count)
        self._errors = files.enter_context(closing(Errors(self.report.errors)))
        self._rows = self.source.read()

    def _wait_for_reader(self) -> None:
        with self._reading:
            self._rows = iter(())

    def _scan(self) -> int:
        """Count the rows, and see whether all answers are theirs."""
        total = 0
        for row in self.source.read():
            if self.stop.requested:
                return total
            total += 1
            if row.prompt is not None:
                self._index.register_row(row.prompt.key, row.line)
        if not self.accept_changes:
            refuse_orphaned_answers(self._index, self.sink)
        orphaned, _ = self._index.answers_without_row()
        self._index.begin_pass()
        return total + orphaned

    def _next(self) -> Prompt | None:
        """The next prompt without an answer; rows that cannot be answered are recorded on the way."""
        with self._reading:
            while not (self.stop.requested or self.report.gave_up):
                row = next(self._rows, None)
                if row is None:
                    self._through = True
                    return None
                match check_row(row, self._index):
                    case Prompt() as prompt:
                        return prompt
                    case dict() as error:
                        self._record_bad(error)
        return None

    def _append(self, answer: Answer) -> None:
        record, usage = answer
        self._answers.append(record)
        self.report.new += 1
        self.report.usage += usage
        self._failures = 0
        with self._reporting:
            self.reporter.step(answered=True)

    def _fail(self, prompt: Prompt, error: Exception) -> None:
        if isinstance(error, BadPromptError):
            self._record_bad(error_record(prompt.line, prompt.key, str(error)))
        else:
            self._record_failed(prompt, error)

    def _record_bad(self, error: dict[str, Any]) -> None:
        self._record(error)
        with self._reporting:
            self.report.bad += 1

    def _record_failed(self, prompt: Prompt, error: Exception) -> None:
        reason = error_message(error)
        self._record({"line": prompt.line, "id": prompt.key, "kind": "failed", "reason": reason})
        self.report.failed += 1
        self._failures += 1
        if self._failures >= self.give_up_after and self.report.gave_up is None:
            self.report.gave_up = f"{self._failures} prompts failed in a row, the last with: {reason}"
            self.reporter.message(f"giving up: {self.report.gave_up}")

    def _record(self, record: dict[str, Any]) -> None:
        self._errors.append(record)
        with self._reporting:
            self.reporter.step(answered=False)
