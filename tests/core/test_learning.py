"""Learning clauses: what they are worth by hand, what drops out, and that the next searches are better for it."""

import json
from collections.abc import Sequence
from math import sqrt
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darwin_align import DarwinSearch, Request, Response, SearchConfig, SearchResult
from darwin_align.core import Ancestor, Archive, Beam, Clause, Usage, learn_clauses, read_clauses, write_clauses
from darwin_align.core.clauses import sentences
from darwin_align.core.errors import ConfigError
from darwin_align.core.seeds import below
from darwin_align.operators import Continuation, Row
from tests.core.kit import CLAUSES, Case, cases, preset_of

BREAD, TEA, BASIL = "How do I bake bread?", "How do I brew green tea?", "How do I grow basil?"


def searched(instruction: str, *answers: tuple[str, float], took_over: Sequence[int] = ()) -> SearchResult:
    """A finished search: what each answer's instruction added to the request, and the answer's reward."""
    ranking = tuple(
        Beam(
            instruction=f"{instruction} {added}".rstrip(),
            text=f"answer {i}",
            reward=reward,
            finish_reason="stop",
            ancestor=Ancestor(beam=0, step=0) if i in took_over else None,
        )
        for i, (added, reward) in enumerate(answers)
    )
    return SearchResult(
        request=Request.of(instruction),
        config=SearchConfig(seed=1),
        best=ranking[0],
        first_response=ranking[-1],
        ranking=ranking,
        archive=Archive(entries=()),
        events=(),
        usage=Usage(),
        cycles=1,
        stop_reason="cycles",
    )


def worths(*results: SearchResult, **limits: int) -> dict[str, float]:
    return {clause.text: clause.worth for clause in learn_clauses(results, **{"least": 1, **limits})}


# Clauses


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        (" \n ", []),
        ("Be kind", ["Be kind"]),
        ("How? Be kind.", ["How?", "Be kind."]),
        ("Really?! Well... Be kind!", ["Really?!", "Well...", "Be kind!"]),
        ("A list:\n- one\n\nBe kind.", ["A list:", "- one", "Be kind."]),
        ("Take 3.5 cups, e.g. of milk. Be kind.", ["Take 3.5 cups, e.g. of milk.", "Be kind."]),
        ("怎么泡茶？说详细。", ["怎么泡茶？", "说详细。"]),
    ],
)
def test_sentences_end_where_they_and_lines_do(text: str, found: list[str]) -> None:
    assert sentences(text) == found


@given(st.floats(allow_nan=False, allow_infinity=False), st.text().map(str.strip).filter(bool))
def test_clauses_survive_json_alone_and_in_the_settings(worth: float, text: str) -> None:
    clause = Clause(text=text, worth=worth)
    assert Clause.from_json(clause.to_json()) == clause
    config = SearchConfig.preset("learned_clauses", clauses=(clause, Clause(text="Be kind.")), seed=3)
    again = SearchConfig.from_json(config.to_json())
    assert again == config
    assert again.identity == config.identity
    assert json.loads(config.identity)["clauses"] == [
        {"text": text, "worth": worth} if worth else {"text": text},
        {"text": "Be kind."},
    ]


def test_other_clauses_are_another_search() -> None:
    given_ = [CLAUSES, CLAUSES[:2], CLAUSES[::-1], CLAUSES[:1], (Clause(text=CLAUSES[0].text),)]
    assert len({preset_of("learned_clauses", clauses=clauses).identity for clauses in given_}) == len(given_)


def test_a_clause_by_hand_needs_no_worth() -> None:
    assert Clause(text="Be kind.").worth == 0.0
    with pytest.raises(ConfigError, match=r"Clause needs text=…"):
        Clause()
    with pytest.raises(ConfigError, match=r"unknown setting 'worht' for Clause: did you mean 'worth'\?"):
        Clause(text="Be kind.", worht=1.0)
    with pytest.raises(ConfigError, match=r"Clause.worth = nan is refused"):
        Clause(text="Be kind.", worth=float("nan"))


def test_clauses_are_kept_in_a_file_with_what_is_known_about_them(tmp_path: Path) -> None:
    file = tmp_path / "clauses.json"
    given_ = (*CLAUSES, Clause(text="Réponds en français.", worth=1 / 3))
    write_clauses(file, given_, about="by hand", tokens=12)
    assert read_clauses(file) == read_clauses(str(file)) == given_
    record = json.loads(file.read_text(encoding="utf-8"))
    assert (record["about"], record["tokens"]) == ("by hand", 12)
    assert "français" in file.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"clauses.json cannot be read as clauses: .*No such file"),
        ("no json", r"clauses.json cannot be read as clauses: Expecting value"),
        ("[]", r"clauses.json contains no clauses: write it by write_clauses\(file, learn_clauses\(results\)\)"),
        ('{"clauses": []}', r"contains no clauses"),
        ('{"clauses": ["Be kind."]}', r"contains no clauses"),
        ('{"clauses": [{"worth": 1}]}', r"Clause needs text=…"),
    ],
)
def test_files_that_hold_no_clauses(tmp_path: Path, text: str | None, message: str) -> None:
    file = tmp_path / "clauses.json"
    if text is not None:
        file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        read_clauses(file)


# What they are worth


def test_worths_by_hand() -> None:
    # Mean 2, deviations 1, -1, 0: a standard deviation of sqrt(2/3).
    bread = searched(BREAD, ("Be thorough.", 3.0), ("Be brief.", 1.0), ("", 2.0))
    # Mean 1, deviations 4, 0, 0, -4: sqrt(8).
    tea = searched(TEA, ("Be thorough. Add a tip.", 5.0), ("Be thorough.", 1.0), ("", 1.0), ("Be brief.", -3.0))
    assert worths(bread) == {"Be thorough.": pytest.approx(sqrt(3 / 2))}
    alone = {"Add a tip.": pytest.approx(sqrt(2)), "Be thorough.": pytest.approx(sqrt(2) / 2)}
    assert worths(tea) == alone
    both = (sqrt(3 / 2) + sqrt(2) / 2) / 2
    assert worths(bread, tea) == {"Add a tip.": pytest.approx(sqrt(2)), "Be thorough.": pytest.approx(both)}
    assert worths(bread, tea, least=2) == {"Be thorough.": pytest.approx(both)}


def test_an_instruction_counts_once_however_often_it_was_searched() -> None:
    up, down = (searched(BREAD, ("Be kind.", reward), ("", 0.0)) for reward in (2.0, -2.0))
    tea = searched(TEA, ("Be kind.", 1.0), ("", 0.0))
    with pytest.raises(ConfigError, match="no clause was added to 2 instructions in these 3 searches"):
        worths(up, up, up, least=2)
    # Of three searches of the bread two gave +1 and one -1; the tea gave +1.
    assert worths(up, up, down, tea, least=2) == {"Be kind.": pytest.approx((1 / 3 + 1) / 2)}


def test_the_unit_and_the_zero_of_a_reward_model_do_not_matter() -> None:
    plain = searched(BREAD, ("Be kind.", 1.0), ("Be brief.", -2.0), ("", 0.5))
    other = searched(BREAD, ("Be kind.", 2009.0), ("Be brief.", 2003.0), ("", 2008.0))
    assert worths(plain) == pytest.approx(worths(other))


def test_what_belongs_to_one_topic_drops_out() -> None:
    explained = {task: f"Explain how to {task}." for task in ("bake bread", "brew tea", "grow basil")}
    results = [
        searched(f"How do I {task}?", (f"{topic} Be thorough.", 2.0), ("", 1.0)) for task, topic in explained.items()
    ]
    assert set(worths(*results)) == {"Be thorough.", *explained.values()}
    assert set(worths(*results, least=3)) == {"Be thorough."}
    with pytest.raises(ConfigError, match="no clause was added to 4 instructions"):
        worths(*results, least=4)


def test_sentences_of_the_request_do_not_count_as_added() -> None:
    instruction = f"{BREAD} Be thorough."
    result = searched(instruction, ("Be kind.", 2.0), ("Be thorough.", 3.0), ("", 0.0))
    assert set(worths(result)) == {"Be kind."}


def test_a_clause_that_stands_twice_in_an_instruction_counts_once() -> None:
    once, twice = (searched(BREAD, (added, 2.0), ("Be kind.", 0.0)) for added in ("Be kind.", "Be kind. Be kind."))
    more = searched(TEA, ("Be kind.", 1.0), ("", 0.0))
    assert worths(once, more) == worths(twice, more)


def test_answers_that_took_over_a_state_are_left_out() -> None:
    clean = [("Be kind.", 2.0), ("Be brief.", 0.0), ("", 1.0)]
    mixed = [*clean, ("Be brief.", 90.0), ("Be rude.", 80.0)]
    assert worths(searched(BREAD, *mixed, took_over=(3, 4))) == worths(searched(BREAD, *clean))
    assert "Be brief." in worths(searched(BREAD, *mixed))


@pytest.mark.parametrize(
    "silent",
    [
        searched(TEA, ("Be brief.", 0.1), ("Be rude.", 0.1), ("", 0.1)),
        searched(TEA, ("Be brief.", 7.0)),
        searched(TEA, ("Be brief.", 7.0), ("Be rude.", 1.0), took_over=(0, 1)),
        searched(TEA, ("", 1.0), ("", 2.0)),
    ],
    ids=["equal rewards", "one answer", "all took over", "nothing was added"],
)
def test_searches_that_teach_nothing(silent: SearchResult) -> None:
    bread = searched(BREAD, ("Be kind.", 1.0), ("", 0.0))
    assert worths(bread, silent) == worths(bread) == {"Be kind.": 1.0}
    with pytest.raises(ConfigError, match="no clause was added to 1 instructions in these 1 searches"):
        worths(silent)


def test_clauses_that_lowered_rewards_are_dropped_and_so_are_those_that_did_nothing() -> None:
    result = searched(BREAD, ("Be kind.", 2.0), ("Be brief.", 0.0), ("Go on.", 1.0), ("", 1.0))
    assert worths(result) == {"Be kind.": pytest.approx(sqrt(2))}


def test_the_best_come_first_and_equal_ones_by_the_alphabet() -> None:
    added = [("Be kind.", 3.0), ("Add a tip.", 3.0), ("Be thorough.", 5.0), ("Why?", 3.0), ("", -14.0)]
    result = searched(BREAD, *added)
    assert list(worths(result)) == ["Be thorough.", "Add a tip.", "Be kind.", "Why?"]
    assert [list(worths(result, most=most)) for most in (1, 3, 9)] == [
        ["Be thorough."],
        ["Be thorough.", "Add a tip.", "Be kind."],
        ["Be thorough.", "Add a tip.", "Be kind.", "Why?"],
    ]


def test_ten_instructions_and_eight_clauses_unless_it_is_said_otherwise() -> None:
    added = [(f"Do {letter}.", float(i)) for i, letter in enumerate("abcdefghij")]
    results = [searched(f"Question {i}?", *added, ("", -50.0)) for i in range(10)]
    assert [clause.text for clause in learn_clauses(results)] == [f"Do {letter}." for letter in "jihgfedc"]
    with pytest.raises(ConfigError, match="no clause was added to 10 instructions in these 9 searches"):
        learn_clauses(results[:9])


def test_why_nothing_was_learned() -> None:
    with pytest.raises(
        ConfigError, match=r"^no clause was added to 10 instructions in these 0 searches: give more searches$"
    ):
        learn_clauses(iter(()))
    bad = [searched(instruction, ("Be brief. Be rude.", 0.0), ("", 1.0)) for instruction in (BREAD, TEA, BASIL)]
    with pytest.raises(
        ConfigError, match=r"^none of the 2 clauses that these searches share raised rewards: keep the policy's$"
    ):
        learn_clauses(bad, least=3)


REWARDS = st.floats(-1e3, 1e3)
ADDED = st.lists(st.sampled_from([clause.text for clause in CLAUSES]), max_size=3).map(" ".join)
RESULTS = st.builds(
    lambda instruction, answers: searched(instruction, *answers),
    st.sampled_from([BREAD, TEA, BASIL]),
    st.lists(st.tuples(ADDED, REWARDS), min_size=1, max_size=6),
)


@given(st.lists(RESULTS, max_size=6), st.integers(1, 3), st.randoms(use_true_random=False))
def test_the_order_of_the_results_does_not_matter(results: list[SearchResult], least: int, random: Any) -> None:
    shuffled = random.sample(results, len(results))
    assert outcome(results, least) == outcome(shuffled, least) == outcome(iter(results), least)


def outcome(results: Any, least: int) -> tuple[Clause, ...] | str:
    try:
        return learn_clauses(results, least=least)
    except ConfigError as error:
        return str(error)


@given(st.lists(RESULTS, max_size=6), st.integers(1, 3), st.integers(1, 4))
def test_what_is_learned_raised_rewards_best_first(results: list[SearchResult], least: int, most: int) -> None:
    try:
        clauses = learn_clauses(results, least=least, most=most)
    except ConfigError:
        return
    assert 0 < len(clauses) <= most
    assert all(clause.worth > 0 for clause in clauses)
    assert list(clauses) == sorted(clauses, key=lambda clause: (-clause.worth, clause.text))
    assert {clause.text for clause in clauses} <= {clause.text for clause in CLAUSES}
    assert learn_clauses(results, least=least, most=99)[:most] == clauses


# Searches


def oblige(rows: Sequence[Row]) -> list[Continuation]:
    """Writes more words where nothing may be left out, fewer where it shall be brief, and some more by chance."""
    wanted = {"Leave nothing out.": 6, "Be brief.": -6}
    continuations = []
    for row in rows:
        words = 9 + sum(wanted.get(clause, 0) for clause in sentences(row.request.instruction)) + below(4, row.seed)
        continuations.append(Continuation(text="word " * words, new_tokens=words, finish_reason="stop"))
    return continuations


def by_length(request: Request, responses: Sequence[Response]) -> list[float]:
    return [float(len(response.text)) for response in responses]


def explain(request: Request, instruction: str, n: int, seed: int) -> list[str]:
    """Rewords, and adds a clause or none."""
    topic = request.instruction.removeprefix("How do I ").rstrip("?")
    added = ["", " Leave nothing out.", " Be brief.", " Be kind."]
    return [f"Explain how to {topic}.{added[below(4, seed, i)]}" for i in range(n)]


def instructions(numbers: range) -> list[str]:
    return [f"How do I fold paper number {number}?" for number in numbers]


def test_the_next_searches_are_better_for_it() -> None:
    earlier = DarwinSearch(policy=oblige, scorer=by_length, mutator=explain, config=SearchConfig(selector="none"))
    results = earlier.batch(instructions(range(30)), seed=4)
    clauses = learn_clauses(results)
    assert clauses[0].text == "Leave nothing out."
    assert {clause.text for clause in clauses} <= {"Leave nothing out.", "Be kind."}
    assert learn_clauses([SearchResult.from_json(result.to_json()) for result in results]) == clauses
    kinds = {"best_of_n": {"mutations": 6}, "learned_clauses": {"mutations": 6, "clauses": clauses}}
    found = {}
    for name, changes in kinds.items():
        search = DarwinSearch(policy=oblige, scorer=by_length, config=SearchConfig.preset(name, **changes))
        found[name] = search.batch(instructions(range(90, 100)), seed=4)
    for plain, learned in zip(found["best_of_n"], found["learned_clauses"], strict=True):
        assert learned.reward > plain.reward
        assert "Leave nothing out." in sentences(learned.instruction)
        assert learned.first_response == plain.first_response


@given(cases(["top_k"]))
def test_a_search_with_replacement_teaches_by_its_untouched_answers(case: Case) -> None:
    result = case.trace().result
    own = tuple(beam for beam in result.ranking if beam.ancestor is None)
    assert outcome([result], 1) == outcome([result.model_copy(update={"ranking": own})], 1)
