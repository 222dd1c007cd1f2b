"""Record the library's answers to some 40 requests, and compare them bit for bit after a refactoring.

``python -m benchmarks.behaviour record before.json`` records text, rewards, ranking and events of every request;
``python -m benchmarks.behaviour compare before.json`` repeats them and prints the differences. Times and the tokens
that were read are left out, for a cache spares some, and names that were changed on purpose are translated
(``RENAMED``). A record is valid on the machine it was made on: another kind of processor adds in another order.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from math import isclose
from pathlib import Path
from typing import Any, Literal

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pydantic import BaseModel

from benchmarks.servers.gguf_file import write_gguf
from benchmarks.servers.launch import llama_server
from darwin_align import Budget, DarwinChatModel, DarwinSearch, SearchResult
from darwin_align.backends.endpoint import EndpointPolicy
from darwin_align.core.presets import PRESETS
from darwin_align.pocket import policy_path
from darwin_align.pocket.pair import pocket_clauses, pocket_search

RENAMED = {"held": "in_tool_call", "ending": "pending_finish_reason"}
"""Fields of results and events whose names were changed: recorded name to today's."""
SIDE_BY_SIDE = ("batch", "abatch", "endpoint")
"""Requests whose rows meet others by chance: the last digits of their numbers depend on it, and nothing else."""
LEFT_OUT = {"prefilled_tokens", "seconds", "search", "id", "run_id", "created"}
_PLACE = re.compile(r"http://127.0.0.1:\d+|/\S+/policy\.gguf")
TEA = "How do I brew green tea?"
QUESTIONS = (TEA, "How do I repot a fern?", "How do I clean a window?", "How do I bake bread?")
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tells the weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city", "days"],
        },
    },
}
TIMER = {
    "type": "function",
    "function": {
        "name": "set_timer",
        "description": "Sets a timer.",
        "parameters": {
            "type": "object",
            "properties": {"minutes": {"type": "integer"}},
            "required": ["minutes"],
        },
    },
}
CITY = "What is the weather in Lisbon for the next 3 days?"


class Recipe(BaseModel):
    """A recipe."""

    title: str
    minutes: int
    level: Literal["easy", "hard"]


SCHEMA = {"type": "json_schema", "json_schema": {"name": "Recipe", "schema": Recipe.model_json_schema()}}
Case = Callable[[], Any]


def cases(folder: Path) -> Iterator[tuple[str, Case]]:
    """Every request by its name; those over the wire come last, while their server runs."""
    search = pocket_search()
    yield from _presets(search)
    yield from _requests(search)
    yield from _runs(search)
    yield from _chat_models()
    with llama_server(write_gguf(policy_path(), folder / "policy.gguf"), slots=1) as server:
        yield from _endpoints(search, EndpointPolicy(server.url, tokenizer=policy_path()))


def _presets(search: DarwinSearch) -> Iterator[tuple[str, Case]]:
    for name in PRESETS:
        changes = {"clauses": pocket_clauses()} if name == "learned_clauses" else {}
        config = {**PRESETS[name], **changes}
        yield f"preset {name}", lambda config=config: search.invoke(TEA, seed=1, **config)
    yield "tournament", lambda: search.invoke(TEA, seed=1, selector="tournament")
    yield "two beams a mutation", lambda: search.invoke(TEA, seed=1, cycles=1, mutations=3, beams_per_mutation=2)
    yield "look-ahead", lambda: search.invoke(TEA, seed=1, cycles=1, lookahead=5)


def _requests(search: DarwinSearch) -> Iterator[tuple[str, Case]]:
    short = {"cycles": 1, "seed": 2}
    tools = [WEATHER, TIMER]
    for choice in ("auto", "any", "get_weather", "none"):
        yield f"tools {choice}", lambda choice=choice: search.invoke(CITY, tools=tools, tool_choice=choice, **short)
    yield (
        "one call",
        lambda: search.invoke(CITY, tools=tools, tool_choice="any", parallel_tool_calls=False, **short),
    )
    yield "grounded call", lambda: search.invoke(CITY, tools=tools, tool_choice="any", grounded=True, **short)
    yield "schema", lambda: search.invoke("A recipe for tea.", response_format=SCHEMA, **short)
    yield "grounded schema", lambda: search.invoke("Tea, 5 minutes.", response_format=SCHEMA, grounded=True, **short)
    yield "any JSON", lambda: search.invoke("A recipe.", response_format={"type": "json_object"}, **short)
    yield "stop", lambda: search.invoke(TEA, stop=["water", "2."], **short)
    for seed in (3, 4):
        yield f"greedy, seed {seed}", lambda seed=seed: search.invoke(QUESTIONS[1], temperature=0.0, seed=seed)
    turns = [("system", "Answer in one line."), ("user", TEA), ("assistant", "Which tea?"), ("user", "Green tea.")]
    yield "four turns", lambda: search.invoke(turns, **short)


def _runs(search: DarwinSearch) -> Iterator[tuple[str, Case]]:
    for tokens in (60, 400):
        yield (
            f"budget of {tokens} tokens",
            lambda tokens=tokens: search.invoke(TEA, seed=5, budget=Budget(tokens=tokens)),
        )
    yield "batch", lambda: search.batch(list(QUESTIONS), seed=6, cycles=1)
    yield "abatch", lambda: asyncio.run(search.abatch(list(QUESTIONS), seed=6, cycles=1))
    yield "target", lambda: search.invoke(TEA, seed=7, target_reward=9.0)
    yield "patience", lambda: search.invoke(TEA, seed=7, patience=1)

    def replayed(events: slice) -> SearchResult:
        recorded = search.invoke(QUESTIONS[2], seed=8, cycles=1).events
        return search.invoke(QUESTIONS[2], seed=8, cycles=1, replay=recorded[events])

    yield "replay", lambda: replayed(slice(None))
    yield "resumed", lambda: replayed(slice(4))


def _chat_models() -> Iterator[tuple[str, Case]]:
    model = DarwinChatModel(cycles=1, seed=9)
    yield "chat invoke", lambda: model.invoke(TEA)
    yield "chat stream", lambda: list(model.stream(TEA))
    yield "chat tools", lambda: model.bind_tools([WEATHER, TIMER], tool_choice="any").invoke(CITY)
    for method in ("json_schema", "function_calling", "json_mode"):
        structured = model.with_structured_output(Recipe, method=method, include_raw=True)
        yield f"chat {method}", lambda structured=structured: structured.invoke("A recipe for tea.")


def _endpoints(pocket: DarwinSearch, policy: EndpointPolicy) -> Iterator[tuple[str, Case]]:
    parts = {name: getattr(pocket, name) for name in ("scorer", "mutation_prompt", "guard", "config")}
    search = DarwinSearch(policy=policy, **parts)
    yield "endpoint darwin", lambda: search.invoke(TEA, seed=10, cycles=1)
    yield "endpoint best of n", lambda: search.invoke(TEA, seed=10, **PRESETS["best_of_n"])
    yield (
        "endpoint call",
        lambda: search.invoke(
            CITY, tools=[WEATHER], tool_choice="any", grounded=True, cycles=0, seed=10, temperature=0.0
        ),
    )


# -- what is kept


def plain(value: Any) -> Any:
    """An answer as JSON, without what differs between two runs."""
    if isinstance(value, SearchResult):
        return _cleaned(json.loads(value.to_json()))
    if isinstance(value, BaseModel):  # LangChain's messages are such models
        return _cleaned(value.model_dump(mode="json"))
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    return repr(value) if isinstance(value, Exception) else value


def _cleaned(value: Any) -> Any:
    if isinstance(value, dict):
        kept = (name for name in value if name not in LEFT_OUT)
        return {RENAMED.get(name, name): _cleaned(value[name]) for name in kept}
    if isinstance(value, list):
        return [_cleaned(one) for one in value]
    return _PLACE.sub("…", value) if isinstance(value, str) else value


def _answered(case: Case) -> Any:
    try:
        return plain(case())
    except Exception as error:  # noqa: BLE001 - a refusal is an answer as well
        return {"raised": type(error).__name__, "message": str(error)}


def differences(before: Any, after: Any, path: str = "") -> Iterator[str]:
    """Where two records differ, one line each; the first part of the path names the request."""
    if isinstance(before, dict) and isinstance(after, dict):
        for name in sorted({*before, *after}):
            inner = f"{path}.{name}" if path else name
            yield from differences(before.get(name, "(absent)"), after.get(name, "(absent)"), inner)
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from differences(one, other, f"{path}[{index}]")
    elif isinstance(before, float) and isinstance(after, float) and path.startswith(SIDE_BY_SIDE):
        if not isclose(before, after, rel_tol=1e-4, abs_tol=1e-4):
            yield f"{path}: {before} is now {after}"
    elif before != after:
        yield f"{path}: {before!r:.160} is now {after!r:.160}"


def main() -> int:
    """Record, or compare and print the differences: the exit code is 1 if there are any."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("mode", choices=("record", "compare"))
    parser.add_argument("file", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        answers = {name: _answered(case) for name, case in cases(Path(folder))}
    if arguments.mode == "record":
        arguments.file.write_text(json.dumps(answers, ensure_ascii=False, indent=1), encoding="utf-8")
        raised = [f"{name} raised {one['message']:.200}" for name, one in answers.items() if "raised" in one]
        print("\n".join([f"{len(answers)} requests recorded", *raised]))
        return 0
    before = _cleaned(json.loads(arguments.file.read_text(encoding="utf-8")))
    found = list(differences(before, json.loads(json.dumps(answers))))
    print("\n".join([*found[:50], f"{len(answers)} requests, {len(found)} differences"]))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
