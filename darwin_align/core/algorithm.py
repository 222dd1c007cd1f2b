"""Algorithm 1 of DARWIN (arXiv 2406.15193) as a generator: it yields questions and is sent events.

It uses no model, no clock and no global random state. The drivers in :mod:`darwin_align.search` answer questions with
Runnables, sync or async; a replay sends recorded events instead.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator
from math import inf

from darwin_align.core.archive import Archive, Entry
from darwin_align.core.budget import Usage
from darwin_align.core.choice import Answer
from darwin_align.core.config import SearchConfig
from darwin_align.core.events import Event, Question
from darwin_align.core.exploration import Exploration, Knowledge, ScoredAnswer
from darwin_align.core.result import SearchResult
from darwin_align.core.seeds import derive
from darwin_align.core.types import Beam, OperatorName, Population, Request, Step

__all__ = ["Search", "darwin"]

Search = Generator[Question, Event, SearchResult]
"""Yields questions, is sent events, returns the result."""

_GRACE = 0.1
"""Share of a budget's seconds by which an operator may overshoot it before it is interrupted."""

Steps = Generator[Question, Event, Population]
"""Yields questions, is sent events, returns the population after them."""


def darwin(request: Request, config: SearchConfig, search_id: str = "") -> Search:
    """Search for a well rewarded answer (Alg. 1).

    Args:
        request: the conversation to answer.
        config: settings with a seed.
        search_id: opaque hint for caches.

    Raises:
        RequestError: the conversation has no instruction to follow.
        OperatorError: an answer would break the algorithm.
        ReplayError: a sent event answers another question, or is a failure before anything was scored.
    """
    run = _SearchState(request, config, search_id)
    try:
        for cycle in range(max(config.cycles, 1)):
            parent = run.parent(cycle)  # Alg. 1: parent ~ uniform(A)
            population = run.begin(cycle, parent)  # s_j <- nothing
            if cycle == 0 and config.budget.limited:
                population = yield from run.first_response_alone(population)
            if config.cycles and not run.must_stop(population):
                population = yield from run.ask("mutate", population)  # I_1..I_n <- mutate(parent, n)
            while population.open and not run.must_stop(population):  # until every beam has ended
                population = yield from run.step(population)
            run.end(population)
            if (population.open or run.cut_by or cycle + 1 < config.cycles) and (reason := run.enough):
                run.stop_reason = reason
                break
    except _Aborted:
        run.break_off()
    return run.result()


class _Aborted(Exception):  # noqa: N818 - no error: it leaves Algorithm 1 from wherever a question had no answer
    pass


class _SearchState:
    """The state of one search: its archive, answers, events and usage."""

    def __init__(self, request: Request, config: SearchConfig, search_id: str) -> None:
        if config.seed is None:
            raise ValueError("config.seed is None: draw one and record it, e.g. config.replace(seed=0)")
        self.request, self.config, self.seed, self.search_id = request, config, config.seed, search_id
        self.fingerprint = derive(config.seed, "search", request.to_json(), config.identity)
        self.instruction = request.instruction
        self.archive = Archive(entries=())
        self.ended: list[Answer] = []  # every beam as its cycle left it
        self.bests: list[float] = []  # reward of the best answer before the first cycle and after each
        self.first_response = Beam(instruction=self.instruction, first_response=True)
        self.events: list[Event] = []
        self.usage = Usage()
        self.cycles = 0
        self.scored: Population  # the current cycle's last state in which every needed reward was there
        self.stop_reason = "cycles"
        self.failure: str | None = None
        self.remarks: list[str] = []
        self.cut_by: str | None = None  # the limit that cut the first response, if one did

    @property
    def spent(self) -> str | None:
        return self.cut_by or self.config.budget.spent(self.usage)

    @property
    def enough(self) -> str | None:
        """Why no further cycle is begun, if there is a reason."""
        if self._is_met(beam for beam, _, _ in self.answers):
            return "target_reward"
        if self.spent:
            return f"budget: {self.spent}"
        return "patience" if self._is_stale() else None

    def _is_stale(self) -> bool:
        patience = self.config.patience
        if patience is None or len(self.bests) <= patience:
            return False
        before, now = self.bests[-1 - patience], self.bests[-1]
        return now <= before or now - before < self.config.min_improvement

    @property
    def answers(self) -> list[Answer]:
        """What the search may end with: the first response, and what its cycles left."""
        return [Answer(self.first_response, 0, 0), *self.ended]

    def must_stop(self, population: Population) -> bool:
        # With a budget the first response was decoded alone, so there is an answer that the search may end with.
        return self.spent is not None or self._is_met(population.beams)

    def _is_met(self, beams: Iterable[Beam]) -> bool:
        target = self.config.target_reward
        return target is not None and _best(beams) >= target

    @property
    def has_best(self) -> bool:
        standing = (beam for beam in self.scored.beams if beam.alive)
        return any(beam.reward is not None for beam in (*(beam for beam, _, _ in self.answers), *standing))

    def parent(self, cycle: int) -> str:
        # The archive is empty where the first response ended within its thoughts, and so far every other answer, too.
        known = cycle and self.archive.entries
        return self.archive.sample(derive(self.seed, "parent", cycle)) if known else self.instruction

    def begin(self, cycle: int, parent: str) -> Population:
        self.scored = Population.start(
            self.request,
            mutations=self.config.mutations if self.config.cycles else 0,
            beams_per_mutation=self.config.beams_per_mutation,
            first_response=cycle == 0,
            parent=parent,
            max_new_tokens=self.config.max_new_tokens,
            step=Step(
                cycle=cycle,
                seed=derive(self.seed, "cycle", cycle),
                finished_only=not self.config.replaces,
                candidates=self.config.candidates,
                thoughts_first=self.config.replaces,
            ),
            usage=self.usage,
            search_id=self.search_id,
        )
        return self.scored

    def ask(self, operator: OperatorName, population: Population, **step: int) -> Steps:
        """Yield one question and fold its answer.

        Raises:
            _Aborted: the operator gave no answer, and the search ends.
        """
        now = population.step.model_copy(update={"operator": operator, **self._left, **step})
        fresh: dict[str, object] = {"step": now, "notes": (), "exploration": None}
        if operator == "mutate":
            fresh["known"] = self._known(population)
        questioned = population.model_copy(update=fresh)
        question = Question(operator, questioned, self.fingerprint, self.has_best)
        event = yield question
        answer = question.fold(event)
        self.events.append(event)
        answer = answer.spend(Usage(seconds=event.seconds))
        self.usage = answer.usage
        if event.failure is not None:
            self.stop_reason, self.failure = f"failure: {operator}", event.failure
            raise _Aborted
        if event.interrupted or self._has_no_progress(operator, questioned, answer):
            self.stop_reason = "budget: seconds"
            raise _Aborted
        return answer

    @property
    def _left(self) -> dict[str, float]:
        """What is left of the budget, for the next question."""
        budget = self.config.budget
        left: dict[str, float] = {}
        if budget.tokens is not None:
            left["tokens_left"] = max(1, budget.tokens - self.usage.decoded_tokens)
        if budget.seconds is not None:
            left["seconds_left"] = max(0.0, budget.seconds - self.usage.seconds)
            left["grace_seconds"] = _GRACE * budget.seconds
        return left

    @staticmethod
    def _has_no_progress(operator: OperatorName, before: Population, answer: Population) -> bool:
        """Whether decoding ran out of time before its first token, as a further attempt would."""
        if operator != "decode" or before.step.seconds_left is None:
            return False
        return all(answer.beams[i].open and answer.beams[i].length == before.beams[i].length for i in before.open)

    def _known(self, population: Population) -> Knowledge:
        first = population.first_response
        beams = [
            self.first_response if first is None else population.beams[first],
            *(beam for beam, _, _ in self.ended),
        ]
        answers = [
            ScoredAnswer(text=beam.text, reward=beam.reward, instruction=beam.instruction)
            for beam in beams
            if beam.reward is not None and beam.finished and beam.alive and beam.valid
        ]
        rewards = self.archive.rewards or {answer.instruction: answer.reward for answer in answers}
        return Knowledge(
            parent_reward=rewards.get(population.parent),
            answers=tuple(sorted(answers, key=lambda answer: -answer.reward)),
            archive=self.archive.entries,
            tried=tuple(dict.fromkeys(beam.instruction for beam in beams)),
            exploration=Exploration.sum(e for event in self.events if (e := event.delta.exploration)),
        )

    def first_response_alone(self, population: Population) -> Steps:
        """Decode and score the first response before anything else is spent: a whole answer comes first."""
        others = population.contenders
        paused = {i: population.beams[i].model_copy(update={"alive": False}) for i in others}
        resumed = {i: population.beams[i] for i in others}
        alone = {"tokens": self._tokens_alone, "thoughts_first": False}
        answer = yield from self.ask("decode", population.with_beams(paused), **alone)
        index = answer.first_response
        if index is not None and answer.beams[index].open:
            self._remark_cut(answer.beams[index])
            answer = answer.with_beams({index: answer.beams[index].cut})
        self.scored = answer.with_beams(resumed)  # without a score in time, the answer is kept unscored
        answer = yield from self.ask("score", answer)
        self.scored = answer.with_beams(resumed, step=population.step)
        return self.scored

    def _remark_cut(self, first_response: Beam) -> None:
        self.cut_by = self.spent or "seconds"
        self.remarks.append(
            f"the budget ({self.cut_by}) is smaller than one whole answer, which was cut after "
            f"{first_response.length} tokens: give the search more"
        )

    @property
    def _tokens_alone(self) -> int:
        return min(self.config.max_new_tokens, self.config.budget.tokens or self.config.max_new_tokens)

    def step(self, population: Population) -> Steps:
        """One replacement cycle: decode, score, replace."""
        racing = any(population.beams[i].open for i in population.contenders)
        population = yield from self.ask("decode", population, tokens=self._tokens(population))  # s_j <- s_j + m tokens
        if racing and population.waiting and not self.must_stop(population):
            return _next_step(population)  # texts are compared, and begin together: the other beams wait
        population = self.scored = yield from self._score(population)  # r_j <- R(s_j, I)
        if racing and self.config.replaces and population.selectable:
            population = self.scored = yield from self.ask("select", population)  # s_j <- s_d, d ~ uniform(T)
        return _next_step(population)

    def _tokens(self, population: Population) -> int:
        config, budget = self.config, self.config.budget
        # Where partial states are not compared, decode to the end, unless a time limit or a target may end it.
        replaces = config.replaces and not population.thinking
        steps = replaces or budget.seconds or config.target_reward is not None
        tokens = config.replacement_period if steps else config.max_new_tokens
        if budget.tokens is not None:
            tokens = min(tokens, max(1, (budget.tokens - self.usage.decoded_tokens) // len(population.awaited)))
        return tokens

    def _score(self, population: Population) -> Steps:
        if not population.unscored:
            return population
        if not (self.config.lookahead and any(population.beams[i].open for i in population.contenders)):
            return (yield from self.ask("score", population))
        first = {i: beam for i, beam in enumerate(population.beams) if beam.first_response and beam.open}
        paused = {i: beam.model_copy(update={"alive": False}) for i, beam in first.items()}
        ahead = yield from self.ask("decode", population.with_beams(paused), tokens=self.config.lookahead)
        further = ahead.beams
        ahead = yield from self.ask("score", ahead)
        # The further tokens and the decoder's marks on them are discarded; their reward is kept.
        seen = {i: _seen(population.beams[i], further[i], ahead.beams[i]) for i in population.unscored}
        return population.with_beams(seen, usage=ahead.usage)

    def end(self, population: Population) -> None:
        """Close a cycle: its beams compete for best, its champions for the archive."""
        self._close(population)
        if not self.bests:  # best <- s_I
            self.bests.append(_best([self.first_response]))
        self.bests.append(_best(beam for beam, _, _ in self.answers))
        if not population.open and self.archive.entries:
            self.archive = self.archive.updated(population.parent, self._champions(population))
        elif not population.open:  # the first response has no reward: it ended within its thoughts
            self.archive = Archive(entries=tuple(self._champions(population)))

    def break_off(self) -> None:
        """Close a cycle in which an operator failed for good: what was scored so far competes for best.

        Its beams count as they were last scored. Tokens decoded since then are lost: they have no reward.
        So the search ends as if its budget had been spent before the step that failed; only where nothing but the
        selection failed, that step's rewards count. No champion of this cycle enters the archive.
        """
        self._close(self.scored)
        if self.config.budget.limited and self.first_response.open:
            self._remark_cut(self.first_response)

    def _close(self, population: Population) -> None:
        cycle = population.step.cycle
        self.cycles += any(event.operator == "mutate" and event.cycle == cycle for event in self.events)
        self.ended += [Answer(population.beams[i], cycle, i) for i in population.contenders]
        for beam in population.beams:
            if beam.first_response:
                self.first_response = beam
        if not self.archive.entries and self.first_response.reward is not None:  # A <- {I: R(s_I, I)}
            self.archive = Archive(entries=(Entry(instruction=self.instruction, reward=self.first_response.reward),))

    def _champions(self, population: Population) -> list[Entry]:
        """The p instructions with the most wins, equal wins by reward (Alg. 1: champions)."""
        wins: dict[str, int] = defaultdict(int)
        rewards: dict[str, float] = {}
        for beam in (population.beams[i] for i in population.contenders):
            if beam.valid and beam.reward is not None:
                wins[beam.instruction] += beam.wins
                rewards[beam.instruction] = max(beam.reward, rewards.get(beam.instruction, beam.reward))
        order = sorted(rewards, key=lambda instruction: (-wins[instruction], -rewards[instruction]))
        return [Entry(instruction=i, reward=rewards[i]) for i in order[: self.config.champions]]

    def result(self) -> SearchResult:
        return SearchResult.of(
            request=self.request,
            config=self.config,
            answers=self.answers,
            archive=self.archive,
            events=self.events,
            usage=self.usage,
            cycles=self.cycles,
            stop_reason=self.stop_reason,
            failure=self.failure,
            remarks=(*self.remarks, *self._without_answer),
        )

    @property
    def _without_answer(self) -> Iterator[str]:
        if all(beam.thinking for beam, _, _ in self.answers):
            yield (
                "no answer came behind the thoughts: raise max_new_tokens, or end the thoughts by max_thinking_tokens=…"
            )


def _best(beams: Iterable[Beam]) -> float:
    """The largest reward of an answer that a search could give."""
    given = [beam.reward for beam in beams if beam.reward is not None and beam.alive and beam.finished and beam.valid]
    return max(given, default=-inf)


def _next_step(population: Population) -> Population:
    step = population.step.model_copy(update={"index": population.step.index + 1})
    return population.model_copy(update={"step": step})


def _seen(beam: Beam, further: Beam, scored: Beam) -> Beam:
    valid = beam.valid if further.valid == scored.valid else scored.valid
    return beam.model_copy(update={"reward": scored.reward, "valid": valid})
