"""Tool-call data: a dozen household tools, invented tools that teach copying, and turns after a tool's result.

None of these names or requests occurs in langchain-tests, so that passing those tests is never a matter of memory.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Message = dict[str, Any]

ROOMS = ("kitchen", "bedroom", "hall", "bathroom", "cellar", "attic", "study", "garage", "porch", "nursery")
COLORS = ("red", "green", "blue", "white", "amber", "violet", "pink", "yellow")
GOODS = ("milk", "eggs", "flour", "rice", "apples", "butter", "soap", "candles", "honey", "beans", "salt", "carrots")
PETS = ("cat", "dog", "rabbit", "fish", "parrot", "hamster")
PLANTS = ("basil", "cactus", "fern", "rose", "ivy", "tomato")
NAMES = ("Anna", "Omar", "Lena", "Raj", "Mia", "Tom", "Yuki", "Carla", "Ben", "Zoe")
PROGRAMS = ("cotton", "wool", "quick", "silk", "towels", "dark")
WORDS = (
    *ROOMS,
    *COLORS,
    *GOODS,
    *PETS,
    *PLANTS,
    *[
        "river",
        "stone",
        "cloud",
        "paper",
        "lantern",
        "bridge",
        "wolf",
        "silver",
        "copper",
        "ember",
        "frost",
        "maple",
        "harbor",
        "comet",
        "signal",
        "garden",
        "needle",
        "velvet",
        "marble",
        "thunder",
        "pocket",
        "ribbon",
        "anchor",
        "saddle",
        "walnut",
        "pepper",
        "orbit",
        "canyon",
        "feather",
        "mirror",
        "basket",
        "ladder",
    ],
)

Draw = Callable[[random.Random], Any]


def _one_of(values: tuple[str, ...]) -> Draw:
    return lambda rng: rng.choice(values)


def _whole(low: int, high: int) -> Draw:
    return lambda rng: rng.randint(low, high)


@dataclass(frozen=True)
class Tool:
    """A tool with functions that draw its arguments, requests for it, a result and a sentence that uses the result."""

    name: str
    about: str
    arguments: tuple[tuple[str, str, Draw], ...]
    requests: tuple[str, ...]
    result: str
    report: str

    def schema(self) -> dict[str, Any]:
        """The tool as an OpenAI function schema."""
        properties = {name: {"type": kind} for name, kind, _ in self.arguments}
        parameters = {"type": "object", "properties": properties, "required": list(properties)}
        about = {"name": self.name, "description": self.about, "parameters": parameters}
        return {"type": "function", "function": about}

    def draw(self, rng: random.Random) -> dict[str, Any]:
        """Draw arguments."""
        return {name: draw(rng) for name, _, draw in self.arguments}


HOUSEHOLD = (
    Tool(
        "heat_kettle",
        "Heat the water in the kettle.",
        (("degrees", "integer", _whole(40, 100)),),
        ("Heat the kettle to {degrees} degrees.", "I need water at {degrees} degrees.", "Set the kettle to {degrees}."),
        "kettle at {degrees}",
        "The kettle is at {degrees} degrees.",
    ),
    Tool(
        "set_lamp",
        "Set the color of the lamp in a room.",
        (("room", "string", _one_of(ROOMS)), ("color", "string", _one_of(COLORS))),
        (
            "Make the {room} lamp {color}.",
            "Turn the lamp in the {room} {color}.",
            "I want {color} light in the {room}.",
        ),
        "{room} lamp is {color}",
        "The lamp in the {room} is {color} now.",
    ),
    Tool(
        "start_timer",
        "Start a timer.",
        (("minutes", "integer", _whole(1, 120)),),
        ("Start a timer for {minutes} minutes.", "Remind me in {minutes} minutes.", "Set a {minutes} minute timer."),
        "timer runs {minutes} minutes",
        "The timer runs for {minutes} minutes.",
    ),
    Tool(
        "add_to_shopping_list",
        "Put goods on the shopping list.",
        (("item", "string", _one_of(GOODS)), ("count", "integer", _whole(1, 30))),
        (
            "Put {count} {item} on the shopping list.",
            "We need {count} {item}.",
            "Add {item} to my list, {count} of it.",
        ),
        "list has {count} {item}",
        "Your list has {count} {item} now.",
    ),
    Tool(
        "set_thermostat",
        "Set how warm a room shall be.",
        (("room", "string", _one_of(ROOMS)), ("degrees", "integer", _whole(14, 26))),
        (
            "Warm the {room} to {degrees} degrees.",
            "Set the {room} to {degrees} degrees.",
            "Keep the {room} at {degrees}.",
        ),
        "{room} set to {degrees}",
        "The {room} will be at {degrees} degrees.",
    ),
    Tool(
        "move_blinds",
        "Open the blinds of a room by percent.",
        (("room", "string", _one_of(ROOMS)), ("percent", "integer", _whole(0, 100))),
        ("Open the {room} blinds to {percent} percent.", "Move the blinds in the {room} to {percent} percent."),
        "{room} blinds at {percent} percent",
        "The blinds in the {room} are at {percent} percent.",
    ),
    Tool(
        "feed_pet",
        "Give food to a pet.",
        (("pet", "string", _one_of(PETS)), ("grams", "integer", _whole(5, 300))),
        ("Feed the {pet} {grams} grams.", "Give {grams} grams of food to the {pet}.", "The {pet} gets {grams} grams."),
        "{pet} got {grams} grams",
        "The {pet} got {grams} grams of food.",
    ),
    Tool(
        "water_plant",
        "Water a plant.",
        (("plant", "string", _one_of(PLANTS)), ("milliliters", "integer", _whole(20, 900))),
        ("Water the {plant} with {milliliters} milliliters.", "Give the {plant} {milliliters} milliliters of water."),
        "{plant} got {milliliters} milliliters",
        "The {plant} got {milliliters} milliliters of water.",
    ),
    Tool(
        "vacuum_room",
        "Send the robot to vacuum a room.",
        (("room", "string", _one_of(ROOMS)),),
        ("Vacuum the {room}.", "Send the robot to the {room}.", "The {room} floor is dusty, please clean it."),
        "robot is in the {room}",
        "The robot cleans the {room} now.",
    ),
    Tool(
        "leave_note",
        "Leave a note for a person.",
        (
            ("person", "string", _one_of(NAMES)),
            ("text", "string", lambda rng: f"{rng.choice(GOODS)} in the {rng.choice(ROOMS)}"),
        ),
        ("Leave {person} a note: {text}.", "Write a note to {person} that says {text}."),
        "note for {person} saved",
        "I left a note for {person}.",
    ),
    Tool(
        "start_washer",
        "Start the washing machine.",
        (("program", "string", _one_of(PROGRAMS)), ("degrees", "integer", _whole(20, 90))),
        ("Wash {program} at {degrees} degrees.", "Start the washer with {program} at {degrees} degrees."),
        "washer runs {program} at {degrees}",
        "The washer runs the {program} program at {degrees} degrees.",
    ),
    Tool(
        "read_sensor",
        "Read the temperature of a room.",
        (("room", "string", _one_of(ROOMS)),),
        ("How warm is the {room}?", "Tell me the temperature in the {room}.", "Is the {room} cold?"),
        "{number} degrees",
        "It says {result}.",
    ),
    Tool(
        "set_alarm",
        "Set the morning alarm.",
        (("hour", "integer", _whole(4, 11)), ("minute", "integer", _whole(0, 59))),
        ("Wake me at {hour} {minute}.", "Set the alarm to hour {hour} and minute {minute}."),
        "alarm at {hour} {minute}",
        "The alarm is set to {hour} {minute}.",
    ),
)

NO_TOOL = "I have no tool for that."
_SYLLABLES = [
    "ba",
    "ko",
    "ri",
    "zu",
    "me",
    "ta",
    "lo",
    "fi",
    "shu",
    "ne",
    "gra",
    "pol",
    "vex",
    "dim",
    "tor",
    "wi",
    "qua",
    "sel",
    "hap",
    "jun",
]


def _made_up(rng: random.Random) -> str:
    if rng.random() < 0.5:
        return rng.choice(WORDS).lower()
    return "".join(rng.choice(_SYLLABLES) for _ in range(rng.randint(2, 3)))


def _value(rng: random.Random) -> tuple[str, Draw]:
    if rng.random() < 0.45:
        return "integer", _whole(0, 999)
    if rng.random() < 0.3:
        return "string", lambda r: f"{r.choice(WORDS)} {r.choice(WORDS)}"
    return "string", _one_of(WORDS)


def invented(rng: random.Random) -> Tool:
    """Make up a tool whose names can only be copied from the list of tools."""
    name = f"{_made_up(rng)}_{_made_up(rng)}" if rng.random() < 0.7 else _made_up(rng)
    names = list(dict.fromkeys(_made_up(rng) for _ in range(rng.choice((1, 1, 2, 2, 3)))))
    arguments = tuple((key, *_value(rng)) for key in names)
    listed = " and ".join(f"{key} {{{key}}}" for key in names)
    values = " and ".join(f"{{{key}}}" for key in names)
    requests = (
        f"Use {name} with {listed}.",
        f"Call {name} for {values}.",
        f"Run the tool {name}: {listed}.",
        f"What does {name} say about {values}?",
        f"Please use {name} on {values}.",
    )
    about = rng.choice(
        ("", f"Do the {name}.", f"Find the {_made_up(rng)}.", f"Handle {_made_up(rng)} and {_made_up(rng)}.")
    )
    return Tool(name, about, arguments, requests, "{number}", "The result is {result}.")


def call(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """A tool call as an assistant message carries it."""
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def is_unseen(name: str, arguments: dict[str, Any]) -> bool:
    """Whether this call is kept out of training for the gate."""
    text = f"{name} {json.dumps(arguments, sort_keys=True)}"
    return hashlib.sha256(text.encode()).digest()[0] % 12 == 0


def _result(tool: Tool, arguments: dict[str, Any], rng: random.Random) -> tuple[str, str]:
    number = rng.choice((str(rng.randint(0, 9999)), f"{rng.choice(WORDS)} {rng.randint(0, 99)}", rng.choice(WORDS)))
    result = tool.result.format(number=number, **arguments)
    return result, tool.report.format(result=result, **arguments)


def request(
    rng: random.Random, *, unseen: bool = False, made_up: bool | None = None
) -> tuple[Tool, dict[str, Any], str]:
    """Draw a tool, arguments for it (of the unseen share or not) and the user's words."""
    strange = rng.random() < 0.5 if made_up is None else made_up
    while True:
        tool = invented(rng) if strange else rng.choice(HOUSEHOLD)
        arguments = tool.draw(rng)
        if is_unseen(tool.name, arguments) == unseen:
            return tool, arguments, rng.choice(tool.requests).format(**arguments)


def listed(tool: Tool | None, rng: random.Random) -> list[dict[str, Any]]:
    """The schemas of one to five tools in random order, the given one among them."""
    others = [
        invented(rng) if rng.random() < 0.4 else rng.choice(HOUSEHOLD) for _ in range(rng.choice((0, 1, 1, 2, 3, 4)))
    ]
    tools = {other.name: other.schema() for other in others}
    if tool is not None:
        tools[tool.name] = tool.schema()
    found = list(tools.values())
    rng.shuffle(found)
    return found


def conversation(rng: random.Random) -> tuple[list[Message], list[dict[str, Any]]]:
    """One training conversation with tools: a call, a call with its result and report, or no fitting tool."""
    tool, arguments, words = request(rng)
    user = {"role": "user", "content": words}
    roll = rng.random()
    if roll < 0.1:
        tools = [schema for schema in listed(None, rng) if schema["function"]["name"] != tool.name]
        return [user, {"role": "assistant", "content": NO_TOOL}], tools
    calls, tools = [call(tool.name, arguments)], listed(tool, rng)
    if roll < 0.18:
        other, more, other_words = request(rng)
        if other.name != tool.name:
            calls.append(call(other.name, more))
            tools.append(other.schema())
            user = {"role": "user", "content": f"{words} {other_words}"}
    messages: list[Message] = [user, {"role": "assistant", "content": "", "tool_calls": calls}]
    if len(calls) == 1 and roll < 0.6:
        result, report = _result(tool, arguments, rng)
        messages += [{"role": "tool", "content": result}, {"role": "assistant", "content": report}]
    return messages, tools
