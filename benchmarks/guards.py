"""How well the guards on rewordings tell usable replies of a real small model from the others.

Replies and labels: ``tests/operators/checks/data`` (its README says where they come from). The checks' rules were made
on the parts ``tune`` and ``second``; ``kept`` has other prompts, and no rule was changed after it was measured.

    python -m benchmarks.guards

Prints the tables and writes ``benchmarks/results/guards.json``. Takes seconds, and no model.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from scipy.stats import binomtest

from benchmarks.held_out import RESULTS
from darwin_align import LexicalIntent, Request, __version__
from darwin_align.operators.checks.wording import REWORDING_CHECKS

DATA = Path(__file__).parents[1] / "tests" / "operators" / "checks" / "data" / "rewordings.jsonl"
PARTS = ("tune", "second", "kept")

Check = Callable[[Request, str], str | None]
Reply = dict[str, Any]
"""One line of the file."""

_ASKS = re.compile(
    r"^(?:please|kindly|tell|explain|describe|give|show|list|help|write|teach|guide|walk|share|provide|outline|name|"
    r"what|how|why|when|where|which|who|whose|can|could|would|will|should|is|are|do|does|did|may|i|i'm|i'd|we|let|"
    r"in|for|as|if|with|step|imagine|suppose|compose|create|summari[sz]e|compare|discuss|suggest|recommend)\b",
    re.IGNORECASE,
)
_ANSWERS = re.compile(
    r"^(?:sure|certainly|of course|here (?:is|are)|to \w+ \w[^?]*, (?:you|first)|you need|first[, ])", re.I
)


def former_check(request: Request, mutation: str) -> str | None:
    """The one check of rewordings that there was before, to compare with."""
    original = request.instruction
    too_long = len(mutation) > 400 + 4 * len(original)
    opening = _ANSWERS.match(mutation) and not _ANSWERS.match(original)
    stated = (
        _ASKS.match(original) and original.rstrip().endswith("?") and "?" not in mutation and not _ASKS.match(mutation)
    )
    return "it answers instead of rewording" if too_long or opening or stated else None


GUARDS: dict[str, tuple[Check, ...]] = {
    "former check alone": (former_check,),
    "former check and LexicalIntent": (former_check, LexicalIntent()),
    "LexicalIntent alone": (LexicalIntent(),),
    "checks alone": REWORDING_CHECKS,
    "checks and LexicalIntent": (*REWORDING_CHECKS, LexicalIntent()),
}
"""The last is what searches use by default, the second what they used before."""


def replies(part: str) -> list[Reply]:
    """The labelled replies of one part."""
    lines = DATA.read_text("utf-8").splitlines()
    return [reply for reply in map(json.loads, lines) if reply["half"] == part]


def refused_by(reply: Reply, checks: Sequence[Check]) -> str | None:
    """The name of the first check that refuses a reply."""
    request = Request.of(reply["prompt"])
    return next((_name(check) for check in checks if check(request, reply["reply"])), None)


def _name(check: Check) -> str:
    return str(getattr(check, "__name__", type(check).__name__))


def figures(part: str, checks: Sequence[Check]) -> dict[str, Any]:
    """Precision, recall, and what was refused by which check and accepted for what it should not be."""
    given = replies(part)
    refusals = [refused_by(reply, checks) for reply in given]
    accepted = [reply for reply, refusal in zip(given, refusals, strict=True) if refusal is None]
    usable, right = sum(reply["label"] for reply in given), sum(reply["label"] for reply in accepted)
    return {
        "replies": len(given),
        "usable": usable,
        "accepted": len(accepted),
        "accepted_usable": right,
        "precision": right / len(accepted),
        "precision_95": list(binomtest(right, len(accepted)).proportion_ci(method="wilson")),
        "recall": right / usable,
        "recall_95": list(binomtest(right, usable).proportion_ci(method="wilson")),
        "refused_by": dict(Counter(filter(None, refusals)).most_common()),
        "wrongly_accepted": dict(Counter(reply["reason"] for reply in accepted if not reply["label"]).most_common()),
    }


def measure() -> dict[str, dict[str, dict[str, Any]]]:
    """All figures, by part and guards."""
    return {part: {name: figures(part, checks) for name, checks in GUARDS.items()} for part in PARTS}


def main() -> None:
    """Measure, print, write."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    ).parse_args()
    rows = measure()
    for part, by_guards in rows.items():
        print(f"\n{part:32}{'usable':>9}{'accepted':>10}  precision            recall")
        for name, row in by_guards.items():
            print(f"{name:32}{row['usable']:>9}{row['accepted']:>10}{_shown(row, 'precision')}{_shown(row, 'recall')}")
        last = by_guards["checks and LexicalIntent"]
        print(f"refused by {last['refused_by']}\nwrongly accepted {last['wrongly_accepted']}")
    report = {"rows": rows, "machine": platform.machine(), "version": __version__}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "guards.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def _shown(row: dict[str, Any], name: str) -> str:
    low, high = row[f"{name}_95"]
    return f"  {row[name]:5.3f} [{low:.2f}, {high:.2f}]"


if __name__ == "__main__":
    main()
