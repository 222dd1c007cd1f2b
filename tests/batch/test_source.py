"""What is read from files, and what is said of lines that cannot be answered."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from darwin_align.batch import Fields, prompts, source
from darwin_align.batch.source import source_of
from darwin_align.core.errors import ConfigError
from tests.batch.kit import write_lines

TOOL = {"type": "function", "function": {"name": "heat", "parameters": {"type": "object", "properties": {}}}}
CALLS = [
    {"role": "user", "content": "Heat it."},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "abcdefghi", "type": "function", "function": {"name": "heat", "arguments": "{}"}}],
    },
    {"role": "tool", "tool_call_id": "abcdefghi", "content": "hot"},
]


def reason(tmp_path: Path, line: bytes) -> str:
    [row] = prompts(write_lines(tmp_path / "in.jsonl", [line]))
    assert row.prompt is None
    return row.reason


def read(tmp_path: Path, data: bytes) -> list[tuple[int, Any]]:
    (tmp_path / "in.jsonl").write_bytes(data)
    return [(row.line, row.prompt and row.prompt.conversation) for row in prompts(tmp_path / "in.jsonl")]


def test_an_empty_file_has_no_prompts(tmp_path: Path) -> None:
    assert read(tmp_path, b"") == []
    assert read(tmp_path, b"\xef\xbb\xbf\r\n  \n\n") == []


def test_bom_crlf_blank_lines_and_a_last_line_without_an_end(tmp_path: Path) -> None:
    data = b'\xef\xbb\xbf{"prompt": "one"}\r\n\r\n \t\n{"prompt": "two"}'
    assert read(tmp_path, data) == [(1, "one"), (4, "two")]


def test_only_a_line_feed_ends_a_line(tmp_path: Path) -> None:
    text = "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg"
    raw = json.dumps({"prompt": text}, ensure_ascii=False).encode()
    assert raw.decode().count("\u2028") == 1
    assert read(tmp_path, raw + b"\n" + raw + b"\n") == [(1, text), (2, text)]


def test_a_huge_line_is_passed_over_without_being_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "LONGEST_LINE", 1000)
    longest = json.dumps({"prompt": "x" * (1000 - len('{"prompt": ""}'))}).encode()
    assert len(longest) == 1000
    lines = [longest + b"\n", b'{"prompt": "' + b"y" * 3_000_000 + b'"}\n', b'{"prompt": "two"}\n']
    rows = list(prompts(write_lines(tmp_path / "in.jsonl", lines)))
    assert [row.prompt is None for row in rows] == [False, True, False]
    assert "longer than" in rows[1].reason
    assert rows[2].line == 3


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"{nonsense", "it is no JSON (Expecting property name"),
        (b'{"prompt": "cut', "it is no JSON (Unterminated string"),
        (b'"text"', "it is no JSON object"),
        (b'[{"prompt": "x"}]', "one object a line makes JSONL, one array does not"),
        (b"null", "it is no JSON object"),
        (b"{}", "it has neither 'prompt' nor 'messages' (it has nothing): name the field to read"),
        (b'{"text": "x"}', "(it has text)"),
        (b'{"prompt": 5}', "'prompt' is 5: give a text"),
        (b'{"prompt": "  "}', "'prompt' is '  ': give a text"),
        (b'{"prompt": ["x"]}', "'prompt' is ['x']: give a text"),
        (b'{"prompt": "x", "messages": []}', "it has 'prompt' and 'messages': give one of them"),
        (b'{"messages": "x"}', "'messages' is 'x': give a list of objects"),
        (b'{"messages": []}', "'messages' is []: give a list of objects"),
        (b'{"messages": ["x"]}', "'messages' is ['x']: give a list of objects"),
        (b'{"messages": [{"content": "x"}]}', "messages[0] has no 'role'"),
        (b'{"messages": [{"role": "user", "content": 5}]}', "the content of messages[0] is 5"),
        (b'{"prompt": "x", "id": 1.5}', "'id' is 1.5: give a text or a whole number"),
        (b'{"prompt": "x", "id": true}', "'id' is True: give a text or a whole number"),
        (b'{"prompt": "x", "id": ""}', "'id' is '': give a text or a whole number"),
        (b'{"prompt": "x", "id": "\\ud800"}', "half of a surrogate pair"),
        (b'{"prompt": "x\\ud800"}', "half of a surrogate pair"),
        (b'{"prompt": "x", "seed": "7"}', "'seed' is '7': give a whole number"),
        (b'{"prompt": "x", "seed": true}', "'seed' is True: give a whole number"),
        (b'{"prompt": "x", "settings": 7}', "'settings' is 7: give an object"),
        (b'{"prompt": "x", "settings": {"cycle": 1}}', "unknown setting 'cycle': did you mean 'cycles'?"),
        (b'{"prompt": "x", "settings": {"replay": []}}', "unknown setting 'replay'"),
        (b'{"prompt": "x", "seed": 1, "settings": {"seed": 2}}', "the seed is given twice"),
        (b'{"prompt": "x", "temperature": 0.2}', "'temperature' is a setting: put it into an object, 'settings'"),
        (b'{"prompt": NaN}', "NaN is no JSON number"),
        (b'{"prompt": "caf\xe9"}', "it is not UTF-8 (byte 16): save the file as UTF-8"),
        ('{"prompt": "x"}'.encode("utf-16"), "it is not UTF-8"),
        (b'{"prompt": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", "it is nested too deeply"),
        (b'{"prompt": "x", "seed": ' + b"9" * 5000 + b"}", "it is no JSON (Exceeds the limit"),
    ],
)
def test_a_bad_line_says_what_to_change(tmp_path: Path, line: bytes, says: str) -> None:
    assert says in reason(tmp_path, line)


def test_a_null_is_a_field_that_is_not_there() -> None:
    row = {"prompt": "x", "messages": None, "id": None, "seed": None, "settings": None, "temperature": None}
    [read] = prompts([row])
    assert read.prompt is not None
    assert (read.prompt.key, read.prompt.settings) == (f"1-{read.prompt.digest[:12]}", {})


def test_the_key_without_an_id_holds_line_and_content() -> None:
    keys = [row.prompt.key for row in prompts(["a", "a", "b", {"prompt": "a", "other": 1}]) if row.prompt]
    ends = [key.partition("-")[2] for key in keys]
    assert [key.partition("-")[0] for key in keys] == ["1", "2", "3", "4"]
    assert ends[0] == ends[1] == ends[3] != ends[2]


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"settings": {"cycles": 1}}, {"stop": ["x"]}, {"tools": [TOOL]}, {"grounded": False}]
)
def test_the_digest_covers_the_whole_request(change: dict[str, Any]) -> None:
    plain, changed = (row.prompt.digest for row in prompts(["a", {"prompt": "a", **change}]) if row.prompt)
    assert plain != changed


def test_other_names_of_fields() -> None:
    names = Fields(prompt="question", id="custom_id", settings="how")
    rows = source_of([{"question": "x", "custom_id": 5, "how": {"cycles": 0}, "prompt": "no", "settings": "no"}], names)
    [row] = rows.read()
    assert row.prompt is not None
    assert (row.prompt.key, row.prompt.conversation, row.prompt.settings) == ("5", "x", {"cycles": 0})
    assert rows.unused == {"prompt", "settings"}
    with pytest.raises(ConfigError, match="two fields of a row cannot both be called 'prompt'"):
        Fields(id="prompt")


def test_a_stream_is_read_once() -> None:
    stream = source_of(io.BytesIO(b'{"prompt": "x"}\n'), Fields())
    assert not stream.twice
    assert len(list(stream.read())) == 1


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such file"):
        prompts(tmp_path / "none.jsonl")


def parquet(tmp_path: Path, rows: list[dict[str, Any]]) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in.parquet", row_group_size=2)
    return tmp_path / "in.parquet"


def test_parquet_rows_ask_what_jsonl_lines_ask(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": "one", "id": "a", "seed": 3},
        {"prompt": "two", "settings": {"cycles": 1}},
        {"messages": CALLS},
        {"messages": [{"role": "user", "content": "Hi"}], "tools": [TOOL]},
        {"prompt": "five", "settings": {"temperature": 0.5}},
    ]
    lines = list(prompts(write_lines(tmp_path / "in.jsonl", rows)))
    texts = [{**row, "tools": json.dumps(row["tools"])} if "tools" in row else row for row in rows]
    table = [
        {name: row.get(name) for name in ("prompt", "id", "seed", "settings", "messages", "tools")} for row in texts
    ]
    assert list(prompts(parquet(tmp_path, table))) == lines
    assert all(line.prompt for line in lines)


def test_parquet_is_refused_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"neither a column 'prompt' nor 'messages' \(it has text\)"):
        prompts(parquet(tmp_path, [{"text": "x"}]))
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(ConfigError, match="as parquet"):
        prompts(tmp_path / "broken.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"darwin-align\[parquet\]"):
        prompts(tmp_path / "in.parquet")


def test_a_parquet_file_broken_in_the_middle_is_reported(tmp_path: Path) -> None:
    path = parquet(tmp_path, [{"prompt": f"{i}" * 50} for i in range(400)])
    data = bytearray(path.read_bytes())
    middle = len(data) // 4
    data[middle : middle + 400] = bytes(400)
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=r"cannot read .* as parquet to its end"):
        list(prompts(path))


def test_columns_that_are_not_read_are_reported_and_not_loaded(tmp_path: Path) -> None:
    rows = source_of(parquet(tmp_path, [{"prompt": "x", "heavy": "y" * 100}]), Fields())
    assert rows.unused == {"heavy"}
    assert [row.prompt.conversation for row in rows.read() if row.prompt] == ["x"]
