"""Same seed, same answer: over the wire, streamed or not, as in this process."""

import logging

import pytest

from darwin_align import DarwinChatModel
from darwin_align.backends.scripted import ScriptedPolicy, ScriptedScorer
from darwin_align.core import PRESETS
from darwin_align.integrations.openai_server.served import search_models
from darwin_align.integrations.openai_server.settings import ServerSettings

from .conftest import TEA

QUICK = ("best_of_n", "darwin")


@pytest.mark.parametrize(
    "preset", [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in sorted(PRESETS)]
)
def test_a_preset_answers_as_the_chat_model_here(client, pair, preset):
    here = pair.invoke(TEA, seed=11, max_tokens=40, **PRESETS[preset])
    arguments = {
        "model": f"pocket:{preset}",
        "messages": [{"role": "user", "content": TEA}],
        "seed": 11,
        "max_tokens": 40,
    }
    there = client.chat.completions.create(**arguments)
    assert there.choices[0].message.content == here.content
    assert there.darwin["reward"] == pytest.approx(here.response_metadata["darwin"]["reward"], abs=1e-4)
    assert there.darwin["instruction"] == here.response_metadata["darwin"]["instruction"]
    assert there.darwin["first_response"] == here.response_metadata["darwin"]["first_response"]
    streamed = client.chat.completions.create(**arguments, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed) == here.content


def test_without_a_seed_one_is_drawn_and_reported(client):
    arguments = {"model": "pocket:sample", "messages": [{"role": "user", "content": TEA}]}
    drawn = client.chat.completions.create(**arguments)
    again = client.chat.completions.create(**arguments, seed=drawn.darwin["seed"])
    assert again.choices[0].message.content == drawn.choices[0].message.content


@pytest.mark.parametrize(("named", "heard"), [({}, False), ({"presets": ("learned_clauses", "sample")}, True)])
def test_a_preset_without_clauses_is_reported_to_who_named_it(caplog, named, heard):
    model = DarwinChatModel(policy=ScriptedPolicy(), scorer=ScriptedScorer())
    with caplog.at_level(logging.WARNING):
        served = search_models({"tea": model}, ServerSettings(**named))
    assert "tea:learned_clauses" not in served
    assert "tea:sample" in served
    assert ("tea:learned_clauses is not served: mutator='clauses' adds clauses" in caplog.text) == heard
