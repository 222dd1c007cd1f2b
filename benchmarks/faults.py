"""Are searches over the wire safe from faults, and do they wait together behind a slow network?

The policy is the embedded one on llama.cpp's own server, behind a proxy of its own. Sections:

    chaos    searches of five beams, first without faults, then with a fifth of all requests spoiled, evenly by reset,
             cut, hang, drip, 429, 503, half a JSON and refused connections: none may be lost, and each must be, event
             by event, what it was without faults. The reward model is the embedded one in this process. The server has
             one slot and no prompt cache: with more, the last bits of its numbers depend on what else it works on, and
             about one search in a thousand meets a draw that they tip, faults or not
    latency  64 prompts by ``abatch`` against one prompt after another, with 50 ms added to every answer; the scorer is
             on the wire too (how likely the server finds it that the answer ends there: cheap, and real)

    python -m benchmarks.faults [--sections chaos latency] [--searches 300] [--budget 900]

Writes ``benchmarks/results/faults.json``. Ends with status 1 if a search is lost or differs, if there are more requests
in flight than configured, or if a section takes longer than ``--budget`` seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import logging
import multiprocessing
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import isclose
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch

from benchmarks.servers.gguf_file import write_gguf
from benchmarks.servers.launch import Server, llama_server
from benchmarks.servers.proxy import FAULTS, FaultProxy
from darwin_align import DarwinChatModel, DarwinSearch, SearchConfig, SearchResult, __version__
from darwin_align.backends.endpoint import EndpointPolicy, EndpointScorer, Limits, RewardDialect
from darwin_align.backends.endpoint.rewards import Item, Wire, found, in_order, number, rows
from darwin_align.core import Event, Sampling
from darwin_align.pocket import held_out, policy_path
from darwin_align.pocket.pair import pocket_search

__all__ = ["Chaos", "chaos", "chat_model", "differences", "latency"]

RESULTS = Path(__file__).parent / "results"
Json = dict[str, Any]

CHAOS = SearchConfig(cycles=1, mutations=5, replacement_period=12, max_new_tokens=48)
PATIENCE = Limits(attempts=12, read_timeout=2.0, attempt_timeout=3.0, connect_timeout=2.0)
"""An honest answer takes a tenth of a second here: what hangs or drips is given up soon."""
EXACT: Json = {"cache_prompt": False}
"""With one slot: see above."""
AT_ONCE = 24
"""Concurrent searches."""
REWARD_TOLERANCE = 1e-4
"""The reward model's last digits depend on what else is in its batch."""

LATENCY = SearchConfig(cycles=1, mutations=5, mutator="identity", replacement_period=2, max_new_tokens=4)
"""Two steps, of so few tokens that the server's own work is small beside the delay."""
HOT = Sampling(temperature=2.0, top_k=None)
"""So few tokens would all be the same ones else, and shared states are scored once."""
DELAY = 0.05
LEAST_FACTOR = 8.0


# -- chaos


@dataclass
class Run:
    """All searches once."""

    results: list[SearchResult | BaseException]
    wall: float
    cpu: float
    requests: Json
    """Of the client: requests, answers, failed attempts by kind."""
    injected: Json
    """Of the proxy: requests by what they met."""
    peak: int
    """Most requests in flight, those included that the client gave up a moment ago."""

    @property
    def seconds(self) -> list[float]:
        """Of each search, in its operators."""
        return [result.usage.seconds for result in self.results if isinstance(result, SearchResult)]


@dataclass
class Chaos:
    """What both runs gave."""

    clean: Run
    faulty: Run
    lost: list[str] = field(default_factory=list)
    different: list[str] = field(default_factory=list)


def chaos_search(url: str | Sequence[str], limits: Limits = PATIENCE) -> DarwinSearch:
    """The embedded pair's search, its policy behind one URL or several."""
    pocket = pocket_search(CHAOS)
    return DarwinSearch(
        policy=EndpointPolicy(url, tokenizer=policy_path(), limits=limits, extra_body=EXACT),
        scorer=pocket.scorer,
        guard=pocket.guard,
        mutation_prompt=pocket.mutation_prompt,
        config=CHAOS,
    )


async def search_all(search: DarwinSearch, searches: int) -> list[SearchResult | BaseException]:
    """Different pairs of question and seed, some at a time."""
    questions = held_out(100)
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(i: int) -> SearchResult:
        async with slots:
            return await search.ainvoke(questions[i % len(questions)], seed=i)

    return await asyncio.gather(*(one(i) for i in range(searches)), return_exceptions=True)


def run(url: str, searches: int, budget: float, share: float, seed: int = 0) -> Run:
    """Run the searches behind a proxy.

    Raises:
        TimeoutError: they took longer than the budget.
    """
    with FaultProxy(url, share=share, seed=seed) as proxy:
        search = chaos_search(proxy.url)
        clock, processor = perf_counter(), process_time()
        results = asyncio.run(asyncio.wait_for(search_all(search, searches), budget))
        wall, cpu = perf_counter() - clock, process_time() - processor
        return Run(results, wall, cpu, dict(search.policy.endpoint.counts), proxy.counts, proxy.in_flight_peak)


def chaos(url: str, searches: int, budget: float, seed: int = 0) -> Chaos:
    """Run the searches without and with faults, and compare.

    Args:
        url: llama.cpp's server, with one slot.
        searches: how many.
        budget: seconds for each of the two runs.
        seed: of the proxy: which requests meet which fault.
    """
    clean = run(url, searches, budget, share=0)
    found = Chaos(clean, run(url, searches, budget, share=0.2, seed=seed))
    for i, (true, result) in enumerate(zip(clean.results, found.faulty.results, strict=True)):
        if isinstance(true, BaseException):
            raise true
        if isinstance(result, BaseException) or result.failure:
            failure = result.failure if isinstance(result, SearchResult) else repr(result)
            found.lost.append(f"search {i}: {failure}")
        elif difference := differences(true, result):
            found.different.append(f"search {i}: {difference}")
    return found


def differences(one: SearchResult, other: SearchResult) -> str:
    """How two results differ; empty if they do not, but for the last digits of rewards, tokens read and times."""
    if len(one.events) != len(other.events):
        return f"{len(one.events)} events and {len(other.events)}"
    for left, right in zip(one.events, other.events, strict=True):
        if difference := _event_difference(left, right):
            return f"{left.operator} in step {left.step}: {difference}"
    ranked = [[(beam.text, beam.instruction) for beam in result.ranking] for result in (one, other)]
    if ranked[0] != ranked[1]:
        return f"ranking {ranked[0]} and {ranked[1]}"
    if one.text != other.text or not _close(one.reward, other.reward):
        return f"{one.text!r} for {one.reward} and {other.text!r} for {other.reward}"
    return ""


def _event_difference(one: Event, other: Event) -> str:
    questions = [(event.operator, event.cycle, event.step, event.failure) for event in (one, other)]
    if questions[0] != questions[1]:
        return f"{questions[0]} and {questions[1]}"
    if one.delta.beams.keys() != other.delta.beams.keys():
        return f"beams {sorted(one.delta.beams)} and {sorted(other.delta.beams)} changed"
    for i, fields in one.delta.beams.items():
        if difference := _fields(fields, other.delta.beams[i]):
            return f"beam {i}: {difference}"
    return ""


def _fields(one: Json, other: Json) -> str:
    if one.keys() != other.keys():
        return f"changed {sorted(one)} and {sorted(other)}"
    for name, value in one.items():
        same = _close(value, other[name]) if name == "reward" else value == other[name]
        if not same:
            return f"{name} {value!r} and {other[name]!r}"
    return ""


def _close(one: float | None, other: float | None) -> bool:
    return one == other if one is None or other is None else isclose(one, other, abs_tol=REWARD_TOLERANCE)


def chaos_figures(found: Chaos, searches: int) -> Json:
    """The figures."""
    counts, injected = found.faulty.requests, found.faulty.injected
    return {
        "searches": searches,
        "lost": len(found.lost),
        "different": len(found.different),
        "requests": {"clean": found.clean.requests["requests"], "faulty": counts["requests"]},
        "retries": counts["requests"] - counts["answers"],
        "injected": {kind: injected.get(kind, 0) for kind in FAULTS},
        "injected_share": 1 - injected["clean"] / sum(injected.values()),
        "failed_attempts": {k: v for k, v in sorted(counts.items()) if k not in ("requests", "answers")},
        "wall_seconds": {"clean": found.clean.wall, "faulty": found.faulty.wall},
        "cpu_seconds": {"clean": found.clean.cpu, "faulty": found.faulty.cpu},
        "search_seconds_p50": {
            "clean": quantile(found.clean.seconds, 50),
            "faulty": quantile(found.faulty.seconds, 50),
        },
        "search_seconds_p95": {
            "clean": quantile(found.clean.seconds, 95),
            "faulty": quantile(found.faulty.seconds, 95),
        },
        "config": json.loads(CHAOS.to_json()),
        "limits": json.loads(PATIENCE.to_json()),
        "searches_at_once": AT_ONCE,
    }


def quantile(values: Sequence[float], percent: float) -> float:
    """A percentile."""
    return float(np.percentile(values, percent))


# -- latency


class Likelihood(RewardDialect):
    """The log-probability of the token that llama.cpp would decode after an answer."""

    name = "likelihood"
    forms = ("pair",)
    has_models = False

    def request(self, model: str, items: Sequence[Item]) -> Wire:  # noqa: ARG002
        """All answers as prompts."""
        prompts = [item.answer for item in items]
        return "/v1/completions", {"prompt": prompts, "max_tokens": 1, "logprobs": 1, "temperature": 0}

    def read(self, data: Any) -> list[float]:
        """One choice a prompt."""
        choices = in_order(rows(data, "choices"))
        return [number(found(choice, "logprobs", "content", 0, "logprob")) for choice in choices]


def chat_model(policy_url: str | Sequence[str], scorer_url: str, limits: Limits) -> DarwinChatModel:
    """Policy and scorer behind URLs of llama.cpp servers."""
    return DarwinChatModel(
        policy=EndpointPolicy(policy_url, tokenizer=policy_path(), limits=limits),
        scorer=EndpointScorer(base_url=scorer_url, dialect=Likelihood(), limits=limits),
        config=LATENCY,
        sampling=HOT,
    )


@contextmanager
def slow_proxies(target: str, n: int, delay: float) -> Iterator[tuple[list[str], Callable[[], list[int]]]]:
    """Proxies in a process of their own, so that they do not share an interpreter with the client that is measured.

    Yields:
        their URLs, and a function of the largest number of concurrent requests at each.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_run_proxies, args=(there, target, n, delay), daemon=True)
    process.start()

    def ask() -> list[int]:
        here.send("peaks")
        peaks: list[int] = here.recv()
        return peaks

    try:
        yield here.recv(), ask
    finally:
        here.send("end")
        process.join(10)


def _run_proxies(pipe: Any, target: str, n: int, delay: float) -> None:
    proxies = [FaultProxy(target, share=0, delay=delay).__enter__() for _ in range(n)]
    pipe.send([proxy.url for proxy in proxies])
    while pipe.recv() == "peaks":
        pipe.send([proxy.in_flight_peak for proxy in proxies])
    for proxy in proxies:
        proxy.__exit__()


async def one_by_one(model: DarwinChatModel, prompts: Sequence[str]) -> float:
    """Seconds for all prompts, each begun when the one before is answered."""
    start = perf_counter()
    for prompt in prompts:
        await model.ainvoke(prompt, seed=1)
    return perf_counter() - start


async def together(model: DarwinChatModel, prompts: Sequence[str]) -> float:
    """Seconds for all prompts at once."""
    start = perf_counter()
    await model.abatch(list(prompts), seed=1)
    return perf_counter() - start


def latency(server: Server, n: int = 64, concurrency: int = 64, repeats: int = 5) -> Json:
    """Time ``abatch`` against one prompt after another; of several batches the quickest, for noise only adds."""
    prompts, limits = held_out(n), Limits(concurrency=concurrency)
    figures: Json = {"prompts": n, "delay_seconds": DELAY, "concurrency": concurrency}
    with slow_proxies(server.url, 2, delay=0) as ((policy, scorer), _):
        model = chat_model(policy, scorer, limits)
        asyncio.run(one_by_one(model, prompts[:4]))  # first calls find out about the servers
        figures["one_by_one_without_delay_seconds"] = asyncio.run(one_by_one(model, prompts))
    with slow_proxies(server.url, 2, delay=DELAY) as ((policy, scorer), peaks):
        model = chat_model(policy, scorer, limits)
        asyncio.run(one_by_one(model, prompts[:4]))
        figures["one_by_one_seconds"] = asyncio.run(one_by_one(model, prompts))
        before, processor, theirs = sum(_request_counts(model)), process_time(), _cpu(server)
        walls = [asyncio.run(together(model, prompts)) for _ in range(repeats)]
        figures["abatch_seconds"] = min(walls)
        figures["abatch_all_seconds"] = walls
        figures["requests"] = (sum(_request_counts(model)) - before) // repeats
        figures["client_cpu_seconds"] = (process_time() - processor) / repeats
        figures["server_cpu_seconds"] = (_cpu(server) - theirs) / repeats
        figures["in_flight_peak"] = peaks()
    figures["factor"] = figures["one_by_one_seconds"] / figures["abatch_seconds"]
    return {**figures, "config": json.loads(LATENCY.to_json())}


def _request_counts(model: DarwinChatModel) -> tuple[int, int]:
    """Requests of policy and scorer so far."""
    return model.search.policy.endpoint.counts["requests"], model.search.scorer._state.endpoint.counts["requests"]


def _cpu(server: Server) -> float:
    """Processor seconds of a server so far; 0 where the system does not report them."""
    try:
        text = Path(f"/proc/{server.process.pid}/stat").read_text(encoding="ascii")
    except FileNotFoundError:
        return 0.0
    fields = text.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# -- printing


def table(figures: Json) -> str:
    """The figures as lines of text."""
    return "\n".join(f"{name:34} {_shown(value)}" for name, value in figures.items())


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown(part)}" for name, part in value.items())
    if isinstance(value, list):
        return "[" + ", ".join(map(_shown, value)) + "]"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _chaos_section(gguf: Path, chosen: argparse.Namespace) -> tuple[Json, list[str]]:
    with llama_server(gguf, slots=1, context=1024) as server:
        found = chaos(server.url, chosen.searches, chosen.budget / 2)
    return chaos_figures(found, chosen.searches), [*found.lost, *found.different]


def _latency_section(gguf: Path, _: argparse.Namespace) -> tuple[Json, list[str]]:
    # Else a tenth of the time is the garbage collector's, which walks through the modules of torch again and again.
    gc.collect()
    gc.freeze()
    with llama_server(gguf, slots=8) as server:
        figures = latency(server)
    gc.unfreeze()
    wrong = [f"{peak} requests in flight" for peak in figures["in_flight_peak"] if peak > figures["concurrency"]]
    if figures["factor"] < LEAST_FACTOR:
        wrong.append(f"only {figures['factor']:.1f} times as fast together; {LEAST_FACTOR:g} times are expected")
    return figures, wrong


SECTIONS = {"chaos": _chaos_section, "latency": _latency_section}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--searches", type=int, default=300)
    parser.add_argument("--budget", type=float, default=900, help="seconds for a section")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("darwin_align").setLevel(logging.ERROR)  # that a breaker opens is no news here
    path = RESULTS / "faults.json"
    figures: Json = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        gguf = write_gguf(policy_path(), Path(folder) / "policy.gguf")
        for name in chosen.sections:
            figures[name], complaints = SECTIONS[name](gguf, chosen)
            print(f"-- {name}\n{table(figures[name])}\n")
            wrong += [f"{name}: {complaint}" for complaint in complaints]
    figures |= {"version": __version__, "machine": f"{platform.machine()}, {os.cpu_count()} processors"}
    RESULTS.mkdir(exist_ok=True)
    path.write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
