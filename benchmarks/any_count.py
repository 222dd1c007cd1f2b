"""Count ``Any`` in annotations, per 1,000 lines of code, outside JSON handling and LangChain's own signatures.

``python -m benchmarks.any_count`` prints the number and the files that contain most. A line of code is one with a token
other than comments and docstrings. Every ``Any`` in an annotation, an alias or a cast counts, except:

* values of JSON objects: ``dict[str, Any]`` and ``Mapping[str, Any]``;
* type arguments of a class that is imported from LangChain, like ``Runnable[Any, Any]``;
* parameters and results of methods that a LangChain base class defines, constructors aside: ``invoke(…, **kwargs)``.
"""

from __future__ import annotations

import argparse
import ast
import io
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

__all__ = ["LIMIT", "Counted", "count", "main"]

LIMIT = 10.0
"""``Any`` per 1,000 lines of code that the package may have."""
PACKAGE = Path(__file__).parents[1] / "darwin_align"
_OBJECTS = {"dict", "Mapping", "MutableMapping"}
_NO_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


class Counted(dict[Path, tuple[int, int]]):
    """``Any`` and lines of code, by file."""

    @property
    def per_thousand(self) -> float:
        """``Any`` per 1,000 lines of code."""
        found, lines = (sum(column) for column in zip(*self.values(), strict=True))
        return 1000 * found / lines


def count(package: Path = PACKAGE) -> Counted:
    """Count ``Any`` and lines of code in a package's files."""
    overridden = _langchain_methods()
    counted = Counted()
    for file in sorted(package.rglob("*.py")):
        source = file.read_text(encoding="utf-8")
        tree = ast.parse(source)
        counted[file] = sum(1 for _ in _found(tree, _from_langchain(tree), overridden)), _code_lines(source, tree)
    return counted


def _langchain_methods() -> frozenset[str]:
    """Names of the methods that the library's classes inherit from LangChain's."""
    from langchain_core.callbacks import BaseCallbackHandler
    from langchain_core.language_models import BaseChatModel
    from langchain_core.output_parsers import BaseOutputParser

    bases = (BaseChatModel, BaseOutputParser, BaseCallbackHandler)
    return frozenset(name for base in bases for name in dir(base)) - {"__init__", "__call__"}


def _from_langchain(tree: ast.Module) -> set[str]:
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return {
        alias.asname or alias.name
        for node in imports
        if (node.module or "").startswith("langchain")
        for alias in node.names
    }


def _found(node: ast.AST, langchain: set[str], overridden: frozenset[str]) -> Iterator[ast.Name]:
    """Every ``Any`` below a node that counts."""
    if isinstance(node, ast.Name):
        if node.id == "Any":
            yield node
        return
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
        if node.value.id in langchain:
            return
        if node.value.id in _OBJECTS and isinstance(node.slice, ast.Tuple):
            key, value = node.slice.elts
            if isinstance(key, ast.Name) and key.id == "str" and isinstance(value, ast.Name):
                return
    override = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name in overridden
    for child in ast.iter_child_nodes(node):
        if override and child in (node.args, node.returns):
            continue
        yield from _found(child, langchain, overridden)


def _code_lines(source: str, tree: ast.Module) -> int:
    """Lines with a token that is neither a comment nor a part of a docstring."""
    texts = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    ]
    docstrings = {line for node in texts for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)}
    code = {
        line
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type not in _NO_CODE
        for line in range(token.start[0], token.end[0] + 1)
    }
    return len(code - docstrings)


def main(arguments: list[str] | None = None) -> int:
    """Print the count; the exit code is 1 if it is above the limit."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.any_count", description=main.__doc__, allow_abbrev=False
    )
    parser.add_argument("--files", type=int, default=20, help="files to list (default: 20)")
    shown = parser.parse_args(arguments).files
    counted = count()
    found, lines = (sum(column) for column in zip(*counted.values(), strict=True))
    print(f"{found} in {lines} lines of code: {counted.per_thousand:.1f} per 1,000 (limit {LIMIT:g})")
    for file, (number, _) in sorted(counted.items(), key=lambda item: -item[1][0])[:shown]:
        print(f"{number:5}  {file.relative_to(PACKAGE)}")
    return int(counted.per_thousand > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
