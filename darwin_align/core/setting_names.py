"""Names of settings in other libraries and here: for errors about unknown names."""

from __future__ import annotations

from collections.abc import Collection

from darwin_align.core.suggestions import did_you_mean

__all__ = ["explain_unknown"]

_LETTERS = {
    "n": "mutations",
    "nb": "beams_per_mutation",
    "k": "survivors",
    "m": "replacement_period",
    "N": "cycles",
    "p": "champions",
    "l": "lookahead",
    "alpha": "rejection",
    "w": "reward_weight",
}
"""The paper's letters: of its Algorithm 1, and of the methods beside it."""
_NAMES = {
    "mutations": ("num_mutations", "num_beams", "beams", "beam_width", "population", "population_size", "num_samples"),
    "beams_per_mutation": ("beams_per_instruction", "samples_per_mutation"),
    "survivors": ("num_survivors", "elites", "parents"),
    "replacement_period": ("period", "interval", "chunk_size", "chunk_length", "block_size", "segment_length"),
    "cycles": ("num_cycles", "iterations", "max_iterations", "generations", "rounds", "steps"),
    "max_new_tokens": (
        "max_tokens",
        "max_completion_tokens",
        "max_output_tokens",
        "max_length",
        "max_gen_len",
        "num_predict",
    ),
    "target_reward": ("target", "reward_threshold", "threshold"),
    "patience": ("early_stopping",),
    "budget": ("max_seconds", "max_time", "time_limit", "max_reward_calls"),
    "seed": ("random_seed", "random_state", "manual_seed"),
    "temperature": ("temp",),
    "top_p": ("nucleus",),
    "repetition_penalty": ("rep_pen", "repeat_penalty"),
    "stop": ("stop_sequences", "stop_strings"),
    "chat_template_kwargs": ("template_kwargs", "chat_template_args"),
    "max_thinking_tokens": ("thinking_budget", "thinking_tokens", "max_reasoning_tokens", "reasoning_budget"),
    "scorer": ("reward", "reward_model", "reward_fn", "reward_function", "rm", "judge", "grader", "verifier", "score"),
    "policy": ("llm", "lm", "model", "base_model", "chat_model", "language_model", "generator"),
    "mutation_prompt": ("prompt_template", "mutation_template", "rewording_prompt"),
    "guard": ("intent_guard",),
}
_MEANT = {**{name: target for target, names in _NAMES.items() for name in names}, **_LETTERS}
_BEST_OF = "best of n is a preset: SearchConfig.preset('best_of_n', mutations=n - 1)"
_SAMPLES = "the number of answers is given to a call: generate(…, n=…)"
_REMARKS = {
    **{name: f"{name} in the paper" for name in _LETTERS},
    "n": f"n in the paper; {_SAMPLES}",
    "num_beams": "with beams_per_mutation for each",
    "max_seconds": "budget=Budget(seconds=…)",
    "max_time": "budget=Budget(seconds=…)",
    "time_limit": "budget=Budget(seconds=…)",
    "max_reward_calls": "budget=Budget(reward_calls=…)",
    "early_stopping": "cycles without a better answer",
}
_SERVER = "it belongs to what asks a server, EndpointPolicy(…) and EndpointScorer(…)"
_SWITCH = "it is a switch of some chat templates: give a call or the policy chat_template_kwargs={{{!r}: …}}"
_LOADING = "it belongs to what loads a model, e.g. DarwinChatModel.from_pretrained(policy, reward, …)"
_HINTS = {
    "best_of": _BEST_OF,
    "best_of_n": _BEST_OF,
    "num_return_sequences": _SAMPLES,
    "do_sample": "temperature=0 is greedy, anything above it samples",
    "preset": "SearchConfig.preset(name, …) makes a config of one: config=SearchConfig.preset(…)",
    "timeout": "budget=Budget(seconds=…) limits a search; EndpointPolicy(…) and EndpointScorer(…) limit their requests",
    **dict.fromkeys(("api_key", "base_url", "max_retries", "organization"), _SERVER),
    **{name: _SWITCH.format(name) for name in ("enable_thinking", "reasoning_effort", "thinking", "documents")},
    **dict.fromkeys(("device", "device_map", "dtype", "torch_dtype", "threads", "trust_remote_code"), _LOADING),
}
_PARTS = frozenset({"policy", "scorer", "decoder", "sampling", "config", "mutation_prompt", "guard", "progress"})
_OF_CALLS = frozenset(
    {
        "stop",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "response_format",
        "grounded_in",
        "chat_template_kwargs",
        "replay",
        "on_event",
    }
)
_OWNERS = ("SearchConfig", "Sampling", "DarwinSearch", "DarwinChatModel", "Request")
"""Whose unknown names may be settings of one of the others."""


def explain_unknown(name: str, known: Collection[str], owner: str) -> str:
    """Explain an unknown setting: its name here, or the class that it belongs to.

    Args:
        name: the unknown one.
        known: names that the owner takes.
        owner: name of the class that was given it, or "" for a call.

    >>> explain_unknown("k", ["survivors", "cycles"], "SearchConfig")
    "it is 'survivors' here (k in the paper)"
    >>> explain_unknown("temperature", ["survivors", "reward_temperature"], "SearchConfig")
    'it belongs to Sampling: sampling=Sampling(temperature=…), or give it to DarwinChatModel or to a call'
    >>> explain_unknown("survivor", ["survivors", "cycles"], "SearchConfig")
    "did you mean 'survivors'?"
    """
    target = _MEANT.get(name, name)
    remark = f" ({_REMARKS[name]})" if name in _REMARKS else ""
    if target != name and target in known:
        return f"it is {target!r} here{remark}"
    if not owner or owner in _OWNERS:
        if (home := _home(target, owner)) is not None:
            return f"it is {target!r} here{remark}, and {home}" if target != name else f"it {home}"
        if name in _HINTS:
            return _HINTS[name]
    return did_you_mean(name, known)


def _home(name: str, owner: str) -> str | None:
    """Where a setting belongs that its owner does not take."""
    from darwin_align.core.config import SearchConfig  # lazily: they themselves explain unknown names
    from darwin_align.core.types import Sampling

    if name in Sampling.model_fields:
        return f"belongs to Sampling: sampling=Sampling({name}=…), or give it to DarwinChatModel or to a call"
    if name in _OF_CALLS:
        given = "bind_tools(…) or invoke(…, tools=…)" if name.startswith("tool") else f"invoke(…, {name}=…)"
        return f"is given to a call: {given}"
    if name in SearchConfig.model_fields and owner != "SearchConfig":
        return f"belongs to SearchConfig: config=SearchConfig({name}=…), or give it to DarwinChatModel or to a call"
    if name in _PARTS:
        return f"is a part of a search: DarwinSearch({name}=…) or DarwinChatModel({name}=…)"
    return None
