"""Whatever breaks in the engine's round, every caller gets an answer or an error, and the engine works on."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from concurrent.futures import Future, wait
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from darwin_align.backends import local
from darwin_align.backends.local import LocalPolicy
from darwin_align.backends.local.engine.slots import SlotCache
from darwin_align.core.errors import DeviceMemoryError, RequestError
from darwin_align.core.types import Sampling

PLACE = Path(local.__file__).parent
TRACED = {str(path) for path in (*PLACE.glob("engine/*.py"), PLACE / "sampling.py") if path.stem != "worker"}
PATIENCE = 30.0
"""Seconds until a caller counts as hanging, on a busy machine."""
TEXTS = ("Hi", "Hi there", "How do I brew green tea?", "How do I brew green tea? " * 6, "Hi", "Bake bread")
Line = tuple[str, int]


class InjectedError(Exception):
    pass


class Injector:
    """Traces the engine's thread: notes the lines that it runs, and raises at one of them, once."""

    def __init__(self, at: Line | None = None) -> None:
        self.at = at
        self.seen: dict[Line, None] = {}
        self.armed = False

    def __call__(self, frame: FrameType, event: str, arg: Any) -> Any:
        return self.line if frame.f_code.co_filename in TRACED else None

    def line(self, frame: FrameType, event: str, arg: Any) -> Any:
        here = (frame.f_code.co_filename, frame.f_lineno)
        if event == "line":
            self.seen[here] = None
            if here == self.at and self.armed:
                raise InjectedError(f"{Path(here[0]).name}:{here[1]}")
        return self.line


@pytest.fixture(scope="module")
def policy(folders: dict[str, Path]) -> LocalPolicy:
    return LocalPolicy.from_pretrained(folders["llama"], device="cpu", threads=1, max_batch_rows=3)


@pytest.fixture
def rows(row: Any) -> list[Any]:
    settings = (Sampling(), Sampling(repetition_penalty=1.3), Sampling(temperature=0))
    return [row(text, seed=i, sampling=settings[i % 3], max_tokens=4 + 5 * (i % 2)) for i, text in enumerate(TEXTS)]


def trace(policy: LocalPolicy, injector: Injector | None) -> None:
    """From now on trace the engine's thread; a job without lines ends there."""
    policy.engine.submit([], partial(sys.settrace, injector)).result(PATIENCE)


def submitted(policy: LocalPolicy, rows: list[Any]) -> list[Future[Any]]:
    """Four callers, one of them with two rows more."""
    return [policy.submit(part) for part in (rows[:3], rows[3:4], rows[4:5], rows[5:])]


def outcomes(futures: list[Future[Any]]) -> list[Any]:
    assert not wait(futures, PATIENCE).not_done, "a caller hangs"
    return [future.exception() or [found.tokens for found in future.result()] for future in futures]


def check_every_caller_is_served(policy: LocalPolicy, rows: list[Any], every: int) -> None:
    expected, reference = outcomes(submitted(policy, rows)), Injector()
    trace(policy, reference)
    assert outcomes(submitted(policy, rows)) == expected
    lines = [line for line in reference.seen if line[0] in TRACED]
    assert len(lines) > 200
    for line in lines[::every]:
        injector = Injector(at=line)
        trace(policy, injector)
        injector.armed = True
        for outcome, right in zip(outcomes(submitted(policy, rows)), expected, strict=True):
            assert outcome == right or isinstance(outcome, InjectedError), line
        trace(policy, None)
        assert outcomes(submitted(policy, rows)) == expected, line
        assert not policy.engine.busy


@pytest.mark.slow
def test_an_error_at_a_line_of_the_round(policy: LocalPolicy, rows: list[Any]) -> None:
    check_every_caller_is_served(policy, rows, every=6)


@pytest.mark.slow
def test_an_error_at_any_line_of_the_round(policy: LocalPolicy, rows: list[Any]) -> None:
    check_every_caller_is_served(policy, rows, every=1)


# -- memory


def exhausted() -> RuntimeError:
    return RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes.")


@pytest.mark.parametrize("most", [1, 2])
def test_fewer_rows_go_on_when_memory_for_slots_runs_out(
    most: int, folders: Any, row: Any, monkeypatch: Any, caplog: Any
) -> None:
    texts = [f"{text} {i}" for i, text in enumerate(TEXTS * 2)]
    rows = [row(text, seed=i, max_tokens=9) for i, text in enumerate(texts)]
    expected = outcomes([LocalPolicy.from_pretrained(folders["llama"], device="cpu", threads=1).submit(rows)])
    tight = LocalPolicy.from_pretrained(folders["llama"], device="cpu", threads=1, max_batch_rows=64)
    lay_out = SlotCache.lay_out

    def bounded(self: SlotCache, kept: Any, slots: int, width: int) -> None:
        if slots > most:
            raise exhausted()
        lay_out(self, kept, slots, width)

    monkeypatch.setattr(SlotCache, "lay_out", bounded)
    assert outcomes([tight.submit(rows)]) == expected
    assert "ran out with 12 rows side by side: going on with 6" in caplog.text


def test_one_row_too_large_for_memory_fails_alone(folders: Any, row: Any, monkeypatch: Any) -> None:
    policy = LocalPolicy.from_pretrained(folders["llama"], device="cpu", threads=1, max_batch_rows=5)
    lay_out = SlotCache.lay_out

    def bounded(self: SlotCache, kept: Any, slots: int, width: int) -> None:
        if width > 128:
            raise exhausted()
        lay_out(self, kept, slots, width)

    monkeypatch.setattr(SlotCache, "lay_out", bounded)
    long, short = policy.submit([row("tea " * 60, max_tokens=9)]), policy.submit([row("Hi", max_tokens=9)])
    [error, answer] = outcomes([long, short])
    assert isinstance(error, DeviceMemoryError)
    assert "memory ran out for a single row of LlamaForCausalLM" in str(error)
    assert len(answer) == 1


def test_what_is_decoded_without_slots_is_halved_too(policy: LocalPolicy, rows: list[Any], monkeypatch: Any) -> None:
    expected = outcomes([policy.submit(rows)])
    write = policy._padded.decode

    def bounded(lines: list[Any], deadline: float | None = None) -> None:
        if len(lines) > 1:
            raise exhausted()
        write(lines, deadline)

    monkeypatch.setattr(policy._padded, "decode", bounded)
    monkeypatch.setattr(policy.engine, "prepare", lambda: "it is not used")
    assert outcomes([policy.submit(rows)]) == expected


REAL = """
    import json, resource, sys
    from concurrent.futures import wait
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
    from darwin_align.backends.local import LocalPolicy
    from darwin_align.core.errors import DeviceMemoryError
    from darwin_align.core.types import Request
    from darwin_align.operators.policy import Row

    tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
    shape = {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 8, "num_attention_heads": 8}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **shape))
    policy = LocalPolicy(model, tokenizer, threads=1, row_memory=8 * 2**30)
    policy.generate([Row(Request.of("Hi"), 2, seed=0)])
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[2]) * 2**20, resource.RLIM_INFINITY))
    rows = [Row(Request.of(f"{i} " + "tea " * 150), 6, seed=i) for i in range(30)]
    futures = [policy.submit(rows[i : i + 20]) for i in range(0, len(rows), 20)]
    hanging = len(wait(futures, 240).not_done)
    kinds = [type(future.exception()).__name__ if future.exception() else len(future.result()) for future in futures]
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    after = len(policy.generate(rows[:1])[0].tokens)
    print(json.dumps({"hanging": hanging, "kinds": kinds, "after": after}))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits a process's address space")
def test_a_real_memory_limit_hangs_no_caller(folders: Any) -> None:
    script = [sys.executable, "-c", textwrap.dedent(REAL), str(folders["llama"]), "96"]
    done = subprocess.run(script, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["hanging"] == 0
    assert set(report["kinds"]) <= {20, 10, "DeviceMemoryError"}
    assert report["after"] > 0
    assert "ran out with" in done.stderr


# -- what callers get wrong, and time


@pytest.mark.parametrize("alien", [None, -1, 10**6, 1.5, "a", True])
def test_what_is_no_token_id_is_its_own_callers_error(alien: Any, policy: LocalPolicy, row: Any) -> None:
    beside = policy.submit([row("Hi", max_tokens=20)])
    with pytest.raises(RequestError, match="a row's state holds"):
        policy.submit([row("Hi", tokens=(5, alien, 6))])
    assert len(beside.result(PATIENCE)) == 1


@pytest.mark.parametrize("over_slots", [True, False])
def test_a_row_stops_when_its_seconds_are_over(over_slots: bool, folders: Any, row: Any, monkeypatch: Any) -> None:
    policy = LocalPolicy.from_pretrained(folders["llama"], device="cpu", threads=1)
    if not over_slots:
        monkeypatch.setattr(policy.engine, "prepare", lambda: "it is not used")
    monkeypatch.setattr(policy, "context_length", 10**6)
    monkeypatch.setattr(policy, "eos_ids", frozenset())
    rows = [replace(row(text, seed=i, max_tokens=10**5), seconds=0.5) for i, text in enumerate(TEXTS)]
    for found in policy.submit(rows).result(PATIENCE):
        assert found.finish_reason is None
        assert found.new_tokens == len(found.tokens) < 10**5
    policy.engine.submit([], lambda: None).result(PATIENCE)
    assert not policy.engine.busy
