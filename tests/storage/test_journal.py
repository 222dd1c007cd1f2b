"""Journals: lines whole or not at all, on disks that are full, fail or forbid, and in files of somebody else."""

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from darwin_align.core.errors import ConfigError, DarwinError
from darwin_align.storage.journal import Journal
from tests.storage.kit import FailsFrom, files_synced, half_then_full, irregular, no_space

LINES = [b'{"id":"%d"}' % n for n in range(5)]
WHOLE = b"".join(line + b"\n" for line in LINES)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.jsonl"


def read(path: Path, **how: Any) -> list[bytes]:
    with Journal(path, **how) as journal:
        return list(journal.lines())


def extend(path: Path, lines: list[bytes] = LINES, **how: Any) -> None:
    """Go on with a journal, as a program does that was told to write these lines."""
    with Journal(path, **how) as journal:
        for line in lines[sum(1 for _ in journal.lines()) :]:
            journal.append(line)


def test_lines_come_back_in_folders_that_are_made(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "journal.jsonl"
    extend(path)
    assert path.read_bytes() == WHOLE
    assert read(path) == [line + b"\n" for line in LINES]
    assert read(path) == [line + b"\n" for line in LINES]


@pytest.mark.parametrize("cut", range(1, len(LINES[0]) + 2))
def test_an_unfinished_last_line_is_taken_off(path: Path, cut: int) -> None:
    path.write_bytes(WHOLE[:-cut])
    assert b"".join(read(path, line_starts=(b'{"id":',))) == path.read_bytes() == WHOLE[: -len(LINES[0]) - 1]
    extend(path, line_starts=(b'{"id":',))
    assert path.read_bytes() == WHOLE


@pytest.mark.parametrize("left", range(1, len(LINES[0]) + 1))
def test_a_journal_of_only_an_unfinished_line_is_begun_anew(path: Path, left: int) -> None:
    path.write_bytes(WHOLE[:left])
    extend(path, line_starts=(b'{"settings":', b'{"id":'))
    assert path.read_bytes() == WHOLE


@pytest.mark.parametrize("end", [b"my notes", b"\x00" * 9, b'{"name":', b"[", b' {"id":"x"}'])
def test_an_end_that_is_somebody_elses_is_left_as_it_is(path: Path, end: bytes) -> None:
    path.write_bytes(WHOLE + end)
    with Journal(path, line_starts=(b'{"id":',)) as journal:
        lines = journal.lines()
        assert [next(lines) for _ in range(len(LINES) + 1)][-1] == end  # its owner refuses it, and reads no further
    assert path.read_bytes() == WHOLE + end


def test_a_last_line_without_a_line_feed_that_its_owner_takes_is_ended(path: Path) -> None:
    path.write_bytes(WHOLE + b' {"id":"by hand"}')
    with Journal(path, line_starts=(b'{"id":',)) as journal:
        assert len(list(journal.lines())) == len(LINES) + 1
        journal.append(b'{"id":"next"}')
    assert path.read_bytes() == WHOLE + b' {"id":"by hand"}\n{"id":"next"}\n'


def test_nothing_is_appended_behind_an_end_that_was_not_read(path: Path) -> None:
    path.write_bytes(WHOLE[:-3])
    with Journal(path) as journal:
        next(journal.lines())
        with pytest.raises(RuntimeError, match="must be read to its end"):
            journal.append(b"{}")
    assert path.read_bytes() == WHOLE[:-3]


def test_begun_anew_it_holds_nothing_of_before(path: Path) -> None:
    path.write_bytes(b"somebody's notes")
    with Journal(path, anew=True) as journal:
        journal.append(b"{}")
    assert path.read_bytes() == b"{}\n"


def test_one_that_another_run_holds_is_not_emptied(path: Path) -> None:
    with Journal(path) as first:
        first.append(b"{}")
        with pytest.raises(ConfigError, match="another process is writing"):
            Journal(path, anew=True)
    assert path.read_bytes() == b"{}\n"


def test_a_second_run_is_refused_until_the_first_closes(path: Path) -> None:
    first = Journal(path)
    with pytest.raises(
        ConfigError, match=r"another process is writing to .*journal.jsonl: wait for it to end, or give another --out"
    ):
        Journal(path, advice="give another --out")
    with pytest.raises(ConfigError, match="another process"):  # the refused one left the lock as it was
        Journal(path)
    first.close()
    first.close()
    extend(path)
    assert os.listdir(path.parent) == [path.name]  # no file of the lock is left


# -- disks that are full or fail


@pytest.mark.parametrize("at", range(12))
@pytest.mark.parametrize("name", ["write", "fsync", "ftruncate"])
def test_a_disk_that_is_full_at_any_moment_loses_and_tears_nothing(
    name: str, at: int, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = LINES[0] + b"\n" + LINES[1][:-3]  # so that there is something to take off
    path.write_bytes(begun)
    with monkeypatch.context() as patch:
        patch.setattr(os, name, FailsFrom(getattr(os, name), at))
        try:
            extend(path)
        except DarwinError as error:
            assert "No space left on device" in str(error)  # noqa: PT017 - it may also have passed
            assert "what is in it stays good; run the command again once there is room" in str(error)  # noqa: PT017
        else:
            assert at >= {"write": 4, "fsync": 5, "ftruncate": 1}[name]
    kept = path.read_bytes()
    assert kept == begun or (kept == WHOLE[: len(kept)] and kept.endswith(b"\n"))
    extend(path)
    assert path.read_bytes() == WHOLE


def test_a_line_that_was_written_in_part_is_taken_off_and_the_next_one_follows(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Journal(path) as journal:
        journal.append(LINES[0])
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", half_then_full(os.write))
            with pytest.raises(DarwinError, match="No space left on device"):
                journal.append(LINES[1])
        assert path.read_bytes() == LINES[0] + b"\n"
        journal.append(LINES[2])
    assert path.read_bytes() == LINES[0] + b"\n" + LINES[2] + b"\n"


def test_an_unfinished_line_that_cannot_be_taken_off_is_the_last(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Journal(path) as journal:
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", half_then_full(os.write))
            patch.setattr(os, "ftruncate", no_space)
            with pytest.raises(DarwinError, match="No space left"):
                journal.append(LINES[0])
        with pytest.raises(DarwinError, match="an earlier line could not be written"):
            journal.append(LINES[1])
    assert path.read_bytes() == LINES[0][: (len(LINES[0]) + 1) // 2]
    extend(path)
    assert path.read_bytes() == WHOLE


def test_an_interrupted_append_leaves_no_part_of_a_line(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write

    def interrupted(file: int, data: bytes) -> int:
        write(file, data[:5])
        raise KeyboardInterrupt

    with Journal(path) as journal:
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", interrupted)
            with pytest.raises(KeyboardInterrupt):
                journal.append(LINES[0])
        journal.append(LINES[1])
    assert path.read_bytes() == LINES[1] + b"\n"


def test_short_writes_are_written_on(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:3]))
    extend(path)
    assert path.read_bytes() == WHOLE


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_disk_that_is_full_from_the_start_is_no_wrong_setting(
    path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def fails(*_: object, **__: object) -> Any:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "open", fails)
    with pytest.raises(DarwinError, match="once there is room") as caught:
        Journal(path)
    assert not isinstance(caught.value, ConfigError)


def test_a_disk_that_cannot_be_read_is_said(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extend(path)
    with Journal(path) as journal:
        monkeypatch.setattr(os, "lseek", FailsFrom(os.lseek, 0))
        with pytest.raises(DarwinError, match=r"journal.jsonl \(No space left"):
            list(journal.lines())


# -- what is put on the disk, and when


def test_each_line_is_put_on_the_disk_before_append_returns(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Journal(path) as journal:
        synced = files_synced(monkeypatch)
        for number, line in enumerate(LINES, 1):
            journal.append(line)
            assert synced == [str(path)] * number


def test_or_only_so_often_and_at_the_end(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("darwin_align.storage.journal.monotonic", lambda: now[0])
    journal = Journal(path, sync_seconds=1.0)
    synced = files_synced(monkeypatch)
    for line, seconds, times in zip(LINES, (0.5, 0.9, 1.0, 1.9, 2.0), (0, 0, 1, 1, 2), strict=True):
        now[0] = seconds
        journal.append(line)
        assert len(synced) == times
    journal.sync()
    assert len(synced) == 3
    journal.close()
    assert synced == [str(path)] * 4


def test_the_names_of_new_files_and_folders_are_put_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = files_synced(monkeypatch)
    folder = tmp_path / "new" / "newer"
    Journal(folder / "journal.jsonl").close()
    assert set(synced) == {str(tmp_path), str(folder.parent), str(folder), str(folder / "journal.jsonl")}


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_that_cannot_synchronise_folders_is_used_all_the_same(
    path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    sync = os.fsync

    def fsync(file: int) -> None:
        if os.readlink(f"/proc/self/fd/{file}") == str(path.parent):
            raise OSError(code, os.strerror(code))
        sync(file)

    monkeypatch.setattr(os, "fsync", fsync)
    extend(path)
    assert path.read_bytes() == WHOLE


def test_so_is_a_folder_that_may_not_be_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_file = os.open

    def opens(name: Any, *how: Any) -> int:
        if Path(name) == path.parent:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return open_file(name, *how)

    monkeypatch.setattr(os, "open", opens)
    extend(path)
    assert path.read_bytes() == WHOLE


# -- files and folders that cannot be used


@pytest.mark.parametrize("what", ["mkdir", "open"])
def test_a_folder_that_forbids_writing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    def forbidden(*_: object, **__: object) -> Any:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(*((os, what) if what == "open" else (Path, what)), forbidden)
    with pytest.raises(ConfigError, match=r"cannot write to .*Read-only file system\): give another --out"):
        Journal(tmp_path / "new" / "journal.jsonl", advice="give another --out")


def test_so_is_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot write to"):
        Journal(tmp_path / "file" / "journal.jsonl")


@pytest.mark.parametrize("kind", ["device", "folder", "pipe", "socket"])
def test_what_is_no_regular_file_is_refused_at_once(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    path = irregular(kind, Path("journal.jsonl"))
    with pytest.raises(ConfigError, match=rf"{path} is a {kind}: give a regular file"):
        Journal(path)


def in_threads(work: Callable[[int], object], count: int) -> None:
    threads = [threading.Thread(target=work, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_lines_of_several_threads_are_all_whole(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:4]))  # threads take turns between the parts
    with Journal(path) as journal:

        def work(thread: int) -> None:
            for number in range(5):
                journal.append(b'{"thread":%d,"n":%d}' % (thread, number))

        in_threads(work, 4)
    assert sorted(read(path)) == sorted(b'{"thread":%d,"n":%d}\n' % (t, n) for t in range(4) for n in range(5))
