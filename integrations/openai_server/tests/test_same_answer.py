"""Same seed, same answer: over the wire, streamed or not, as in this process."""

import pytest

from darwin_align.core import PRESETS

from .conftest import TEA


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_a_preset_answers_as_the_chat_model_here(client, pair, preset):
    here = pair.invoke(TEA, seed=11, max_tokens=40, **PRESETS[preset])
    asked = {"model": f"pocket:{preset}", "messages": [{"role": "user", "content": TEA}], "seed": 11, "max_tokens": 40}
    there = client.chat.completions.create(**asked)
    assert there.choices[0].message.content == here.content
    assert there.darwin["reward"] == pytest.approx(here.response_metadata["darwin"]["reward"], abs=1e-4)
    assert there.darwin["instruction"] == here.response_metadata["darwin"]["instruction"]
    assert there.darwin["first_response"] == here.response_metadata["darwin"]["first_response"]
    streamed = client.chat.completions.create(**asked, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed) == here.content


def test_without_a_seed_one_is_drawn_and_told(client):
    asked = {"model": "pocket:sample", "messages": [{"role": "user", "content": TEA}]}
    drawn = client.chat.completions.create(**asked)
    again = client.chat.completions.create(**asked, seed=drawn.darwin["seed"])
    assert again.choices[0].message.content == drawn.choices[0].message.content
