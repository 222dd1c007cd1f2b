"""One run on a GPU that tells what the engine does there: correct, how far from the bandwidth, against whom.

    python -m benchmarks.gpu_check [--dry-run] [--sections …] [--out FILE]

Every section runs in a process of its own and within its own seconds, eight minutes in all. Its figures are kept as
they come: an error or a section that ran out of time is noted beside them and costs no other section anything. Writes
one JSON, by default ``benchmarks/results/gpu_check.json``. ``--dry-run`` goes through the same lines on a CPU with tiny
models, except the tests, which it only collects, and the compiled step. It is not short of time, and writes into the
temporary folder.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from shutil import which
from statistics import median
from time import monotonic, perf_counter
from typing import Any

import torch
from transformers import LlamaForCausalLM

from benchmarks.plain import GeneratePolicy, PlainPolicy
from benchmarks.speed import (
    EIGHT_B,
    RESULTS,
    SMALL,
    TINY,
    Json,
    Pair,
    Shape,
    alternate,
    build,
    forget,
    machine,
    make_tokenizer,
    measured_bandwidth,
    silence,
    together,
    words,
)
from darwin_align import DarwinSearch
from darwin_align.backends.local import LocalPolicy
from darwin_align.core.seeds import derive
from darwin_align.core.types import Request, Response, Sampling
from darwin_align.operators.policy import Row

ONE_B = Shape(2048, 16, 8192, 32, 8, vocabulary=128256)
SECONDS = 460
"""All sections together."""


@dataclass(frozen=True)
class Check:
    """Where and how large: the shapes asked for on a GPU, tiny ones in a dry run."""

    dry: bool

    @property
    def device(self) -> str:
        """The device of every model."""
        return "cpu" if self.dry else "cuda"

    @property
    def dtype(self) -> torch.dtype:
        """The type of models whose speed counts."""
        return torch.float32 if self.dry else torch.bfloat16

    def shape(self, shape: Shape) -> Shape:
        """That shape, or a tiny one."""
        return TINY if self.dry else shape

    def of(self, real: Any, dry: Any) -> Any:
        """A size."""
        return dry if self.dry else real

    def policy(self, shape: Shape, *, compiled: bool = False) -> LocalPolicy:
        """A random policy with room for long rows. A dry run compiles nothing: that takes minutes on a CPU."""
        tokenizer = make_tokenizer()
        config = self.shape(shape).config(tokenizer)
        config.max_position_embeddings = 16384
        model = build(LlamaForCausalLM, config, self.device, self.dtype, seed=1)
        silence(model, tokenizer)
        memory = None if self.dry else int(0.7 * torch.cuda.mem_get_info()[0])
        return LocalPolicy(model, tokenizer, row_memory=memory, compile=compiled and not self.dry)

    def pair(self, shape: Shape, dtype: torch.dtype | None = None) -> Pair:
        """A random policy and reward model."""
        return Pair(self.shape(shape), self.device, dtype or self.dtype)


# -- sections: each yields its figures, the most wanted first


def section_device(check: Check) -> Iterator[Json]:
    """What this is."""
    row = machine()
    if not check.dry:
        free, total = torch.cuda.mem_get_info()
        row |= {"cuda": torch.version.cuda, "driver": driver(), "free_gib": free / 2**30, "gib": total / 2**30}
    yield row | {"dtype": str(check.dtype), "bandwidth": measured_bandwidth(check.device)}


def driver() -> str | None:
    """The version of NVIDIA's driver, where its own tool tells it."""
    if (tool := which("nvidia-smi")) is None:
        return None
    asked = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split("\n")[0]  # noqa: S603


def section_tests(check: Check) -> Iterator[Json]:
    """The tests that need CUDA, one row each."""
    where = str(Path(__file__).parents[1] / "tests/backends/local/engine")
    command = [sys.executable, "-m", "pytest", "-v", "-m", "gpu", "--tb=short", "-p", "no:cacheprovider", where]
    command += ["--collect-only"] if check.dry else []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as tests:  # noqa: S603
        assert tests.stdout is not None  # noqa: S101 - for the type checker
        lines: list[str] = []
        for line in map(str.rstrip, tests.stdout):
            lines.append(line)
            if found := re.search(r"(\S+) (PASSED|FAILED|ERROR|SKIPPED)", line):
                yield {"test": found[1], "outcome": found[2].lower()}
    yield {"exit_code": tests.returncode, "summary": lines[-1]}
    if tests.returncode:
        raise RuntimeError("\n".join(lines[-60:]))


def section_equality(check: Check) -> Iterator[Json]:
    """Greedy tokens of the engine, of the compiled engine, of a full recomputation and of ``generate``; a search's."""
    tokens = check.of(128, 8)
    for dtype in (torch.float64, check.dtype):
        pair = check.pair(SMALL, dtype)
        prompts = pair.prompts(4)
        greedy = [Row(Request.of(p, sampling=Sampling(temperature=0)), tokens, seed=0) for p in prompts]
        policies: dict[str, Any] = {"recompute": PlainPolicy(pair.policy), "generate": GeneratePolicy(pair.policy)}
        if not check.dry:
            policies["compiled"] = LocalPolicy(pair.models[0], pair.policy._loaded.tokenizer, compile=True)
        row: Json = {"dtype": str(dtype), "rows": len(prompts), "tokens": tokens}
        for name, policy in policies.items():
            found, expected = policy.generate(greedy), pair.policy.generate(greedy)
            row[f"same_as_{name}"] = sum(a.tokens == b.tokens for a, b in zip(found, expected, strict=True))
        one, other = pair.search(), pair.plain(PlainPolicy(pair.policy))
        texts = [search.invoke(prompts[0], seed=1, max_new_tokens=tokens).text for search in (one, other)]
        yield row | {"same_search": texts[0] == texts[1]}


def decode_steps(check: Check, shape: Shape, cases: Sequence[tuple[int, int]], *, compiled: bool) -> Iterator[Json]:
    """Decode steps at (rows, context): rows share the context's tokens, which are read once and copied."""
    bandwidth = measured_bandwidth(check.device)
    policy = check.policy(shape, compiled=compiled)
    model, steps = policy._loaded.model, check.of(16, 2)
    embeddings = model.get_input_embeddings().weight  # looked up, not read
    weights = sum(w.numel() * w.element_size() for w in model.parameters()) - embeddings.nbytes
    for count, wanted in check.of(cases, cases[:2]):
        context = check.of(wanted, wanted // 16)
        draw, request = Random(context), Request.of("Hi")
        # Up to 3 × steps tokens are decoded below the width of the context.
        state = [draw.randrange(300, 4000) for _ in range(context - 4 * steps - policy.prompt_length(request))]
        seconds: dict[int, float] = {}
        for tokens in (steps, 3 * steps) * check.of(2, 1):  # the first round warms up
            rows = [Row(request, tokens, seed=derive(0, i), tokens=tuple(state)) for i in range(count)]
            forward = policy.engine._scheduler.forward  # type: ignore[union-attr]
            start, before = perf_counter(), forward.passes
            policy.generate(rows)
            seconds[tokens], passes = perf_counter() - start, forward.passes - before
        step = (seconds[3 * steps] - seconds[steps]) / (2 * steps)
        floor = (weights + count * context * forward.position_bytes) / bandwidth
        yield {
            "rows": count,
            "context": context,
            "compiled": forward.compiled,
            "step": step,
            "floor": floor,
            "step_over_floor": step / floor,
            "passes": passes,  # many more than 48: the rows did not fit side by side
            "bandwidth": bandwidth,
        }


CASES = [(6, 1024), (16, 1024), (64, 1024), (6, 8192), (16, 8192), (64, 8192), (6, 4096), (16, 4096), (64, 4096)]


def section_decode_8b(check: Check) -> Iterator[Json]:
    """Eager steps of an 8B shape."""
    yield from decode_steps(check, EIGHT_B, CASES, compiled=False)


def section_decode_1b(check: Check) -> Iterator[Json]:
    """Eager steps of a 1B shape."""
    yield from decode_steps(check, ONE_B, CASES, compiled=False)


def section_compiled_8b(check: Check) -> Iterator[Json]:
    """Steps of an 8B shape as CUDA graphs."""
    yield from decode_steps(check, EIGHT_B, CASES, compiled=True)


def section_compiled_1b(check: Check) -> Iterator[Json]:
    """Steps of a 1B shape as CUDA graphs."""
    yield from decode_steps(check, ONE_B, CASES, compiled=True)


def section_reading(check: Check) -> Iterator[Json]:
    """Tokens a second that a reward model reads, of 16 answers that share their prompt alone."""
    for name, shape in check.of((("1B", ONE_B), ("8B", EIGHT_B)), (("tiny", TINY),)):
        pair = check.pair(shape)
        request = Request.of(pair.prompts(1)[0])
        answers = [Response(text=" ".join(words(check.of(400, 20), seed=i))) for i in range(16)]
        rates = []
        for _ in range(3):
            forget(*pair.engines)
            before, start = pair.fed[1], perf_counter()
            pair.scorer.reward_model.score(request, answers)
            seconds = perf_counter() - start
            rates.append((pair.fed[1] - before) / seconds)
        yield {"shape": name, "tokens": pair.fed[1] - before, "tokens_a_second": median(rates[1:])}
        del pair


def section_search(check: Check) -> Iterator[Json]:
    """Wall seconds of one search with N=1 and of best of 5, 1B + 1B, one prompt and 16 together."""
    pair, length = check.pair(ONE_B), check.of(256, 16)
    for n in (1, check.of(16, 2)):
        prompts, searches = pair.prompts(n), {"darwin": pair.search(), "best_of_5": pair.best_of_5()}
        runs = {name: partial(_searched, search, prompts, length) for name, search in searches.items()}
        timings = alternate(runs, check.of(2, 1), pair.engines)
        seconds = {name: min(timing.wall) for name, timing in timings.items()}
        ratio = seconds["darwin"] / seconds["best_of_5"]
        yield {"prompts": n, "length": length, **seconds, "darwin_over_best_of_5": ratio}


def _searched(search: DarwinSearch, prompts: Sequence[str], length: int, seed: int) -> list[Any]:
    return together(search, prompts, seed=seed, max_new_tokens=length)


def section_generate(check: Check) -> Iterator[Json]:
    """Tokens a second of the engine, eager, against transformers' ``generate``, with a 1B shape and short prompts."""
    pair, tokens = check.pair(ONE_B), check.of(128, 8)
    prompts = pair.prompts(1)
    for count in check.of((6, 16, 64), (6,)):
        rows = pair.rows(prompts, tokens, rows=count)
        policies = {"engine": pair.policy, "generate": GeneratePolicy(pair.policy)}
        runs = {name: (lambda _, p=policy, r=rows: p.generate(r)) for name, policy in policies.items()}
        timings = alternate(runs, 2, pair.engines)
        rates = {name: count * tokens / min(timing.wall) for name, timing in timings.items()}
        yield {"rows": count, "tokens": tokens, **rates, "engine_over_generate": rates["engine"] / rates["generate"]}


def section_vllm(check: Check) -> Iterator[Json]:
    """Tokens a second of vLLM on the same shape and prompts as of :func:`section_generate`, where it is installed."""
    if find_spec("vllm") is None:
        yield {"note": "vLLM is not at hand"}
        return
    from vllm import LLM, SamplingParams, TokensPrompt

    policy, tokens = check.policy(ONE_B), check.of(128, 8)
    ids = policy.template.prompt_ids(Request.of(" ".join(words(40, seed=100))))
    with tempfile.TemporaryDirectory() as folder:
        policy._loaded.model.save_pretrained(folder)
        policy._loaded.tokenizer.save_pretrained(folder)
        del policy
        if not check.dry:
            torch.cuda.empty_cache()
        llm = LLM(folder, dtype="auto", max_model_len=1024, gpu_memory_utilization=check.of(0.5, 0.05))
        for count in check.of((6, 16, 64), (6,)):
            sampling = SamplingParams(temperature=0.7, top_k=40, max_tokens=tokens, ignore_eos=True)
            prompts = [TokensPrompt(prompt_token_ids=list(ids)) for _ in range(count)]
            seconds = []
            for _ in range(3):
                start = perf_counter()
                llm.generate(prompts, sampling, use_tqdm=False)
                seconds.append(perf_counter() - start)
            yield {"rows": count, "tokens": tokens, "vllm": count * tokens / min(seconds)}


Section = Callable[[Check], Iterator[Json]]
SECTIONS: dict[str, tuple[Section, float]] = {
    "device": (section_device, 25),
    "equality": (section_equality, 60),
    "decode_8b": (section_decode_8b, 60),
    "decode_1b": (section_decode_1b, 40),
    "compiled_8b": (section_compiled_8b, 60),
    "compiled_1b": (section_compiled_1b, 40),
    "reading": (section_reading, 30),
    "search": (section_search, 30),
    "generate": (section_generate, 25),
    "vllm": (section_vllm, 60),
    "tests": (section_tests, 90),
}
"""What is measured, and the seconds for it. The tests come last: they take what is left."""


# -- one section in a process of its own


def run_section(section: Section, check: Check, seconds: float) -> Json:
    """Run a section apart, and keep what it yields before it ends, fails or its time is up.

    A process that met a CUDA error is lost for CUDA, and its memory is only free when it ends.
    """
    context = multiprocessing.get_context("fork")  # the imports are done; nothing here has touched CUDA
    receiver, sender = context.Pipe(duplex=False)
    start, rows, error = monotonic(), [], None
    child = context.Process(target=_child, args=(section, check, sender))
    child.start()
    with suppress(OSError):
        os.setpgid(child.pid or 0, 0)  # whichever of the two comes first
    sender.close()
    try:
        while receiver.poll(max(0.0, start + seconds - monotonic())):
            kind, value = receiver.recv()
            if kind == "error":
                error = value
            else:
                rows.append(value)
                print(f"   {json.dumps(value)[:300]}", flush=True)
        error = error or f"not done after its {seconds:.0f} s"
    except EOFError:  # it ended
        child.join(10)
        if child.exitcode and error is None:
            error = f"its process ended with exit code {child.exitcode}"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child.pid or 0, signal.SIGKILL)  # with what it started
        child.join()
    return {"seconds": monotonic() - start, "budget": seconds, "rows": rows, "error": error}


def _child(section: Section, check: Check, sender: Connection) -> None:
    os.setpgid(0, 0)
    if check.dry:
        torch.set_num_threads(1)
    try:
        for row in section(check):
            sender.send(("row", row))
    except BaseException:  # noqa: BLE001 - it is a figure of the report
        sender.send(("error", traceback.format_exc()[-4000:]))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the sections, print and write their figures; 1 if any of them failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dry-run", action="store_true", help="tiny models on the CPU: does it run?")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--out", type=Path, help="the JSON file")
    chosen = parser.parse_args(arguments)
    default = Path(tempfile.gettempdir()) / "gpu_check.json" if chosen.dry_run else RESULTS / "gpu_check.json"
    file: Path = (chosen.out or default).resolve()
    if chosen.dry_run and file.is_relative_to(RESULTS.resolve()):
        parser.error("a dry run measures nothing: give an --out outside of benchmarks/results")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    make_tokenizer()  # once, for all processes
    check, end = Check(chosen.dry_run), monotonic() + SECONDS
    report: Json = {"dry_run": chosen.dry_run, "sections": {}}
    for name in dict.fromkeys(("device", *chosen.sections)):
        section, seconds = SECTIONS[name]
        print(f"== {name}", flush=True)
        found = report["sections"][name] = run_section(
            section, check, check.of(min(seconds, end - monotonic()), 10 * seconds)
        )
        print(f"   {(found['error'] or 'done')[-1500:]} ({found['seconds']:.0f} s)", flush=True)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        if name == "device" and found["error"]:
            print("no CUDA device that works with this torch: rehearse with --dry-run", file=sys.stderr)
            return 1
    print(f"written to {file}")
    return int(any(found["error"] for found in report["sections"].values()))


if __name__ == "__main__":
    sys.exit(main())
