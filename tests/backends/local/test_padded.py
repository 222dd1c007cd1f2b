"""Models that do not work over slots: decoded over their own cache where that is right, refused where it is not.

The cache's parameter was renamed by transformers 5.24, and custom code names it as it likes.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import BloomConfig, BloomForCausalLM, LlamaConfig, LlamaForCausalLM, RwkvConfig, RwkvForCausalLM

from darwin_align.backends.local import LocalPolicy
from darwin_align.backends.local.engine.forward import cache_argument
from darwin_align.core.errors import ModelLoadError

NATIVE = cache_argument(LlamaForCausalLM.forward)
"""The name of this version of transformers."""


class WithoutSlots(LlamaForCausalLM):
    """Nothing is known of what is below it, so it is decoded over its own cache."""

    base_model = None

    def run(self, cache: Any, **kwargs: Any) -> Any:
        return super().forward(**{NATIVE: cache}, **kwargs)


class NewName(WithoutSlots):
    def forward(self, input_ids, attention_mask=None, position_ids=None, cache=None, use_cache=None):
        output = self.run(cache, **settings(locals()))
        return SimpleNamespace(logits=output.logits, cache=output[NATIVE] if use_cache else None)


class OldName(WithoutSlots):
    def forward(self, input_ids, attention_mask=None, position_ids=None, past_key_values=None, use_cache=None):
        output = self.run(past_key_values, **settings(locals()))
        return SimpleNamespace(logits=output.logits, past_key_values=output[NATIVE] if use_cache else None)


class RecurrentName(WithoutSlots):
    def forward(self, input_ids, attention_mask=None, position_ids=None, cache_params=None, use_cache=None):
        output = self.run(cache_params, **settings(locals()))
        return SimpleNamespace(logits=output.logits, cache_params=output[NATIVE] if use_cache else None)


class NextName(WithoutSlots):
    """What a later version may call it."""

    def forward(self, input_ids, attention_mask=None, position_ids=None, memory=None, use_cache=None):
        output = self.run(memory, **settings(locals()))
        return SimpleNamespace(logits=output.logits, memory=output[NATIVE])


class Forgetful(WithoutSlots):
    """Takes a cache by the right name and forgets it: every token is decoded as if it were the first."""

    def forward(self, input_ids, attention_mask=None, position_ids=None, cache=None, use_cache=None):
        output = self.run(None, input_ids=input_ids, use_cache=use_cache)
        return SimpleNamespace(logits=output.logits, cache=output[NATIVE] if use_cache else None)


class BlindToPadding(WithoutSlots):
    """Takes no mask to heart: right for rows of one length, wrong for padded ones."""

    def forward(self, input_ids, attention_mask=None, position_ids=None, cache=None, use_cache=None):
        output = self.run(cache, input_ids=input_ids, use_cache=use_cache)
        return SimpleNamespace(logits=output.logits, cache=output[NATIVE] if use_cache else None)


def settings(given: dict[str, Any]) -> dict[str, Any]:
    return {name: given[name] for name in ("input_ids", "attention_mask", "position_ids", "use_cache")}


def made(kind: type[LlamaForCausalLM], tokenizer: Any) -> LlamaForCausalLM:
    torch.manual_seed(7)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    return kind(LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=512, **shape))


@pytest.mark.parametrize("kind", [NewName, OldName, RecurrentName, BlindToPadding])
def test_the_cache_may_have_any_known_name(kind, tokenizers, row):
    tokenizer = tokenizers["llama"]
    expected = LocalPolicy(made(LlamaForCausalLM, tokenizer), tokenizer, threads=1)
    policy = LocalPolicy(made(kind, tokenizer), tokenizer, threads=1)
    rows = [row(text, seed=i, max_tokens=12) for i, text in enumerate(("Hi", "How do I brew green tea?", "Hi"))]
    assert expected.engine.takes_slots
    assert policy.engine.takes_slots is False
    assert [found.tokens for found in policy.generate(rows)] == [found.tokens for found in expected.generate(rows)]


@pytest.mark.parametrize(
    ("kind", "reason"),
    [(Forgetful, "decoding over its own cache differs by"), (NextName, "takes no cache by a known name")],
)
def test_a_model_that_would_be_decoded_wrongly_is_refused_at_load(kind, reason, tokenizers):
    with pytest.raises(ModelLoadError, match=rf"'{kind.__name__}'.* cannot be decoded with transformers .*{reason}"):
        LocalPolicy(made(kind, tokenizers["llama"]), tokenizers["llama"], threads=1)


def test_a_recurrent_model_with_a_state_of_another_kind_is_refused_at_load(tokenizers):
    tokenizer = tokenizers["qwen3"]
    config = RwkvConfig(vocab_size=len(tokenizer), hidden_size=32, attention_hidden_size=32, num_hidden_layers=2)
    with pytest.raises(ModelLoadError, match=r"RwkvForCausalLM.*takes no cache by a known name"):
        LocalPolicy(RwkvForCausalLM(config), tokenizer, threads=1)


def test_alibi_is_decoded_over_its_own_cache(tokenizers, row):
    tokenizer = tokenizers["qwen3"]
    torch.manual_seed(1)
    bloom = BloomForCausalLM(BloomConfig(vocab_size=len(tokenizer), hidden_size=32, n_layer=2, n_head=2))
    policy = LocalPolicy(bloom, tokenizer, threads=1)
    rows = [row(text, seed=3, max_tokens=10) for text in ("Hi", "How do I brew green tea?")]
    assert [found.tokens for found in policy.generate(rows)] == [policy.generate([one])[0].tokens for one in rows]
