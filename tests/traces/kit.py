"""Searches whose lineage is known in advance, and a page as a parser sees it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree.ElementTree import Element

import html5lib

from darwin_align import DarwinSearch, Request, SearchConfig, SearchResult
from darwin_align.backends.scripted import ScriptedScorer
from darwin_align.core.seeds import below
from darwin_align.operators import Continuation, Row

WORDS = (
    "water",
    "tea",
    "leaves",
    "warm",
    "slowly",
    "then",
    "pour",
    "kettle",
    "wait",
    "minutes",
    "good",
    "cup",
    "bitter",
)


@dataclass
class Initials:
    """Every beam writes the last letter of its instruction, and ends at a length, its own or everybody's."""

    length: int
    ends: Mapping[str, int]

    def generate(self, rows: Sequence[Row]) -> list[Continuation]:
        return [self._continue(row) for row in rows]

    def _continue(self, row: Row) -> Continuation:
        letter = row.request.instruction[-1]
        length = self.ends.get(letter, self.length)
        new = min(row.max_tokens, length - len(row.text))
        text = row.text + letter * new
        ended = "stop" if len(text) == length else None
        return Continuation(text=text, new_tokens=new, finish_reason=ended, prefilled_tokens=len(row.text))


def letters(request: Request, instruction: str, n: int, seed: int) -> list[str]:
    """Beams 0, 1, 2 … are asked for a, b, c …"""
    return [f"{request.instruction} {chr(97 + i)}" for i in range(n)]


def known(
    rewards: Mapping[str, float], length: int = 6, ends: Mapping[str, int] | None = None, **settings: Any
) -> SearchResult:
    """A search in which everything is known but the draw among several donors: texts that are not named have 0."""
    search = DarwinSearch(
        policy=Initials(length, ends or {}),
        scorer=ScriptedScorer(reward=lambda text: rewards.get(text, 0.0)),
        mutator=letters,
        guard=None,
        config=SearchConfig(**{"mutations": 3, "cycles": 1, "replacement_period": 2, "survivors": 1, **settings}),
    )
    return search.invoke("Write", seed=1)


@dataclass
class Speaker:
    """Words by the row's seed and place; answers end around a length."""

    words: Sequence[str] = WORDS
    length: int = 2000
    spread: int = 300

    def generate(self, rows: Sequence[Row]) -> list[Continuation]:
        return [self._continue(row) for row in rows]

    def _continue(self, row: Row) -> Continuation:
        tokens = list(row.tokens)
        for _ in range(row.max_tokens):
            tokens.append(below(len(self.words), row.seed, len(tokens)))
        ended = len(tokens) >= self.length - below(self.spread, row.seed)
        return Continuation(
            text=" ".join(self.words[token] for token in tokens),
            tokens=tuple(tokens),
            new_tokens=row.max_tokens,
            finish_reason="stop" if ended else None,
            prefilled_tokens=len(tokens),
        )


def worded(request: Request, instruction: str, n: int, seed: int) -> list[str]:
    return [f"{instruction} Use {WORDS[below(13, seed, i)]} and {WORDS[below(13, seed, i, 1)]}." for i in range(n)]


def spoken(
    question: str = "How do I brew tea?", words: Sequence[str] = (), seed: int = 3, **settings: Any
) -> SearchResult:
    """A longer search with many replacements."""
    length = settings.get("max_new_tokens", 2000)
    search = DarwinSearch(
        policy=Speaker(tuple(words or WORDS), length, max(1, length // 7)),
        scorer=ScriptedScorer(reward=lambda text: float(sum(map(ord, text)) % 97) / 7),
        mutator=worded,
        guard=None,
        config=SearchConfig(**{"cycles": 2, "replacement_period": 4, "max_new_tokens": 40, **settings}),
    )
    return search.invoke(question, seed=seed)


def parsed(page: str) -> Element:
    """Read a page with a strict parser: any mistake in it is an error."""
    parser = html5lib.HTMLParser(tree=html5lib.getTreeBuilder("etree"), strict=True, namespaceHTMLElements=False)
    tree: Element = parser.parse(page)
    for element in tree.iter():
        if isinstance(element.tag, str):
            element.tag = element.tag.rpartition("}")[2]  # a picture's elements are of another namespace
    return tree


def said(element: Element) -> str:
    """All text in an element."""
    return "".join(element.itertext())


def of_class(tree: Element, name: str) -> list[Element]:
    return [element for element in tree.iter() if name in element.get("class", "").split()]


def by_id(tree: Element, name: str) -> Element:
    [found] = [element for element in tree.iter() if element.get("id") == name]
    return found
