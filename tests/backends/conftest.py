"""Real byte-level tokenizers and tiny random models, made in the session."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3ForSequenceClassification,
)

from darwin_align.core.types import Request
from darwin_align.operators.policy import Row

LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
CHATML = (
    "{% if tools %}<|tools|>{{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
INST = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content }}{{ eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
SENTENCEPIECE_INST = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token + '[INST] ' + m.content | trim + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content | trim + ' ' + eos_token }}{% endif %}{% endfor %}"
)
TEXTS = [
    "How do I brew green tea? Heat the water, but do not let it boil. Wait two minutes.",
    "You are a helpful assistant. Explain the steps in order, and say why they matter.",
    "怎样泡一杯绿茶？先把水烧到八十度，然后等两分钟。",
    "Emoji are fine: 🍵 🫖 👩‍🔬 and so is déjà vu.",
    '{"name": "heat_kettle", "arguments": {"degrees": 80}}',
]


def make_tokenizer(
    template: str | None,
    specials: dict[str, str],
    more: tuple[str, ...] = (),
    *,
    vocabulary: int = 400,
    texts: list[str] = TEXTS,
    adds_bos: bool = False,
) -> PreTrainedTokenizerFast:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[*specials.values(), *more],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    core.add_tokens([AddedToken(token, special=True, normalized=False) for token in more])
    if adds_bos:
        bos = specials["bos_token"]
        core.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, core.token_to_id(bos))]
        )
    return PreTrainedTokenizerFast(tokenizer_object=core, chat_template=template, **specials)


def make_sentencepiece_tokenizer(template: str | None = SENTENCEPIECE_INST) -> PreTrainedTokenizerFast:
    """In the manner of Llama 2: words begin with ▁, unknown characters are bytes, a text's first space is left out."""
    specials = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    letters = "▁abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.,?![]/"
    words = ["Sure", "Heat", "the", "water", "INST", "tea"]
    merges = []
    for word in words:
        pieces = [word[: end + 1] for end in range(len(word))]
        merges += [*zip(pieces, word[1:], strict=False), ("▁", word)]
    pieces = [*specials.values(), *(f"<0x{byte:02X}>" for byte in range(256)), *letters, *(a + b for a, b in merges)]
    vocabulary = {piece: at for at, piece in enumerate(dict.fromkeys(pieces))}
    core = Tokenizer(models.BPE(vocabulary, merges, unk_token=pieces[0], fuse_unk=True, byte_fallback=True))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    core.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials.values()])
    return PreTrainedTokenizerFast(tokenizer_object=core, chat_template=template, **specials)


def _tokenizers() -> dict[str, PreTrainedTokenizerFast]:
    header = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
    chatml = ("<|im_start|>", "<|tools|>", "<tool_call>", "</tool_call>")
    llama = {"bos_token": "<|begin|>", "eos_token": "<|end|>", "pad_token": "<|end|>"}
    return {
        "llama": make_tokenizer(LLAMA3, llama, header, adds_bos=True),
        "qwen3": make_tokenizer(CHATML, {"eos_token": "<|im_end|>"}, chatml, vocabulary=450),
        "gpt2": make_tokenizer(INST, {"bos_token": "<s>", "eos_token": "</s>"}, vocabulary=350, texts=TEXTS[::-1]),
        "sentencepiece": make_sentencepiece_tokenizer(),
        "plain": make_tokenizer(None, {"eos_token": "</s>"}, vocabulary=320, texts=TEXTS[:1]),
    }


def _config(kind: type, size: int, **more: Any) -> Any:
    common = {"vocab_size": size, "initializer_range": 0.3, "eos_token_id": 1, "bos_token_id": None}
    if kind is GPT2Config:
        return GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=4096, **common, **more)
    shape = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 4096,
    }
    heads = {"head_dim": 16} if kind in (Qwen3Config, Gemma3TextConfig) else {}
    return kind(**common, **shape, **heads, **more)


POLICIES: dict[str, tuple[type, type, str, dict[str, Any]]] = {
    "llama": (LlamaForCausalLM, LlamaConfig, "llama", {}),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, "qwen3", {}),
    "gpt2": (GPT2LMHeadModel, GPT2Config, "gpt2", {}),
    "mistral": (MistralForCausalLM, MistralConfig, "gpt2", {"sliding_window": 16}),
    "gemma3": (
        Gemma3ForCausalLM,
        Gemma3TextConfig,
        "qwen3",
        {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]},
    ),
}
REWARDS: dict[str, tuple[type, type, str]] = {
    "llama": (LlamaForSequenceClassification, LlamaConfig, "llama"),
    "qwen3": (Qwen3ForSequenceClassification, Qwen3Config, "qwen3"),
    "gpt2": (GPT2ForSequenceClassification, GPT2Config, "gpt2"),
}


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tokenizers() -> dict[str, PreTrainedTokenizerFast]:
    return _tokenizers()


@pytest.fixture(scope="session")
def new_tokenizer() -> Callable[..., PreTrainedTokenizerFast]:
    return make_tokenizer


@pytest.fixture(scope="session")
def templates() -> SimpleNamespace:
    return SimpleNamespace(llama3=LLAMA3, chatml=CHATML, inst=INST)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory, tokenizers: dict[str, Any]) -> dict[str, Path]:
    """Folders of tiny policies ("llama", …) and reward models ("llama-rm", …)."""
    root, found = tmp_path_factory.mktemp("models"), {}
    torch.manual_seed(0)
    for name, (model, config, tokenizer, more) in POLICIES.items():
        size = len(tokenizers[tokenizer])
        found[name] = _save(root / name, model(_config(config, size, **more)), tokenizers[tokenizer])
    for name, (model, config, tokenizer) in REWARDS.items():
        chosen = tokenizers[tokenizer]
        made = model(_config(config, len(chosen), num_labels=1, pad_token_id=chosen.pad_token_id))
        found[f"{name}-rm"] = _save(root / f"{name}-rm", made, chosen)
    return found


def _save(folder: Path, model: Any, tokenizer: Any) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_config() -> Callable[..., Any]:
    return _config


@pytest.fixture
def row() -> Callable[..., Row]:
    """Make a row: ``row(text, max_tokens=…, seed=…, tokens=…, **request fields)``."""

    def make(
        text: str = "How do I brew green tea?",
        *,
        max_tokens: int = 20,
        seed: int = 1,
        tokens: tuple[int, ...] = (),
        **settings: Any,
    ) -> Row:
        return Row(Request.of(text, **settings), max_tokens, seed, tokens)

    return make
