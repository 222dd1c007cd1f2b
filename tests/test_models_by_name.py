"""Models by name in the constructor, with LangChain's own parameters for a server, and what became of them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.language_models import FakeListChatModel
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from benchmarks.servers.launch import Server, llama_server
from darwin_align import (
    DarwinChatModel,
    EndpointPolicy,
    EndpointScorer,
    JudgeScorer,
    LocalPolicy,
    LocalScorer,
    Request,
    Response,
    SearchConfig,
)
from darwin_align.backends.chat_model import ChatModelPolicy
from darwin_align.core.errors import ConfigError, ModelLoadError
from darwin_align.core.log_once import log_once
from darwin_align.pocket import policy_path, reward_path

SMALL: dict[str, Any] = {"cycles": 1, "mutations": 2, "replacement_period": 8, "max_tokens": 16, "seed": 3}
QUESTION = "How do I brew green tea?"


def by_length(request: Request, responses: list[Response]) -> list[float]:
    return [float(len(response.text)) for response in responses]


@pytest.fixture(scope="module")
def locked(embedded_gguf: Path) -> Iterator[Server]:
    with llama_server(embedded_gguf, slots=2, api_key="open-sesame") as server:
        yield server


def policy_of(model: DarwinChatModel) -> Any:
    return model.search.policy_for()


@pytest.mark.parametrize("folder", [policy_path(), str(policy_path())])
def test_folders(folder: Path | str) -> None:
    model = DarwinChatModel(model=folder, reward=reward_path(), **SMALL)
    assert isinstance(policy_of(model), LocalPolicy)
    assert isinstance(model.search.scorer, LocalScorer)
    assert model.model_name == str(folder)
    same = DarwinChatModel.from_pretrained(folder, reward_path(), **SMALL)
    assert model.invoke(QUESTION).text == same.invoke(QUESTION).text


def test_objects_stay_what_they_are() -> None:
    policy = LocalPolicy.from_pretrained(policy_path(), threads=1)
    model = DarwinChatModel(model=policy, reward=by_length, **SMALL)
    assert policy_of(model) is policy
    assert model.invoke(QUESTION).response_metadata["darwin"]["reward"] > 0


def test_a_server_with_a_key(locked: Server) -> None:
    served: dict[str, Any] = {"base_url": f"{locked.url}/v1", "timeout": 30, "max_retries": 1}
    model = DarwinChatModel(
        **served,
        api_key=SecretStr("open-sesame"),
        reward=by_length,
        **SMALL,
    )
    policy = policy_of(model)
    assert isinstance(policy, EndpointPolicy)
    limits = policy.endpoint.limits
    assert (limits.attempts, limits.attempt_timeout, limits.read_timeout, limits.deadline) == (2, 30, 30, 600)
    said = model.describe()
    assert f"{locked.url} (llama.cpp) continues" in " ".join(said.split())
    assert "open-sesame" not in said + repr(model)
    wrong = DarwinChatModel(**served, api_key="guessed", reward=by_length)
    assert "cannot be used" in wrong.describe()


def test_a_reward_by_its_address() -> None:
    model = DarwinChatModel(reward="http://127.0.0.1:9/v1")
    assert isinstance(model.search.scorer, EndpointScorer)
    assert isinstance(policy_of(model), LocalPolicy)


def test_the_key_goes_to_no_other_server() -> None:
    model = DarwinChatModel(base_url="http://127.0.0.1:9", api_key="secret-key", reward="http://127.0.0.1:10")
    scorer = model.search.scorer
    assert isinstance(scorer, EndpointScorer)
    assert scorer.api_key is None


def test_what_means_nothing_here_is_noted_once(caplog: pytest.LogCaptureFixture) -> None:
    log_once.cache_clear()
    for _ in range(2):
        DarwinChatModel(reward=by_length, api_key="k-e-y", timeout=3, max_retries=2)
    assert caplog.messages == ["not used: api_key, timeout, max_retries, for the embedded pair has no base_url"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"model": "x", "policy": "y", "reward": by_length}, "model and policy are the same part"),
        ({"reward": by_length, "scorer": by_length}, "reward and scorer are the same part"),
        ({"model": "http://localhost:8000", "reward": by_length}, "is an address: give base_url="),
        ({"base_url": "http://localhost:8000", "policy": len, "reward": by_length}, "base_url would be ignored"),
        ({"base_url": "http://localhost:8000", "model": Path("x"), "reward": by_length}, "the model's name on that"),
        ({"model": by_length}, "scorer"),
    ],
)
def test_contradictions(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DarwinChatModel(**given)


def test_names_that_are_nothing() -> None:
    with pytest.raises(ModelLoadError, match="no model"):
        DarwinChatModel(model="nobody/has-this", reward=by_length)
    with pytest.raises(ModelLoadError, match="there is no file"):
        DarwinChatModel(model="nowhere.gguf", reward=by_length)
    with pytest.raises(ModelLoadError, match="GGUF file, and these are read as policies only"):
        DarwinChatModel(reward="nowhere.gguf")


def test_a_chat_model_as_the_reward_is_a_judge() -> None:
    model = DarwinChatModel(reward=FakeListChatModel(responses=["7"]), **SMALL)
    assert isinstance(model.search.scorer, JudgeScorer)


def test_chat_models_by_their_providers_name() -> None:
    given: dict[str, Any] = {"api_key": "k-e-y", "timeout": 7, "max_retries": 1}
    model = DarwinChatModel(model="openai:gpt-5.5", reward=by_length, config=SearchConfig.preset("best_of_n"), **given)
    policy = policy_of(model)
    assert isinstance(policy, ChatModelPolicy)
    assert isinstance(policy.model, ChatOpenAI)
    assert (policy.model.model_name, policy.model.request_timeout, policy.model.max_retries) == ("gpt-5.5", 7, 1)
    assert model.model_name == "openai:gpt-5.5"
    assert "k-e-y" not in repr(model)


def test_a_judge_by_its_providers_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "k-e-y")
    scorer = DarwinChatModel(reward="openai:gpt-5.5", **SMALL).search.scorer
    assert isinstance(scorer, JudgeScorer)
    assert isinstance(scorer.model, ChatOpenAI)


def test_names_of_no_provider() -> None:
    with pytest.raises(ConfigError, match="no chat model 'nobody:x' can be made"):
        DarwinChatModel(model="nobody:x", reward=by_length)


def test_settings_that_a_chat_model_cannot_follow_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"cannot continue a part of one.*best_of_n"):
        DarwinChatModel(model="openai:gpt-5.5", api_key="k-e-y", reward=by_length)


def test_options_that_nobody_takes_are_refused(embedded_gguf: Path) -> None:
    with pytest.raises(ConfigError, match="device would be ignored"):
        DarwinChatModel.from_pretrained(embedded_gguf, by_length, device="cpu")
    DarwinChatModel.from_pretrained(embedded_gguf, reward_path(), device="cpu")
