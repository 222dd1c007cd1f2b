"""llama.cpp's server in this process: its settings come as one line of JSON on standard input.

It replies with one line, ``{"address": …}`` once the model is loaded or ``{"error": …}``, and ends when standard input
closes or when the process that started it is gone, however that ended. Run as a file: nothing of the library is
imported, so that it is up in a fraction of a second.
"""

from __future__ import annotations

import json
import os
import select
import sys
import threading
from typing import Any, TextIO


def main() -> None:
    """Serve one GGUF file until the parent is gone."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what llama.cpp prints is no reply
    parent = os.getppid()
    settings = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, args=(parent,), daemon=True).start()
    try:
        import xllamacpp

        server = xllamacpp.Server(_parameters(settings))
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent explains it
        _reply(replies, {"error": f"{type(error).__name__}: {error}"})
        return
    _reply(replies, {"address": server.listening_address})
    threading.Event().wait()


def _end_with_parent(parent: int) -> None:
    """End this process once the parent is gone. A forked child of the parent may hold the pipe open beyond that."""
    while os.getppid() == parent:
        ready, _, _ = select.select([sys.stdin], [], [], 0.5)
        if ready and not sys.stdin.readline():
            break
    os._exit(0)


def _reply(replies: TextIO, reply: dict[str, str]) -> None:
    print(json.dumps(reply), file=replies, flush=True)


def _parameters(settings: dict[str, Any]) -> Any:
    from xllamacpp import CommonParams

    parameters = CommonParams()
    parameters.model.path = settings["path"]
    parameters.api_keys = [settings["key"]]
    parameters.port = 0
    parameters.n_parallel = settings["slots"]
    parameters.n_ctx = settings["slots"] * settings["context"]
    parameters.fit_params = False  # it would change the context by itself
    for threads in (parameters.cpuparams, parameters.cpuparams_batch):
        threads.n_threads = settings["threads"]
    parameters.n_threads_http = 4 * settings["slots"] + 4  # a connection that is kept alive takes one
    parameters.cache_ram_mib = 0  # states of earlier prompts: the slots keep theirs, and nothing else is kept
    parameters.endpoint_props = True
    parameters.ui = False
    parameters.verbosity = 2  # warnings and errors
    return parameters


if __name__ == "__main__":
    main()
