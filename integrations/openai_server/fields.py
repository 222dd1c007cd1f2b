"""Fields of other clients and servers that are accepted, and how the rest is treated.

A field that this server does not serve is one of three kinds:

* ignored: it has no effect on an answer. It is accepted with any value and named in the reply's ``x-darwin-ignored``.
* neutral: it would change the answer, but the value given is this server's behaviour anyway. It is accepted.
* refused (400): with any other value, as is every field that is in no table.

Null and, but for ``MEANT``, empty values have no effect and are always accepted.
"""

from __future__ import annotations

from typing import Any

__all__ = ["CHAT_IGNORED", "CHAT_NEUTRAL", "CHAT_REFUSED", "IGNORED_IN_HISTORY", "IGNORED_IN_PARTS", "MEANT"]

_NO_RECORDS = "for the operator's records, and none are kept"
_CACHES = "how a provider keeps prompts; the engine keeps its own"

_SWITCHES = "a switch of some chat templates: give chat_template_kwargs"

CHAT_IGNORED = {
    "metadata": _NO_RECORDS,
    "store": _NO_RECORDS,
    "user": _NO_RECORDS,
    "safety_identifier": _NO_RECORDS,
    "prompt_cache_key": _CACHES,
    "prompt_cache_retention": _CACHES,
    "prompt_cache_options": _CACHES,
    "cache_control": _CACHES,
    "service_tier": "how soon a provider answers",
    "prediction": "makes a known answer faster, and changes none",
    "reasoning_effort": _SWITCHES,
    "verbosity": _SWITCHES,
    "stream_options.include_obfuscation": "pads a stream",
}
"""Of a chat request: name, and why it has no effect."""

IGNORED_IN_PARTS = {"cache_control": _CACHES, "prompt_cache_breakpoint": _CACHES}
"""Of a turn, a part of its content, and a tool."""

IGNORED_IN_HISTORY = {
    **IGNORED_IN_PARTS,
    "annotations": "where an answer's text came from, not a part of it",
    "thinking_blocks": "thoughts of earlier answers: models are not shown them again",
    "provider_specific_fields": "a client's own notes",
    "parsed": "a client's own reading of the answer",
    "parsed_arguments": "a client's own reading of a call",
    "index": "a call's place in a stream",
}
"""Of the assistant's turns and calls."""

CHAT_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0, 0.0),
    "presence_penalty": (0, 0.0),
    "min_p": (0, 0.0),
    "typical_p": (1, 1.0),
    "length_penalty": (1, 1.0),
    "repeat_penalty": (1, 1.0),
    "min_tokens": (0,),
    "ignore_eos": (False,),
    "skip_special_tokens": (True,),
    "include_stop_str_in_output": (False,),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "echo": (False,),
    "best_of": (1,),
    "use_beam_search": (False,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "modalities": (["text"],),
    "function_call": ("none", "auto"),
}
"""Values of fields that are not served which equal this server's behaviour."""

CHAT_REFUSED = {
    "functions": "it is deprecated, give tools",
    "function_call": "it is deprecated, give tool_choice",
    "logprobs": "answers are chosen by their reward, see the reply's darwin field",
    "logit_bias": "tokens are not weighted one by one here, leave it out",
    "min_p": "give top_p or top_k",
    "typical_p": "give top_p or top_k",
    "repeat_penalty": "give repetition_penalty",
    "frequency_penalty": "leave it out, or give repetition_penalty",
    "presence_penalty": "leave it out, or give repetition_penalty",
    "web_search_options": "nothing is searched for on the web here",
    "audio": "answers are text",
    "modalities": "answers are text, leave it out",
    "best_of": "choose a preset by the model's name, e.g. 'pocket:best_of_n'",
    "guided_json": "give response_format",
    "guided_regex": "give response_format with a schema that has a pattern",
    "guided_choice": "give response_format with a schema that has an enum",
    "structured_outputs": "give response_format",
    "chat_template": "the chat template is the operator's",
}
"""Fields that would change an answer, and what to do instead."""

MEANT = frozenset({"web_search_options"})
"""Fields that have a meaning even if they are empty."""
