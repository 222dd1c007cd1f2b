"""IFEval (Zhou et al. 2023, arXiv 2311.07911): instructions whose fulfilment is a fact."""

from darwin_align.evaluation.ifeval.kinds import KINDS, rules_of
from darwin_align.evaluation.ifeval.prompts import Instruction, Prompt, followed, read_prompts
from darwin_align.evaluation.ifeval.run import measure
from darwin_align.evaluation.ifeval.summary import Summary, plain, summary, table

__all__ = [
    "KINDS",
    "Instruction",
    "Prompt",
    "Summary",
    "followed",
    "measure",
    "plain",
    "read_prompts",
    "rules_of",
    "summary",
    "table",
]
