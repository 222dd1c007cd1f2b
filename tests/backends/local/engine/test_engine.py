"""Merging: who shares the engine, who waits for whom, and what happens to those who leave early."""

from __future__ import annotations

import asyncio
import copy
import gc
import logging
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from transformers import MambaConfig, MambaForCausalLM

from benchmarks.plain import PlainPolicy
from darwin_align import DarwinChatModel, DarwinSearch, SearchConfig
from darwin_align.backends.local import LocalPolicy, LocalScorer
from darwin_align.backends.local.engine import Engine, ReadSequence
from darwin_align.backends.local.engine.admission import AdmissionDelay
from darwin_align.backends.local.engine.forward import SlotForward
from darwin_align.backends.local.engine.scheduler import QUANTUM
from darwin_align.core.types import Request, Sampling
from darwin_align.operators import portal

TEXTS = ("How do I brew green tea?", "Hi", "怎样泡一杯绿茶？🍵", "Explain the steps in order, and say why they matter.")
QUICK = SearchConfig(cycles=1, mutations=3, champions=2, replacement_period=6, max_new_tokens=18, mutator="identity")


@pytest.fixture
def policy(folders) -> LocalPolicy:
    """A policy with an engine of its own."""
    loaded = LocalPolicy.from_pretrained(folders["llama"], device="cpu", threads=1)._loaded
    return endless(copy.deepcopy(loaded.model), loaded.tokenizer)


def endless(model, tokenizer, **options) -> LocalPolicy:
    """A policy whose answers never end by themselves."""
    made = LocalPolicy(model, tokenizer, threads=1, **options)
    made.eos_ids = frozenset()
    return made


@pytest.fixture
def steps(policy, monkeypatch) -> list[int]:
    """How many slots each step worked on."""
    found: list[int] = []
    step = SlotForward.step

    def watched(self, rows, *arguments):
        found.append(len(rows))
        return step(self, rows, *arguments)

    monkeypatch.setattr(SlotForward, "step", watched)
    return found


def long_and_short(policy, row, long: int = 150) -> tuple[Future, Future, list[str]]:
    order: list[str] = []
    futures = [policy.submit([row(seed=1, max_tokens=long)]), policy.submit([row("Hi", seed=2, max_tokens=3)])]
    for name, future in zip(("long", "short"), futures, strict=True):
        future.add_done_callback(lambda _, name=name: order.append(name))
    return *futures, order


def test_a_newcomer_joins_at_the_next_step(policy, row, steps):
    long, short, order = long_and_short(policy, row)
    assert (long.result()[0].new_tokens, short.result()[0].new_tokens) == (150, 3)
    assert order == ["short", "long"]
    assert 150 <= len(steps) <= 153, "the short answer took no steps of its own"
    assert 2 in steps


def test_long_answers_make_room_for_short_ones(policy, row):
    engine_of_one = endless(policy._loaded.model, policy._loaded.tokenizer, max_batch_rows=1)
    long, short, order = long_and_short(engine_of_one, row, long=3 * QUANTUM)
    assert short.result()[0].tokens == policy.generate([row("Hi", seed=2, max_tokens=3)])[0].tokens
    assert long.result()[0].tokens == policy.generate([row(seed=1, max_tokens=3 * QUANTUM)])[0].tokens
    assert order == ["short", "long"]
    assert long.result()[0].prefilled_tokens == policy.prompt_length(Request.of(TEXTS[0])), "its row was kept"


def test_a_step_serves_all_threads(policy, row, steps):
    rows = [row(text, seed=seed, max_tokens=40) for text in TEXTS for seed in range(3)]
    alone = [policy.generate([one])[0].tokens for one in rows]
    steps.clear()
    with ThreadPoolExecutor(len(rows)) as pool:
        together = list(pool.map(lambda one: policy.generate([one])[0].tokens, rows))
    assert together == alone
    assert len(steps) < 40 * len(rows) / 3


def test_rows_of_one_call_start_together(policy, row, steps):
    policy.generate([row(text, seed=1, max_tokens=10) for text in (*TEXTS, TEXTS[0])])
    assert steps == [5] * 10


def test_a_cancelled_call_frees_its_rows_before_the_next_step(policy, row, steps):
    begun = threading.Event()
    long = policy.submit([replace(row(max_tokens=3000), search_id="s")])
    waiting = policy.submit([row("Hi", max_tokens=20)])
    waiting.add_done_callback(lambda _: begun.set())
    assert begun.wait(30)
    assert long.cancel()
    policy.release("s")
    taken = len(steps)
    assert policy.generate([row("Hi", max_tokens=5)])[0].new_tokens == 5
    assert len(steps) < taken + 20
    assert policy.engine.slots_in_use == sum(
        slot.owner is not None for slot in policy.engine._scheduler.store.manager.slots
    )
    assert not any(slot.owner == "s" for slot in policy.engine._scheduler.store.manager.slots)
    assert not policy.engine.busy


def test_a_call_that_is_cancelled_while_it_is_read_leaves_then(policy, row, monkeypatch):
    lines = [policy._sequence(replace(row(text, seed=1, max_tokens=50), search_id="s")) for text in TEXTS]
    given = [len(line.ids) for line in lines]
    futures: list[Future] = []
    read = SlotForward.read

    def cancelling(self, pieces):
        futures[0].cancel()
        return read(self, pieces)

    policy.generate([row("Hi", max_tokens=1)])
    monkeypatch.setattr(SlotForward, "read", cancelling)
    at_work = threading.Event()
    policy.engine.submit([], at_work.wait)  # until the future is known
    futures.append(policy.engine.submit(lines, lambda: None, owner="s"))
    at_work.set()
    assert policy.generate([row("Hi", max_tokens=40)])[0].new_tokens == 40
    assert futures[0].cancelled()
    written = [len(line.ids) - before for line, before in zip(lines, given, strict=True)]
    assert max(written) <= 1, "the round in which it was cancelled is the last"


def test_a_row_that_is_only_read_is_whole_beside_rows_that_are_decoded(policy, row):
    """Steps pass over its slot: they write behind it."""
    engine = policy.engine

    def read(ids: list[int]) -> ReadSequence:
        line = ReadSequence(list(ids))
        engine.submit([line], lambda: None, owner="a").result(30)
        return line

    ids = [5 + i % 300 for i in range(62)]
    expected = read(ids).hidden
    engine.submit([], engine._scheduler.store.manager.clear).result(30)
    writers = [policy._sequence(row("Hi", seed=i, max_tokens=6)) for i in range(8)]
    lines = [*writers[:4], ReadSequence(ids[:60]), *writers[4:]]
    engine.submit(lines, lambda: None, owner="a").result(30)
    again = read(ids)
    assert again.reused == 60
    assert torch.allclose(again.hidden, expected, atol=1e-5)


def test_an_engine_lives_until_it_has_served(policy, row):
    engine = Engine(policy._loaded.model)
    future = engine.submit([policy._sequence(row(max_tokens=2))], lambda: "served")
    del engine
    gc.collect()
    assert future.result(30) == "served"


def test_a_failed_pass_fails_its_callers_and_no_others(policy, row, monkeypatch):
    expected = policy.generate([row(max_tokens=8)])[0].tokens
    forward = policy._loaded.model.forward
    monkeypatch.setattr(policy._loaded.model, "forward", lambda *a, **k: (_ for _ in ()).throw(MemoryError("full")))
    with pytest.raises(MemoryError, match="full"):
        policy.generate([row(max_tokens=8)])
    monkeypatch.setattr(policy._loaded.model, "forward", forward)
    assert policy.generate([row(max_tokens=8)])[0].tokens == expected


def test_a_callers_own_mistake_is_its_own(policy, row):
    engine = policy.engine

    def broken() -> None:
        raise KeyError("finish")

    line = policy._sequence(row(max_tokens=2))
    with pytest.raises(KeyError, match="finish"):
        engine.submit([line], broken).result(30)
    assert policy.generate([row(max_tokens=2)])[0].new_tokens == 2


def test_memory_stays_within_its_budget(policy, row):
    small = endless(policy._loaded.model, policy._loaded.tokenizer, row_memory=300_000)
    rows = [row(text, seed=seed, max_tokens=30) for text in TEXTS for seed in range(6)]
    assert [c.tokens for c in small.generate(rows)] == [c.tokens for c in policy.generate(rows)]
    used_bytes = sum(
        t.nbytes for layer in small.engine._scheduler.forward.cache.layers for t in (layer.keys, layer.values)
    )
    assert 0 < used_bytes <= 300_000
    assert len(small.engine._scheduler.store.manager.slots) < len(rows)


def test_one_row_is_served_beyond_the_budget(policy, row):
    tight = endless(policy._loaded.model, policy._loaded.tokenizer, row_memory=1)
    rows = [row(text, seed=1, max_tokens=12) for text in TEXTS]
    assert [c.tokens for c in tight.generate(rows)] == [c.tokens for c in policy.generate(rows)]


def test_rows_of_other_settings_share_a_step(policy, row):
    settings = (
        Sampling(temperature=0),
        Sampling(temperature=1.2, top_k=None),
        Sampling(repetition_penalty=1.3),
        Sampling(temperature=0, repetition_penalty=1.5),
    )
    rows = [row(text, seed=3, sampling=one, max_tokens=25) for text, one in zip(TEXTS, settings, strict=True)]
    assert [c.tokens for c in policy.generate(rows)] == [policy.generate([one])[0].tokens for one in rows]


def test_a_model_that_cannot_be_rolled_back_is_logged_once(tokenizers, row, caplog):
    torch.manual_seed(0)
    tokenizer = tokenizers["qwen3"]
    made = MambaForCausalLM(MambaConfig(vocab_size=len(tokenizer), hidden_size=32, state_size=4, num_hidden_layers=2))
    mamba = LocalPolicy(made, tokenizer, threads=1)
    with caplog.at_level(logging.WARNING, "darwin_align"):
        for _ in range(2):
            assert mamba.generate([row(max_tokens=3)])[0].prefilled_tokens > 3
    assert mamba.engine.takes_slots is False
    [record] = [record for record in caplog.records if record.name.startswith("darwin_align")]
    assert "MambaForCausalLM is read anew at every step" in record.getMessage()


# -- searches


def search_of(folders, **memory) -> DarwinSearch:
    return DarwinSearch(
        policy=LocalPolicy.from_pretrained(folders["qwen3"], device="cpu", threads=1, **memory),
        scorer=LocalScorer.from_pretrained(folders["llama-rm"], device="cpu", threads=1, **memory),
        config=QUICK,
    )


def in_use(search: DarwinSearch) -> int:
    engines = (search.policy.engine, search.scorer.reward_model.engine)
    for engine in engines:
        engine.submit([], lambda: None).result(30)  # what was released before is released now
    return sum(
        slot.owner not in (None, "")
        for engine in engines
        if engine._probed
        for slot in engine._scheduler.store.manager.slots
    )


async def test_the_async_driver_awaits_the_engine_without_a_thread(folders, monkeypatch):
    search = search_of(folders)
    expected = search.invoke(TEXTS[0], seed=1)
    threads = portal._the_portal().pool
    monkeypatch.setattr(threads, "submit", lambda *a: pytest.fail("a thread had to wait"))
    decoded = await search._decoder.ainvoke(_population(search))
    scored = await search._scorer.ainvoke(decoded)
    assert all(beam.reward is not None for beam in scored.beams)
    assert expected.text


def _population(search: DarwinSearch):
    from darwin_align import Population

    return Population.start(Request.of(TEXTS[0]), mutations=3)


def test_a_search_leaves_no_rows_behind(folders):
    search = search_of(folders, row_memory=10**7)
    search.invoke(TEXTS[0], seed=1)
    assert in_use(search) == 0


async def test_a_cancelled_search_leaves_no_rows_behind(folders):
    search = search_of(folders, row_memory=10**7)
    reached = asyncio.Event()
    loop = asyncio.get_running_loop()

    def seen(event, population):
        if event.operator == "select":
            loop.call_soon_threadsafe(reached.set)

    task = asyncio.create_task(search.ainvoke(TEXTS[0], seed=1, max_new_tokens=3000, on_event=seen))
    await asyncio.wait_for(reached.wait(), 30)
    assert in_use(search) > 0
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert in_use(search) == 0


@pytest.mark.parametrize("how", ["batch", pytest.param("abatch", marks=pytest.mark.slow)])
async def test_a_batch_is_one_batch(folders, how):
    model = DarwinChatModel(search=search_of(folders, row_memory=10**8))
    questions, configs = [f"{text} {i}" for text in TEXTS for i in range(4)], None
    engine = model.search.policy.engine
    alone = [model.invoke(question, seed=3).content for question in questions]
    passes, before = engine._scheduler.forward.passes, engine._scheduler.forward.passes
    if how == "batch":
        found = await asyncio.to_thread(model.batch, questions, configs, seed=3)
    else:
        found = await model.abatch(questions, configs, seed=3)
    assert [answer.content for answer in found] == alone
    assert engine._scheduler.forward.passes - passes < before / 4


def test_a_batch_keeps_to_max_concurrency(folders):
    search = search_of(folders)
    running, most = 0, 0

    def count(rewards, finished, weights, seed):
        nonlocal most
        most = max(most, running)
        return range(len(rewards)), weights

    watched = DarwinSearch(policy=search.policy, scorer=search.scorer, selector=count, config=QUICK)
    original = DarwinSearch.ainvoke

    async def counted(self, *arguments, **settings):
        nonlocal running
        running += 1
        try:
            return await original(self, *arguments, **settings)
        finally:
            running -= 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DarwinSearch, "ainvoke", counted)
        assert len(watched.batch(list(TEXTS), {"max_concurrency": 2}, seed=1)) == 4
    assert most == 2


def test_one_failing_prompt_spoils_no_other(folders):
    model = DarwinChatModel(search=search_of(folders))
    found = model.batch([TEXTS[0], [], TEXTS[1]], return_exceptions=True, seed=1)
    assert isinstance(found[1], Exception)
    assert [found[0].content, found[2].content] == [model.invoke(text, seed=1).content for text in TEXTS[:2]]


def test_the_thread_goes_with_its_engine(policy, row):
    policy.generate([row(max_tokens=2)])
    engine = Engine(policy._loaded.model)
    line = policy._sequence(row(max_tokens=2))
    engine.submit([line], lambda: None).result(30)
    thread = engine._worker._thread
    assert thread.is_alive()
    del engine
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()


def test_a_long_prompt_is_read_in_parts_and_lets_others_decode(policy, row, monkeypatch):
    passes: list[int] = []
    read = SlotForward.read
    monkeypatch.setattr(
        SlotForward,
        "read",
        lambda self, pieces: (passes.append(max(len(p.ids) for p in pieces)), read(self, pieces))[1],
    )
    long = row("Heat the water, but do not let it boil. " * 150, max_tokens=5)
    assert policy.prompt_length(long.request) > 2000
    found = policy.generate([long, row("Hi", max_tokens=5)])[0].tokens
    assert max(passes) <= 1024
    assert len(passes) >= 3
    plain = PlainPolicy(policy)
    assert found == plain.generate([long])[0].tokens


def test_only_a_model_on_the_same_cores_is_waited_for_long(policy, row, monkeypatch):
    """A remote reward model computes elsewhere: what waits for it here does nothing meanwhile."""
    from darwin_align.backends.local.engine import engine as module

    monkeypatch.setattr(module, "cores", lambda: 1)
    monkeypatch.setattr(module, "_on_cpu", {policy.engine})
    policy.generate([row(max_tokens=1)])
    assert policy.engine._scheduler.admission.share == AdmissionDelay.share
    monkeypatch.setattr(module, "_on_cpu", {policy.engine, object()})
    policy.generate([row(max_tokens=1)])
    assert policy.engine._scheduler.admission.share == 1.0
