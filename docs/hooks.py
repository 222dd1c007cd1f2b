"""Hooks of the documentation site: generated tables, pages that lie elsewhere in the repository, and links to them.

Links in the sources are relative to the file that holds them, so that they work in a checkout. On the site a link to a
page of :data:`PAGES` leads to that page; one to any other file of the repository becomes plain text.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from mkdocs.structure.files import File

from docs.settings import with_field_tables

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PAGES = {
    "CHANGELOG.md": "changelog.md",
    "benchmarks/README.md": "benchmarks/tables.md",
    "benchmarks/results/speed.svg": "benchmarks/speed.svg",
    "darwin_align/evaluation/README.md": "evaluation/benchmarks.md",
    "integrations/langchain/README.md": "integrations/langchain.md",
    "integrations/langgraph/README.md": "integrations/langgraph.md",
    "integrations/openai_server/README.md": "integrations/openai_server.md",
    "integrations/ray/README.md": "integrations/ray.md",
    "integrations/vllm/README.md": "integrations/vllm.md",
    "training/README.md": "training.md",
    **{f"notebooks/{file.name}": f"notebooks/{file.name}" for file in sorted((ROOT / "notebooks").glob("*.ipynb"))},
}
"""Files outside ``docs/`` by their path in the repository, and their path on the site."""

_FENCED = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(!?)\[([^\]\n]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie outside ``docs/``."""
    for path, uri in PAGES.items():
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Fill in the tables of settings, and point links to where their targets are on the site."""
    return with_site_links(with_field_tables(markdown), page.file.src_uri)


def with_site_links(markdown: str, uri: str) -> str:
    """Rewrite the links of a page for the site.

    Args:
        markdown: the page's source.
        uri: its path on the site.

    Returns:
        The same text; code blocks and links that have no target in the repository stay as they are.
    """
    source = next((path for path, at in PAGES.items() if at == uri), f"docs/{uri}")
    parts = _FENCED.split(markdown)
    parts[::2] = [_LINK.sub(_rewriter(posixpath.dirname(source), posixpath.dirname(uri)), part) for part in parts[::2]]
    return "".join(parts)


def _rewriter(source_folder: str, site_folder: str) -> Callable[[re.Match[str]], str]:
    def rewritten(link: re.Match[str]) -> str:
        image, text, target, anchor = link.groups(default="")
        path = posixpath.normpath(posixpath.join(source_folder, target))
        if "://" in target:
            return link[0]
        if path in PAGES or path.startswith("docs/"):
            uri = PAGES.get(path, path.removeprefix("docs/"))
            return f"{image}[{text}]({posixpath.relpath(uri, site_folder or '.')}{anchor})"
        return text if (ROOT / path).exists() else link[0]

    return rewritten
