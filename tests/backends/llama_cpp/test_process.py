"""The child process: shared, ended with its last user however that ends, and started again when it crashed."""

import gc
import json
import os
import signal
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep

import httpx
import pytest

from darwin_align import Request, Row, Sampling
from darwin_align.backends.llama_cpp import LlamaCppPolicy, gguf_file, memory
from darwin_align.core.errors import DeviceMemoryError, ModelLoadError
from darwin_align.operators.portal import call
from tests.processes import Process

ROW = Row(Request.of("How do I brew green tea?", sampling=Sampling(temperature=0.0)), 4, 1)
PROGRAM = """
import os, sys, time
from darwin_align import Request, Row
from darwin_align.backends.llama_cpp import LlamaCppPolicy
from darwin_align.operators.portal import call

policy = LlamaCppPolicy(sys.argv[1], slots=1, context=256, threads=1)
call(policy.generate, [Row(Request.of("Hi"), 2, 1)])
with open(sys.argv[2] + ".new", "w") as file:
    file.write(str(policy._server._child.process.pid))
os.replace(sys.argv[2] + ".new", sys.argv[2])
{then}
"""


def use(policy: LlamaCppPolicy) -> str:
    return str(call(policy.generate, [ROW]).answer[0].text)


def pid_of(policy: LlamaCppPolicy) -> int:
    assert policy._server._child is not None
    return policy._server._child.process.pid


def runs(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
        return state != "Z"
    return False


def ends(pid: int, within: float = 5.0) -> bool:
    end = monotonic() + within
    while monotonic() < end:
        if not runs(pid):
            return True
        sleep(0.05)
    return False


def start(gguf: Path, folder: Path, then: str) -> tuple[Process, int]:
    """A process that uses a policy, writes the server's pid to a file, and goes on."""
    written = folder / "pid"
    process = Process("-c", PROGRAM.format(then=then), str(gguf), str(written))
    end = monotonic() + 60
    while not written.exists() and process.poll() is None and monotonic() < end:
        sleep(0.05)
    return process, int(written.read_text(encoding="utf-8"))


def test_nothing_runs_before_the_first_use_and_all_policies_share_it(embedded_gguf: Path) -> None:
    one, two = (LlamaCppPolicy(embedded_gguf, slots=2, context=512, threads=1) for _ in range(2))
    other = LlamaCppPolicy(embedded_gguf, slots=3, context=512, threads=1)
    assert not one._server.alive
    assert use(one) == use(two)
    pid = pid_of(one)
    assert pid_of(two) == pid
    assert not other._server.alive
    del one
    gc.collect()
    assert use(two)
    assert runs(pid)
    del two
    gc.collect()
    assert ends(pid)


@pytest.mark.parametrize("then", ["", "raise SystemExit(3)", "os.kill(os.getpid(), 2)"])
def test_it_ends_with_the_interpreter(embedded_gguf: Path, tmp_path: Path, then: str) -> None:
    process, pid = start(embedded_gguf, tmp_path, then)
    process.wait(20)
    assert ends(pid)


def test_it_ends_when_its_parent_is_killed(embedded_gguf: Path, tmp_path: Path) -> None:
    process, pid = start(embedded_gguf, tmp_path, "time.sleep(60)")
    assert runs(pid)
    process.kill()
    assert process.wait(10) == -signal.SIGKILL
    assert ends(pid)


def test_it_ends_when_its_parent_is_killed_and_a_forked_child_lives_on(embedded_gguf: Path, tmp_path: Path) -> None:
    forks = "child = os.fork() or os.getpid(); os.getppid() == 1 or open(f'{sys.argv[2]}-{child}', 'w'); time.sleep(60)"
    process, pid = start(embedded_gguf, tmp_path, forks)
    end = monotonic() + 10
    while (
        len(forked := [int(path.name.partition("-")[2]) for path in tmp_path.glob("pid-*")]) < 1 and monotonic() < end
    ):
        sleep(0.05)
    process.kill()
    process.wait(10)
    try:
        assert ends(pid)
        assert runs(forked[0])
    finally:
        os.kill(forked[0], signal.SIGKILL)


def test_a_crash_is_mended_once(embedded_gguf: Path) -> None:
    policy = LlamaCppPolicy(embedded_gguf, slots=1, context=256, threads=1)
    before, pid = use(policy), pid_of(policy)
    os.kill(pid, signal.SIGKILL)
    assert use(policy) == before
    assert pid_of(policy) != pid


def test_it_wants_its_key(embedded_gguf: Path) -> None:
    policy = LlamaCppPolicy(embedded_gguf, slots=1, context=256, threads=1)
    url = policy._server.address()
    assert url.startswith("http://127.0.0.1:")
    reply = httpx.post(f"{url}/completion", json={"prompt": "Hi", "n_predict": 1}, trust_env=False)
    assert reply.status_code == httpx.codes.UNAUTHORIZED


def changed(source: Path, target: Path, change: Callable[[bytes], bytes]) -> Path:
    target.write_bytes(change(source.read_bytes()))
    return target


def renamed_architecture(data: bytes) -> bytes:
    name = b"general.architecture"
    at = data.index(name) + len(name) + 4
    assert data[at : at + 13] == struct.pack("<Q", 5) + b"llama"
    return data[: at + 8] + b"lxama" + data[at + 13 :]


def test_what_is_no_model_is_refused_with_its_own_reason(embedded_gguf: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="there is no file"):
        LlamaCppPolicy(tmp_path / "missing.gguf")
    (tmp_path / "page.gguf").write_text("<html>not found</html>", encoding="utf-8")
    with pytest.raises(ModelLoadError, match="is no GGUF file: it begins with b'<htm'"):
        LlamaCppPolicy(tmp_path / "page.gguf")
    with pytest.raises(ModelLoadError, match="cannot read"):
        LlamaCppPolicy(tmp_path)


@pytest.mark.parametrize("share", [0.00001, 0.01, 0.5])
def test_a_file_that_was_cut_is_broken(embedded_gguf: Path, tmp_path: Path, share: float) -> None:
    cut = changed(embedded_gguf, tmp_path / "cut.gguf", lambda data: data[: max(8, int(len(data) * share))])
    policy = LlamaCppPolicy(cut, slots=1, context=256, threads=1)
    with pytest.raises(ModelLoadError, match=r"is broken|cannot load"):
        use(policy)


def test_an_architecture_that_llama_cpp_does_not_know(
    embedded_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown = changed(embedded_gguf, tmp_path / "unknown.gguf", renamed_architecture)
    known = gguf_file.open_gguf(embedded_gguf)
    monkeypatch.setattr("darwin_align.backends.llama_cpp.server.open_gguf", lambda path: known)
    with pytest.raises(ModelLoadError, match="does not know the architecture"):
        use(LlamaCppPolicy(unknown, slots=1, context=256, threads=1))


def test_too_little_memory(embedded_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DeviceMemoryError, match="8 slots of 256 tokens take"):
        use(LlamaCppPolicy(embedded_gguf, row_memory=1000))
    monkeypatch.setattr("darwin_align.backends.llama_cpp.server.available_memory", lambda: 2**20)
    with pytest.raises(DeviceMemoryError, match="the model takes"):
        use(LlamaCppPolicy(embedded_gguf, slots=1, context=250))  # no other test has a server with these settings


@pytest.mark.slow
def test_memory_that_llama_cpp_does_not_get(embedded_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own reason, where no estimate of ours stops it before: the system refuses the child the memory."""
    monkeypatch.setattr("darwin_align.backends.llama_cpp.memory.available_memory", lambda: None)
    with pytest.raises(DeviceMemoryError, match="failed to allocate buffer"):
        use(LlamaCppPolicy(embedded_gguf, slots=1, context=2**26))  # 64 GiB


def test_the_context_follows_from_the_memory(embedded_gguf: Path) -> None:
    row_bytes = gguf_file.open_gguf(embedded_gguf).row_bytes
    assert row_bytes
    policy = LlamaCppPolicy(embedded_gguf, slots=2, threads=1, row_memory=2 * 300 * row_bytes)
    use(policy)
    assert policy.context_length == 300
    available = memory.available_memory()
    assert available is not None
    assert 2**20 < available < 2**45


def test_a_tokenizer_is_read_once(embedded_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DARWIN_ALIGN_CACHE", str(tmp_path))
    first = gguf_file.open_gguf(embedded_gguf)
    stamp = (first.folder / "tokenizer.json").stat().st_mtime_ns
    assert gguf_file.open_gguf(embedded_gguf) == first
    assert (first.folder / "tokenizer.json").stat().st_mtime_ns == stamp
    (first.folder / "gguf.json").write_text("{", encoding="utf-8")  # a disk that was full
    assert gguf_file.open_gguf(embedded_gguf) == first
    assert json.loads((first.folder / "gguf.json").read_text(encoding="utf-8"))["architecture"] == "llama"
    assert [path.name for path in (tmp_path / "gguf").iterdir()] == [first.folder.name]
