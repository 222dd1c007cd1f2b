"""A beam that ends within a tool call is not taken by others and not replaced."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darwin_align import Population, Request, SearchConfig, SearchResult
from darwin_align.backends.scripted import ScriptedScorer
from darwin_align.core import Ancestor, Beam, Event, Question, darwin
from darwin_align.core.errors import OperatorError
from darwin_align.core.seeds import below, uniform
from darwin_align.formats.tool_syntax import ToolSyntax
from darwin_align.operators import Continuation, Decoder, NoSelection, Row, SMCSelector, TopKReplacement, Tournament
from tests.core.kit import ASKED, DRAWN, Case, Letters, Trace, cases, search_of, trace

TOOLS = ({"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}},)
CALLING = Request.of(ASKED, tools=TOOLS)


def written(calls: list[dict[str, Any]]) -> str:
    return "".join(f'<{{"name": "{c["function"]["name"]}", "arguments": {_json(c)}}}>' for c in calls)


def _json(call: dict[str, Any]) -> str:
    arguments = call["function"]["arguments"]
    return str(arguments).replace("'", '"')


SYNTAX = ToolSyntax.found(written)
GOOD, BAD = '<{"name": "f", "arguments": {}}>', '<{"name": "g", "arguments": {}}>'


@dataclass
class Caller:
    """A policy over letters that now and then writes a call, letter by letter; some calls cannot be made."""

    ends: float = 0.1
    calls: float = 0.1
    bad: float = 0.5
    tool_syntax: ToolSyntax = field(default=SYNTAX)

    def generate(self, rows: Sequence[Row]) -> list[Continuation]:
        return [self._continue(row) for row in rows]

    def _continue(self, row: Row) -> Continuation:
        text, new, ended = row.text, 0, False
        while new < row.max_tokens and not ended:
            place = (row.seed, len(text), row.request.instruction)
            start = text.rfind("<")
            inside = start >= 0 and ">" not in text[start:]
            if inside:
                call = GOOD if text[start : start + 11].endswith("f") or self._picks(row, start) else BAD
                text += call[len(text) - start]
            elif uniform(place[0], "end", *place[1:]) < self.ends:
                ended = True
            elif uniform(place[0], "call", *place[1:]) < self.calls:
                text += "<"
            else:
                text += chr(97 + below(8, *place))
            new += 1
        return Continuation(text=text, new_tokens=new, finish_reason="stop" if ended else None)

    def _picks(self, row: Row, start: int) -> bool:
        taken = row.text[start : start + 11]
        return uniform(0, "bad", start, row.request.instruction) >= self.bad and not taken.endswith("g")


def calling(case: Case, calls: float, bad: float) -> Trace:
    policy = Caller(case.ends, calls, bad)
    config = case.config.replace(max_new_tokens=case.config.max_new_tokens * 8)
    return trace(search_of(policy=policy, levels=case.levels), config, request=CALLING)


chances = st.sampled_from([0.0, 0.1, 0.5, 1.0])


def parsed(text: str, *, finished: bool) -> Any:
    return SYNTAX.parse(text, TOOLS, finished=finished)


@given(cases(DRAWN), chances, chances)
def test_the_decoder_holds_what_ends_within_a_call_and_nothing_else(case: Case, calls: float, bad: float) -> None:
    for before, after in calling(case, calls, bad).of("decode"):
        for i in before.open:
            beam = after.beams[i]
            found, ended = parsed(beam.text, finished=beam.finished), beam.finish_reason not in (None, "length")
            assert beam.in_tool_call == (found.open and not beam.finished)
            assert beam.valid == (not found.invalid)
            assert (beam.finish_reason == "tool_calls") == (bool(found.calls) and ended)


@given(cases(DRAWN), chances, chances)
def test_a_beam_inside_a_tool_call_neither_gives_nor_takes(case: Case, calls: float, bad: float) -> None:
    for before, after in calling(case, calls, bad).of("select"):
        in_call = [i for i in before.contenders if before.beams[i].in_tool_call]
        assert set(before.selectable) == set(before.contenders) - set(in_call)
        assert before.selectable
        for i in in_call:
            assert after.beams[i] == before.beams[i]
        for i in before.contenders:
            taken = after.beams[i].ancestor
            if taken != before.beams[i].ancestor:
                assert taken is not None
                assert taken.beam not in in_call


@given(cases(["top_k"]), chances, chances)
def test_survivors_are_counted_among_those_that_may_be_selected(case: Case, calls: float, bad: float) -> None:
    for before, after in calling(case, calls, bad).of("select"):
        beams = {i: before.beams[i] for i in before.selectable}
        # Invalid beams are all equally bad.
        order = sorted(beams, key=lambda i: (not beams[i].valid, -(beams[i].reward or 0.0) * beams[i].valid))
        best = set(order[: case.config.survivors])
        won = {i for i in before.contenders if after.beams[i].wins > before.beams[i].wins}
        assert won == best


@given(cases(DRAWN), chances, chances)
def test_a_call_that_cannot_be_made_loses_to_any_answer_that_can(case: Case, calls: float, bad: float) -> None:
    found = calling(case, calls, bad)
    beams = [beam for _, after in found.steps for beam in after.beams if beam.finished]
    assert found.result.best.valid == any(beam.valid for beam in beams)
    assert not any(beam.in_tool_call for beam in found.result.ranking)
    for entry in found.result.archive.entries[1:]:
        assert any(beam.valid for beam in beams if beam.instruction == entry.instruction)


@given(cases(DRAWN), chances, chances)
def test_events_carry_it_and_replay(case: Case, calls: float, bad: float) -> None:
    found = calling(case, calls, bad)
    again = replayed(found.config, found.result.events)
    assert again == found.result
    assert SearchResult.from_json(found.result.to_json()) == found.result


def replayed(config: SearchConfig, events: Sequence[Event]) -> SearchResult:
    algorithm = darwin(CALLING, config)
    next(algorithm)
    for event in events[:-1]:
        algorithm.send(Event.from_json(event.to_json()))
    with pytest.raises(StopIteration) as stopped:
        algorithm.send(Event.from_json(events[-1].to_json()))
    return stopped.value.value


@given(cases(DRAWN))
def test_without_tools_no_beam_is_inside_a_call_and_nothing_new_is_recorded(case: Case) -> None:
    policy = Caller(case.ends)
    for event in trace(search_of(policy=policy, levels=case.levels), case.config).result.events:
        assert not any(fields.keys() & {"in_tool_call", "valid"} for fields in event.delta.beams.values())


def test_a_spent_budget_prefers_an_answer_without_an_open_call() -> None:
    @dataclass
    class OneCalls(Caller):
        def _continue(self, row: Row) -> Continuation:
            whole = '<{"name"' if "1" in row.request.instruction else "hhhhhhhh"
            text = whole[: len(row.text) + row.max_tokens]
            return Continuation(text=text, new_tokens=len(text) - len(row.text))

    def reword(request: Request, instruction: str, n: int, seed: int) -> list[str]:
        return [f"{instruction} {i}" for i in range(n)]

    scorer = ScriptedScorer(reward=lambda text: float("<" in text))
    search = search_of(policy=OneCalls(), mutator=reword, scorer=scorer)
    settings: dict[str, Any] = {"mutations": 2, "cycles": 1, "budget": {"tokens": 1}, "seed": 1}
    assert search.invoke(CALLING, **settings).text == "h"
    alone = search_of(policy=OneCalls(), mutator=lambda *_: ["1"], scorer=scorer)
    result = alone.invoke(Request.of("1", tools=TOOLS), **{**settings, "mutations": 1})
    best = result.best
    assert (best.text, best.valid, best.in_tool_call, best.finish_reason) == ("<", False, False, "length")


def population(*beams: Beam) -> Population:
    return Population(request=CALLING, parent=ASKED, beams=beams, max_new_tokens=9)


OPEN = Beam(instruction=ASKED, text="ab", length=2, reward=1.0)
IN_CALL = Beam(instruction=ASKED, text="<", length=1, reward=5.0, in_tool_call=True)
Selecting = Callable[[], Any]


@pytest.mark.parametrize(
    "selector", [TopKReplacement(survivors=1), Tournament(size=9), SMCSelector(threshold=1.0), NoSelection()]
)
def test_selectors_are_not_given_beams_inside_a_tool_call(selector: Any) -> None:
    before = population(OPEN, IN_CALL, OPEN.model_copy(update={"reward": 3.0, "text": "cd"}))
    after = selector.invoke(before)
    assert after.beams[1] == IN_CALL
    assert "<" not in after.beams[0].text + after.beams[2].text
    nobody = selector.invoke(population(IN_CALL, IN_CALL))
    assert nobody.beams == (IN_CALL, IN_CALL)
    assert nobody.step.index == 1


def question_of(operator: Any, *beams: Beam) -> Question:
    whole = population(*beams)
    return Question(operator, whole.model_copy(update={"step": whole.step.model_copy(update={"operator": operator})}))


def test_the_laws_cover_beams_inside_a_tool_call() -> None:
    question = question_of("select", OPEN, IN_CALL)
    stolen = OPEN.take_state(IN_CALL).model_copy(update={"ancestor": Ancestor(beam=1, step=0)})
    with pytest.raises(OperatorError, match="select gave beam 0 the state of beam 1, which is inside a tool call"):
        question.answered(question.population.with_beams({0: stolen}))
    replaced = IN_CALL.take_state(OPEN).model_copy(update={"ancestor": Ancestor(beam=0, step=0)})
    with pytest.raises(OperatorError, match="of beam 1, which is inside a tool call"):
        question.answered(question.population.with_beams({1: replaced}))
    dropped = IN_CALL.model_copy(update={"alive": False})
    with pytest.raises(OperatorError, match="select changed alive of beam 1, which is inside a tool call"):
        question.answered(question.population.with_beams({1: dropped}))
    decoding = question_of("decode", IN_CALL)
    ended = IN_CALL.model_copy(update={"text": "<{", "length": 2, "reward": None, "finish_reason": "stop"})
    with pytest.raises(OperatorError, match="decode finished beam 0 inside a tool call"):
        decoding.answered(decoding.population.with_beams({0: ended}))


def test_what_a_lookahead_finds_wrong_is_thrown_away_with_it() -> None:
    @dataclass
    class Late(Caller):
        """Writes two good letters, then a call that cannot be made."""

        def _continue(self, row: Row) -> Continuation:
            whole = "ab" + BAD
            text = whole[: len(row.text) + row.max_tokens]
            end = "stop" if len(text) == len(whole) else None
            return Continuation(text=text, new_tokens=len(text) - len(row.text), finish_reason=end)

    config = SearchConfig(mutations=2, cycles=1, replacement_period=2, lookahead=40, max_new_tokens=60, seed=1)
    found = trace(search_of(policy=Late()), config, request=CALLING)
    first = next(found.of("select"))[0]
    assert [(beam.text, beam.valid) for beam in first.beams[:2]] == [("ab", True)] * 2
    assert not found.result.best.valid


def test_a_decoder_by_hand_judges_too() -> None:
    decoder = Decoder(policy=Caller(ends=0.0, calls=1.0))
    whole = population(OPEN.model_copy(update={"reward": None}))
    in_call = decoder.invoke(whole.model_copy(update={"step": whole.step.model_copy(update={"tokens": 3})}))
    assert in_call.beams[0].text.startswith("ab<")
    assert in_call.beams[0].in_tool_call
    assert Letters()("ab") == 0.0
