"""Operators: what a user swaps."""

from darwin_align.operators.base import Operator
from darwin_align.operators.checks.intent import EmbeddingIntent, JudgeIntent, LexicalIntent
from darwin_align.operators.coerce import as_decoder, as_mutator, as_policy, as_scorer, as_selector
from darwin_align.operators.context import MutationContext
from darwin_align.operators.decoder import Decoder
from darwin_align.operators.mutator import Check, Mutator
from darwin_align.operators.mutators.aspects import AspectMutator
from darwin_align.operators.mutators.auto import AutoMutator
from darwin_align.operators.mutators.evolution import CritiqueMutator, CrossoverMutator, FusionMutator
from darwin_align.operators.mutators.langchain import ChainMutator, ChatModelMutator
from darwin_align.operators.mutators.plain import ClauseMutator, FunctionMutator, IdentityMutator, RuleMutator
from darwin_align.operators.mutators.policy import PolicyMutator
from darwin_align.operators.policy import Capabilities, Continuation, Policy, Row
from darwin_align.operators.prompts import MutationPrompt
from darwin_align.operators.report import Report
from darwin_align.operators.scorer import Scorer
from darwin_align.operators.scorers.plain import (
    ChainScorer,
    Ensemble,
    FunctionScorer,
    LengthPenalty,
    ToolCallScorer,
    WeightedSum,
)
from darwin_align.operators.scorers.rules import RuleScorer
from darwin_align.operators.selector import Selector
from darwin_align.operators.selectors import (
    ARGSSelector,
    FunctionSelector,
    NoSelection,
    SMCSelector,
    SpeculativeRejection,
    TopKReplacement,
    Tournament,
)

__all__ = [
    "ARGSSelector",
    "AspectMutator",
    "AutoMutator",
    "Capabilities",
    "ChainMutator",
    "ChainScorer",
    "ChatModelMutator",
    "Check",
    "ClauseMutator",
    "Continuation",
    "CritiqueMutator",
    "CrossoverMutator",
    "Decoder",
    "EmbeddingIntent",
    "Ensemble",
    "FunctionMutator",
    "FunctionScorer",
    "FunctionSelector",
    "FusionMutator",
    "IdentityMutator",
    "JudgeIntent",
    "LengthPenalty",
    "LexicalIntent",
    "MutationContext",
    "MutationPrompt",
    "Mutator",
    "NoSelection",
    "Operator",
    "Policy",
    "PolicyMutator",
    "Report",
    "Row",
    "RuleMutator",
    "RuleScorer",
    "SMCSelector",
    "Scorer",
    "Selector",
    "SpeculativeRejection",
    "ToolCallScorer",
    "TopKReplacement",
    "Tournament",
    "WeightedSum",
    "as_decoder",
    "as_mutator",
    "as_policy",
    "as_scorer",
    "as_selector",
]
