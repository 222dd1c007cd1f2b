"""A judge as the reward: ``prompt | model | parser``, in a scorer's place.

Run ``python -m darwin_align.integrations.langchain.judge [--url http://host:port --model name]``. The embedded
policy is too small to judge anything. So without a URL a rule stands in for the judge: a chat model like any other to
the chain, but no language model. What it shows is the wiring, and that the judge's taste decides who wins.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import Any

from langchain_core.exceptions import OutputParserException
from langchain_core.language_models import BaseChatModel, SimpleChatModel
from langchain_core.messages import BaseMessage
from langchain_core.output_parsers import BaseOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable

from darwin_align import DarwinChatModel, Request, Response
from darwin_align.backends.endpoint import EndpointPolicy

__all__ = ["PROMPT", "QUESTION", "RuleJudge", "ScoreParser", "build", "judge", "main", "remote"]

QUESTION = "How do I brew green tea?"
PROMPT = ChatPromptTemplate(
    [
        ("system", "You rate replies from 0 to 10. Answer with one line and nothing else: Score: <number>"),
        ("human", "<request>\n{instruction}\n</request>\n<reply>\n{response}\n</reply>"),
    ]
)


class ScoreParser(BaseOutputParser[float]):
    """Reads ``Score: 7``, or a number alone. Anything else is an error: a guess would steer the search."""

    def parse(self, text: str) -> float:
        """Read a score."""
        if found := re.fullmatch(r"(?:score:\s*)?(-?\d+(?:\.\d+)?)(?:\s*/\s*10)?\.?", text.strip(), re.IGNORECASE):
            return float(found[1])
        raise OutputParserException(f"the judge said {text!r:.80}, which is no score: it must answer 'Score: 7'")


class RuleJudge(SimpleChatModel):
    """Stands in for a judge offline: it counts marks of quality in the reply that it finds in the prompt."""

    likes: tuple[tuple[str, float], ...] = ((r"^\d\.", 1.0), (r"\bCareful:", 3.0), (r"\bTip:", 1.0))
    """Patterns, and what each place where one is found is worth."""

    @property
    def _llm_type(self) -> str:
        return "rule-judge"

    def _call(self, messages: list[BaseMessage], *_: Any, **__: Any) -> str:
        reply = messages[-1].text.partition("<reply>\n")[2].removesuffix("\n</reply>")
        return f"Score: {sum(worth * len(re.findall(mark, reply, re.MULTILINE)) for mark, worth in self.likes):g}"


def judge(model: BaseChatModel) -> Runnable[Any, float]:
    """Return the chain from an answer to its score. A search gives it ``instruction``, ``response`` and more."""
    return PROMPT | model | ScoreParser()


def build(model: BaseChatModel | None = None, **settings: Any) -> DarwinChatModel:
    """Return the embedded policy with a judge as its reward.

    Args:
        model: any chat model as the judge; the rule, if left out.
        settings: of :class:`DarwinChatModel`.
    """
    return DarwinChatModel(**{"scorer": judge(model or RuleJudge()), "cycles": 1, "seed": 7, **settings})


def remote(url: str, name: str | None = None) -> DarwinChatModel:
    """Return the chat model behind a URL, for plain calls: one greedy sample, no search.

    Args:
        url: of an OpenAI-compatible server, or one of those that the library supports.
        name: the model's name there; the only one, if left out.
    """
    policy = EndpointPolicy(url, model=name)
    return DarwinChatModel(policy=policy, scorer=_indifferent, cycles=0, temperature=0.0, max_tokens=16)


def _indifferent(request: Request, responses: Sequence[Response]) -> list[float]:  # noqa: ARG001
    return [0.0] * len(responses)


def main(argv: Sequence[str] | None = None) -> None:
    """Let the judge decide, and show the first response beside the winner."""
    parser = argparse.ArgumentParser(description="A judge as the reward.", allow_abbrev=False)
    parser.add_argument("--url", help="a server with a judge (default: a rule stands in)")
    parser.add_argument("--model", help="the judge's name there")
    given = parser.parse_args(argv)
    answer = build(remote(given.url, given.model) if given.url else None).invoke(QUESTION)
    figures = answer.response_metadata["darwin"]
    print(f"score {figures['first_reward']:g} of a plain sample:\n{figures['first_response']}\n")
    print(f"score {figures['reward']:g} of the search's answer:\n{answer.text}")


if __name__ == "__main__":
    main()
