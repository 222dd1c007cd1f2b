"""Processes killed between any two system calls, and in the middle of any write: nothing is lost, nothing is torn."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from darwin_align.storage.journal import Journal
from tests.storage.killed_writers import LINES, NEW, OLD

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def writers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("killed")
    subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.storage.killed_writers", str(folder)],
        check=True,
        cwd=ROOT,
        timeout=60,
    )
    return folder


@pytest.fixture
def killed(writers: Path, tmp_path: Path) -> list[Path]:
    """The folders of killed writers, for this test alone."""
    return sorted(shutil.copytree(writers, tmp_path / "killed").iterdir())


def done(folder: Path, what: str) -> int:
    done_file = folder / "done"
    return done_file.read_text().count(what) if done_file.exists() else 0


def test_writers_were_killed_everywhere(killed: list[Path]) -> None:
    assert len(killed) >= 30
    assert {(done(folder, "j"), done(folder, "f")) for folder in killed} == {
        *((n, 0) for n in range(len(LINES) + 1)),
        (len(LINES), 1),
        (len(LINES), 2),
    }
    journals = [path.read_bytes() for folder in killed if (path := journal_of(folder)).exists()]
    assert len([data for data in journals if data and not data.endswith(b"\n")]) == len(LINES)


def journal_of(folder: Path) -> Path:
    return folder / "deep" / "journal.jsonl"


def test_a_killed_journal_holds_what_was_appended_and_is_gone_on_with(killed: list[Path]) -> None:
    for folder in killed:
        acknowledged = done(folder, "j")
        with Journal(journal_of(folder)) as journal:  # a killed process holds no lock
            kept = [line.rstrip(b"\n") for line in journal.lines()]
            assert kept == LINES[: len(kept)], folder
            assert acknowledged <= len(kept) <= acknowledged + 1, folder
            for line in LINES[len(kept) :]:
                journal.append(line)
        assert journal_of(folder).read_bytes() == b"".join(line + b"\n" for line in LINES), folder


def test_a_file_written_atomically_is_never_seen_in_part(killed: list[Path]) -> None:
    for folder in killed:
        file, times = folder / "file", done(folder, "f")
        found = file.read_bytes() if file.exists() else None
        assert found in {0: (None, OLD), 1: (OLD, NEW), 2: (NEW,)}[times], folder
        beside = {path.name for path in folder.iterdir()} - {"done", "deep", "file"}
        assert all(name.startswith(".") and name.endswith(".tmp") for name in beside), folder
        assert len(beside) <= 1


WRITER = """
import sys
from pathlib import Path
from darwin_align.storage.journal import Journal
with Journal(Path(sys.argv[1])) as journal:
    for number in range(sum(1 for _ in journal.lines()), 10**9):
        journal.append(b'{"n":%d,"text":"%s"}' % (number, b"x" * 3000))
        if number % 1000 == 20:
            print("on", flush=True)
"""


def test_killed_from_outside_while_it_writes(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "on\n"
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    with Journal(path) as journal:
        kept = list(journal.lines())
    assert len(kept) >= 21
    assert [line.partition(b",")[0] for line in kept] == [b'{"n":%d' % number for number in range(len(kept))]
    assert path.read_bytes() == b"".join(kept)
