"""Every command line of the documents is understood by the parser."""

import re
import shlex
from pathlib import Path

import pytest

from darwin_align.cli import parser
from tests.cli.test_options import EVERY

ROOT = Path(__file__).parents[2]
PAGES = [
    "README.md",
    *sorted(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")),
    "integrations/openai_server/README.md",
    "integrations/vllm/README.md",
    "integrations/ray/README.md",
]


def documented() -> list[str]:
    """Command lines of console blocks and of inline code."""
    found = []
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8").replace("\\\n", " ")
        found += re.findall(r"^\$ (darwin-align .*?)(?: +#.*)?$", text, re.MULTILINE)
        found += re.findall(r"`(darwin-align [a-z-]+ [^`]+)`", text)
    return sorted({line for line in found if not line.endswith("--help")})  # which ends the program


def examples() -> list[str]:
    """Those of the commands' own help."""
    text = "\n".join(command.epilog or "" for command in EVERY.values()).replace("\\\n", " ")
    lines = re.findall(r"^ +darwin-align .*$", text, re.MULTILINE)
    return sorted(line.strip() for line in lines if "COMMAND" not in line)


@pytest.mark.parametrize("line", [*documented(), *examples()])
def test_a_documented_command_line_is_understood(line: str) -> None:
    assert callable(parser().parse_args(shlex.split(line)[1:]).run)


def test_there_are_some() -> None:
    assert len(documented()) >= 8
    assert len(examples()) >= 15
