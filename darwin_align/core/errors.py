"""The exceptions: each message states what was requested, what happened and what to do about it."""

from __future__ import annotations

__all__ = [
    "ConfigError",
    "ContextLengthError",
    "DarwinError",
    "DeviceMemoryError",
    "EndpointAuthenticationError",
    "EndpointConnectionError",
    "EndpointError",
    "EndpointNotFoundError",
    "EndpointPermissionError",
    "EndpointRateLimitError",
    "EndpointRequestError",
    "EndpointServerError",
    "EndpointTimeoutError",
    "MissingPackageError",
    "ModelLoadError",
    "OperatorError",
    "ReplayError",
    "RequestError",
    "RewardError",
    "ScoreReplyError",
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
    """A model folder or hub id cannot be used as requested."""


class DeviceMemoryError(DarwinError, MemoryError):
    """The device has not enough memory, not even for one row at a time."""


class MissingPackageError(ModelLoadError):
    """An optional package is not installed; the message names the extra that brings it."""


class OperatorError(DarwinError):
    """An operator's answer would break the algorithm, e.g. it changed a finished beam."""


class RewardError(OperatorError):
    """A scorer returned the wrong number of rewards, or one that is not a finite number."""


class ScoreReplyError(RewardError):
    """A judging model's reply contained no score, twice."""


class ReplayError(DarwinError):
    """Recorded events do not belong to the search that replays them."""


class EndpointError(DarwinError):
    """A remote server could not be used. Subclasses name the cause; ``status`` is the HTTP status, if there was one."""

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class EndpointAuthenticationError(EndpointError):
    """The key is missing or wrong (401)."""


class EndpointPermissionError(EndpointError):
    """The key may not do this (403)."""


class EndpointNotFoundError(EndpointError):
    """There is no such model or path (404)."""


class EndpointRequestError(EndpointError):
    """The server rejects the request itself, so a retry would not help (400, 422 and the like)."""


class EndpointRateLimitError(EndpointError):
    """The server reports too many requests (429), after all attempts."""


class EndpointServerError(EndpointError):
    """The server fails (5xx), or its reply cannot be read, after all attempts."""


class EndpointConnectionError(EndpointError):
    """The server cannot be reached, or breaks the connection, after all attempts."""


class EndpointTimeoutError(EndpointError):
    """The server did not answer in time."""
