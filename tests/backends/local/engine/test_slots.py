"""Keys and values in slots, and models over them, against plain copies and against reading everything anew."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    Lfm2Config,
    Lfm2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from darwin_align.backends.local.engine import forward as module
from darwin_align.backends.local.engine.forward import Piece, forward_for
from darwin_align.backends.local.engine.slots import SlotCache, Window

VOCABULARY = 97
CONTEXT = 128
LAYERS, HEADS, SIZE = 2, 3, 2


# -- the cache


def states(marks):
    """Keys and values (rows, heads, tokens, size) that differ by head and column."""
    base = torch.tensor(marks, dtype=torch.float64)[:, None, :, None]
    return base + torch.arange(HEADS * SIZE).view(HEADS, 1, SIZE) / 10


class Shelf:
    """A cache, and what it should hold: for every slot a number for every position."""

    def __init__(self, slots, width):
        self.cache, self.contents, self.mark = SlotCache(LAYERS), {slot: [] for slot in range(slots)}, 0
        self.cache.lay_out([], slots, width)

    def write(self, rows, starts, tokens, *, as_range=False):
        marks = [[self.mark + 10 * (row * tokens + at) for at in range(tokens)] for row in range(len(rows))]
        self.mark += 10 * len(rows) * tokens
        places = [
            slot * self.cache.width + at + i for slot, at in zip(rows, starts, strict=True) for i in range(tokens)
        ]
        chosen = slice(rows[0], rows[-1] + 1) if as_range else torch.tensor(rows)
        width = max(starts) + tokens
        self.cache.window = Window(chosen, torch.tensor(places), width)
        for slot, at, new in zip(rows, starts, marks, strict=True):
            self.contents[slot][at:] = new
        for layer in range(LAYERS):
            keys, values = self.cache.update(states(marks) + layer * 1e6, states(marks) + layer * 1e6 + 5e5, layer)
            for found, extra in ((keys, layer * 1e6), (values, layer * 1e6 + 5e5)):
                assert found.shape == (len(rows), HEADS, width, SIZE)
                for i, slot in enumerate(rows):
                    assert torch.equal(found[i : i + 1, :, : len(self.contents[slot])], self.expected(slot, extra))

    def expected(self, slot, extra):
        return states([self.contents[slot]]) + extra

    def check(self):
        for slot, contents in self.contents.items():
            for i, layer in enumerate(self.cache.layers):
                for found, extra in ((layer.keys, i * 1e6), (layer.values, i * 1e6 + 5e5)):
                    assert found.shape == (len(self.contents), self.cache.width, HEADS, SIZE)
                    assert torch.equal(
                        found[slot : slot + 1, : len(contents)].transpose(1, 2), self.expected(slot, extra)
                    )


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_slots_hold_what_was_stored_copied_exchanged_and_laid_out(seed):
    rng = random.Random(seed)
    shelf = Shelf(4, 8)
    shelf.write(range(4), [0, 0, 0, 0], 1, as_range=True)
    for _ in range(12):
        slots, contents, cache = list(shelf.contents), shelf.contents, shelf.cache
        one, other = rng.sample(slots, 2)
        deed = rng.choice(["write", "range", "copy", "exchange", "lay out"])
        if deed == "lay out":
            kept = rng.sample(slots, rng.randint(2, len(slots)))
            number, width = rng.randint(len(kept), 5), rng.randint(6, 12)
            cache.lay_out(kept, number, width)
            shelf.contents = {i: contents[slot][:width] for i, slot in enumerate(kept)}
            shelf.contents |= {i: [] for i in range(len(kept), number)}
        elif deed == "copy":
            length = rng.randint(0, len(contents[one]))
            cache.copy(one, other, length)
            contents[other] = contents[one][:length]
        elif deed == "exchange":
            cache.exchange(one, other, len(contents[one]), len(contents[other]))
            contents[one], contents[other] = contents[other], contents[one]
        else:
            first, end = sorted(rng.sample(range(len(slots) + 1), 2))
            rows = rng.sample(slots, 2) if deed == "write" else list(range(first, end))
            tokens = rng.randint(1, 3)
            starts = [min(rng.randint(0, len(contents[slot])), cache.width - tokens) for slot in rows]
            shelf.write(rows, starts, tokens, as_range=deed == "range")
        shelf.check()


def test_a_copy_and_an_exchange_leave_what_lies_beyond_alone():
    shelf = Shelf(2, 6)
    shelf.write([0, 1], [0, 0], 6)
    shelf.cache.copy(0, 1, 2)
    shelf.contents[1][:2] = shelf.contents[0][:2]
    shelf.check()
    shelf.cache.exchange(0, 1, 1, 3)
    first, second = shelf.contents.values()
    shelf.contents = {0: second[:3] + first[3:], 1: first[:1] + second[1:]}
    shelf.check()


def test_room_of_the_same_measure_is_left_where_it_is():
    shelf = Shelf(3, 6)
    shelf.write([0, 1, 2], [0, 0, 0], 2)
    before = [layer.keys for layer in shelf.cache.layers]
    shelf.cache.lay_out([0, 1], 3, 6)
    assert all(layer.keys is keys for layer, keys in zip(shelf.cache.layers, before, strict=True))
    shelf.cache.lay_out([1, 0], 3, 6)
    shelf.contents = {0: shelf.contents[1], 1: shelf.contents[0], 2: []}
    shelf.check()


# -- models

SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": CONTEXT,
}
MIXED = {"head_dim": 16, "sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]}
SMALL = {"n_embd": 32, "n_layer": 2, "n_head": 2}
DOUBLE, SINGLE = torch.float64, torch.float32
MODELS = {
    "llama": (LlamaForCausalLM, LlamaConfig, SHAPE, DOUBLE),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, {**SHAPE, **MIXED, "use_sliding_window": True}, DOUBLE),
    "gpt2": (GPT2LMHeadModel, GPT2Config, {**SMALL, "n_positions": CONTEXT}, DOUBLE),
    "mistral": (MistralForCausalLM, MistralConfig, {**SHAPE, "sliding_window": 16}, DOUBLE),
    # Eager attention, whose softmax transformers takes in single precision.
    "gemma2": (Gemma2ForCausalLM, Gemma2Config, {**SHAPE, **MIXED, "attn_logit_softcapping": 2.0}, SINGLE),
    "gemma3": (Gemma3ForCausalLM, Gemma3TextConfig, {**SHAPE, **MIXED}, DOUBLE),
}
CLOSE = {DOUBLE: 1e-10, SINGLE: 1e-4}


def made(model, config, more, dtype=DOUBLE):
    torch.manual_seed(0)
    special = {"bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0}
    return model(config(vocab_size=VOCABULARY, initializer_range=0.3, **special, **more)).to(dtype).eval()


@pytest.fixture(scope="module")
def models():
    return {name: made(*parts) for name, parts in MODELS.items()}


@pytest.fixture(params=MODELS)
def model(request, models):
    return models[request.param]


@pytest.fixture
def over_slots(model):
    """The model over six slots."""
    with torch.inference_mode():
        forward, reason = forward_for(model)
        assert reason == ""
        forward.cache.lay_out([], 6, CONTEXT + 1)
        yield forward


def some_ids(length, seed=0):
    rng = random.Random(seed)
    return [rng.randrange(VOCABULARY) for _ in range(length)]


def read_anew(model, ids):
    return model.base_model(input_ids=torch.tensor([ids]), use_cache=False).last_hidden_state[0, -1]


def same(found, expected):
    return float((found - expected).abs().max() / expected.abs().max()) < CLOSE[found.dtype]


def pieces_of(rows, cuts):
    """Each row's tokens from its cut on, up to its next cut."""
    return [Piece(slot, start, rows[slot][start:end]) for slot, (start, end) in cuts.items()]


def test_rows_read_in_pieces_are_as_if_read_whole(model, over_slots):
    rows = {4: some_ids(70, 1), 1: some_ids(9, 2), 2: some_ids(33, 3)}
    before = over_slots.passes, over_slots.positions
    over_slots.read(pieces_of(rows, {4: (0, 30), 1: (0, 5)}))
    over_slots.read(pieces_of(rows, {2: (0, 1), 4: (30, 50)}))
    found = over_slots.read(pieces_of(rows, {2: (1, 33), 1: (5, 9), 4: (50, 70)}))
    for slot, state in zip((2, 1, 4), found, strict=True):
        assert same(state, read_anew(model, rows[slot]))
    assert (over_slots.passes - before[0], over_slots.positions - before[1]) == (3, 35 + 21 + 32 + 4 + 20)


def test_steps_decode_as_if_everything_was_read_anew(model, over_slots):
    rows = {2: some_ids(45, 4), 3: some_ids(6, 5), 4: some_ids(20, 6)}
    over_slots.read([Piece(slot, 0, ids[:-1]) for slot, ids in rows.items()])
    for step in range(20):
        lengths = torch.tensor([len(ids) - 1 for ids in rows.values()])
        tokens = torch.tensor([ids[-1] for ids in rows.values()])
        logits = over_slots.step(range(2, 5), tokens, lengths, int(lengths.max()) + 1)
        for found, ids in zip(logits, rows.values(), strict=True):
            assert same(found, model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1])
            ids.append(int(found.argmax()) if step % 2 else (step * 7) % VOCABULARY)
    assert logits.shape == (3, VOCABULARY)


def test_a_step_leaves_idle_neighbours_as_they_were(model, over_slots):
    idle, busy = {0: some_ids(60, 7), 2: some_ids(12, 8)}, {1: some_ids(20, 9), 3: some_ids(25, 10)}
    over_slots.read([Piece(slot, 0, ids) for slot, ids in {**idle, **busy}.items()])
    lengths, tokens = torch.tensor([60, 20, 12, 25]), torch.tensor([1, 2, 3, 4])
    logits = over_slots.step(range(4), tokens, lengths, 26)  # narrower than the idle row in slot 0
    for slot, ids in busy.items():
        whole = torch.tensor([[*ids, slot + 1]])
        assert same(logits[slot], model(input_ids=whole, use_cache=False).logits[0, -1])
    for slot, ids in idle.items():
        [found] = over_slots.read([Piece(slot, len(ids), [5, 6])])
        assert same(found, read_anew(model, [*ids, 5, 6]))


def test_a_row_goes_on_from_a_copied_prefix_and_from_a_cut(model, over_slots):
    stem, one, other = some_ids(40, 11), some_ids(25, 12), some_ids(9, 13)
    over_slots.read([Piece(0, 0, stem + one)])
    over_slots.cache.copy(0, 5, 40)
    over_slots.cache.exchange(0, 3, 65, 0)
    found = over_slots.read([Piece(3, 30, other), Piece(5, 40, other + one)])  # padding over what was there
    assert same(found[0], read_anew(model, stem[:30] + other))
    assert same(found[1], read_anew(model, stem + other + one))


def test_rows_keep_their_places_when_slots_become_more_and_wider(model, over_slots):
    ids = some_ids(30, 14)
    over_slots.cache.lay_out([], 2, 32)
    over_slots.read([Piece(1, 0, ids[:20])])
    over_slots.cache.lay_out([1], 3, 64)
    [found] = over_slots.read([Piece(0, 20, ids[20:])])
    assert same(found, read_anew(model, ids))


def test_a_row_may_fill_the_context_beside_one_that_begins(model, over_slots):
    full, fresh, neighbour = some_ids(CONTEXT, 15), some_ids(40, 16), some_ids(20, 17)
    over_slots.read([Piece(1, 0, full[:-30]), Piece(2, 0, neighbour)])
    found = over_slots.read([Piece(0, 0, fresh), Piece(1, CONTEXT - 30, full[-30:])])
    assert same(found[0], read_anew(model, fresh))
    assert same(found[1], read_anew(model, full))
    [found] = over_slots.read([Piece(2, 20, fresh)])
    assert same(found, read_anew(model, neighbour + fresh))


def test_a_classifiers_hidden_states_are_those_of_its_last_tokens():
    model = made(GPT2ForSequenceClassification, GPT2Config, {**SMALL, "num_labels": 1})
    with torch.inference_mode():
        forward, _ = forward_for(model)
        forward.cache.lay_out([], 2, 40)
        ids = [*some_ids(20), 0]  # the pad token, which the model's own pooling would pass over
        [found] = forward.read([Piece(1, 0, ids)])
        assert same(found, read_anew(model, ids))


def test_a_tokens_memory_is_that_of_its_keys_and_values(models):
    with torch.inference_mode():
        forward, _ = forward_for(models["llama"])
        assert forward.position_bytes == 2 * 2 * 16 * 8  # layers, keys and values, one head of 16, float64


def test_half_precision_is_taken_by_its_own_measure():
    model = made(LlamaForCausalLM, LlamaConfig, SHAPE, torch.bfloat16)
    with torch.inference_mode():
        forward, reason = forward_for(model)
        assert reason == ""
        forward.cache.lay_out([], 1, 32)
        forward.read([Piece(0, 0, some_ids(20))])
        assert forward.step(range(1), torch.tensor([5]), torch.tensor([20]), 21).dtype == torch.float32


# -- what is refused


def refusal(model):
    with torch.inference_mode():
        forward, reason = forward_for(model)
    assert forward is None
    return reason


@pytest.mark.parametrize(
    ("model", "config", "more", "reason"),
    [
        (MambaForCausalLM, MambaConfig, {"hidden_size": 32, "state_size": 4, "num_hidden_layers": 2}, "position_ids"),
        (BloomForCausalLM, BloomConfig, {"hidden_size": 32, "n_layer": 2, "n_head": 2}, "position_ids"),
        (Lfm2ForCausalLM, Lfm2Config, {**SHAPE, "layer_types": ["conv", "full_attention"]}, "conv layers"),
        (
            BertForSequenceClassification,
            BertConfig,
            {key: value for key, value in SHAPE.items() if key != "num_key_value_heads"},
            "differs from its own",
        ),
        (
            Gemma3ForCausalLM,
            Gemma3TextConfig,
            {**SHAPE, **MIXED, "use_bidirectional_attention": True},
            "differs from its own",
        ),
    ],
)
def test_models_that_cannot_go_back_or_look_ahead_are_refused_with_the_reason(model, config, more, reason):
    assert reason in refusal(made(model, config, more))


def test_attention_without_masks_is_refused_with_advice():
    model = made(LlamaForCausalLM, LlamaConfig, SHAPE)
    model.config._attn_implementation = "flash_attention_2"
    assert refusal(model) == "its attention is 'flash_attention_2', which takes no 4-D mask: load it with sdpa"


def test_layers_of_an_unknown_kind_are_refused():
    model = made(Qwen3ForCausalLM, Qwen3Config, {**SHAPE, **MIXED})
    model.config.layer_types = ["full_attention", "linear_attention"]
    assert refusal(model) == "it has linear_attention layers, which cannot be rolled back"


@pytest.mark.parametrize("window", [None, 15, 17])
def test_a_window_read_wrongly_is_found_out(models, window, monkeypatch):
    monkeypatch.setattr(module, "_shapes", lambda config: [({"all": window}, False)])
    assert "differs from its own" in refusal(models["mistral"])


NEO = {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "max_position_embeddings": CONTEXT}
NEO |= {"attention_types": [[["global", "local"], 1]]}
DYNAMIC = {"max_position_embeddings": 48}
DYNAMIC |= {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}}


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param((GPTNeoForCausalLM, GPTNeoConfig, {**NEO, "window_size": 16}, SINGLE), id="neo, short window"),
        pytest.param((GPTNeoForCausalLM, GPTNeoConfig, {**NEO, "window_size": 64}, SINGLE), id="neo, long window"),
        pytest.param(
            (
                LlamaForCausalLM,
                LlamaConfig,
                {**SHAPE, **DYNAMIC},
                DOUBLE,
            ),
            id="positions that depend on the longest row",
        ),
    ],
)
def test_what_does_not_suit_slots_is_refused_even_if_only_long_rows_show_it(parts):
    model, rows = made(*parts), {0: some_ids(100, 1), 1: some_ids(30, 2), 3: some_ids(80, 3)}
    with torch.inference_mode():
        forward, _ = forward_for(model)
        if forward is not None:
            forward.cache.lay_out([], 4, CONTEXT + 1)
            forward.read([Piece(slot, 0, ids[:-20]) for slot, ids in rows.items()])
            found = forward.read([Piece(slot, len(ids) - 20, ids[-20:]) for slot, ids in rows.items()])
            assert all(same(state, read_anew(model, ids)) for state, ids in zip(found, rows.values(), strict=True))


def test_eager_attention_in_double_precision_takes_slots():
    model = made(LlamaForCausalLM, LlamaConfig, {**SHAPE, "attn_implementation": "eager"})
    with torch.inference_mode():
        assert forward_for(model)[1] == ""


def test_what_is_no_model_is_refused():
    assert refusal(SimpleNamespace()) == "it is no transformers model"
