"""How fast is the engine? Against the plain engine, best-of-n, transformers' ``generate`` and the lower bounds.

CPU seconds and wall seconds on one thread, medians of alternating runs, all engines on the same weights. The sections
(pair, mutation and large keep to one core, where policy and reward model take turns):

    pair      random 28M policy + 28M reward model: a whole search with N=1, for L new tokens and 1 or more prompts
    mutation  the same with mutation, for one prompt
    large     one shape with 120M + 120M
    counts    positions fed, against the plain engine and the fewest possible: free of noise
    embedded  the embedded pair: 32 prompts together and one by one; the share of time outside the models
    gpu       8B + 8B in bfloat16, where there is a GPU

    python -m benchmarks.speed [--quick] [--sections pair counts] [--repeats 3]

Writes ``benchmarks/results/speed.json`` and ``speed.svg``; ``--quick`` (a smoke test) writes to the temporary folder.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import platform
import random
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, cached_property, wraps
from pathlib import Path
from statistics import median
from time import perf_counter, process_time, thread_time
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast

from benchmarks.plain import GeneratePolicy, PlainPolicy, PlainScorer, PositionBounds
from darwin_align import DarwinSearch, SearchConfig, __version__
from darwin_align.backends.local import LocalPolicy, LocalScorer, RewardModel
from darwin_align.backends.local.sampling import Sampler
from darwin_align.core.seeds import derive
from darwin_align.core.types import Request, Sampling
from darwin_align.operators.context import MutationContext
from darwin_align.operators.mutators.plain import FunctionMutator, RuleMutator
from darwin_align.operators.policy import Row, current_search
from darwin_align.operators.prompts import MANY
from darwin_align.pocket import held_out
from darwin_align.pocket.pair import pocket_search

RESULTS = Path(__file__).parent / "results"
ROWS = 6
"""Rows of a search with N=1 and n=5: the first response is one of them."""
PROMPT_TOKENS = 100
Json = dict[str, Any]

TARGETS = {(512, 1): 2.4, (1024, 1): 3.6, (512, 8): 4.3, (1024, 4): 5.3}
"""Plain engine ÷ engine, in CPU seconds, by length and prompts: at least."""
BEST_OF_TARGETS = {1: 1.20, 8: 1.28}
"""DARWIN ÷ best-of-5 on the engine, by prompts: at most."""
SPECIALS = {"bos_token": "<|begin|>", "eos_token": "<|end|>", "pad_token": "<|pad|>"}
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|start|>{{ m.role }}\n{{ m.content }}<|eot|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
# Their own words come first: rewordings share next to nothing but the template's header, as a policy's own do.
REWORDINGS = RuleMutator(
    templates=(
        "Step by step, please: {instruction}",
        "With examples and reasons: {instruction}",
        "I am new to this, so explain simply: {instruction}",
        "Name what can go wrong as well. {instruction}",
        "In order, with numbers and times: {instruction}",
    )
)


# -- models


@dataclass(frozen=True)
class Shape:
    """A Llama shape."""

    hidden: int
    layers: int
    intermediate: int
    heads: int
    kv_heads: int
    vocabulary: int | None = None
    """``None`` is the tokenizer's."""

    def config(self, tokenizer: Any, **more: Any) -> LlamaConfig:
        """The transformers configuration."""
        return LlamaConfig(
            vocab_size=self.vocabulary or len(tokenizer),
            hidden_size=self.hidden,
            num_hidden_layers=self.layers,
            intermediate_size=self.intermediate,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            max_position_embeddings=4096,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            **more,
        )


TINY = Shape(32, 2, 64, 2, 1)
SMALL = Shape(512, 8, 1408, 8, 4)
MEDIUM = Shape(1024, 10, 2560, 16, 8)
EIGHT_B = Shape(4096, 32, 14336, 32, 8, vocabulary=128256)


def words(n: int, seed: int) -> list[str]:
    """Random words."""
    draw = random.Random(seed)
    return ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(3, 8))) for _ in range(n)]


@cache
def make_tokenizer(vocabulary: int = 4096) -> PreTrainedTokenizerFast:
    """A real byte-level BPE tokenizer with a chat template, trained on random words."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[*SPECIALS.values(), "<|start|>", "<|eot|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator([" ".join(words(8000, seed=0))], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, chat_template=TEMPLATE, **SPECIALS)


def build(kind: type, config: LlamaConfig, device: str, dtype: torch.dtype, seed: int) -> Any:
    """A random model, made where it stays: 8B parameters never pass through the host."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            torch.manual_seed(seed)
            return kind(config).eval()
    finally:
        torch.set_default_dtype(before)


def silence(policy: Any, tokenizer: Any) -> None:
    """Let a random policy write tokens that are text alone: its answers reach their length."""
    with torch.no_grad():
        # A logit of 0 is never among the 40 largest.
        policy.lm_head.weight[tokenizer.all_special_ids] = 0
        policy.lm_head.weight[tokenizer.convert_tokens_to_ids(["<|start|>", "<|eot|>"])] = 0
        policy.lm_head.weight[len(tokenizer) :] = 0


class Pair:
    """A random policy and a random reward model."""

    def __init__(self, shape: Shape, device: str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        tokenizer = make_tokenizer()
        policy = build(LlamaForCausalLM, shape.config(tokenizer), device, dtype, seed=1)
        reward = build(LlamaForSequenceClassification, shape.config(tokenizer, num_labels=1), device, dtype, seed=2)
        silence(policy, tokenizer)
        self.models = policy, reward
        self.policy = LocalPolicy(policy, tokenizer)
        self.scorer = LocalScorer(reward_model=RewardModel(reward, tokenizer))
        self.vocabulary = len(tokenizer)
        self._better: dict[int, tuple[str, PlainPolicy]] = {}
        self.search().invoke("Hi", seed=0, max_new_tokens=8)  # first-call costs stay out of the times

    @property
    def parameters(self) -> list[int]:
        """Parameters of the two."""
        return [sum(weight.numel() for weight in model.parameters()) for model in self.models]

    @property
    def engines(self) -> tuple[Any, Any]:
        """Both engines."""
        return self.policy.engine, self.scorer.reward_model.engine

    @property
    def fed(self) -> tuple[int, int]:
        """Positions that policy and reward model were fed by their engines so far."""
        return tuple(engine.positions for engine in self.engines)

    def search(self, **parts: Any) -> DarwinSearch:
        """The paper's search with N=1, without mutation unless a mutator is given."""
        chosen = {"policy": self.policy, "scorer": self.scorer, **parts}
        settings = {} if "mutator" in parts else {"mutator": "identity"}
        return DarwinSearch(config=SearchConfig(cycles=1, mutations=5, survivors=3, **settings), **chosen)

    def best_of_5(self) -> DarwinSearch:
        """Best of 5 on the same engine."""
        return DarwinSearch(
            policy=self.policy, scorer=self.scorer, config=SearchConfig.preset("best_of_n", mutations=4)
        )

    def plain(self, policy: PlainPolicy) -> DarwinSearch:
        """The same search on the plain engine."""
        return self.search(policy=policy, scorer=PlainScorer(self.scorer))

    def prompts(self, n: int) -> list[str]:
        """Questions of about ``PROMPT_TOKENS`` tokens, the template's included."""
        found = []
        for i in range(n):
            drawn = iter(words(2 * PROMPT_TOKENS, seed=100 + i))
            text = next(drawn)
            while self.policy.prompt_length(Request.of(text)) < PROMPT_TOKENS:
                text += " " + next(drawn)
            found.append(text)
        return found

    def rows(self, prompts: Sequence[str], length: int, state: int = 0, rows: int = ROWS) -> list[Row]:
        """Rows as a search asks for them, with a state of so many tokens."""
        draw = random.Random(0)
        return [
            Row(
                Request.of(prompt),
                length,
                seed=derive(0, p, i),
                tokens=tuple(draw.randrange(300, self.vocabulary) for _ in range(state)),
            )
            for p, prompt in enumerate(prompts)
            for i in range(rows)
        ]

    def better_plain(self, length: int, clock: str = "cpu") -> tuple[str, PlainPolicy]:
        """The faster of the manual loop and ``generate``, by a chunk in the middle of such a search."""
        if length not in self._better:
            found = {"loop": PlainPolicy(self.policy), "generate": GeneratePolicy(self.policy)}
            rows = self.rows(self.prompts(1), 40, state=length // 2)
            timings = alternate({name: (lambda _, p=p: p.generate(rows)) for name, p in found.items()}, 3)
            name = min(found, key=lambda name: timings[name].seconds(clock))
            self._better[length] = name, found[name]
        return self._better[length]


def forget(*engines: Any) -> None:
    """Let idle engines forget what they read: no run may profit from the one before."""
    for engine in engines:
        if engine._scheduler is not None:
            engine._scheduler.store.manager.clear()
    gc.collect()


# -- measuring


@dataclass
class Timing:
    """What the runs of one contestant took."""

    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    last: Any = None
    """Result of the last run."""

    def seconds(self, clock: str = "cpu") -> float:
        """Median of CPU or wall seconds: with a GPU it is the wall's that count."""
        return median(self.cpu if clock == "cpu" else self.wall)

    def scale(self, factor: float) -> None:
        """Stand for so many times as much work."""
        self.cpu, self.wall = ([factor * value for value in values] for values in (self.cpu, self.wall))

    def run(self, work: Callable[[], Any]) -> None:
        """Measure one run."""
        clock, processor = perf_counter(), process_time()
        self.last = work()
        self.cpu.append(process_time() - processor)
        self.wall.append(perf_counter() - clock)

    def to_json(self) -> Json:
        """Medians and all values."""
        return {"cpu": self.seconds(), "wall": self.seconds("wall"), "cpu_runs": self.cpu, "wall_runs": self.wall}


def alternate(runs: dict[str, Callable[[int], Any]], repeats: int, engines: Sequence[Any] = ()) -> dict[str, Timing]:
    """Measure contestants in turn, so that a slow minute of the machine meets all of them.

    Args:
        runs: by name, what to run with the number of the repeat.
        repeats: how often.
        engines: who forgets everything between two runs.
    """
    timings = {name: Timing() for name in runs}
    for repeat in range(repeats):
        for name, run in runs.items():
            forget(*engines)
            timings[name].run(lambda run=run, repeat=repeat: run(repeat))
    return timings


@contextmanager
def on_one_core() -> Iterator[None]:
    """Keep to one core, with all threads that begin meanwhile: policy and reward model then take turns."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def together(search: DarwinSearch, prompts: Sequence[str], **settings: Any) -> list[Any]:
    """All prompts at once."""

    async def gathered() -> list[Any]:
        return list(await asyncio.gather(*(search.ainvoke(prompt, **settings) for prompt in prompts)))

    return asyncio.run(gathered())


def one_by_one(search: DarwinSearch, prompts: Sequence[str], **settings: Any) -> list[Any]:
    """One prompt after another."""
    return [search.invoke(prompt, **settings) for prompt in prompts]


class ModelClock:
    """CPU seconds inside the forward passes of models, and in drawing tokens, while it is entered.

    CPU seconds of the thread that computes: exact with one thread, whatever else the machine does.
    """

    def __init__(self, *models: Any) -> None:
        self._parts = [part for model in models for part in (model, model.base_model)]
        self._inside = threading.local()
        self.seconds = {"model": 0.0, "drawing": 0.0}

    def __enter__(self) -> ModelClock:
        for part in self._parts:
            part.forward = self._timed(part.forward, "model")
        self._draw = Sampler.draw
        Sampler.draw = self._timed(self._draw, "drawing")  # type: ignore[method-assign]
        return self

    def __exit__(self, *error: object) -> None:
        for part in self._parts:
            del part.forward
        Sampler.draw = self._draw  # type: ignore[method-assign]

    def _timed(self, function: Callable[..., Any], kind: str) -> Callable[..., Any]:
        @wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            if getattr(self._inside, kind, False):  # a language model calls its base model
                return function(*args, **kwargs)
            setattr(self._inside, kind, True)
            start = thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                setattr(self._inside, kind, False)
                self.seconds[kind] += thread_time() - start

        return timed


# -- sections


@dataclass(frozen=True)
class Options:
    """The options of the command line."""

    quick: bool = False
    repeats: int | None = None

    def times(self, usual: int) -> int:
        """How often to run something that is usually run so often."""
        return 1 if self.quick else min(usual, self.repeats or usual)

    @cached_property
    def small(self) -> Pair:
        """The 28M pair (a tiny one for a smoke test)."""
        return Pair(TINY if self.quick else SMALL)


def measure_shape(
    pair: Pair, length: int, n: int, repeats: int, *, plain_prompts: int | None = None, clock: str = "cpu"
) -> Json:
    """One search with N=1 on n prompts, on both engines, beside best-of-5 and ``generate``.

    Args:
        pair: the models.
        length: new tokens of every answer.
        n: prompts: together on the engine, one after another on the plain engine.
        repeats: runs of each.
        plain_prompts: run only so many on the plain engine, and take the rest to last as long: they are alike.
        clock: "cpu" or "wall", whose seconds are compared.
    """
    prompts, (loop, plain) = pair.prompts(n), pair.better_plain(length, clock)
    engine, best, plain_search = pair.search(), pair.best_of_5(), pair.plain(plain)
    floor, rows, alone = GeneratePolicy(pair.policy), pair.rows(prompts, length), plain_prompts or n
    timings = alternate(
        {
            "engine": lambda seed: together(engine, prompts, seed=seed, max_new_tokens=length),
            "plain": lambda seed: one_by_one(plain_search, prompts[:alone], seed=seed, max_new_tokens=length),
            "best_of_5": lambda seed: together(best, prompts, seed=seed, max_new_tokens=length),
            "generate": lambda _: floor.generate(rows),
        },
        repeats,
        pair.engines,
    )
    timings["plain"].scale(n / alone)
    seconds = {name: timing.seconds(clock) for name, timing in timings.items()}
    answers = zip(timings["engine"].last, timings["plain"].last, strict=False)
    return {
        "length": length,
        "prompts": n,
        "repeats": repeats,
        "clock": clock,
        "parameters": pair.parameters,
        "plain_loop": loop,
        "plain_prompts_run": alone,
        "same_answers": sum(one.text == other.text for one, other in answers) if loop == "loop" else None,
        **{name: timing.to_json() for name, timing in timings.items()},
        "plain_over_engine": seconds["plain"] / seconds["engine"],
        "plain_over_engine_wall": timings["plain"].seconds("wall") / timings["engine"].seconds("wall"),
        "target": TARGETS.get((length, n)) if clock == "cpu" else None,
        "darwin_over_best_of_5": seconds["engine"] / seconds["best_of_5"],
        "best_of_5_target": BEST_OF_TARGETS.get(n) if clock == "cpu" else None,
        "darwin_over_generate": seconds["engine"] / seconds["generate"],
    }


def section_pair(options: Options) -> Iterator[Json]:
    """The 28M pair at every length."""
    # Length, prompts, repeats, prompts that the plain engine runs.
    shapes = [(256, 1, 3, 1), (512, 1, 3, 1), (1024, 1, 2, 1), (256, 8, 3, 2), (512, 8, 2, 2), (1024, 4, 1, 1)]
    for length, n, repeats, alone in [(48, 1, 1, 1), (96, 2, 1, 1)] if options.quick else shapes:
        with on_one_core():
            row = measure_shape(options.small, length, n, options.times(repeats), plain_prompts=alone)
        yield row


def section_large(options: Options) -> Iterator[Json]:
    """120M + 120M, one shape."""
    with on_one_core():
        row = measure_shape(Pair(TINY if options.quick else MEDIUM), 64 if options.quick else 512, 1, 1)
    yield row


def costly_mutator(pair: Pair, tokens: int) -> FunctionMutator:
    """A mutator that costs what the policy's own does and rewords by rule.

    A random policy's reply is random text in which no list is found; so its reply is decoded, and thrown away.

    Args:
        pair: the models; its policy is called.
        tokens: length of the reply, which a random policy never ends by itself.
    """

    def reword(context: MutationContext) -> list[str]:
        prompt = MANY.render(context.request, context.instruction, context.n)
        request = Request.of(prompt, sampling=Sampling(temperature=1.0))
        pair.policy.generate([Row(request, tokens, seed=context.seed, search_id=current_search.get())])
        return REWORDINGS.mutate(context)

    return FunctionMutator(function=reword)


def section_mutation(options: Options) -> Iterator[Json]:
    """A whole search, mutation included, for one prompt, against best-of-5."""
    pair, length = options.small, 64 if options.quick else 1024
    (prompt,) = pair.prompts(1)
    # 200 tokens are five rewordings of 40; 512 is where the policy's mutator cuts a reply that never ends.
    replies = (20,) if options.quick else (200, 512)
    searches = {f"reply_{tokens}": pair.search(mutator=costly_mutator(pair, tokens)) for tokens in replies}
    searches["best_of_5"] = pair.best_of_5()
    with on_one_core():
        timings = alternate(
            {
                name: lambda seed, search=search: search.invoke(prompt, seed=seed, max_new_tokens=length)
                for name, search in searches.items()
            },
            options.times(2),
            pair.engines,
        )
    for tokens in replies:
        timing = timings[f"reply_{tokens}"]
        yield {
            "length": length,
            "reply_tokens": tokens,
            "repeats": options.times(2),
            "engine": timing.to_json(),
            "best_of_5": timings["best_of_5"].to_json(),
            "darwin_over_best_of_5": timing.seconds() / timings["best_of_5"].seconds(),
            "target": 1.30,
            "mutations_refused": sum("refused" in note for event in timing.last.events for note in event.delta.notes),
        }


def section_counts(options: Options) -> Iterator[Json]:
    """Positions fed for one prompt. A tiny model does: they depend on the algorithm, not on the size."""
    pair = Pair(TINY)
    for length in (96,) if options.quick else (512, 1024, 2048):
        for mutated in (False, True):
            runs = [counted(pair, length, mutated, seed) for seed in range(1, options.times(3) + 1)]
            row: Json = {"length": length, "mutated": mutated, "seeds": len(runs)}
            for model in ("prefill", "reward"):
                sums = {who: sum(run[model][who] for run in runs) for who in ("engine", "plain", "bound")}
                worst = max(run[model]["engine"] / run[model]["bound"] for run in runs)
                row[model] = {**sums, "over_bound": sums["engine"] / sums["bound"], "worst": worst}
            yield {**row, "same_answers": sum(run["same_answers"] for run in runs), "runs": runs}


def counted(pair: Pair, length: int, mutated: bool, seed: int) -> Json:
    """Positions of one search, on the engine, on the plain engine, and the fewest possible."""
    prompt, given = pair.prompts(1)[0], {"mutator": REWORDINGS} if mutated else {}
    forget(*pair.engines)
    bounds, before = PositionBounds(), pair.fed
    watched = {"policy": bounds.policy(pair.policy), "scorer": bounds.scorer(pair.scorer)}
    mine = pair.search(**watched, **given).invoke(prompt, seed=seed, max_new_tokens=length)
    policy, reward = (after - start for after, start in zip(pair.fed, before, strict=True))
    plain, scorer = PlainPolicy(pair.policy), PlainScorer(pair.scorer)
    other = pair.search(policy=plain, scorer=scorer, **given).invoke(prompt, seed=seed, max_new_tokens=length)
    decoded = other.usage.decoded_tokens
    return {
        "seed": seed,
        "decoded": bounds.decoded,
        "prefill": {
            "engine": policy - bounds.decoded,
            "plain": plain.positions - decoded,
            "bound": bounds.prefill,
        },
        "reward": {"engine": reward, "plain": scorer.positions, "bound": bounds.reward},
        "same_answers": mine.text == other.text,
    }


def section_embedded(options: Options) -> Iterator[Json]:
    """The embedded pair: many prompts together, and what the library itself costs."""
    search, n = pocket_search(), 4 if options.quick else 32
    policy, reward = search.policy, search.scorer.reward_model
    prompts = list(held_out(n))
    search.invoke("How do I brew green tea?", seed=0)
    timings = alternate(
        {
            "together": lambda seed: asyncio.run(search.abatch(prompts, seed=seed)),
            "one_by_one": lambda seed: one_by_one(search, prompts, seed=seed),
        },
        options.times(2),
        (policy.engine, reward.engine),
    )
    one, all_ = timings["one_by_one"], timings["together"]
    forget(policy.engine, reward.engine)
    with ModelClock(policy._loaded.model, reward._loaded.model) as clock:
        start = process_time()
        one_by_one(search, prompts[:8], seed=1)
        seconds = process_time() - start
    yield {
        "prompts": n,
        "repeats": options.times(2),
        **{name: timing.to_json() for name, timing in timings.items()},
        "same_answers": sum(a.text == b.text for a, b in zip(one.last, all_.last, strict=True)),
        "rate": one.seconds("wall") / all_.seconds("wall"),
        "rate_target": 6.0,
        "outside_models": 1 - clock.seconds["model"] / seconds,
        "outside_models_and_drawing": 1 - sum(clock.seconds.values()) / seconds,
        "outside_target": 0.10,
    }


def section_gpu(options: Options) -> Iterator[Json]:
    """8B + 8B in bfloat16, L=1024, in wall seconds."""
    if not torch.cuda.is_available() and not options.quick:
        yield {"note": "no GPU here: not run"}
        return
    device = "cuda" if torch.cuda.is_available() else "cpu"  # a smoke test goes through the same lines anywhere
    pair = Pair(TINY if options.quick else EIGHT_B, device, torch.bfloat16)
    length, many = (48, 2) if options.quick else (1024, 16)
    bandwidth = measured_bandwidth(device)
    for rows in (5, 80):
        yield decode_step(pair, rows, length, bandwidth)
    yield measure_shape(pair, length, 1, 1, clock="wall")
    yield measure_shape(pair, length, many, 1, plain_prompts=2, clock="wall")


def measured_bandwidth(device: str) -> float:
    """Bytes a second that a large copy reads and writes."""
    block = torch.empty(2**30 if device == "cuda" else 2**26, dtype=torch.uint8, device=device)
    target = torch.empty_like(block)
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    seconds = []
    for _ in range(10):
        wait()
        start = perf_counter()
        target.copy_(block)
        wait()
        seconds.append(perf_counter() - start)
    return 2 * block.numel() / median(seconds[2:])


def decode_step(pair: Pair, rows: int, length: int, bandwidth: float) -> Json:
    """A step of so many rows in the middle of an answer, against reading weights and rows once."""
    model, steps = pair.models[0], length // 8
    seconds = {}
    for tokens in (steps, 3 * steps, steps, 3 * steps):  # the first round warms up
        forget(*pair.engines)
        batch = pair.rows(pair.prompts(1), tokens, state=length // 2, rows=rows)
        start = perf_counter()
        pair.policy.generate(batch)
        seconds[tokens] = perf_counter() - start
    step = (seconds[3 * steps] - seconds[steps]) / (2 * steps)
    read = sum(w.numel() * w.element_size() for w in model.parameters())
    # An embedding is looked up, not read.
    read -= model.get_input_embeddings().weight.numel() * model.get_input_embeddings().weight.element_size()
    cached = rows * (PROMPT_TOKENS + length // 2 + 2 * steps) * pair.policy.engine._scheduler.forward.position_bytes
    floor = (read + cached) / bandwidth
    return {"rows": rows, "step": step, "bandwidth": bandwidth, "floor": floor, "step_over_floor": step / floor}


SECTIONS: dict[str, Callable[[Options], Iterator[Json]]] = {
    "pair": section_pair,
    "mutation": section_mutation,
    "large": section_large,
    "counts": section_counts,
    "embedded": section_embedded,
    "gpu": section_gpu,
}


# -- tables


def shape_table(rows: Sequence[Json]) -> str:
    """Seconds of one search with N=1, several prompts: all of them."""
    heads = [
        "L",
        "prompts",
        "engine",
        "plain",
        "plain/engine",
        "(wall)",
        "best-of-5",
        "darwin/best",
        "generate",
        "runs",
    ]
    cells = [
        [
            row["length"],
            row["prompts"],
            *(row[name][row["clock"]] for name in ("engine", "plain")),
            aimed(row["plain_over_engine"], row["target"], ">="),
            row["plain_over_engine_wall"],
            row["best_of_5"][row["clock"]],
            aimed(row["darwin_over_best_of_5"], row["best_of_5_target"], "<="),
            row["generate"][row["clock"]],
            row["repeats"],
        ]
        for row in rows
    ]
    clock = "CPU seconds, one thread" if rows[0]["clock"] == "cpu" else "Wall seconds"
    head = f"{clock}. Several prompts: together on the engine, one after another on the plain engine."
    return "\n".join([head, text_table(heads, cells), *map(shape_note, rows)])


def shape_note(row: Json) -> str:
    """How the plain engine's figure came about."""
    n, alone, same = row["prompts"], row["plain_prompts_run"], row["same_answers"]
    note = f"L={row['length']}, prompts={n}: plain decodes by {row['plain_loop']}"
    if alone < n:
        note += f"; it ran {alone} of the prompts, times {n / alone:g}"
    return note if same is None else f"{note}; {same} of {alone} answers are the same"


def gpu_table(rows: Sequence[Json]) -> str:
    """Decode steps, then searches."""
    shapes = [row for row in rows if "clock" in row]
    others = plain_table([row for row in rows if "clock" not in row])
    return f"{others}\n\n{shape_table(shapes)}" if shapes else others


def mutation_table(rows: Sequence[Json]) -> str:
    """CPU seconds of whole searches with mutation."""
    heads = ["L", "reply", "engine", "best-of-5", "darwin/best"]
    return text_table(
        heads,
        [
            [
                row["length"],
                row["reply_tokens"],
                row["engine"]["cpu"],
                row["best_of_5"]["cpu"],
                aimed(row["darwin_over_best_of_5"], row["target"], "<="),
            ]
            for row in rows
        ],
    )


def counts_table(rows: Sequence[Json]) -> str:
    """Positions fed, over all seeds."""
    heads = ["L", "mutated", "fed by", "engine", "plain", "bound", "engine/bound", "worst seed"]
    aims = {"prefill": 1.10, "reward": 1.05}
    return text_table(
        heads,
        [
            [
                row["length"],
                "yes" if row["mutated"] else "no",
                name,
                *(row[name][who] for who in ("engine", "plain", "bound")),
                f"{row[name]['over_bound']:.3f}",
                aimed(row[name]["worst"], aim, "<=", digits=3),
            ]
            for row in rows
            for name, aim in aims.items()
        ],
    )


def plain_table(rows: Sequence[Json]) -> str:
    """Whatever else was measured, a line each."""
    lines = []
    for row in rows:
        for name, value in row.items():
            shown = f"cpu {value['cpu']:.2f} wall {value['wall']:.2f}" if isinstance(value, dict) else shown_cell(value)
            lines.append(f"{name:28} {shown}")
        lines.append("")
    return "\n".join(lines).rstrip()


TABLES = {
    "pair": shape_table,
    "large": shape_table,
    "mutation": mutation_table,
    "counts": counts_table,
    "gpu": gpu_table,
}


def aimed(value: float, target: float | None, sign: str, digits: int = 2) -> str:
    """A figure beside its target."""
    shown = f"{value:.{digits}f}"
    if target is None:
        return shown
    met = value >= target if sign == ">=" else value <= target
    return f"{shown} ({sign}{target:.2f} {'met' if met else 'MISSED'})"


def shown_cell(value: Any) -> str:
    """A figure as text."""
    if isinstance(value, float):
        return f"{value:.2f}" if value >= 0.1 or value == 0 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def text_table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Columns of plain text."""
    cells = [list(heads), *([shown_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(heads))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in cells)


# -- the plot

LINES = {
    "plain": ("plain engine", "#b3402a", "o"),
    "engine": ("engine, N=1", "#1f5fa8", "s"),
    "best_of_5": ("best-of-5, same engine", "#4c9a6a", "^"),
    "generate": ("generate, decoding alone", "#8a8a8a", "D"),
}
"""The series of the drawing: name, colour and marker, distinct without colour as well."""


def plot(rows: Sequence[Json], path: Path) -> None:
    """Draw cost against length: one prompt on the left, several together on the right."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams.update({"svg.hashsalt": "darwin_align", "font.size": 10, "axes.spines.top": False})
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(9.5, 4.2), sharey=True, layout="constrained")
    for panel, several in zip(panels, (False, True), strict=True):
        chosen = sorted((row for row in rows if (row["prompts"] > 1) is several), key=lambda row: row["length"])
        draw_panel(panel, chosen, "Several prompts (8, at L=1024: 4)" if several else "One prompt")
    panels[0].set_ylabel("CPU seconds a prompt, one thread")
    figure.legend(*panels[0].get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=len(LINES))
    figure.savefig(path, metadata={"Date": None}, facecolor="white")
    plt.close(figure)


def draw_panel(panel: Any, rows: Sequence[Json], title: str) -> None:
    """Draw every contestant's seconds a prompt, and how many times cheaper the engine is than the plain one."""
    from matplotlib.ticker import FixedLocator, LogLocator, NullLocator, ScalarFormatter

    lengths = [row["length"] for row in rows]
    for name, (label, colour, marker) in LINES.items():
        seconds = [row[name]["cpu"] / row["prompts"] for row in rows]
        panel.plot(lengths, seconds, color=colour, marker=marker, markersize=5, linewidth=1.8, label=label)
    panel.set(xscale="log", yscale="log", title=title, xlabel="new tokens an answer, L")
    for row in rows:
        point = row["length"], row["plain"]["cpu"] / row["prompts"]
        panel.annotate(
            f"{row['plain_over_engine']:.1f}×", point, xytext=(0, 7), textcoords="offset points", ha="center"
        )
    panel.xaxis.set_major_locator(FixedLocator(lengths))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_major_formatter(ScalarFormatter())
    panel.margins(x=0.08, y=0.14)
    panel.grid(which="major", color="#e3e3e3", linewidth=0.7)
    panel.spines["right"].set_visible(False)


# -- the command


def machine() -> Json:
    """Where this was measured."""
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return {
        "machine": platform.machine(),
        "processor": names[0].partition(":")[2].strip() if names else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "dtype": "float32 (gpu: bfloat16)",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "darwin_align": __version__,
    }


@contextmanager
def section(name: str) -> Iterator[float]:
    """Print what begins, and how long it took."""
    print(f"== {name}", flush=True)
    start = perf_counter()
    yield start
    print(f"({perf_counter() - start:.0f} s)\n", flush=True)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--quick", action="store_true", help="tiny models, once: does it run?")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--repeats", type=int, help="at most so many alternations")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    options = Options(quick=chosen.quick, repeats=chosen.repeats)
    folder = Path(tempfile.gettempdir()) / "darwin_align_speed" if chosen.quick else RESULTS
    folder.mkdir(exist_ok=True)
    file = folder / "speed.json"
    # Sections that are not run keep their figures, and the machine that they were measured on.
    figures: Json = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    for name in chosen.sections:
        with section(name) as start:
            rows = []
            for row in SECTIONS[name](options):
                rows.append(row)
                print(f"   row {len(rows)} after {perf_counter() - start:.0f} s", flush=True)
            figures[name] = {"on": machine(), "rows": rows}
            print(TABLES.get(name, plain_table)(rows))
        file.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    if "pair" in figures:
        plot(figures["pair"]["rows"], folder / "speed.svg")
    print(f"written to {folder}")


if __name__ == "__main__":
    main()
