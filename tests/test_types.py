"""What a type checker says of uses of a search: right ones pass, wrong ones are found where they stand."""

import re
from pathlib import Path

import pytest
from mypy import api

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
STRICT = ("--strict", "--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(ROOT / ".mypy_cache"))
START = """
from collections.abc import Sequence
from typing import Any

from langchain_core.language_models import FakeListChatModel
from langchain_core.prompts import ChatPromptTemplate

from darwin_align import DarwinChatModel
from darwin_align.backends.scripted import ScriptedPolicy, ScriptedScorer
from darwin_align.core import Budget, Event, Population, Request, Response, SearchConfig
from darwin_align.operators.decoder import Decoder
from darwin_align.operators.mutators.plain import IdentityMutator
from darwin_align.operators.policy import Capabilities, Continuation, Policy, Row
from darwin_align.operators.selectors import TopKReplacement
from darwin_align.search import DarwinSearch

policy, scorer = ScriptedPolicy(), ScriptedScorer()
search = DarwinSearch(policy=policy, scorer=scorer)


class Pairwise:
    def generate(self, rows: Sequence[Row]) -> list[Continuation]:
        return [Continuation(row.text) for row in rows]

    async def score(self, request: Request, responses: Sequence[Response]) -> list[float]:
        return [0.0 for _ in responses]


class Own(Policy):
    capabilities = Capabilities(ranks_tokens=True)

    async def generate(self, rows: Sequence[Row]) -> list[Continuation]:
        return []


def score(request: Request, responses: list[Response]) -> list[float]:
    return []


def score_texts(texts: list[str]) -> list[float]:
    return []


def reword(request: Request, instruction: str, n: int, seed: int) -> list[str]:
    return []


def select(
    rewards: list[float], finished: list[bool], weights: list[float], seed: int
) -> tuple[list[int], list[float]]:
    return [], []


def watch(event: Event, population: Population) -> None: ...


chain = ChatPromptTemplate.from_template("{response}") | FakeListChatModel(responses=["1"])
"""
RIGHT = """
DarwinSearch(policy=Own(), scorer=Pairwise())
DarwinSearch(policy=Pairwise(), scorer=score, mutator=reword, selector=select)
DarwinSearch(policy=policy, scorer=lambda request, responses: [float(len(one.text)) for one in responses])
DarwinSearch(policy=lambda rows: [Continuation(row.text) for row in rows], scorer=chain, mutator=chain)
DarwinSearch(decoder=Decoder(policy=policy), scorer=scorer, mutator=IdentityMutator(), guard=None)
DarwinSearch(policy=policy, scorer=scorer.with_retry(), selector=TopKReplacement(survivors=1))
DarwinSearch(policy=policy, scorer=scorer, config=SearchConfig.preset("best_of_n"), grounded="where_possible")
DarwinSearch(policy=policy, scorer=scorer, config={"cycles": 1}, sampling={"temperature": 0.2}, name="mine")
search.invoke("Hi", {"tags": ["a"]}, cycles=1, temperature=0.2, max_tokens=9, stop=["."], on_event=watch)
search.invoke("Hi", seed=1, budget=Budget(seconds=1), tools=[{"type": "function"}], replay=search.invoke("Hi").events)
search.invoke([("human", "Hi")], choice="soft", grounded=True, tool_choice="auto", stop="!").text.upper()
DarwinChatModel(policy=policy, scorer=scorer, cycles=1, seed=7, max_tokens=9, temperature=0.2, stop=["."])
DarwinChatModel.from_pretrained("a/policy", reward="a/reward", config=SearchConfig(cycles=2))
DarwinChatModel().invoke("Hi", seed=7, cycles=0).text.upper()
anything: dict[str, Any] = {}
search.invoke("Hi", **anything)
"""
WRONG = """
DarwinSearch(polcy=policy, scorer=scorer)
DarwinSearch(policy=policy, scorer=scorer, survivors=2)
DarwinSearch(policy=5, scorer=scorer)
DarwinSearch(policy="gpt2", scorer=scorer)
DarwinSearch(policy=ScriptedPolicy, scorer=scorer)
DarwinSearch(policy=scorer, scorer=scorer)
DarwinSearch(policy=policy, scorer=6)
DarwinSearch(policy=policy, scorer=score_texts)
DarwinSearch(policy=policy, scorer=policy)
DarwinSearch(policy=policy, scorer=scorer, mutator="identity")
DarwinSearch(policy=policy, scorer=scorer, mutator=select)
DarwinSearch(policy=policy, scorer=scorer, selector="top_k")
DarwinSearch(policy=policy, scorer=scorer, selector=reword)
DarwinSearch(policy=policy, scorer=scorer, decoder=7)
DarwinSearch(policy=policy, scorer=scorer, config="darwin")
DarwinSearch(policy, scorer)
DarwinChatModel(polcy=3)
DarwinChatModel(policy=3)
DarwinChatModel(scorer=score_texts)
DarwinChatModel(seed="7")
DarwinChatModel.from_pretrained("a/policy", rewrd="a/reward")
Capabilities(rank_tokens=True)
search.invoke("Hi", cyles=1)
search.invoke("Hi", cycles="1")
search.invoke("Hi", mutator="policies")
search.invoke("Hi", on_event=5)
search.run("Hi", temprature=0.2)
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[int, str]:
    """Errors by line of the snippet, of one run of mypy. It is quick where `make lint` ran before."""
    snippet = tmp_path_factory.mktemp("types") / "snippet.py"
    snippet.write_text(START + RIGHT + WRONG)
    said, failure, _ = api.run([*STRICT, "--no-pretty", "--hide-error-context", str(snippet)])
    assert not failure, failure
    lines = [re.match(r"(.*):(\d+): error: (.*)", line) for line in said.splitlines()]
    errors = [line for line in lines if line is not None]
    assert all(Path(error[1]).name == snippet.name for error in errors), said
    return {int(error[2]): error[3] for error in errors}


def lines_of(part: str, before: str) -> dict[int, str]:
    first = before.count("\n") + 1
    return {first + i: line for i, line in enumerate(part.splitlines()) if line}


def test_right_uses_pass(found: dict[int, str]) -> None:
    wrong = lines_of(WRONG, START + RIGHT)
    assert {line: error for line, error in found.items() if line not in wrong} == {}


def test_every_wrong_use_is_found_where_it_stands(found: dict[int, str]) -> None:
    assert {use for line, use in lines_of(WRONG, START + RIGHT).items() if line not in found} == set()


def test_what_is_said_names_the_argument(found: dict[int, str]) -> None:
    said = {use: found[line] for line, use in lines_of(WRONG, START + RIGHT).items()}
    for use, name in (
        ("DarwinSearch(polcy=policy, scorer=scorer)", "polcy"),
        ("DarwinSearch(policy=policy, scorer=6)", "scorer"),
        ('search.invoke("Hi", cyles=1)', "cyles"),
    ):
        assert f'"{name}"' in said[use]


def test_the_readme_passes(tmp_path: Path) -> None:
    snippets = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    files = [tmp_path / f"snippet_{i}.py" for i in range(len(snippets))]
    for file, snippet in zip(files, snippets, strict=True):
        file.write_text(snippet, encoding="utf-8")
    assert len(files) >= 3
    said, failure, code = api.run([*STRICT, *map(str, files)])
    assert (code, failure) == (0, ""), said
