"""Results that take long: made once a key, off every lock, bounded by count, bytes and time."""

import asyncio
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from darwin_align import DarwinChatModel
from darwin_align.backends.local.constraints import GrammarConstraint
from darwin_align.core.errors import RequestError
from darwin_align.core.types import Request
from darwin_align.formats import grammars as module
from darwin_align.formats.compilations import Compilations
from darwin_align.formats.grammars import Compiled
from darwin_align.operators.portal import acall, off_loop, submits


def cache(**bounds) -> Compilations[str]:
    return Compilations(len, **{"most": 8, "most_bytes": 1000, "seconds": 30, **bounds})


def test_many_who_ask_for_one_key_wait_for_one_making_and_others_do_not():
    made, begun, go = [], threading.Event(), threading.Event()
    kept = cache()

    def slow():
        made.append("slow")
        begun.set()
        assert go.wait(30)
        return "slow"

    with ThreadPoolExecutor(5) as pool:
        waiting = [pool.submit(kept.get, b"slow", slow) for _ in range(4)]
        assert begun.wait(30)
        assert pool.submit(kept.get, b"quick", lambda: "quick").result(30) == "quick"
        assert not any(one.done() for one in waiting)
        go.set()
        assert [one.result(30) for one in waiting] == ["slow"] * 4
    assert made == ["slow"]


def test_refusals_are_remembered_and_other_failures_are_not():
    made, kept = [], cache()

    def failing(error):
        made.append(error)
        raise error

    for _ in range(3):
        with pytest.raises(RequestError, match="never"):
            kept.get(b"refused", lambda: failing(RequestError("never")))
        with pytest.raises(RuntimeError, match="now"):
            kept.get(b"broken", lambda: failing(RuntimeError("not now")))
    assert [str(error) for error in made].count("never") == 1
    assert [str(error) for error in made].count("not now") == 3


def test_the_least_recently_used_are_dropped_by_count_and_by_bytes():
    kept = cache(most=3)
    for key in b"abc":
        kept.get(bytes([key]), lambda: "x")
    kept.get(b"a", lambda: "made anew")
    kept.get(b"d", lambda: "x")
    assert kept.get(b"a", lambda: "made anew") == "x"
    assert kept.get(b"b", lambda: "made anew") == "made anew"
    assert len(kept) == 3
    kept.get(b"large", lambda: "x" * 990)
    assert (len(kept), kept.size) == (3, 1000)
    for number in range(9):
        with pytest.raises(RequestError):
            kept.get(b"refused %d" % number, refused)
    assert len(kept) <= 3


def refused() -> str:
    raise RequestError("no")


def test_what_takes_too_long_is_refused_now_and_later_and_its_place_is_free():
    go, kept = threading.Event(), cache(seconds=0.2, at_once=1)
    for _ in range(2):
        with pytest.raises(RequestError, match=r"more than 0.2 s to compile"):
            kept.get(b"slow", lambda: str(go.wait(60)))
    assert kept.get(b"quick", lambda: "quick") == "quick"
    go.set()


def test_schemas_are_compiled_off_the_event_loop(monkeypatch):
    """Also those of tools that nobody forces, which are needed only when rows are queued."""
    where = []
    real = Compiled._compile
    monkeypatch.setattr(Compiled, "_compile", lambda self: where.append(threading.current_thread().name) or real(self))
    tool = {"type": "function", "function": {"name": "heat", "parameters": {"type": "object", "properties": {}}}}
    model = DarwinChatModel(cycles=0, seed=1, max_tokens=8)
    monkeypatch.setattr(model.search.policy_for()._constraints, "_compiled", cache_of_grammars())

    async def ask() -> None:
        await model.ainvoke("Hi", tools=[tool], tool_choice="auto")
        await model.ainvoke("Hi", response_format={"type": "json_object"})

    asyncio.run(ask())
    assert where == ["darwin-align-compile"] * 2


def cache_of_grammars() -> Compilations:
    return Compilations(lambda one: 0, most=9, most_bytes=9, seconds=60)


def test_a_grammar_that_recompiling_does_not_help_is_not_compiled_for_ever(monkeypatch):
    policy = DarwinChatModel().search.policy_for()
    request = Request.of("x", response_format={"type": "json_schema", "json_schema": {"schema": {"const": "tea"}}})
    compiled = policy._constraints.find(request)
    before = compiled.generation
    for _ in range(module._MAX_FAILED_RECOMPILES + 5):
        with pytest.raises(RequestError, match="does not keep"):
            GrammarConstraint(compiled, [5, 6, 7])
    assert compiled.generation - before <= module._MAX_FAILED_RECOMPILES


def test_those_who_find_a_grammar_exhausted_share_the_next():
    policy = DarwinChatModel().search.policy_for()
    request = Request.of("x", response_format={"type": "json_schema", "json_schema": {"schema": {"const": "milk"}}})
    compiled = policy._constraints.find(request)
    constraints = [GrammarConstraint(compiled, []) for _ in range(5)]
    for constraint in constraints:
        assert constraint._retry_recompiled(lambda: True)
    assert compiled.generation == 1


# -- calls that return futures, off the loop


async def test_cancelling_a_call_off_the_loop_cancels_what_it_queued():
    inner, queued = Future(), threading.Event()

    @submits
    def submit():
        return off_loop(lambda: (queued.set(), inner)[1])

    task = asyncio.create_task(acall(submit))
    while not queued.is_set():
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    end = time.monotonic() + 30
    while not inner.cancelled():
        assert time.monotonic() < end
        await asyncio.sleep(0.01)


async def test_errors_and_results_come_through():
    def fails():
        raise RequestError("no")

    with pytest.raises(RequestError, match="no"):
        await asyncio.wrap_future(off_loop(fails))
    there: Future[int] = Future()
    there.set_result(7)
    assert await asyncio.wrap_future(off_loop(lambda: there)) == 7
