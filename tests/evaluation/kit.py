"""Prompts of the benchmarks' formats, a search that needs no model, and a judge of exact behaviour on a real server."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import JSONResponse, Response

from darwin_align import SearchConfig
from darwin_align.backends.scripted import ScriptedPolicy, ScriptedScorer
from darwin_align.core.seeds import uniform
from darwin_align.evaluation.subject import Subject
from darwin_align.search import DarwinSearch
from tests.backends.endpoint.fixtures.wire import ReceivedRequest, Wire, wire

OFFICIAL = Path(__file__).parents[3] / "shared" / "data"
"""The benchmarks' own prompts, beside the checkout where there are any."""

CATEGORIES = ("writing", "math", "coding", "stem")


def official(name: str) -> Path:
    path = OFFICIAL / name
    if not path.is_file():
        pytest.skip(f"NOT TESTED ON THE OFFICIAL PROMPTS: there is no {path}")
    return path


def write_instructions(path: Path, n: int = 6) -> Path:
    """As AlpacaEval has them."""
    data = [
        {"dataset": "helpful_base" if i % 2 else "koala", "instruction": f"Tell me of topic {i}."} for i in range(n)
    ]
    path.write_text(json.dumps(data, indent=2), encoding="utf-8")
    return path


def write_pool(path: Path, n: int = 30, *, answers: int = 5, rewards: bool = False) -> Path:
    """Recorded answers of our own making, whose verdicts go with their length a little."""
    lines = []
    for p in range(n):
        firsts = ["Topic" if uniform(6, "topic", p, i) < 0.5 else "It" for i in range(answers)]
        texts = [f"{word} " + "so " * (2 + int(30 * uniform(6, "length", p, i))) for i, word in enumerate(firsts)]
        verdicts = [round(0.5 * uniform(6, "verdict", p, i) + len(text) / 250, 4) for i, text in enumerate(texts)]
        row: dict[str, Any] = {"prompt": f"Tell me of topic {p}.", "answers": texts, "verdicts": verdicts}
        if rewards:
            row["rewards"] = [verdict + uniform(6, "noise", p, i) for i, verdict in enumerate(verdicts)]
        lines.append(json.dumps(row) + "\n")
    path.write_text("".join(lines), encoding="utf-8")
    return path


def write_questions(path: Path, n: int = 4) -> Path:
    """As MT-Bench has them."""
    data = [
        {"question_id": 81 + i, "category": CATEGORIES[i % 4], "turns": [f"Begin a text on {i}.", "Now make it short."]}
        for i in range(n)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in data), encoding="utf-8")
    return path


def write_references(path: Path, n: int = 4) -> Path:
    """As FastChat has its answers."""
    rows = [
        {"question_id": 81 + i, "choices": [{"index": 0, "turns": [f"right {i} one", f"right {i} two"]}]}
        for i in range(n)
        if CATEGORIES[i % 4] in ("math", "coding")
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def subject(policy: Any = None, *, seed: int = 0, name: str = "toy", **settings: Any) -> Subject:
    config = SearchConfig(**{"cycles": 1, "mutator": "identity", "on_failure": "raise", **settings})
    search = DarwinSearch(policy=policy or ScriptedPolicy(), scorer=ScriptedScorer(), config=config)
    return Subject(search, name, seed, {"policy": "scripted", "reward": "scripted"})


class Dies(ScriptedPolicy):
    """Fails after some answers, as a killed process would stop."""

    def __init__(self, after: int, error: BaseException) -> None:
        super().__init__()
        self.after, self.error = after, error

    def generate(self, rows: Any) -> Any:
        if self.calls >= self.after:
            raise self.error
        return super().generate(rows)


def longer_share(first: str, second: str) -> float:
    """The chance by which the rule-made judge prefers the first of two answers: it likes length."""
    return 1 / (1 + math.exp((len(second) - len(first)) / 40))


def stars(answer: str) -> int:
    """The grade that the rule-made judge gives."""
    return 1 + len(answer) % 10


async def verdict(received: ReceivedRequest) -> Response:
    """Judge by rule: which of two answers is longer, or a grade by an answer's length."""
    content = received.body["messages"][-1]["content"]
    if "[[" in content:
        text = f"Fine. Rating: [[{stars(_tagged(content, r'answer(?:-2)?')[-1])}]]"
        return JSONResponse(_reply(text))
    pair = _tagged(content, "answer") or re.findall(r'"output": """(.*?)"""', content, re.DOTALL)
    share = longer_share(pair[0], pair[1])
    letter = "m" if share > 0.5 else "M"
    top = [{"token": "m", "logprob": math.log(share)}, {"token": "M", "logprob": math.log(1 - share)}]
    logprobs = {"content": [{"token": letter, "logprob": -0.1, "bytes": [1], "top_logprobs": top}]}
    return JSONResponse(_reply(letter, logprobs if received.body.get("logprobs") else None))


def _tagged(content: str, tag: str) -> list[str]:
    tagged = re.finditer(rf"<({tag}-[0-9a-f]{{8}})>\n(.*?)\n</\1>", content, re.DOTALL)
    return [found[2] for found in tagged]


def _reply(text: str, logprobs: Any = None) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10}
    shown = {"choices": [{**choice, "logprobs": logprobs}], "usage": usage}
    return {"id": "x", "object": "chat.completion", "created": 1, "model": "judge", **shown}


@contextmanager
def judging() -> Iterator[Wire]:
    with wire(verdict) as served:
        yield served


# -- annotations of which the alpaca_eval package's own figures are known


def difficulty(i: int) -> float:
    return round(2 * uniform(1, "difficulty", i) - 1, 6)


def annotations(n: int = 60) -> list[dict[str, Any]]:
    """Longer answers win more often, and hard instructions are lost."""
    made = []
    for i in range(n):
        theirs, ours = (20 + int(1200 * uniform(2, who, i)) for who in ("theirs", "ours"))
        leaning = 0.3 + 0.8 * math.tanh((ours - theirs) / 400) - 0.5 * difficulty(i) + uniform(3, "noise", i) - 0.5
        preference = round(1 + 1 / (1 + math.exp(-2 * leaning)), 6)
        made.append(
            {
                "instruction": f"Question {i}",
                "output_1": "x" * theirs,
                "generator_1": "reference",
                "output_2": "y" * ours,
                "generator_2": "toy",
                "annotator": "judge",
                "preference": 1.5 if i % 20 == 7 else preference,
                "index": i,
            }
        )
    return made


def write_gamed(path: Path, n: int = 60) -> Path:
    """Of the form of AlpacaEval's df_gamed.csv: two gamed baselines."""
    lines = ["preference,index,std_delta_len,instruction_difficulty,not_gamed_baseline,model"]
    for model, sign in (("concise", 1), ("verbose", -1)):
        for i in range(n):
            length = sign * (0.5 + uniform(4, model, i))
            lines.append(f"{uniform(5, model, i):.6f},{i},{length:.6f},{difficulty(i)},False,{model}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_difficulty(path: Path, n: int = 60) -> Path:
    """Of the form of AlpacaEval's instruction_difficulty.csv."""
    path.write_text("index,instruction_difficulty\n" + "".join(f"{i},{difficulty(i)}\n" for i in range(n)))
    return path


RAW_OF_THE_PACKAGE = {
    "win_rate": 57.55900833333333,
    "standard_error": 3.13802948006617,
    "n_wins": 36,
    "n_wins_base": 21,
    "n_draws": 3,
    "n_total": 60,
    "discrete_win_rate": 62.5,
}
CONTROLLED_BY_THE_PACKAGE = {
    "length_controlled_v1": (61.31147301649187, 1.0649725940272776),
    "length_controlled_noreg": (62.837976001780746, 1.3512538520917579),
    "length_controlled_minimal": (63.00312442200434, 0.0),
}
"""Figures of alpaca_eval 0.6.6 on :func:`annotations`; ``test_packages.py`` asks it again."""


class Whole(HTMLParser):
    """Finds tags that are left open, and anything that a page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [f"{tag} {name}={value}" for name, value in attrs if name in ("src", "href", "xlink:href")]
        if tag not in ("meta", "br", "hr"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
