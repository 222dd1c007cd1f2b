"""Files that are written as a whole or not at all."""

import os
import threading
from pathlib import Path

import pytest

from darwin_align.core.errors import DarwinError
from darwin_align.storage.atomic import replace_file, write_atomically
from tests.storage.kit import FailsFrom, files_synced, half_then_full


def test_text_and_bytes_are_written_in_folders_that_are_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    assert write_atomically(path, "ü\n") == path
    assert path.read_bytes() == "ü\n".encode()
    assert write_atomically(str(path), b"\r\n") == path
    assert path.read_bytes() == b"\r\n"
    assert list(path.parent.iterdir()) == [path]


def test_it_has_the_mode_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    write_atomically(tmp_path / "file", "")
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_name_may_be_as_long_as_names_can_be(tmp_path: Path) -> None:
    path = tmp_path / ("x" * os.pathconf(tmp_path, "PC_NAME_MAX"))
    write_atomically(path, "whole")
    assert path.read_text() == "whole"


@pytest.mark.parametrize(("name", "times"), [("write", 1), ("fsync", 2), ("replace", 1)])
def test_a_disk_that_is_full_at_any_moment_leaves_the_old_file_or_the_new_one(
    name: str, times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_atomically(tmp_path / "file", "old")
    for at in range(times + 1):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, FailsFrom(getattr(os, name), at))
            if at < times:
                with pytest.raises(DarwinError, match=r"cannot write .*No space left.*make room, and run again"):
                    write_atomically(path, "new")
                assert path.read_text() == ("new" if (name, at) == ("fsync", 1) else "old")
            else:
                write_atomically(path, "new")
        assert list(tmp_path.iterdir()) == [path]
    assert path.read_text() == "new"


def test_a_part_that_was_written_is_taken_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "write", half_then_full(os.write))
    with pytest.raises(DarwinError, match="No space left"):
        write_atomically(tmp_path / "file", "new" * 9)
    assert list(tmp_path.iterdir()) == []


def test_so_it_is_when_writing_is_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(file: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        replace_file(tmp_path / "file", b"new")
    assert list(tmp_path.iterdir()) == []


def test_short_writes_are_written_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:2]))
    assert write_atomically(tmp_path / "file", "new content").read_text() == "new content"


def test_content_then_name_are_put_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = files_synced(monkeypatch)
    write_atomically(tmp_path / "new" / "file", "content")
    made, content, name = synced
    assert (made, name) == (str(tmp_path), str(tmp_path / "new"))
    assert Path(content).parent == tmp_path / "new"
    assert content.endswith(".tmp")


def test_without_a_folder_replacing_fails_as_any_write_does(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        replace_file(tmp_path / "nowhere" / "file", b"")
    (tmp_path / "taken").touch()
    with pytest.raises(DarwinError, match="cannot write"):
        write_atomically(tmp_path / "taken" / "file", "")


def test_two_at_once_leave_one_of_them_whole(tmp_path: Path) -> None:
    path, contents = tmp_path / "file", [bytes([65 + i]) * 5000 for i in range(4)]

    def writes(content: bytes) -> None:
        for _ in range(10):
            write_atomically(path, content)
            found.append(path.read_bytes())

    found = list[bytes]()
    threads = [threading.Thread(target=writes, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 40
    assert set(found) <= set(contents)
    assert list(tmp_path.iterdir()) == [path]
