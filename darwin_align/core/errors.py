"""One small tree of errors: each says what was asked, what came, and what to do."""

from __future__ import annotations

__all__ = [
    "ConfigError",
    "ContextLengthError",
    "DarwinError",
    "ModelLoadError",
    "OperatorError",
    "ReplayError",
    "RequestError",
    "RewardError",
]


class DarwinError(Exception):
    """Root of every error that this library raises on purpose."""


class ConfigError(DarwinError, ValueError):
    """A setting is unknown, impossible, or contradicts another one."""


class RequestError(DarwinError, ValueError):
    """The conversation cannot be answered: it is empty, has no human turn, or is already answered."""


class ContextLengthError(RequestError):
    """Prompt and answer together do not fit into the model's context."""


class ModelLoadError(DarwinError):
    """A model folder or hub id cannot be used as asked."""


class OperatorError(DarwinError):
    """An operator's answer would break the algorithm, e.g. it changed a finished beam."""


class RewardError(OperatorError):
    """A scorer returned the wrong number of rewards, or one that is not a finite number."""


class ReplayError(DarwinError):
    """Recorded events do not belong to the search that is asked to replay them."""
