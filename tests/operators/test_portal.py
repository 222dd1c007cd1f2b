"""The portal: async methods reached from plain code and from any event loop."""

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from contextvars import ContextVar
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.runnables import RunnableLambda

from darwin_align import Population, Request, Response
from darwin_align.operators import FunctionScorer, WeightedSum
from darwin_align.operators.portal import acall, call, submits
from tests.core.kit import REQUEST

WHO: ContextVar[str] = ContextVar("WHO", default="nobody")
ENDED = Population.start(REQUEST, mutations=1).with_beams(
    {0: Population.start(REQUEST, mutations=1).beams[0].model_copy(update={"finish_reason": "stop"})}
)


async def who() -> tuple[str, str]:
    return WHO.get(), threading.current_thread().name


def plain_who() -> tuple[str, str]:
    return WHO.get(), threading.current_thread().name


async def test_async_methods_run_on_the_portal_in_the_callers_context() -> None:
    WHO.set("me")
    assert call(who) == ("me", "darwin-align-portal")
    assert await acall(who) == ("me", "darwin-align-portal")


async def test_plain_methods_run_here_or_in_a_thread_in_the_callers_context() -> None:
    WHO.set("me")
    assert call(plain_who) == ("me", threading.current_thread().name)
    name, thread = await acall(plain_who)
    assert name == "me"
    assert thread.startswith("darwin-align_")


async def test_nested_plain_and_async_methods() -> None:
    async def inner(x: int) -> int:
        return x + 1

    def middle(x: int) -> Any:
        return call(inner, x) + 10

    async def outer(x: int) -> Any:
        return await acall(middle, x) + await acall(inner, 0)

    assert call(outer, 1) == 13
    assert await acall(outer, 1) == 13


@pytest.mark.parametrize("error", [KeyError("k"), ValueError("v"), TimeoutError("t"), asyncio.CancelledError()])
async def test_errors_cross_as_they_are(error: BaseException) -> None:
    async def fails() -> None:
        raise error

    def fails_plainly() -> None:
        raise error

    for method in (fails, fails_plainly):
        with pytest.raises((type(error), asyncio.CancelledError)):
            await acall(method)
    if not isinstance(error, asyncio.CancelledError):
        with pytest.raises(type(error), match=str(error)):
            call(fails)


def test_plain_code_on_the_portal_cannot_wait_for_itself() -> None:
    async def outer() -> Any:
        return call(who)

    with pytest.raises(RuntimeError, match=r"plain code on the portal's loop waits for an async method"):
        call(outer)


@pytest.mark.parametrize("nested", [False, True])
async def test_cancelling_reaches_the_async_method(nested: bool) -> None:
    begun, cancelled = threading.Event(), threading.Event()

    async def endless(request: Request, responses: Sequence[Response]) -> list[float]:
        begun.set()
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return []

    scorer = FunctionScorer(function=endless)
    if nested:
        scorer = WeightedSum(scorers=(WeightedSum(scorers=(scorer,), weights=(1,)),), weights=(1,))
    task = asyncio.create_task(scorer.ainvoke(ENDED))
    assert await asyncio.to_thread(begun.wait, 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(cancelled.wait, 5)


async def test_cancelling_reaches_what_a_plain_method_asks_only_later() -> None:
    begun, go, ended = threading.Event(), threading.Event(), threading.Event()

    async def endless() -> None:
        await asyncio.sleep(3600)

    def plain() -> None:
        begun.set()
        go.wait(5)
        try:
            call(endless)
        finally:
            ended.set()

    task = asyncio.create_task(acall(plain))
    assert await asyncio.to_thread(begun.wait, 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go.set()
    assert await asyncio.to_thread(ended.wait, 5)


async def test_many_concurrent_async_scorers_inside_a_sum_do_not_lock_up() -> None:
    async def slow(request: Request, responses: Sequence[Response]) -> list[float]:
        await asyncio.sleep(0.02)
        return [1.0] * len(responses)

    part = FunctionScorer(function=slow)
    scorer = WeightedSum(scorers=(part, part), weights=(1.0, 0.5))
    start = time.monotonic()
    answers = await asyncio.wait_for(asyncio.gather(*[scorer.ainvoke(ENDED) for _ in range(64)]), 20)
    assert [answer.beams[0].reward for answer in answers] == [1.5] * 64
    assert time.monotonic() - start < 10


def test_many_threads_share_the_portal() -> None:
    async def double(x: int) -> int:
        await asyncio.sleep(0.001)
        return 2 * x

    results: dict[int, int] = {}
    threads = [threading.Thread(target=lambda x=x: results.update({x: call(double, x)})) for x in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert results == {x: 2 * x for x in range(50)}


@pytest.mark.parametrize("drive", ["invoke", "ainvoke"])
async def test_callbacks_reach_what_an_async_method_calls(drive: str) -> None:
    started: dict[str, Any] = {}

    class Trace(BaseCallbackHandler):
        def on_chain_start(self, serialized: Any, inputs: Any, **kwargs: Any) -> None:
            started[kwargs["name"]] = (kwargs["run_id"], kwargs.get("parent_run_id"))

    inner = RunnableLambda(lambda text: float(len(text)), name="inner")

    async def score(request: Request, responses: Sequence[Response]) -> list[float]:
        return [await inner.ainvoke(response.text) for response in responses]

    def plain(request: Request, responses: Sequence[Response]) -> list[float]:
        return [inner.invoke(response.text) for response in responses]

    for function in (score, plain):
        started.clear()
        scorer = FunctionScorer(function=function)
        config = {"callbacks": [Trace()]}
        await scorer.ainvoke(ENDED, config) if drive == "ainvoke" else scorer.invoke(ENDED, config)
        assert started["inner"][1] == started["FunctionScorer"][0]


PRELUDE = """
import asyncio, os, sys, time
from darwin_align.operators.portal import acall, call, submits
async def double(x):
    await asyncio.sleep(0.001)
    return 2 * x
async def endless():
    await asyncio.sleep(3600)
"""


def script(body: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", PRELUDE + body],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


EXITS = {
    "pending on the portal": """
from darwin_align.operators import portal
call(double, 1)
portal._the_portal().submit(endless())
time.sleep(0.1)
""",
    "cancelled behind a plain method": """
async def main():
    try:
        await asyncio.wait_for(acall(lambda: call(endless)), 0.2)
    except TimeoutError:
        pass
asyncio.run(main())
""",
    "a daemon thread still waits": """
import threading
threading.Thread(target=call, args=(endless,), daemon=True).start()
time.sleep(0.1)
""",
    "unused": "",
}


@pytest.mark.parametrize(
    "case", [name if name == "pending on the portal" else pytest.param(name, marks=pytest.mark.slow) for name in EXITS]
)
def test_the_interpreter_exits_cleanly(case: str) -> None:
    start = time.monotonic()
    done = script(EXITS[case] + "print('end')")
    assert (done.returncode, done.stdout.strip()) == (0, "end")
    assert done.stderr == ""
    assert time.monotonic() - start < 15


def test_a_forked_child_starts_its_own_portal() -> None:
    done = script("""
assert call(double, 1) == 2
child = os.fork()
if child == 0:
    assert call(double, 21) == 42
    assert asyncio.run(acall(double, 4)) == 8
    assert asyncio.run(acall(lambda: 5)) == 5
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert call(double, 3) == 6
print("end")
""")
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "end", "")


# -- methods that submit


class Queue:
    """Work that is done elsewhere, when the test says so."""

    def __init__(self) -> None:
        self.futures: list[Future[int]] = []
        self.threads: list[threading.Thread] = []

    @submits
    def submit(self, number: int) -> Future[int]:
        self.threads.append(threading.current_thread())
        self.futures.append(Future())
        return self.futures[-1]


async def test_submitted_work_is_awaited_without_a_thread() -> None:
    queue = Queue()
    asking = [asyncio.create_task(acall(queue.submit, n)) for n in range(300)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert len(queue.futures) == 300, "nobody waits for a thread of the pool"
    assert set(queue.threads) == {threading.current_thread()}
    for n, future in enumerate(queue.futures):
        future.set_result(n * n)
    assert await asyncio.gather(*asking) == [n * n for n in range(300)]


async def test_cancelling_the_task_cancels_what_it_submitted() -> None:
    queue = Queue()
    asking = asyncio.create_task(acall(queue.submit, 1))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert queue.futures[0].cancelled()


def test_plain_code_waits_for_submitted_work() -> None:
    queue = Queue()
    threading.Timer(0.05, lambda: queue.futures[0].set_result(7)).start()
    assert call(queue.submit, 1) == 7


async def test_submitted_work_below_a_plain_method_is_cancelled_with_it() -> None:
    queue = Queue()
    asking = asyncio.create_task(acall(lambda: call(queue.submit, 1)))
    while not queue.futures:
        await asyncio.sleep(0.01)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    for _ in range(200):
        if queue.futures[0].cancelled():
            break
        await asyncio.sleep(0.01)
    assert queue.futures[0].cancelled()
