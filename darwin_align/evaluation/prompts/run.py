"""Every prompt answered by every method, and the answers judged by a scorer that no search has seen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from langchain_core.runnables import Runnable

from darwin_align.core import SearchResult
from darwin_align.core.errors import ConfigError, ContextLengthError
from darwin_align.core.figures import figures_of
from darwin_align.core.seeds import derive
from darwin_align.core.types import Request
from darwin_align.evaluation.comparison import compared
from darwin_align.evaluation.json_lines import numbered, read_text
from darwin_align.evaluation.ledger import Record
from darwin_align.evaluation.methods import Method
from darwin_align.evaluation.official import digest
from darwin_align.evaluation.pools.records import request_of
from darwin_align.evaluation.scoring import score_answers
from darwin_align.operators.coerce import ScorerLike, as_scorer
from darwin_align.operators.resources import released, resources_of

if TYPE_CHECKING:
    from darwin_align.search import DarwinSearch

__all__ = ["PlainPrompt", "SearchOf", "measure", "read_prompts"]

SearchOf = Callable[[Method], "DarwinSearch"]
"""Makes the search of a method. It is called once for each method that has an answer missing."""

_EXAMPLE = '{"prompt": "…"}'
_WARM_UP = "How do I brew green tea?"
_GOLD = "gold"


@dataclass(frozen=True)
class PlainPrompt:
    """A conversation to be answered."""

    request: Request

    @property
    def key(self) -> str:
        """A fingerprint of the conversation."""
        return digest(self.request.to_json())


def read_prompts(path: str | Path, *, seed: int = 0) -> tuple[PlainPrompt, ...]:
    """Read prompts from a JSONL file (``.gz`` or not) or a JSON list, in an order drawn by the seed.

    A line has ``prompt`` or ``instruction``, a text, or ``messages``; other fields are left alone. As the order is
    drawn, the first ones of a file that is sorted by topic are a fair sample of it.

    Raises:
        ConfigError: the file cannot be read, a line is no prompt, or one is there twice.
    """
    found: dict[str, PlainPrompt] = {}
    for place, row in numbered(read_text(path, "prompts"), str(path), what="prompts", example=_EXAMPLE):
        if not isinstance(row, Mapping):
            raise ConfigError(f"{place}: a prompt is an object such as {_EXAMPLE}, not {row!r:.60}")
        try:
            prompt = PlainPrompt(request_of(row))
        except ConfigError as error:
            raise ConfigError(f"{place}: {error}") from None
        if prompt.key in found:
            raise ConfigError(f"{place}: this prompt is there twice; take one out")
        found[prompt.key] = prompt
    return tuple(found[key] for key in sorted(found, key=lambda key: derive(seed, "prompts", key)))


def measure(
    methods: Sequence[Method],
    prompts: Sequence[PlainPrompt],
    search_of: SearchOf,
    gold: Callable[[], ScorerLike] | None,
    out: str | Path,
    *,
    settings: dict[str, Any],
    seeds: Iterable[int] = (0,),
    concurrency: int = 1,
    progress: bool = True,
) -> list[Record]:
    """Answer every prompt by every method under every seed; what ``out`` holds already is kept.

    Prompts come one after another, each under all methods: a run that is cut short has whole prompts.

    Args:
        methods: the methods.
        prompts: the prompts.
        search_of: makes the searches.
        gold: makes the scorer that judges the answers, outside the measured time; ``None`` for none.
        out: folder of ``searches.jsonl``.
        settings: what decides answers beside methods, prompts and seeds, e.g. which models these are.
        seeds: each search's seed is derived from one of them and the prompt.
        concurrency: searches at a time; seconds are recorded only where it is 1.
        progress: show progress on stderr.

    Returns:
        One record a search: method, seed, key, the answer, its reward and gold, and what it cost.

    Raises:
        ConfigError: the folder was begun under other settings, or two methods share a label.
    """
    answering = _Answering(search_of, timed=concurrency == 1)
    with ExitStack() as kept:

        def load_gold() -> None:
            if gold is not None:
                answering.gold = as_scorer(gold())
                kept.enter_context(released(resources_of([answering.gold]), _GOLD))

        return compared(
            methods,
            prompts,
            _key,
            answering,
            out,
            settings=settings,
            seeds=seeds,
            concurrency=concurrency,
            progress=progress,
            prepare=load_gold,
        )


def _key(method: Method, seed: int, prompt: PlainPrompt) -> str:
    return f"{method.text} {digest(method.config.identity)} seed={seed} {prompt.key}"


class _Answering:
    """Searches by method, each made and warmed up once, and the gold scorer."""

    gold: Runnable[Any, Any] | None = None

    def __init__(self, search_of: SearchOf, *, timed: bool) -> None:
        self._search_of, self._timed = search_of, timed
        self._made: dict[str, DarwinSearch] = {}

    async def _search(self, method: Method) -> DarwinSearch:
        if method.text not in self._made:
            search = self._made[method.text] = self._search_of(method)
            if self._timed:  # first calls load, probe and compile
                await search.ainvoke(_WARM_UP, seed=0, max_new_tokens=8, cycles=min(1, method.config.cycles))
        return self._made[method.text]

    async def __call__(self, method: Method, seed: int, prompt: PlainPrompt) -> Record:
        search = await self._search(method)
        request = prompt.request.model_copy(update={"sampling": method.sampling})
        clock = perf_counter()
        try:
            result = await search.ainvoke(request, seed=derive(seed, "prompts", prompt.key) % 2**31)
        except ContextLengthError as error:
            return {"output": "", "error": str(error)}
        seconds = {"seconds": perf_counter() - clock} if self._timed else {}
        return {"instruction": prompt.request.instruction, **_figures(result), **await self._judged(result), **seconds}

    async def _judged(self, result: SearchResult) -> dict[str, float]:
        if self.gold is None:
            return {}
        answers = [(beam.text, beam.finished) for beam in (result.best, result.first_response)]
        name = "the answers, by the gold scorer"
        rewards, _ = await score_answers(self.gold, result.request, answers, name=name, search_id=_GOLD)
        return {"gold": rewards[0], "first_gold": rewards[1]}


def _figures(result: SearchResult) -> dict[str, Any]:
    usage, explored = result.usage, result.exploration
    places = {} if explored is None or not explored.places else explored.model_dump(mode="json")
    return {
        "output": result.text,
        **figures_of(result, "reward", "first_reward", "stop_reason", "finish_reason"),
        "under": result.instruction,
        "words": len(result.text.split()),
        "decoded_tokens": usage.decoded_tokens,
        "prefilled_tokens": usage.prefilled_tokens,
        "reward_tokens": usage.reward_tokens,
        "reward_calls": usage.reward_calls,
        "exploration": places,
    }
