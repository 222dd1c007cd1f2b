"""The 25 kinds of instructions, strict and loose: what each takes and refuses."""

import json
from pathlib import Path
from typing import Any

import pytest

from darwin_align.core.errors import ConfigError
from darwin_align.evaluation.ifeval import KINDS, Instruction, Prompt, followed, read_prompts, rules_of
from darwin_align.operators.scorers.rules import MaxWords
from tests.evaluation.kit import official

GERMAN = "Lassen Sie den Tee drei Minuten ziehen und geben Sie dann Milch dazu."
ENGLISH = "Let the tea steep for three minutes and then add some milk."
CASES: list[tuple[str, dict[str, Any], list[str], list[str]]] = [
    ("keywords:existence", {"keywords": ["tea", "milk"]}, ["Milky TEA"], ["Tea"]),
    ("keywords:frequency", {"keyword": "tea", "relation": "at least", "frequency": 2}, ["tea Teapot"], ["tea"]),
    ("keywords:frequency", {"keyword": "tea", "relation": "less than", "frequency": 2}, ["tea", "milk"], ["tea tea"]),
    ("keywords:forbidden_words", {"forbidden_words": ["tea", "milk"]}, ["teapot"], ["Hot tea."]),
    ("keywords:letter_frequency", {"letter": "E", "let_relation": "at least", "let_frequency": 2}, ["Eve"], ["me"]),
    ("keywords:letter_frequency", {"letter": "!", "let_relation": "less than", "let_frequency": 1}, ["Go"], ["Go!"]),
    ("language:response_language", {"language": "de"}, [GERMAN, "1 + 1"], [ENGLISH]),
    ("length_constraints:number_sentences", {"relation": "less than", "num_sentences": 2}, ["Go."], ["Go. Now."]),
    ("length_constraints:number_sentences", {"relation": "at least", "num_sentences": 2}, ["Go! Now"], ["Go"]),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, ["a\n***\nb"], ["a\n\nb", "a\n***\nb\n***\nc"]),
    ("length_constraints:number_words", {"relation": "less than", "num_words": 3}, ["a b"], ["a b c"]),
    ("length_constraints:number_words", {"relation": "at least", "num_words": 3}, ["a b c"], ["a b"]),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Tea"},
        ["a\n\ntea, b", 'a\n\n"Tea" b'],
        ["a\n\nb", "tea\n\nb", "a\n\ntea\n\nb"],
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, ["[a] [b]"], ["[a]"]),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, ["Bye.\nP.S. Call"], ["Bye.\nPS Call"]),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, ["Bye.\nP.P.S Call"], ["Bye.\nP.S. Call"]),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, ["* a\n* b", "- a\n* b"], ["* a", "* a\n* b\n* c"]),
    ("detectable_format:constrained_response", {}, ["My answer is no."], ["No.", "my answer is no."]),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, ["*a* **b**"], ["*a*"]),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "SECTION", "num_sections": 2},
        ["SECTION 1\na\nSECTION 2\nb"],
        ["Section 1\na\nSection 2\nb"],
    ),
    ("detectable_format:json_format", {}, ['```json\n{"a": 1}\n```', "[]"], ["Here: {}"]),
    ("detectable_format:title", {}, ["<<Tea>>\nBoil"], ["<Tea>", "<< >>"]),
    ("combination:two_responses", {}, ["a ****** b"], ["a", "a ****** a", "a ****** b ****** c"]),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say hello."}, ["say hello. Hello"], ["Hello. Say hello."]),
    ("startend:end_checker", {"end_phrase": "Any questions?"}, ["Bye. any questions?"], ["Any questions? Bye"]),
    ("startend:quotation", {}, ['"Tea"'], ["Tea", '"Tea" it is']),
    (
        "change_case:capital_word_frequency",
        {"capital_relation": "at least", "capital_frequency": 2},
        ["A TEA"],
        ["TEA"],
    ),
    (
        "change_case:capital_word_frequency",
        {"capital_relation": "less than", "capital_frequency": 2},
        ["Tea"],
        ["A TEA"],
    ),
    ("change_case:english_capital", {}, [ENGLISH.upper()], [ENGLISH, GERMAN.upper()]),
    ("change_case:english_lowercase", {}, [ENGLISH.lower()], [ENGLISH, GERMAN.lower()]),
    ("punctuation:no_comma", {}, ["Tea"], ["Tea, milk"]),
]


@pytest.mark.parametrize(("kind", "kwargs", "kept", "broken"), CASES, ids=[case[0] for case in CASES])
def test_kinds(kind: str, kwargs: dict[str, Any], kept: list[str], broken: list[str]) -> None:
    instruction = Instruction(kind, rules_of(kind, {**kwargs, "other": None}))
    assert [instruction.follows(answer) for answer in kept] == [True] * len(kept)
    assert [instruction.follows(answer) for answer in broken] == [False] * len(broken)
    assert not instruction.follows("  ")
    assert sum(rule.weight for rule in instruction.rules) == pytest.approx(1.0)


def test_all_25_kinds_are_there() -> None:
    assert {case[0] for case in CASES} == KINDS.keys()
    assert len(KINDS) == 25


def prompt_of(**kinds: dict[str, Any]) -> Prompt:
    return Prompt(1, "Go.", tuple(Instruction(kind, rules_of(kind, kwargs)) for kind, kwargs in kinds.items()))


@pytest.mark.parametrize(
    ("answer", "strict", "loose"),
    [
        ("Tea", True, True),
        ("Sure, here it is:\nTea", False, True),
        ("Tea\nIs it good, or bad?", False, True),
        ("Sure, tea:\nTea\nGood, or bad?", False, True),
        ("Well, then", False, False),
        ("Sure, here it is:\n", False, False),  # nothing is left of it
    ],
)
def test_loose_leaves_out_the_first_and_the_last_line(answer: str, strict: bool, loose: bool) -> None:
    prompt = prompt_of(**{"punctuation:no_comma": {}})
    assert followed(prompt, answer) == {"strict": [strict], "loose": [loose]}


def test_loose_leaves_out_asterisks() -> None:
    prompt = prompt_of(
        **{"startend:quotation": {}, "detectable_format:number_highlighted_sections": {"num_highlights": 1}}
    )
    assert followed(prompt, '**"Tea"**') == {"strict": [False, True], "loose": [True, True]}


def test_the_scorer_of_a_prompt_rewards_its_instructions_alike() -> None:
    prompt = prompt_of(**{"keywords:existence": {"keywords": ["tea", "milk"]}, "punctuation:no_comma": {}})
    assert [rule.weight for rule in prompt.scorer.rules] == [0.5, 0.5, 1.0]
    assert [one.decides for one in prompt.instructions] == ["kept", "broken"]


def line(**changes: Any) -> str:
    data = {"key": 1, "prompt": "Go.", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}], **changes}
    return json.dumps(data) + "\n"


def test_prompts_are_read(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    kwargs = [{"num_words": 5, "relation": "less than", "language": None}]
    file.write_text(line() + line(key=2, instruction_id_list=["length_constraints:number_words"], kwargs=kwargs))
    one, two = read_prompts(file)
    assert (one.key, one.text, two.instructions[0].rules) == (1, "Go.", (MaxWords(4),))
    assert one.digest != two.digest


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no objects"),
        ("{", "is neither a JSON list nor one JSON object a line"),
        ('{"key": 1}', r"entry 1 is no prompt of IFEval \(KeyError: 'prompt'\)"),
        (line(kwargs=[]), "as many kwargs"),
        (line(instruction_id_list=["punctuation:no_commas"]), "did you mean 'punctuation:no_comma'"),
        (line(instruction_id_list=["length_constraints:number_words"]), "needs 'relation' in its kwargs"),
        (
            line(
                instruction_id_list=["length_constraints:number_words"],
                kwargs=[{"relation": "at most", "num_words": 1}],
            ),
            "a relation is one of 'at least' and 'less than'",
        ),
        (line(prompt=" "), "a prompt needs a text"),
        (line() + line(), "the key 1 is there twice"),
    ],
)
def test_other_files_are_refused(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_prompts(file)
    with pytest.raises(ConfigError, match="cannot read"):
        read_prompts(tmp_path / "none.jsonl")


def test_the_published_prompts_are_read() -> None:
    prompts = read_prompts(official("real/ifeval.jsonl"))
    assert {one.kind for prompt in prompts for one in prompt.instructions} == KINDS.keys()
