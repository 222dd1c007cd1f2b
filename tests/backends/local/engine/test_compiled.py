"""A compiled step, and a GPU's: other shapes and another order of work, the same tokens."""

from __future__ import annotations

import asyncio

import pytest
import torch

from benchmarks.plain import PlainPolicy, PlainScorer
from darwin_align import DarwinSearch
from darwin_align.backends.local import LocalPolicy, LocalScorer
from darwin_align.core.types import Sampling
from tests.backends.local.engine.test_equality import question_of, settings_of
from tests.backends.local.kit import assert_same

TEXTS = ("How do I brew green tea?", "Hi", "怎样泡一杯绿茶？🍵", "Explain the steps in order, and say why they matter.")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch's compiler imports what torch deprecates
@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_a_compiled_step_decodes_the_same(folders, row, name):
    eager, compiled = (
        LocalPolicy.from_pretrained(folders[name], device="cpu", threads=1, compile=chosen) for chosen in (False, True)
    )
    settings = (Sampling(), Sampling(temperature=0), Sampling(repetition_penalty=1.2), Sampling(top_k=None))
    rows = [row(text, seed=3, sampling=one, max_tokens=30) for text, one in zip(TEXTS, settings, strict=True)]
    expected = [c.tokens for c in eager.generate(rows)]
    assert [c.tokens for c in compiled.generate(rows)] == expected
    assert [c.tokens for c in compiled.generate(rows[:3])] == expected[:3], "three rows take the shape of four"
    assert compiled.engine._scheduler.forward.compiled


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("case", range(6))
async def test_searches_on_a_gpu_are_the_plain_ones(folders, case, compiled):
    names = [("llama", "llama-rm"), ("qwen3", "qwen3-rm"), ("gpt2", "gpt2-rm"), ("gemma3", "llama-rm")][case % 4]
    how = {"device": "cuda", "dtype": "float64"}
    policy = LocalPolicy.from_pretrained(folders[names[0]], compile=compiled, **how)
    scorer = LocalScorer.from_pretrained(folders[names[1]], **how)
    assert policy.engine._scheduler.lag == 1
    searches = [DarwinSearch(policy=policy, scorer=scorer, **settings_of(case)) for _ in range(3)]
    found = await asyncio.gather(*(search.ainvoke(question_of(case)) for search in searches))
    plain = DarwinSearch(policy=PlainPolicy(policy), scorer=PlainScorer(scorer), **settings_of(case))
    expected = plain.invoke(question_of(case))
    for result in found:
        assert_same(result, expected, within=1e-6)


@pytest.mark.gpu
def test_nothing_in_a_step_makes_the_host_wait(folders, row):
    policy = LocalPolicy.from_pretrained(folders["llama"], device="cuda", dtype="float32")
    policy.generate([row(max_tokens=4)])
    stepped = policy.engine._scheduler.forward.step
    modes: list[str] = []

    def strict(*arguments):
        torch.cuda.set_sync_debug_mode("error")
        try:
            return stepped(*arguments)
        finally:
            modes.append("done")
            torch.cuda.set_sync_debug_mode("default")

    policy.engine._scheduler.forward.step = strict
    assert policy.generate([row("Hi", max_tokens=20)])[0].new_tokens > 0
    assert modes


@pytest.mark.gpu
def test_policy_and_reward_model_may_live_on_two_gpus(folders):
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU here")
    policy = LocalPolicy.from_pretrained(folders["llama"], device="cuda:0", dtype="float64")
    scorer = LocalScorer.from_pretrained(folders["llama-rm"], device="cuda:1", dtype="float64")
    found = DarwinSearch(policy=policy, scorer=scorer, **settings_of(0)).invoke(question_of(0))
    plain = DarwinSearch(policy=PlainPolicy(policy), scorer=PlainScorer(scorer), **settings_of(0))
    assert_same(found, plain.invoke(question_of(0)), within=1e-6)
