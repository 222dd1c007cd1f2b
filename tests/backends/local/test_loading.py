"""Loading: shared weights, safe formats, and a sentence for every way in which a folder can be wrong."""

from __future__ import annotations

import gc
import os
import shutil

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from darwin_align.backends.local import LocalPolicy, LocalScorer, RewardModel
from darwin_align.backends.local.loading import ModelSource, load
from darwin_align.core.errors import ModelLoadError


def cpu(path, **more) -> ModelSource:
    return ModelSource(str(path), device="cpu", **more)


def test_one_folder_is_loaded_once(folders, tmp_path):
    one = load(cpu(folders["llama"]))
    link = tmp_path / "link"
    link.symlink_to(folders["llama"])
    assert load(cpu(link)) is one
    assert load(cpu(folders["llama"], dtype="float64")) is not one
    assert load(cpu(folders["qwen3"])) is not one
    policies = [LocalPolicy.from_pretrained(folders["llama"], device="cpu") for _ in range(2)]
    assert policies[0]._loaded.model is policies[1]._loaded.model is one.model


def test_weights_that_nobody_uses_are_let_go(folders, tmp_path):
    folder = shutil.copytree(folders["llama"], tmp_path / "copy")
    from darwin_align.backends.local import loading

    policy = LocalPolicy.from_pretrained(folder, device="cpu")
    assert any(key[0] == str(folder) for key in loading._loaded)
    del policy
    gc.collect()
    assert not any(key[0] == str(folder) for key in loading._loaded)


def test_a_folder_written_anew_is_another_model(folders, tmp_path):
    folder = shutil.copytree(folders["llama"], tmp_path / "copy")
    before = load(cpu(folder))
    os.utime(folder / "model.safetensors", (1, 1))
    assert load(cpu(folder)) is not before


@pytest.fixture
def bf16(tmp_path, folders, tokenizers):
    model = LlamaForCausalLM.from_pretrained(folders["llama"], dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "bf16")
    tokenizers["llama"].save_pretrained(tmp_path / "bf16")
    return tmp_path / "bf16"


@pytest.mark.parametrize(
    ("dtype", "expected"), [("auto", torch.float32), ("bfloat16", torch.bfloat16), ("float64", torch.float64)]
)
def test_dtype_on_a_cpu(bf16, dtype, expected):
    loaded = load(cpu(bf16, dtype=dtype))
    assert loaded.model.dtype == expected
    assert not loaded.model.training


def test_device_is_automatic(folders):
    expected = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert load(ModelSource(str(folders["llama"]))).device.type == expected


# -- errors


@pytest.mark.parametrize("path", ["/no/such/folder", "./nothing here", "nobody/no-such-model"])
def test_unknown_model(path):
    with pytest.raises(ModelLoadError, match="neither a folder on this machine nor in the hub cache"):
        LocalPolicy.from_pretrained(path)
    with pytest.raises(ModelLoadError, match="neither a folder on this machine nor in the hub cache"):
        LocalScorer.from_pretrained(path)


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(ModelLoadError, match="holds no model that can be loaded safely"):
        LocalPolicy.from_pretrained(tmp_path)


def test_broken_weights(tmp_path, folders):
    folder = shutil.copytree(folders["llama"], tmp_path / "broken")
    (folder / "model.safetensors").write_bytes(b"no weights at all")
    with pytest.raises(ModelLoadError, match="holds no model that can be loaded safely"):
        LocalPolicy.from_pretrained(folder)


def test_pickled_weights_are_not_loaded(tmp_path, folders):
    folder = shutil.copytree(folders["llama"], tmp_path / "unsafe")
    model = LlamaForCausalLM.from_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelLoadError, match="holds no model that can be loaded safely"):
        LocalPolicy.from_pretrained(folder)


def test_code_in_the_folder_is_not_run(tmp_path, folders):
    folder = shutil.copytree(folders["llama"], tmp_path / "code")
    config = (folder / "config.json").read_text()
    custom = '"auto_map": {"AutoConfig": "c.C", "AutoModelForCausalLM": "m.M"}, "model_type": "own"'
    (folder / "config.json").write_text(config.replace('"model_type": "llama"', custom))
    (folder / "c.py").write_text("raise SystemExit('this ran')")
    with pytest.raises(ModelLoadError, match=r"brings its own code.*trust_remote_code=True"):
        LocalPolicy.from_pretrained(folder)


def test_a_policy_is_no_reward_model_and_the_reverse(folders):
    with pytest.raises(ModelLoadError, match=r"no complete reward model: it has no weights for score.weight"):
        LocalScorer.from_pretrained(folders["llama"], device="cpu")
    with pytest.raises(ModelLoadError, match=r"no complete language model: it has no weights for lm_head.weight"):
        LocalPolicy.from_pretrained(folders["llama-rm"], device="cpu")


def test_a_reward_model_with_two_labels(tmp_path, tokenizers):
    size = len(tokenizers["llama"])
    config = LlamaConfig(
        vocab_size=size, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1, num_labels=2
    )
    LlamaForSequenceClassification(config).save_pretrained(tmp_path)
    tokenizers["llama"].save_pretrained(tmp_path)
    with pytest.raises(ModelLoadError, match=r"has 2 labels \(num_labels\), and a reward is one number"):
        RewardModel.from_pretrained(tmp_path)


def test_unknown_device_and_dtype(folders):
    with pytest.raises(ModelLoadError, match="unknown device 'gpu'"):
        LocalPolicy.from_pretrained(folders["llama"], device="gpu")
    for dtype in ("fp32", "int8", "nn"):
        with pytest.raises(ModelLoadError, match=f"unknown dtype '{dtype}'"):
            LocalPolicy.from_pretrained(folders["llama"], device="cpu", dtype=dtype)
