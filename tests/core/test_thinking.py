"""A beam that still thinks is not compared, and one that ended so is no answer: random searches."""

from dataclasses import dataclass
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from darwin_align import SearchResult
from darwin_align.core.seeds import uniform
from darwin_align.operators import Continuation, Row
from darwin_align.operators.policy import Capabilities
from darwin_align.traces import Trace as Drawn
from tests.core.kit import DRAWN, Babbler, Case, Trace, cases, search_of, trace


@dataclass
class Thinker(Babbler):
    """Letters up to the first "h" that chance allows are thoughts; some rows think none."""

    long: float = 0.3
    """Chance that thoughts go on at a place where they could end."""
    stops: bool = True

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(ranks_tokens=True, stops_at_text=self.stops)

    def _continue(self, row: Row) -> Continuation:
        whole = super()._continue(row)
        end = self._end(row, whole.tokens)
        letters = "".join(chr(96 + token) for token in whole.tokens if token)
        if end is None:
            return _split(whole, "", letters, thinking=True)
        if row.to_text and self.stops and (row.thinking or not row.tokens) and row.rank is None:
            kept = whole.tokens[: max(end, len(row.tokens) + 1)]
            finish = "stop" if kept[-1:] == (0,) else None
            new = len(kept) - len(row.tokens)
            return Continuation(letters[end : len(kept)], kept, new, finish, -1.0, 0, letters[:end], False, end)
        return _split(whole, letters[end:], letters[:end], text_from=end)

    def _end(self, row: Row, tokens: tuple[int, ...]) -> int | None:
        if row.tokens and not row.thinking:
            return row.text_from
        if row.seed % 4 == 0:
            return 0
        ends = (i for i, _ in enumerate(tokens, start=1) if uniform(row.seed, "thinks", i) >= self.long)
        return next((end for end in ends if end >= len(row.tokens)), None)


def _split(
    found: Continuation, text: str, thoughts: str, *, thinking: bool = False, text_from: int = 0
) -> Continuation:
    start = len(found.tokens) if thinking else text_from
    logprob = -1.0 if found.logprob is None else found.logprob  # of thoughts, which have no rank
    return Continuation(
        text, found.tokens, found.new_tokens, found.finish_reason, logprob, 0, thoughts, thinking, start
    )


def thinking(case: Case, long: float, stops: bool) -> Trace:
    policy: Any = Thinker(case.ends, long, stops)
    config = case.config.replace(max_new_tokens=case.config.max_new_tokens * 2)
    return trace(search_of(policy=policy, levels=case.levels), config)


chances = st.sampled_from([0.0, 0.5, 0.9, 1.0])


@given(cases(), chances, st.booleans())
def test_thoughts_are_neither_scored_nor_compared(case: Case, long: float, stops: bool) -> None:
    found = thinking(case, long, stops)
    for question, after in found.steps:
        for beam in after.beams:
            assert not (beam.thinking and beam.reward is not None)
            assert not (beam.thinking and beam.finished and beam.valid)
            assert beam.thinking or len(beam.text) <= beam.length
        if question.operator != "select":
            continue
        before = question.population
        silent = [i for i in before.contenders if before.beams[i].thinking]
        for i in silent:
            assert after.beams[i] == before.beams[i]
        for i in before.contenders:
            taken = after.beams[i].ancestor
            if taken is not None and taken != before.beams[i].ancestor:
                assert taken.beam not in silent
                donor = before.beams[taken.beam]
                assert (after.beams[i].thoughts, after.beams[i].text) == (donor.thoughts, donor.text)


@given(cases(DRAWN), chances)
def test_nothing_is_compared_before_all_texts_have_begun(case: Case, long: float) -> None:
    for before, _ in thinking(case, long, stops=True).of("select"):
        assert not any(before.beams[i].thinking for i in before.open)


@given(cases(), chances, st.booleans())
def test_answers_events_and_traces_hold_them(case: Case, long: float, stops: bool) -> None:
    found = thinking(case, long, stops)
    result = found.result
    assert result.best.valid or all(not beam.valid for beam in result.ranking)
    assert not any(beam.thinking for beam in result.ranking)
    assert SearchResult.from_json(result.to_json()) == result
    drawn = Drawn.of(result)
    assert drawn.result == result
    assert drawn.lineage().answer.thoughts == result.thoughts
    assert drawn.lineage().answer.text == result.text
