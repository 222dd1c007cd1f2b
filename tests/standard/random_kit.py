"""Tiny models whose weights are chance: what a search and its formats do must not depend on what a model has learnt."""

from functools import lru_cache
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from darwin_align.backends.local import LocalPolicy, LocalScorer
from darwin_align.backends.local.reward import RewardModel
from darwin_align.operators import ToolCallScorer, WeightedSum

MARKS = ("<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>", "<|endoftext|>")
TEMPLATE = (
    "{%- if tools %}{{- '<|im_start|>system\n# Tools\n<tools>' }}{%- for tool in tools %}{{- '\n' + (tool | tojson) }}"
    "{%- endfor %}{{- '\n</tools><|im_end|>\n' }}{%- endif %}"
    "{%- for message in messages %}"
    "{%- if message.role == 'tool' %}"
    "{{- '<|im_start|>user\n<tool_response>\n' + message.content + '\n</tool_response><|im_end|>\n' }}"
    "{%- else %}{{- '<|im_start|>' + message.role + '\n' + message.content }}"
    "{%- for call in message.tool_calls or [] %}"
    '{{- \'<tool_call>\n{"name": "\' + call.function.name + \'", "arguments": \' }}'
    "{{- (call.function.arguments | tojson) + '}\n</tool_call>' }}{%- endfor %}{{- '<|im_end|>\n' }}{%- endif %}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
TEXTS = [
    '{"name": "tea", "minutes": 3, "hot": true, "cups": [1, 2, 3], "milk": null}',
    '{"setup": "Why?", "punchline": "Because.", "rating": 7}, {"answer": "", "input": "a", "more": {"b": ""}}',
    "How do I brew green tea? Heat the water, and wait for two minutes.",
]
"""Full of quotes, so that strings that are written by chance come to an end."""


@lru_cache
def tokenizer() -> PreTrainedTokenizerFast:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False))
    core.add_tokens([AddedToken(mark, special=True, normalized=False) for mark in MARKS])
    ends = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    return PreTrainedTokenizerFast(tokenizer_object=core, chat_template=TEMPLATE, **ends)


def _sizes(config: Any) -> Any:
    words = tokenizer()
    return config(
        vocab_size=len(words),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        eos_token_id=words.eos_token_id,
        bos_token_id=None,
        pad_token_id=words.pad_token_id,
    )


@lru_cache
def _parts() -> dict[str, Any]:
    torch.manual_seed(0)
    writer = Qwen2ForCausalLM(_sizes(Qwen2Config)).eval()
    config = _sizes(LlamaConfig)
    config.num_labels = 1
    judge = LlamaForSequenceClassification(config).eval()
    policy = LocalPolicy(writer, tokenizer(), threads=1)
    scorers = (LocalScorer(reward_model=RewardModel(judge, tokenizer(), threads=1)), ToolCallScorer(policy=policy))
    return {"policy": policy, "scorer": WeightedSum(scorers=scorers, weights=(1.0, 10.0))}


def random_params() -> dict[str, Any]:
    """A search of one cycle. The reward is chance too, but that it counts tool calls."""
    settings = {"cycles": 1, "mutations": 3, "replacement_period": 32, "seed": 5, "temperature": 1.0}
    return {**_parts(), **settings, "grounded": "where_possible"}
