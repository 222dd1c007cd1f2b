"""Are prefix caches really used? Real searches on vLLM (CPU), counted by its own ``/metrics``.

    policy   uncached prompt tokens against the common-prefix bound, by block size and replacement period
    reward   the same at the reward server, by block size and by how the answer's turn ends
    workers  one and two vLLM processes with the policy: hit rate by rendezvous hashing and by round robin
    plan     `darwin-align plan` against the seconds of a real batch, on two servers with a core each

The bound: of every request, in the order in which they were sent, the tokens behind the longest prefix that any request
or reply before it had; at least one, for the last token is always computed. From the same requests the uncached tokens
are computed for caches of other block sizes, cold ones: a server's later rows find prompts of its earlier ones.

    taskset -c 0 python -m benchmarks.prefix_cache --sections policy reward workers
    python -m benchmarks.prefix_cache --sections plan

Needs the environment of vLLM (``make .venv-vllm/.ready``). Writes ``benchmarks/results/prefix_cache.json``.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread
from time import monotonic, process_time
from typing import Any

import httpx

from benchmarks.sections import run_sections
from benchmarks.servers.launch import Server, vllm_server
from darwin_align import DarwinSearch, SearchConfig
from darwin_align.backends.endpoint import EndpointPolicy, EndpointScorer, Limits
from darwin_align.backends.endpoint.client import Endpoint, gather_all
from darwin_align.batch import run_batch
from darwin_align.batch.throughput import Demand, Speeds, plan_batch
from darwin_align.core import Request, Response, Sampling
from darwin_align.operators.policy import Row
from darwin_align.operators.portal import call
from darwin_align.pocket import held_out, policy_path, reward_path
from darwin_align.pocket.pair import pocket_search

RESULTS = Path(__file__).parent / "results"
Json = dict[str, Any]
CONFIG = SearchConfig(cycles=1, max_new_tokens=120)
BLOCKS = (32, 128)
"""Tokens: vLLM on the CPU takes multiples of 32 and has 128 by default; on GPUs 16 is the default."""
COMPUTED = (8, 16, 32, 64, 128)
"""Block sizes for which uncached tokens are computed from what was sent."""
HISTORY = " ".join(f"Step {i}: boil some fresh water in the kettle for the tea." for i in range(30))
LIMITS = Limits(concurrency=64, attempt_timeout=600)


# -- counting


class Prefixes:
    """All texts so far, as a tree of token ids."""

    def __init__(self) -> None:
        self._root: dict[int, Any] = {}
        self.by_block = dict.fromkeys(COMPUTED, 0)
        """Uncached tokens with a cache of such blocks that forgets nothing."""
        self.sent = self.bound = 0

    def request(self, prompt: Sequence[int], times: int = 1) -> None:
        """Note a prompt that was sent, for one choice or several."""
        self.sent += len(prompt) * times
        known = min(self._add(prompt), len(prompt) - 1)
        self.bound += len(prompt) - known + times - 1
        for block in self.by_block:
            again = (len(prompt) - 1) // block * block  # what the other choices find
            self.by_block[block] += len(prompt) - known // block * block + (times - 1) * (len(prompt) - again)

    def reply(self, prompt: Sequence[int], ids: Sequence[int]) -> None:
        """Note tokens that were decoded: of the last one there are no keys and values yet."""
        self._add([*prompt, *ids[:-1]])

    def _add(self, ids: Sequence[int]) -> int:
        """Add a text; return how much of it there was."""
        node, known = self._root, 0
        for number, token in enumerate(ids):
            if token in node and known == number:
                known += 1
            node = node.setdefault(token, {})
        return known


@contextmanager
def noted(endpoint: Endpoint) -> Iterator[Prefixes]:
    """Note what goes through an endpoint."""
    prefixes, post = Prefixes(), endpoint.post

    async def noting(path: str, body: Mapping[str, Any], **more: Any) -> Any:
        listed = body.get("prompt", body.get("input"))
        prompts = listed if isinstance(listed[0], list) else [listed]
        for prompt in prompts:
            prefixes.request(prompt, body.get("n", 1))
        reply = await post(path, body, **more)
        for i, choice in enumerate(reply.data.get("choices", ())):
            prefixes.reply(prompts[i // body.get("n", 1)], choice["token_ids"])
        return reply

    endpoint.post = noting  # type: ignore[method-assign]
    try:
        yield prefixes
    finally:
        del endpoint.post  # type: ignore[method-assign]


def counters(*servers: Server) -> tuple[float, float]:
    """Tokens that were looked up in the servers' prefix caches, and found."""
    texts = [httpx.get(f"{server.url}/metrics", trust_env=False, timeout=60).text for server in servers]

    def total(name: str) -> float:
        lines = (re.findall(rf"^vllm:prefix_cache_{name}_total\S* (\S+)$", text, re.MULTILINE) for text in texts)
        return sum(float(value) for values in lines for value in values)

    return total("queries"), total("hits")


@contextmanager
def served(role: str, block: int, context: int = 1024) -> Iterator[Server]:
    """The embedded policy or reward model on vLLM."""
    options = ["--enable-prefix-caching", "--block-size", str(block)]
    folder = policy_path() if role == "policy" else reward_path()
    with vllm_server(folder, pooling=role == "reward", served_name=role, options=options, context=context) as server:
        yield server


def search_over(policy: Any = None, scorer: Any = None, config: SearchConfig = CONFIG) -> DarwinSearch:
    """The embedded search with one or two of its models behind URLs."""
    pocket = pocket_search(config)
    parts = {name: getattr(pocket, name) for name in ("mutation_prompt", "guard", "clauses", "config")}
    return DarwinSearch(policy=policy or pocket.policy, scorer=scorer or pocket.scorer, **parts)


def policy_at(*servers: Server) -> EndpointPolicy:
    """The policy on one server or several."""
    return EndpointPolicy([server.url for server in servers], tokenizer=policy_path(), limits=LIMITS)


def measured(search: DarwinSearch, endpoint: Endpoint, prompts: Sequence[Any], *servers: Server) -> Json:
    """Prompt tokens of searches, one after another: sent, not cached, and the bound."""
    search.invoke("Say hello.", seed=1)  # what the server is, is found out
    before = counters(*servers)
    with noted(endpoint) as prefixes:
        for number, prompt in enumerate(prompts):
            search.invoke(prompt, seed=number)
    queries, hits = (now - then for now, then in zip(counters(*servers), before, strict=True))
    row = {"sent": prefixes.sent, "queries": queries, "uncached": queries - hits, "bound": prefixes.bound}
    row |= {"uncached_over_bound": (queries - hits) / prefixes.bound, "hit_rate": hits / queries}
    return row | {"computed_over_bound": {block: n / prefixes.bound for block, n in prefixes.by_block.items()}}


# -- sections


def long(prompts: Sequence[str]) -> list[Any]:
    """Prompts behind a long conversation."""
    return [[("human", f"{HISTORY} Is that right? {i}"), ("ai", "Yes."), ("human", p)] for i, p in enumerate(prompts)]


def policy(prompts: int = 6) -> Json:
    """The policy server, at replacement periods that are no multiple of the block and at one that is."""
    rows = []
    for block in BLOCKS:
        with served("policy", block) as server:
            for period, history in ((20, False), (32, False), (50, False), (20, True)):
                remote = policy_at(server)
                search = search_over(policy=remote, config=CONFIG.replace(replacement_period=period))
                texts = long(held_out(prompts)) if history else held_out(prompts)
                row = {"block": block, "period": period, "history": history}
                rows.append(row := row | measured(search, remote.endpoint, texts, server))
                print(row, flush=True)
    return {"prompts": prompts, "rows": rows}


def reward(prompts: int = 6) -> Json:
    """The reward server: turns closed as the template does, or left open behind the answer."""
    rows = []
    for block in BLOCKS:
        with served("reward", block) as server:
            for period, turn, history in (
                (20, "closed", False),
                (20, "open", False),
                (50, "closed", False),
                (20, "closed", True),
            ):
                remote = EndpointScorer(base_url=server.url, tokenizer=reward_path(), turn=turn, limits=LIMITS)
                search = search_over(scorer=remote, config=CONFIG.replace(replacement_period=period))
                texts = long(held_out(prompts)) if history else held_out(prompts)
                row = {"block": block, "period": period, "turn": turn, "history": history}
                row |= measured(search, remote._endpoint, texts, server)
                rows.append(row)
                print(row, flush=True)
    return {"prompts": prompts, "rows": rows}


def workers(prompts: int = 6, block: int = 32) -> Json:
    """One and two workers with the policy."""
    rows = []
    with ExitStack() as stack:
        servers = [stack.enter_context(served("policy", block)) for _ in range(2)]
        for number, routing in ((1, "rendezvous"), (2, "rendezvous"), (2, "round robin")):
            remote = policy_at(*servers[:number])
            if routing == "round robin":
                remote.endpoint.post = _round_robin(remote.endpoint)  # type: ignore[method-assign]
            texts = held_out(prompts * (len(rows) + 1))[-prompts:]  # new ones: the caches are warm
            search = search_over(policy=remote, config=CONFIG.replace(replacement_period=20))
            search.invoke("Say hello.", seed=1)
            before = counters(*servers[:number])
            search.batch(list(texts), seed=1)
            queries, hits = (now - then for now, then in zip(counters(*servers[:number]), before, strict=True))
            rows.append({"workers": number, "routing": routing, "hit_rate": hits / queries, "uncached": queries - hits})
            print(rows[-1], flush=True)
    return {"prompts": prompts, "block": block, "period": 20, "rows": rows}


def _round_robin(endpoint: Endpoint) -> Callable[..., Any]:
    """Without a prefix a request goes to the server with the fewest requests in flight, in turn."""
    post = endpoint.post

    async def without(path: str, body: Mapping[str, Any], **_: Any) -> Any:
        return await post(path, body)

    return without


def speeds(policy: EndpointPolicy, scorer: EndpointScorer, rows: int, reward_server: Server) -> Speeds:
    """Tokens a second of the servers, for requests like a search's: decoded in chunks, and read for rewards.

    Answers grow by a chunk between two scorings; only what the prefix caches do not hold counts as read.
    """
    texts, period = held_out(30), CONFIG.replacement_period
    requests = [Request.of(text, sampling=Sampling(temperature=1.0, top_k=None)) for text in texts]

    async def decode(number: int) -> int:
        tokens = 0
        for i in range(number, 4 * rows, rows):
            tokens += (await policy.generate([Row(requests[i % 30], period, i)])).answer[0].new_tokens
        return tokens

    async def many() -> int:
        return sum(await gather_all([decode(i) for i in range(rows)]))

    async def score(request: Request) -> None:
        words = f"{request.instruction} " * 8
        for length in range(period * 4, period * 20, period * 4):  # about a chunk of tokens longer each time
            await scorer.score(request, [Response(text=f"{number} {words[:length]}") for number in range(5)])

    async def scorings() -> None:
        for at in range(0, 30, 6):
            await gather_all([score(request) for request in requests[at : at + 6]])

    call(policy.generate, [Row(requests[0], 1, 0)])
    call(scorer.score, requests[0], [Response(text="Yes.")])
    start = monotonic()
    decoded = call(many) / (monotonic() - start)
    start, before = monotonic(), counters(reward_server)
    call(scorings)
    seconds = monotonic() - start
    queries, hits = (now - then for now, then in zip(counters(reward_server), before, strict=True))
    read = (queries - hits) / seconds
    return Speeds(policy=decoded, reward=read, prefill=read, rows=rows)


def plan(prompts: int = 200, rows: int = 32) -> Json:
    """Seconds of a batch, as planned from a dry run of 20 prompts and from speeds that were measured before it.

    The policy's server has the first core, the reward server the last one, which is less busy: so the client is there.
    """
    cores = sorted(os.sched_getaffinity(0))
    with ExitStack() as stack:
        with pinned(cores[0]):
            one = stack.enter_context(served("policy", 32))
        stack.enter_context(pinned(cores[-1]))
        two = stack.enter_context(served("reward", 32))
        folder = Path(stack.enter_context(TemporaryDirectory()))
        remote, scorer = policy_at(one), EndpointScorer(base_url=two.url, tokenizer=reward_path(), limits=LIMITS)
        search, servers = search_over(remote, scorer), (one, two)
        speed = speeds(remote, scorer, rows, two)
        texts = held_out(prompts + 20)
        before = [counters(server) for server in servers]
        dry = run_batch(search, texts[:20], folder / "dry.jsonl", concurrency=4)
        hits = [_hit_rate(counters(server), then) for server, then in zip(servers, before, strict=True)]
        demand = Demand.of(dry.usage, 20, CONFIG, policy_hits=hits[0], reward_hits=hits[1])
        planned = plan_batch(demand, speed, prompts=prompts, gpus=2)
        start, client = monotonic(), process_time()
        with in_flight(remote.endpoint) as counts:
            done = run_batch(search, texts[20:], folder / "out.jsonl", concurrency=planned.prompts_in_flight).new
        wall, client = monotonic() - start, process_time() - client
    row: Json = {"prompts": done, "prompts_in_flight": planned.prompts_in_flight, "hits": hits}
    row |= {"seconds": wall, "planned_seconds": planned.seconds, "ratio": planned.seconds / wall}
    row |= {"bottleneck": planned.bottleneck, "policy_busy": planned.policy_busy, "reward_busy": planned.reward_busy}
    row |= {"client_cpu_seconds": client, "requests_in_flight": sum(counts) / len(counts)}
    row |= {"demand": vars(demand), "speeds": vars(speed)}
    print(row, flush=True)
    return row


@contextmanager
def pinned(core: int) -> Iterator[None]:
    """Keep this thread, and the threads and processes that it starts, on one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def in_flight(endpoint: Endpoint) -> Iterator[list[int]]:
    """Sample how many requests an endpoint has in flight while there are any."""
    counts, end = [], Event()

    def sample() -> None:
        while not end.wait(0.02):
            state = endpoint._loop_state
            if state is not None and (now := sum(host.in_flight for host in state.hosts)):
                counts.append(now)

    thread = Thread(target=sample)
    thread.start()
    try:
        yield counts
    finally:
        end.set()
        thread.join()


def _hit_rate(now: tuple[float, float], then: tuple[float, float]) -> float:
    return (now[1] - then[1]) / (now[0] - then[0])


SECTIONS: dict[str, Callable[[], Json]] = {"policy": policy, "reward": reward, "workers": workers, "plan": plan}


def main() -> None:
    """Measure, print, write."""
    machine = f"{platform.machine()}, one of {os.cpu_count()} processors, shared; vLLM 0.32 on the CPU"
    run_sections(__doc__, SECTIONS, RESULTS / "prefix_cache.json", machine)


if __name__ == "__main__":
    main()
