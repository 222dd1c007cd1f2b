"""The real small pair, where the wheel of SmolLM2-135M-Instruct is installed."""

from pathlib import Path

import pytest

from darwin_align import DarwinChatModel, Request, Response
from darwin_align.cli import main
from darwin_align.small import ADAPTER, INSTALL, is_installed, small_scorer

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not is_installed(), reason=INSTALL)]
QUESTIONS = ["How do I brew green tea?", "Why is the sky blue?"]
ANSWERS = [
    "Heat the water until it steams but does not boil, pour it over the leaves, and take them out after two minutes.",
    "Sunlight is scattered by the molecules of the air, and blue light far more than red, so it comes from all sides.",
]
GARBLED = "Water the boil leaves of it not over steams until pour until until the the take minutes sky take."


@pytest.fixture(scope="module")
def model() -> DarwinChatModel:
    return DarwinChatModel.small(max_tokens=48, replacement_period=16, mutations=2, seed=3)


def test_two_questions(model: DarwinChatModel) -> None:
    for question, answer in zip(QUESTIONS, model.batch(QUESTIONS), strict=True):
        about = answer.response_metadata["darwin"]
        assert about["reward"] >= about["first_reward"], question
        assert len(answer.content.split()) > 10
    assert "llama.cpp" in model.describe()


def test_the_reward_knows_which_answer_belongs_to_which_question() -> None:
    scorer = small_scorer()
    for place, question in enumerate(QUESTIONS):
        rewards = scorer.score(Request.of(question), [Response(text=text) for text in (*ANSWERS, GARBLED)]).answer
        assert rewards[place] == max(rewards)


def test_one_question_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    line = ["chat", "--pair", "small", "--set", "max_tokens=32", "--set", "mutations=2", QUESTIONS[0]]
    assert main(line) == 0
    assert "[reward " in capsys.readouterr().out


def test_the_adapters_are_small() -> None:
    gold = Path(__file__).parents[2] / "training" / "small" / "gold.safetensors"
    assert ADAPTER.stat().st_size + gold.stat().st_size < 8 * 2**20
