"""Where prompts come from: lines of JSON, rows of parquet, or plain values, read on demand."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

from darwin_align.batch.prompt import REQUEST_FIELDS, BadPromptError, Fields, Prompt
from darwin_align.core.errors import ConfigError
from darwin_align.core.json_types import Json

__all__ = ["LONGEST_LINE", "Read", "Source", "prompts", "source_of"]

LONGEST_LINE = 32 * 2**20
"""Bytes; a longer line is skipped without being read into memory."""
_BOM = b"\xef\xbb\xbf"


class Read(NamedTuple):
    """One line or row: a prompt, or why there is none."""

    line: int
    prompt: Prompt | None
    reason: str = ""
    key: str | None = None


class Source(Protocol):
    """What prompts are read from."""

    twice: bool
    """Whether it can be read more than once."""
    unused: set[str]
    """Fields that were met and not read."""

    def read(self) -> Iterator[Read]:
        """Read from the beginning."""


def prompts(source: str | Path | Iterable[Any], names: Fields = Fields()) -> Iterator[Read]:  # noqa: B008 - frozen
    """Read the prompts of a file (``.parquet``, else JSONL) or of plain values, one after another.

    >>> [(line, prompt.conversation) for line, prompt, *_ in prompts(["Hi.", {"prompt": "How are you?"}])]
    [(1, 'Hi.'), (2, 'How are you?')]

    Raises:
        ConfigError: the file cannot be read at all.
    """
    return source_of(source, names).read()


def source_of(source: str | Path | BinaryIO | Iterable[Any], names: Fields) -> Source:
    """Find out how a source is read.

    Raises:
        ConfigError: the file is not there or cannot be read.
    """
    if isinstance(source, (str, Path)):
        path = Path(source)
        if not path.is_file():
            irregular = path.exists() and not path.is_dir()
            reason = "it is no regular file: redirect it, and give -" if irregular else "there is no such file"
            raise ConfigError(f"cannot read prompts from {path}: {reason}")
        return _Parquet(path, names) if path.suffix in (".parquet", ".pq") else _Lines(path, names)
    if hasattr(source, "readline"):
        return _Lines(source, names)
    return _Values(source, names)


class _Rows:
    """Rows from anywhere to prompts."""

    twice = True

    def __init__(self, names: Fields) -> None:
        self.names, self.unused = names, set[str]()

    def _read(self, line: int, row: Json) -> Read:
        if not isinstance(row, Mapping):
            array = " (one object a line makes JSONL, one array does not)" if isinstance(row, list) else ""
            return Read(line, None, f"it is no JSON object{array}")
        if len(self.unused) < 20:
            self.unused.update(str(name) for name in row.keys() - self.names.names)
        try:
            return Read(line, Prompt.read(row, line=line, names=self.names))
        except BadPromptError as error:
            key = row.get(self.names.id)
            known = isinstance(key, (str, int)) and not isinstance(key, bool)
            return Read(line, None, str(error), str(key) if known else None)


class _Values(_Rows):
    """Texts and mappings of a program."""

    def __init__(self, values: Iterable[Any], names: Fields) -> None:
        super().__init__(names)
        self._values, self.twice = values, isinstance(values, Sequence)

    def read(self) -> Iterator[Read]:
        for line, value in enumerate(self._values, 1):
            yield self._read(line, {self.names.prompt: value} if isinstance(value, str) else value)


class _Lines(_Rows):
    """JSONL in UTF-8, from a path or an open binary file."""

    def __init__(self, source: Path | Any, names: Fields) -> None:
        super().__init__(names)
        self._source, self.twice = source, isinstance(source, Path)

    def read(self) -> Iterator[Read]:
        if not isinstance(self._source, Path):
            yield from self._all(self._source)
            return
        try:
            with self._source.open("rb") as file:
                yield from self._all(file)
        except OSError as error:
            raise ConfigError(f"cannot read prompts from {self._source} ({error.strerror})") from None

    def _all(self, file: BinaryIO) -> Iterator[Read]:
        number = 0
        while data := file.readline(LONGEST_LINE + 1):
            number += 1
            if number == 1:
                data = data.removeprefix(_BOM)
            if len(data) > LONGEST_LINE and not data.endswith(b"\n"):
                while (rest := file.readline(2**20)) and not rest.endswith(b"\n"):
                    pass
                yield Read(number, None, f"it is longer than {LONGEST_LINE // 2**20} MiB")
            elif data.strip():
                yield self._line(number, data)

    def _line(self, number: int, data: bytes) -> Read:
        try:
            return self._read(number, json.loads(data.decode("utf-8"), parse_constant=_refuse))
        except UnicodeDecodeError as error:
            return Read(number, None, f"it is not UTF-8 (byte {error.start + 1}): save the file as UTF-8")
        except RecursionError:
            return Read(number, None, "it is nested too deeply")
        except ValueError as error:
            return Read(number, None, f"it is no JSON ({error})")


class _Parquet(_Rows):
    """Rows of a parquet file, some at a time."""

    def __init__(self, path: Path, names: Fields) -> None:
        super().__init__(names)
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError:
            raise ConfigError("parquet needs pyarrow: pip install 'darwin-align[parquet]', or give JSONL") from None
        self._path, self._errors = path, (pyarrow.ArrowException, OSError)
        self._open = pyarrow.parquet.ParquetFile
        with self._opened() as file:
            columns = file.schema_arrow.names
        if not {names.prompt, names.messages} & set(columns):
            raise ConfigError(
                f"{path} has neither a column {names.prompt!r} nor {names.messages!r} (it has {', '.join(columns)}): "
                "name the column to read"
            )
        self._columns = [name for name in columns if name in names.names]
        self.unused = set(columns) - names.names

    def _opened(self) -> Any:
        try:
            return self._open(self._path)
        except self._errors as error:
            raise ConfigError(f"cannot read {self._path} as parquet ({error})") from None

    def read(self) -> Iterator[Read]:
        line = 0
        with self._opened() as file:
            batches = file.iter_batches(batch_size=64, columns=self._columns)
            while (batch := self._next(batches)) is not None:
                for row in batch.to_pylist():
                    line += 1
                    yield self._row(line, row)

    def _next(self, batches: Iterator[Any]) -> Any:
        try:
            return next(batches, None)
        except self._errors as error:
            raise ConfigError(f"cannot read {self._path} as parquet to its end ({error})") from None

    def _row(self, line: int, row: dict[str, Any]) -> Read:
        structured = (self.names.messages, self.names.settings, *REQUEST_FIELDS)
        try:
            plain = {name: _plain(value, parse=name in structured) for name, value in row.items()}
        except (ValueError, RecursionError) as error:
            return Read(line, None, f"a column's JSON cannot be read ({error})")
        return self._read(line, plain)


def _plain(value: Json, *, parse: bool) -> Json:
    """A column's value without the nulls that parquet puts where another row has a field; JSON texts read."""
    if parse and isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        return json.loads(value, parse_constant=_refuse)
    return _without_nulls(value)


def _without_nulls(value: Json) -> Json:
    if isinstance(value, dict):
        return {name: _without_nulls(part) for name, part in value.items() if part is not None}
    return [_without_nulls(part) for part in value] if isinstance(value, list) else value


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON number")
