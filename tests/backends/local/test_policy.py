"""The local policy: exact under chunking and batching, honest about its ends."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from transformers import (
    AutoTokenizer,
    BloomConfig,
    BloomForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
)

from darwin_align.backends.local import LocalPolicy
from darwin_align.backends.local.engine import engine
from darwin_align.core.errors import ConfigError, ContextLengthError, ModelLoadError, RequestError
from darwin_align.core.types import Message, Request, Sampling
from darwin_align.operators.policy import Continuation, Policy

NAMES = ("llama", "gpt2", "qwen3", "mistral")
"""Families; the first two are enough where nobody waits for more."""
TEXTS = (
    "How do I brew green tea?",
    "Hi",
    "怎样泡一杯绿茶？🍵",
    "Explain the steps in order, and say why they matter, and what to do when the water boils. " * 2,
)
SETTINGS = (
    Sampling(),
    Sampling(temperature=0),
    Sampling(temperature=1.3, top_k=None, top_p=0.9),
    Sampling(temperature=1.0, top_k=5, repetition_penalty=1.3),
)


@pytest.fixture(params=[*NAMES[:2], *(pytest.param(name, marks=pytest.mark.slow) for name in NAMES[2:])])
def policy(request, folders):
    return LocalPolicy.from_pretrained(folders[request.param], device="cpu")


@pytest.fixture
def llama(folders):
    return LocalPolicy.from_pretrained(folders["llama"], device="cpu")


def in_memory(policy: LocalPolicy, **options) -> LocalPolicy:
    """The same weights in a policy of their own, so that a test may change its configs."""
    return LocalPolicy(copy.deepcopy(policy._loaded.model), policy._loaded.tokenizer, **options)


def continued(policy: LocalPolicy, row, chunk: int, total: int) -> Continuation:
    tokens: tuple[int, ...] = ()
    while True:
        step = min(chunk, total - len(tokens))
        [found] = policy.generate([replace(row, tokens=tokens, max_tokens=step)])
        tokens = found.tokens
        if found.finish_reason or len(tokens) >= total:
            return found


def test_is_a_policy(llama):
    assert isinstance(llama, Policy)


def test_rows_alone_together_and_in_chunks_decode_the_same(policy, row):
    rows = [
        row(text, seed=10 * i + j, sampling=sampling, max_tokens=24)
        for i, text in enumerate(TEXTS)
        for j, sampling in enumerate(SETTINGS)
    ]
    together = policy.generate(rows)
    reversed_order = policy.generate(rows[::-1])[::-1]
    for one, found, mirrored in zip(rows, together, reversed_order, strict=True):
        [alone] = policy.generate([one])
        assert found.tokens == alone.tokens == mirrored.tokens
        assert found.text == alone.text
        assert found.new_tokens == len(found.tokens) == alone.new_tokens
        assert found.logprob == pytest.approx(alone.logprob, abs=1e-3)
        for chunk in (7, 1):
            assert continued(policy, one, chunk, 24).tokens == found.tokens


def test_small_batches_decode_the_same(folders, row):
    rows = [row(text, seed=i) for i, text in enumerate(TEXTS)]
    wide = LocalPolicy.from_pretrained(folders["gpt2"], device="cpu")
    narrow = LocalPolicy.from_pretrained(folders["gpt2"], device="cpu", max_batch_rows=3)
    assert [c.tokens for c in wide.generate(rows)] == [c.tokens for c in narrow.generate(rows)]


def test_rows_may_want_different_lengths(policy, row):
    rows = [row(text, seed=i, max_tokens=3 + 5 * i) for i, text in enumerate(TEXTS)]
    found = policy.generate(rows)
    for continuation, wanted in zip(found, [3, 8, 13, 18], strict=True):
        assert continuation.new_tokens == wanted or continuation.finish_reason == "stop"


def test_nothing_to_do(llama, row):
    assert llama.generate([]) == []
    [found] = llama.generate([row(max_tokens=0)])
    assert (found.new_tokens, found.text, found.prefilled_tokens) == (0, "", 0)


def test_incremental_decode_equals_full_recompute(policy, row):
    one = row(TEXTS[3], sampling=Sampling(temperature=0), max_tokens=40)
    [found] = policy.generate([one, row("Hi", max_tokens=40)])[:1]
    prompt = policy.template.prompt_ids(one.request)
    model = policy._loaded.model
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([[*prompt, *found.tokens]]), use_cache=False).logits[0]
    expected = logits[len(prompt) - 1 : -1].argmax(dim=-1).tolist()
    assert list(found.tokens) == expected[: len(found.tokens)]
    logprobs = logits.log_softmax(-1)[torch.arange(len(prompt) - 1, len(logits) - 1), torch.tensor(found.tokens)]
    assert found.logprob == pytest.approx(float(logprobs.sum()), abs=1e-3)


@pytest.mark.parametrize("penalty", [None, 1.4])
def test_greedy_equals_transformers_generate(policy, row, penalty):
    sampling = Sampling(temperature=0, repetition_penalty=penalty)
    rows = [row(text, sampling=sampling, max_tokens=30) for text in TEXTS[:3]]
    for one, found in zip(rows, policy.generate(rows), strict=True):
        prompt = torch.tensor([policy.template.prompt_ids(one.request)])
        expected = policy._loaded.model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=False,
            max_new_tokens=30,
            eos_token_id=sorted(policy.eos_ids),
            pad_token_id=0,
            repetition_penalty=penalty,
        )
        assert list(found.tokens) == expected[0, prompt.shape[1] :].tolist()


def test_seeds_differ_and_repeat(llama, row):
    hot = Sampling(temperature=1.0, top_k=None)
    found = llama.generate([row(seed=seed, sampling=hot) for seed in (1, 2, 1, 2**63 - 1, -5)])
    assert found[0].tokens == found[2].tokens
    assert len({c.tokens for c in found}) == 4


def test_numbers_spent_are_true(llama, row):
    one = row(tokens=(40, 41, 42), max_tokens=5)
    [found] = llama.generate([one])
    assert found.prefilled_tokens == llama.prompt_length(one.request) + 3
    assert found.new_tokens == 5
    assert found.tokens[:3] == (40, 41, 42)


def test_a_state_without_ids_is_refused(llama, row):
    with pytest.raises(RequestError, match="has text but no token ids"):
        llama.generate([replace(row(), text="Heat the")])


# -- ends


def test_each_of_several_eos_ids_ends_the_answer(llama, row):
    one = row(sampling=Sampling(temperature=0), max_tokens=30)
    [free] = llama.generate([one])
    later = list(dict.fromkeys(free.tokens))[2:4]
    policy = in_memory(llama)
    policy._loaded.model.generation_config.eos_token_id = later
    policy = LocalPolicy(policy._loaded.model, policy._loaded.tokenizer)
    assert policy.eos_ids >= set(later)
    [found] = policy.generate([one])
    end = min(free.tokens.index(token) for token in later)
    assert found.tokens == free.tokens[: end + 1]
    assert found.finish_reason == "stop"
    assert found.text == policy._detokenizer.text(found.tokens[:-1])
    [again] = policy.generate([replace(one, tokens=found.tokens)])
    assert (again.new_tokens, again.finish_reason, again.text) == (0, "stop", found.text)


def test_eos_ids_come_from_config_tokenizer_and_template(llama):
    tokenizer = llama._loaded.tokenizer
    assert llama.eos_ids == {1, tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|eot_id|>")}


def test_finished_rows_leave_the_batch(llama, row):
    one = row(sampling=Sampling(temperature=0), max_tokens=30)
    [free] = llama.generate([one])
    policy = in_memory(llama)
    policy._loaded.model.generation_config.eos_token_id = free.tokens[4]
    policy = LocalPolicy(policy._loaded.model, policy._loaded.tokenizer)
    others = [row(text, seed=i, max_tokens=30) for i, text in enumerate(TEXTS)]
    mixed = policy.generate([one, *others, one])
    assert mixed[0].tokens == mixed[-1].tokens
    assert len(mixed[0].tokens) < 30
    assert [c.tokens for c in mixed[1:-1]] == [c.tokens for other in others for c in policy.generate([other])]


def _across_tokens(llama: LocalPolicy, tokens: tuple[int, ...]) -> str | None:
    """A text that begins within one token, ends within the next, and does not occur earlier."""
    text = llama._detokenizer.text
    for i in range(5, len(tokens) - 6):
        left, right = text(tokens[i : i + 1]), text(tokens[i + 1 : i + 2])
        stop = left[1:] + right[:-1]
        if (
            len(left) > 1
            and len(right) > 1
            and "�" not in stop
            and text(tokens).find(stop) == len(text(tokens[:i])) + 1
        ):
            return stop
    return None


@pytest.mark.parametrize("chunk", [1, 2, 3, 50])
def test_stop_strings_across_token_and_chunk_borders(llama, row, chunk):
    rows = [row(seed=seed, max_tokens=50) for seed in range(8)]
    checked = 0
    for one, free in zip(rows, llama.generate(rows), strict=True):
        if (stop := _across_tokens(llama, free.tokens)) is None:
            continue
        stopping = replace(one, request=one.request.model_copy(update={"stop": ("no such text", stop)}))
        found, text = continued(llama, stopping, chunk, 50), llama._detokenizer.text
        assert found.finish_reason == "stop"
        assert found.text == free.text[: free.text.index(stop)]
        assert found.tokens == free.tokens[: len(found.tokens)]
        assert stop in text(found.tokens)
        assert stop not in text(found.tokens[:-1])
        checked += 1
    assert checked >= 3


def test_half_a_character_is_left_out(llama, row, tokenizers):
    tea = tokenizers["llama"].encode("茶🍵", add_special_tokens=False)
    detokenizer = llama._detokenizer
    texts = [detokenizer.text(tea[:i], finished=False) for i in range(len(tea) + 1)]
    assert texts[-1] == "茶🍵"
    assert all("茶🍵".startswith(text) for text in texts)
    [found] = llama.generate([row(tokens=tuple(tea[:-1]), max_tokens=0)])
    assert found.text == "茶"
    assert found.tokens == tuple(tea[:-1])


def test_tool_marks_stay_in_the_text_and_turn_marks_do_not(folders, tokenizers):
    policy = LocalPolicy.from_pretrained(folders["qwen3"], device="cpu")
    ids = tokenizers["qwen3"].encode(
        "Sure.<|tools|><tool_call>{}</tool_call><|im_start|><|im_end|>", add_special_tokens=False
    )
    assert policy._detokenizer.text(ids) == "Sure.<tool_call>{}</tool_call>"


# -- the context


def small(policy: LocalPolicy, context: int) -> LocalPolicy:
    model = copy.deepcopy(policy._loaded.model)
    model.config.max_position_embeddings = context
    return LocalPolicy(model, policy._loaded.tokenizer)


def test_a_full_context_ends_the_answer(llama, row):
    one = row(max_tokens=20)
    room = 8
    policy = small(llama, llama.prompt_length(one.request) + room)
    [found] = policy.generate([one])
    assert (found.new_tokens, found.finish_reason) == (room, "length")
    assert found.tokens == llama.generate([one])[0].tokens[:room]
    assert continued(policy, one, 3, 20).tokens == found.tokens
    [again] = policy.generate([replace(one, tokens=found.tokens)])
    assert (again.new_tokens, again.finish_reason) == (0, "length")


def test_a_prompt_without_room_is_refused(llama, row):
    policy = small(llama, 30)
    with pytest.raises(ContextLengthError, match=r"is \d+ tokens long and the model's context is 30.*Shorten"):
        policy.generate([row(TEXTS[3])])


def test_refusal_names_the_numbers(llama):
    request = Request.of(TEXTS[0])
    length = llama.prompt_length(request)
    assert llama.refusal(request, 2048) is None
    assert small(llama, length + 10).refusal(request, 10) is None
    assert small(llama, length + 1).refusal(request, 1) is None
    tight = small(llama, length + 1).refusal(request, 50)
    assert tight is not None
    assert f"prompt of {length} tokens leaves 1 of the context's {length + 1}" in tight


def test_a_long_conversation_goes_through_unharmed(policy, row):
    policy = in_memory(policy)  # with no rows of other tests
    turns = [
        Message(role=role, content=f"第{i}句：绿茶很好喝 🍵👩‍🔬 and so is déjà vu. " * 2)
        for i in range(20)
        for role in ("user", "assistant")
    ]
    request = Request(
        conversation=(*turns, Message(role="user", content="再来一杯 🍵?")), sampling=Sampling(temperature=0)
    )
    ids = policy.template.prompt_ids(request)
    assert 3000 <= len(ids) < policy.context_length
    decoded = policy._loaded.tokenizer.decode(ids)
    assert all(turn.text.strip() in decoded for turn in request.conversation)
    [found] = policy.generate([replace(row(max_tokens=5), request=request)])
    assert found.new_tokens == 5
    assert found.prefilled_tokens == len(ids)


# -- objects


def test_copies_and_pickles_share_the_weights(folders, row):
    policy = LocalPolicy.from_pretrained(str(folders["llama"]), device="cpu", threads=1, max_batch_rows=5)
    sent = pickle.dumps(policy)
    assert len(sent) < 1000
    for other in (pickle.loads(sent), copy.copy(policy), copy.deepcopy(policy)):  # noqa: S301
        assert other._loaded.model is policy._loaded.model
        assert other._options == policy._options
        assert other.generate([row()])[0].tokens == policy.generate([row()])[0].tokens


def test_a_policy_made_in_memory_reports_why_it_cannot_be_pickled(llama):
    with pytest.raises(TypeError, match="save the model to a folder and use"):
        pickle.dumps(in_memory(llama))


def test_threads_take_turns(llama, row):
    rows = [row(text, seed=i) for i, text in enumerate(TEXTS)] * 3
    expected = [c.tokens for one in rows for c in llama.generate([one])]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda one: llama.generate([one])[0].tokens, rows))
    assert found == expected


def test_threads_are_set_around_the_call_only(folders, row, monkeypatch):
    policy = LocalPolicy.from_pretrained(folders["llama"], device="cpu", threads=1)
    seen = []
    forward = policy._loaded.model.forward
    monkeypatch.setattr(
        policy._loaded.model, "forward", lambda *a, **k: (seen.append(torch.get_num_threads()), forward(*a, **k))[1]
    )
    torch.set_num_threads(2)
    policy.generate([row(max_tokens=2)])
    assert set(seen) == {1}
    assert torch.get_num_threads() == 2
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == 2, "threads to come begin with the usual number"


@pytest.mark.parametrize(("tiny", "expected"), [(20_000_000, 1), (0, 2)])
def test_unstated_threads_are_measured_for_models_that_are_large_enough(folders, row, monkeypatch, tiny, expected):
    measured = []
    monkeypatch.setattr(engine, "_TINY", tiny)
    monkeypatch.setattr(engine, "fastest_threads", lambda work, most: (work(), measured.append(most), 2)[2])
    model = LlamaForCausalLM.from_pretrained(folders["llama"])
    policy = LocalPolicy(model, AutoTokenizer.from_pretrained(folders["llama"]))
    torch.set_num_threads(3)  # the fixture of this folder sets it back
    seen, forward = [], model.forward
    monkeypatch.setattr(model, "forward", lambda *a, **k: (seen.append(torch.get_num_threads()), forward(*a, **k))[1])
    for _ in range(2):
        policy.generate([row(max_tokens=2)])
    assert (set(seen), measured) == ({expected}, [3] if expected == 2 else [])


def test_repr(folders):
    policy = LocalPolicy.from_pretrained(folders["llama"], device="cpu")
    assert repr(policy) == f"LocalPolicy({str(folders['llama'])!r}, device='cpu')"


def test_impossible_batch(folders):
    with pytest.raises(ConfigError, match="max_batch_rows=0 is impossible"):
        LocalPolicy.from_pretrained(folders["llama"], max_batch_rows=0)


def test_a_base_model_is_refused_with_advice(llama, tokenizers):
    model = llama._loaded.model
    with pytest.raises(ModelLoadError, match=r"has no chat template.*give chat_template=…"):
        LocalPolicy(model, tokenizers["plain"])


def test_a_tokenizer_without_bos_and_pad_works_with_a_given_template(llama, tokenizers, row, tmp_path):
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
    (tmp_path / "chat.jinja").write_text(template)
    found = [
        LocalPolicy(llama._loaded.model, tokenizers["plain"], chat_template=given).generate([row(), row("Hi")])
        for given in (template, tmp_path / "chat.jinja")
    ]
    assert found[0] == found[1]


def test_a_request_that_the_template_refuses(folders, row):
    policy = LocalPolicy.from_pretrained(folders["gpt2"], device="cpu")
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    with pytest.raises(RequestError, match="does not show tools"):
        policy.generate([row(tools=(tool,))])


@pytest.mark.parametrize(
    ("model", "config", "more"),
    [
        (MambaForCausalLM, MambaConfig, {"state_size": 4, "num_hidden_layers": 2}),
        (BloomForCausalLM, BloomConfig, {"n_layer": 2, "n_head": 2}),
        (
            Gemma3ForCausalLM,
            Gemma3TextConfig,
            {
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "num_key_value_heads": 1,
                "head_dim": 16,
                "intermediate_size": 64,
                "sliding_window": 16,
                "layer_types": ["sliding_attention", "full_attention"],
            },
        ),
    ],
)
def test_recurrent_alibi_and_hybrid_models(model, config, more, tokenizers, row):
    """Models that take no positions, keep another kind of cache, or mix windows."""
    torch.manual_seed(0)
    tokenizer = tokenizers["qwen3"]
    made = model(config(vocab_size=len(tokenizer), hidden_size=32, initializer_range=0.3, **more))
    policy = LocalPolicy(made, tokenizer)
    rows = [row(text, seed=i, sampling=SETTINGS[i % 2], max_tokens=24) for i, text in enumerate((*TEXTS, TEXTS[0]))]
    for one, found in zip(rows, policy.generate(rows), strict=True):
        assert policy.generate([one])[0].tokens == found.tokens
        assert continued(policy, one, 7, 24).tokens == found.tokens
