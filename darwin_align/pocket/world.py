"""The pocket world: hand-written household topics and the small grammar of requests about them.

A request is one phrasing of one topic followed by zero to four clauses ("How do I brew green tea? Add a useful tip.").
The policy was trained on such requests only. Combinations of topic, phrasing and clauses fall into three splits by a
hash, so that "held out" means an unseen combination of seen parts. Standard library only.
"""

from __future__ import annotations

import hashlib
import random
import re
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

MUTATION_PROMPT = "Rewrite this request.\n<request>\n{instruction}\n</request>"
"""The user turn on which the policy was trained to reword a request; one rewording per reply."""

Split = Literal["train", "held_out", "dev"]

PHRASINGS = (
    "How do I {task}?",
    "How can I {task}?",
    "Tell me how to {task}.",
    "What is the best way to {task}?",
    "Please explain how to {task}.",
    "I want to {task}.",
    "Can you help me {task}?",
    "Give me a guide to {doing}.",
    "I need advice on {doing}.",
    "Show me how to {task}.",
)

CLAUSES: dict[str, tuple[str, ...]] = {
    "needs": ("List what I need first.", "Start with the things I need."),
    "steps": ("Number the steps.", "Give me numbered steps."),
    "why": ("Explain why it works.", "Tell me the reason too."),
    "tip": ("Add a useful tip.", "Share your best tips."),
    "warn": ("Warn me about mistakes.", "Say what to be careful about."),
    "warm": ("Please be friendly.", "Encourage me a little."),
    "care": ("Be precise and careful.", "Check every step twice."),
    "full": ("Be thorough and complete.", "Leave nothing out."),
    "short": ("Keep it short.", "Answer in a few words."),
    "hurry": ("I am in a hurry.", "Be quick about it."),
    "story": ("Tell it like a story.", "Turn it into a tale."),
    "blunt": ("Be blunt with me.", "Do not be polite."),
    "guess": ("A rough idea is enough.", "Just guess if you are not sure."),
}
"""Clause name to its wordings."""

GOOD_CLAUSES = ("needs", "steps", "why", "tip", "warn", "warm", "care", "full")
"""Clauses that make the policy answer better; the others make it answer worse. Built in: the docs must say so."""
BAD_CLAUSES = ("short", "hurry", "story", "blunt", "guess")
MAX_CLAUSES = 4
_RIVALS = (
    {"short", "full"},
    {"short", "story"},
    {"warm", "blunt"},
    {"hurry", "full"},
    {"hurry", "care"},
    {"guess", "care"},
)
_TOPIC_FILES = ("kitchen_and_garden.toml", "home_and_life.toml")


@dataclass(frozen=True)
class Topic:
    """One everyday task: what is needed, five ordered steps, and what can be said about them."""

    task: str
    doing: str
    keywords: tuple[str, ...]
    items: tuple[str, ...]
    steps: tuple[str, ...]
    wrong: tuple[tuple[int, str], ...]
    why: str
    why_more: tuple[str, ...]
    tips: tuple[str, ...]
    warning: str
    careless: str

    @property
    def opening(self) -> str:
        """The neutral first sentence of an answer."""
        return f"Here is how to {self.task}."

    @property
    def needs(self) -> str:
        """The sentence that lists the items."""
        return f"You need {self.items[0]}, {self.items[1]} and {self.items[2]}."


@dataclass(frozen=True)
class Instruction:
    """A request taken apart. ``phrasing`` is -1 where the wording is not one of ours."""

    topic: Topic
    phrasing: int
    clauses: tuple[tuple[str, int], ...] = ()

    @property
    def asks(self) -> frozenset[str]:
        """Names of the clauses."""
        return frozenset(name for name, _ in self.clauses)

    @property
    def text(self) -> str:
        """The request as a user would write it."""
        if self.phrasing < 0:
            raise ValueError("an instruction of foreign wording has no canonical text")
        first = PHRASINGS[self.phrasing].format(task=self.topic.task, doing=self.topic.doing)
        return " ".join([first, *(CLAUSES[name][wording] for name, wording in self.clauses)])

    @property
    def split(self) -> Split:
        """The split of this combination of topic, phrasing and set of clauses."""
        if self.phrasing == 0 and not self.clauses:
            return "train"
        key = f"{self.topic.task}|{self.phrasing}|{','.join(sorted(self.asks))}"
        bucket = hashlib.sha256(key.encode()).digest()[0]
        return "held_out" if bucket < 16 else "dev" if bucket < 32 else "train"


def _topic(raw: dict[str, Any]) -> Topic:
    plain: dict[str, Any] = {name: raw[name] for name in ("task", "doing", "why", "warning", "careless")}
    lists: dict[str, Any] = {name: tuple(raw[name]) for name in ("keywords", "items", "steps", "why_more", "tips")}
    return Topic(**plain, **lists, wrong=tuple((entry["step"] - 1, entry["text"]) for entry in raw["wrong"]))


@cache
def topics() -> tuple[Topic, ...]:
    """All topics, in the order of their files; the first is green tea. ``wrong`` counts steps from zero."""
    folder = files(__package__) / "topics"
    tables = [tomllib.loads((folder / name).read_text(encoding="utf-8")) for name in _TOPIC_FILES]
    return tuple(_topic(raw) for table in tables for raw in table["topic"])


def sentences(text: str) -> list[str]:
    """Split text into sentences at line ends and after ``.``, ``!`` and ``?``; the last one may lack its stop."""
    return [part for line in text.splitlines() for part in re.split(r"(?<=[.!?])\s+", line.strip()) if part]


@cache
def _first_sentences() -> dict[str, tuple[Topic, int]]:
    return {
        phrasing.format(task=topic.task, doing=topic.doing).casefold(): (topic, index)
        for topic in topics()
        for index, phrasing in enumerate(PHRASINGS)
    }


@cache
def _clause_sentences() -> dict[str, tuple[str, int]]:
    return {text.casefold(): (name, i) for name, texts in CLAUSES.items() for i, text in enumerate(texts)}


def parse(instruction: str) -> Instruction | None:
    """Take a request of our own grammar apart; None for any other text."""
    parts = [part.casefold() for part in sentences(instruction)]
    if not parts or parts[0] not in _first_sentences():
        return None
    topic, phrasing = _first_sentences()[parts[0]]
    clauses = [_clause_sentences().get(part) for part in parts[1:]]
    known = tuple(clause for clause in clauses if clause is not None)
    return Instruction(topic, phrasing, known) if len(known) == len(clauses) else None


def understand(instruction: str) -> Instruction | None:
    """Like `parse`, but any wording that names a topic will do; None where none or several topics are named."""
    exact = parse(instruction)
    if exact is not None:
        return exact
    text = f" {' '.join(re.findall(r'[a-z]+', instruction.casefold()))} "
    named = [t for t in topics() if f" {t.task} " in text or f" {t.doing} " in text]
    if not named:
        named = [t for t in topics() if all(f" {word} " in text for word in t.keywords)]
    if len(named) != 1:
        return None
    clauses = (_clause_sentences().get(part.casefold()) for part in sentences(instruction))
    return Instruction(named[0], -1, tuple(clause for clause in clauses if clause is not None))


def fits(names: frozenset[str]) -> bool:
    """Whether these clauses can stand in one request (no contradiction, not too many)."""
    return len(names) <= MAX_CLAUSES and not any(rivals <= names for rivals in _RIVALS)


def draw(rng: random.Random, *, topic: Topic | None = None, good: float = 0.65) -> Instruction:
    """Draw a request of any split: a topic (or the given one), a phrasing, and clauses that fit together."""
    chosen = topic or rng.choice(topics())
    names: list[str] = []
    for _ in range(rng.choices(range(MAX_CLAUSES + 1), weights=(24, 30, 24, 15, 7))[0]):
        name = rng.choice(GOOD_CLAUSES if rng.random() < good else BAD_CLAUSES)
        if name not in names and fits(frozenset([*names, name])):
            names.append(name)
    clauses = tuple((name, rng.randrange(len(CLAUSES[name]))) for name in names)
    return Instruction(chosen, rng.randrange(len(PHRASINGS)), clauses)


def draw_from(rng: random.Random, split: Split, *, topic: Topic | None = None, good: float = 0.65) -> Instruction:
    """Draw a request of one split."""
    while (found := draw(rng, topic=topic, good=good)).split != split:
        pass
    return found


@cache
def _sample(split: Split, n: int) -> tuple[str, ...]:
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    rng, seen, found = random.Random(f"pocket {split}"), set[tuple[str, int, frozenset[str]]](), list[str]()
    for _ in range(400 * n + 1000):
        one = draw_from(rng, split)
        key = (one.topic.task, one.phrasing, one.asks)
        if key not in seen:
            seen.add(key)
            found.append(one.text)
        if len(found) == n:
            return tuple(found)
    raise ValueError(f"the pocket world has fewer than {n} {split} requests; ask for at most {len(found)}")


def held_out(n: int = 100) -> tuple[str, ...]:
    """The first n requests for measuring, always the same ones: their combinations were never trained on."""
    return _sample("held_out", n)


def dev(n: int = 100) -> tuple[str, ...]:
    """The first n requests for tuning, always the same ones: neither trained on nor held out."""
    return _sample("dev", n)
