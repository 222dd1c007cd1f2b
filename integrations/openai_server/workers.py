"""Several worker processes that accept connections of one listening socket."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, Protocol

from darwin_align.core.errors import ConfigError

from .config import ServeConfig

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Metric
    from starlette.datastructures import State

    from darwin_align import DarwinChatModel

__all__ = ["refuse_copies", "run_workers", "several_copies", "share_metrics"]

logger = logging.getLogger(__name__)

_LATE = 10.0
"""Seconds beyond the drain after which a worker is killed."""
_METRICS_SECONDS = 1.0


class Work(Protocol):
    """Serves on a socket until a signal ends it, and returns the exit code. It is pickled."""

    def __call__(self, listening: socket.socket, *, number: int, folder: Path) -> int: ...


def several_copies(role: str) -> str:
    """Why a model in this process does not go with several workers."""
    return (
        f"--workers: the {role} model runs in this process, and each worker would load its own copy and decode its "
        "own requests alone, while one process decodes all of them in one batch. Leave out --workers, or have a server "
        f"of its own for the {role} model (--{role}-url)"
    )


def refuse_copies(models: Mapping[str, DarwinChatModel]) -> None:
    """Refuse models that run in this process.

    Raises:
        ConfigError: there are some.
    """
    from darwin_align.backends.llama_cpp.policy import LlamaCppPolicy
    from darwin_align.backends.local import LocalPolicy, LocalScorer
    from darwin_align.operators.resources import resources_of

    for model in models.values():
        for part in resources_of(model.search.operators(model.search.config).values()):
            if isinstance(part, LocalPolicy | LlamaCppPolicy | LocalScorer):
                raise ConfigError(several_copies("reward" if isinstance(part, LocalScorer) else "policy"))


def run_workers(work: Work, settings: ServeConfig) -> int:
    """Run workers until a signal ends them. One that is killed is replaced; one that fails ends all.

    Args:
        work: what each of them does.
        settings: of the server.

    Returns:
        The exit code: 0 after SIGTERM, 130 after SIGINT, else that of the worker that failed.

    Raises:
        ConfigError: the address is not to be had.
    """
    with _bound(settings) as listening, TemporaryDirectory(prefix="darwin-align-") as folder:
        workers = _Workers(partial(work, listening, folder=Path(folder)), settings)
        host, port, *_ = listening.getsockname()
        logger.info("%d workers for http://%s:%d", settings.workers, host, port)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, workers.end)
        return workers.run()


def _bound(settings: ServeConfig) -> socket.socket:
    """A socket that does not listen: the first worker that can answer lets it, and until then clients are refused."""
    bound = socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((settings.host, settings.port))
        return bound
    except OSError as error:
        bound.close()
        raise ConfigError(f"cannot listen on {settings.host}:{settings.port}: {error.strerror}") from None


class _Workers:
    """The processes, by their numbers."""

    def __init__(self, work: partial[int], settings: ServeConfig) -> None:
        self.work, self.settings = work, settings
        self.code: int | None = None
        """Set once all are to end."""
        self.processes: dict[int, BaseProcess] = {}

    def end(self, number: int, _: object) -> None:
        """Handle a signal."""
        self.code = 130 if number == signal.SIGINT else 0

    def run(self) -> int:
        for number in range(self.settings.workers):
            self._start(number)
        while self.code is None:
            wait([process.sentinel for process in self.processes.values()], timeout=0.2)
            self._replace_ended()
        self._end_all()
        return self.code

    def _start(self, number: int) -> None:
        # Not forked: threads and locks of this process would be copied as they are at that moment.
        process = get_context("spawn").Process(target=_be_worker, args=(self.work, number), name=f"worker {number}")
        process.start()
        self.processes[number] = process

    def _replace_ended(self) -> None:
        for number, process in self.processes.items():
            if process.exitcode is None or self.code is not None:
                continue
            if process.exitcode > 0:
                logger.error("worker %d failed: all end", number)
                self.code = process.exitcode
            else:
                logger.warning("worker %d was ended (signal %d) and is replaced", number, -process.exitcode)
                sleep(1)
                self._start(number)

    def _end_all(self) -> None:
        for process in self.processes.values():
            process.terminate()
        end = monotonic() + self.settings.drain_seconds + _LATE
        for process in self.processes.values():
            process.join(max(0.0, end - monotonic()))
            if process.exitcode is None:
                process.kill()
                process.join()


def _be_worker(work: partial[int], number: int) -> None:
    Thread(target=_end_with_parent, daemon=True).start()
    sys.exit(work(number=number))


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None  # noqa: S101 - this is a worker
    wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)


# -- metrics


def share_metrics(state: State, *, folder: Path, number: int) -> None:
    """Let ``/metrics`` of any worker show all of them, each sample with a label ``worker``.

    Workers write theirs to files every second. prometheus_client's own mode for several processes has no gauges
    that are functions, and none of the process.

    Args:
        state: of the application.
        folder: of the files.
        number: of this worker.
    """
    from prometheus_client import CollectorRegistry

    own = _Written(state.registry, folder / f"{number}.prom")
    Thread(target=own.write_repeatedly, daemon=True).start()
    state.registry = CollectorRegistry()
    state.registry.register(_OfAllWorkers(own))


class _Written:
    """The metrics of this worker, in a file."""

    def __init__(self, registry: CollectorRegistry, file: Path) -> None:
        self.registry, self.file = registry, file

    def write(self) -> None:
        from prometheus_client import write_to_textfile

        write_to_textfile(str(self.file), self.registry)

    def write_repeatedly(self) -> None:
        while True:
            sleep(_METRICS_SECONDS)
            try:
                self.write()
            except FileNotFoundError:  # the folder is gone: so are all workers
                return


class _OfAllWorkers:
    """A collector of what all workers wrote."""

    def __init__(self, own: _Written) -> None:
        self.own = own

    def describe(self) -> list[Any]:
        return []

    def collect(self) -> Iterator[Metric]:
        from prometheus_client import Metric
        from prometheus_client.parser import text_string_to_metric_families

        self.own.write()
        found: dict[str, Metric] = {}
        for file in sorted(self.own.file.parent.glob("*.prom")):
            for family in text_string_to_metric_families(file.read_text()):
                metric = found.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                for sample in family.samples:
                    metric.samples.append(sample._replace(labels={**sample.labels, "worker": file.stem}))
        yield from found.values()
