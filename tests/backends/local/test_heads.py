"""Heads: only a language model is a policy, only a one-label sequence classifier is a reward model."""

from __future__ import annotations

import json
import logging
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForQuestionAnswering,
    LlamaForSequenceClassification,
    LlamaForTokenClassification,
    LlamaModel,
)

from darwin_align.backends.local import LocalPolicy, LocalScorer, RewardModel
from darwin_align.core.errors import ModelLoadError
from darwin_align.core.types import Request, Response
from darwin_align.pocket import policy_path, reward_path


def llama(kind, tokenizers, **more):
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    return kind(LlamaConfig(vocab_size=len(tokenizers["llama"]), **shape, **more))


def saved(folder, model, tokenizers):
    model.save_pretrained(folder)
    tokenizers["llama"].save_pretrained(folder)
    return folder


def changed(folder, *, config=None, weights=None):
    """A folder with other fields in its config and further weights."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **(config or {})}))
    tensors = {**load_file(folder / "model.safetensors"), **(weights or {})}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


NO_REWARD = [
    (LlamaForTokenClassification, {"num_labels": 1}, "a token classification model .as process reward models are"),
    (LlamaForQuestionAnswering, {"num_labels": 1}, "a question answering model"),
    (LlamaForCausalLM, {"num_labels": 1}, "a causal language model"),
    (LlamaForCausalLM, {"num_labels": 1, "tie_word_embeddings": True}, "a causal language model"),
    (LlamaModel, {"num_labels": 1}, "a model without a head"),
]


@pytest.mark.parametrize(("kind", "more", "what"), NO_REWARD)
def test_another_head_is_no_reward_model(kind, more, what, tmp_path, tokenizers):
    model = llama(kind, tokenizers, **more)
    with pytest.raises(ModelLoadError, match=rf"cannot be used as a reward model: it is {what}.*ForSequenceClass"):
        RewardModel(model, tokenizers["llama"])
    saved(tmp_path, model, tokenizers)
    with pytest.raises(ModelLoadError, match=rf"cannot be used as a reward model: .*{kind.__name__}, {what}"):
        LocalScorer.from_pretrained(tmp_path, device="cpu")


@pytest.mark.parametrize(
    ("kind", "more", "what"),
    [
        (LlamaForSequenceClassification, {"num_labels": 1, "tie_word_embeddings": True}, "a sequence classification"),
        (LlamaForTokenClassification, {"num_labels": 1}, "a token classification"),
        (LlamaModel, {"tie_word_embeddings": True}, "a model without a head"),
    ],
)
def test_another_head_is_no_policy(kind, more, what, tmp_path, tokenizers):
    model = llama(kind, tokenizers, **more)
    with pytest.raises(ModelLoadError, match=rf"cannot be used as a policy: it is {what}.*ForCausalLM"):
        LocalPolicy(model, tokenizers["llama"])
    saved(tmp_path, model, tokenizers)
    with pytest.raises(ModelLoadError, match=rf"cannot be used as a policy: .*{kind.__name__}, {what}"):
        LocalPolicy.from_pretrained(tmp_path, device="cpu")


def test_an_encoder_is_no_policy(tmp_path, tokenizers):
    config = BertConfig(
        vocab_size=400, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1
    )
    saved(tmp_path, BertForMaskedLM(config), tokenizers)
    with pytest.raises(ModelLoadError, match="BertForMaskedLM, a masked language model"):
        LocalPolicy.from_pretrained(tmp_path, device="cpu")


def test_the_embedded_pair_is_not_interchangeable():
    with pytest.raises(ModelLoadError, match="LlamaForSequenceClassification, a sequence classification model"):
        LocalPolicy.from_pretrained(reward_path(), device="cpu")
    with pytest.raises(ModelLoadError, match="LlamaForCausalLM, a causal language model"):
        LocalScorer.from_pretrained(policy_path(), device="cpu")


def test_without_architectures_the_weights_decide(tmp_path):
    for name, path in (("policy", policy_path()), ("reward", reward_path())):
        changed(shutil.copytree(path, tmp_path / name), config={"architectures": None})
    assert LocalPolicy.from_pretrained(tmp_path / "policy", device="cpu").context_length == 1024
    LocalScorer.from_pretrained(tmp_path / "reward", device="cpu")
    with pytest.raises(ModelLoadError, match=r"no complete reward model: it has no weights for score\.weight"):
        LocalScorer.from_pretrained(tmp_path / "policy", device="cpu")
    with pytest.raises(ModelLoadError, match=r"its weights score\.weight have no place there"):
        LocalPolicy.from_pretrained(tmp_path / "reward", device="cpu")


@pytest.mark.parametrize("key", ["score.bias", "model.layers.0.self_attn.q_proj.bias"])
def test_no_weight_of_a_reward_model_is_dropped(key, tmp_path, tokenizers):
    folder = saved(tmp_path, llama(LlamaForSequenceClassification, tokenizers, num_labels=1), tokenizers)
    changed(folder, weights={key: torch.ones(1)})
    with pytest.raises(ModelLoadError, match=rf"its weights {key} have no place there and would be left out"):
        LocalScorer.from_pretrained(folder, device="cpu")


def test_no_weight_of_a_policy_is_dropped(tmp_path, tokenizers):
    folder = saved(tmp_path, llama(LlamaForCausalLM, tokenizers), tokenizers)
    changed(folder, weights={"lm_head.bias": torch.ones(1)})
    with pytest.raises(ModelLoadError, match=r"its weights lm_head\.bias have no place there"):
        LocalPolicy.from_pretrained(folder, device="cpu")


def test_further_heads_are_named_once_and_left_alone(tmp_path, tokenizers, caplog):
    policy = saved(tmp_path / "policy", llama(LlamaForCausalLM, tokenizers), tokenizers)
    changed(policy, weights={"v_head.summary.weight": torch.ones(1, 16)})  # as TRL's PPO leaves it behind
    reward = saved(tmp_path / "rm", llama(LlamaForSequenceClassification, tokenizers, num_labels=1), tokenizers)
    changed(reward, weights={"lm_head.weight": torch.ones(len(tokenizers["llama"]), 16)})
    with caplog.at_level(logging.WARNING, "darwin_align"):
        LocalPolicy.from_pretrained(policy, device="cpu")
        LocalScorer.from_pretrained(reward, device="cpu")
    assert [record.getMessage().partition("holds ")[2] for record in caplog.records if "darwin" in record.name] == [
        "weights that a language model does not use: v_head.summary.weight",
        "weights that a reward model does not use: lm_head.weight",
    ]


class _MeanPooled(torch.nn.Module):
    """A class that transformers does not know, with a head of the usual name that reads all tokens."""

    def __init__(self, model):
        super().__init__()
        self.base_model, self.score, self.config, self.device = model.model, model.score, model.config, model.device

    def get_input_embeddings(self):
        return self.base_model.get_input_embeddings()

    def forward(self, input_ids, attention_mask):
        hidden = self.base_model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weights = attention_mask[:, :, None].float()
        return type("Output", (), {"logits": self.score((hidden * weights).sum(1) / weights.sum(1))})


def test_a_model_of_other_code_pools_differently(tokenizers):
    pooled = _MeanPooled(llama(LlamaForSequenceClassification, tokenizers, num_labels=1)).eval()
    reward = RewardModel(pooled, tokenizers["llama"])
    request, response = Request.of("How do I brew green tea?"), Response(text="Heat the water.")
    [ids] = reward._template.answer_ids(request, [response], "closed")
    with torch.inference_mode():
        expected = float(pooled(torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.long)).logits)
    assert reward.score(request, [response])[0] == pytest.approx([expected], abs=1e-5)
