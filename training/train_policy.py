"""Trains the policy: a Llama of 1.8 million parameters on the mix of `training.conversations`."""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from training.conversations import MIX, TOOL_MIX, sample
from training.optim import Log, Schedule, batches_of, make_optimizer, padded, rate_at, update
from training.tokenizer import Codec, make_tokenizer

BATCH, POOL = 24, 16
IGNORED = -100


@dataclass(frozen=True)
class Phase(Schedule):
    """Steps under one schedule and one mix of conversations."""

    mix: Mapping[str, float]


FIRST = Phase(6000, 2.5e-3, 200, 11, MIX)
SECOND = Phase(2000, 1e-3, 100, 12, TOOL_MIX)


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


def stream(codec: Codec, seed: int, mix: Mapping[str, float] = MIX) -> Iterator[list[list[int]]]:
    """Batches of token ids without end, similar lengths together."""
    rng = random.Random(seed)
    while True:
        pool = []
        for _ in range(BATCH * POOL):
            messages, tools = sample(rng, mix)
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


def train_phase(model: LlamaForCausalLM, codec: Codec, phase: Phase) -> None:
    """Train for one phase, in place."""
    model.train()
    optimizer, batches = make_optimizer(model, phase.rate), stream(codec, phase.seed, phase.mix)
    log = Log(phase.steps)
    for step in range(phase.steps):
        # Entered per step: autocast that is entered once keeps stale bf16 copies of the weights.
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss_of(model, padded(next(batches), codec.pad), codec.pad)
        loss.backward()  # type: ignore[no-untyped-call]
        update(model, optimizer, phase.rate * rate_at(step, phase.steps, warm_up=phase.warm_up))
        log.add(step, loss=loss.item())


def train(folder: Path, phase: Phase, *, start: Path | None = None, threads: int = 1) -> None:
    """Train a phase: the first makes tokenizer and policy from nothing, the second starts from the first's folder."""
    torch.set_num_threads(threads)
    torch.manual_seed(phase.seed)
    if start is None:
        codec = make_tokenizer()
        model = LlamaForCausalLM(make_config(codec))
    else:
        codec = Codec.load(start)
        model = LlamaForCausalLM.from_pretrained(str(start), dtype=torch.float32)
    train_phase(model, codec, phase)
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
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--start", type=Path, default=None, help="folder of the first phase's policy: train the second")
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0, help="another draw of data and weights; 0 is the shipped one")
    chosen = parser.parse_args()
    plan = FIRST if chosen.start is None else SECOND
    plan = replace(plan, seed=plan.seed + 1000 * chosen.seed)
    plan = plan if chosen.steps is None else replace(plan, steps=chosen.steps)
    train(chosen.folder, plan, start=chosen.start, threads=chosen.threads)
