"""The kit itself: real servers start, agree with the local policy, fail as ordered and leave nothing behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from time import monotonic, perf_counter, sleep
from typing import Any

import httpx
import pytest
from transformers import AutoTokenizer

from benchmarks.servers.launch import ROOT, Server, free_port, llama_server, router, vllm_server
from benchmarks.servers.proxy import FAULTS, FaultProxy
from darwin_align.backends.local import LocalPolicy
from darwin_align.core.types import Message, Request, Sampling
from darwin_align.operators.policy import Row
from darwin_align.pocket import dev, policy_path

BODY = {"prompt": "<|user|>Tell me about tea.<|end|><|assistant|>", "max_tokens": 8, "temperature": 0}
READ_S = 0.4


def complete(client: httpx.Client, **more: Any) -> httpx.Response:
    return client.post("/v1/completions", json={**BODY, **more})


def client_of(url: str, timeout: float = 20) -> httpx.Client:
    return httpx.Client(base_url=url, timeout=timeout, trust_env=False)


def await_that(condition: Callable[[], bool], seconds: float = 10) -> None:
    end = monotonic() + seconds
    while not condition():
        assert monotonic() < end, "it did not come true in time"
        sleep(0.02)


@pytest.fixture(scope="module")
def local() -> LocalPolicy:
    return LocalPolicy.from_pretrained(policy_path(), dtype="float32", threads=1)


def greedy_answers(policy: LocalPolicy, count: int) -> Iterator[tuple[list[int], list[int]]]:
    """Prompts as ids, and what the local policy writes."""
    for question in dev()[:count]:
        greedy = Sampling(temperature=0, top_k=None)
        request = Request(conversation=[Message(role="user", content=question)], sampling=greedy)
        written = policy.generate([Row(request, max_tokens=80, seed=1)])[0].tokens
        yield policy.template.prompt_ids(request), list(written)


def test_gguf_decodes_what_the_local_policy_decodes(llama: Server, local: LocalPolicy) -> None:
    more = {"n_predict": 80, "temperature": 0, "return_tokens": True}
    with client_of(llama.url) as client:
        for prompt, written in greedy_answers(local, 6):
            assert client.post("/completion", json={"prompt": prompt, **more}).json()["tokens"] == written


@pytest.mark.slow
def test_vllm_decodes_what_the_local_policy_decodes(local: LocalPolicy) -> None:
    more = {"max_tokens": 80, "temperature": 0, "return_token_ids": True}
    with vllm_server(policy_path(), served_name="embedded") as server, client_of(server.url) as client:
        group = server.process.pid
        for prompt, written in greedy_answers(local, 6):
            answer = client.post("/v1/completions", json={"prompt": prompt, **more}).json()
            assert answer["choices"][0]["token_ids"] == written
        assert len(_members(group)) > 1
    assert not _members(group)


def test_gguf_reads_what_the_tokenizer_reads(llama: Server) -> None:
    tokenizer = AutoTokenizer.from_pretrained(policy_path())
    texts = [
        *dev()[:10],
        '  two  spaces, 12345 6.78, don\'t, ABC_def\n\n<tool_call>{"a": 1}</tool_call><|end|> ',
        "怎样泡一杯绿茶？ 🍵 ²½ ٣٤ naïve",
    ]
    with client_of(llama.url) as client:
        for text in texts:
            assert client.post("/tokenize", json={"content": text}).json()["tokens"] == tokenizer(text)["input_ids"]


def test_transformers_serve_is_the_strict_dialect(serve: Server) -> None:
    with client_of(serve.url) as client:
        assert complete(client).json()["usage"]["completion_tokens"] == BODY["max_tokens"]
        assert complete(client, prompt=[3, 4]).status_code == 400
        assert complete(client, top_k=5).status_code == 422


def test_api_key(embedded_gguf: Path) -> None:
    with llama_server(embedded_gguf, slots=1, api_key="right") as server, client_of(server.url) as client:
        assert complete(client).status_code == 401
        client.headers["Authorization"] = "Bearer right"
        assert complete(client).status_code == 200


def test_server_that_cannot_start_reports_why(tmp_path: Path) -> None:
    missing = tmp_path / "missing.gguf"
    with pytest.raises(RuntimeError, match="failed to open GGUF file"), llama_server(missing):
        pass


def _fails_with(url: str, error: type[httpx.TransportError]) -> None:
    with client_of(url, READ_S) as client, pytest.raises(httpx.TransportError) as caught:
        complete(client)
    assert type(caught.value) is error


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("reset", httpx.ReadError),
        ("cut", httpx.RemoteProtocolError),
        ("hang", httpx.ReadTimeout),
        ("refused", httpx.ReadError),
    ],
)
def test_fault_breaks_the_transport(llama: Server, fault: str, error: type[httpx.TransportError]) -> None:
    with FaultProxy(llama.url, faults=[fault], share=1) as proxy:
        _fails_with(proxy.url, error)
        await_that(lambda: proxy.counts == {fault: 1})


def test_refused_stops_all_connections_for_a_while(llama: Server) -> None:
    with FaultProxy(llama.url, faults=["refused"], share=0.5, seed=6, outage_s=0.3) as proxy:
        assert [proxy.fault(number) for number in range(2)] == ["refused", None]
        with client_of(proxy.url) as client:
            with pytest.raises(httpx.ReadError):
                complete(client)
            with pytest.raises(httpx.ConnectError):
                complete(client)
            sleep(0.35)
            assert complete(client).status_code == 200
        assert proxy.counts == {"refused": 1, "clean": 1}


def test_drip_outlasts_the_read_timeout(llama: Server) -> None:
    with client_of(llama.url) as client:
        true = complete(client).json()["choices"]
    with FaultProxy(llama.url, faults=["drip"], share=1, drip_s=0.001) as proxy, client_of(proxy.url, READ_S) as client:
        start = perf_counter()
        answer = complete(client)
        assert perf_counter() - start > READ_S
        assert answer.json()["choices"] == true


def test_busy_and_broken_answers(llama: Server) -> None:
    with FaultProxy(llama.url, faults=["rate_limit"], share=1, retry_after=2) as proxy, client_of(proxy.url) as client:
        first, second = complete(client), complete(client)
        assert (first.status_code, first.headers["Retry-After"]) == (429, "2")
        date = parsedate_to_datetime(second.headers["Retry-After"])
        assert 0 < (date - datetime.now(UTC)).total_seconds() <= 3
        assert first.json()["error"]["type"] == "rate_limit_error"
    with FaultProxy(llama.url, faults=["unavailable"], share=1) as proxy, client_of(proxy.url) as client:
        answer = complete(client)
        assert (answer.status_code, answer.headers["Content-Type"]) == (503, "text/html")
    with FaultProxy(llama.url, faults=["half_json"], share=1) as proxy, client_of(proxy.url) as client:
        answer = complete(client)
        assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/json; charset=utf-8")
        with pytest.raises(ValueError, match=r"Unterminated string|Expecting"):
            answer.json()


def _meet(client: httpx.Client, proxy: FaultProxy) -> str:
    """Send until the proxy has seen one more request; return what it showed."""
    before = proxy.requests
    while True:
        try:
            answer = complete(client, max_tokens=2)
        except httpx.ConnectError:
            sleep(0.01)
            continue
        except httpx.TransportError as error:
            shown = type(error).__name__
        else:
            shown = str(answer.status_code) if answer.text[-1] == "}" else f"{answer.status_code}, no JSON"
        assert proxy.requests == before + 1
        return shown


def test_every_forty_requests_meet_each_fault_once(llama: Server) -> None:
    shows = {
        **dict.fromkeys(("reset", "refused"), "ReadError"),
        **dict.fromkeys(("cut", "hang"), "RemoteProtocolError"),  # a hang that ends before the client's patience
        **dict.fromkeys(("drip", None), "200"),
        "rate_limit": "429",
        "unavailable": "503, no JSON",
        "half_json": "200, no JSON",
    }
    with FaultProxy(llama.url, seed=1, hang_s=0.05, drip_s=0) as proxy, client_of(proxy.url) as client:
        met = [_meet(client, proxy) for _ in range(80)]
        order = [proxy.fault(number) for number in range(80)]
        assert met == [shows[fault] for fault in order]
        for block in (order[:40], order[40:]):
            assert Counter(block) == {None: 32, **dict.fromkeys(FAULTS, 1)}
        assert order[:40] != order[40:]
        await_that(lambda: sum(proxy.counts.values()) == 80)
        assert proxy.counts == {"clean": 64, **dict.fromkeys(FAULTS, 2)}
        assert proxy.in_flight_peak == 1


def test_order_of_faults_depends_on_the_seed_alone() -> None:
    def order(seed: int, share: float = 0.2) -> list[str | None]:
        proxy = FaultProxy("http://127.0.0.1:1", seed=seed, share=share)
        return [proxy.fault(number) for number in range(200)]

    assert order(1) == order(1) != order(2)
    assert Counter(order(1, share=0.5)[:160]) == {None: 80, **dict.fromkeys(FAULTS, 10)}
    assert None not in order(1, share=1)
    assert set(order(1, share=0)) == {None}
    with pytest.raises(ValueError, match="unknown faults"):
        FaultProxy("http://127.0.0.1:1", faults=["resets"])
    with pytest.raises(ValueError, match="share"):
        FaultProxy("http://127.0.0.1:1", share=1.5)


async def test_delay_without_faults(llama: Server) -> None:
    with FaultProxy(llama.url, share=0, delay=0.3) as proxy:
        async with httpx.AsyncClient(base_url=proxy.url, timeout=20, trust_env=False) as client:
            start = perf_counter()
            answers = await asyncio.gather(*(client.post("/v1/completions", json=BODY) for _ in range(12)))
            assert 0.3 <= perf_counter() - start < 12 * 0.3
        assert len({answer.json()["choices"][0]["text"] for answer in answers}) == 1
        assert (proxy.counts, proxy.requests, proxy.in_flight_peak) == ({"clean": 12}, 12, 12)


def test_proxy_counts_who_gives_up_and_servers_that_fail(llama: Server) -> None:
    with FaultProxy(llama.url, share=0, delay=30) as proxy:
        _fails_with(proxy.url, httpx.ReadTimeout)
        await_that(lambda: proxy.counts == {"abandoned": 1})
    with FaultProxy(f"http://127.0.0.1:{free_port()}", share=0) as proxy, client_of(proxy.url) as client:
        assert complete(client).status_code == 502
        assert proxy.counts == {"bad_gateway": 1}


def test_router_outlives_a_worker(embedded_gguf: Path) -> None:
    with (
        llama_server(embedded_gguf, slots=2, context=2048) as one,
        llama_server(embedded_gguf, slots=2, context=2048) as other,
        router([one.url, other.url]) as front,
        client_of(front.url) as client,
    ):
        texts = {complete(client).json()["choices"][0]["text"] for _ in range(4)}
        assert len(texts) == 1
        one.kill()
        for _ in range(12):
            answers = (complete(client) for _ in range(3))
            answer = next(answer for answer in answers if answer.status_code == 200)
            assert answer.json()["choices"][0]["text"] in texts


def _runs(pid: int) -> bool:
    """Whether a process is there and no mere entry that its parent has not read yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _members(group: int) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        pid = int(folder.name)
        try:
            if os.getpgid(pid) == group and _runs(pid):
                found.append(pid)
        except ProcessLookupError:
            continue
    return found


def _children() -> list[int]:
    text = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    return [int(pid) for pid in text.split()]


linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")


@linux
def test_nothing_is_left_behind(embedded_gguf: Path) -> None:
    children = set(_children())
    with llama_server(embedded_gguf, slots=1) as server, router([server.url]) as front:
        groups = [server.process.pid, front.process.pid]
        assert all(_members(group) for group in groups)
        log = front.log
    assert not any(_members(group) for group in groups)
    assert not log.exists()
    assert set(_children()) == children


SCRIPT = """
import sys, time
from pathlib import Path
from benchmarks.servers.launch import llama_server
with llama_server(Path(sys.argv[1]), slots=1) as server:
    print(server.process.pid, flush=True)
    time.sleep(60)
"""


@linux
def test_a_killed_parent_takes_its_servers_along(embedded_gguf: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(embedded_gguf)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as parent:
        try:
            assert parent.stdout is not None
            group = int(parent.stdout.readline())
            assert _members(group) == [group]
        finally:
            parent.send_signal(signal.SIGKILL)
    await_that(lambda: not _members(group))
