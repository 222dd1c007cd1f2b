"""The page in a real browser: it asks for nothing, complains of nothing, and is used by mouse and by keyboard."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from darwin_align.traces import write_html
from tests.traces.browser import NAMES, Page, browser, found
from tests.traces.kit import known, spoken
from tests.traces.test_page import EVIL, RELAY

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        found() is None, reason=f"NO BROWSER: the page was not tried in one (none of {', '.join(NAMES)})"
    ),
]
SHEET = "document.getElementById('sheet')"


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture
def page(tab: Page, tmp_path: Path) -> Iterator[Page]:
    """The relay's page, fresh; afterwards it must have asked for nothing but itself and complained of nothing."""
    path = write_html(known(RELAY), tmp_path / "relay.html")
    tab.requests.clear()
    tab.complaints.clear()
    tab.size(1200, 900)
    tab.media()
    tab.open(path)
    yield tab
    assert tab.requests == [path.as_uri()]
    assert tab.complaints == []


def test_a_beam_that_is_clicked_shows_its_details(page: Page) -> None:
    assert page.run(f"{SHEET}.hidden") is True
    page.click('a.beam[href="#beam-1-3"] .hit')
    assert page.run(f"{SHEET}.hidden") is False
    inner_text = page.run(f"{SHEET}.innerText")
    for words in ("Beam 3, cycle 1", "Write c", "reward 9.00", "took beam 2’s text", "took beam 1’s text"):
        assert words in inner_text
    assert page.run("document.querySelector('a.beam[aria-expanded=true]').getAttribute('href')") == "#beam-1-3"
    page.click("#close")
    assert page.run(f"{SHEET}.hidden") is True


def test_the_legend_opens_the_beam_that_it_names(page: Page) -> None:
    page.click("#answer .legend a")
    assert "Beam 2, cycle 1" in page.run(f"{SHEET}.innerText")


def test_all_is_reached_by_keyboard(page: Page) -> None:
    page.run("document.querySelector('a.beam').focus()")
    page.press("ArrowDown")
    assert page.run("document.activeElement.getAttribute('href')") == "#beam-1-2"
    page.press("ArrowUp")
    page.press("Enter")
    assert "Beam 1, cycle 1" in page.run(f"{SHEET}.innerText")
    assert page.run("document.activeElement.textContent") == "Beam 1, cycle 1"
    page.press("Escape")
    assert page.run(f"{SHEET}.hidden") is True
    assert page.run("document.activeElement.getAttribute('href')") == "#beam-1-1"
    page.press(" ")
    assert page.run(f"{SHEET}.hidden") is False
    page.press("Escape")
    for _ in range(40):
        page.press("Tab")
        if page.run("document.activeElement.localName") == "summary":
            break
    page.press("Enter")
    assert page.run("document.activeElement.parentElement.open") is True


def test_a_screen_reader_finds_beams_as_buttons_with_their_story(page: Page) -> None:
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    named = {(n["role"]["value"], n.get("name", {}).get("value", "")) for n in nodes if not n["ignored"]}
    assert ("button", "The plain sample: ended, reward 0.00.") in named
    assert any(
        role == "button" and name.startswith("Beam 3 of cycle 1: took the state of beam 2") for role, name in named
    )
    assert {("heading", "Write"), ("heading", "Lineage"), ("region", "Rewards")} <= named


def test_it_is_dark_where_the_reader_likes_it_dark(page: Page, tmp_path: Path) -> None:
    ground = "getComputedStyle(document.documentElement).backgroundColor"
    assert page.run(ground) == "rgb(255, 255, 255)"
    page.media(scheme="dark")
    assert page.run(ground) == "rgb(15, 18, 22)"
    page.media("print", "dark")
    assert page.run(ground) == "rgb(255, 255, 255)"
    assert page.pdf(tmp_path / "relay.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize("width", [320, 390, 768, 1200])
def test_nothing_sticks_out(page: Page, width: int) -> None:
    page.size(width, 800)
    assert page.run("document.documentElement.scrollWidth") <= width


def test_without_scripts_links_lead_to_open_details(tab: Page, tmp_path: Path) -> None:
    path = write_html(known(RELAY), tmp_path / "relay.html")
    tab.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        tab.open(path)
        tab.click('a.beam[href="#beam-1-3"] .hit')
        assert tab.run("document.getElementById('beam-1-3').closest('details').open") is True
    finally:
        tab.call("Emulation.setScriptExecutionDisabled", value=False)


def test_what_is_evil_stays_inert(tab: Page, tmp_path: Path) -> None:
    result = spoken("".join(EVIL), words=[*EVIL, "and"], cycles=1, max_new_tokens=40)
    path = write_html(result, tmp_path / "evil.html")
    cell = tmp_path / "cell.html"
    cell.write_text(f"<!DOCTYPE html><meta charset=utf-8>{result._repr_html_()}", encoding="utf-8")
    for file in (path, cell):
        tab.requests.clear()
        tab.complaints.clear()
        tab.open(file)
        assert [url for url in tab.requests if not url.startswith("about:")] == [file.as_uri()]
        assert tab.complaints == []
        assert tab.run("document.images.length") == 0


def test_a_large_search_opens_and_answers_quickly(tab: Page, tmp_path: Path) -> None:
    path = write_html(
        spoken(mutations=15, cycles=3, replacement_period=40, max_new_tokens=2000), tmp_path / "large.html"
    )
    tab.size(1200, 900)
    tab.complaints.clear()
    tab.open(path)
    assert tab.run("performance.getEntriesByType('navigation')[0].loadEventStart") < 5000
    tab.click('a.beam[href="#beam-2-9"] .hit')
    assert "Beam 9, cycle 2" in tab.run(f"{SHEET}.innerText")
    assert tab.run("document.documentElement.scrollWidth") <= 1200
    assert tab.complaints == []
