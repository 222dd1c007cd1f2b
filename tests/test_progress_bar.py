"""``progress=True``: a bar while a search runs, and none when it ended, however it did."""

import asyncio
import contextlib
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from darwin_align import DarwinChatModel, DarwinSearch, SearchConfig
from darwin_align.backends.scripted import ScriptedPolicy, ScriptedScorer
from darwin_align.batch import run_batch
from darwin_align.core.errors import MissingPackageError
from darwin_align.langchain import progress_bar

CONFIG = SearchConfig(cycles=2, mutations=2, max_new_tokens=6, replacement_period=2, mutator="identity", survivors=1)


def search_of(**given: Any) -> DarwinSearch:
    return DarwinSearch(policy=ScriptedPolicy(), scorer=ScriptedScorer(), config=CONFIG, **given)


@pytest.fixture
def ended() -> Any:
    """Checks after the test that no bar is left, nor the thread that draws it."""
    yield
    assert progress_bar._display._tasks == 0
    for thread in threading.enumerate():
        if type(thread).__module__.startswith("rich."):
            thread.join(10)  # rich tells it to end, and does not wait
            assert not thread.is_alive()


def test_one_search_has_one_bar(ended: None, capsys: pytest.CaptureFixture[str]) -> None:
    result = search_of(progress=True).invoke("Say [bold]something good\x1b[31m.", seed=1)
    shown = capsys.readouterr()
    assert shown.out == ""
    [line] = shown.err.splitlines()
    assert "Say [bold]something good" in line
    assert "\x1b[31m" not in line
    assert f"cycle 2/2 · {result.usage.decoded_tokens} tokens · reward {result.reward:.3g}" in line


def test_off_by_default_and_a_call_decides(ended: None, capsys: pytest.CaptureFixture[str]) -> None:
    search_of().invoke("Hi", seed=1)
    search_of(progress=True).invoke("Hi", seed=1, progress=False)
    assert capsys.readouterr().err == ""
    same = search_of().invoke("Hi", seed=1, progress=True)
    assert "cycle 2/2" in capsys.readouterr().err
    assert same.best == search_of().invoke("Hi", seed=1).best


def test_it_moves_with_tokens_and_with_the_budget(ended: None, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    monkeypatch.setattr(progress_bar._display, "update", lambda task, **fields: seen.append(fields["completed"]))
    search_of(progress=True).invoke("Hi", seed=1, mutations=2)
    assert seen == sorted(seen)
    assert {0.5, 1.0} <= {*seen}
    assert len({*seen}) > 4
    seen.clear()
    search_of(progress=True).invoke("Hi", seed=1, cycles=50, budget={"tokens": 60})
    assert seen[-1] == 1
    assert seen[-2] > 0.5


def test_a_batch_shares_one_display(ended: None, capsys: pytest.CaptureFixture[str]) -> None:
    model = DarwinChatModel(search=search_of(progress=True))
    assert len(model.batch(["one", "two", "three"])) == 3
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
def test_an_error_ends_it(ended: None, error: BaseException) -> None:
    def stop(*_: object) -> None:
        raise error

    with pytest.raises(type(error)):
        search_of(progress=True).invoke("Hi", seed=1, on_event=stop)


async def test_a_cancelled_and_an_abandoned_search_end_it(ended: None) -> None:
    begun, loop = asyncio.Event(), asyncio.get_running_loop()

    async def slow(request: object, responses: list[str]) -> list[float]:
        loop.call_soon_threadsafe(begun.set)  # this runs in another thread's loop
        await asyncio.sleep(60)
        return [0.0] * len(responses)

    search = DarwinSearch(policy=ScriptedPolicy(), scorer=slow, config=CONFIG, progress=True)
    task = asyncio.create_task(search.ainvoke("Hi"))
    await begun.wait()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    steps = search_of().steps("Hi", progress=True)
    next(steps)
    assert progress_bar._display._tasks == 1
    steps.close()


def test_a_chat_model_takes_it_and_it_decides_no_answer(ended: None, capsys: pytest.CaptureFixture[str]) -> None:
    parts: dict[str, Any] = {"policy": ScriptedPolicy(), "scorer": ScriptedScorer(), "config": CONFIG}
    shown, silent = DarwinChatModel(progress=True, **parts), DarwinChatModel(**parts)
    shown.invoke("Hi")
    assert "cycle 2/2" in capsys.readouterr().err
    list(silent.stream("Hi", progress=True))
    assert "cycle 2/2" in capsys.readouterr().err
    assert silent._get_llm_string(progress=True) == silent._get_llm_string()
    assert "progress" not in shown._identifying_params


def test_run_batch_keeps_its_own(ended: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in.jsonl").write_text('{"prompt": "Hi"}\n')
    run_batch(search_of(progress=True), tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    assert "cycle" not in capsys.readouterr().err


@pytest.mark.parametrize(("module", "notebook"), [("rich.console", False), ("ipywidgets", True)])
def test_a_missing_package_is_named_before_anything_is_spent(
    ended: None, module: str, notebook: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if notebook:
        monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    monkeypatch.setitem(sys.modules, module, None)
    policy = ScriptedPolicy()
    search = DarwinSearch(policy=policy, scorer=ScriptedScorer(), config=CONFIG, progress=True)
    with pytest.raises(MissingPackageError, match=r"darwin-align\[notebook\]" if notebook else r"\[progress\]"):
        search.invoke("Hi", on_event=lambda *_: pytest.fail("something was answered"))


@pytest.mark.slow
def test_a_notebook_shows_it_in_the_cell() -> None:
    cell = """
from darwin_align import DarwinSearch
from darwin_align.backends.scripted import ScriptedPolicy, ScriptedScorer
search = DarwinSearch(policy=ScriptedPolicy(), scorer=ScriptedScorer(), progress=True)
search.invoke("Say something good.", seed=1, mutator="identity", cycles=1).text
"""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the client's own event loop
        NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    shown = str(notebook.cells[0].outputs) + str(notebook.metadata.get("widgets", ""))
    assert "cycle 1/1" in shown
    assert "Warning" not in shown
