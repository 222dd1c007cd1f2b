"""What a GGUF file says of its model, and its tokenizer as a folder of transformers.

Both take seconds to read (a vocabulary is 150,000 strings and more), so they are kept in a cache folder: that of
``DARWIN_ALIGN_CACHE``, else ``darwin_align`` below ``XDG_CACHE_HOME`` or ``~/.cache``.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any

import transformers

from darwin_align.core.errors import MissingPackageError, ModelLoadError

__all__ = ["GGUFModel", "cache_folder", "check_gguf", "open_gguf", "parts"]

logger = logging.getLogger(__name__)

_MAGIC = b"GGUF"
_PART = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")
_INFO = "gguf.json"
_KEY_VALUE_BYTES = 2
"""llama.cpp keeps keys and values in half precision."""


@dataclass(frozen=True)
class GGUFModel:
    """A model in a GGUF file."""

    folder: Path
    """Its tokenizer and chat template, as transformers loads them."""
    architecture: str
    context_length: int | None
    """Tokens that it was trained with."""
    row_bytes: int | None
    """Bytes of keys and values for one token; ``None`` for models that keep other states."""


def check_gguf(path: Path) -> None:
    """Refuse what is no GGUF file, by its first bytes.

    Raises:
        ModelLoadError: there is no such file, it cannot be read, or it is of another kind.
    """
    try:
        with path.open("rb") as file:
            start = file.read(len(_MAGIC))
    except FileNotFoundError:
        raise ModelLoadError(f"there is no file {str(path)!r}: give the path of a GGUF file") from None
    except OSError as error:
        raise ModelLoadError(f"cannot read {str(path)!r}: {error.strerror}") from error
    if start != _MAGIC:
        raise ModelLoadError(
            f"{str(path)!r} is no GGUF file: it begins with {start!r}, not with {_MAGIC!r}. Was it downloaded whole?"
        )


def parts(path: Path) -> list[Path]:
    """The files of a model that was split, of which llama.cpp is given the first; else the file alone."""
    if (found := _PART.search(path.name)) is None:
        return [path]
    stem, count = path.name[: found.start()], found[2]
    return [path.with_name(f"{stem}-{number:05}-of-{count}.gguf") for number in range(1, int(count) + 1)]


def open_gguf(path: Path) -> GGUFModel:
    """Read a file's description and tokenizer, from the cache if it was read before.

    Raises:
        ModelLoadError: it is broken, or transformers does not read this model's tokenizer.
        MissingPackageError: the package ``gguf`` is missing.
    """
    folder = cache_folder() / "gguf" / _key(path)
    try:
        return _read_cached(folder)
    except (OSError, ValueError, TypeError):
        pass
    logger.info("reading the tokenizer of %s, once", path)
    shutil.rmtree(folder, ignore_errors=True)  # left by a process that ended meanwhile
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _convert(path, folder)
    except OSError as error:
        logger.info("cannot keep %s (%s): it is read again next time", folder, error.strerror)
        folder = Path(mkdtemp(prefix="darwin-align-gguf-"))
        _convert(path, folder / "tokenizer")
        folder /= "tokenizer"
    return _read_cached(folder)


def _read_cached(folder: Path) -> GGUFModel:
    return GGUFModel(folder=folder, **json.loads((folder / _INFO).read_text(encoding="utf-8")))


def _key(path: Path) -> str:
    status = path.stat()
    known = (str(path.resolve()), status.st_size, status.st_mtime_ns, transformers.__version__)
    return hashlib.sha256(repr(known).encode()).hexdigest()[:24]


def cache_folder() -> Path:
    """Where what is made once of a model is kept, see above; it need not exist."""
    if own := os.environ.get("DARWIN_ALIGN_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "darwin_align"


def _convert(path: Path, target: Path) -> None:
    """Write a file's tokenizer and description to a folder, as a whole or not at all."""
    info = _describe(path)
    tokenizer = _tokenizer(path)
    with TemporaryDirectory(dir=target.parent, prefix=".reading-") as temporary:
        folder = Path(temporary) / "tokenizer"
        tokenizer.save_pretrained(folder)
        (folder / _INFO).write_text(json.dumps(info), encoding="utf-8")
        try:
            folder.rename(target)
        except OSError:
            if not (target / _INFO).is_file():  # else another process was faster
                raise


def _tokenizer(path: Path) -> Any:
    try:
        return transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    except Exception as error:
        raise ModelLoadError(
            f"transformers {transformers.__version__} cannot read the tokenizer of {str(path)!r} "
            f"({type(error).__name__}: {str(error).partition(chr(10))[0]:.200}): serve the file by llama-server and "
            "give EndpointPolicy(base_url=…, tokenizer=…) with the folder or hub id of the model's own tokenizer"
        ) from error


def _describe(path: Path) -> dict[str, Any]:
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise MissingPackageError(
            "a GGUF file needs the package gguf: pip install 'darwin-align[llama-cpp]'"
        ) from error
    try:
        reader = GGUFReader(path)
        architecture = reader.fields["general.architecture"].contents()
    except Exception as error:
        raise ModelLoadError(
            f"{str(path)!r} is broken ({type(error).__name__}: {str(error).partition(chr(10))[0]:.200}): download it "
            "again"
        ) from error

    def value(name: str) -> Any:
        field = reader.fields.get(f"{architecture}.{name}")
        return None if field is None else field.contents()

    info = GGUFModel(Path(), architecture, value("context_length"), _row_bytes(value))
    return {name: value for name, value in asdict(info).items() if name != "folder"}


def _row_bytes(value: Any) -> int | None:
    """Bytes of keys and values for one token, of a model with ordinary attention in every layer."""
    layers, heads, width = value("block_count"), value("attention.head_count"), value("embedding_length")
    pairs = value("attention.head_count_kv") or heads
    if not (layers and heads and width and pairs) or value("ssm.state_size"):
        return None
    per_head = width // _first(heads)
    length = (value("attention.key_length") or per_head) + (value("attention.value_length") or per_head)
    return int(sum(_of_layers(pairs, layers)) * length * _KEY_VALUE_BYTES)


def _first(value: Any) -> int:
    return next(iter(_of_layers(value, 1)))


def _of_layers(value: Any, layers: int) -> Iterator[int]:
    yield from value if isinstance(value, list) else [value] * layers
