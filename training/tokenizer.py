"""The tokenizer of the pair: byte-level BPE, so that any text survives, and a chat template with tools."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from darwin_align.pocket.world import MUTATION_PROMPT, draw_from, topics
from training.answers import answer
from training.mutations import reword
from training.tool_use import conversation

VOCABULARY = 2048
PAD, END = "<pad>", "<|end|>"
SPECIAL = (PAD, END, "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>", "<|tools|>")
TOOL_MARKS = ("<tool_call>", "</tool_call>")

CHAT_TEMPLATE = r"""
{%- macro words(content) -%}
{%- if content is string -%}{{ content }}
{%- elif content -%}
{%- for block in content -%}
{%- if block is string -%}{{ block }}{%- elif block.text is defined -%}{{ block.text }}{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{%- if tools -%}
{{- '<|tools|>' -}}
{%- for tool in tools -%}
{%- set about = tool.function if tool.function is defined else tool -%}
{%- set properties = (about.parameters or {}).get('properties') or {} -%}
{{- about.name + '(' -}}
{%- for name, kind in properties.items() -%}
{{- name + ': ' + (kind.type if kind.type is string else 'any') -}}
{%- if not loop.last -%}{{- ', ' -}}{%- endif -%}
{%- endfor -%}
{{- ')' -}}
{%- if about.description -%}{{- ' ' + about.description -}}{%- endif -%}
{%- if not loop.last -%}{{- '\n' -}}{%- endif -%}
{%- endfor -%}
{{- '<|end|>' -}}
{%- endif -%}
{%- for message in messages -%}
{%- if message.role in ('system', 'developer') -%}
{{- '<|system|>' -}}{{- words(message.content) -}}
{%- elif message.role in ('user', 'tool') -%}
{{- '<|' + message.role + '|>' -}}{{- words(message.content) -}}
{%- elif message.role == 'assistant' -%}
{{- '<|assistant|>' -}}{{- words(message.content) -}}
{%- for tool_call in message.tool_calls or [] -%}
{%- set call = tool_call.function if tool_call.function is defined else tool_call -%}
{{- '<tool_call>{"name": ' + call.name | tojson + ', "arguments": ' -}}
{{- call.arguments if call.arguments is string else call.arguments | tojson -}}
{{- '}</tool_call>' -}}
{%- endfor -%}
{%- else -%}
{{- raise_exception('unknown role: ' + message.role) -}}
{%- endif -%}
{{- '<|end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}
""".strip()

RESPONSE_TEMPLATE: dict[str, Any] = {
    "defaults": {"role": "assistant"},
    "start_anchor": "<|assistant|>",
    "fields": {
        "content": {"close_pattern": r"<\|end\|>|(?=<tool_call>)", "content": "text"},
        "tool_calls": {
            "open": "<tool_call>",
            "close": "</tool_call>",
            "repeats": True,
            "content": "json",
            "transform": {
                "type": "function",
                "function": {"name": "{content.name}", "arguments": "{content.arguments}"},
            },
        },
    },
}


def _texts(rng: random.Random, count: int) -> Iterator[str]:
    for topic in topics():
        yield from (*topic.steps, topic.why, *topic.why_more, *topic.tips, topic.warning, topic.careless)
    for index in range(count):
        instruction = draw_from(rng, "train")
        yield MUTATION_PROMPT.format(instruction=instruction.text)
        yield answer(instruction, rng) if index % 3 else reword(instruction, rng).text
        if index % 4 == 0:
            messages, tools = conversation(rng)
            yield from (str(message["content"]) for message in messages)
            yield from (f'{{"name": "{tool["function"]["name"]}", "arguments": {{"' for tool in tools)


@dataclass(frozen=True)
class Codec:
    """The tokenizer behind a few typed methods."""

    inner: Any

    @classmethod
    def load(cls, folder: Path) -> Codec:
        """Read a saved tokenizer."""
        return cls(AutoTokenizer.from_pretrained(str(folder)))

    @property
    def pad(self) -> int:
        """Id of the padding token."""
        return int(self.inner.pad_token_id)

    @property
    def end(self) -> int:
        """Id of the end-of-turn token."""
        return int(self.inner.eos_token_id)

    def encode(self, text: str) -> list[int]:
        """Ids of plain text."""
        return list(self.inner(text, add_special_tokens=False)["input_ids"])

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, without special tokens."""
        return str(self.inner.decode(list(ids), skip_special_tokens=True))

    def chat(self, messages: Sequence[dict[str, Any]], tools: Any = None, *, prompt: bool = False) -> list[int]:
        """Ids of a rendered conversation; with ``prompt`` the assistant's turn is opened."""
        return list(
            self.inner.apply_chat_template(list(messages), tools=tools, add_generation_prompt=prompt, return_dict=False)
        )

    def save(self, folder: Path) -> None:
        """Write the tokenizer's files, chat template included."""
        self.inner.save_pretrained(str(folder))
        path = folder / "tokenizer_config.json"
        settings = json.loads(path.read_text(encoding="utf-8"))
        # How this copy was loaded does not matter, and servers on older transformers know only the old class name.
        settings = {name: value for name, value in settings.items() if name not in ("is_local", "local_files_only")}
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
        path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def make_tokenizer(seed: int = 1, count: int = 6000) -> Codec:
    """Train the tokenizer on about 12,000 texts of the world; all 256 bytes are tokens, there is no BOS."""
    core = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(TOOL_MARKS),
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(_texts(random.Random(seed), count), trainer)
    core.add_tokens([AddedToken(mark, special=False, normalized=False) for mark in TOOL_MARKS])
    tokenizer: Any = PreTrainedTokenizerFast
    made = tokenizer(
        tokenizer_object=core,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=list(SPECIAL[2:]),
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
        padding_side="right",
        chat_template=CHAT_TEMPLATE,
        response_template=RESPONSE_TEMPLATE,
    )
    return Codec(made)
