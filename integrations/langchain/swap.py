"""Another selector, another scorer, for one run only: ``configurable_alternatives`` and ``{"configurable": ...}``.

Run ``python -m darwin_align.integrations.langchain.swap``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from langchain_core.runnables import ConfigurableField
from langchain_core.tracers.context import collect_runs
from langchain_core.tracers.schemas import Run

from darwin_align import DarwinChatModel, Request, Response
from darwin_align.backends.local import LocalScorer
from darwin_align.operators import FunctionScorer, SMCSelector, TopKReplacement, Tournament
from darwin_align.pocket import reward_path

__all__ = ["CHOICES", "QUESTION", "ask", "build", "main"]

QUESTION = "How do I brew green tea?"
CHOICES: tuple[dict[str, Any], ...] = (
    {},
    {"selector": "tournament"},
    {"selector": "smc"},
    {"survivors": 1},
    {"scorer": "brief"},
    {"selector": "tournament", "scorer": "brief"},
)


def brief(request: Request, responses: Sequence[Response]) -> list[float]:  # noqa: ARG001 - every scorer is given both
    """Reward the shorter answer."""
    return [-float(len(response.text.split())) for response in responses]


def build(**settings: Any) -> DarwinChatModel:
    """Return the embedded pair with configurable parts: each run chooses its selector, its survivors and its scorer."""
    top_k = TopKReplacement(survivors=3).configurable_fields(survivors=ConfigurableField(id="survivors"))
    selector = top_k.configurable_alternatives(
        ConfigurableField(id="selector"), default_key="top_k", tournament=Tournament(), smc=SMCSelector()
    )
    scorer = LocalScorer.from_pretrained(reward_path(), threads=1).configurable_alternatives(
        ConfigurableField(id="scorer"), default_key="reward_model", brief=FunctionScorer(function=brief)
    )
    own = {"selector": selector, "scorer": scorer, "cycles": 1, "seed": 7, "max_tokens": 160}
    return DarwinChatModel(**{**own, **settings})


def ask(model: DarwinChatModel, choice: dict[str, Any]) -> tuple[str, set[str]]:
    """Ask under a choice.

    Returns:
        The answer, and the names of the operators that scored and selected, as they appear in the run's trace.
    """
    with collect_runs() as seen:
        answer = model.invoke(QUESTION, {"configurable": choice})
    return answer.text, {run.name for run in _runs(seen.traced_runs) if _chosen(run)}


def _runs(runs: Sequence[Run]) -> Iterator[Run]:
    for run in runs:
        yield run
        yield from _runs(run.child_runs)


def _chosen(run: Run) -> bool:
    return not {"darwin:score", "darwin:select"}.isdisjoint(run.tags or [])


def main() -> None:
    """Ask the same model under every choice."""
    model = build()
    for choice in CHOICES:
        text, operators = ask(model, choice)
        print(f"{choice or 'as built'}: {', '.join(sorted(operators))}")
        print(f"  {len(text.split())} words: {text.splitlines()[0]}")


if __name__ == "__main__":
    main()
