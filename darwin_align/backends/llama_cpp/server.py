"""llama.cpp's server as a child process: started on first use, shared, and ended with its last user."""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import sys
import weakref
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from threading import Lock
from typing import IO, Any
from weakref import WeakValueDictionary

from darwin_align.backends.llama_cpp.gguf_file import GGUFModel, check_gguf, open_gguf, parts
from darwin_align.backends.llama_cpp.memory import available_memory, context_that_fits
from darwin_align.core.errors import DeviceMemoryError, MissingPackageError, ModelLoadError

__all__ = ["LlamaServer", "ServerSettings", "shared_server"]

_CHILD = Path(__file__).with_name("child.py")
_LOG_PREFIX = re.compile(r"^[\d.]+ [A-Z] ")
"""When llama.cpp printed a line, and its level."""
_LOG_TAIL = 20_000
"""Bytes of what llama.cpp printed that are searched for its reason."""
_LAST_WORDS = 5.0
"""Seconds in which a child that could not load the file ends."""


@dataclass(frozen=True)
class ServerSettings:
    """What a server is started with; policies with equal settings share it."""

    path: Path
    slots: int
    threads: int
    context: int | None
    """Tokens of each slot; ``None`` takes what fits."""
    row_memory: int | None
    """Bytes for the keys and values of all slots."""


@dataclass(eq=False)
class _Child:
    """The process, which only the process that started it may end."""

    process: subprocess.Popen[str]
    log: IO[bytes]
    owner: int = field(default_factory=os.getpid)

    def end(self) -> None:
        if os.getpid() != self.owner:  # a forked child: the server is its parent's
            return
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.log):
            if pipe is not None:
                pipe.close()

    @property
    def alive(self) -> bool:
        return os.getpid() == self.owner and self.process.poll() is None

    def reason(self) -> str:
        """The last error that llama.cpp printed."""
        self.log.seek(max(0, self.log.seek(0, os.SEEK_END) - _LOG_TAIL))
        lines = self.log.read().decode("utf-8", "replace").splitlines()
        told = [line for line in lines if "error" in line.lower() or "failed" in line.lower()]
        told = told or [line for line in lines if line.strip()] or ["no reason was printed"]
        return _LOG_PREFIX.sub("", told[0]).strip()[:300]


class LlamaServer:
    """One llama.cpp server over one GGUF file.

    The child listens on a free port of the loopback interface and wants a random key. It ends with this object, with
    the interpreter, and by itself when this process is gone. A forked child of this process starts its own.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self.settings = settings
        self.key = secrets.token_urlsafe(24)
        self._lock = Lock()
        self._child: _Child | None = None
        self._address = ""
        self.context: int | None = None
        """Tokens of each slot; ``None`` before the first start."""

    def model(self) -> GGUFModel:
        """Describe the file; the first time it is read, which takes seconds. Starts nothing.

        Raises:
            ModelLoadError: it is broken, or its tokenizer cannot be read.
        """
        return open_gguf(self.settings.path)

    @property
    def alive(self) -> bool:
        """Whether the child runs."""
        return self._child is not None and self._child.alive

    def address(self) -> str:
        """Base URL of the running server. Blocks while it starts, which takes as long as the model takes to load.

        Raises:
            ModelLoadError: the file is missing or broken, or llama.cpp refuses it, with its reason.
            DeviceMemoryError: there is too little memory for it.
        """
        with self._lock:
            if not self.alive:
                self._address = self._start()
            return self._address

    def _start(self) -> str:
        path = str(self.settings.path)
        check_gguf(self.settings.path)
        request = {"path": path, "key": self.key, "slots": self.settings.slots, "threads": self.settings.threads}
        request["context"] = self.context = self._context()
        child = _spawn()
        reply: dict[str, Any] = {}
        try:
            assert child.process.stdin is not None and child.process.stdout is not None  # noqa: S101, PT018 - pipes
            child.process.stdin.write(json.dumps(request) + "\n")
            child.process.stdin.flush()
            reply = json.loads(child.process.stdout.readline() or "{}")  # nothing: it crashed
        except OSError:
            pass  # it ended before it read its settings
        finally:
            if "address" not in reply:
                if "error" in reply:  # it ends by itself, and prints its reasons until then
                    with suppress(subprocess.TimeoutExpired):
                        child.process.wait(_LAST_WORDS)
                child.process.kill()
                code, reason = child.process.wait(), child.reason()
                child.end()
        if "address" not in reply:
            raise _refusal(path, str(reply.get("error", "")), reason, code)
        self._child = child
        weakref.finalize(self, child.end)
        return str(reply["address"])

    def _context(self) -> int:
        settings, model = self.settings, self.model()
        size = sum(part.stat().st_size for part in parts(settings.path) if part.is_file())
        available = available_memory()
        if available is not None and size > available and not _has_accelerator():
            raise DeviceMemoryError(
                f"too little memory for {str(settings.path)!r}: the model takes {size / 2**20:,.0f} MiB, and "
                f"{available / 2**20:,.0f} MiB are free: use a smaller one, or one of fewer bits"
            )
        return context_that_fits(
            str(settings.path),
            model.context_length,
            model.row_bytes,
            slots=settings.slots,
            context=settings.context,
            row_memory=settings.row_memory,
        )


def _spawn() -> _Child:
    log = TemporaryFile()  # noqa: SIM115 - it lives as long as the child
    process = subprocess.Popen(  # noqa: S603 - this interpreter and a file of this package
        [sys.executable, "-P", str(_CHILD)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        encoding="utf-8",
        start_new_session=True,  # an interrupt from the terminal ends the search, which may be asked again
    )
    return _Child(process, log)


def _refusal(path: str, error: str, reason: str, code: int) -> ModelLoadError | DeviceMemoryError:
    """The error for a child that did not start.

    Args:
        path: the file.
        error: what the child replied, if it replied.
        reason: what llama.cpp printed.
        code: the child's exit code.
    """
    if error.startswith("ModuleNotFoundError"):
        return MissingPackageError(f"{path!r} cannot be run ({error}): pip install 'darwin-align[llama-cpp]'")
    if "alloc" in reason or "memory" in reason:
        return DeviceMemoryError(
            f"too little memory for {path!r} (llama.cpp: {reason}): give fewer slots=…, a shorter context=… or a "
            "smaller model"
        )
    if "unknown model architecture" in reason:
        return ModelLoadError(
            f"llama.cpp does not know the architecture of {path!r} ({reason}): install a newer xllamacpp, or use "
            "another model"
        )
    ended = "" if error else f", exit code {code}"
    return ModelLoadError(f"llama.cpp cannot load {path!r} ({reason}{ended}): is the file whole?")


def _has_accelerator() -> bool:
    """Whether llama.cpp may put the model elsewhere than into this memory."""
    import xllamacpp

    return any("GPU" in device["type"].name for device in xllamacpp.get_device_info())


_servers: WeakValueDictionary[tuple[Any, ...], LlamaServer] = WeakValueDictionary()
_sharing = Lock()


def shared_server(settings: ServerSettings) -> LlamaServer:
    """The server with these settings, while anyone uses it. A file that changed is another one.

    Raises:
        ModelLoadError: there is no such file, or it is no GGUF file.
    """
    check_gguf(settings.path)
    status = settings.path.stat()
    key = (*asdict(settings).values(), settings.path.resolve(), status.st_size, status.st_mtime_ns)
    with _sharing:
        if (server := _servers.get(key)) is None:
            server = _servers[key] = LlamaServer(settings)
        return server


def _forget() -> None:
    """In a forked child: a lock may be locked for ever."""
    global _sharing  # noqa: PLW0603 - one of the process
    _sharing = Lock()
    for server in list(_servers.values()):
        server._lock = Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
