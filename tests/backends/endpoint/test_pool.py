"""Connections: how many a server sees, and what becomes of them after a fork and at the end of the interpreter."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from typing import Any

import pytest
from starlette.responses import JSONResponse, Response

from benchmarks.servers.launch import ROOT
from darwin_align.backends.endpoint.client import Endpoint, Reply, gather_all
from darwin_align.backends.endpoint.limits import Limits
from darwin_align.operators.portal import call
from tests.backends.endpoint.fixtures.wire import ReceivedRequest, Wire, scripted, wire

OK = {"fine": True}


def send(endpoint: Endpoint, n: int = 1) -> list[Any]:
    async def all_at_once() -> list[Reply]:
        return await gather_all([endpoint.post("/x", {}) for _ in range(n)])

    return [reply.data for reply in call(all_at_once)]


async def a_moment(received: ReceivedRequest) -> Response:
    await asyncio.sleep(1.5 if received.path == "/slow" else 0.02)
    return JSONResponse(OK)


def test_a_warm_connection_is_used_again() -> None:
    with wire(scripted(OK)) as served:
        endpoint, other = Endpoint(served.url), Endpoint(served.url)
        for _ in range(50):
            send(endpoint)
            send(other)
        assert (len(served.received), len(served.connections)) == (100, 1)


def test_no_more_connections_than_requests_at_a_time() -> None:
    with wire(a_moment) as served:
        endpoint = Endpoint(served.url, limits=Limits(concurrency=5))
        send(endpoint, 60)
        send(endpoint, 60)
        assert (len(served.received), served.peak, len(served.connections)) == (120, 5, 5)


def test_a_busy_server_opens_no_connections_to_a_quiet_one() -> None:
    """Some servers keep a thread for each: they must not see those that another server's traffic needed."""
    with wire(a_moment) as quiet, wire(a_moment) as busy:
        one, other = Endpoint(quiet.url, limits=Limits(concurrency=2)), Endpoint(busy.url, limits=Limits(concurrency=9))
        send(one, 4)
        send(other, 40)
        send(one, 20)
        assert [len(served.connections) for served in (quiet, busy)] == [2, 9]


def test_a_connection_that_the_server_closed_is_replaced() -> None:
    with wire(scripted(JSONResponse(OK, headers={"Connection": "close"}))) as served:
        endpoint = Endpoint(served.url)
        assert [send(endpoint) for _ in range(5)] == [[OK]] * 5
        assert endpoint.counts == {"requests": 5, "answers": 5}
        assert len(served.connections) == 5


def test_a_server_that_restarts_is_met_again() -> None:
    with wire(scripted(OK)) as served:
        endpoint = Endpoint(served.url, limits=Limits(backoff=0.01))
        send(endpoint)
        url = served.url
    port = int(url.rpartition(":")[2])
    with wire(scripted(OK), port=port) as served:
        assert served.url == url
        assert send(endpoint) == [OK]


# -- whole programs, in interpreters that show every warning

BEGIN = """
import asyncio, gc, logging, os, pickle, signal, sys, threading, time
from darwin_align.backends.endpoint.client import Endpoint, gather_all
from darwin_align.backends.endpoint.limits import Limits
from darwin_align.operators.portal import acall, call

# A slow machine is no fault.
logging.getLogger("asyncio").addFilter(lambda record: not record.getMessage().startswith("Executing"))
endpoint = Endpoint(sys.argv[1])

def send(path="/x"):
    return call(endpoint.post, path, {}).data

async def many(n=20, path="/x"):
    return len(await gather_all([endpoint.post(path, {}) for _ in range(n)]))

def in_child(work):
    sys.stdout.flush()
    if (pid := os.fork()) == 0:
        print("child", work())
        sys.exit(0)
    _, status = os.waitpid(pid, 0)
    print("ended", os.waitstatus_to_exitcode(status))
"""
PROGRAMS = {
    "nothing sent": ("print(endpoint.limits.attempts)", ["8"]),
    "every kind of caller": (
        """
async def main():
    return (await acall(endpoint.post, "/x", {})).data, call(many), sum(await asyncio.gather(acall(many), acall(many)))

print(send(), call(many))
print(asyncio.run(main()), asyncio.run(main()))
found = []
threads = [threading.Thread(target=lambda: found.append(asyncio.run(main())[2])) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
endpoint = pickle.loads(pickle.dumps(endpoint))
print(found, send())
""",
        [
            "{'fine': True} 20",
            "({'fine': True}, 20, 40) ({'fine': True}, 20, 40)",
            "[40, 40, 40, 40] {'fine': True}",
        ],
    ),
    "children, and children of children": (
        """
call(many)
in_child(lambda: 1)
in_child(lambda: (send(), in_child(lambda: call(many)), send())[2])
print(send())
""",
        ["child 1", "ended 0", "child 20", "ended 0", "child {'fine': True}", "ended 0", "{'fine': True}"],
    ),
    "a child of a parent that sent nothing": (
        "in_child(send)\nprint(send())",
        ["child {'fine': True}", "ended 0", "{'fine': True}"],
    ),
    "a child while requests are on their way": (
        """
send()
thread = threading.Thread(target=lambda: print(call(many, 5, "/slow")))
thread.start()
time.sleep(0.3)
in_child(lambda: (send(), gc.collect())[0])
thread.join()
print(send())
""",
        ["child {'fine': True}", "ended 0", "5", "{'fine': True}"],
    ),
    "an end with requests on their way": (
        """
send()
threading.Thread(target=call, args=(many, 30, "/slow"), daemon=True).start()
time.sleep(0.3)
print("end")
""",
        ["end"],
    ),
    "an interrupted call": (
        """
signal.signal(signal.SIGINT, signal.default_int_handler)  # programs in the background inherit deaf ears
send()
threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    send("/slow")
except KeyboardInterrupt:
    print("interrupted")
print(send())
""",
        ["interrupted", "{'fine': True}"],
    ),
}


@pytest.fixture(scope="module")
def served() -> Any:
    with wire(a_moment) as served:
        yield served


@pytest.mark.parametrize(
    "name", [name if i < 2 else pytest.param(name, marks=pytest.mark.slow) for i, name in enumerate(PROGRAMS)]
)
def test_programs_end_cleanly(name: str, served: Wire) -> None:
    program, printed = PROGRAMS[name]
    if "in_child" in program and not hasattr(os, "fork"):
        pytest.skip("no fork on this system")
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", BEGIN + program, served.url],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == printed


def test_a_forked_child_leaves_the_parents_connections_alone() -> None:
    """The parent's connections stay warm: no new one is made after the child came and went."""
    program = "send()\nin_child(lambda: [send() for _ in range(3)])\nsend()\n"
    with wire(a_moment) as served:  # of its own: a port that an earlier test left would count as an old connection
        subprocess.run(
            [sys.executable, "-c", BEGIN + program, served.url],
            cwd=ROOT,
            check=True,
            timeout=60,
            stdout=subprocess.DEVNULL,
        )
    assert len(served.received) == 5
    assert len(served.connections) == 2, "one of the parent, one of the child"
