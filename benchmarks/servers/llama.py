"""llama.cpp's own server in this process: ``python -m benchmarks.servers.llama model.gguf --port 8080``."""

from __future__ import annotations

import argparse
import signal
from pathlib import Path

import xllamacpp

__all__ = ["main"]


def main() -> None:
    """Serve one GGUF file until a signal comes."""
    parser = argparse.ArgumentParser(description=main.__doc__, allow_abbrev=False)
    parser.add_argument("gguf", type=Path)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--context", type=int, default=8192, help="tokens, shared out among the slots")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--http-threads", type=int, default=256, help="each connection that is kept alive takes one")
    parser.add_argument("--api-key")
    options = parser.parse_args()
    # The server's threads run outside Python: only the system's own answer to a signal ends them at once.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    server = xllamacpp.Server(_parameters(options))
    print(f"{server.listening_address} serves {options.gguf}", flush=True)
    while True:
        signal.pause()


def _parameters(options: argparse.Namespace) -> xllamacpp.CommonParams:
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(options.gguf)
    parameters.port = options.port
    parameters.n_parallel = options.slots
    parameters.n_ctx = options.context
    parameters.cpuparams.n_threads = options.threads
    parameters.cpuparams_batch.n_threads = options.threads
    parameters.n_threads_http = options.http_threads
    parameters.n_gpu_layers = 0
    parameters.endpoint_props = True
    parameters.endpoint_metrics = True
    if options.api_key:
        parameters.api_keys = [options.api_key]
    return parameters


if __name__ == "__main__":
    main()
