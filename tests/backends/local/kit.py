"""What the tests of local models share."""

from __future__ import annotations

from typing import Any

import pytest

from darwin_align import SearchResult
from darwin_align.core.types import Beam


def lineage(beam: Beam) -> dict[str, Any]:
    """All of a beam but its floats, whose last digits depend on who shared its batch."""
    return beam.model_dump(exclude={"reward", "logprob", "log_weight"})


def assert_same(found: SearchResult, expected: SearchResult, *, within: float = 1e-3) -> None:
    """The same answers by the same ways; rewards up to rounding."""
    assert found.text == expected.text
    assert [lineage(beam) for beam in found.ranking] == [lineage(beam) for beam in expected.ranking]
    assert [beam.reward for beam in found.ranking] == pytest.approx(
        [beam.reward for beam in expected.ranking], abs=within
    )
    assert [beam.logprob for beam in found.ranking] == pytest.approx(
        [beam.logprob for beam in expected.ranking], abs=10 * within
    )
    assert [entry.instruction for entry in found.archive.entries] == [
        entry.instruction for entry in expected.archive.entries
    ]
    assert found.usage.decoded_tokens == expected.usage.decoded_tokens
