"""A folder of transformers as a GGUF file in float32, which llama.cpp's own server reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import torch
from safetensors.torch import load_file
from torch import Tensor

__all__ = ["write_gguf"]

# llama.cpp selects pre-tokenizers by name: this one splits off single digits and then cuts as GPT-2 does.
PRE_TOKENIZER = "smollm"
_DIGITS_THEN_GPT2 = [
    {"type": "Digits", "individual_digits": True},
    {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
]


def write_gguf(folder: Path, target: Path) -> Path:
    """Write a Llama model with a byte-level tokenizer as a GGUF file.

    Args:
        folder: a ``LlamaForCausalLM`` in one safetensors file, whose tokenizer reads digits singly.
        target: the file to write.

    Returns:
        ``target``.

    Raises:
        ValueError: the folder holds something that this writer would get wrong.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    _check(config, tokenizer)
    writer = gguf.GGUFWriter(target, gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH.LLAMA])
    try:
        _add_shape(writer, config)
        _add_tokenizer(writer, config, tokenizer)
        writer.add_chat_template((folder / "chat_template.jinja").read_text(encoding="utf-8"))
        _add_tensors(writer, config, load_file(folder / "model.safetensors"))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()
    return target


def _check(config: dict[str, Any], tokenizer: dict[str, Any]) -> None:
    if config["architectures"] != ["LlamaForCausalLM"] or config["attention_bias"] or config["mlp_bias"]:
        raise ValueError(f"a Llama model without biases is wanted, not {config['architectures']}")
    if config["rope_parameters"]["rope_type"] != "default":
        raise ValueError(f"unknown rotary positions: {config['rope_parameters']}")
    steps = (tokenizer["pre_tokenizer"] or {}).get("pretokenizers", [])
    shown = [{key: step.get(key) for key in known} for step, known in zip(steps, _DIGITS_THEN_GPT2, strict=False)]
    if tokenizer["normalizer"] or len(steps) != 2 or shown != _DIGITS_THEN_GPT2:
        raise ValueError(f"llama.cpp's {PRE_TOKENIZER!r} pre-tokenizer would cut otherwise than {steps}")


def _add_shape(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    writer.add_name("darwin_align embedded policy")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])


def _add_tokenizer(writer: gguf.GGUFWriter, config: dict[str, Any], tokenizer: dict[str, Any]) -> None:
    names = [f"<unused_{i}>" for i in range(config["vocab_size"])]
    types = [gguf.TokenType.UNUSED] * len(names)
    for name, i in tokenizer["model"]["vocab"].items():
        names[i], types[i] = name, gguf.TokenType.NORMAL
    for token in tokenizer["added_tokens"]:
        names[token["id"]] = token["content"]
        types[token["id"]] = gguf.TokenType.CONTROL if token["special"] else gguf.TokenType.USER_DEFINED
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(PRE_TOKENIZER)
    writer.add_token_list(names)
    writer.add_token_types(types)
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    # Without an id of its own llama.cpp would take an ordinary token for the beginning of a text.
    writer.add_bos_token_id(config["eos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_pad_token_id(config["pad_token_id"])
    writer.add_add_bos_token(False)


def _add_tensors(writer: gguf.GGUFWriter, config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    for name, tensor in tensors.items():
        known = names.get_name(name, try_suffixes=(".weight",))
        if known is None:
            raise ValueError(f"llama.cpp has no tensor for {name}")
        rows = tensor.to(torch.float32)
        if (count := heads.get(name.split(".")[-2])) is not None:
            rows = _interleaved(rows, count)
        writer.add_tensor(known, rows.contiguous().numpy())


def _interleaved(rows: Tensor, heads: int) -> Tensor:
    """Rows of a projection as llama.cpp turns them: pairs side by side, where transformers has two halves."""
    return rows.view(heads, 2, -1, rows.shape[-1]).transpose(1, 2).reshape(rows.shape)
