"""The algorithm: records, questions, selection. Standard library and pydantic only."""

from darwin_align.core.algorithm import Search, darwin
from darwin_align.core.archive import Archive, Entry
from darwin_align.core.budget import Budget, Usage
from darwin_align.core.calibration import Calibration, calibrate
from darwin_align.core.clauses import Clause, read_clauses, write_clauses
from darwin_align.core.config import SearchConfig
from darwin_align.core.events import Event, Question
from darwin_align.core.exploration import Exploration, ScoredAnswer
from darwin_align.core.learning import learn_clauses
from darwin_align.core.presets import PRESETS
from darwin_align.core.result import SearchResult
from darwin_align.core.types import (
    Ancestor,
    Beam,
    Message,
    Population,
    Request,
    Response,
    Sampling,
    Step,
    ToolCall,
)

__all__ = [
    "PRESETS",
    "Ancestor",
    "Archive",
    "Beam",
    "Budget",
    "Calibration",
    "Clause",
    "Entry",
    "Event",
    "Exploration",
    "Message",
    "Population",
    "Question",
    "Request",
    "Response",
    "Sampling",
    "ScoredAnswer",
    "Search",
    "SearchConfig",
    "SearchResult",
    "Step",
    "ToolCall",
    "Usage",
    "calibrate",
    "darwin",
    "learn_clauses",
    "read_clauses",
    "write_clauses",
]
