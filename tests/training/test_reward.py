import random

import torch
from transformers import LlamaForCausalLM

from training.comparisons import groups
from training.optim import rate_at
from training.train_policy import IGNORED, make_config, stream
from training.train_reward import REPLIES, batches, loss_of, rows_of, scores, start_from


def _models(codec):
    torch.manual_seed(0)
    return LlamaForCausalLM(make_config(codec)), None


def test_cut_scores_equal_scores_of_cut_and_closed_rows(codec):
    policy, _ = _models(codec)
    model = start_from(policy, codec).eval()
    rows = next(batches(codec, random.Random(0), 3))[:REPLIES]
    with torch.no_grad():
        found = scores(model, rows, codec.pad, codec.end)
        for row, values in zip(rows, found, strict=True):
            for cut, value in zip([*row.cuts, len(row.ids) - 1], values, strict=True):
                plain = model(input_ids=torch.tensor([[*row.ids[:cut], codec.end]])).logits[0, 0]
                torch.testing.assert_close(plain, value, atol=1e-5, rtol=1e-4)


def test_the_reward_model_starts_from_the_policy(codec):
    policy, _ = _models(codec)
    model = start_from(policy, codec)
    assert torch.equal(model.model.embed_tokens.weight, policy.model.embed_tokens.weight)
    assert torch.equal(model.model.layers[2].mlp.up_proj.weight, policy.model.layers[2].mlp.up_proj.weight)
    assert model.config.num_labels == 1


def test_rows_end_with_one_end_token_and_cut_alike(codec):
    rng = random.Random(1)
    rows = rows_of(next(groups(rng)), codec, rng, 4)
    assert len(rows) == REPLIES
    prompt = len(codec.chat(next(groups(random.Random(1))).messages, prompt=True))
    for row in rows:
        assert row.ids[-1] == codec.end
        assert len(row.values) == len(row.cuts) + 1 == 5
        assert all(prompt < cut < len(row.ids) for cut in row.cuts)


def test_the_loss_rewards_agreement(codec):
    rng = random.Random(2)
    rows = rows_of(next(groups(rng)), codec, rng, 0)
    values = torch.tensor([row.values for row in rows])
    good, accuracy = loss_of(values * 3, rows, random.Random(3))
    bad, _ = loss_of(-values * 3, rows, random.Random(3))
    assert good < bad
    assert 0.0 <= accuracy <= 1.0


def test_batches_hold_similar_lengths(codec):
    batch = next(stream(codec, 4))
    lengths = [len(row) for row in batch]
    assert len(batch) == 24
    assert max(lengths) <= 1024
    assert IGNORED == -100


def test_the_schedule_warms_up_and_falls():
    rates = [rate_at(step, 100, warm_up=10) for step in range(100)]
    assert rates[9] == 1.0
    assert rates[0] < 0.2
    assert rates[99] < 0.05
