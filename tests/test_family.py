"""Every preset on the embedded pair, and the engine's most likely tokens against the model itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from darwin_align import DarwinSearch, Request, SearchConfig
from darwin_align.backends.local import LocalPolicy, LocalScorer
from darwin_align.backends.local.sampling import RowConstraint, Sampler, place_keys, seed_keys
from darwin_align.core import PRESETS, Sampling
from darwin_align.operators import Row
from darwin_align.pocket import policy_path, reward_path
from darwin_align.pocket.pair import pocket_config, pocket_search

ASKED = "How do I brew green tea?"
SMALL: dict[str, Any] = {"max_new_tokens": 60, "seed": 3}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in ("mutate_best_of_n", "smc") else [pytest.mark.slow]) for name in PRESETS],
)
def test_every_preset_answers_on_the_embedded_pair(name: str) -> None:
    search = pocket_search(SearchConfig.preset(name))
    result = search.invoke(ASKED, **SMALL)
    assert result.text
    assert result.best.finished
    assert search.invoke(ASKED, replay=result.events, **SMALL) == result
    again = search.invoke(ASKED, **SMALL)
    assert (again.text, again.reward, again.ranking) == (result.text, result.reward, result.ranking)
    if result.config.choice == "best":
        assert result.reward == max(beam.reward for beam in result.ranking)


@pytest.fixture(scope="module")
def policy() -> LocalPolicy:
    return LocalPolicy.from_pretrained(policy_path(), threads=1)


def most_likely(policy: LocalPolicy, state: Sequence[int], k: int) -> tuple[list[int], list[float]]:
    """By one plain forward pass of the model."""
    ids = [*policy.template.prompt_ids(Request.of(ASKED)), *state]
    with torch.inference_mode():
        logprobs = policy._loaded.model(input_ids=torch.tensor([ids])).logits[0, -1].float().log_softmax(-1)
    best = logprobs.topk(k)
    return best.indices.tolist(), best.values.tolist()


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_a_rank_is_the_models_own_whatever_the_seed_and_the_sampling(policy: LocalPolicy, temperature: float) -> None:
    state: tuple[int, ...] = ()
    for step in range(6):
        request = Request.of(ASKED, sampling=Sampling(temperature=temperature, top_k=2))
        rows = [Row(request=request, max_tokens=1, seed=step + i, tokens=state, rank=i) for i in range(5)]
        drawn = Row(request=request, max_tokens=3, seed=9, tokens=state)
        *found, beside = policy.generate([*rows, drawn])
        tokens, logprobs = most_likely(policy, state, 5)
        assert [c.tokens[-1] for c in found] == tokens
        assert [c.logprob for c in found] == pytest.approx(logprobs, abs=1e-3)
        assert beside.tokens == policy.generate([drawn])[0].tokens
        state = found[step % 3].tokens


def test_a_policy_without_slots_ranks_alike(policy: LocalPolicy) -> None:
    rows = [Row(request=Request.of(ASKED), max_tokens=1, seed=1, rank=i) for i in range(4)]
    lines = [policy._sequence(row) for row in rows]
    with torch.inference_mode():
        policy._padded.decode(lines)
    assert [line.continuation().tokens for line in lines] == [c.tokens for c in policy.generate(rows)]


class Only:
    """Allows two tokens of sixty."""

    words = 2
    call_mark = None

    def fill(self, words: torch.Tensor) -> None:
        words[0] = 1 << 5 | 1 << 9


def test_of_forbidden_tokens_none_is_ever_ranked() -> None:
    logits = torch.arange(60.0).flip(0).repeat(4, 1)
    only: list[RowConstraint | None] = [Only(), Only(), Only(), None]
    sampler = Sampler([Sampling()] * 4, constraints=only, ranks=[0, 1, 7, 2])
    keys = place_keys(seed_keys([1, 2, 3, 4]), torch.zeros(4, dtype=torch.int64))
    tokens, logprobs = sampler.draw(logits, keys)
    assert tokens.tolist() == [5, 9, 9, 2]
    allowed = torch.tensor([54.0, 50.0]).log_softmax(-1)
    assert logprobs[:3].tolist() == pytest.approx([*allowed.tolist(), allowed[1].item()])
    assert Sampler([Sampling()], ranks=[99]).draw(logits[:1], keys[:1])[0].tolist() == [59]


def test_args_on_the_pair_follows_log_probability_and_reward() -> None:
    """Step by step against the models: every token is the best of its candidates by log p + w r."""
    config = SearchConfig.preset("args", mutations=4, reward_weight=0.7, max_new_tokens=12, seed=1)
    policy, scorer = LocalPolicy.from_pretrained(policy_path()), LocalScorer.from_pretrained(reward_path())
    search = DarwinSearch(policy=policy, scorer=scorer, guard=None, config=pocket_config(config))
    guided: list[Any] = []
    search.invoke(ASKED, on_event=lambda event, after: guided.append((event.operator, after)))
    state: tuple[int, ...] = ()
    for operator, after in guided:
        if operator == "score" and any(after.beams[i].open for i in after.contenders):
            beams = [after.beams[i] for i in after.contenders]
            tokens, logprobs = most_likely(policy, state, 4)
            assert [beam.tokens for beam in beams] == [(*state, token) for token in tokens]
            scores = [p + 0.7 * beam.reward for p, beam in zip(logprobs, beams, strict=True)]
            state = beams[scores.index(max(scores))].tokens
        elif operator == "select" and state:
            assert {after.beams[i].tokens for i in after.contenders} == {state}
    assert len(state) == 12
