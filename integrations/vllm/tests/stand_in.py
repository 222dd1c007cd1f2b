"""Stands in for ``vllm serve``: healthy after a moment, tells what it was asked, and ends when it is told to."""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        models = {"object": "list", "data": [{"id": "stand-in", "object": "model"}], "options": sys.argv[1:]}
        self._send({} if self.path == "/health" else models)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self._send({"choices": [{"index": 0, "text": "port " + OPTIONS["--port"]}]})

    def _send(self, data: Any) -> None:
        body = json.dumps(data).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


OPTIONS = dict(zip(sys.argv, sys.argv[1:], strict=False))

if __name__ == "__main__":
    ThreadingHTTPServer((OPTIONS["--host"], int(OPTIONS["--port"])), Handler).serve_forever()
