"""The wheel as a user gets it: built, installed into an environment of its own outside the checkout, and tested there.

``python tests/installed/run.py latest`` takes the newest versions of everything that pyproject.toml allows, ``lowest``
its lower bounds; torch comes by the pin of constraints.txt. The demo must answer as it does in ``.venv``, and the tests
of local models, the chat model, endpoints, the server and the README's snippets must pass; ``--short`` runs a part.

Needs nothing but Python's standard library.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
COPIED = ("tests", "benchmarks", "integrations", "training", "docs", "README.md", "pyproject.toml")
"""What the tests need beside the installed package; the package itself is not among it."""
SHORT = ("tests/backends/local/test_padded.py", "tests/backends/local/test_reward.py", "tests/test_chat_model.py")
FULL = (
    "tests/backends",
    "tests/test_search.py",
    "tests/test_chat_model.py",
    "tests/test_structured.py",
    "tests/test_tools.py",
    "tests/cli",
    "tests/test_readme.py",
    "integrations/openai_server/tests",
)
TOOLS = {"short": ("pytest", "pytest-asyncio", "pytest-xdist", "hypothesis", "gguf"), "full": ()}
EXTRAS = {"short": "cli,constrained,serve", "full": "dev"}
SHOWN = re.compile(r"^(torch|transformers|tokenizers|lang|openai|pydantic|httpx|tenacity|fastapi|llguid)")
COMPARED = ("answer", "reward", "first_response", "first_reward", "gold", "winning_instruction", "seed", "stop_reason")


def main() -> int:
    """Run one of the two and return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("versions", choices=("latest", "lowest"))
    parser.add_argument("--short", action="store_true", help="the demo and a part of the tests")
    arguments = parser.parse_args()
    how = "short" if arguments.short else "full"
    with tempfile.TemporaryDirectory(prefix=f"darwin-align-{arguments.versions}-") as folder:
        return _check(Path(folder), arguments.versions, how)


def _check(folder: Path, versions: str, how: str) -> int:
    python = _installed(folder, versions, how)
    _show_versions(python)
    wrong = _demo_differs(python, folder)
    _say(f"demo: {wrong or 'answers as in .venv'}")
    code = _run_tests(python, folder, SHORT if how == "short" else FULL)
    return 1 if wrong else code


def _installed(folder: Path, versions: str, how: str) -> Path:
    """An environment with the wheel and what belongs to it; its interpreter."""
    source = folder / "source"  # building leaves folders behind
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__"))
    _run(sys.executable, "-m", "venv", folder / "venv")
    python = folder / "venv" / "bin" / "python"
    pip = (python, "-m", "pip", "install", "-q", "--disable-pip-version-check")
    _run(*pip, *(line for line in _lines(ROOT / "constraints.txt") if line.startswith("torch==")))
    _run(python, "-m", "pip", "wheel", "-q", "--disable-pip-version-check", "--no-deps", "-w", folder, source)
    shutil.rmtree(source)
    [wheel] = folder.glob("darwin_align-*.whl")
    bounds = folder / "bounds.txt"
    bounds.write_text("\n".join(_lower_bounds(how) if versions == "lowest" else ()), encoding="utf-8")
    _run(*pip, "-c", bounds, f"{wheel}[{EXTRAS[how]}]", *TOOLS[how])
    return python


def _lower_bounds(how: str) -> list[str]:
    """A pin at the lower bound of every package that the library itself needs; torch has a pin of its own.

    The tools of the tests come as they are.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras: dict[str, list[str]] = project["optional-dependencies"]
    library = {name: wanted for name, wanted in extras.items() if name not in ("dev", "ray", "train", "quantized")}
    chosen = EXTRAS["short"].split(",") if how == "short" else library
    wanted = [*project["dependencies"], *(one for name in chosen for one in library[name])]
    found = [re.match(r"([\w-]+)(?:\[\w+\])?>=([\d.]+)", one) for one in wanted]
    return sorted({f"{one[1]}=={one[2]}" for one in found if one and one[1] != "torch"})


def _show_versions(python: Path) -> None:
    listed = json.loads(_output(python, "-m", "pip", "list", "--format", "json", "--disable-pip-version-check"))
    shown = [f"{one['name']} {one['version']}" for one in listed if SHOWN.match(one["name"].lower())]
    _say(f"Python {sys.version.partition(' ')[0]}, {', '.join(shown)}")


def _demo_differs(python: Path, folder: Path) -> str:
    """What the demo tells otherwise than in ``.venv``, where the tested versions are; "" if nothing."""
    expected = _demo(ROOT / ".venv" / "bin" / "python", folder)
    found = _demo(python, folder)
    for name in COMPARED:
        same = found[name] == expected[name]
        if isinstance(expected[name], float) and isinstance(found[name], float):
            same = abs(found[name] - expected[name]) < 1e-3  # last digits turn on the order of sums
        if not same:
            return f"{name} is {found[name]!r:.200} and in .venv {expected[name]!r:.200}"
    return ""


def _demo(python: Path, folder: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(_output(python, "-m", "darwin_align.cli", "demo", "--json", cwd=folder))
    return told


def _run_tests(python: Path, folder: Path, paths: Iterable[str]) -> int:
    beside = folder / "tests"
    for name in COPIED:
        source, target = ROOT / name, beside / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    # What is deprecated upstream is a matter for the tested versions, which `make test` runs with warnings as errors.
    options = ("-q", "-m", "not slow and not gpu", "-o", "filterwarnings=default", "-p", "no:cacheprovider")
    options += ("-n", "auto", "--dist", "loadfile")
    tests = [str(python), "-m", "pytest", *options, *paths]
    return subprocess.run(tests, cwd=beside, env=_environment(), check=False).returncode


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def _environment() -> dict[str, str]:
    return {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": ""}


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _run(*command: Any) -> None:
    subprocess.run([str(part) for part in command], check=True)


def _output(*command: Any, cwd: Path | None = None) -> str:
    words: Sequence[str] = [str(part) for part in command]
    return subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True, cwd=cwd, env=_environment()).stdout


if __name__ == "__main__":
    sys.exit(main())
