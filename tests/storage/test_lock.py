"""One run a file."""

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from darwin_align.core.errors import ConfigError
from darwin_align.storage import lock as module
from darwin_align.storage.lock import lock

HOLDER = """
import os, sys
from pathlib import Path
from darwin_align.storage.lock import lock
file = os.open(sys.argv[1], os.O_RDWR)
lock(file, Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    return path


@pytest.fixture
def file(path: Path) -> Iterator[int]:
    file = os.open(path, os.O_RDWR)
    yield file
    os.close(file)


def test_another_process_is_refused_until_the_first_one_ends(path: Path, file: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", HOLDER, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(ConfigError, match=rf"another process is writing to {path}: wait for it to end, or go away"):
            lock(file, path, advice="go away")
        holder.kill()
        holder.wait()
    lock(file, path)
    assert path.read_bytes() == b"content"
    assert list(path.parent.iterdir()) == [path]


def test_it_is_let_go_when_the_file_is_closed(path: Path, file: int) -> None:
    first = os.open(path, os.O_RDWR)
    lock(first, path)
    with pytest.raises(ConfigError, match="another process"):
        lock(file, path)
    os.close(first)
    lock(file, path)


def test_a_file_system_without_locks_is_said(path: Path, file: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(file: int, *, blocking: bool) -> bool:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(module, "lock_descriptor", no_locks)
    with pytest.raises(ConfigError, match=r"cannot lock .*No locks available.*give another output on a file system"):
        lock(file, path)
