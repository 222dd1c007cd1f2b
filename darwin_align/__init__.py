"""Aligned answers without retraining: DARWIN (arXiv 2406.15193) as a LangChain chat model.

Names load on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from darwin_align.lazy import lazy_getattr

if TYPE_CHECKING:
    from darwin_align.backends.chat_model import ChatModelPolicy
    from darwin_align.backends.endpoint import EndpointPolicy, EndpointScorer, JudgeScorer
    from darwin_align.backends.llama_cpp import LlamaCppPolicy
    from darwin_align.backends.local import LocalPolicy, LocalScorer
    from darwin_align.chat_model import DarwinChatModel
    from darwin_align.core import (
        Budget,
        Clause,
        Exploration,
        Message,
        Population,
        Request,
        Response,
        Sampling,
        SearchConfig,
        SearchResult,
        learn_clauses,
    )
    from darwin_align.core.errors import (
        ConfigError,
        ContextLengthError,
        DarwinError,
        DeviceMemoryError,
        EndpointAuthenticationError,
        EndpointConnectionError,
        EndpointError,
        EndpointNotFoundError,
        EndpointPermissionError,
        EndpointRateLimitError,
        EndpointRequestError,
        EndpointServerError,
        EndpointTimeoutError,
        MissingPackageError,
        ModelLoadError,
        OperatorError,
        ReplayError,
        RequestError,
        RewardError,
        ScoreReplyError,
    )
    from darwin_align.evaluation import check
    from darwin_align.operators import (
        ARGSSelector,
        AspectMutator,
        AutoMutator,
        ChainMutator,
        ChainScorer,
        ChatModelMutator,
        ClauseMutator,
        Continuation,
        Decoder,
        EmbeddingIntent,
        Ensemble,
        FunctionMutator,
        FunctionScorer,
        FunctionSelector,
        IdentityMutator,
        JudgeIntent,
        LengthPenalty,
        LexicalIntent,
        MutationContext,
        MutationPrompt,
        Mutator,
        NoSelection,
        Operator,
        Policy,
        PolicyMutator,
        Report,
        Row,
        RuleMutator,
        RuleScorer,
        Scorer,
        Selector,
        SMCSelector,
        SpeculativeRejection,
        ToolCallScorer,
        TopKReplacement,
        Tournament,
        WeightedSum,
    )
    from darwin_align.search import DarwinSearch
    from darwin_align.traces import trace

__version__ = "0.2.0"

__all__ = [
    "ARGSSelector",
    "AspectMutator",
    "AutoMutator",
    "Budget",
    "ChainMutator",
    "ChainScorer",
    "ChatModelMutator",
    "ChatModelPolicy",
    "Clause",
    "ClauseMutator",
    "ConfigError",
    "ContextLengthError",
    "Continuation",
    "DarwinChatModel",
    "DarwinError",
    "DarwinSearch",
    "Decoder",
    "DeviceMemoryError",
    "EmbeddingIntent",
    "EndpointAuthenticationError",
    "EndpointConnectionError",
    "EndpointError",
    "EndpointNotFoundError",
    "EndpointPermissionError",
    "EndpointPolicy",
    "EndpointRateLimitError",
    "EndpointRequestError",
    "EndpointScorer",
    "EndpointServerError",
    "EndpointTimeoutError",
    "Ensemble",
    "Exploration",
    "FunctionMutator",
    "FunctionScorer",
    "FunctionSelector",
    "IdentityMutator",
    "JudgeIntent",
    "JudgeScorer",
    "LengthPenalty",
    "LexicalIntent",
    "LlamaCppPolicy",
    "LocalPolicy",
    "LocalScorer",
    "Message",
    "MissingPackageError",
    "ModelLoadError",
    "MutationContext",
    "MutationPrompt",
    "Mutator",
    "NoSelection",
    "Operator",
    "OperatorError",
    "Policy",
    "PolicyMutator",
    "Population",
    "ReplayError",
    "Report",
    "Request",
    "RequestError",
    "Response",
    "RewardError",
    "Row",
    "RuleMutator",
    "RuleScorer",
    "SMCSelector",
    "Sampling",
    "ScoreReplyError",
    "Scorer",
    "SearchConfig",
    "SearchResult",
    "Selector",
    "SpeculativeRejection",
    "ToolCallScorer",
    "TopKReplacement",
    "Tournament",
    "WeightedSum",
    "check",
    "learn_clauses",
    "trace",
]

_HOMES = {
    **dict.fromkeys(__all__, "darwin_align.operators"),
    **{name: "darwin_align.core.errors" for name in __all__ if name.endswith("Error")},
    **dict.fromkeys(("Budget", "Clause", "Exploration", "Message", "Population"), "darwin_align.core"),
    **dict.fromkeys(("Request", "Response", "Sampling"), "darwin_align.core"),
    **dict.fromkeys(("SearchConfig", "SearchResult", "learn_clauses"), "darwin_align.core"),
    "ChatModelPolicy": "darwin_align.backends.chat_model",
    **dict.fromkeys(("EndpointPolicy", "EndpointScorer", "JudgeScorer"), "darwin_align.backends.endpoint"),
    **dict.fromkeys(("LocalPolicy", "LocalScorer"), "darwin_align.backends.local"),
    "DarwinChatModel": "darwin_align.chat_model",
    "LlamaCppPolicy": "darwin_align.backends.llama_cpp",
    "DarwinSearch": "darwin_align.search",
    "check": "darwin_align.evaluation",
    "trace": "darwin_align.traces",
}

__getattr__ = lazy_getattr(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
