"""What came of a search's rewordings, in its events and its result."""

import json
from typing import Any

import pytest

from darwin_align import Exploration, SearchResult
from darwin_align.core import Event, Usage
from darwin_align.operators import LexicalIntent, Report
from darwin_align.traces import Trace
from darwin_align.traces.page import page
from tests.core.kit import ASKED, search_of, timeless

SMALL: dict[str, Any] = {"max_new_tokens": 12, "replacement_period": 4, "seed": 5}


def spent(context: Any) -> Report[list[str]]:
    """Two good ones, a bad one and a blank one in each call, for 40 tokens."""
    found = [f"{ASKED} {context.seed}", f"{ASKED} Please.", "Bake bread.", " "]
    return Report(found[: context.n], Usage(decoded_tokens=40))


def result_of(**settings: Any) -> SearchResult:
    return search_of(mutator=spent, guard=LexicalIntent()).invoke(ASKED, **{**SMALL, "cycles": 2, **settings})


def test_every_place_is_counted_once() -> None:
    found = result_of().exploration
    # In each of two cycles: five places; two of four accepted, then two of three, so one place is left.
    assert found
    assert (found.places, found.accepted, found.filled_by_parent) == (10, 8, 2)
    assert found.refused == {"it leaves the topic": 4, "it is blank": 2}
    assert found.tokens == 160
    assert found.wasted_tokens == 2 * ((40 - 40 * 2 // 5) + (40 - 40 * 2 // 3))
    assert found.probe_tokens == 0


def test_the_share_is_of_the_tokens_of_answers() -> None:
    result = result_of()
    found = result.exploration
    assert found
    assert found.answer_tokens == result.usage.decoded_tokens - 160
    assert found.wasted_share == found.wasted_tokens / found.answer_tokens
    assert Exploration(wasted_tokens=3).wasted_share == 0


def test_a_replay_and_a_copy_in_json_count_alike() -> None:
    result = result_of()
    search = search_of(mutator=spent, guard=LexicalIntent())
    again = search.invoke(ASKED, **SMALL, cycles=2, replay=result.events)
    assert timeless(again) == timeless(result)
    assert SearchResult.from_json(result.to_json()).exploration == result.exploration
    resumed = search.invoke(ASKED, **SMALL, cycles=2, replay=result.events[:4])
    assert resumed.exploration == result.exploration


def test_recordings_without_figures_are_read_and_have_none(caplog: pytest.LogCaptureFixture) -> None:
    result = result_of()
    events = []
    for event in result.events:
        data = json.loads(event.to_json())
        data["delta"].pop("exploration", None)
        events.append(Event.from_json(json.dumps(data)))
    assert [event.delta.exploration for event in events] == [None] * len(events)
    again = search_of(mutator=spent, guard=LexicalIntent()).invoke(ASKED, **SMALL, cycles=2, replay=events)
    assert again.exploration is None
    assert again.best == result.best
    assert "of 10 places" not in page(Trace.of(again))
    assert not caplog.records


def test_where_nothing_is_to_be_reworded_nothing_is_counted() -> None:
    for settings in ({"cycles": 0}, {"cycles": 1, "mutator": "identity"}):
        result = search_of(mutator=None).invoke(ASKED, **SMALL, **settings)
        assert result.exploration
        assert result.exploration.model_dump(exclude={"answer_tokens"}) == Exploration().model_dump(
            exclude={"answer_tokens"}
        )


def test_events_hold_figures_and_no_answers_of_before() -> None:
    result = result_of()
    [event] = [event for event in result.events if event.operator == "mutate" and event.cycle == 1]
    assert event.delta.exploration
    assert "known" not in event.to_json()
    assert all(answer.text not in event.to_json() for answer in result.ranking if len(answer.text) > 6)


def test_reasons_with_numbers_in_them_are_not_told_apart_by_their_details() -> None:
    search = search_of(mutator=lambda context: [f"Bread {i}" for i in range(context.n)], guard=LexicalIntent())
    found = search.invoke(ASKED, **SMALL, cycles=1).exploration
    assert found
    assert found.refused == {"it leaves the topic": 10}


def test_the_page_names_the_figures() -> None:
    shown = page(Trace.of(result_of()))
    assert "8 of 10 places" in shown
