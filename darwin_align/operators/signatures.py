"""Checks of a user's function or chain before it is called: its arguments, and its prompt's variables."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator
from typing import Any

from langchain_core.prompts import BasePromptTemplate
from langchain_core.runnables import Runnable, RunnableParallel, RunnableSequence
from langchain_core.runnables.base import RunnableBindingBase

from darwin_align.core.errors import ConfigError

__all__ = ["check_mutate", "check_signature", "check_variables", "first_argument", "takes"]


def check_signature(role: str, function: Callable[..., object], expected: str) -> None:
    """Refuse a function that cannot be called with these positional arguments.

    Args:
        role: what the function is to be, e.g. ``"scorer"``.
        function: anything that can be called; one without a readable signature passes.
        expected: the call, e.g. ``"score(request, responses) -> list[float]"``.

    Raises:
        ConfigError: with the function's own signature and the expected one.

    >>> check_signature("scorer", lambda request, responses: [], "score(request, responses) -> list[float]")
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return
    arguments = expected.partition("(")[2].partition(")")[0].split(", ")
    try:
        signature.bind(*arguments)
    except TypeError as error:
        name = getattr(function, "__qualname__", None) or type(function).__name__
        raise ConfigError(
            f"cannot use {name}{signature} as {role}: {error}. It is called with {len(arguments)} positional "
            f"arguments: {expected}"
        ) from None


def takes(function: Callable[..., object], arguments: int) -> bool:
    """Whether a function can be called with so many positional arguments, as far as its signature can be read.

    >>> takes(lambda context: [], 1), takes(lambda request, instruction, n, seed: [], 1)
    (True, False)
    """
    try:
        inspect.signature(function).bind(*range(arguments))
    except TypeError:
        return False
    except ValueError:  # it has no signature that could be read
        return True
    return True


def first_argument(function: Callable[..., object]) -> str | None:
    """The name of a function's first parameter, if it can be read."""
    try:
        return next(iter(inspect.signature(function).parameters), None)
    except (TypeError, ValueError):
        return None


def check_mutate(name: str, method: object) -> None:
    """Refuse a mutator class whose method cannot be called with one context.

    Raises:
        ConfigError: with what to change.
    """
    if inspect.isfunction(method) and not takes(method, 2):
        raise ConfigError(
            f"{name}.mutate{inspect.signature(method)} cannot be called with one context. Define it as "
            "`def mutate(self, context)`, and read context.request, context.instruction, context.n and context.seed; "
            "context.reward, context.best, context.worst and context.archive are what the search knows by then"
        )


def check_variables(role: str, chain: Runnable[Any, Any], given: Collection[str]) -> None:
    """Refuse a chain that begins with a prompt whose variables are not given to it.

    Raises:
        ConfigError: with the names that are missing and those that are given.
    """
    for prompt in _first_prompts(chain):
        needed = {*prompt.input_variables} - {*prompt.partial_variables} - {*prompt.optional_variables}
        if unknown := sorted(needed - {*given}):
            names = ", ".join(f"{{{name}}}" for name in unknown)
            raise ConfigError(
                f"the {role} chain's prompt requires {names}, which it is not given: the variables of a {role} chain "
                f"are {', '.join(f'{{{name}}}' for name in given)}; rename it, or fill it by prompt.partial(…)"
            )


def _first_prompts(chain: object) -> Iterator[BasePromptTemplate[Any]]:
    """The prompts that are given the chain's own input."""
    if isinstance(chain, BasePromptTemplate):
        yield chain
    elif isinstance(chain, RunnableSequence):
        yield from _first_prompts(chain.first)
    elif isinstance(chain, RunnableBindingBase):
        yield from _first_prompts(chain.bound)
    elif isinstance(chain, RunnableParallel):
        for step in chain.steps__.values():
            yield from _first_prompts(step)
