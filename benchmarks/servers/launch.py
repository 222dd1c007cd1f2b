"""Real servers as child processes: started on a free port of this machine, waited for, and always ended."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic, sleep

import httpx

__all__ = ["Server", "free_port", "llama_server", "router", "start", "transformers_serve", "vllm_server"]

ROOT = Path(__file__).resolve().parents[2]
VLLM_PYTHON = ROOT / ".venv-vllm" / "bin" / "python"
TAIL = 4000
_OFFLINE = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "NO_PROXY": "127.0.0.1,localhost",
    "OMP_NUM_THREADS": "1",
    "PYTHONUNBUFFERED": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "no_proxy": "127.0.0.1,localhost",
}
_VLLM = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING"}


@dataclass(frozen=True, slots=True)
class Server:
    """A running server."""

    url: str
    """Where it listens, without ``/v1``."""
    process: subprocess.Popen[bytes]
    """Its first process, which leads a process group of its own."""
    log: Path
    """What it printed; gone with the server."""

    def kill(self) -> None:
        """End it at once, as a crash would, and wait until it is gone."""
        _signal(self.process.pid, signal.SIGKILL)
        self.process.wait(10)
        _await_empty(self.process.pid)

    def tail(self) -> str:
        """The end of what it printed."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-TAIL:]


def free_port() -> int:
    """Return a free port of this machine.

    It lies below those that the system hands to outgoing connections: no process gets it by accident, not even while a
    server that is to come back is away.
    """
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@contextmanager
def start(
    command: Sequence[str | Path],
    *,
    port: int,
    deadline: float = 60,
    grace: float = 5,
    environment: dict[str, str] | None = None,
    health: str = "/health",
) -> Iterator[Server]:
    """Run a server's command until the block is left.

    Args:
        command: what to run; it must listen on ``port``.
        port: where.
        deadline: seconds until it must be healthy.
        grace: seconds between the request to end and the end by force.
        environment: more variables for it.
        health: the path that answers 200 once it is ready.

    Raises:
        RuntimeError: it ended or is not healthy in time; the message ends with what it printed.
    """
    with TemporaryDirectory(prefix="server-") as folder:
        log = Path(folder) / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(  # noqa: S603 - the commands are this module's own
                list(map(str, command)),
                cwd=ROOT,
                env={**os.environ, **_OFFLINE, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        server = Server(f"http://127.0.0.1:{port}", process, log)
        guard = _guard(process.pid)
        try:
            _await_healthy(server, health, monotonic() + deadline)
            yield server
        finally:
            _end(process, grace)
            guard.kill()
            guard.communicate()


def _guard(group: int) -> subprocess.Popen[bytes]:
    """Kill the group once the pipe closes: the system closes it even if this process is killed."""
    script = 'read -r _; kill -s KILL -- "-$0"'
    return subprocess.Popen(["/bin/sh", "-c", script, str(group)], stdin=subprocess.PIPE, start_new_session=True)  # noqa: S603


def _await_healthy(server: Server, health: str, end: float) -> None:
    with httpx.Client(trust_env=False, timeout=2) as client:
        while monotonic() < end:
            if server.process.poll() is not None:
                raise RuntimeError(f"the server ended with {server.process.returncode}:\n{server.tail()}")
            with suppress(httpx.TransportError):
                if client.get(server.url + health).status_code == httpx.codes.OK:
                    return
            sleep(0.05)
    raise RuntimeError(f"the server is not healthy in time:\n{server.tail()}")


def _end(process: subprocess.Popen[bytes], grace: float) -> None:
    """Ask the group to end, then see to it: children that outlive their parent are killed too."""
    _signal(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(grace)
    _signal(process.pid, signal.SIGKILL)
    process.wait(10)
    _await_empty(process.pid)


def _await_empty(group: int) -> None:
    # Bounded: a process that is not reaped stays in the group for ever, but runs no more.
    end = monotonic() + 5
    while monotonic() < end and _signal(group, 0):
        sleep(0.01)


def _signal(group: int, number: int) -> bool:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True


@contextmanager
def llama_server(
    gguf: Path, *, slots: int = 8, context: int = 8192, threads: int = 1, api_key: str | None = None
) -> Iterator[Server]:
    """llama.cpp's own server.

    Args:
        gguf: the model, see :func:`benchmarks.servers.gguf_file.write_gguf`.
        slots: rows that it decodes at a time.
        context: tokens, shared out among the slots.
        threads: threads of the model.
        api_key: what a client must show, if anything.
    """
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.servers.llama", gguf, "--port", str(port), "--slots", str(slots)]
    command += ["--context", str(context), "--threads", str(threads)]
    command += ["--api-key", api_key] if api_key else []
    with start(command, port=port, grace=2) as server:
        yield server


@contextmanager
def transformers_serve(folder: Path, *, dtype: str = "float32") -> Iterator[Server]:
    """The server of transformers, for one model folder."""
    port = free_port()
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", folder, "--device", "cpu"]
    command += ["--dtype", dtype, "--host", "127.0.0.1", "--port", str(port)]
    with (
        TemporaryDirectory(prefix="hub-") as cache,  # it lists the hub's cache and breaks where there is none
        start(command, port=port, deadline=120, environment={"HF_HUB_CACHE": cache}) as server,
    ):
        yield server


@contextmanager
def router(urls: Sequence[str], *, policy: str = "round_robin", options: Sequence[str] = ()) -> Iterator[Server]:
    """The router of vLLM in front of several servers.

    Args:
        urls: where they listen, without ``/v1``.
        policy: who gets a request, such as ``round_robin`` or ``cache_aware``.
        options: more of its options.
    """
    port = free_port()
    command = [sys.executable, "-m", "vllm_router.launch_router", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--policy", policy, "--log-level", "warning", "--prometheus-port", str(free_port())]
    command += ["--worker-startup-check-interval", "1", *options, "--worker-urls", *urls]
    with start(command, port=port) as server:
        yield server


@contextmanager
def vllm_server(
    folder: Path,
    *,
    pooling: bool = False,
    served_name: str | None = None,
    context: int = 512,
    options: Sequence[str] = (),
) -> Iterator[Server]:
    """A vLLM on the CPU, from a virtual environment of its own.

    Args:
        folder: the model.
        pooling: serve it as a reward model.
        served_name: what it is called; its folder's path if left out.
        context: the most tokens of a prompt and its answer.
        options: more of its options.

    Raises:
        FileNotFoundError: the virtual environment is missing.
    """
    if not VLLM_PYTHON.is_file():
        raise FileNotFoundError("vLLM has a virtual environment of its own: run `make .venv-vllm/.ready`")
    port = free_port()
    command = [VLLM_PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--model", folder, "--host", "127.0.0.1"]
    command += ["--port", str(port), "--enforce-eager", "--dtype", "float32", "--max-model-len", str(context)]
    command += ["--runner", "pooling"] if pooling else []
    command += ["--served-model-name", served_name] if served_name else []
    with start([*command, *options], port=port, deadline=300, grace=15, environment=_VLLM) as server:
        yield server
