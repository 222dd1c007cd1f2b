"""The type of values that come from JSON."""

from __future__ import annotations

from typing import Any, TypeAlias

__all__ = ["Json"]

Json: TypeAlias = Any
"""A value parsed from JSON, e.g. a schema, an argument of a tool call or a field of a reply. Its kind is checked where
it is read, so a type checker takes it as ``Any``; annotated so, it is known to be JSON."""
