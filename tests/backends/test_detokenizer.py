"""Text of states: partial ones keep every whole character, and stop strings are seen in any alphabet."""

from __future__ import annotations

import random

import pytest

from darwin_align.backends.detokenizer import Detokenizer


@pytest.fixture(params=["sentencepiece", "qwen3"])
def tokenizer(request, tokenizers):
    return tokenizers[request.param]


@pytest.fixture
def detokenizer(tokenizer):
    return Detokenizer(tokenizer, {tokenizer.eos_token_id})


def encode(tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False)


@pytest.mark.parametrize("text", ["今天蘑菇炖", "🥝🥥🫐🦝🦥🦦", "tea é茶🍵", "Heat the water."])
def test_a_partial_text_has_all_whole_characters(tokenizer, detokenizer, text):
    ids = encode(tokenizer, text)
    partial = [detokenizer.text(ids[:end], finished=False) for end in range(len(ids) + 1)]
    assert partial[-1] == detokenizer.text(ids) == text
    assert all(text.startswith(one) and "�" not in one for one in partial)
    for size in range(1, len(text)):
        whole = encode(tokenizer, text[:size])
        if whole == ids[: len(whole)]:
            assert partial[len(whole)] == text[:size]
            assert all(one.startswith(text[:size]) for one in partial[len(whole) :])


def test_bytes_that_are_no_character_are_replaced_as_the_tokenizer_does(tokenizers):
    tokenizer = tokenizers["sentencepiece"]
    detokenizer, byte = Detokenizer(tokenizer, ()), 3
    for run in ([0xE4, 0x61], [0xFF], [0xC0, 0x80], [0xE4, 0xBB, 0xE4]):
        ids = [byte + one for one in run] + encode(tokenizer, "tea")
        assert detokenizer.text(ids) == detokenizer.text(ids, finished=False) == tokenizer.decode(ids)


def test_random_ids_in_chunks_spell_one_text(tokenizer, detokenizer):
    draw = random.Random(0)
    ids = [draw.randrange(len(tokenizer)) for _ in range(2000)]
    ids = [one for one in ids if one not in detokenizer.hidden]
    at = 0
    while at < len(ids):
        at = min(at + draw.randint(1, 7), len(ids))
        assert detokenizer.text(ids[:at]) == tokenizer.decode(ids[:at])
        assert detokenizer.spells(ids[:at], detokenizer.text(ids[:at], finished=False))


@pytest.mark.parametrize("stop", ["魉", "।", "🍵", "é", "茶茶", "water."])
@pytest.mark.parametrize("before", ["", "Heat ", "魑魅魍", "🥝🥥🫐", "ab今"])
def test_a_stop_string_is_seen_when_its_last_token_comes(tokenizer, detokenizer, before, stop):
    ids = encode(tokenizer, before + stop)
    seen = [detokenizer.ends_with_stop(ids[:end], [stop]) for end in range(1, len(ids) + 1)]
    assert seen[-1]
    assert not any(seen[:-1])
    assert detokenizer.text(ids).endswith(stop)


def test_a_word_that_brings_its_space(tokenizers):
    for name in ("sentencepiece", "qwen3"):
        tokenizer = tokenizers[name]
        detokenizer = Detokenizer(tokenizer, ())
        inner = encode(tokenizer, "tea Heat")
        word = inner[len(encode(tokenizer, "tea")) :]
        assert detokenizer.begins_word(word)
        assert not detokenizer.begins_word(encode(tokenizer, "\ntea")[-1:])
