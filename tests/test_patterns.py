"""Every regular expression of the package takes time that grows with its input, not with the square of it."""

import ast
import importlib
import pkgutil
import re
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from time import process_time
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import pytest

import darwin_align

_FUNCTIONS = {"compile", "search", "match", "fullmatch", "split", "findall", "finditer", "sub", "subn"}
_LOCALS = {  # what stands for the names that only exist when a function runs
    ("darwin_align.evaluation.chat_judge", "names"): "question|answer",
    ("darwin_align.formats.call_parser", "middle"): "",
    ("darwin_align.formats.tagged_calls", "self"): SimpleNamespace(
        begin="<function=",
        named=">",
        key="<parameter=",
        value=">",
        other_value=">",
        close="</parameter>",
        end="</function>",
    ),
    ("darwin_align.formats.tagged_calls", "begun"): r"<function=\s*([^\s<>]+)\s*>\s*(?=<parameter=|\Z)",
    ("darwin_align.formats.tagged_calls", "between"): ">|:",
}
_SLOW = 0.003
"""Seconds for 2,000 characters: a linear pattern takes about a fiftieth of it."""


class Found(NamedTuple):
    where: str
    pattern: str
    flags: int
    methods: tuple[str, ...] = ("search", "match", "fullmatch")


def _modules() -> Iterator[ModuleType]:
    for info in pkgutil.walk_packages(darwin_align.__path__, "darwin_align."):
        if not info.name.endswith("__main__"):
            try:
                yield importlib.import_module(info.name)
            except ImportError as error:  # an optional extra that is not installed here
                assert not str(error.name).startswith("darwin_align"), error  # noqa: PT017


def _value(node: ast.expr, module: ModuleType, names: dict[str, Any]) -> Any:
    code = compile(ast.fix_missing_locations(ast.Expression(node)), module.__name__, "eval")
    return eval(code, {**vars(module), **names})  # noqa: S307 - our own source


def _written(module: ModuleType) -> Iterator[Found]:
    """The patterns in a module's calls of ``re``, and those in the values of its tables."""
    assert module.__file__
    names = {name: value for (home, name), value in _LOCALS.items() if home == module.__name__}
    source = Path(module.__file__).read_text("utf-8")
    for node in ast.walk(ast.parse(source)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _FUNCTIONS):
            continue
        if not (isinstance(node.func.value, ast.Name) and node.func.value.id == "re" and node.args):
            continue
        place = f"{module.__name__}:{node.lineno}"
        words = {word.arg: word.value for word in node.keywords}
        flags = words.get("flags", next((arg for arg in node.args[1:] if _is_flag(arg)), None))
        for branch in _branches(node.args[0]):
            if place.startswith("darwin_align.backends.recipes"):
                continue  # each recipe's own, below
            pattern = _value(branch, module, names)
            kind = 0 if flags is None else int(_value(flags, module, names))
            yield Found(place, pattern, kind, _methods(node, source))


def _methods(node: ast.Call, source: str) -> tuple[str, ...]:
    """How a pattern is applied: a compiled one by the methods that its module calls."""
    assert isinstance(node.func, ast.Attribute)
    used = {node.func.attr}
    if used == {"compile"}:
        call = re.escape(ast.get_source_segment(source, node) or "")
        name = re.search(rf"(\w+) = {call}(?!\.)", source)
        applied = r"\b" + name[1] if name else call
        used = set(re.findall(applied + r"\.(\w+)\(", source))
        used = used or {"search", "match", "fullmatch"}
    return tuple(sorted({method if method in ("match", "fullmatch") else "search" for method in used}))


def _is_flag(node: ast.expr) -> bool:
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "re"


def _branches(node: ast.expr) -> list[ast.expr]:
    """Both patterns of ``a if b else c``, also behind what is added to them."""
    return [*_branches(node.body), *_branches(node.orelse)] if isinstance(node, ast.IfExp) else [node]


@cache
def patterns() -> tuple[Found, ...]:
    from darwin_align.backends.recipes import RECIPES

    found = [one for module in _modules() for one in _written(module)]
    found += [Found(f"recipe {name}", recipe.pattern, 0) for name, recipe in RECIPES.items() if recipe.pattern]
    return tuple(found)


# -- inputs that are made of what a pattern matches


def _example(nodes: Iterable[Any]) -> str:
    """A text that a piece of a parsed pattern matches, as short as it may be and not empty where it can help it."""
    return "".join(_of(str(operator), argument) for operator, argument in nodes)


def _of(operator: str, argument: Any) -> str:
    made: dict[str, Callable[[], str]] = {
        "LITERAL": lambda: chr(argument),
        "NOT_LITERAL": lambda: "x" if argument != ord("x") else "y",
        "ANY": lambda: "x",
        "IN": lambda: _member(argument),
        "SUBPATTERN": lambda: _example(argument[3]),
        "ATOMIC_GROUP": lambda: _example(argument),
        "BRANCH": lambda: _example(argument[1][0]),
    }
    if operator.endswith("_REPEAT"):
        return _example(argument[2]) * max(1, argument[0])
    return made[operator]() if operator in made else ""


def _member(members: Any) -> str:
    kinds = {"CATEGORY_SPACE": " ", "CATEGORY_DIGIT": "1", "CATEGORY_WORD": "a"}
    names = [str(operator) for operator, _ in members]
    if "NEGATE" not in names:
        operator, argument = members[0]
        if str(operator) == "CATEGORY":
            return kinds.get(str(argument), "-")
        return chr(argument if str(operator) == "LITERAL" else argument[0])
    taken = re.compile("x")
    for candidate in "x1 -<":
        ranges = [argument for operator, argument in members if str(operator) == "RANGE"]
        letters = [argument for operator, argument in members if str(operator) == "LITERAL"]
        if ord(candidate) not in letters and not any(low <= ord(candidate) <= high for low, high in ranges):
            return candidate
    return taken.pattern


def _sequences(nodes: Any) -> Iterator[list[Any]]:
    """Every concatenation within a parsed pattern."""
    nodes = list(nodes)
    yield nodes
    for _, argument in nodes:
        for part in argument if isinstance(argument, tuple) else (argument,):
            for inner in part if isinstance(part, list) else (part,):
                if type(inner).__name__ == "SubPattern":
                    yield from _sequences(inner)


def inputs(pattern: str, flags: int, size: int) -> Iterator[str]:
    """Prefix, something repeated, and an end that does not match."""
    parsed = re._parser.parse(pattern, flags)  # type: ignore[attr-defined]
    pumps, prefixes = dict.fromkeys(" a1"), dict.fromkeys([""])
    for nodes in _sequences(parsed):
        pieces = [piece for node in nodes if (piece := _example([node]))]
        for i in range(len(pieces)):
            prefixes["".join(pieces[:i])] = None
            for j in (i + 1, i + 2, i + 3, len(pieces)):
                pumps["".join(pieces[i:j])] = None
    for prefix in list(prefixes)[:12]:
        for pump in list(pumps)[:60]:
            for end in ("", "\0", "!\n\0"):
                yield (prefix + pump * (size // len(pump)) + end)[: size + len(prefix) + len(end)]


def seconds(compiled: re.Pattern[str], text: str, method: str) -> float:
    start = process_time()
    if method == "search":
        for _ in compiled.finditer(text):
            pass
    else:
        getattr(compiled, method)(text)
    return process_time() - start


def superlinear(found: Found) -> str:
    """An input on which four times the length takes clearly more than four times as long, or nothing."""
    compiled = re.compile(found.pattern, found.flags)
    texts = list(zip(*(inputs(found.pattern, found.flags, size) for size in (500, 2000)), strict=True))
    for method in found.methods:
        for short, long in texts:
            if seconds(compiled, long, method) < _SLOW:
                continue
            for times in (3, 20):  # a busy machine is slow for a while, a quadratic pattern every time
                few, many = (min(seconds(compiled, text, method) for _ in range(times)) for text in (short, long))
                if many <= _SLOW or many <= 9 * few:
                    break
            else:
                return f"{method} of {long[:60]!r}…: {few:.4f} s for 500 characters, {many:.4f} s for 2000"
    return ""


def test_no_pattern_takes_quadratic_time() -> None:
    assert len(patterns()) > 40
    slow = {f"{one.where}: {one.pattern}": found for one in patterns() if (found := superlinear(one))}
    assert not slow, "\n".join(f"{where}\n    {found}" for where, found in slow.items())


@pytest.mark.parametrize("pattern", [r"<\s*/?\s*request\b[^>]*>", r"\s+$", r"<[^>]*>"])
def test_the_check_finds_what_is_quadratic(pattern: str) -> None:
    # It reads a clock: a busy machine may hide the growth for a while.
    assert any(superlinear(Found("here", pattern, 0, ("search",))) for _ in range(50))
