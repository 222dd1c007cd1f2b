import json

import pytest

from darwin_align.pocket import policy_path, reward_path, topics

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

EIGHT_MB = 8_000_000


@pytest.fixture(scope="module")
def tokenizer():
    return transformers.AutoTokenizer.from_pretrained(str(policy_path()))


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _load(kind, path):
    return kind.from_pretrained(str(path), dtype=torch.float32).eval()


def test_the_pair_is_small_enough():
    folders = [policy_path(), reward_path(), policy_path().parent / "topics"]
    size = sum(file.stat().st_size for folder in folders for file in folder.rglob("*") if file.is_file())
    assert size < EIGHT_MB


def test_configs_are_what_servers_need():
    for path in (policy_path(), reward_path()):
        config = json.loads((path / "config.json").read_text())
        assert (config["head_dim"], config["dtype"], config["max_position_embeddings"]) == (64, "bfloat16", 1024)
        assert config["pad_token_id"] != config["eos_token_id"]
    assert config["architectures"] == ["LlamaForSequenceClassification"]


def test_policy_answers_its_first_topic(tokenizer):
    policy = _load(transformers.LlamaForCausalLM, policy_path())
    messages = [{"role": "user", "content": f"How do I {topics()[0].task}?"}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")
    out = policy.generate(**prompt, do_sample=False, temperature=None, top_k=None, max_new_tokens=200)
    text = tokenizer.decode(out[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
    assert "tea" in text
    assert out[0, -1] == tokenizer.eos_token_id


def test_reward_prefers_the_requested_topic(tokenizer):
    reward = _load(transformers.LlamaForSequenceClassification, reward_path())
    tea, coffee = topics()[:2]
    scores = {}
    for wanted in (tea, coffee):
        for answered in (tea, coffee):
            turns = [
                {"role": "user", "content": f"How do I {wanted.task}?"},
                {"role": "assistant", "content": " ".join(answered.steps)},
            ]
            ids = tokenizer.apply_chat_template(turns, return_tensors="pt")
            with torch.no_grad():
                scores[wanted.task, answered.task] = reward(**ids).logits[0, 0].item()
    assert scores[tea.task, tea.task] > scores[tea.task, coffee.task]
    assert scores[coffee.task, coffee.task] > scores[coffee.task, tea.task]


def test_cards_tell_the_metrics():
    for path in (policy_path(), reward_path()):
        card = (path / "MODEL_CARD.md").read_text()
        assert "metrics.json" in card
        assert all(word in card for word in ("## Data", "## Recipe", "## Metrics", "## Limits"))


def test_any_text_survives_the_tokenizer(tokenizer):
    text = "你好，世界 🌻 café\n\ttab <tool_call> 1234"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert len(tokenizer) <= 2048
