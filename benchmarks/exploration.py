"""How well a policy explores: places that hold a rewording, and what the rewordings cost.

    python -m benchmarks.exploration PROMPTS.jsonl.gz --policy MODEL.gguf [--prompts 40] [--cycles 2]

Searches each prompt once with ``mutator="auto"`` and once with ``mutator="policy"`` (the paper's), or with the one that
``--mutators`` names, prints a table and keeps it in ``benchmarks/results/exploration.json``. A place counts if its
instruction is neither the prompt nor one of an earlier place of the same search, and if it passes the library's own
guards (it keeps the topic, and it is no answer). Wasted tokens are those of the policy's rewordings that were missing
or refused, for each token decoded for answers: answers are cut at ``--max-new-tokens``, and with longer ones the share
falls. The one attempt by which "auto" finds out whether the policy can reword is counted apart.

Prompts: one JSON object a line with ``instruction`` or ``prompt``, drawn by a fixed seed.
"""

from __future__ import annotations

import argparse
import gzip
import json
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from time import perf_counter
from typing import Any

from benchmarks.held_out import RESULTS
from darwin_align import DarwinSearch, Exploration, LexicalIntent, LlamaCppPolicy, Request, SearchConfig, SearchResult
from darwin_align.backends.scripted import ScriptedScorer
from darwin_align.operators.checks.intent import words_it_as_request

MUTATORS = ("auto", "policy")
SEED = 1
GUARDS = (LexicalIntent(), words_it_as_request)

Json = dict[str, Any]


def read_prompts(file: Path, number: int) -> list[str]:
    """Draw prompts from a file by a fixed seed."""
    data = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    records = [json.loads(line) for line in data.decode().splitlines() if line.strip()]
    prompts = [record.get("instruction") or record["prompt"] for record in records]
    return Random(SEED).sample(prompts, min(number, len(prompts)))


def explored(result: SearchResult) -> int:
    """Places of a search that hold a distinct instruction on the topic."""
    seen = {_plain(result.request.instruction)}
    found = 0
    for instruction in _instructions(result):
        new = _plain(instruction) not in seen
        seen.add(_plain(instruction))
        found += new and not any(guard(Request.of(result.request.instruction), instruction) for guard in GUARDS)
    return found


def _instructions(result: SearchResult) -> Iterator[str]:
    """Of all places, in order; the parent where an event names no change."""
    by_cycle = {event.cycle: event.delta.beams for event in result.events if event.operator == "mutate"}
    for changed in by_cycle.values():
        for i in range(result.config.mutations):
            fields = changed.get(i, {})
            yield str(fields.get("instruction", result.request.instruction))


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def measured(search: DarwinSearch, prompts: Sequence[str], mutator: str) -> Json:
    """Search all prompts by one mutator."""
    start, places, found, figures, reworded = perf_counter(), 0, 0, Exploration(), 0
    for number, prompt in enumerate(prompts, start=1):
        result = search.invoke(prompt, mutator=mutator, seed=SEED)
        assert result.exploration  # noqa: S101 - it was searched just now
        figures += result.exploration
        places += result.exploration.places
        found += explored(result)
        reworded += result.exploration.accepted - result.exploration.filled_by_aspects
        print(f"\r{mutator}: {number} of {len(prompts)}", end="", flush=True)
    print()
    return {
        "searches": len(prompts),
        "places": places,
        "distinct_on_topic": found,
        "share": found / places,
        "reworded_by_policy": reworded,
        "filled_by_aspects": figures.filled_by_aspects,
        "filled_by_parent": figures.filled_by_parent,
        "refused": dict(sorted(figures.refused.items())),
        "rewording_tokens": figures.tokens,
        "wasted_tokens": figures.wasted_tokens,
        "answer_tokens": figures.answer_tokens,
        "wasted_share": figures.wasted_share,
        "probe_tokens": figures.probe_tokens,
        "seconds": perf_counter() - start,
    }


def _mutators_measured_so(file: Path, settings: Json) -> Json:
    """What the file holds of other mutators, if it was measured with the same settings."""
    kept: Json = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    mutators: Json = kept.pop("mutators", {})
    return mutators if kept == settings else {}


def show(report: Json) -> None:
    """Print the table."""
    print(
        f"{'':8}{'places':>8}{'explored':>10}{'share':>8}{'wasted':>9}{'answers':>9}{'wasted/answer':>15}{'probe':>7}"
    )
    for name, row in report["mutators"].items():
        print(
            f"{name:8}{row['places']:>8}{row['distinct_on_topic']:>10}{row['share']:>8.2f}{row['wasted_tokens']:>9,}"
            f"{row['answer_tokens']:>9,}{row['wasted_share']:>15.2f}{row['probe_tokens']:>7}"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table and write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("file", type=Path, metavar="PROMPTS")
    parser.add_argument("--policy", type=Path, required=True, metavar="FILE.gguf")
    parser.add_argument("--prompts", type=int, default=40)
    parser.add_argument("--cycles", type=int, default=2)
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--mutators", nargs="+", choices=MUTATORS, default=MUTATORS)
    parser.add_argument("--out", type=Path, default=RESULTS / "exploration.json")
    chosen = parser.parse_args(arguments)
    settings = SearchConfig.preset("darwin", cycles=chosen.cycles, max_new_tokens=chosen.max_new_tokens)
    search = DarwinSearch(
        policy=LlamaCppPolicy(chosen.policy, slots=8, context=2048, threads=chosen.threads),
        scorer=ScriptedScorer(reward=lambda text: float(len(set(text.split())))),
        config=settings,
    )
    prompts = read_prompts(chosen.file, chosen.prompts)
    report: Json = {
        "prompts": chosen.file.name,
        "policy": chosen.policy.name,
        "machine": f"{platform.machine()}, {chosen.threads} threads",
        "seed": SEED,
        "cycles": chosen.cycles,
        "mutations": settings.mutations,
        "max_new_tokens": chosen.max_new_tokens,
    }
    report["mutators"] = _mutators_measured_so(chosen.out, report)
    for mutator in chosen.mutators:
        report["mutators"][mutator] = measured(search, prompts, mutator)
        chosen.out.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    show(report)


if __name__ == "__main__":
    main()
