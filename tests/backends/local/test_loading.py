"""Loading: shared weights, safe formats, and a sentence for every way in which a folder can be wrong."""

from __future__ import annotations

import copy
import gc
import logging
import os
import pickle
import shutil
import sys
from math import isfinite

import pytest
import torch
from transformers import (
    BitsAndBytesConfig,
    GPTQConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedModel,
)

from darwin_align import DarwinChatModel
from darwin_align.backends.local import LocalPolicy, LocalScorer, RewardModel, loading
from darwin_align.backends.local.loading import ModelSource, load
from darwin_align.core.errors import ConfigError, ModelLoadError
from darwin_align.core.types import Request, Response


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


def test_unused_weights_are_let_go(folders, tmp_path):
    folder = shutil.copytree(folders["llama"], tmp_path / "copy")
    policy = LocalPolicy.from_pretrained(folder, device="cpu")
    assert any(key[0] == str(folder) for key in loading._loaded)
    del policy
    gc.collect()
    assert not any(key[0] == str(folder) for key in loading._loaded)


def test_a_folder_that_changed_is_another_model(folders, tmp_path):
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
    for device_map in ("cpu", (("model", "cpu"), ("lm_head", "disk"))):
        assert load(ModelSource(str(bf16), device_map=device_map, dtype=dtype)).model.dtype == expected


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
    with pytest.raises(ModelLoadError, match=r"cannot be used as a reward model: .*LlamaForCausalLM, a causal"):
        LocalScorer.from_pretrained(folders["llama"], device="cpu")
    with pytest.raises(ModelLoadError, match=r"cannot be used as a policy: .*LlamaForSequenceClassification, a"):
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


# -- placement


def tokens(policy, row) -> list[tuple[int, ...]]:
    return [one.tokens for one in policy.generate([row(seed=seed) for seed in range(3)])]


def rewards(path, **how) -> list[float]:
    answers = [Response(text=text) for text in ("Heat the water.", "No.", "")]
    return RewardModel.from_pretrained(path, **how).score(Request.of("How do I brew green tea?"), answers)[0]


@pytest.fixture
def never_moved(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the model was moved")

    monkeypatch.setattr(PreTrainedModel, "to", refuse)


@pytest.mark.parametrize("device_map", ["cpu", {"": "cpu"}, torch.device("cpu"), {"": torch.device("cpu")}])
def test_a_device_map_with_one_place(folders, row, device_map, request):
    expected = tokens(LocalPolicy.from_pretrained(folders["qwen3"], device="cpu"), row)
    scored = rewards(folders["qwen3-rm"], device="cpu")
    request.getfixturevalue("never_moved")
    policy = LocalPolicy.from_pretrained(folders["qwen3"], device_map=device_map)
    assert tokens(policy, row) == expected
    assert rewards(folders["qwen3-rm"], device_map=device_map) == pytest.approx(scored, rel=1e-5)
    assert policy._loaded.model.dtype == torch.float32


def test_an_automatic_device_map(folders, row, request):
    expected = LocalPolicy.from_pretrained(folders["llama"])
    written = tokens(expected, row)
    request.getfixturevalue("never_moved")
    policy = LocalPolicy.from_pretrained(folders["llama"], device_map="auto")
    assert tokens(policy, row) == written
    assert policy._loaded.device.type == expected._loaded.device.type


def test_a_device_map_with_several_places(folders, row):
    expected = tokens(LocalPolicy.from_pretrained(folders["llama"], device="cpu"), row)
    policy = LocalPolicy.from_pretrained(folders["llama"], device_map={"model": "cpu", "lm_head": "disk"})
    assert policy._loaded.model.hf_device_map == {"model": "cpu", "lm_head": "disk"}
    assert policy._loaded.device == torch.device("cpu")
    assert tokens(policy, row) == expected


def test_the_device_is_where_the_embeddings_are_used(folders):
    rest = dict.fromkeys(("model.layers", "model.norm", "model.rotary_emb", "lm_head"), "cpu")
    loaded = load(ModelSource(str(folders["llama"]), device_map=(("model.embed_tokens", "disk"), *rest.items())))
    assert loaded.model.get_input_embeddings().weight.device.type == "meta"
    assert loaded.device == torch.device("cpu")


def test_attention(folders, row):
    policy = LocalPolicy.from_pretrained(folders["llama"], device="cpu", attn_implementation="eager")
    assert policy._loaded.model.config._attn_implementation == "eager"
    assert tokens(policy, row) == tokens(LocalPolicy.from_pretrained(folders["llama"], device="cpu"), row)
    assert rewards(folders["llama-rm"], device="cpu", attn_implementation="eager") == pytest.approx(
        rewards(folders["llama-rm"], device="cpu"), rel=1e-4
    )


def test_a_dtype_by_its_object(folders):
    named, given = (
        LocalPolicy.from_pretrained(folders["llama"], device="cpu", dtype=dtype) for dtype in ("float64", torch.float64)
    )
    assert given._loaded is named._loaded
    assert given._loaded.model.dtype == torch.float64
    with pytest.raises(TypeError, match="torch_dtype"):
        LocalPolicy.from_pretrained(folders["llama"], torch_dtype=torch.float64)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"device": "cpu", "device_map": "auto"}, ConfigError, r"leave out device .* or device_map"),
        ({"device_map": ["cpu"]}, ConfigError, r"use 'auto', a device such as 'cuda:1', or a dict"),
        ({"device_map": {}}, ConfigError, r"use 'auto', a device such as 'cuda:1', or a dict"),
        ({"device_map": {"model": None}}, ConfigError, r"use 'auto', a device such as 'cuda:1', or a dict"),
        (
            {"device_map": {"moodel": "cpu"}},
            ModelLoadError,
            r"names 'moodel', .* its parts are 'model', '(lm_head|score)'",
        ),
        ({"device_map": "gpu"}, ModelLoadError, r"cannot be loaded with device_map='gpu': .*'balanced'"),
        ({"attn_implementation": "fast"}, ModelLoadError, r"cannot be loaded with attn_implementation='fast': .*sdpa"),
        ({"quantization": "2bit"}, ConfigError, r"use '4bit', '8bit' or a quantization config"),
        ({"device": "cuda:99"}, ModelLoadError, r"cannot be brought to device='cuda:99': "),
    ],
)
def test_options_that_cannot_be(folders, options, error, says):
    with pytest.raises(error, match=says):
        LocalPolicy.from_pretrained(folders["llama"], **options)
    with pytest.raises(error, match=says):
        LocalScorer.from_pretrained(folders["llama-rm"], **options)


# -- quantization


@pytest.fixture(scope="module")
def wide(tmp_path_factory, tokenizers):
    """Models as wide as bitsandbytes wants them on a CPU: widths are multiples of 64, of outputs 32."""
    root, tokenizer = tmp_path_factory.mktemp("wide"), tokenizers["llama"]
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    common = {"vocab_size": len(tokenizer), "num_key_value_heads": 1, "eos_token_id": 1, "pad_token_id": 0}
    config = LlamaConfig(initializer_range=0.3, max_position_embeddings=512, num_labels=1, **shape, **common)
    torch.manual_seed(0)
    for name, kind in (("policy", LlamaForCausalLM), ("reward", LlamaForSequenceClassification)):
        kind(config).save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    return root


def likeness(one, other) -> float:
    ids = torch.arange(40)[None]
    with torch.no_grad():
        logits = torch.stack([model(ids).logits.flatten().float() for model in (one, other)])
    return float(torch.corrcoef(logits)[0, 1])


@pytest.mark.usefixtures("never_moved")
@pytest.mark.parametrize(("bits", "stored", "least"), [("4bit", torch.uint8, 0.6), ("8bit", torch.int8, 0.98)])
def test_quantized(wide, row, bits, stored, least):
    policy = LocalPolicy.from_pretrained(wide / "policy", quantization=bits, device_map="cpu")
    model = policy._loaded.model
    assert model.model.layers[1].mlp.up_proj.weight.dtype == stored
    assert model.lm_head.weight.dtype == torch.float32
    whole = LocalPolicy.from_pretrained(wide / "policy", device_map="cpu")
    assert least < likeness(model, whole._loaded.model) < 1
    assert tokens(policy, row) == tokens(policy, row)
    scored = rewards(wide / "reward", quantization=bits, device="cpu")
    assert all(map(isfinite, scored))
    assert scored != rewards(wide / "reward", device_map="cpu")


def test_four_bits_are_nf4_in_the_models_own_type(wide):
    loaded = load(cpu(wide / "policy", quantization="4bit", dtype="bfloat16"))
    config = loaded.model.config.quantization_config
    assert (config.bnb_4bit_quant_type, config.bnb_4bit_compute_dtype) == ("nf4", torch.bfloat16)
    assert loaded.model.dtype == torch.bfloat16


def test_a_quantization_config_of_ones_own(wide):
    config = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=["lm_head", "up_proj"])
    policy = LocalPolicy.from_pretrained(wide / "policy", device="cpu", quantization=config)
    layer = policy._loaded.model.model.layers[0]
    assert layer.self_attn.q_proj.weight.dtype == torch.int8
    assert layer.mlp.up_proj.weight.dtype == torch.float32
    again = LocalPolicy.from_pretrained(wide / "policy", device="cpu", quantization=copy.deepcopy(config))
    assert again._loaded is policy._loaded


def test_a_checkpoint_that_is_quantized(wide, tmp_path, tokenizers, never_moved, monkeypatch):
    load(cpu(wide / "policy", quantization="4bit")).model.save_pretrained(tmp_path)
    tokenizers["llama"].save_pretrained(tmp_path)
    loaded = load(cpu(tmp_path))
    assert loaded.model.model.layers[1].mlp.up_proj.weight.dtype == torch.uint8
    os.utime(tmp_path / "config.json", (1, 1))  # so that it is loaded anew
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ModelLoadError, match=r"the quantized checkpoint '.*' needs the package bitsandbytes"):
        load(cpu(tmp_path))


def test_bitsandbytes_logs_once_to_which_type_it_casts(wide, row, caplog):
    caplog.set_level(logging.WARNING)
    tokens(LocalPolicy.from_pretrained(wide / "policy", device="cpu", quantization="8bit"), row)
    assert sum("inputs will be cast" in record.getMessage() for record in caplog.records) <= 1


class Loader:
    """Takes what transformers would be given, and refuses it."""

    def from_pretrained(self, path, **options):
        self.options = options
        raise AttributeError("no such kernel here\nand more")


@pytest.fixture
def loader(monkeypatch):
    monkeypatch.setitem(loading._LOADERS, "causal", found := Loader())
    return found


def test_a_quantized_model_is_made_where_it_belongs(bf16, loader):
    with pytest.raises(ModelLoadError, match=r"cannot be loaded with quantization='4bit': no such kernel here$"):
        LocalPolicy.from_pretrained(bf16, device="cuda:1", quantization="4bit")
    assert (loader.options["device_map"], loader.options["dtype"]) == ("cuda:1", "auto")
    assert loader.options["quantization_config"].bnb_4bit_compute_dtype == torch.bfloat16


def test_a_device_map_and_a_config_reach_the_loader(bf16, loader):
    places = {"model": 0, "lm_head": torch.device("cuda:1")}
    given = GPTQConfig(bits=4, group_size=64)
    with pytest.raises(ModelLoadError, match=r"device_map={'model': 0, 'lm_head': 'cuda:1'}, quantization='<gptq conf"):
        LocalPolicy.from_pretrained(bf16, device_map=places, quantization=given, attn_implementation="sdpa")
    assert loader.options["device_map"] == {"model": 0, "lm_head": "cuda:1"}
    assert loader.options["quantization_config"].to_dict() == given.to_dict()
    assert (loader.options["attn_implementation"], loader.options["dtype"]) == ("sdpa", "auto")


# -- packages that are missing


@pytest.fixture
def unloaded(folders, tmp_path):
    return shutil.copytree(folders["llama"], tmp_path / "copy")


@pytest.mark.parametrize(
    ("options", "package", "extra"),
    [
        ({"device_map": "auto"}, "accelerate", "gpu"),
        ({"quantization": "8bit"}, "accelerate", "quantized"),
        ({"quantization": "4bit"}, "bitsandbytes", "quantized"),
        ({"quantization": BitsAndBytesConfig(load_in_8bit=True)}, "bitsandbytes", "quantized"),
    ],
)
def test_a_missing_package(unloaded, monkeypatch, options, package, extra):
    says = rf"needs the package {package}, which is missing here or too old: pip install 'darwin-align\[{extra}\]'"
    with monkeypatch.context() as missing:
        missing.setitem(sys.modules, package, None)
        with pytest.raises(ModelLoadError, match=says):
            LocalPolicy.from_pretrained(unloaded, **options)
    monkeypatch.setitem(loading._USABLE, package, lambda: False)
    with pytest.raises(ModelLoadError, match=says):
        LocalPolicy.from_pretrained(unloaded, **options)


# -- who shares


def test_the_same_options_share_and_others_do_not(wide):
    every = [
        {"device": "cpu"},
        {"device_map": "cpu"},
        {"device_map": "auto"},
        {"device_map": {"model": "cpu", "lm_head": "disk"}},
        {"device": "cpu", "attn_implementation": "eager"},
        {"device": "cpu", "quantization": "4bit"},
        {"device": "cpu", "quantization": "8bit"},
        {"device": "cpu", "quantization": BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=5.0)},
        {"device": "cpu", "dtype": torch.float16},
    ]
    loaded_policies = [LocalPolicy.from_pretrained(wide / "policy", **options) for options in every]
    again = [LocalPolicy.from_pretrained(wide / "policy", **options) for options in every]
    assert len({id(policy._loaded) for policy in loaded_policies}) == len(every)
    assert [policy._loaded for policy in again] == [policy._loaded for policy in loaded_policies]
    assert LocalPolicy.from_pretrained(wide / "policy", device_map={"": "cpu"})._loaded is loaded_policies[1]._loaded
    for policy in loaded_policies:
        thawed = pickle.loads(pickle.dumps(policy))  # noqa: S301
        assert thawed._loaded is policy._loaded


def test_a_pickle_carries_the_options(wide):
    options = {"device_map": {"model": "cpu", "lm_head": "disk"}, "attn_implementation": "eager"}
    policy = LocalPolicy.from_pretrained(wide / "policy", **options)
    frozen, source = pickle.dumps(policy), policy._loaded.source
    assert hash(source) == hash(copy.deepcopy(source))
    del policy
    gc.collect()
    model = pickle.loads(frozen)._loaded  # noqa: S301
    assert model.source == source
    assert (model.model.hf_device_map, model.model.config._attn_implementation) == tuple(options.values())


# -- the pair


def test_each_of_a_pair_has_options_of_its_own(folders):
    model = DarwinChatModel.from_pretrained(
        folders["llama"],
        folders["llama-rm"],
        device="cpu",
        dtype="float64",
        policy_options={"device_map": "auto", "max_batch_rows": 3},
        reward_options={"dtype": "float32", "turn": "open"},
    )
    policy, reward = model.search.policy._loaded, model.search.scorer.reward_model._loaded
    assert (policy.source.device, policy.source.device_map, policy.model.dtype) == ("auto", "auto", torch.float64)
    assert (reward.source.device, reward.source.device_map, reward.model.dtype) == ("cpu", None, torch.float32)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"policy_options": {"devise": "cpu"}}, "policy_options has no 'devise': did you mean 'device'"),
        ({"policy_options": {"recipe": "generic"}}, "policy_options has no 'recipe'"),
        ({"reward_options": {"path": "elsewhere"}}, "reward_options has no 'path'"),
        ({"reward_options": {"device": "cpu", "device_map": "auto"}}, "leave out device"),
    ],
)
def test_options_of_one_that_it_does_not_take(folders, options, says):
    with pytest.raises(ConfigError, match=says):
        DarwinChatModel.from_pretrained(folders["llama"], folders["llama-rm"], **options)
