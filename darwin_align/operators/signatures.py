"""Checks of a user's function or chain before it is called: its arguments, and its prompt's variables."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator
from typing import Any

from langchain_core.prompts import BasePromptTemplate
from langchain_core.runnables import Runnable, RunnableParallel, RunnableSequence
from langchain_core.runnables.base import RunnableBindingBase

from darwin_align.core.errors import ConfigError

__all__ = ["check_signature", "check_variables"]


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
