"""Starting, ending, and clients that leave: with processes and sockets."""

import json
import os
import signal
import socket
import sys
import threading
import time
from subprocess import run
from urllib.parse import urlsplit

import httpx
import pytest

from benchmarks.servers.launch import free_port

from .conftest import KEY, TEA, metric, serving

CHAT = "/v1/chat/completions"
LONG = {
    "model": "pocket:darwin",
    "messages": [{"role": "user", "content": TEA}],
    "seed": 7,
    "darwin": {"cycles": 8, "mutations": 32},
}
SHORT = {"model": "pocket:sample", "messages": [{"role": "user", "content": TEA}], "seed": 7, "max_tokens": 8}


def until(true, seconds: float = 15) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if true():
            return True
        time.sleep(0.02)
    return False


def connected(url: str) -> socket.socket:
    parts = urlsplit(url)
    return socket.create_connection((parts.hostname, parts.port), timeout=30)


def request_bytes(body: dict, path: str = CHAT) -> bytes:
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


# -- clients that leave


@pytest.mark.parametrize(("stream", "seen"), [(False, False), (True, False), (True, True)])
def test_a_client_that_leaves_takes_its_search_with_it(server, web, stream, seen):
    before = metric(web, "darwin_cancelled_total", kind="search")
    with connected(server.url) as client:
        client.sendall(request_bytes({**LONG, "stream": stream}))
        assert until(lambda: metric(web, "darwin_engine_slots_in_use", model="pocket") > 0)
        assert metric(web, "darwin_requests_in_flight", kind="search") == 1
        if seen:
            assert client.recv(1000).startswith(b"HTTP/1.1 200")
    assert until(lambda: metric(web, "darwin_requests_in_flight", kind="search") == 0)
    assert until(lambda: metric(web, "darwin_engine_slots_in_use") == 0)
    assert metric(web, "darwin_cancelled_total", kind="search") == before + 1


def test_metrics_tell_of_requests_searches_tokens_and_memory(web):
    before = metric(web, "darwin_searches_total", model="pocket:sample", stop_reason="cycles")
    web.post(CHAT, json=SHORT)
    web.post(CHAT, json={**SHORT, "temprature": 1})
    assert metric(web, "darwin_searches_total", model="pocket:sample", stop_reason="cycles") == before + 1
    assert metric(web, "darwin_tokens_total", model="pocket:sample", kind="decoded") >= 8
    assert metric(web, "darwin_requests_total", route=CHAT, status="400") >= 1
    assert metric(web, "process_resident_memory_bytes") > 1e8


# -- starting and ending


def everything_from(client: socket.socket) -> bytes:
    return b"".join(iter(lambda: client.recv(65536), b""))


def start_command(*options: str, **environment: str):
    command = [sys.executable, "-m", "darwin_align.integrations.openai_server", "--port", str(free_port()), *options]
    return run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60, check=False)  # noqa: S603


def test_it_does_not_start_without_a_key_where_strangers_can_reach_it():
    ended = start_command("--host", "0.0.0.0", DARWIN_ALIGN_SERVER_KEYS="")  # noqa: S104
    assert ended.returncode == 2
    assert "there is no API key" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.slow
def test_it_starts_there_with_keys_of_a_file_and_ends_gracefully(tmp_path):
    file = tmp_path / "keys"
    file.write_text(f"\n{KEY}\n")
    with serving("--host", "0.0.0.0", "--api-keys-file", str(file), "--drain-seconds", "60", key="") as server:  # noqa: S104
        headers = {"Authorization": f"Bearer {KEY}"}
        with httpx.Client(base_url=server.url, headers=headers, timeout=90, trust_env=False) as web:
            replies: dict[str, httpx.Response] = {}
            body = {**LONG, "darwin": {"cycles": 1}}

            def ask(name: str, **changes) -> None:
                replies[name] = web.post(CHAT, json={**body, **changes})

            threads = [
                threading.Thread(target=ask, args=("whole",)),
                threading.Thread(target=ask, args=("streamed",), kwargs={"stream": True}),
            ]
            for thread in threads:
                thread.start()
            assert until(lambda: metric(web, "darwin_requests_in_flight", kind="search") == 2)
            server.process.send_signal(signal.SIGTERM)
            for thread in threads:
                thread.join()
        assert replies["whole"].json()["choices"][0]["finish_reason"] == "stop"
        assert replies["streamed"].text.endswith("data: [DONE]\n\n")
        assert server.process.wait(20) in (0, -signal.SIGTERM)
        with pytest.raises(OSError, match="refused"):
            connected(server.url)
        assert "Traceback" not in server.tail()
        assert KEY not in server.log.read_text()


@pytest.mark.slow
def test_what_outlasts_the_grace_period_is_given_up():
    with serving("--drain-seconds", "1") as server, connected(server.url) as whole, connected(server.url) as streamed:
        whole.sendall(request_bytes(LONG))
        streamed.sendall(request_bytes({**LONG, "stream": True}))
        time.sleep(2)
        terminated = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(15) in (0, -signal.SIGTERM)
        assert time.monotonic() - terminated < 10
        answer = everything_from(whole)
        assert answer.startswith(b"HTTP/1.1 503")
        assert b'"code":"draining"' in answer
        assert not everything_from(streamed).endswith(b"data: [DONE]\n\n")
        log = server.log.read_text()
        assert "Traceback" not in log
        assert "client left" not in log


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--policy", "x"], "go together"),
        (["--models", "json:loads", "--name", "x"], "leave out --pair, --policy"),
        (["--models", "nowhere:models"], "give package.module:name"),
        (["--models", "os:environ"], "no dict of DarwinChatModels"),
        (["--presets", "darwim"], "did you mean 'darwin'?"),
        (["--api-keys-file", "nowhere"], "cannot be read"),
        (["--max-searches", "0"], "greater than 0"),
        (["--limit-seconds", "-1"], "greater than 0"),
    ],
)
def test_bad_options_are_reported(options, sentence, capsys, monkeypatch):
    from darwin_align.integrations.openai_server.command import main

    monkeypatch.setenv("DARWIN_ALIGN_SERVER_KEYS", "")
    assert main(options) == 2
    assert sentence in capsys.readouterr().err


def test_a_short_key_is_refused_without_showing_it(capsys, monkeypatch):
    from darwin_align.integrations.openai_server.command import main

    monkeypatch.setenv("DARWIN_ALIGN_SERVER_KEYS", "sk-short")
    assert main([]) == 2
    assert "sk-short" not in capsys.readouterr().err


# -- slow and half-open connections


def test_half_open_slow_and_broken_requests_hurt_nobody(web, server):
    whole = request_bytes(SHORT)
    open_ones = []
    for sent in (b"", b"P", whole[:30], whole[:-5], b"\x16\x03\x01\x02\x00" * 20, b"GET / HTTP/9.9\r\n\r\n"):
        for _ in range(8):
            client = connected(server.url)
            client.sendall(sent)
            open_ones.append(client)
    for client in open_ones[::2]:  # resets, too
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        client.close()
    with connected(server.url) as slow:
        for part in (whole[:10], whole[10:100], whole[100:-1], whole[-1:]):
            slow.sendall(part)
            time.sleep(0.05)
        assert slow.recv(100).startswith(b"HTTP/1.1 200")
    assert web.post(CHAT, json=SHORT).status_code == 200
    for client in open_ones:
        client.close()
    assert until(lambda: metric(web, "darwin_requests_in_flight") == 0)
    assert metric(web, "darwin_requests_total", status="500") == 0


def test_two_requests_may_come_in_one_go(server):
    with connected(server.url) as client:
        client.sendall(2 * request_bytes(SHORT))
        received = b""
        while received.count(b"HTTP/1.1 200") < 2:
            part = client.recv(65536)
            assert part
            received += part


def test_who_does_not_begin_a_request_is_not_waited_for():
    import asyncio

    from darwin_align.integrations.openai_server.listening import server as uvicorn_of
    from darwin_align.integrations.openai_server.settings import ServerSettings

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    async def closed_after(*parts: bytes) -> float:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        began = time.monotonic()
        for part in parts:
            writer.write(part)
            await asyncio.sleep(0.1)
        async with asyncio.timeout(10):
            await reader.read()
        writer.close()
        await writer.wait_closed()
        return time.monotonic() - began

    async def main() -> list[float]:
        serving = uvicorn_of(app, ServerSettings(port=port, head_seconds=0.5))
        task = asyncio.create_task(serving._serve())
        while not serving.started:
            await asyncio.sleep(0.01)
        get = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
        times = [await closed_after(*parts) for parts in ((), (b"G", b"E", b"T"), (get, b"G", b"E"))]
        serving.should_exit = True
        await task
        return times

    port = free_port()
    assert all(0.4 < seconds < 2 for seconds in asyncio.run(main()))
