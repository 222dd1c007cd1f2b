"""Random small models under the real tokenizers and chat templates of open families.

The files are fetched by ``python tests/families/fetch.py``; without them these tests are skipped.
"""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest
import torch
from transformers import (
    AutoTokenizer,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from darwin_align import DarwinSearch, SearchConfig
from darwin_align.backends.local import LocalPolicy, LocalScorer, RewardModel
from darwin_align.backends.templates import ChatTemplate, to_chat
from darwin_align.core.errors import RequestError
from darwin_align.core.types import Message, Request, Response, Sampling
from darwin_align.operators.policy import Row

pytestmark = pytest.mark.slow

_SPEC = importlib.util.spec_from_file_location("fetch_families", Path(__file__).with_name("fetch.py"))
assert _SPEC is not None
assert _SPEC.loader is not None
FETCH = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(FETCH)
ROOT: Path = FETCH.folder()

# Package, the template that is not in its config, the architecture, and the token that ends a turn.
FAMILIES: dict[str, tuple[str, str | None, type, type, str]] = {
    "command-r": ("command_r_plus", None, LlamaForCausalLM, LlamaConfig, "<|END_OF_TURN_TOKEN|>"),
    "deepseek": ("deepseek_v3", None, LlamaForCausalLM, LlamaConfig, "<｜end▁of▁sentence｜>"),
    "gemma2": ("gemma2", "google-gemma-2-2b-it", Gemma2ForCausalLM, Gemma2Config, "<end_of_turn>"),
    "gemma3": ("gemma3", None, Gemma3ForCausalLM, Gemma3TextConfig, "<end_of_turn>"),
    "hermes3": ("llama3_2", "hermes", LlamaForCausalLM, LlamaConfig, "<|eot_id|>"),
    "internlm2": ("internlm2", None, LlamaForCausalLM, LlamaConfig, "<|im_end|>"),
    "llama2": ("llama2", "llama2", LlamaForCausalLM, LlamaConfig, "</s>"),
    "llama3.2": ("llama3_2", None, LlamaForCausalLM, LlamaConfig, "<|eot_id|>"),
    "minicpm": ("minicpm_v4_5", None, LlamaForCausalLM, LlamaConfig, "<|im_end|>"),
    "mistral-nemo": ("mistral_nemo", None, MistralForCausalLM, MistralConfig, "</s>"),
    "qwen2.5": ("qwen2_5", None, Qwen2ForCausalLM, Qwen2Config, "<|im_end|>"),
    "qwen3": ("qwen3", None, Qwen3ForCausalLM, Qwen3Config, "<|im_end|>"),
    "qwen3-coder": ("qwen3", "Qwen3-Coder", Qwen3ForCausalLM, Qwen3Config, "<|im_end|>"),
}
LLAMA2 = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token + '[INST] ' + m.content | trim + ' [/INST]' }}"
    "{% elif m.role == 'assistant' %}{{ ' ' + m.content | trim + ' ' + eos_token }}{% endif %}{% endfor %}"
)
PLAIN = (
    "{{ bos_token }}{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
USER = Message(role="user", content="How do I brew green tea?")
HISTORY = (USER, Message(role="assistant", content="Heat the water."), Message(role="user", content="然后呢？ 🍵"))
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "get_weather", "description": "It.", "parameters": PARAMETERS}}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request) -> str:
    if not (ROOT / "templates").exists():
        pytest.skip(f"no files of families in {ROOT}: run `python tests/families/fetch.py`")
    return request.param


@pytest.fixture(scope="module")
def tokenizer(family) -> Any:
    package, template, *_ = FAMILIES[family]
    # Two packages name classes of their own, which would run their code.
    loader = PreTrainedTokenizerFast if package in ("internlm2", "minicpm_v4_5") else AutoTokenizer
    made = loader.from_pretrained(ROOT / package)
    if template == "hermes":
        source = (ROOT / "templates" / "NousResearch-Hermes-3-Llama-3.1-8B-tool_use.jinja").read_text("utf-8")
        made.chat_template = {"default": PLAIN, "tool_use": source}
        made.eos_token = "<|eot_id|>"  # noqa: S105
    elif template == "llama2":
        made.chat_template = LLAMA2
    elif template is not None:
        made.chat_template = (ROOT / "templates" / f"{template}.jinja").read_text("utf-8")
    return made


def _config(kind: type, size: int) -> Any:
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    heads = {"num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 4096, "initializer_range": 0.3}
    none = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    return kind(vocab_size=size, **shape, **heads, **none)


@pytest.fixture(scope="module")
def policy(family, tokenizer) -> LocalPolicy:
    """A random model without a generation config that knows the family's end of a turn."""
    _, _, model, config, _ = FAMILIES[family]
    torch.manual_seed(0)
    made = model(_config(config, len(tokenizer))).eval()
    made.generation_config.eos_token_id = None
    return LocalPolicy(made, tokenizer, row_memory=1 << 26)


@pytest.fixture(scope="module")
def reward(tokenizer) -> RewardModel:
    torch.manual_seed(1)
    config = _config(LlamaConfig, len(tokenizer))
    config.num_labels, config.pad_token_id = 1, tokenizer.pad_token_id
    return RewardModel(LlamaForSequenceClassification(config).eval(), tokenizer, row_memory=1 << 26)


@pytest.mark.parametrize("conversation", [(USER,), HISTORY])
def test_prompts_are_those_of_transformers(policy, tokenizer, conversation):
    expected = tokenizer.apply_chat_template(to_chat(conversation), add_generation_prompt=True, return_dict=False)
    assert policy.template.prompt_ids(Request(conversation=conversation)) == expected


def test_turns_end_at_the_familys_own_token(policy, family, tokenizer):
    end = tokenizer.convert_tokens_to_ids(FAMILIES[family][-1])
    if family != "hermes3":  # its template is ours
        assert end in policy.eos_ids
    assert end in policy.template.detokenizer.hidden or end in policy.eos_ids


def test_text_of_partial_states_is_one_decode(policy, tokenizer):
    draw, detokenizer = random.Random(0), policy.template.detokenizer
    ids = [one for one in (draw.randrange(len(tokenizer)) for _ in range(10_000)) if one not in detokenizer.hidden]
    at = 0
    while at < len(ids):
        start, at = at, min(at + draw.randint(1, 7), len(ids))
        window = ids[max(0, start - 40) : at]
        assert detokenizer.text(window) == tokenizer.decode(window, clean_up_tokenization_spaces=False)
    assert detokenizer.text(ids) == tokenizer.decode(ids, clean_up_tokenization_spaces=False)


@pytest.mark.parametrize("text", ["今天蘑菇炖", "🥝🥥🫐🦝🦥🦦", "Brew it, 魉 and ।."])
def test_partial_texts_have_all_whole_characters(policy, tokenizer, text):
    ids, detokenizer = tokenizer.encode(text, add_special_tokens=False), policy.template.detokenizer
    partial = [detokenizer.text(ids[:end], finished=False) for end in range(len(ids) + 1)]
    assert partial[-1] == text
    assert all(text.startswith(one) for one in partial)
    assert detokenizer.ends_with_stop(ids, [text[-1]])
    for size in range(len(text)):
        whole = tokenizer.encode(text[:size], add_special_tokens=False)
        assert whole != ids[: len(whole)] or partial[len(whole)] == text[:size]


def test_rewards_are_those_of_a_direct_call(reward, tokenizer):
    for text in ("Sure, heat the water.", "把水烧开 🍵"):
        chat = [*to_chat([USER]), {"role": "assistant", "content": text}]
        ids = tokenizer.apply_chat_template(chat, return_dict=False)
        with torch.inference_mode():
            direct = float(reward._loaded.model(torch.tensor([ids])).logits[0, 0])
        prompt = tokenizer.apply_chat_template(to_chat([USER]), add_generation_prompt=True, tokenize=False)
        space = " " if prompt.endswith("[/INST]") else ""
        tokens = tokenizer.encode(f"x{space}{text}", add_special_tokens=False)
        tokens = tokens[len(tokenizer.encode("x", add_special_tokens=False)) :]
        responses = [
            Response(text=text),
            Response(text=reward._template.detokenizer.text(tokens), tokens=tuple(tokens)),
        ]
        by_text, by_ids = reward.score(Request(conversation=(USER,)), responses)[0]
        assert by_text == pytest.approx(direct, abs=1e-4)
        if reward._template.answer_ids(Request(conversation=(USER,)), responses[1:], "closed") == [ids]:
            assert by_ids == pytest.approx(direct, abs=1e-4)


def test_calls_are_read_in_the_familys_own_syntax(policy, family, tokenizer):
    template: ChatTemplate = policy.template
    if not template.takes_tools:
        pytest.skip("its template shows no tools")
    try:
        syntax = template.tool_syntax
    except RequestError as refused:
        assert "form that is not recognised" in str(refused)  # noqa: PT017
        pytest.skip("its form of a call is refused")
    if syntax.texts is not None:
        text = f'{syntax.texts.first}get_weather{syntax.texts.middle}{{"city": "Paris"}}{syntax.texts.last}'
        text = text.replace("\0", "abcDEF123").replace("\1", "0")
        parsed = syntax.parse(text, [TOOL], finished=True)
        assert [(one.name, dict(one.arguments)) for one in parsed.calls] == [("get_weather", {"city": "Paris"})]
        assert (parsed.text, parsed.invalid) == ("", ())


@pytest.mark.parametrize("forced", ["format", "tool"])
def test_grammars_compile_and_step_in_time(policy, forced):
    settings: dict[str, Any] = {
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": PARAMETERS}}
    }
    if forced == "tool":
        if not policy.template.takes_tools:
            pytest.skip("its template shows no tools")
        settings = {"tools": (TOOL,), "tool_choice": "required"}
    request = Request(conversation=(USER,), sampling=Sampling(temperature=1.0), **settings)
    try:
        start = perf_counter()
        policy.prompt_length(request)
    except RequestError as refused:
        pytest.skip(str(refused))
    compiled = perf_counter() - start
    [made] = policy.generate([Row(request, 60, 1, ())])
    seconds = perf_counter() - start - compiled
    assert compiled < 20
    assert seconds / made.new_tokens < 0.5
    assert made.text.lstrip()


def test_a_search_replays(policy, reward):
    config = SearchConfig.preset("darwin", max_new_tokens=12, replacement_period=4, cycles=1, seed=3)
    search = DarwinSearch(policy=policy, scorer=LocalScorer(reward_model=reward), config=config)
    first = search.invoke("How do I brew green tea?")
    for replay in (None, first.events[:3]):
        again = search.invoke("How do I brew green tea?", **({} if replay is None else {"replay": replay}))
        assert (again.text, again.best.tokens, again.best.reward) == (first.text, first.best.tokens, first.best.reward)
