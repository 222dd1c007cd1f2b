"""The documentation site: it builds without a warning, its tables are of the classes, and links lead somewhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from darwin_align import Budget, Sampling
from docs.docstrings import readable
from docs.hooks import PAGES, with_site_links
from docs.settings import field_table, with_field_tables

ROOT = Path(__file__).parents[1]
SOURCES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"(?<!`)\[[^\]\n]*\]\(([^)\s#]+)(?:#[^)\s]*)?\)")


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(line, cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    settings = (tmp_path / "settings.html").read_text(encoding="utf-8")
    assert "<code>replacement_period</code>" in settings
    assert "<!-- settings:" not in settings
    server = (tmp_path / "integrations" / "openai_server.html").read_text(encoding="utf-8")
    assert "DARWIN_ALIGN_SERVER_KEYS" in server


@pytest.mark.parametrize("page", SOURCES, ids=lambda page: page.stem)
def test_links_lead_to_files_of_the_repository(page: Path) -> None:
    targets = [target for target in LINK.findall(page.read_text(encoding="utf-8")) if "://" not in target]
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_pages_from_elsewhere_exist() -> None:
    assert [path for path in PAGES if not (ROOT / path).is_file()] == []


def test_links_are_rewritten_for_the_site() -> None:
    page = "[a](../integrations/ray/README.md#measured) [b](../setup.py) [c](tools.md) [d](../nowhere.md)"
    assert with_site_links(page, "index.md") == "[a](integrations/ray.md#measured) b [c](tools.md) [d](../nowhere.md)"
    assert with_site_links("![plot](results/speed.svg)", "benchmarks/tables.md") == "![plot](speed.svg)"
    code = "```python\n[x](../setup.py)\n```"
    assert with_site_links(code, "index.md") == code


def test_field_tables_have_types_bounds_defaults_and_docstrings() -> None:
    row = "| `tokens` | int > 0 or none | none | Tokens decoded by the policy, mutations included. |"
    assert row in field_table(Budget).splitlines()
    names = [line.split("`")[1] for line in field_table(Sampling).splitlines()[2:]]
    assert names == list(Sampling.model_fields)
    assert with_field_tables("a\n<!-- settings: darwin_align.Budget -->\nb") == f"a\n{field_table(Budget)}\nb"


def test_a_table_of_a_class_that_is_gone_is_an_error() -> None:
    with pytest.raises(AttributeError, match="Bugdet"):
        with_field_tables("<!-- settings: darwin_align.Bugdet -->")


def test_docstrings_become_markdown() -> None:
    assert readable("See :func:`~darwin_align.core.learn_clauses`.") == "See ``learn_clauses``."
    assert readable("See :meth:`A.b\n<darwin_align.core.A.b>` and :meth:`b`.") == "See ``A.b`` and ``b``."
    assert readable("Adds.\n\n>>> 1 + 1\n2\n\nMore.") == "Adds.\n\n```pycon\n>>> 1 + 1\n2\n```\n\nMore."
