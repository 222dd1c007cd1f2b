"""Switches of chat templates: the variables that a template reads besides the conversation and the tools."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

from jinja2 import TemplateError, meta
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from darwin_align.core.json_types import Json
from darwin_align.core.suggestions import did_you_mean

__all__ = ["check_switches", "switches_of"]

_GIVEN = frozenset(
    {"messages", "tools", "add_generation_prompt", "continue_final_message", "raise_exception", "strftime_now"}
)
"""What is given to every template, and no switch."""
_GENERATION = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")
"""Tags of an extension of transformers, for training."""


@lru_cache(maxsize=32)
def switches_of(source: str) -> frozenset[str]:
    """Names of a template's switches; none if its source cannot be read.

    >>> sorted(switches_of("{% if enable_thinking %}<think>{% endif %}{{ bos_token }}{{ messages[0].content }}"))
    ['enable_thinking']
    """
    environment = ImmutableSandboxedEnvironment(extensions=[loopcontrols])
    try:
        names = meta.find_undeclared_variables(environment.parse(_GENERATION.sub("", source)))
    except TemplateError:
        return frozenset()
    return frozenset(n for n in names if n not in _GIVEN and n not in environment.globals and not n.endswith("_token"))


def check_switches(source: str, given: Mapping[str, Json], whose: str) -> str | None:
    """Why switches cannot be set, or ``None``.

    >>> check_switches("{{ documents }}", {"document": []}, "the chat template")
    "the chat template does not read chat_template_kwargs={'document': …}: did you mean 'documents'?"
    """
    known = switches_of(source) if given else frozenset()
    unread = next((name for name in given if name not in known), None)
    if unread is None:
        return None
    hint = did_you_mean(unread, sorted(known)) if known else "it has no switches"
    return f"{whose} does not read chat_template_kwargs={{{unread!r}: …}}: {hint}"
