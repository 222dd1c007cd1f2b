"""Benchmarks that consist of sections, each kept in one JSON as soon as it ends."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from darwin_align import __version__

__all__ = ["run_sections"]

Json = dict[str, Any]


def run_sections(description: str | None, sections: Mapping[str, Callable[[], Json]], path: Path, machine: str) -> None:
    """Run the sections that the command line names, all by default, and keep what each found beside the others.

    Args:
        description: of the program.
        sections: by their names.
        path: of the JSON; sections that do not run now stay as they are.
        machine: what it runs on.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--sections", nargs="+", choices=sections, default=list(sections))
    for name in parser.parse_args().sections:
        found = sections[name]()
        figures: Json = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        figures |= {name: found, "version": __version__, "machine": machine}
        path.write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
