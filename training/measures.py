"""Measurements of the two models by themselves: their answers, preferences and tool calls."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from transformers import LlamaForCausalLM, LlamaForSequenceClassification

from darwin_align.pocket.gold import gold
from darwin_align.pocket.world import (
    BAD_CLAUSES,
    CLAUSES,
    GOOD_CLAUSES,
    MUTATION_PROMPT,
    Instruction,
    held_out,
    parse,
    topics,
)
from training import tool_use
from training.comparisons import Group, clause_twins, groups, topic_twins
from training.conversations import Message, turn
from training.optim import padded
from training.tokenizer import Codec

TEMPERATURE, TOP_K, MAX_NEW = 0.7, 40, 320
MUTATION_TEMPERATURE = 1.0
"""The default of the library's mutator."""
Figures = dict[str, float]
Prompt = tuple[list[Message], list[dict[str, Any]] | None]


@dataclass(frozen=True)
class Pair:
    """The two models under measurement and their tokenizer."""

    policy: Any
    reward: Any
    codec: Codec

    def generate(self, prompts: Sequence[Prompt], *, seed: int, temperature: float = TEMPERATURE) -> list[str]:
        """One reply per prompt, batched; temperature 0 is greedy."""
        torch.manual_seed(seed)
        found: list[str] = []
        choice: dict[str, Any] = {"do_sample": False, "temperature": None, "top_k": None}
        if temperature > 0:
            choice = {"do_sample": True, "temperature": temperature, "top_k": TOP_K}
        for start in range(0, len(prompts), 50):
            rows = [self.codec.chat(messages, tools, prompt=True) for messages, tools in prompts[start : start + 50]]
            pad, width = self.codec.pad, max(map(len, rows))
            ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows])
            out = self.policy.generate(
                input_ids=ids, attention_mask=(ids != pad).long(), max_new_tokens=MAX_NEW, **choice
            )
            found += [self.codec.decode(row.tolist()) for row in out[:, width:]]
        return found

    def score(self, messages: list[Message], replies: Sequence[str], tools: Any = None) -> list[float]:
        """Rewards of replies, each closed by the end token."""
        if self.reward is None:
            raise ValueError("no reward model was loaded")
        prompt = self.codec.chat(messages, tools, prompt=True)
        rows = [[*prompt, *self.codec.encode(text), self.codec.end] for text in replies]
        ids, pad = padded(rows, self.codec.pad), self.codec.pad
        with torch.no_grad():
            logits = self.reward(input_ids=ids, attention_mask=(ids != pad).long()).logits
        return [float(value) for value in logits[:, 0]]


def load(policy: Path, reward: Path | None) -> Pair:
    """Load the saved models as a user would, in float32."""
    model: Any = LlamaForCausalLM.from_pretrained(str(policy), dtype=torch.float32)
    judge: Any = None
    if reward is not None:
        judge = LlamaForSequenceClassification.from_pretrained(str(reward), dtype=torch.float32)
        judge.eval()
    model.eval()
    return Pair(model, judge, Codec.load(policy))


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return fmean(found) if found else math.nan


def ask(instruction: str) -> Prompt:
    """A plain request as a prompt."""
    return [turn("user", instruction)], None


def policy_figures(pair: Pair) -> Figures:
    """Garbled sentences an answer, gold and length of plain samples on held-out requests."""
    instructions = held_out(200)
    replies = pair.generate([ask(text) for text in instructions], seed=1)
    judged = [gold(text, reply) for text, reply in zip(instructions, replies, strict=True)]
    greedy = pair.generate([ask(text) for text in instructions], seed=1, temperature=0.0)
    return {
        "garbled sentences an answer": _mean(sum(line.kind == "garbled" for line in found.lines) for found in judged),
        "gold of a sample": _mean(found.total for found in judged),
        "gold of a greedy answer": _mean(gold(a, b).total for a, b in zip(instructions, greedy, strict=True)),
        "tokens an answer": _mean(len(pair.codec.encode(reply)) for reply in replies),
    }


def mutation_figures(pair: Pair) -> Figures:
    """How many mutations are rewordings on the topic, how many leave it, how often they add good or bad clauses."""
    sources = [found for text in held_out(200) for found in [parse(text)] * 5 if found is not None]
    prompts = [ask(MUTATION_PROMPT.format(instruction=source.text)) for source in sources]
    found = [
        (source, reply, parse(reply)) for source, reply in zip(sources, pair.generate(prompts, seed=2), strict=True)
    ]
    right = [new for source, reply, new in found if new and new.topic is source.topic and reply != source.text]
    return {
        "rewordings": len(right) / len(found),
        "topic drift": sum(new is not None and new.topic is not source.topic for source, _, new in found) / len(found),
        "good clauses a rewording": _mean(len(new.asks & set(GOOD_CLAUSES)) for new in right),
        "bad clauses a rewording": _mean(len(new.asks & set(BAD_CLAUSES)) for new in right),
        "distinct among five": _mean(len({r for _, r, _ in found[i : i + 5]}) for i in range(0, len(found), 5)) / 5,
    }


def clause_figures(pair: Pair, count: int = 40) -> Figures:
    """Gold against the bare request of answers sampled along one clause: what a mutation can win."""
    rng = random.Random(3)
    chosen = rng.sample(topics(), count)
    figures = {}
    for name in ("", *CLAUSES):
        instructions = [Instruction(topic, 0, ((name, 0),) if name else ()) for topic in chosen]
        replies = pair.generate([ask(one.text) for one in instructions], seed=4)
        bare = [Instruction(topic, 0).text for topic in chosen]
        figures[name or "bare"] = _mean(gold(a, b).total for a, b in zip(bare, replies, strict=True))
    return figures


def _agreement(truth: list[float], found: list[float], gap: float = 1e-6) -> list[bool]:
    pairs = combinations(range(len(truth)), 2)
    return [(truth[i] > truth[j]) == (found[i] > found[j]) for i, j in pairs if abs(truth[i] - truth[j]) > gap]


def _groups(count: int) -> list[Group]:
    source, found = groups(random.Random(5), "held_out"), list[Group]()
    while len(found) < count:
        group = next(source)
        if group.instruction is not None:
            found.append(group)
    return found


def _prefix_agreement(pair: Pair, group: Group, rng: random.Random) -> tuple[list[bool], list[bool]]:
    replies = [pair.codec.encode(text) for text in group.replies]
    instruction = group.instruction or ""
    cut = rng.randint(8, max(9, int(0.9 * max(map(len, replies)))))
    texts = [pair.codec.decode(ids[:cut]) for ids in replies]
    found = pair.score(group.messages, texts)
    final = _agreement([gold(instruction, text).total for text in group.replies], found)
    return final, _agreement([gold(instruction, text).total for text in texts], found)


def reward_figures(pair: Pair, count: int = 300) -> Figures:
    """Pair accuracy against gold on held-out requests: finished replies, and replies cut after the same tokens."""
    whole: list[bool] = []
    clear: list[bool] = []
    cut_final: list[bool] = []
    cut_own: list[bool] = []
    rng = random.Random(6)
    for group in _groups(count):
        instruction = group.instruction or ""
        truth = [gold(instruction, text).total for text in group.replies]
        found = pair.score(group.messages, group.replies)
        whole += _agreement(truth, found)
        clear += _agreement(truth, found, 1.0)
        final, own = _prefix_agreement(pair, group, rng)
        cut_final += final
        cut_own += own
    return {
        "pair accuracy": _mean(whole),
        "pair accuracy, gold apart by 1": _mean(clear),
        "prefix pair accuracy": _mean(cut_own),
        "prefix pair accuracy, finished gold": _mean(cut_final),
    }


def sampled_figures(pair: Pair, count: int = 60, each: int = 5) -> Figures:
    """Pair accuracy among the policy's own samples, all on the topic: the harder task that a search sets."""
    instructions = [text for text in held_out(count) for _ in range(each)]
    replies = pair.generate([ask(text) for text in instructions], seed=7)
    hits: list[bool] = []
    best: dict[str, list[float]] = {"sample": [], "best of five": []}
    for start in range(0, len(instructions), each):
        some, text = replies[start : start + each], instructions[start]
        truth, found = [gold(text, reply).total for reply in some], pair.score([turn("user", text)], some)
        hits += _agreement(truth, found)
        best["sample"].append(truth[0])
        best["best of five"].append(truth[found.index(max(found))])
    return {"own samples pair accuracy": _mean(hits), **{f"plain gold, {name}": _mean(g) for name, g in best.items()}}


Twins = tuple[Instruction, Instruction, list[str]]


def _sensitivity(pair: Pair, cases: list[Twins]) -> tuple[float, float]:
    """Share of right choices with the right requests, and with requests shuffled among the cases."""
    sides = [(one.text, two.text, replies) for one, two, replies in cases]
    shifted = [(b[0], b[1], a[2]) for a, b in pairwise([*sides, sides[0]])]
    shares = []
    for some in (sides, shifted):
        hits = []
        for one, two, replies in some:
            here, there = (pair.score([turn("user", text)], replies) for text in (one, two))
            hits += [here[0] > here[1], there[1] > there[0]]
        shares.append(_mean(hits))
    return shares[0], shares[1]


def sensitivity_figures(pair: Pair, count: int = 150) -> Figures:
    """Prompt sensitivity: replies that differ in worth by the request alone, with right and with shuffled requests."""
    rng = random.Random(8)
    by_clause: list[Twins] = [clause_twins(rng, "held_out", 0.5) for _ in range(count)]
    by_topic: list[Twins] = []
    for _ in range(count):
        one, two, replies = topic_twins(rng, "held_out")
        by_topic.append((one, two, [replies[0], replies[2]]))
    by_clause = [(one, two, replies[:2]) for one, two, replies in by_clause]
    mixed = [case for both in zip(by_topic, by_clause, strict=True) for case in both]
    right, shuffled = _sensitivity(pair, mixed)
    return {
        "prompt sensitivity, right": right,
        "prompt sensitivity, shuffled": shuffled,
        "sensitivity to topics, right": _sensitivity(pair, by_topic)[0],
        "sensitivity to clauses, right": _sensitivity(pair, by_clause)[0],
        "sensitivity to topics, shuffled": _sensitivity(pair, by_topic)[1],
        "sensitivity to clauses, shuffled": _sensitivity(pair, by_clause)[1],
    }


_CALL = re.compile(r"<tool_call>(.*?)</tool_call>", re.S)


def _called(reply: str) -> list[tuple[str, dict[str, Any]]] | None:
    try:
        calls = [json.loads(body) for body in _CALL.findall(reply)]
        return [(found["name"], found["arguments"]) for found in calls]
    except (ValueError, KeyError, TypeError):
        return None


@dataclass(frozen=True)
class ToolCase:
    """A request of which it is known what must be called."""

    words: str
    tools: list[dict[str, Any]]
    name: str
    arguments: dict[str, Any]


def tool_cases(count: int, *, made_up: bool) -> list[ToolCase]:
    """Requests that training never saw: for household tools, or for invented ones."""
    rng = random.Random(9)
    drawn = [tool_use.request(rng, unseen=True, made_up=made_up) for _ in range(count)]
    return [ToolCase(words, tool_use.listed(tool, rng), tool.name, arguments) for tool, arguments, words in drawn]


def tool_figures(pair: Pair, count: int = 50) -> Figures:
    """Share of calls that are well-formed and right: unseen requests for household tools, and for invented tools."""
    figures = {}
    for label, made_up in (("household", False), ("invented", True)):
        cases = tool_cases(count, made_up=made_up)
        prompts: list[Prompt] = [([turn("user", case.words)], case.tools) for case in cases]
        for method, temperature in (("sampled", TEMPERATURE), ("greedy", 0.0)):
            replies = pair.generate(prompts, seed=10, temperature=temperature)
            right = [_called(r) == [(case.name, case.arguments)] for r, case in zip(replies, cases, strict=True)]
            figures[f"tool calls right, {label}, {method}"] = _mean(right)
    return figures
