"""The ledger: nothing that is in it is ever lost, nothing is there twice, and nobody mixes two runs."""

import asyncio
import json
import os
from pathlib import Path

import pytest

from darwin_align.core.errors import ConfigError, DarwinError
from darwin_align.evaluation.ledger import Ledger
from tests.storage.kit import files_synced, half_then_full

SETTINGS = {"seed": 0, "search": {"cycles": 1}}


def records(path: Path) -> dict[str, dict[str, object]]:
    with Ledger(path, SETTINGS) as ledger:
        return dict(ledger.records)


def test_records_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "answers.jsonl"
    odd = {"text": "line\nend \u2028 ü 漢 \ud800", "pair": [1, 2.5], "none": None}
    with Ledger(path, SETTINGS) as ledger:
        ledger.append("a", odd)
        ledger.append("b", {"pair": (1, 2)})
        assert ledger.records == {"a": odd, "b": {"pair": [1, 2]}}
    assert records(path) == {"a": odd, "b": {"pair": [1, 2]}}


@pytest.mark.parametrize("cut", [1, 2, 7, 21])
def test_a_line_that_was_cut_in_two_is_taken_off(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "answers.jsonl"
    with Ledger(path, SETTINGS) as ledger:
        ledger.append("a", {"text": "first"})
        ledger.append("b", {"text": "second"})
    path.write_bytes(path.read_bytes()[:-cut])
    with Ledger(path, SETTINGS) as ledger:
        assert ledger.records == {"a": {"text": "first"}}
        ledger.append("b", {"text": "again"})
    assert records(path) == {"a": {"text": "first"}, "b": {"text": "again"}}


@pytest.mark.parametrize("left", [0, 1, 30])
def test_a_head_that_was_cut_in_two_is_replaced(tmp_path: Path, left: int) -> None:
    path = tmp_path / "answers.jsonl"
    Ledger(path, SETTINGS).close()
    whole = path.read_bytes()
    path.write_bytes(whole[:left])
    assert records(path) == {}
    assert path.read_bytes() == whole


@pytest.mark.parametrize("end", ["my notes", "[", '{"name": "x"}'])
def test_an_end_that_somebody_else_wrote_is_left_alone(tmp_path: Path, end: str) -> None:
    path = tmp_path / "answers.jsonl"
    with Ledger(path, SETTINGS) as ledger:
        ledger.append("a", {"text": "first"})
    whole = path.read_bytes()
    path.write_bytes(whole + end.encode())
    with pytest.raises(ConfigError, match="line 3 is no record"):
        Ledger(path, SETTINGS)
    assert path.read_bytes() == whole + end.encode()


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    Ledger(path, SETTINGS).close()
    with pytest.raises(ConfigError, match=r"search.cycles was 1 and is now 2; seed was 0 and is now 5\. Give the"):
        Ledger(path, {"seed": 5, "search": {"cycles": 2}})
    with pytest.raises(ConfigError, match=r"search.lookahead was null and is now 3"):
        Ledger(path, {"seed": 0, "search": {"cycles": 1, "lookahead": 3}})
    assert records(path) == {}


def test_a_second_process_is_refused_while_the_first_one_writes(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with Ledger(path, SETTINGS), pytest.raises(ConfigError, match="another process is writing"):
        Ledger(path, SETTINGS)
    assert records(path) == {}  # let go of, also by the refused one


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("no json", "line 3 is no record"),
        ('{"text": "no key"}', "line 3 is no record"),
        ('{"key": "a"}', "there twice"),
    ],
)
def test_a_spoiled_line_is_named(tmp_path: Path, line: str, says: str) -> None:
    path = tmp_path / "answers.jsonl"
    with Ledger(path, SETTINGS) as ledger:
        ledger.append("a", {"text": "first"})
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    with pytest.raises(ConfigError, match=says):
        Ledger(path, SETTINGS)


@pytest.mark.parametrize(
    "text",
    ["[1, 2]\n", "hello\n", "hello", '{"name": "x"}', "\0\0", '{"schema": 1}\n', '{"schema": 9, "settings": {}}\n'],
)
def test_a_foreign_file_is_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="give another --out"):
        Ledger(path, SETTINGS)
    assert path.read_text(encoding="utf-8") == text


def test_a_record_is_never_replaced(tmp_path: Path) -> None:
    with Ledger(tmp_path / "answers.jsonl", SETTINGS) as ledger:
        ledger.append("a", {"text": "first"})
        with pytest.raises(ConfigError, match="never replaced"):
            ledger.append("a", {"text": "second"})
        assert ledger.records["a"] == {"text": "first"}


async def test_a_key_requested_twice_at_once_is_made_once(tmp_path: Path) -> None:
    made = []

    async def make() -> dict[str, int]:
        made.append(1)
        await asyncio.sleep(0.01)
        return {"n": len(made)}

    with Ledger(tmp_path / "answers.jsonl", SETTINGS) as ledger:
        both = await asyncio.gather(ledger.kept("a", make), ledger.kept("a", make))
    assert both == [{"n": 1}, {"n": 1}]
    assert made == [1]


def test_a_full_disk_spoils_no_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "answers.jsonl"
    with Ledger(path, SETTINGS) as ledger:
        ledger.append("a", {"text": "first"})
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", half_then_full(os.write))
            with pytest.raises(DarwinError, match="No space left on device"):
                ledger.append("b", {"text": "second" * 100})
        assert "b" not in ledger.records
        ledger.append("b", {"text": "again"})
    assert records(path) == {"a": {"text": "first"}, "b": {"text": "again"}}


def test_a_record_is_on_the_disk_before_anything_else_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "answers.jsonl"
    with Ledger(path, SETTINGS) as ledger:
        synced = files_synced(monkeypatch)
        for number in range(3):
            ledger.append(str(number), {})
            assert synced == [str(path)] * (number + 1)


def test_a_read_only_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(ConfigError, match="cannot write to"):
        Ledger(tmp_path / "file" / "answers.jsonl", SETTINGS)


def test_a_ledger_is_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with Ledger(path, SETTINGS) as ledger:
        ledger.append("a", {"text": "first"})
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert lines == [{"schema": 1, "settings": SETTINGS}, {"key": "a", "text": "first"}]
