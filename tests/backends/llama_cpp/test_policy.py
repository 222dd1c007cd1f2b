"""A GGUF file as the policy: whole searches, and the same answers as the same weights give on the torch engine."""

import pickle
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from darwin_align import DarwinChatModel, LocalPolicy, Request, Row, Sampling, SearchConfig
from darwin_align.backends.llama_cpp import LlamaCppPolicy
from darwin_align.backends.scripted import ScriptedScorer
from darwin_align.core.errors import ConfigError, ContextLengthError, ModelLoadError
from darwin_align.langchain.identity import identity
from darwin_align.operators.policy import Continuation
from darwin_align.operators.portal import call
from darwin_align.pocket import policy_path
from tests.processes import run

QUESTION = "How do I brew green tea?"
GREEDY = Request.of(QUESTION, sampling=Sampling(temperature=0.0))
SMALL: dict[str, Any] = {"cycles": 1, "mutations": 3, "replacement_period": 8, "max_tokens": 24, "seed": 3}


def by_length(request: Request, responses: list[Any]) -> list[float]:
    return [float(len(response.text)) for response in responses]


def generate(policy: LlamaCppPolicy, *rows: Row) -> list[Continuation]:
    return list(call(policy.generate, rows).answer)


def test_greedy_rows_equal_the_torch_engines(policy: LlamaCppPolicy) -> None:
    local = LocalPolicy.from_pretrained(policy_path(), threads=1)
    row = Row(GREEDY, 32, 1)
    [theirs], [ours] = generate(policy, row), local.generate([row])
    assert (theirs.text, theirs.tokens, theirs.new_tokens) == (ours.text, ours.tokens, ours.new_tokens)


def test_chunks_equal_one_call_and_read_only_what_is_new(alone: LlamaCppPolicy) -> None:
    [whole] = generate(alone, Row(GREEDY, 24, 1))
    [begun] = generate(alone, Row(GREEDY, 12, 1))
    [rest] = generate(alone, Row(GREEDY, 12, 1, tokens=begun.tokens, text=begun.text))
    assert rest.tokens == whole.tokens
    assert rest.text == whole.text
    assert rest.prefilled_tokens <= 1


def test_a_seed_repeats_itself_and_others_differ(alone: LlamaCppPolicy) -> None:
    request = Request.of(QUESTION)
    [one], [same], [other] = (generate(alone, Row(request, 24, seed)) for seed in (1, 1, 2))
    assert one.tokens == same.tokens != other.tokens


def test_a_search_by_the_files_name(embedded_gguf: Path) -> None:
    model = DarwinChatModel(model=embedded_gguf, reward=by_length, **SMALL)
    answer = model.invoke(QUESTION)
    assert answer.text
    assert answer.response_metadata["darwin"]["reward"] == len(answer.text)
    assert answer.response_metadata["model_name"] == str(embedded_gguf)
    assert answer.usage_metadata
    assert answer.usage_metadata["output_tokens"] > 0


def test_a_batch_and_a_replay(policy: LlamaCppPolicy) -> None:
    model = DarwinChatModel(policy=policy, scorer=by_length, **SMALL)
    answers = model.batch([QUESTION, "What is a kettle?"])
    assert [bool(answer.text) for answer in answers] == [True, True]
    result = model.search.invoke(QUESTION)
    again = model.search.invoke(QUESTION, replay=result.events)
    assert (again.text, again.reward) == (result.text, result.reward)
    assert again.ranking == result.ranking


class Tea(BaseModel):
    minutes: int


def test_structured_output_and_forced_tools(policy: LlamaCppPolicy) -> None:
    model = DarwinChatModel(policy=policy, scorer=by_length, **{**SMALL, "max_tokens": 64})
    assert isinstance(model.with_structured_output(Tea).invoke("How long does green tea steep?"), Tea)
    bound = model.bind_tools([Tea], tool_choice="Tea", grounded="where_possible")
    [tool_call] = bound.invoke("Steep it for 3 minutes.").tool_calls
    assert (tool_call["name"], tool_call["args"]) == ("Tea", {"minutes": 3})


def test_what_it_says_of_itself(policy: LlamaCppPolicy) -> None:
    said = DarwinChatModel(policy=policy, scorer=ScriptedScorer()).describe()
    assert "policy.gguf (llama) by llama.cpp" in said
    assert "by token ids" in said
    assert "1024 tokens" in said
    assert policy.context_length == 1024


def test_a_conversation_that_is_too_long_is_refused(policy: LlamaCppPolicy) -> None:
    with pytest.raises(ContextLengthError, match="1024"):
        generate(policy, Row(Request.of("tea " * 2000), 8, 1))


def test_copies_and_pickles_stand_for_the_same_server(policy: LlamaCppPolicy) -> None:
    [first] = generate(policy, Row(GREEDY, 4, 1))
    for copy in (deepcopy(policy), pickle.loads(pickle.dumps(policy))):  # noqa: S301 - our own
        assert generate(copy, Row(GREEDY, 4, 1))[0].text == first.text
        assert copy._server is policy._server
        assert identity(copy) == identity(policy)
    assert repr(policy) == f"LlamaCppPolicy({str(policy._recipe['path'])!r})"


def test_a_template_of_ones_own(embedded_gguf: Path, policy: LlamaCppPolicy) -> None:
    own = "{% for m in messages %}{{ m.content }}{% endfor %}"
    plain = LlamaCppPolicy(embedded_gguf, slots=8, context=1024, threads=1, chat_template=own)
    assert plain._server is policy._server
    assert plain.template is not None
    assert plain.template.prompt_text(GREEDY) == QUESTION


@pytest.mark.parametrize("setting", ["slots", "threads", "context", "row_memory"])
def test_impossible_settings_are_refused(embedded_gguf: Path, setting: str) -> None:
    with pytest.raises(ConfigError, match=f"{setting}=0"):
        LlamaCppPolicy(embedded_gguf, **{setting: 0})


def test_options_for_loading_reach_it_and_others_are_refused(embedded_gguf: Path) -> None:
    model = DarwinChatModel.from_pretrained(embedded_gguf, by_length, threads=1, policy_options={"slots": 2})
    policy = model.search.policy_for()
    assert isinstance(policy, LlamaCppPolicy)
    assert (policy._server.settings.slots, policy._server.settings.threads) == (2, 1)
    with pytest.raises(ConfigError, match="policy_options has no 'device_map'"):
        DarwinChatModel.from_pretrained(embedded_gguf, by_length, policy_options={"device_map": "auto"})


def test_transformers_reads_the_file_too(embedded_gguf: Path) -> None:
    local = LocalPolicy.from_pretrained(embedded_gguf, threads=1)
    reference = LocalPolicy.from_pretrained(policy_path(), threads=1)
    row = Row(GREEDY, 24, 1)
    assert local.generate([row])[0].text == reference.generate([row])[0].text


def test_without_llama_cpp_transformers_loads_it(
    embedded_gguf: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for module in ("langchain.given_models", "backends.llama_cpp.policy"):
        monkeypatch.setattr(f"darwin_align.{module}.find_spec", lambda name: None)
    model = DarwinChatModel(model=embedded_gguf, reward=by_length, **SMALL)
    assert isinstance(model.search.policy_for(), LocalPolicy)
    assert "llama-cpp" in caplog.text
    with pytest.raises(ModelLoadError, match=r"llama-cpp.*LocalPolicy"):
        LlamaCppPolicy(embedded_gguf)


def test_its_presets(policy: LlamaCppPolicy) -> None:
    for preset in ("best_of_n", "sample", "darwin"):
        config = SearchConfig.preset(preset, max_new_tokens=8)
        config = config.replace(cycles=1, mutations=2) if preset == "darwin" else config
        assert DarwinChatModel(policy=policy, scorer=by_length, config=config).invoke(QUESTION).text


def test_the_command_line_takes_the_file(embedded_gguf: Path, tmp_path: Path) -> None:
    (tmp_path / "scorer.py").write_text(
        "def score(request, responses):\n    return [float(len(one.text)) for one in responses]\n", encoding="utf-8"
    )
    command = ["demo", QUESTION, "--policy", str(embedded_gguf), "--reward", "scorer.py:score", "--threads", "1"]
    done = run("-m", "darwin_align.cli", *command, "--set", "cycles=0", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "kettle" in done.stdout
    refused = run("-m", "darwin_align.cli", *command, "--device", "cpu", cwd=tmp_path)
    assert (refused.returncode, "has no 'device'" in refused.stderr) == (2, True)
