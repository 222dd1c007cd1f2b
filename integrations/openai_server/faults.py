"""Errors in the format of OpenAI's clients: ``{"error": {"message", "type", "param", "code"}}`` and a status."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi.responses import JSONResponse
from langchain_core.exceptions import ModelError, ModelRateLimitError, ModelTimeoutError

from darwin_align.core.errors import (
    ConfigError,
    ContextLengthError,
    EndpointError,
    EndpointRateLimitError,
    EndpointTimeoutError,
    MissingPackageError,
    ModelLoadError,
    RequestError,
)

__all__ = ["Fault", "draining", "fault_of", "invalid", "refusal", "unsupported", "validation_fault"]

logger = logging.getLogger(__name__)

_KINDS = ("body", "system", "developer", "user", "assistant", "tool", "str", "int", "NamedTool")


class Fault(Exception):  # noqa: N818 - an answer, not a bug
    """A refusal or failure that is reported to the client."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.headers = status, dict(headers or {})
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


def refusal(fault: Fault) -> JSONResponse:
    """A fault as a response."""
    return JSONResponse(fault.body, fault.status, fault.headers)


def invalid(message: str, param: str | None = None, code: str | None = None) -> Fault:
    """An impossible request: 400."""
    return Fault(400, message, param=param, code=code)


def unsupported(param: str, message: str) -> Fault:
    """A parameter that this server does not serve: refused, never ignored."""
    return invalid(message, param, "unsupported_parameter")


def draining(message: str) -> Fault:
    """The server ends: 503, for another one to answer."""
    headers = {"Retry-After": "5", "Connection": "close"}
    message = f"{message}: send it to another one, or come back in 5 s"
    return Fault(503, message, kind="server_error", code="draining", headers=headers)


def validation_fault(errors: Sequence[Mapping[str, Any]]) -> Fault:
    """A body's validation errors as a fault: the one that lies deepest, for pydantic tries every type of a union."""
    error = max(errors, key=lambda error: len(error["loc"]))
    location = [str(part) for part in error["loc"] if not _is_kind(part)]
    if error["type"] == "unsupported_parameter":
        param = ".".join([*location, error["ctx"]["name"]])
        return unsupported(param, error["msg"])
    param = ".".join(location)
    message = error["msg"].removeprefix("Value error, ")
    return invalid(f"{param}: {message}" if param else message, param or None)


def _is_kind(part: str | int) -> bool:
    """Whether a part of an error's location is no name of the client's, but the type that was tried there."""
    return part in _KINDS or (isinstance(part, str) and not part.replace("_", "").isalnum())


def fault_of(error: BaseException, request_id: str) -> Fault:
    """An error as a client may see it. Of faults behind the server it contains the kind; the log has the rest."""
    if isinstance(error, Fault):
        return error
    if isinstance(error, RequestError | ConfigError | MissingPackageError):
        return _refused(error)
    if isinstance(error, EndpointError | ModelError | ModelLoadError):
        return _upstream(error, request_id)
    if isinstance(error, TimeoutError | asyncio.TimeoutError):
        message = f"the search did not end in time and was given up (request {request_id}): ask for less"
        return Fault(504, message, kind="timeout_error", code="deadline_exceeded")
    logger.error("request %s failed", request_id, exc_info=error)
    return Fault(500, f"the server failed on request {request_id}; its log says why", kind="server_error")


def _refused(error: Exception) -> Fault:
    """A request that this server cannot answer; the message states why."""
    if isinstance(error, MissingPackageError):
        return Fault(501, f"this server cannot do that: {error}", kind="server_error", code="not_installed")
    if isinstance(error, ContextLengthError):
        return invalid(str(error), "messages", "context_length_exceeded")
    return invalid(str(error))


def _upstream(error: Exception, request_id: str) -> Fault:
    logger.warning("request %s: a model behind this server fails: %s: %s", request_id, type(error).__name__, error)
    status, headers = 502, {}
    if isinstance(error, EndpointRateLimitError | ModelRateLimitError):
        status, headers = 503, {"Retry-After": "5"}
    elif isinstance(error, EndpointTimeoutError | ModelTimeoutError):
        status = 504
    kind = next((k.__name__ for k in type(error).__mro__ if k.__module__ == EndpointError.__module__), "ModelError")
    message = f"a model behind this server cannot be used ({kind}); the operator's log of request {request_id} says why"
    return Fault(status, message, kind="upstream_error", code=kind, headers=headers)
