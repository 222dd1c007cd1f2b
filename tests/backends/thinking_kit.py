"""Chat templates of the forms that reasoning models have, in our own words, and tokenizers with their marks."""

from __future__ import annotations

from typing import Any

from tokenizers import AddedToken

TURNS = (
    "{% if tools %}<tools>{{ tools | tojson }}</tools>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last %}<think>\n{{ m.reasoning_content or '' }}\n</think>\n\n{% endif %}"
    "{{ m.content }}{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
)
MAY_THINK = (
    TURNS + "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
"""The model begins its thoughts, unless a switch ends them."""
THINKS = TURNS + "<think>\n{% endif %}"
"""The prompt begins them."""
CHANNELS = (
    "{%- set effort = reasoning_effort if reasoning_effort is defined else 'medium' -%}"
    "<|start|>system<|message|>Effort: {{ effort }}<|end|>{%- for m in messages -%}"
    "{%- if m.role == 'assistant' and loop.last and not add_generation_prompt -%}"
    "{%- if m.thinking -%}"
    "{{ '<|start|>assistant<|channel|>analysis<|message|>' + m.thinking + '<|end|>' }}{%- endif -%}"
    "{{ '<|start|>assistant<|channel|>final<|message|>' + m.content + '<|return|>' }}"
    "{%- elif m.role == 'assistant' -%}"
    "{{ '<|start|>assistant<|channel|>final<|message|>' + m.content + '<|end|>' }}"
    "{%- else -%}{{ '<|start|>' + m.role + '<|message|>' + m.content + '<|end|>' }}{%- endif -%}"
    "{%- endfor -%}{%- if add_generation_prompt -%}<|start|>assistant{%- endif -%}"
)
"""Messages of several channels in one turn."""
TOOL_CHANNELS = (
    "{%- if tools %}<|start|>developer<|message|>{{ tools | tojson }}<|end|>{% endif -%}"
    "{%- for m in messages -%}"
    "{%- if m.tool_calls -%}{%- if m.content %}{{ '<|start|>assistant<|channel|>commentary<|message|>' + m.content + "
    "'<|end|>' }}{% endif -%}{%- set f = m.tool_calls[0].function -%}"
    "{{ '<|start|>assistant to=functions.' + f.name + '<|channel|>commentary json<|message|>' }}"
    "{{- f.arguments if f.arguments is string else f.arguments | tojson }}{{ '<|call|>' }}"
    "{%- elif m.role == 'tool' -%}"
    "{{ '<|start|>functions.' + (m.name or 'tool') + ' to=assistant<|channel|>commentary<|message|>' + m.content "
    "+ '<|end|>' }}"
    "{%- else -%}{%- set c = '<|channel|>final' if m.role == 'assistant' else '' -%}"
    "{{ '<|start|>' + m.role + c + '<|message|>' + m.content + '<|end|>' }}{%- endif -%}"
    "{%- endfor -%}{%- if add_generation_prompt -%}<|start|>assistant{%- endif -%}"
)
"""The same with tools: a call is a message to a recipient."""
CHANNEL_MARKS = ("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|call|>")


def tags(new_tokenizer: Any, template: str = MAY_THINK, *, marks: bool = True) -> Any:
    """A tokenizer with ``<think>`` and ``</think>`` as tokens that are not special, or without them."""
    tokenizer = new_tokenizer(template, {"eos_token": "<|im_end|>"}, ("<|im_start|>",), vocabulary=450)
    if marks:
        tokenizer.add_tokens([AddedToken(mark, normalized=False) for mark in ("<think>", "</think>")])
    return tokenizer


def channels(new_tokenizer: Any, template: str = CHANNELS) -> Any:
    """A tokenizer with the marks of channels."""
    return new_tokenizer(template, {"eos_token": "<|return|>"}, CHANNEL_MARKS, vocabulary=450)


def ids_of(tokenizer: Any, text: str) -> tuple[int, ...]:
    """Token ids of a text as it stands."""
    return tuple(tokenizer.encode(text, add_special_tokens=False))
