"""Packed rows give the rewards that a reward model gives for each answer and each prefix alone."""

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from darwin_align import LocalScorer, Request, Response
from darwin_align.backends.llama_cpp.gguf_file import open_gguf
from darwin_align.small import Adapter, reward_path
from darwin_align.small.adapter import write_adapter
from darwin_align.small.weights import dequantised, file_digest
from training.small.data import Group, Pair
from training.small.packing import Codec
from training.small.tower import Tower
from training.small.train import reads_of

ANSWERS = (
    "Boil the water first. Then pour it over the leaves, wait for two minutes, and take them out. " * 3,
    "No.",
    "Here is how to brew green tea: you need leaves, a kettle and a cup.",
)


@pytest.fixture(scope="module")
def parts(embedded_gguf: Path) -> tuple[Codec, Tower, Tower]:
    model = dequantised(embedded_gguf).model
    codec = Codec(AutoTokenizer.from_pretrained(open_gguf(embedded_gguf).folder))
    upper = Tower(model, 1, 3, rank=2, seed=1)
    torch.manual_seed(0)
    for name, parameter in upper.named_parameters():
        if name.endswith("lora_b") or name == "score.weight":
            torch.nn.init.normal_(parameter, std=0.1)
    return codec, Tower(model, 0, 1), upper


def rewards_of(
    codec: Codec, lower: Tower, upper: Tower, embed: torch.nn.Module, group: Group
) -> list[dict[int, float]]:
    encoded = codec.encode(group)
    packed = codec.pack(encoded)
    with torch.no_grad():
        values = upper.rewards(lower.run(embed(packed.ids), packed), packed).tolist()
    return [{cut: values[read] for cut, read in one.items()} for one in reads_of(encoded)]


def test_rewards_equal_the_local_scorers(
    parts: tuple[Codec, Tower, Tower], embedded_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DARWIN_ALIGN_CACHE", str(tmp_path))
    codec, lower, upper = parts
    group = Group("made up", "How do I brew green tea?", ANSWERS, (Pair(0, 1),))
    embed = dequantised(embedded_gguf).model.embed_tokens
    found = rewards_of(codec, lower, upper, embed, group)
    tensors = {"score.weight": upper.score.weight.detach(), "model.norm.weight": upper.norm.weight.detach()}
    for name, owner, attribute in upper.matrices():
        part = getattr(owner, attribute)
        tensors |= {f"{name}.lora_a": part.lora_a.detach(), f"{name}.lora_b": part.lora_b.detach()}
    write_adapter(Adapter(tensors, 3, file_digest(embedded_gguf)), tmp_path / "adapter.safetensors")
    scorer = LocalScorer.from_pretrained(reward_path(tmp_path / "adapter.safetensors", policy=embedded_gguf), threads=1)
    encoded = codec.encode(group)
    for ids, rewards in zip(encoded.answers, found, strict=True):
        responses = [Response(text=codec.tokenizer.decode(ids[:cut]), tokens=ids[:cut]) for cut in rewards]
        alone = scorer.score(Request.of(group.prompt), responses).answer
        assert list(rewards.values()) == pytest.approx(alone, abs=1e-3)
    assert len(found[0]) == 6
    assert len({round(value, 3) for one in found for value in one.values()}) > 5


def test_a_beginning_is_judged_at_counts_that_a_whole_answer_has(parts: tuple[Codec, Tower, Tower]) -> None:
    codec = parts[0]
    group = Group("made up", "Tea?", (ANSWERS[0], ANSWERS[0][:150]), (Pair(0, 1),), beginnings=frozenset({1}))
    encoded = codec.encode(group)
    assert set(encoded.cuts[1]) < set(encoded.cuts[0])
    assert encoded.whole == (True, False)
    assert len(encoded.answers[0]) in encoded.cuts[0]
