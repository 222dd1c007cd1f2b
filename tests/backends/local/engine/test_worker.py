"""The engine's thread, with an engine that only records its messages."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
import weakref

import pytest
import torch

from darwin_align.backends.local.engine.worker import Worker, cores, fastest_threads, limit_threads

SOON = 20


class Engine:
    """Takes words; ``work(n)`` keeps it busy for n rounds."""

    def __init__(self):
        self.taken: list[object] = []
        self.rounds = 0
        self.work = 0
        self.pause = 0.0
        self.gate = threading.Event()
        self.gate.set()
        self.changed = threading.Condition()
        self.modes: list[bool] = []

    @property
    def busy(self):
        return self.work > 0

    def enqueue(self, message):
        with self.changed:
            self.taken.append(message)
            self.modes.append(torch.is_inference_mode_enabled())
            self.work += message if isinstance(message, int) else 0
            self.changed.notify_all()

    def round(self):
        assert self.gate.wait(SOON)
        with self.changed:
            self.rounds, self.work = self.rounds + 1, self.work - 1
            self.taken.append("round")
            self.changed.notify_all()
            return self.pause

    def forget(self):
        self.taken.clear()

    def wait_for(self, condition):
        with self.changed:
            assert self.changed.wait_for(lambda: condition(self), SOON)


@pytest.fixture
def engine():
    return Engine()


@pytest.fixture
def worker(engine):
    worker = Worker(engine)
    yield worker
    worker.close()
    worker.join(SOON)


def idle(worker):
    """Wait until the thread sleeps."""
    end = time.monotonic() + SOON
    while not worker._wake._waiters:
        assert time.monotonic() < end
        time.sleep(0.001)
    with worker._wake:
        assert not worker._messages


def ends(thread):
    thread.join(SOON)
    return not thread.is_alive()


def test_messages_arrive_in_order_on_one_thread_in_inference_mode(engine, worker):
    assert worker._thread is None
    for word in range(-300, 0):
        assert worker.put(str(word))
        if word % 50 == 0:
            idle(worker)
    engine.wait_for(lambda engine: len(engine.taken) == 300)
    assert engine.taken == [str(word) for word in range(-300, 0)]
    assert engine.rounds == 0
    assert all(engine.modes)
    assert sum(thread is worker._thread for thread in threading.enumerate()) == 1
    assert worker._thread.daemon


def test_an_engine_works_as_long_as_it_is_busy_and_hears_messages_between_rounds(engine, worker):
    engine.gate.clear()
    worker.put(5)
    engine.wait_for(lambda engine: engine.taken)
    worker.put("word")
    worker.put(2)
    engine.gate.set()
    engine.wait_for(lambda engine: not engine.busy)
    assert engine.taken == [5, "round", "word", 2, *["round"] * 6]
    idle(worker)
    assert engine.rounds == 7


def test_a_pause_ends_by_itself(engine, worker):
    engine.pause = 0.05
    before = time.monotonic()
    worker.put(4)
    engine.wait_for(lambda engine: engine.rounds == 4)
    assert time.monotonic() - before > 0.14


def test_a_pause_ends_with_a_message_and_with_the_worker(engine, worker):
    engine.pause = 10.0 * SOON
    worker.put(5)
    for rounds in (1, 2, 3):
        engine.wait_for(lambda engine, rounds=rounds: engine.rounds == rounds)
        idle(worker)
        assert engine.rounds == rounds
        worker.put("word")
    engine.wait_for(lambda engine: engine.rounds == 4)
    assert engine.taken == [5, "round", "word", "round", "word", "round", "word", "round"]
    idle(worker)
    worker.close()
    assert ends(worker._thread)


def test_there_is_no_pause_before_a_message_that_came_during_the_round(engine, worker):
    engine.pause = 10.0 * SOON
    engine.gate.clear()
    worker.put(2)
    engine.wait_for(lambda engine: engine.taken)
    worker.put("word")
    engine.gate.set()
    engine.wait_for(lambda engine: engine.taken == [2, "round", "word", "round"])


def test_the_thread_ends_with_its_engine():
    engine = Engine()
    worker = Worker(engine)
    worker.put("word")
    engine.wait_for(lambda engine: engine.taken)
    idle(worker)
    gone = weakref.ref(engine)
    del engine
    gc.collect()
    assert gone() is None
    assert ends(worker._thread)
    assert not worker.put("late")


def test_the_thread_ends_with_an_engine_that_holds_its_worker_in_a_circle():
    engine = Engine()
    engine.worker = worker = Worker(engine)
    engine.itself = engine
    worker.put("word")
    engine.wait_for(lambda engine: engine.taken)
    idle(worker)
    thread = worker._thread
    del engine, worker
    gc.collect()
    assert ends(thread)


def test_an_engine_with_work_in_hand_finishes_it_before_it_goes():
    engine = Engine()
    worker, gate, taken = Worker(engine), engine.gate, engine.taken
    gate.clear()
    worker.put(3)
    engine.wait_for(lambda engine: engine.taken)
    gone = weakref.ref(engine)
    del engine
    gc.collect()
    assert gone() is not None
    gate.set()
    assert ends(worker._thread)
    assert taken == [3, "round", "round", "round"]
    assert gone() is None


def test_nothing_is_taken_after_the_end(engine, worker):
    worker.put("word")
    engine.wait_for(lambda engine: engine.taken)
    worker.close()
    assert ends(worker._thread)
    assert worker.put("late") is False
    assert engine.taken == ["word"]


def test_a_worker_that_never_worked_ends_without_a_thread(engine, worker):
    worker.close()
    worker.join(SOON)
    assert worker.put("late") is False
    assert worker._thread is None


def test_closing_ends_the_thread_between_rounds(engine, worker):
    engine.gate.clear()
    worker.put(10**9)
    engine.wait_for(lambda engine: engine.taken)
    worker.close()
    engine.gate.set()
    assert ends(worker._thread)
    assert engine.rounds <= 1


def in_thread(function):
    found = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join()
    return found[0]


def test_a_limit_of_threads_is_for_its_own_thread_and_no_other():
    torch.set_num_threads(2)  # the fixture of this folder sets it back
    closing = threading.Event()
    begun = threading.Event()
    elsewhere = []

    def other():
        torch.get_num_threads()
        begun.set()
        assert closing.wait(SOON)
        elsewhere.append(torch.get_num_threads())

    def limited():
        limit_threads(1, 2)
        return torch.get_num_threads(), in_thread(torch.get_num_threads)

    bystander = threading.Thread(target=other)
    bystander.start()
    assert begun.wait(SOON)
    assert in_thread(limited) == (1, 2)
    closing.set()
    bystander.join()
    assert elsewhere == [2]
    assert torch.get_num_threads() == 2
    assert in_thread(torch.get_num_threads) == 2


def test_a_limit_can_be_raised_and_lowered_again():
    def limited():
        numbers = []
        for threads in (2, 2, 1, 2):
            limit_threads(threads, 1)
            numbers.append((torch.get_num_threads(), in_thread(torch.get_num_threads)))
        return numbers

    assert in_thread(limited) == [(2, 1), (2, 1), (1, 1), (2, 1)]


@pytest.mark.parametrize(("seconds", "most", "expected"), [
    ({1: 0.05, 2: 0.01, 3: 0.05}, 3, 2),
    ({1: 0.05, 2: 0.03, 4: 0.01}, 4, 4),
    ({1: 0.02, 2: 0.02, 4: 0.0}, 4, 1),
])  # fmt: skip
def test_threads_are_added_as_long_as_each_step_gains(seconds, most, expected):
    tried = []

    def work():
        tried.append(torch.get_num_threads())
        time.sleep(seconds[tried[-1]])

    assert in_thread(lambda: fastest_threads(work, most)) == expected
    assert set(tried) == set(seconds) - ({4} if expected == 1 else set())


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinities here")
def test_cores_are_those_that_the_thread_may_run_on():
    def bound():
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        return cores()

    assert in_thread(bound) == 1
    assert cores() == len(os.sched_getaffinity(0))


HEAD = """
import atexit, os, signal, sys, threading, time
atexit.register(lambda: print("thread ended", not worker._thread.is_alive()))  # the last to be called
from darwin_align.backends.local.engine.worker import Worker

class Engine:
    busy = False
    def __init__(self): self.taken, self.forgot, self.came = [], 0, threading.Event()
    def enqueue(self, message): self.taken.append((message, threading.current_thread())); self.came.set()
    def round(self): time.sleep(0.01)
    def forget(self): self.forgot += 1

engine = Engine()
worker = Worker(engine)
signal.alarm(30)
def put(message):
    engine.came.clear()
    assert worker.put(message)
    assert engine.came.wait(20)
    return engine.taken[-1]
"""


def run(script):
    return subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:__main__", "-c", HEAD + script],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
def test_a_forked_child_has_a_thread_of_its_own_and_the_parent_keeps_its_own():
    done = run("""
before = put("parent")[1]
locked = threading.Event()
def hold():  # somebody is in the middle of a call while another thread forks
    with worker._wake:
        locked.set()
        time.sleep(1)
threading.Thread(target=hold, daemon=True).start()
locked.wait()
worker._messages.append(("of the parent", None))
child = os.fork()
if child == 0:
    signal.alarm(20)
    assert (engine.forgot, worker._thread, len(worker._messages)) == (1, None, 0)
    message, thread = put("child")
    assert message == "child" and thread is not before and thread.is_alive()
    sys.exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert put("parent again")[1] is before and engine.forgot == 0
assert [message for message, _ in engine.taken] == ["parent", "of the parent", "parent again"]
print("done")
""")
    assert done.stdout.splitlines() == ["thread ended True", "done", "thread ended True"]
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
def test_a_worker_that_was_closed_serves_in_a_child_and_a_busy_one_lets_the_interpreter_go():
    done = run("""
worker.close()
child = os.fork()
if child == 0:
    signal.alarm(20)
    put("child")
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
worker.reset()
put("busy for ever")
Engine.busy = True
put("and ever")
print("done")
""")
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\nthread ended True\n", "")
