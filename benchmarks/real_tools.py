"""How often a real small model calls the right tool with the right arguments, and what constraints add to that.

SmolLM2-135M-Instruct by llama.cpp, with a chat template of ours that shows tools, for its own shows none. Requests for
the embedded pair's household tools, and for twelve tools of everyday life, of each of which the right call is known.
Greedy answers: free, or a call that is kept to the tools' schemas, or one whose values are copied from the conversation
as well.

    python -m benchmarks.real_tools [--n 50] [--seed 0]

Needs the wheel of the small pair (``make .venv/.small``). Writes ``benchmarks/results/real_tools.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks.held_out import RESULTS
from benchmarks.quality import table
from benchmarks.tools import judged
from darwin_align import LlamaCppPolicy, Request, Sampling, __version__
from darwin_align.core.types import Message
from darwin_align.operators.policy import Row
from darwin_align.operators.portal import call
from darwin_align.operators.report import Report
from darwin_align.small import policy_path
from training import measures
from training.measures import ToolCase

COLUMNS = ("free", "schema", "grounded")
MAX_TOKENS = 96
ORDER = (
    "Call one of these tools to do what the user wants. Take the values of its arguments from the user's words. "
    'Reply with <tool_call>\n{"name": "…", "arguments": {…}}\n</tool_call> and nothing else.\n# Tools'
)
TEMPLATE = (
    "{%- if tools %}{{- '<|im_start|>system\n"
    + ORDER.replace("\n", "\\n").replace("'", "\\'")
    + "' }}{%- for tool in tools %}{{- '\n' + (tool | tojson) }}{%- endfor %}{{- '<|im_end|>\n' }}{%- endif %}"
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\n' + (message.content or '') }}"
    "{%- for call in message.tool_calls or [] %}"
    '{{- \'<tool_call>\n{"name": "\' + call.function.name + \'", "arguments": \' }}'
    "{{- (call.function.arguments | tojson) + '}\n</tool_call>' }}{%- endfor %}{{- '<|im_end|>\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)


@dataclass(frozen=True)
class EverydayTool:
    """A tool, requests for it, and values of its arguments."""

    name: str
    about: str
    values: dict[str, tuple[str | int, ...]]
    requests: tuple[str, ...]

    @property
    def schema(self) -> dict[str, Any]:
        """As an OpenAI function schema."""
        kinds = {name: "integer" if isinstance(own[0], int) else "string" for name, own in self.values.items()}
        properties = {name: {"type": kind} for name, kind in kinds.items()}
        parameters = {"type": "object", "properties": properties, "required": list(properties)}
        about = {"name": self.name, "description": self.about, "parameters": parameters}
        return {"type": "function", "function": about}

    def case(self, rng: random.Random) -> ToolCase:
        """A request among up to four other tools."""
        arguments = {name: rng.choice(own) for name, own in self.values.items()}
        others = rng.sample([tool for tool in EVERYDAY if tool != self], rng.randint(1, 4))
        tools = [tool.schema for tool in rng.sample([self, *others], 1 + len(others))]
        return ToolCase(rng.choice(self.requests).format(**arguments), tools, self.name, arguments)


_PEOPLE = ("Maria", "Mr. Okafor", "my sister", "Jonas", "the plumber")
_CITIES = ("Lisbon", "Kyoto", "Nairobi", "Oslo", "Santa Fe", "Gdansk")
EVERYDAY = (
    EverydayTool(
        "get_weather",
        "Look up the weather of a city.",
        {"city": _CITIES},
        (
            "What is the weather like in {city}?",
            "Do I need an umbrella in {city}?",
            "Tell me how warm it is in {city}.",
        ),
    ),
    EverydayTool(
        "send_message",
        "Send a short message to a person.",
        {"to": _PEOPLE, "text": ("I am running late", "dinner is at eight", "the keys are under the mat")},
        ("Write to {to}: {text}.", "Tell {to} this: {text}.", "Please send {to} the message: {text}."),
    ),
    EverydayTool(
        "book_table",
        "Book a table at a restaurant.",
        {"restaurant": ("Blue Olive", "Casa Verde", "The Old Mill", "Sakura"), "people": (2, 3, 5, 8, 11)},
        ("Book a table for {people} at {restaurant}.", "We are {people}, get us a table at {restaurant}."),
    ),
    EverydayTool(
        "convert_currency",
        "Convert an amount of money into another currency.",
        {"amount": (20, 75, 130, 999), "source": ("euros", "pounds", "yen"), "target": ("dollars", "francs", "pesos")},
        ("How many {target} are {amount} {source}?", "Convert {amount} {source} to {target}."),
    ),
    EverydayTool(
        "play_music",
        "Play music by an artist.",
        {"artist": ("Nina Simone", "Fela Kuti", "Clara Schumann", "The Meters")},
        ("Play something by {artist}.", "I feel like hearing {artist}.", "Put on {artist}, please."),
    ),
    EverydayTool(
        "create_event",
        "Put an event into the calendar.",
        {"title": ("dentist", "piano lesson", "team lunch", "parents' evening"), "day": ("Monday", "May 4", "Friday")},
        ("Put {title} into my calendar for {day}.", "I have {title} on {day}, note it.", "Add {title} on {day}."),
    ),
    EverydayTool(
        "translate_word",
        "Translate a word into a language.",
        {"word": ("butterfly", "thimble", "neighbour", "drizzle"), "language": ("Finnish", "Swahili", "Basque")},
        ("What does {word} mean in {language}?", "How do you say {word} in {language}?"),
    ),
    EverydayTool(
        "track_parcel",
        "Find out where a parcel is.",
        {"number": ("ZX4471", "PK-20917", "8830-AB", "QR775")},
        ("Where is my parcel {number}?", "Has {number} been shipped yet?", "Track {number} for me."),
    ),
    EverydayTool(
        "call_taxi",
        "Order a taxi to an address.",
        {"address": ("12 Harbour Street", "the main station", "4 Mill Lane"), "time": ("7:30", "noon", "18:15")},
        ("I need a taxi at {address} at {time}.", "Order a cab for {time} to {address}."),
    ),
    EverydayTool(
        "find_recipe",
        "Find a recipe.",
        {"dish": ("lentil soup", "apple strudel", "mole", "risotto"), "servings": (1, 4, 6, 12)},
        ("Find a recipe of {dish} for {servings} people.", "How do I make {dish} for {servings}?"),
    ),
    EverydayTool(
        "rent_bike",
        "Rent a bike at a station.",
        {"station": ("Riverside", "Old Town", "Museum Park"), "hours": (1, 2, 4, 9)},
        ("Get me a bike at {station} for {hours} hours.", "I want to ride for {hours} hours from {station}."),
    ),
    EverydayTool(
        "block_card",
        "Block a bank card.",
        {"last_digits": ("0042", "7719", "3306"), "reason": ("stolen", "lost", "broken")},
        ("My card ending in {last_digits} is {reason}, block it.", "Block the card {last_digits}: it is {reason}."),
    ),
)


def cases_of(n: int, seed: int) -> dict[str, list[ToolCase]]:
    """The requests."""
    rng = random.Random(seed)
    everyday = [rng.choice(EVERYDAY).case(rng) for _ in range(n)]
    return {"household": measures.tool_cases(n, made_up=False), "everyday": everyday}


def request_of(case: ToolCase, column: str) -> Request:
    """The request of a column; all columns have one prompt."""
    greedy = Sampling(temperature=0)
    if column == "free":
        shown = "\n".join([ORDER, *(json.dumps(tool) for tool in case.tools)])
        turns = (Message(role="system", content=shown), Message(role="user", content=case.words))
        return Request(conversation=turns, sampling=greedy)
    return Request.of(
        case.words, tools=case.tools, tool_choice="required", sampling=greedy, grounded=column == "grounded"
    )


def answers_of(policy: LlamaCppPolicy, cases: Sequence[ToolCase], column: str, seed: int) -> list[str]:
    """The answers."""
    rows = [Row(request_of(case, column), MAX_TOKENS, seed) for case in cases]
    found = []
    for start in range(0, len(rows), 4):
        batch = rows[start : start + 4]
        found += [one.text for one in Report.of(call(lambda batch=batch: policy.generate(batch))).answer]
    return found


def markdown(found: Mapping[str, Any]) -> str:
    """The table as the documentation shows it."""
    heads = {"free": "free", "schema": "kept to schemas", "grounded": "grounded"}

    def shown(figures: Mapping[str, float]) -> str:
        interval = f"[{100 * figures['all_right_low']:.0f}, {100 * figures['all_right_high']:.0f}]"
        return f"{100 * figures['all_right']:.0f}% {interval}"

    rows = [[name, *(shown(row[column]) for column in heads)] for name, row in found["rows"].items()]
    return table(["tools", *heads.values()], rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--n", type=int, default=50, help="requests for each kind of tools (default: 50)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS / "real_tools.json")
    chosen = parser.parse_args(arguments)
    policy = LlamaCppPolicy(policy_path(), slots=4, context=2048, threads=chosen.threads, chat_template=TEMPLATE)
    clock = perf_counter()
    rows: dict[str, dict[str, Any]] = {}
    examples: list[dict[str, Any]] = []
    for label, cases in cases_of(chosen.n, chosen.seed).items():
        answers = {column: answers_of(policy, cases, column, chosen.seed) for column in COLUMNS}
        rows[label] = {column: judged(policy, cases, own) for column, own in answers.items()}
        examples += [
            {"request": case.words, "right": [case.name, case.arguments], **{c: answers[c][i] for c in COLUMNS}}
            for i, case in enumerate(cases[:5])
        ]
        for column, figures in rows[label].items():
            print(f"{label:12}{column:10}{figures['right_tool']:6.2f}{figures['all_right']:6.2f}", flush=True)
    report = {
        "version": __version__,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "policy": policy_path().name,
        "requests": chosen.n,
        "seed": chosen.seed,
        "rows": rows,
        "examples": examples,
        "seconds": perf_counter() - clock,
    }
    chosen.out.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
