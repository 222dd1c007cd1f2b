"""What the tests of core, operators and search share: parts as a user would write them, and random searches."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from math import log
from typing import Any

from hypothesis import strategies as st

from darwin_align import Clause, DarwinSearch, Population, Request, SearchConfig, SearchResult
from darwin_align.backends.scripted import ScriptedScorer
from darwin_align.core import PRESETS, Event, Question, darwin
from darwin_align.core.seeds import below, derive, uniform
from darwin_align.operators import Continuation, Row

ASKED = "How do I brew green tea?"
WORDS = ("well", "simply", "slowly", "safely", "cheaply", "neatly", "gently", "quickly")
REQUEST = Request.of(ASKED)
CLAUSES = (
    Clause(text="Leave nothing out.", worth=0.4),
    Clause(text="Be kind.", worth=0.3),
    Clause(text="Why does it work?", worth=0.1),
    Clause(text="Add a tip!", worth=0.05),
    Clause(text="Be brief.", worth=-0.2),
)
"""One was not learned: it lowers rewards."""


@dataclass
class Babbler:
    """A policy over eight letters. What it writes at a place depends on the row's seed, instruction and the place.

    With a rank, it returns the letter of that rank after the last one; the seed does not matter then.
    """

    ranks_tokens = True

    ends: float = 0.1
    """Chance that an answer ends at a place: 1 leaves every answer empty, 0 ends none."""

    def generate(self, rows: Sequence[Row]) -> list[Continuation]:
        return [self._continue(row) for row in rows]

    def _continue(self, row: Row) -> Continuation:
        tokens, logprob = list(row.tokens), None
        if row.rank is not None:
            shares = self.shares(row)
            likely = sorted(range(9), key=lambda token: -shares[token])
            tokens.append(likely[min(row.rank, 8)])
            logprob = log(shares[tokens[-1]])
        while row.rank is None and len(tokens) < len(row.tokens) + row.max_tokens and tokens[-1:] != [0]:
            place = (len(tokens), row.request.instruction)
            ended = uniform(row.seed, "end", *place) < self.ends
            tokens.append(0 if ended else 1 + below(8, row.seed, *place))
        return Continuation(
            text="".join(chr(96 + token) for token in tokens if token),
            tokens=tuple(tokens),
            new_tokens=len(tokens) - len(row.tokens),
            finish_reason="stop" if tokens[-1:] == [0] else None,
            logprob=logprob,
            prefilled_tokens=len(row.request.instruction) + len(row.tokens),
        )

    def shares(self, row: Row) -> list[float]:
        """Probability of every token; token 0 is the end."""
        place = (len(row.tokens), *row.tokens[-1:], row.request.instruction)
        odds = [0.01 + self.ends, *(0.05 + uniform(0, "odds", letter, *place) for letter in range(8))]
        return [share / sum(odds) for share in odds]


@dataclass(frozen=True)
class Letters:
    """Rewards the sum of an answer's letters modulo so many levels: few levels make many equal rewards."""

    levels: int = 5

    def __call__(self, text: str) -> float:
        return float(sum(map(ord, text)) % self.levels)


def reword(request: Request, instruction: str, n: int, seed: int) -> list[str]:
    """Few different rewordings, so that some come twice."""
    return [f"{request.instruction} Version {below(4, seed, i)}." for i in range(n)]


def search_of(ends: float = 0.1, levels: int = 5, **parts: Any) -> DarwinSearch:
    scorer = ScriptedScorer(reward=Letters(levels))
    return DarwinSearch(**{"policy": Babbler(ends), "scorer": scorer, "mutator": reword, "guard": None, **parts})


def preset_of(name: str, **changes: Any) -> SearchConfig:
    """A preset, with clauses if it adds some."""
    needed = {"clauses": CLAUSES} if PRESETS[name].get("mutator") == "clauses" else {}
    return SearchConfig.preset(name, **{**needed, **changes})


def mutator_of(config: SearchConfig) -> Any:
    """A mutator instead of the policy, which would have to be called for rewordings."""
    return reword if config.mutator in ("auto", "policy") else None


def timeless(result: SearchResult) -> str:
    """All that may be compared bit for bit: everything but seconds."""
    usage = result.usage.model_copy(update={"seconds": 0.0})
    events = tuple(event.model_copy(update={"seconds": 0.0}) for event in result.events)
    return result.model_copy(update={"usage": usage, "events": events}).to_json()


@dataclass
class Trace:
    """A search step by step: every question and the population that its answer led to."""

    config: SearchConfig
    result: SearchResult
    steps: list[tuple[Question, Population]]

    def of(self, operator: str) -> Iterator[tuple[Population, Population]]:
        return ((q.population, after) for q, after in self.steps if q.operator == operator)

    @property
    def cycles(self) -> list[list[tuple[Question, Population]]]:
        cycles: dict[int, list[tuple[Question, Population]]] = {}
        for question, after in self.steps:
            cycles.setdefault(question.population.step.cycle, []).append((question, after))
        return list(cycles.values())


def trace(
    search: DarwinSearch,
    config: SearchConfig,
    seconds: float = 0.0,
    request: Request = REQUEST,
    fails_at: int | None = None,
) -> Trace:
    """Drive the generator by hand; every answer takes so many seconds, and the question of that number fails."""
    operators, steps, algorithm = search.operators(config), [], darwin(request, config)
    question = next(algorithm)
    while True:
        if len(steps) == fails_at:
            event: Event = question.failed("the server is gone", seconds)
        else:
            event = question.answered(operators[question.operator].invoke(question.population), seconds)
        steps.append((question, question.fold(event)))
        try:
            question = algorithm.send(event)
        except StopIteration as stop:
            return Trace(config, stop.value, steps)


@dataclass
class Case:
    """A random search."""

    config: SearchConfig
    ends: float
    levels: int
    search: DarwinSearch = field(init=False)

    def __post_init__(self) -> None:
        self.search = search_of(self.ends, self.levels)

    def trace(self, seconds: float = 0.0, fails_at: int | None = None, **changes: Any) -> Trace:
        return trace(self.search, self.config.replace(**changes), seconds, fails_at=fails_at)


DRAWN = ("top_k", "tournament", "smc", "speculative_rejection", "none")
"""Selectors of beams that draw their tokens."""


@st.composite
def cases(draw: Callable[..., Any], selectors: Sequence[str] = (*DRAWN, "args")) -> Case:
    n, nb = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    fields: dict[str, Any] = {
        "mutations": n,
        "beams_per_mutation": nb,
        "champions": draw(st.integers(1, n)),
        "replacement_period": draw(st.integers(1, 6)),
        "cycles": draw(st.integers(1, 3)),
        "max_new_tokens": draw(st.integers(1, 14)),
        "selector": draw(st.sampled_from(selectors)),
        "seed": draw(st.integers(0, 2**31 - 1)),
    }
    if fields["selector"] == "top_k" and n * nb > 1:
        fields["survivors"] = draw(st.integers(1, n * nb - 1))
    fields |= {
        "smc": {"reward_temperature": draw(st.sampled_from([0.5, 2.0])), "resample_below": draw(st.floats(0, 1))},
        "speculative_rejection": {"rejection": draw(st.sampled_from([0.2, 0.5, 0.9]))},
        "args": {
            "decoding": "candidates",
            "replacement_period": 1,
            "reward_weight": draw(st.sampled_from([0.1, 1.0])),
            "reward_temperature": draw(st.sampled_from([0.0, 1.0])),
        },
    }.get(fields["selector"], {})
    if fields["selector"] not in ("none", "args"):
        fields["lookahead"] = draw(st.integers(0, 3))
    ends = draw(st.sampled_from([0.0, 0.05, 0.2, 0.6, 1.0]))
    return Case(SearchConfig(**fields), ends, levels=draw(st.sampled_from([1, 3, 1000])))


def seed_of(config: SearchConfig, *place: int | str) -> int:
    return derive(config.seed or 0, *place)
