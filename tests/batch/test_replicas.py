"""The simulation that plans are held against: its servers' times by hand, and one agreement."""

import pytest
import simpy

from benchmarks.prefix_cache import Prefixes
from benchmarks.replicas import Cache, Machine, Node, RewardServer, Server, Simulation, Work, planned

MACHINE = Machine(step=1.0, row=0.5, prefill=100.0, score=10.0, cache=1000)


def test_a_cache_keeps_beginnings_in_whole_blocks_and_forgets_what_is_old() -> None:
    cache = Cache(100)
    root = Node(None, 40)
    left, right = Node(root, 30), Node(root, 20)
    assert cache.miss(left) == 70
    assert cache.miss(right) == 60 - 32  # two blocks of 16 of the 40 that are shared
    assert cache.miss(left) == 70 - 64
    assert cache.miss(Node(None, 50)) == 50
    assert cache.held <= 100
    assert cache.miss(right) > 60 - 48  # its end is gone, its beginning may stay


def test_rows_share_a_server_and_a_prefill_makes_them_wait() -> None:
    env = simpy.Environment()
    server = Server(env, MACHINE)
    ends: dict[str, float] = {}

    def row(name: str, at: float, prompt: int, tokens: int) -> object:
        yield env.timeout(at)
        yield server.generate(Node(None, prompt), tokens)
        ends[name] = env.now

    env.process(row("first", 0, 100, 10))  # type: ignore[arg-type]
    env.process(row("second", 7, 200, 2))  # type: ignore[arg-type]
    env.run()
    # 1 s of prefill and 4 tokens by t = 7; 2 s of prefill; 2 tokens at 2 s each; the last 4 alone at 1.5 s.
    assert ends == {"second": pytest.approx(7 + 2 + 4), "first": pytest.approx(13 + 4 * 1.5)}
    assert server.busy == pytest.approx(19)


def test_a_reward_server_reads_one_request_after_another() -> None:
    env = simpy.Environment()
    server = RewardServer(env, MACHINE)
    root = Node(None, 32)
    env.run(env.all_of([server.score([root]), server.score([Node(root, 8)])]))
    assert env.now == pytest.approx(3.2 + 0.8)


def test_a_plan_agrees_with_the_simulation() -> None:
    work, machine = Work(cycles=1, answer=160), Machine()
    plan = planned(work, machine, 160, 3)
    found = Simulation(work, machine, plan.policy_gpus, plan.reward_gpus).run(160, plan.prompts_in_flight)
    assert plan.seconds == pytest.approx(found["seconds"], rel=0.15)
    spread = Simulation(work, machine, 4, 1, "round robin").run(40, 20)
    assert spread["policy_hits"] < found["policy_hits"] - 0.2


def test_searches_that_take_turns_need_a_larger_cache() -> None:
    def hits(cache: int, in_flight: int) -> float:
        return float(Simulation(Work(cycles=1), Machine(cache=cache), 1, 1).run(24, in_flight)["policy_hits"])

    assert hits(5_000, 12) < hits(5_000, 1) - 0.1
    assert hits(80_000, 12) == pytest.approx(hits(80_000, 1), abs=0.01)


def test_the_bound_counts_what_no_earlier_text_began_with() -> None:
    prefixes = Prefixes()
    prefixes.request([1, 2, 3])
    prefixes.reply([1, 2, 3], [4, 5])
    prefixes.request([1, 2, 3, 4, 5, 6])  # 5 was decoded last: it has no keys and values yet
    prefixes.request([1, 2, 3])
    prefixes.request([1, 9], times=3)
    assert (prefixes.bound, prefixes.sent) == (3 + 2 + 1 + (1 + 2), 3 + 6 + 3 + 6)
