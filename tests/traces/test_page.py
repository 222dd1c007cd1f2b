"""The page by a strict parser: nothing of a user's comes alive, nothing comes from outside, and all is shown."""

import base64
import hashlib
import re
from html import unescape
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darwin_align import Request, SearchConfig, SearchResult, traces
from darwin_align.core import Message, ToolCall
from darwin_align.traces import Trace
from darwin_align.traces.markup import element, plain
from tests.core.kit import search_of, trace
from tests.core.test_in_tool_call import Caller
from tests.test_trace import RELAY
from tests.traces.kit import by_id, known, of_class, parsed, said, spoken

EVIL = [
    "</script><img src=x onerror=alert(1)>",
    "<svg/onload=alert(2)>",
    "'\"><b>",
    "&amp;",
    "<!--",
    "]]>",
    "\x07",
    "\u202e",
]
CSS = (Path(traces.__file__).parent / "page.css").read_text(encoding="utf-8")
TAGS = frozenset(
    re.findall(
        r"\w+",
        """html head meta title style body header main aside section footer h1 h2 h3 p div span a b bdi br strong small
        kbd pre ins del dl dt dd ul li table thead tbody tfoot tr th td details summary figure figcaption button script
        svg g path rect circle text""",
    )
)
SMALL: dict[str, Any] = {"max_new_tokens": 20, "replacement_period": 4, "cycles": 2}


def own(page: str) -> list[str]:
    """Every element of a page and its attributes, by name."""
    return sorted(f"{e.tag} {' '.join(sorted(e.attrib))}" for e in parsed(page).iter() if isinstance(e.tag, str))


def test_the_answer_is_marked_by_its_writers() -> None:
    tree = parsed(Trace.of(known(RELAY)).to_html())
    [answer, *_] = of_class(by_id(tree, "answer"), "answer-text")
    assert [(part.get("data-name"), said(part)) for part in answer] == [("2", "bb"), ("1", "aa"), ("3", "cc")]
    assert [part.get("class") for part in answer] == ["part c1", "part c0", "part c2"]
    assert [part.get("title") for part in answer] == ["Beam 2, step 1", "Beam 1, step 2", "Beam 3, step 3"]
    [legend] = of_class(by_id(tree, "answer"), "legend")
    assert [said(entry) for entry in legend] == [
        f"{i} Beam {i} · 33% · step {step}" for i, step in [(2, 1), (1, 2), (3, 3)]
    ]


def test_the_answers_way_is_drawn_in_its_writers_colours() -> None:
    tree = parsed(Trace.of(known(RELAY)).to_html())
    [picture] = of_class(tree, "lineage")
    assert [path.get("class") for path in of_class(picture, "path")] == ["path c1", "path c0", "path c2"]
    beams = of_class(picture, "beam")
    assert [beam.get("href") for beam in beams] == ["#beam-1-1", "#beam-1-2", "#beam-1-3", "#beam-1-4"]
    shown = [said(next(iter(beam))) for beam in beams]
    assert shown[2] == (
        "Beam 3 of cycle 1: took the state of beam 2 after step 1, took the state of beam 1 after step 2, ended, "
        "reward 9.00, kept in the archive."
    )
    assert shown[3] == "The plain sample: ended, reward 0.00."


def test_every_link_has_its_place_and_every_picture_its_words() -> None:
    tree = parsed(Trace.of(spoken()).to_html())
    ids = [e.get("id") for e in tree.iter() if e.get("id")]
    assert len(ids) == len(set(ids))
    targets = {e.get("href", "") for e in tree.iter("a")}
    assert targets <= {f"#{name}" for name in ids}
    for attribute in ("aria-labelledby", "aria-controls"):
        assert {e.get(attribute) for e in tree.iter() if e.get(attribute)} <= set(ids)
    for picture in tree.iter("svg"):
        assert picture.get("aria-hidden") == "true" or said(next(iter(picture))).strip()
    for section in tree.iter("section"):
        assert said(by_id(tree, section.get("aria-labelledby", "")))


def test_instructions_show_the_words_that_changed() -> None:
    tree = parsed(Trace.of(known(RELAY)).to_html())
    rows = of_class(by_id(tree, "instructions"), "beam-row")
    assert [[said(e) for e in row.iter("ins")] for row in rows] == [[" a"], [" b"], [" c"], []]


@pytest.mark.parametrize("seed", range(3))
def test_what_users_and_models_write_stays_text(seed: int) -> None:
    page = Trace.of(spoken("".join(EVIL), words=[*EVIL, "and"], seed=seed, **SMALL)).to_html()
    elements = own(page)
    assert {e.split(" ", 1)[0] for e in elements} <= TAGS
    assert not [e for e in elements if re.search(r" (on\w+|src|style)\b", e)]
    assert page.count("<script") == 1
    assert "\u202e" not in page


def test_an_evil_answer_is_read_back_as_it_was() -> None:
    result = spoken(words=EVIL[:6], **SMALL)
    tree = parsed(Trace.of(result).to_html())
    [answer, *_] = of_class(by_id(tree, "answer"), "answer-text")
    assert said(answer) == result.text
    frame = parsed(f"<!DOCTYPE html><title>x</title>{result._repr_html_()}")
    [inner] = [e.get("srcdoc", "") for e in frame.iter("iframe")]
    [answer, *_] = of_class(parsed(inner), "answer-text")
    assert said(answer) == result.text


@given(st.text(max_size=40))
def test_any_text_survives_as_text_and_as_an_attribute(text: str) -> None:
    page = f"<!DOCTYPE html><title>x</title>{element('p', text, title=text)}"
    [paragraph] = parsed(page).iter("p")
    # A parser drops nothing else, and takes a lone line feed as it is.
    assert said(paragraph) == plain(text)
    assert paragraph.get("title") == plain(text)


@pytest.mark.parametrize("instruction", ["كيف أحضر الشاي الأخضر؟", "怎么泡绿茶？", "👩‍🔬 👍🏽?"])
def test_any_script_is_taken_and_answered(instruction: str) -> None:
    result = spoken(instruction, words=["مرحبا", "绿茶", "👩‍🔬", "नमस्ते", "tea"], **SMALL)
    page = Trace.of(result).to_html()
    page.encode()
    [heading] = parsed(page).iter("h1")
    assert said(heading) == plain(instruction)
    assert heading.get("dir") == "auto"


def test_nothing_comes_from_outside_and_only_our_script_runs() -> None:
    page = Trace.of(spoken()).to_html()
    assert not re.search(r"https?:|//[a-z]|url\(|@import|\bsrc=|javascript:", page.replace("// Everything", "").lower())
    [policy] = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    for tag, rule in (("style", "style-src"), ("script", "script-src")):
        [inside] = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{rule} 'sha256-{digest}';" in policy
    assert policy.startswith("default-src 'none';")
    assert " style=" not in page  # the policy would refuse it


def test_a_cell_shows_the_answer_in_a_frame_of_its_own() -> None:
    result = known(RELAY)
    cell = result._repr_html_()
    assert cell is not None
    [frame] = parsed(f"<!DOCTYPE html><title>x</title>{cell}").iter("iframe")
    assert frame.get("sandbox") == ""
    inner = parsed(frame.get("srcdoc", ""))
    assert "Reward 9.00 · +9.00 over the plain sample" in said(inner)
    assert len(of_class(inner, "lineage")) == 1
    assert not list(inner.iter("script"))
    assert len(unescape(cell)) < 40_000


def test_failures_budgets_and_plain_samples_say_so() -> None:
    run = trace(search_of(), SearchConfig(cycles=2, replacement_period=4, max_new_tokens=40, seed=3), fails_at=9)
    tree = parsed(Trace.of(run.result).to_html())
    [failure] = of_class(tree, "failure")
    assert "the server is gone" in said(failure)
    assert said(failure).startswith("The select operator failed for good.")
    spent = said(parsed(Trace.of(spoken(budget={"tokens": 50})).to_html()))
    assert "budget of tokens" in spent
    sampled = said(parsed(Trace.of(spoken(cycles=0)).to_html()))
    assert "The plain sample: no beam did better." in sampled
    assert "Plain sample" in sampled
    assert "(empty)" in said(parsed(Trace.of(search_of(ends=1.0).invoke("Hi", seed=1)).to_html()))


def test_the_whole_request_is_reported_tools_and_all() -> None:
    call = ToolCall(name="boil", arguments={"water": "<hot>"}, id="call-1")
    turns = (
        Message(role="system", content="Be brief."),
        Message(role="user", content=[{"type": "text", "text": "Tea?"}, {"type": "image", "url": "data:x"}]),
        Message(role="assistant", tool_calls=(call,)),
        Message(role="tool", content="It boils.", tool_call_id="call-1"),
    )
    tools = ({"type": "function", "function": {"name": "boil"}},)
    request = Request(conversation=turns, tools=tools)
    config = SearchConfig(seed=1, cycles=1, max_new_tokens=9)
    result = trace(search_of(policy=Caller()), config, request=request).result
    shown = said(by_id(parsed(Trace.of(result).to_html()), "request"))
    for words in ("Be brief.", '"text": "Tea?"', "boil(", '"water": "<hot>"', "It boils.", '"name": "boil"', "call-1"):
        assert words in shown


@pytest.fixture(scope="module")
def large() -> SearchResult:
    return spoken(mutations=15, cycles=3, replacement_period=40, max_new_tokens=2000)


def test_fifteen_beams_of_fifty_steps_in_three_cycles_fit(large: SearchResult) -> None:
    shown = Trace.of(large)
    page = shown.to_html()
    beams, points = 46, sum(len(lane.points) for lane in shown.lineage().lanes)
    assert points > 2000
    assert len(page) < 1_600_000
    assert len(page) < 60_000 + 3 * len(large.text) + 14_000 * beams + 500 * points
    tree = parsed(page)
    assert len(of_class(tree, "beam-row")) == beams
    assert said(of_class(by_id(tree, "answer"), "answer-text")[0]) == large.text


def test_long_texts_of_others_lose_their_middle_and_the_answer_keeps_all() -> None:
    words = ["long" * 100]
    result = spoken("Ask " * 5000, words=words, cycles=1, max_new_tokens=60)
    tree = parsed(Trace.of(result).to_html())
    assert said(of_class(by_id(tree, "answer"), "answer-text")[0]) == result.text
    others = [said(e) for e in of_class(by_id(tree, "instructions"), "answer-text")]
    assert max(map(len, others)) < 6100
    assert all(re.search(r" … [\d,]+ characters … ", text) for text in others)


# --- colours


def colours(block: str) -> dict[str, tuple[float, float, float]]:
    found = re.findall(r"--([\w-]+): #([0-9a-f]{3,6})\b", block)
    return {name: rgb(code if len(code) == 6 else "".join(c * 2 for c in code)) for name, code in found}


def rgb(code: str) -> tuple[float, float, float]:
    red, green, blue = (int(code[i : i + 2], 16) / 255 for i in (0, 2, 4))
    return linear(red), linear(green), linear(blue)


def linear(value: float) -> float:
    return float(value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4)


THEMES = [colours(block) for block in re.findall(r":root \{(.*?)\}", CSS, re.DOTALL)]
# Machado, Oliveira and Fernandes 2009, at full severity: normal, protan, deutan and tritan eyes.
EYES = {
    "normal": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protan": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deutan": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.01182, 0.04294, 0.968881)),
    "tritan": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.3039)),
}


def times(rows: Any, values: Any) -> list[float]:
    return [sum(a * b for a, b in zip(row, values, strict=True)) for row in rows]


def oklab(colour: Any) -> list[float]:
    cone = times(
        ((0.4122214708, 0.5363325363, 0.0514459929), (0.2119034982, 0.6806995451, 0.1073969566),
         (0.0883024619, 0.2817188376, 0.6299787005)),
        [min(1.0, max(0.0, value)) for value in colour],
    )  # fmt: skip
    return times(
        ((0.2104542553, 0.793617785, -0.0040720468), (1.9779984951, -2.428592205, 0.4505937099),
         (0.0259040371, 0.7827717662, -0.808675766)),
        [value ** (1 / 3) for value in cone],
    )  # fmt: skip


def contrast(one: Any, other: Any) -> float:
    dark, bright = sorted(sum(w * v for w, v in zip((0.2126, 0.7152, 0.0722), c, strict=True)) for c in (one, other))
    return float((bright + 0.05) / (dark + 0.05))


@pytest.mark.parametrize("theme", THEMES, ids=["light", "dark", "print"])
def test_colours_stand_out_from_the_ground(theme: dict[str, tuple[float, float, float]]) -> None:
    for name in ("ink", "muted", "link", "added-ink", "removed-ink"):
        assert contrast(theme[name], theme["ground"]) >= 4.5, name
    assert contrast(theme["added-ink"], theme["added"]) >= 4.5
    assert contrast(theme["warn"], theme["warn-ground"]) >= 4.5
    for name in (*(f"c{i}" for i in range(8)), "plain"):
        assert contrast(theme[name], theme["ground"]) >= 3, name


@pytest.mark.parametrize("theme", THEMES, ids=["light", "dark", "print"])
@pytest.mark.parametrize("eye", EYES)
def test_beams_are_distinguished_by_every_eye(theme: dict[str, tuple[float, float, float]], eye: str) -> None:
    seen = [oklab(times(EYES[eye], theme[f"c{i}"])) for i in range(8)]
    for one, other in combinations(seen, 2):
        assert sum((a - b) ** 2 for a, b in zip(one, other, strict=True)) ** 0.5 > 0.075


def test_every_trace_of_a_file_gives_the_same_page() -> None:
    shown = Trace.of(known(RELAY))
    assert Trace.from_json(shown.to_json()).to_html() == shown.to_html()
