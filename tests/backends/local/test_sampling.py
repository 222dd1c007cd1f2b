"""The Gumbel draw samples from the warped softmax, and its noise is a pure function of its place."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import chisquare, kstest

from darwin_align.backends.local.sampling import (
    Sampler,
    gumbel_noise,
    masked_logits,
    place_keys,
    seed_keys,
    top_columns,
    warpers,
)
from darwin_align.core.types import Sampling

LOGITS = torch.tensor([1.5, 0.3, -0.4, 2.0, 0.0, -1.0, 0.9, -2.0])
DRAWS = 100_000


def keys_of(seeds, starts, steps: int = 1) -> torch.Tensor:
    """Noise keys of every row and step."""
    return place_keys(seed_keys(list(seeds))[:, None], torch.tensor(starts)[:, None] + torch.arange(steps))


def draw(sampling: Sampling, *, seeds: range | None = None, logits: torch.Tensor = LOGITS) -> torch.Tensor:
    seeds = range(1_000_000, 1_000_000 + DRAWS) if seeds is None else seeds
    keys = keys_of(seeds, [0] * len(seeds))[:, 0]
    return Sampler([sampling] * len(seeds)).draw(logits.expand(len(seeds), -1), keys)[0]


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=1.0, top_k=None),
        Sampling(temperature=0.7, top_k=None),
        Sampling(temperature=1.0, top_k=4),
        Sampling(temperature=1.5, top_k=None, top_p=0.8),
        Sampling(temperature=1.2, top_k=6, top_p=0.9),
    ],
)
def test_frequencies_match_the_warped_softmax(sampling):
    expected = warpers(sampling)(None, LOGITS[None])[0].softmax(-1)
    counts = torch.bincount(draw(sampling), minlength=len(LOGITS))
    assert not counts[expected == 0].any()
    kept = expected > 0
    assert chisquare(counts[kept], (expected[kept].double() * DRAWS).numpy(), sum_check=False).pvalue > 1e-3


def test_successive_positions_of_one_row_are_independent_draws():
    sampler, keys = Sampler([Sampling(temperature=1.0, top_k=None)]), keys_of([7], [0], 4000)
    drawn = torch.cat([sampler.draw(LOGITS[None], keys[:, i])[0] for i in range(4000)])
    expected = LOGITS.softmax(-1).double().numpy() * len(drawn)
    assert chisquare(torch.bincount(drawn, minlength=8), expected, sum_check=False).pvalue > 1e-3
    pairs = torch.bincount(drawn[:-1] * 8 + drawn[1:], minlength=64)
    both = torch.outer(LOGITS.softmax(-1), LOGITS.softmax(-1)).flatten().double().numpy() * (len(drawn) - 1)
    assert chisquare(pairs[both > 5], both[both > 5], sum_check=False).pvalue > 1e-3


def test_noise_is_gumbel():
    noise = gumbel_noise(keys_of([3], [0], 200), torch.arange(200)[:, None])
    assert noise.isfinite().all()
    assert kstest(noise.flatten().double().numpy(), "gumbel_r").pvalue > 1e-3


def test_noise_depends_on_seed_position_and_token_alone():
    keys = keys_of([5, 2**63 - 1, -9], [0, 0, 0], 12)
    assert torch.equal(keys_of([5], [4], 8), keys[:1, 4:])
    assert torch.equal(keys_of([2**64 + 5], [0], 12), keys[:1])
    small = keys_of(range(50), [0] * 50, 50)
    assert len(small.unique()) == small.numel()
    noise = gumbel_noise(keys[:, :, None], torch.arange(50))
    assert torch.equal(gumbel_noise(keys[1:2, 3:4], torch.tensor([7, 31])), noise[1:2, 3, [7, 31]])
    assert len(noise.unique()) > 0.99 * noise.numel()


def test_known_values_hold_on_every_platform():
    # A change of these numbers changes every seeded answer.
    assert keys_of([0, 1], [0, 0], 2).tolist() == KNOWN_KEYS
    assert gumbel_noise(torch.tensor([0]), torch.tensor([0, 1, 99])).tolist() == pytest.approx(KNOWN_NOISE, abs=1e-5)


KNOWN_KEYS = [[-6411193824288604561, 3069472533636442495], [6791897765849424158, -8730512010378760701]]
KNOWN_NOISE = [-0.76465, 0.17912, 1.193444]


def test_greedy_takes_the_largest_and_reports_the_models_own_logprob():
    logits = torch.stack([LOGITS, LOGITS.flip(0)])
    tokens, logprobs = Sampler([Sampling(temperature=0)] * 2).draw(logits, seed_keys([1, 2]))
    assert tokens.tolist() == [3, 4]
    assert logprobs.tolist() == pytest.approx([float(LOGITS.log_softmax(-1)[3])] * 2)


def test_logprob_is_that_of_the_warped_distribution():
    sampling = Sampling(temperature=0.5, top_k=3)
    tokens, logprobs = Sampler([sampling] * 50).draw(LOGITS.expand(50, -1), seed_keys(range(50)))
    warped = warpers(sampling)(None, LOGITS[None])[0].log_softmax(-1)
    assert torch.allclose(logprobs, warped[tokens], atol=1e-5)


def test_tied_tokens_survive_together():
    logits = torch.tensor([2.0, 2.0, 2.0, 0.0])
    assert set(draw(Sampling(temperature=1.0, top_k=2), seeds=range(200), logits=logits).tolist()) == {0, 1, 2}


def test_rows_of_different_settings_share_a_batch():
    settings = [Sampling(temperature=0), Sampling(temperature=1.0), Sampling(top_p=0.5), Sampling(temperature=1.0)]
    keys = keys_of([1, 2, 3, 4], [0, 5, 0, 9], 6)
    logits = [torch.randn(4, 8, generator=torch.Generator().manual_seed(i)) for i in range(6)]
    together = Sampler(settings)
    drawn = torch.stack([together.draw(one, keys[:, step])[0] for step, one in enumerate(logits)])
    for i, sampling in enumerate(settings):
        alone = Sampler([sampling])
        found = [alone.draw(one[i : i + 1], keys[i : i + 1, step])[0].item() for step, one in enumerate(logits)]
        assert found == drawn[:, i].tolist()


def test_masking_the_whole_vocabulary_draws_what_the_survivors_draw():
    """What a GPU does instead of looking for ties."""
    sampling = Sampling(temperature=0.8, top_k=3, top_p=0.9)
    keys = seed_keys(range(200))
    logits = torch.randn(200, 50, generator=torch.Generator().manual_seed(1))
    tokens, logprobs = Sampler([sampling]).draw(logits, keys)
    warped = warpers(sampling)(None, logits)
    assert torch.equal(tokens, (warped + gumbel_noise(keys[:, None], torch.arange(50))).argmax(-1))
    assert torch.allclose(logprobs, warped.log_softmax(-1).gather(-1, tokens[:, None])[:, 0], atol=1e-5)


def test_repetition_penalty_sees_prompt_and_new_tokens():
    sampler = Sampler([Sampling(temperature=0, repetition_penalty=10.0)])
    assert sampler.reads_history
    history, drawn = torch.tensor([[3, 3]]), []
    for step in range(3):
        token = sampler.draw(LOGITS[None], seed_keys([step]), history)[0]
        drawn.append(token.item())
        history = torch.cat([history, token[:, None]], dim=1)
    assert drawn == [0, 6, 1]


def test_a_tie_in_one_row_changes_no_other():
    """Columns that tie at the border of top-k survive together, in their own row alone."""
    torch.manual_seed(0)
    plain = torch.randn(1, 200)
    tied = plain.clone()
    tied[0, 20:120] = 9.0
    values, columns = top_columns(torch.cat([plain, tied]), 5)
    assert columns.shape[1] == 100
    assert (values[0] > -torch.inf).sum() == 5
    hot = Sampling(temperature=5.0, top_k=5)
    keys = seed_keys(range(400))
    alone = Sampler([hot] * 400).draw(plain.expand(400, -1), keys)
    beside = Sampler([hot] * 401).draw(torch.cat([plain.expand(400, -1), tied]), torch.cat([keys, keys[:1]]))
    assert beside[0][:400].tolist() == alone[0].tolist()
    assert beside[1][:400].tolist() == pytest.approx(alone[1].tolist())


def wide_logits(kind: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(5, 20_000, generator=generator, dtype=torch.float64)
    if kind == "peaked":
        logits[:, ::97] += 9.0
    if kind == "tied":  # as a model in half precision makes them
        logits = (logits * 2).bfloat16().double()
    if kind == "forbidden":
        logits[:, 40:] = -torch.inf
    return logits


@pytest.mark.parametrize("kind", ["flat", "peaked", "tied", "forbidden"])
@pytest.mark.parametrize(
    "sampling",
    [Sampling(temperature=t, top_k=None, top_p=p) for t, p in ((0.7, None), (1, 0.5), (1, 0.95), (0.6, 0.99))],
)
def test_few_columns_of_a_wide_vocabulary_draw_what_all_would(kind, sampling):
    logits, positions = wide_logits(kind), range(30)
    warped = warpers(sampling.model_copy(update={"top_p": None}))(None, logits).clone()
    if sampling.top_p is not None:
        # The smallest set of the likeliest that reaches top_p, summed exactly; of ties the higher ids.
        values, order = warped.flip(-1).sort(dim=-1, descending=True, stable=True)
        order = warped.shape[-1] - 1 - order
        likely = values.softmax(-1)
        warped.scatter_(-1, order, values.masked_fill(likely.cumsum(-1) - likely >= sampling.top_p, -torch.inf))
    sampler, alone = Sampler([sampling] * 5), Sampler([sampling])
    for position in positions:
        keys = keys_of(range(5), [position] * 5)[:, 0]
        tokens, logprobs = sampler.draw(logits, keys)
        expected = (warped + gumbel_noise(keys[:, None], torch.arange(20_000))).argmax(-1)
        assert tokens.tolist() == expected.tolist()
        assert torch.allclose(logprobs, warped.log_softmax(-1).gather(-1, expected[:, None])[:, 0], atol=1e-9)
        for row in range(5):
            token, logprob = alone.draw(logits[row : row + 1], keys[row : row + 1])
            assert (token.item(), logprob.item()) == (tokens[row].item(), logprobs[row].item())


class Only:
    """Lets a few tokens through."""

    def __init__(self, *tokens: int, words: int = 1, call_mark: int | None = None) -> None:
        self.tokens, self.words, self.call_mark = tokens, words, call_mark

    def fill(self, words):
        for token in self.tokens:
            words[token // 32] |= 1 << token % 32 if token % 32 < 31 else -(1 << 31)


@pytest.mark.parametrize("vocabulary", [31, 32, 40, 70])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ruled_logits(vocabulary, dtype):
    logits = torch.randn(3, vocabulary, dtype=dtype)
    constraints = [Only(0, 30), Only(7, 31, words=2), Only(5, 69, words=3)]
    found = masked_logits(logits.clone(), constraints)
    for row, constraint in enumerate(constraints):
        kept = [token for token in constraint.tokens if token < vocabulary]
        assert (found[row] > -torch.inf).nonzero()[:, 0].tolist() == kept
        assert found[row, kept].tolist() == logits[row, kept].tolist()


def test_a_call_beside_a_format_keeps_the_probability_that_the_model_gives_it():
    mark, starts = 4, [9, 17]
    logits = torch.randn(3, 40, dtype=torch.float64)
    logits[:, starts] -= 30.0  # a model without a request for JSON hardly ever begins it
    logits[1, mark] = -40.0
    constraints = [Only(mark, *starts, words=2, call_mark=mark)] * 2 + [Only(mark, *starts, words=2)]
    found = masked_logits(logits, constraints).softmax(-1)
    model = logits.softmax(-1)
    assert found[:2, mark].tolist() == pytest.approx(model[:2, mark].tolist())
    assert (found[:2, 9] / found[:2, 17]).tolist() == pytest.approx((model[:2, 9] / model[:2, 17]).tolist())
    assert found[:2, [mark, *starts]].sum(-1).tolist() == pytest.approx([1.0, 1.0])
    assert found[2, mark] > 0.999999
    for temperature in (0.5, 2.0):
        found = masked_logits(logits, constraints, temperature).div(temperature).softmax(-1)
        assert found[:2, mark].tolist() == pytest.approx(logits.div(temperature).softmax(-1)[:2, mark].tolist())
    greedy = masked_logits(logits, constraints, 0.0)
    best = logits.argmax(-1).tolist()
    assert [(token == mark) for token in greedy[:2].argmax(-1).tolist()] == [token == mark for token in best[:2]]
    only_calls = masked_logits(logits, [Only(mark, words=2, call_mark=mark)] * 3).softmax(-1)
    assert only_calls[:, mark].tolist() == [1.0] * 3


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=0),
        Sampling(),
        Sampling(top_k=1),
        Sampling(top_k=None),
        Sampling(temperature=2.0, top_p=0.5),
    ],
)
def test_a_guided_row_draws_as_if_there_were_no_other_tokens(sampling):
    torch.manual_seed(0)
    logits, kept = torch.randn(300, 2000), [3, 64, 1999]
    keys = seed_keys(range(300))
    tokens, logprobs = Sampler([sampling] * 300, constraints=[Only(*kept, words=63)] * 300).draw(logits, keys)
    assert set(tokens.tolist()) <= set(kept)
    few = logits[:, kept]
    for warper in () if sampling.temperature == 0 else warpers(sampling):
        few = warper(None, few)
    expected = few.log_softmax(-1)[torch.arange(300), [kept.index(token) for token in tokens.tolist()]]
    assert logprobs.tolist() == pytest.approx(expected.tolist(), abs=1e-5)
