"""Texts that cannot fit into a context are refused before anybody tokenises them, and no others."""

from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from darwin_align import Request, Response
from darwin_align.backends.local import LocalPolicy, LocalScorer
from darwin_align.backends.request_bounds import characters_per_token, check_fits
from darwin_align.core.errors import ContextLengthError
from darwin_align.operators import Row
from darwin_align.pocket import policy_path, reward_path

TOKENIZER = AutoTokenizer.from_pretrained(policy_path())
PER_TOKEN = characters_per_token(TOKENIZER)


@given(st.text(max_size=300), st.integers(1, 20))
@settings(deadline=None, max_examples=200)
def test_what_is_refused_has_more_tokens_than_fit(text: str, context_length: int) -> None:
    try:
        check_fits([text], PER_TOKEN, context_length)
    except ContextLengthError:
        assert len(TOKENIZER.encode(text, add_special_tokens=False)) > context_length


def test_a_token_stands_for_the_longest_of_them_at_most() -> None:
    assert max(map(len, TOKENIZER.get_vocab())) == PER_TOKEN
    check_fits(["x" * int(PER_TOKEN) * 10, " " * 10_000], PER_TOKEN, 10)
    with pytest.raises(ContextLengthError, match="more than the 10 tokens of the model's context can hold"):
        check_fits(["x" * int(PER_TOKEN) * 10, "x"], PER_TOKEN, 10)


def test_a_tokenizer_that_drops_characters_has_no_bound() -> None:
    words = Tokenizer(models.WordPiece({"[UNK]": 0, "word": 1}, unk_token="[UNK]"))  # noqa: S106
    words.normalizer, words.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]")  # noqa: S106
    assert characters_per_token(tokenizer) == inf
    check_fits(["x" * 1_000_000], inf, 1)


def test_local_models_refuse_a_megabyte_without_reading_it(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = LocalPolicy.from_pretrained(policy_path(), threads=1)
    scorer = LocalScorer.from_pretrained(reward_path(), threads=1)
    request, short = Request.of("word " * 200_000), Request.of("Hi")
    for model in (policy, scorer.reward_model):
        assert model._loaded.characters_per_token < inf  # known before the tokenizer is taken away

    def never(*_: object, **__: object) -> None:
        raise AssertionError("tokenised")

    monkeypatch.setattr("transformers.PreTrainedTokenizerFast.encode", never)
    monkeypatch.setattr("transformers.PreTrainedTokenizerFast.__call__", never)
    with pytest.raises(ContextLengthError, match="more than the 1024 tokens"):
        policy.generate([Row(request, max_tokens=4, seed=1)])
    with pytest.raises(ContextLengthError, match="more than the 1024 tokens of the reward model's context"):
        scorer.score(request, [Response(text="Hi")])
    with pytest.raises(ContextLengthError, match="characters"):
        scorer.score(short, [Response(text="Hi"), Response(text="word " * 200_000)])
    with pytest.raises(ContextLengthError, match="characters"):
        scorer.reward_model.encode("word " * 200_000)
