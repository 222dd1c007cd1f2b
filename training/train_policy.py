"""Trains the policy: a Llama of 1.8 million parameters on the mix of `training.conversations`."""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from training.conversations import sample
from training.optim import Log, batches_of, make_optimizer, padded, rate_at, update
from training.tokenizer import Codec, make_tokenizer

STEPS, BATCH, RATE, WARM_UP, SEED = 6000, 24, 2.5e-3, 200, 11
POOL = 16
IGNORED = -100


def make_config(codec: Codec, layers: int = 4) -> LlamaConfig:
    """The shape of the pair: head size 64, because vLLM's CPU build refuses smaller ones."""
    return LlamaConfig(
        vocab_size=len(codec.inner),
        hidden_size=192,
        head_dim=64,
        num_attention_heads=3,
        num_key_value_heads=1,
        num_hidden_layers=layers,
        intermediate_size=448,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=codec.end,
        pad_token_id=codec.pad,
    )


def stream(codec: Codec, seed: int) -> Iterator[list[list[int]]]:
    """Batches of token ids without end, similar lengths together."""
    rng = random.Random(seed)
    while True:
        pool = []
        for _ in range(BATCH * POOL):
            messages, tools = sample(rng)
            pool.append(codec.chat(messages, tools))
        batches = list(batches_of(pool, BATCH))
        rng.shuffle(batches)
        yield from batches


def loss_of(model: LlamaForCausalLM, ids: torch.Tensor, pad: int) -> torch.Tensor:
    """Mean next-token loss over all tokens; padding stands at the right, so causal attention needs no mask."""
    labels = ids.masked_fill(ids == pad, IGNORED)
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
    return torch.nn.functional.cross_entropy(
        logits.float().reshape(-1, logits.shape[-1]), labels[:, 1:].reshape(-1), ignore_index=IGNORED
    )


def save_model(model: torch.nn.Module, folder: Path) -> None:
    """Write bf16 safetensors and the config."""
    half: Any = model.to(torch.bfloat16)
    half.save_pretrained(str(folder))


def train(folder: Path, *, steps: int = STEPS, threads: int = 1) -> None:
    """Train tokenizer and policy from nothing and write both to a folder."""
    torch.set_num_threads(threads)
    torch.manual_seed(SEED)
    codec = make_tokenizer()
    model = LlamaForCausalLM(make_config(codec)).train()
    optimizer, batches, log = make_optimizer(model, RATE), stream(codec, SEED), Log(steps)
    for step in range(steps):
        # Entered per step: autocast that is entered once keeps stale bf16 copies of the weights.
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss_of(model, padded(next(batches), codec.pad), codec.pad)
        loss.backward()  # type: ignore[no-untyped-call]
        update(model, optimizer, RATE * rate_at(step, steps, warm_up=WARM_UP))
        log.add(step, loss=loss.item())
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        eos_token_id=codec.end,
        pad_token_id=codec.pad,
        do_sample=True,
        temperature=0.7,
        top_k=40,
        max_new_tokens=320,
    )
    save_model(model, folder)
    codec.save(folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    train(chosen.folder, steps=chosen.steps, threads=chosen.threads)
