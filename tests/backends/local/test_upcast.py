"""bfloat16 on a CPU without instructions for it."""

from __future__ import annotations

import logging

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from darwin_align.backends.local import loading
from darwin_align.backends.local.upcast import upcast_long_passes


def logits(model, tokens):
    with torch.inference_mode():
        return model(input_ids=torch.arange(tokens)[None]).logits.float()


def test_long_passes_multiply_in_float32_from_the_same_weights(folders, monkeypatch):
    model, exact = (LlamaForCausalLM.from_pretrained(folders["llama"], dtype=d).eval() for d in ("bfloat16", "float32"))
    native = {tokens: logits(model, tokens) for tokens in (16, 17)}
    multiplied, linear = [], torch.nn.functional.linear

    def watched(x, weight, bias=None):
        multiplied.append(weight.dtype)
        return linear(x, weight, bias)

    monkeypatch.setattr(torch.nn.functional, "linear", watched)
    upcast_long_passes(model)
    for tokens, dtype in ((16, torch.bfloat16), (17, torch.float32)):
        multiplied.clear()
        found = logits(model, tokens)
        assert set(multiplied) == {dtype}
        scale = logits(exact, tokens).abs().max()
        assert (found - native[tokens]).abs().max() <= 0.05 * scale
        assert (found - logits(exact, tokens)).abs().max() <= 0.05 * scale
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(("dtype", "instructions"), [("bfloat16", True), ("bfloat16", False), ("float32", False)])
def test_bfloat16_without_instructions_is_upcast_and_the_log_says_so(monkeypatch, caplog, dtype, instructions):
    monkeypatch.setattr(loading, "multiplies_bfloat16", lambda: instructions)
    upcast = dtype == "bfloat16" and not instructions
    config = LlamaConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=32)
    model = LlamaForCausalLM(config).to(getattr(torch, dtype))
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            loading.LoadedModel(model, tokenizer=None)
    assert (type(model.lm_head) is not torch.nn.Linear) is upcast
    assert [record.getMessage() for record in caplog.records] == [
        "bfloat16 halves the memory of LlamaForCausalLM, but this CPU has no instructions for it: passes of more than "
        "16 positions multiply in float32, and answers may depend on what is computed side by side. dtype='float32' "
        "avoids both, and is faster from 8 rows on"
    ] * upcast
