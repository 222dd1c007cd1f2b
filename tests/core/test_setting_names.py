"""Names that people know from elsewhere: the error says what they are called here, or where they belong."""

from typing import Any

import pytest

from darwin_align import DarwinChatModel, DarwinSearch, Sampling, SearchConfig
from darwin_align.backends.scripted import ScriptedPolicy, ScriptedScorer
from darwin_align.core import setting_names
from darwin_align.core.errors import ConfigError
from darwin_align.core.types import Request
from darwin_align.langchain.given_models import CONNECTION, MODELS
from darwin_align.operators import TopKReplacement

HERE = {
    "n": r"it is 'mutations' here \(n in the paper; the number of answers is given to a call: generate\(…, n=…\)\)$",
    "nb": r"it is 'beams_per_mutation' here \(nb in the paper\)$",
    "k": r"it is 'survivors' here \(k in the paper\)$",
    "m": r"it is 'replacement_period' here \(m in the paper\)$",
    "N": r"it is 'cycles' here \(N in the paper\)$",
    "p": r"it is 'champions' here \(p in the paper\)$",
    "l": r"it is 'lookahead' here \(l in the paper\)$",
    "num_beams": r"it is 'mutations' here \(with beams_per_mutation for each\)$",
    "max_length": r"it is 'max_new_tokens' here$",
    "best_of": r"best of n is a preset: SearchConfig\.preset\('best_of_n', mutations=n - 1\)$",
    "max_seconds": r"it is 'budget' here \(budget=Budget\(seconds=…\)\)$",
    "timeout": r"budget=Budget\(seconds=…\) limits a search; EndpointPolicy\(…\) and EndpointScorer\(…\) limit",
    "api_key": r"it belongs to what asks a server, EndpointPolicy\(…\) and EndpointScorer\(…\)$",
    "device": r"it belongs to what loads a model, e\.g\. DarwinChatModel\.from_pretrained\(policy, reward, …\)$",
}


def search_of(**parts: Any) -> DarwinSearch:
    return DarwinSearch(policy=ScriptedPolicy(), scorer=ScriptedScorer(), **parts)


def called(**settings: Any) -> Any:
    return search_of().invoke("Tea?", **settings)


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("given_to", [SearchConfig, DarwinChatModel, called])
def test_settings_by_other_names(given_to: Any, name: str) -> None:
    if given_to is DarwinChatModel and name in CONNECTION:
        return  # it takes these
    with pytest.raises(
        ConfigError, match=rf"^(unknown setting|DarwinChatModel has no argument) '{name}'.*: {HERE[name]}"
    ):
        given_to(**{name: 5})


@pytest.mark.parametrize("name", ["reward", "reward_model", "judge", "llm", "model"])
def test_parts_by_other_names(name: str) -> None:
    meant = "policy" if name in ("llm", "model") else "scorer"
    for given_to in (search_of,) if name in MODELS else (DarwinChatModel, search_of):
        with pytest.raises(ConfigError, match=rf"it is '{meant}' here$"):
            given_to(**{name: 5})
    for given_to in (SearchConfig, called):
        with pytest.raises(
            ConfigError, match=rf"it is '{meant}' here, and is a part of a search: DarwinSearch\({meant}=…\)"
        ):
            given_to(**{name: 5})


@pytest.mark.parametrize(
    ("given_to", "name", "message"),
    [
        (SearchConfig, "max_tokens", r"it is 'max_new_tokens' here$"),
        (SearchConfig, "temperature", r"it belongs to Sampling: sampling=Sampling\(temperature=…\), or give it to"),
        (SearchConfig, "top_k", r"it belongs to Sampling"),
        (SearchConfig, "stop", r"it is given to a call: invoke\(…, stop=…\)$"),
        (DarwinChatModel, "tools", r"it is given to a call: bind_tools\(…\) or invoke\(…, tools=…\)$"),
        (search_of, "cycles", r"it belongs to SearchConfig: config=SearchConfig\(cycles=…\), or give it to"),
        (search_of, "n", r"it is 'mutations' here .*, and belongs to SearchConfig: config=SearchConfig\(mutations=…\)"),
        (search_of, "temperature", r"it belongs to Sampling"),
        (Sampling, "seed", r"it belongs to SearchConfig"),
        (TopKReplacement, "k", r"^unknown setting 'k' for TopKReplacement: it is 'survivors' here"),
    ],
)
def test_settings_of_something_else(given_to: Any, name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        given_to(**{name: 5})


def test_the_table_names_settings_that_there_are() -> None:
    known = {*SearchConfig.model_fields, *Sampling.model_fields, *DarwinSearch.model_fields, *Request.model_fields}
    assert set(setting_names._MEANT.values()) <= known
    assert not setting_names._MEANT.keys() & (known - {"model"})
    assert setting_names._REMARKS.keys() <= setting_names._MEANT.keys()
    assert DarwinSearch.model_fields.keys() >= setting_names._PARTS
