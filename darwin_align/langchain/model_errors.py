"""Remote faults: which errors are a server's, and their names in LangChain.

:class:`~darwin_align.chat_model.DarwinChatModel` raises errors that are both: ``except`` clauses of ``DarwinError`` or
``EndpointError`` catch them, and so do those of LangChain's ``ModelError`` and its kinds.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from langchain_core.exceptions import (
    ContextOverflowError,
    ModelAPIError,
    ModelAuthenticationError,
    ModelConnectionError,
    ModelError,
    ModelInvalidRequestError,
    ModelNotFoundError,
    ModelPermissionDeniedError,
    ModelRateLimitError,
    ModelTimeoutError,
)

from darwin_align.core.errors import (
    ConfigError,
    ContextLengthError,
    DarwinError,
    EndpointAuthenticationError,
    EndpointConnectionError,
    EndpointError,
    EndpointNotFoundError,
    EndpointPermissionError,
    EndpointRateLimitError,
    EndpointRequestError,
    EndpointServerError,
    EndpointTimeoutError,
    OperatorError,
    ReplayError,
    ScoreReplyError,
)
from darwin_align.core.types import OperatorName

__all__ = [
    "DarwinModelAPIError",
    "DarwinModelAuthenticationError",
    "DarwinModelConnectionError",
    "DarwinModelContextOverflowError",
    "DarwinModelInvalidRequestError",
    "DarwinModelNotFoundError",
    "DarwinModelPermissionDeniedError",
    "DarwinModelRateLimitError",
    "DarwinModelServerError",
    "DarwinModelTimeoutError",
    "as_model_error",
    "ends_search",
    "error_message",
    "is_context_overflow",
    "is_remote_fault",
    "model_errors",
]


class DarwinModelAuthenticationError(EndpointAuthenticationError, ModelAuthenticationError):
    """The key is missing or wrong (401)."""


class DarwinModelPermissionDeniedError(EndpointPermissionError, ModelPermissionDeniedError):
    """The key may not do this (403)."""


class DarwinModelNotFoundError(EndpointNotFoundError, ModelNotFoundError):
    """There is no such model or path (404)."""


class DarwinModelInvalidRequestError(EndpointRequestError, ModelInvalidRequestError):
    """The server refuses the request as it is."""


class DarwinModelRateLimitError(EndpointRateLimitError, ModelRateLimitError):
    """The server still has too many requests (429)."""


class DarwinModelServerError(EndpointServerError, ModelAPIError):
    """The server fails (5xx), or answers with something that is no answer."""


class DarwinModelConnectionError(EndpointConnectionError, ModelConnectionError):
    """The server cannot be reached."""


class DarwinModelTimeoutError(EndpointTimeoutError, ModelTimeoutError):
    """The server did not answer in time."""


class DarwinModelAPIError(EndpointError, ModelAPIError):
    """The server could not be used for any other reason."""


class DarwinModelContextOverflowError(ContextLengthError, ContextOverflowError):
    """Prompt and answer together do not fit into the model's context."""


_BOTH: dict[type[DarwinError], type[DarwinError]] = {
    EndpointAuthenticationError: DarwinModelAuthenticationError,
    EndpointPermissionError: DarwinModelPermissionDeniedError,
    EndpointNotFoundError: DarwinModelNotFoundError,
    EndpointRequestError: DarwinModelInvalidRequestError,
    EndpointRateLimitError: DarwinModelRateLimitError,
    EndpointServerError: DarwinModelServerError,
    EndpointConnectionError: DarwinModelConnectionError,
    EndpointTimeoutError: DarwinModelTimeoutError,
    EndpointError: DarwinModelAPIError,
    ContextLengthError: DarwinModelContextOverflowError,
}


def is_remote_fault(error: BaseException) -> bool:
    """Whether an operator's error means that a server cannot be used any more.

    These are :class:`~darwin_align.core.errors.EndpointError`, LangChain's ``ModelError`` and httpx's
    ``TransportError``. An answer too long for a model's context is none: the server is well, and a setting must change.

    >>> is_remote_fault(EndpointTimeoutError("no answer in 60 s")), is_remote_fault(TypeError("a bug"))
    (True, False)
    """
    if isinstance(error, ContextOverflowError):  # a ModelError to LangChain
        return False
    return isinstance(error, (EndpointError, ModelError)) or _of_transport(error) is not None


def is_context_overflow(error: BaseException) -> bool:
    """Whether an operator's error means that a text is too long for a model's context.

    >>> is_context_overflow(ContextLengthError("5000 tokens")), is_context_overflow(TypeError("a bug"))
    (True, False)
    """
    return isinstance(error, (ContextLengthError, ContextOverflowError))


def ends_search(operator: OperatorName, error: BaseException) -> bool:
    """Whether a search that has scored something may end with its best answer when an operator raises this error.

    Scorers and mutators are users' own code and models: whatever fails there, unless what they return, or a setting,
    breaks the algorithm. Of the other operators only remote faults.

    >>> ends_search("score", TimeoutError()), ends_search("decode", TimeoutError())
    (True, False)
    >>> ends_search("score", OperatorError())
    False
    """
    broken = isinstance(error, (OperatorError, ConfigError, ReplayError)) and not isinstance(error, ScoreReplyError)
    return is_remote_fault(error) or (operator in ("score", "mutate") and not broken)


def error_message(error: BaseException) -> str:
    """Return an error's kind and message; httpx's are often without one.

    >>> error_message(EndpointTimeoutError("no answer in 60 s")), error_message(TimeoutError())
    ('EndpointTimeoutError: no answer in 60 s', 'TimeoutError')
    """
    return f"{type(error).__name__}: {error}".removesuffix(": ")


def as_model_error(error: Exception) -> Exception:
    """Return a remote fault as LangChain's kind of error, and any other error as it is.

    >>> as_model_error(EndpointRateLimitError("too many requests", status=429))
    DarwinModelRateLimitError('too many requests')
    """
    if isinstance(error, ModelError):
        return error
    if of_transport := _of_transport(error):
        return of_transport(error_message(error))
    both = next((_BOTH[kind] for kind in type(error).__mro__ if kind in _BOTH), None)
    if both is None:
        return error
    found = both(str(error))
    found.__dict__.update(error.__dict__)  # status and further attributes of the original
    return found


@contextmanager
def model_errors() -> Iterator[None]:
    """Raise remote faults as LangChain's errors; the cause of each is the original."""
    try:
        yield
    except Exception as error:
        if (found := as_model_error(error)) is error:
            raise
        raise found from error


def _of_transport(error: BaseException) -> type[DarwinError] | None:
    import httpx  # here: only who meets an error needs it

    if isinstance(error, httpx.TimeoutException):
        return DarwinModelTimeoutError
    return DarwinModelConnectionError if isinstance(error, httpx.TransportError) else None
