"""Disks that fill up, fail or forbid, and outputs that are no files: a clear error, nothing lost, nothing torn."""

import errno
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from darwin_align.batch import run_batch
from darwin_align.cli import main
from darwin_align.core.errors import ConfigError, DarwinError
from tests.batch.kit import by_key, finish, scripted, start, write_lines
from tests.storage.kit import FailsFrom, files_synced, irregular

ASKED = [{"prompt": f"Question {i}.", "id": str(i)} for i in range(6)]


@pytest.mark.parametrize("kind", ["device", "folder", "pipe", "socket"])
def test_an_output_that_is_no_regular_file_is_refused_at_once(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    monkeypatch.setattr("darwin_align.pocket.pair.pocket_search", pytest.fail)
    prompts = write_lines(tmp_path / "in.jsonl", ASKED)
    path = irregular(kind, Path("out.jsonl"))
    assert main(["batch", str(prompts), "--out", str(path)]) == 2
    assert f"{path} is a {kind}: give a regular file" in capsys.readouterr().err


@pytest.mark.parametrize("beside", ["out.errors.jsonl", "out.run.json"])
def test_so_are_the_files_beside_it(beside: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / beside)
    with pytest.raises(ConfigError, match=rf"{beside} is a pipe"):
        run_batch(scripted(), ASKED, tmp_path / "out.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == [beside]


def test_an_input_that_is_no_regular_file_is_refused_with_how_to_give_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["batch", "/dev/null", "--out", str(tmp_path / "out.jsonl")]) == 2
    assert "/dev/null: it is no regular file: redirect it, and give -" in capsys.readouterr().err


@pytest.mark.parametrize("at", range(12))
@pytest.mark.parametrize("name", ["write", "fsync", "ftruncate"])
def test_a_disk_that_is_full_at_any_moment_loses_and_tears_nothing(
    name: str, at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("darwin_align.batch.output._SYNC_SECONDS", 0.0)
    rows = [*ASKED, {"prompt": 5}]
    whole = tmp_path / "whole.jsonl"
    run_batch(scripted(), rows, whole, concurrency=1)
    cut = tmp_path / "cut.jsonl"
    with monkeypatch.context() as patch:
        patch.setattr(os, name, FailsFrom(getattr(os, name), at))
        try:
            run_batch(scripted(), rows, cut, concurrency=1)
        except DarwinError as error:
            assert "No space left on device" in str(error)  # noqa: PT017 - it may also have passed
        else:
            assert name == "ftruncate" or at >= len(rows)
    kept = cut.read_bytes() if cut.exists() else b""
    assert kept == b"".join(line for line in whole.read_bytes().splitlines(keepends=True))[: len(kept)]
    run_batch(scripted(), rows, cut, concurrency=1)
    assert cut.read_bytes() == whole.read_bytes()
    assert not list(tmp_path.glob(".*"))


def test_the_names_of_new_files_are_put_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = files_synced(monkeypatch)
    folder = tmp_path / "new" / "newer"
    run_batch(scripted(), [*ASKED, {"prompt": 5}], folder / "out.jsonl")
    files = [folder / "out.jsonl", folder / "out.errors.jsonl"]
    assert {str(path) for path in (tmp_path, folder.parent, folder, *files)} <= set(synced)


@pytest.mark.parametrize("what", ["mkdir", "open", "unlink"])
def test_a_folder_that_forbids_writing_is_said(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object, **__: object) -> Any:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    if what == "open":
        monkeypatch.setattr(os, "open", forbidden)
    else:
        monkeypatch.setattr(Path, what, forbidden)
    with pytest.raises(ConfigError, match=r"Read-only file system\): give another output"):
        run_batch(scripted(), ASKED, tmp_path / "out.jsonl")


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB, where this process may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["/bin/mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("this process may mount no file system")
    yield folder
    subprocess.run(["/bin/umount", folder], check=True)


def test_a_disk_that_is_really_full(tiny_disk: Path, tmp_path: Path) -> None:
    """The command ends with 1 and a sentence; with room again, the same command completes the file."""
    prompts = write_lines(tmp_path / "in.jsonl", [{"prompt": "Say something good.", "id": str(i)} for i in range(300)])
    line = (prompts, "--out", tiny_disk / "out.jsonl", "--concurrency", "4", "--json")
    code, _, err = finish(start(*line, model=("--scripted", "0")))
    assert code == 1, err
    assert "No space left on device" in err
    assert "Traceback" not in err
    kept = (tiny_disk / "out.jsonl").read_bytes()
    assert kept.endswith(b"\n")
    subprocess.run(["/bin/mount", "-o", "remount,size=8m", tiny_disk], check=True)
    code, out, err = finish(start(*line, model=("--scripted", "0")))
    assert code == 0, err
    assert json.loads(out)["answered"] == 300
    assert (tiny_disk / "out.jsonl").read_bytes().startswith(kept)
    assert len(by_key(tiny_disk / "out.jsonl")) == 300
