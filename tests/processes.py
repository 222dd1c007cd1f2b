"""Commands in processes of their own, which are forked from one that has imported torch and transformers already.

A fresh process spends some ten seconds of processor time on those imports. Each process here is otherwise like one of
``python -W error``: it has its own pid, streams, working directory, environment, exit code and signals, and what it
does is seen by no other. Not for tests of importing itself, and not with variables that Python or a library reads once
when it starts (``PYTHONHASHSEED``, ``PYTHONIOENCODING``, ``OMP_NUM_THREADS``): those take `subprocess`.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from io import TextIOWrapper
from pathlib import Path
from threading import Lock, Thread
from types import ModuleType

ROOT = Path(__file__).parents[1]
LOADED = (
    "darwin_align.chat_model",
    "darwin_align.backends.endpoint",
    "darwin_align.backends.local",
    "darwin_align.backends.scripted",
    "darwin_align.batch",
    "darwin_align.cli",
    "darwin_align.pocket.pair",
    "transformers.models.llama.modeling_llama",
)


class Process:
    """A process of ``python -W error`` with arguments: ``-m MODULE …`` or ``-c CODE …``.

    ``before`` is code that ran before anything was imported, once for all processes that are given the same.
    """

    def __init__(
        self, *arguments: str, cwd: Path | None = None, env: Mapping[str, str] | None = None, before: str = ""
    ) -> None:
        self.args = arguments
        self.returncode: int | None = None
        environ = dict(os.environ if env is None else env)
        request = {"arguments": arguments, "cwd": str(cwd or Path.cwd()), "env": environ}
        pipes = [os.pipe() for _ in range(4)]
        (stdin, self._stdin), (out, stdout), (err, stderr), (self._status, status) = pipes
        with tempfile.TemporaryFile() as file:
            file.write(json.dumps(request).encode())
            file.flush()
            _server(before).fork([stdin, stdout, stderr, status, file.fileno()])
        for descriptor in (stdin, stdout, stderr, status):
            os.close(descriptor)
        self._out, self._err = _Reader(out), _Reader(err)
        self.pid = self._read_status()

    @property
    def errors(self) -> str:
        """What it has written to its standard error so far."""
        return self._err.so_far()

    def poll(self) -> int | None:
        """The exit code, negative for a signal, or None while it runs."""
        if self.returncode is None and select.select([self._status], [], [], 0)[0]:
            self.returncode = self._read_status()
            os.close(self._status)
        return self.returncode

    def wait(self, timeout: float) -> int:
        """The exit code. Raises `subprocess.TimeoutExpired`."""
        if self.returncode is None and not select.select([self._status], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired(self.args, timeout)
        code = self.poll()
        assert code is not None
        return code

    def communicate(self, stdin: str | None = None, timeout: float = 300) -> tuple[str, str]:
        """Write and close its standard input, wait for its end, and return what it wrote to output and error."""
        with os.fdopen(self._stdin, "wb", buffering=0) as pipe, suppress(BrokenPipeError):  # it may not read
            pipe.write((stdin or "").encode())
        end = time.monotonic() + timeout
        self.wait(timeout)
        left = end - time.monotonic()
        return self._out.whole(left), self._err.whole(left)

    def send_signal(self, number: int) -> None:
        """Signal it, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it without warning, unless it has ended."""
        self.send_signal(signal.SIGKILL)

    def _read_status(self) -> int:
        line = b""
        while not line.endswith(b"\n"):
            byte = os.read(self._status, 1)
            if not byte:
                raise RuntimeError("the server of processes has died: its errors are above")
            line += byte
        return int(line)


def run(
    *arguments: str,
    stdin: str | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float = 300,
    before: str = "",
) -> subprocess.CompletedProcess[str]:
    """Run a process to its end, as `subprocess.run` does with ``capture_output`` and ``text``."""
    process = Process(*arguments, cwd=cwd, env=env, before=before)
    try:
        out, err = process.communicate(stdin, timeout)
    finally:
        process.kill()
    assert process.returncode is not None
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


class _Reader:
    """Reads a pipe to its end in a thread, so that whoever writes into it is never blocked."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._parts: list[bytes] = []
        self._thread = Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while part := os.read(self._descriptor, 65536):
            self._parts.append(part)
        os.close(self._descriptor)

    def so_far(self) -> str:
        return b"".join(self._parts).decode(errors="replace")

    def whole(self, timeout: float) -> str:
        self._thread.join(max(timeout, 1.0))
        assert not self._thread.is_alive(), "the process has ended, and another one holds its pipe"
        return b"".join(self._parts).decode()


class _Server:
    """The process that forks. It ends once its socket is closed: with this process at the latest, however that ends."""

    def __init__(self, before: str) -> None:
        self._socket, theirs = socket.socketpair()
        self._lock = Lock()
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        command = [sys.executable, "-W", "error", "-m", "tests.processes", str(theirs.fileno()), before]
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
        )
        theirs.close()

    def fork(self, descriptors: list[int]) -> None:
        with self._lock:
            socket.send_fds(self._socket, [b"\0"], descriptors)

    def close(self) -> None:
        self._socket.close()
        self._process.wait(60)


@cache
def _server(before: str) -> _Server:
    server = _Server(before)
    atexit.register(server.close)
    return server


def serve(channel: socket.socket) -> list[str] | None:
    """Fork a process for every request. Returns its arguments in each such process, and None when there is no more."""
    for name in LOADED:
        importlib.import_module(name)
    threads = {Path(f"/proc/self/task/{thread}/comm").read_text().strip() for thread in os.listdir("/proc/self/task")}
    threads -= {Path("/proc/self/comm").read_text().strip(), "jemalloc_bg_thd"}  # pyarrow's allocator starts its anew
    assert not threads, f"threads of other libraries would be missing after a fork: {threads}"
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # monitors leave no zombies
    while True:
        _, descriptors, _, _ = socket.recv_fds(channel, 1, 5)
        if not descriptors:
            return None
        if not os.fork():
            return _monitor(descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def _monitor(descriptors: list[int]) -> list[str]:
    """Fork the process itself; in its parent, write its pid and then its exit code, and end."""
    *streams, status, request = descriptors
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pid = os.fork()
    if pid:
        for descriptor in (*streams, request):
            os.close(descriptor)
        os.write(status, b"%d\n" % pid)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        os.write(status, b"%d\n" % code)
        os._exit(0)
    os.close(status)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _take_streams(streams)
    with os.fdopen(request, "rb") as file:
        file.seek(0)
        given = json.load(file)
    os.chdir(given["cwd"])
    os.environ.clear()
    os.environ.update(given["env"])
    arguments: list[str] = given["arguments"]
    return arguments


def _take_streams(descriptors: list[int]) -> None:
    """Make them its standard streams, as those of a new interpreter that is no terminal's."""
    for number, (descriptor, name) in enumerate(zip(descriptors, ("stdin", "stdout", "stderr"), strict=True)):
        os.dup2(descriptor, number)
        os.close(descriptor)
        old: TextIOWrapper = getattr(sys, name)
        buffer = os.fdopen(number, "rb" if number == 0 else "wb", closefd=False)
        stream = TextIOWrapper(buffer, old.encoding, old.errors, newline=None, line_buffering=old.line_buffering)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def become(how: str, what: str, *arguments: str) -> None:
    """Do what ``python -m MODULE …`` or ``python -c CODE …`` does."""
    if how == "-m":
        sys.path[0] = os.getcwd()
        sys.argv = [what, *arguments]
        runpy.run_module(what, run_name="__main__", alter_sys=True)
        return
    assert how == "-c", how
    sys.path[0] = ""
    sys.argv = [how, *arguments]
    module = sys.modules["__main__"] = ModuleType("__main__")
    exec(compile(what, "<string>", "exec"), vars(module))  # noqa: S102


if __name__ == "__main__":
    exec(sys.argv[2])  # noqa: S102
    with socket.socket(fileno=int(sys.argv[1])) as requests:
        taken = serve(requests)
    if taken is not None:
        become(*taken)
