"""From one prompt to ten thousand: what a prompt costs, and whether ``darwin-align plan`` agrees with a simulation.

    sizing     GPUs and hours for each method, from the tokens that ``benchmarks.quality`` measured
    agreement  `plan` against a discrete-event simulation (simpy) of servers with prefix caches and continuous batching
    ordering   one replica whose cache is small: searches one after another against many in turns
    scale      1 to 1,000 policy replicas, by simulation: rendezvous hashing by search and by beam, round robin

    python -m benchmarks.replicas [--sections sizing agreement ordering scale]

Writes ``benchmarks/results/replicas.json``. What is simulated is an estimate: no GPU was at hand, and the speeds of one
are assumed (:class:`Machine`).
"""

from __future__ import annotations

import json
import os
import platform
import random
from collections import OrderedDict
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, dataclass, field
from heapq import heappop, heappush
from itertools import count
from pathlib import Path
from typing import Any

import simpy

from benchmarks.quality import table
from benchmarks.sections import run_sections
from darwin_align import SearchConfig
from darwin_align.batch.throughput import Demand, Plan, Speeds, plan_batch
from darwin_align.core import Usage
from darwin_align.core.seeds import derive
from darwin_align.langchain.assignments import settings_of

RESULTS = Path(__file__).parent / "results"
Json = dict[str, Any]
_COUNTED = ("decoded_tokens", "prefilled_tokens", "reward_tokens")
BLOCK = 16
"""Tokens of a cache's block: a part of one is computed anew."""


# -- the simulated servers


@dataclass(frozen=True)
class Machine:
    """Assumed speeds of one GPU with a model of about eight billion parameters."""

    step: float = 0.010
    """Seconds of a decoding step, however few rows it has."""
    row: float = 0.00006
    """Seconds that each row adds."""
    prefill: float = 20_000.0
    """Prompt tokens a second."""
    score: float = 20_000.0
    """Tokens a second of the reward model."""
    cache: int = 400_000
    """Tokens that a cache holds."""

    def speeds(self, rows: int = 64) -> Speeds:
        """As they would be measured with so many rows."""
        return Speeds(policy=rows / (self.step + rows * self.row), reward=self.score, prefill=self.prefill, rows=rows)


@dataclass(eq=False)
class Node:
    """A piece of a text, behind the piece before it: texts that share a beginning share nodes."""

    parent: Node | None
    tokens: int
    end: int = field(init=False)
    """Tokens up to its end."""

    def __post_init__(self) -> None:
        self.end = self.tokens + (self.parent.end if self.parent else 0)


class Cache:
    """A prefix cache: the least recently used piece goes first."""

    def __init__(self, capacity: int) -> None:
        self.capacity, self.held, self.nodes = capacity, 0, OrderedDict[Node, None]()
        self.read = self.missed = 0

    def miss(self, leaf: Node) -> int:
        """Tokens of a text that are not cached; they are from now on."""
        node: Node | None = leaf
        while node is not None and node not in self.nodes:
            node = node.parent
        missed = leaf.end - (min(node.end, leaf.end - 1) // BLOCK * BLOCK if node else 0)
        self.read, self.missed = self.read + leaf.end, self.missed + missed
        self.keep(leaf)
        return missed

    def keep(self, leaf: Node) -> None:
        """Mark a text as used last."""
        node: Node | None = leaf
        path = []
        while node is not None:
            path.append(node)
            node = node.parent
        for node in path:  # the beginning is marked last, and stays longest
            if node in self.nodes:
                self.nodes.move_to_end(node)
            else:
                self.nodes[node] = None
                self.held += node.tokens
        while self.held > self.capacity:
            self.held -= self.nodes.popitem(last=False)[0].tokens


class Server:
    """A policy server: all rows decode together, a prefill makes them wait. Between events the rows are alike."""

    def __init__(self, env: simpy.Environment, machine: Machine) -> None:
        self.env, self.machine, self.cache = env, machine, Cache(machine.cache)
        self.rows: list[tuple[float, int, simpy.Event]] = []
        self.position = self.stall = self.updated = self.busy = 0.0
        self.version, self.number = 0, count()

    def generate(self, prefix: Node, tokens: int) -> simpy.Event:
        """Continue a text."""
        self._advance()
        self.stall += self.cache.miss(prefix) / self.machine.prefill
        done = self.env.event()
        heappush(self.rows, (self.position + tokens, next(self.number), done))
        self._schedule()
        return done

    def _rate(self) -> float:
        return 1 / (self.machine.step + self.machine.row * len(self.rows))

    def _advance(self) -> None:
        passed, self.updated = self.env.now - self.updated, self.env.now
        if not self.rows:
            return
        self.busy += passed
        stalled = min(self.stall, passed)
        self.stall -= stalled
        self.position += (passed - stalled) * self._rate()

    def _schedule(self) -> None:
        self.version += 1
        if not self.rows:
            return
        wait = self.env.timeout(self.stall + max(0.0, self.rows[0][0] - self.position) / self._rate(), self.version)
        wait.callbacks.append(self._finish)

    def _finish(self, timer: simpy.Event) -> None:
        if timer.value != self.version:
            return  # something came in between
        self._advance()
        while self.rows and self.rows[0][0] <= self.position + 1e-6:
            heappop(self.rows)[2].succeed()
        self._schedule()


class RewardServer:
    """A reward server: requests in turn, each for as long as its uncached tokens take."""

    def __init__(self, env: simpy.Environment, machine: Machine) -> None:
        self.env, self.machine, self.cache = env, machine, Cache(machine.cache)
        self.free = self.busy = 0.0

    def score(self, texts: Sequence[Node]) -> simpy.Event:
        """Score texts of one request."""
        seconds = sum(self.cache.miss(text) for text in texts) / self.machine.score
        self.busy += seconds
        self.free = max(self.free, self.env.now) + seconds
        return self.env.timeout(self.free - self.env.now)


# -- the simulated searches


@dataclass(frozen=True)
class Work:
    """A search: its settings, and how long its texts are."""

    mutations: int = 5
    cycles: int = 3
    period: int = 64
    replaces: bool = True
    rewords: int = 60
    """Tokens of the replies that reword, a cycle; 0 without any."""
    shared: int = 60
    """Tokens that all prompts of a search begin with."""
    own: int = 60
    """Tokens of an instruction."""
    answer: int = 320
    """Mean tokens of an answer; a quarter of it is the standard deviation."""

    @property
    def config(self) -> SearchConfig:
        """The same, for a plan."""
        return SearchConfig(mutations=self.mutations, cycles=self.cycles)


class Simulation:
    """Searches over servers, so many at a time.

    Args:
        work: of each.
        machine: of every server.
        policies: servers of the policy.
        rewards: of the reward model.
        routing: rendezvous hashing by "search", as requests are sent, or by "beam"; or "round robin".
    """

    def __init__(self, work: Work, machine: Machine, policies: int, rewards: int, routing: str = "search") -> None:
        self.work, self.routing, self.env, self.turn = work, routing, simpy.Environment(), count()
        self.policies = [Server(self.env, machine) for _ in range(policies)]
        self.rewards = [RewardServer(self.env, machine) for _ in range(rewards)]
        self.decoded = 0

    def run(self, prompts: int, in_flight: int) -> Json:
        """Answer prompts and report how it went."""
        waiting = iter(range(prompts))

        def worker() -> Generator[simpy.Event, Any, None]:
            for number in waiting:
                yield from self._search(number)

        for _ in range(min(in_flight, prompts)):
            self.env.process(worker())
        self.env.run()
        seconds, busy = self.env.now, [server.busy for server in self.policies]
        return {
            "seconds": seconds,
            "policy_busy": sum(busy) / len(busy) / seconds,
            "reward_busy": sum(server.busy for server in self.rewards) / len(self.rewards) / seconds,
            "policy_hits": _hits([server.cache for server in self.policies]),
            "reward_hits": _hits([server.cache for server in self.rewards]),
            "usage": self._usage(),
        }

    def _usage(self) -> Usage:
        missed = [sum(server.cache.missed for server in side) for side in (self.policies, self.rewards)]
        return Usage(decoded_tokens=self.decoded, prefilled_tokens=missed[0], reward_tokens=missed[1])

    def _route(self, servers: Sequence[Any], search: int, prompt: int) -> Any:
        # Without failures rendezvous hashing is a fixed random server for each key.
        if self.routing == "round robin":
            return servers[next(self.turn) % len(servers)]
        return servers[derive(search, prompt if self.routing == "beam" else 0) % len(servers)]

    def _generate(self, prefix: Node, tokens: int, search: int, prompt: int) -> tuple[simpy.Event, Callable[[], Node]]:
        server = self._route(self.policies, search, prompt)
        self.decoded += tokens

        def longer() -> Node:
            node = Node(prefix, tokens)
            server.cache.keep(node)
            return node

        return server.generate(prefix, tokens), longer

    def _search(self, number: int) -> Generator[simpy.Event, Any, None]:
        work, rng = self.work, random.Random(number)
        root = Node(None, work.shared)
        original = Node(Node(None, work.shared), work.own)  # as the reward model reads it
        for cycle in range(max(1, work.cycles)):
            if work.rewords and work.cycles:
                yield self._generate(Node(root, work.own + 80), work.rewords, number, -1 - cycle)[0]
            first = cycle == 0
            rows = (work.mutations if work.cycles else 0) + first
            prompts = [1 + cycle * 100 + i if work.rewords else 1 for i in range(rows)]
            asked = {prompt: Node(root, work.own) for prompt in dict.fromkeys(prompts)}
            # A row: its prompt's number, its text behind the prompt as policy and reward model read it, its length.
            beams = [[prompt, asked[prompt], original, _length(rng, work.answer)] for prompt in prompts]
            yield from self._cycle(number, beams, rng, first)

    def _cycle(
        self, number: int, beams: list[Any], rng: random.Random, first: bool
    ) -> Generator[simpy.Event, Any, None]:
        work, done = self.work, 0
        period = work.period if work.replaces else max(beam[3] for beam in beams)
        competing = beams[:-1] if first and len(beams) > 1 else beams  # the first response takes no part
        while open_beams := [beam for beam in beams if beam[3] > done]:
            sizes = [min(period, beam[3] - done) for beam in open_beams]
            started = [
                self._generate(beam[1], size, number, beam[0]) for beam, size in zip(open_beams, sizes, strict=True)
            ]
            yield simpy.AllOf(self.env, [event for event, _ in started])
            for beam, size, (_, longer) in zip(open_beams, sizes, started, strict=True):
                beam[1], beam[2] = longer(), Node(beam[2], size)
            yield self._route(self.rewards, number, 0).score([beam[2] for beam in open_beams])
            done += period
            if work.replaces and len(alive := [beam for beam in competing if beam[3] > done]) > 1:
                donors = rng.sample(alive, min(3, len(alive)))
                for beam in alive:
                    if beam not in donors:
                        donor = rng.choice(donors)
                        beam[:3] = donor[:3]


def _length(rng: random.Random, mean: int) -> int:
    return max(16, round(rng.gauss(mean, mean / 4)))


def _hits(caches: Sequence[Cache]) -> float:
    return 1 - sum(cache.missed for cache in caches) / sum(cache.read for cache in caches)


# -- sections

WORKS = {
    "darwin, 3 cycles": Work(),
    "darwin, 3 cycles, prompts of 1,000 tokens": Work(shared=900, own=100),
    "sample_replace": Work(cycles=1, rewords=0),
    "best_of_n": Work(cycles=1, mutations=4, rewords=0, replaces=False),
    "sample": Work(cycles=0, rewords=0, replaces=False),
}


def planned(work: Work, machine: Machine, prompts: int, gpus: int) -> Plan:
    """A plan from a simulated dry run of 20 prompts on one GPU for each model."""
    dry = Simulation(work, machine, 1, 1).run(20, 4)
    demand = Demand.of(dry["usage"], 20, work.config)
    return plan_batch(demand, machine.speeds(), prompts=prompts, gpus=gpus)


def sizing(answer: int = 300, prompts: int = 10_000, gpus: int = 8) -> Json:
    """What each method's measured tokens mean on GPUs: those of ``benchmarks.quality``, scaled to longer answers."""
    standings = json.loads((RESULTS / "quality.json").read_text(encoding="utf-8"))["standings"]
    speeds, rows = Machine().speeds(), []
    plain = next(one["means"]["decoded_tokens"] for one in standings if one["text"] == "sample")
    for one in standings:
        preset, *changes = one["text"].split()
        scaled = {key: one["means"][key] * answer / plain for key in _COUNTED}
        usage = Usage(**{key: round(value * prompts) for key, value in scaled.items()})
        demand = Demand.of(usage, prompts, settings_of(preset, changes)[0])
        plan = plan_batch(demand, speeds, prompts=prompts, gpus=gpus)
        # Equally busy sides: policy GPUs for each reward GPU.
        share = (demand.decoded / speeds.policy + demand.prefilled / speeds.prefill) / (demand.scored / speeds.reward)
        row = {"method": one["label"], **{key: value / answer for key, value in scaled.items()}}
        row |= {"policy_for_each_reward": share, "hours": plan.seconds / 3600, "bottleneck": plan.bottleneck}
        row |= {
            "decoded_a_second": demand.decoded * plan.per_second,
            "scored_a_second": demand.scored * plan.per_second,
        }
        rows.append(row | asdict(plan))
        print(row, flush=True)
    return {"answer": answer, "prompts": prompts, "gpus": gpus, "speeds": asdict(speeds), "rows": rows}


def agreement(prompts: int = 200) -> Json:
    """Seconds by plan and by simulation, on 2, 8 and 32 GPUs, so many prompts for each."""
    machine, rows = Machine(), []
    for name, work in WORKS.items():
        for gpus in (2, 8, 32) if work.cycles < 3 else (2, 8):
            plan = planned(work, machine, prompts * gpus, gpus)
            simulation = Simulation(work, machine, plan.policy_gpus, plan.reward_gpus)
            found = simulation.run(prompts * gpus, plan.prompts_in_flight)
            ratio = plan.seconds / found["seconds"]
            row = {"work": name, "gpus": f"{plan.policy_gpus}+{plan.reward_gpus}", "in_flight": plan.prompts_in_flight}
            row |= {"plan": plan.seconds, "simulated": found["seconds"], "ratio": ratio, "bottleneck": plan.bottleneck}
            rows.append(row)
            print(row, flush=True)
    return {"prompts_a_gpu": prompts, "machine": asdict(machine), "rows": rows}


def ordering(prompts: int = 96) -> Json:
    """What the order of requests does to a cache: the more searches take turns, the more texts it has to hold."""
    work, rows = Work(cycles=1), []
    for cache in (5_000, 20_000, 80_000):
        for in_flight in (1, 8, 32):
            found = Simulation(work, Machine(cache=cache), 1, 1).run(prompts, in_flight)
            row = {"cache": cache, "in_flight": in_flight, "policy_hits": found["policy_hits"]}
            rows.append(row | {"reward_hits": found["reward_hits"], "seconds": found["seconds"]})
            print(rows[-1], flush=True)
    return {"prompts": prompts, "work": asdict(work), "rows": rows}


def ordering_table(found: Json) -> str:
    """The table as the documentation shows it."""
    hits = {
        (row["cache"], row["in_flight"]): f"{row['policy_hits']:.0%}, {row['reward_hits']:.0%}" for row in found["rows"]
    }
    caches, counts = (list(dict.fromkeys(key[i] for key in hits)) for i in range(2))
    rows = [[f"{cache:,}", *(hits[cache, number] for number in counts)] for cache in caches]
    return table(["tokens in each cache", *(f"{number} in flight" for number in counts)], rows)


def scale() -> Json:
    """Replicas up to a thousand, one cycle, fifty prompts a replica: prompts a second and hit rates by routing."""
    machine, work, rows = Machine(), Work(cycles=1), []
    for policies in (1, 4, 8, 100, 1000):
        prompts, gpus = 50 * policies, policies + max(1, round(policies / 3))
        plan = planned(work, machine, prompts, gpus)
        # Round robin keeps no prefixes, and a thousand replicas of it take hours to simulate.
        routings = {1: ("search",), 1000: ("search", "beam")}.get(policies, ("search", "beam", "round robin"))
        for routing in routings:
            found = Simulation(work, machine, policies, gpus - policies, routing).run(prompts, plan.prompts_in_flight)
            row = {"policies": policies, "rewards": gpus - policies, "routing": routing, "prompts": prompts}
            row |= {"per_second": prompts / found["seconds"], "in_flight": plan.prompts_in_flight}
            row |= {"plan_over_simulated": plan.seconds / found["seconds"]}
            rows.append(row | {key: found[key] for key in ("policy_busy", "reward_busy", "policy_hits", "reward_hits")})
            print(rows[-1], flush=True)
    return {"machine": asdict(machine), "work": asdict(work), "rows": rows}


SECTIONS: dict[str, Callable[[], Json]] = {
    "sizing": sizing,
    "agreement": agreement,
    "ordering": ordering,
    "scale": scale,
}


def main() -> None:
    """Measure, simulate, write."""
    machine = f"{platform.machine()}, {os.cpu_count()} processors, no GPU"
    run_sections(__doc__, SECTIONS, RESULTS / "replicas.json", machine)


if __name__ == "__main__":
    main()
