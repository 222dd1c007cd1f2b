"""A judge in a scorer's place: what it is shown, how it is read, and that its taste decides."""

import re
from typing import Any

import pytest
from langchain_core.exceptions import OutputParserException
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage

from darwin_align.integrations.langchain import judge as example
from darwin_align.integrations.langchain.judge import QUESTION, RuleJudge, ScoreParser


def score(text: str, judge: RuleJudge) -> float:
    return example.judge(judge).invoke({"instruction": QUESTION, "response": text})


def steps(text: str) -> int:
    return len(re.findall(r"^\d\.", text, re.MULTILINE))


def test_a_judge_ranks_answers() -> None:
    careful = "1. Boil it.\n2. Pour it.\nTip: Wait.\nCareful: It is hot."
    assert [score(text, RuleJudge()) for text in (careful, "1. Boil it.", "Whatever.", "")] == [6.0, 1.0, 0.0, 0.0]


def test_what_is_rated_is_the_reply_alone() -> None:
    assert example.judge(RuleJudge()).invoke({"instruction": "1. Tip:\nCareful:", "response": "No."}) == 0.0


@pytest.mark.parametrize(("worth", "wanted"), [(1.0, max), pytest.param(-1.0, min, marks=pytest.mark.slow)])
async def test_the_judges_ranking_decides_the_winner(worth: float, wanted: Any) -> None:
    """The same beams under two judges: one is fond of numbered steps, the other of their absence."""
    judge = RuleJudge(likes=((r"^\d\.", worth),))
    search = example.build(judge, mutations=8).search
    result = search.invoke(QUESTION, selector="none")
    counts = [steps(beam.text) for beam in result.ranking]
    assert len(set(counts)) > 1
    assert counts[0] == wanted(counts)
    assert result.text == result.ranking[0].text
    assert [beam.reward for beam in result.ranking] == [score(beam.text, judge) for beam in result.ranking]
    assert (await search.ainvoke(QUESTION, selector="none")).text == result.text


def test_the_search_is_worth_it_to_the_judge() -> None:
    figures = example.build().invoke(QUESTION).response_metadata["darwin"]
    assert figures["reward"] > figures["first_reward"]


@pytest.mark.parametrize(("text", "number"), [("Score: 7", 7), ("score:8.5\n", 8.5), (" 3/10.", 3), ("-1", -1)])
def test_scores_are_read(text: str, number: float) -> None:
    assert ScoreParser().invoke(AIMessage(text)) == number


@pytest.mark.parametrize("text", ["", "good", "7 of the 8 steps are right", "Score: seven"])
def test_what_is_no_score_is_refused(text: str) -> None:
    with pytest.raises(OutputParserException, match="which is no score"):
        ScoreParser().invoke(AIMessage(text))
    judge = GenericFakeChatModel(messages=iter(lambda: text, None))
    with pytest.raises(OutputParserException, match="which is no score"):
        example.build(judge).invoke(QUESTION)


def test_a_model_behind_a_url_is_called(llama: Any) -> None:
    """The one that is served here is no judge, and is found out at once."""
    model = example.remote(llama.url)
    assert model.invoke(QUESTION).text
    assert model.invoke(QUESTION).text == model.invoke(QUESTION).text
    with pytest.raises(OutputParserException, match="which is no score"):
        example.main(["--url", llama.url])


def test_main_shows_both_scores(capsys: pytest.CaptureFixture[str]) -> None:
    example.main([])
    first, best = re.findall(r"^score (\S+) of", capsys.readouterr().out, re.MULTILINE)
    assert float(best) > float(first)
