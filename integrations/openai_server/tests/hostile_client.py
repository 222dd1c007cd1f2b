"""A client that attacks a server until its standard input ends, in a process of its own: ``URL KEY``.

Prints the statuses that it got, with how often, as JSON. Its bodies are made beforehand, so that it takes little of the
machine that it shares with the server.
"""

import json
import random
import socket
import string
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from urllib.parse import urlsplit

import httpx

CHAT = "/v1/chat/completions"
MARK = "@@@@"
"""In a body, what each request replaces by its own number: no answer can come from a cache."""


def wide_schema(properties: int) -> bytes:
    chance = random.Random(properties)
    names = [MARK + "".join(chance.choices(string.ascii_letters, k=20)) for _ in range(properties)]
    schema = {"type": "object", "properties": {name: {"type": "string"} for name in names}, "required": names}
    turns = [{"role": "user", "content": "How do I make tea?"}]
    wanted = {"type": "json_schema", "json_schema": {"name": "wide", "schema": schema}}
    body = {"model": "pocket:sample", "messages": turns, "max_tokens": 4, "response_format": wanted}
    return json.dumps(body).encode()


def queries() -> list[bytes]:
    texts = (["word " * 200_000], ["word " * 70_000], [1] * 300_000)
    return [json.dumps({"query": text}).encode() for text in texts]


Attack = Callable[[httpx.Client, int], httpx.Response]


def attacks() -> list[Attack]:
    wide, narrow, long = wide_schema(8000), wide_schema(1000), queries()
    sent = {"content-type": "application/json"}

    def schemas(web: httpx.Client, turn: int) -> httpx.Response:
        body = (wide, narrow)[turn % 2].replace(MARK.encode(), b"%04d" % (turn % 10_000))
        return web.post(CHAT, content=body, headers=sent)

    def megabytes(web: httpx.Client, turn: int) -> httpx.Response:
        return web.post("/get_reward", content=long[turn % len(long)], headers=sent)

    def strange_hosts(web: httpx.Client, turn: int) -> httpx.Response:
        time.sleep(0.05)
        return web.get("/v1/models", headers={"Host": f"evil{turn}.example"})

    return [schemas, megabytes, strange_hosts]


def stall(url: str, key: str, over: threading.Event) -> None:
    """Half of a body, and answers that nobody reads, on 16 connections each."""
    head = f"Host: 127.0.0.1\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n"
    half = f"POST {CHAT} HTTP/1.1\r\n{head}Content-Length: 1000\r\n\r\n{{".encode()
    unread = f"GET /openapi.json HTTP/1.1\r\n{head}\r\n".encode() * 50
    parts = urlsplit(url)
    while not over.is_set():
        with ExitStack() as open_connections:
            for content in (half, unread) * 16:
                one = open_connections.enter_context(socket.create_connection((parts.hostname, parts.port)))
                one.setblocking(False)
                with suppress(OSError):
                    one.send(content)
            over.wait(4)


def main(url: str, key: str) -> None:
    over, statuses = threading.Event(), Counter[int]()

    def again(attack: Attack) -> None:
        with httpx.Client(
            base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=120, trust_env=False
        ) as web:
            turn = 0
            while not over.is_set():
                statuses[attack(web, turn).status_code] += 1
                turn += 1

    threads = [threading.Thread(target=again, args=(attack,)) for attack in attacks()]
    threads.append(threading.Thread(target=stall, args=(url, key, over)))
    for thread in threads:
        thread.start()
    print("attacking", flush=True)
    sys.stdin.read()
    over.set()
    for thread in threads:
        thread.join()
    print(json.dumps(statuses))


if __name__ == "__main__":
    main(*sys.argv[1:])
