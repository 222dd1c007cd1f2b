"""Conversations in the shape that a chat template takes: turns that it refuses or drops are folded into others."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from darwin_align.core.errors import RequestError
from darwin_align.core.types import Message

__all__ = [
    "Chat",
    "Shape",
    "marked",
    "opaque_blocks",
    "question_of",
    "shapes",
    "to_chat",
    "tool_named",
    "tool_turns",
    "with_tool_turns_as_text",
    "without_thoughts",
]

Chat = list[dict[str, Any]]

# Letters only: no template trims it, no tokenizer has it as a token, and no conversation contains it.
_MARK = "QzDarwinAlignMark{}Zq"
_REASONING = ("reasoning", "thinking", "reasoning_content")
_REFUSAL = "refusal"
_CALLS = ("tool_call", "tool_use", "function_call")
_OPAQUE = {
    "redacted_thinking": "thoughts that their provider has encrypted",
    "non_standard": "blocks that only their provider understands",
}
"""Blocks of other providers' answers that no chat template can show, and what they are."""


@dataclass(frozen=True)
class Shape:
    """A form of a conversation that another template may take."""

    chat: Chat
    note: str = ""
    """What was done to the conversation; empty if nothing was."""


def opaque_blocks(conversation: Sequence[Message]) -> str:
    """A note on the blocks of a conversation that :func:`to_chat` leaves out; empty if there are none."""
    kinds = {
        str(block.get("type"))
        for message in conversation
        if message.role == "assistant" and not isinstance(message.content, str)
        for block in message.content
    }
    left_out = [about for kind, about in _OPAQUE.items() if kind in kinds]
    return f"is not shown {' and '.join(left_out)}, which earlier answers hold" if left_out else ""


def to_chat(conversation: Sequence[Message]) -> Chat:
    """Convert messages to the dictionaries that chat templates read: text content, OpenAI-style tool calls.

    Thoughts of the assistant become ``reasoning_content``: a template shows those that its model is to see again. A
    refusal is what the assistant said.

    Raises:
        RequestError: a content block that a text model cannot read, e.g. an image.
    """
    return [_to_dict(message) for message in conversation]


def _to_dict(message: Message) -> dict[str, Any]:
    turn: dict[str, Any] = {"role": message.role, "content": _content(message)}
    if thoughts := _thoughts(message):
        turn["reasoning_content"] = thoughts
    if message.name is not None:
        turn["name"] = message.name
    if message.tool_call_id is not None:
        turn["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        turn["tool_calls"] = [
            {
                "type": "function",
                "function": {"name": call.name, "arguments": dict(call.arguments)},
                **({} if call.id is None else {"id": call.id}),
            }
            for call in message.tool_calls
        ]
    return turn


def _thoughts(message: Message) -> str:
    """The reasoning that an assistant's blocks hold; any other block that is no text is refused."""
    if isinstance(message.content, str):
        return ""
    # Tool calls are in the message's tool_calls as well.
    answered = ("text", _REFUSAL, *_REASONING, *_CALLS, *_OPAQUE)
    known = answered if message.role == "assistant" else ("text",)
    thoughts = []
    for block in message.content:
        kind = str(block.get("type"))
        if kind not in known:
            raise RequestError(
                f"a {message.role} message has a content block of type {kind!r}: a local text model reads text only"
            )
        if kind in _REASONING:
            thoughts.append(_thought(block, kind))
    return "\n".join(filter(None, thoughts))


def _content(message: Message) -> str:
    if isinstance(message.content, str) or message.role != "assistant":
        return message.text
    return "".join(
        str(block.get(kind, "")) for block in message.content if (kind := block.get("type")) in ("text", _REFUSAL)
    )


def without_thoughts(conversation: Sequence[Message]) -> list[Message]:
    """The conversation for a server that renders it itself: earlier answers as the text that was answered."""
    own = {_REFUSAL, *_REASONING, *_OPAQUE}
    return [
        message.model_copy(update={"content": _content(message)})
        if message.role == "assistant"
        and not isinstance(message.content, str)
        and any(block.get("type") in own for block in message.content)
        else message
        for message in conversation
    ]


def _thought(block: Mapping[str, Any], kind: str) -> str:
    """The text of a reasoning block: plain, within an object, or as a summary in parts."""
    found = block.get(kind) or block.get("reasoning") or block.get("text") or ""
    if isinstance(found, Mapping):
        found = found.get("text", "")
    parts = block.get("summary")
    if not found and isinstance(parts, list):
        found = "\n".join(str(part.get("text", "")) for part in parts if isinstance(part, Mapping))
    return str(found)


def marked(chat: Chat) -> tuple[Chat, list[str]]:
    """A conversation of the same shape, every content of which is a word of its own.

    Returns:
        The conversation, and the words that a template must show: those of turns that make no tool calls, next to
        which some templates leave contents out.
    """
    words = [_MARK.format("".join(chr(ord("a") + int(digit)) for digit in str(i))) for i in range(len(chat))]
    turns = [
        {**turn, "content": word, **({"reasoning_content": "x"} if "reasoning_content" in turn else {})}
        for turn, word in zip(chat, words, strict=True)
    ]
    return turns, [word for turn, word in zip(chat, words, strict=True) if not turn.get("tool_calls")]


def shapes(chat: Chat) -> Iterator[Shape]:
    """Forms of a conversation, the least changed first: as it is, merged turns, folded system turns, all that once more
    without the thoughts of earlier answers.
    """
    yield from _shapes(chat)
    silent = [{name: value for name, value in turn.items() if name != "reasoning_content"} for turn in chat]
    if silent != chat:
        note = "does not take the thoughts of earlier answers where they stand: they are left out"
        yield from (Shape(shape.chat, f"{note}; {shape.note}" if shape.note else note) for shape in _shapes(silent))


def _shapes(chat: Chat) -> Iterator[Shape]:
    yield Shape(chat)
    if (merged := _merged(chat)) != chat:
        yield Shape(merged, "takes no two turns of one role in a row: their texts are merged into one turn")
    if all(turn["role"] != "system" for turn in chat):
        return
    begun = next((i for i, turn in enumerate(chat) if turn["role"] != "system"), len(chat))
    if any(turn["role"] == "system" for turn in chat[begun:]) and any(turn["role"] == "user" for turn in chat[begun:]):
        folded = [*chat[:begun], *_with_system_folded(chat[begun:])]
        note = "takes no system turn behind the first turns: its text goes in front of the next user turn"
        yield from _also_merged(folded, note)
    if all(turn["role"] != "user" for turn in chat):
        raise RequestError("the conversation has no human message: add one, it is the instruction to follow")
    note = "takes no system turn: its text goes in front of the first user turn"
    yield from _also_merged(_system_first(chat), note)


def _also_merged(chat: Chat, note: str) -> Iterator[Shape]:
    yield Shape(chat, note)
    if (merged := _merged(chat)) != chat:
        yield Shape(merged, f"{note}; nor two turns of one role in a row: their texts are merged into one turn")


def _merged(chat: Chat) -> Chat:
    turns: Chat = []
    for turn in chat:
        if turns and turn["role"] == turns[-1]["role"] != "tool":
            turns[-1] = _joined(turns[-1], turn)
        else:
            turns.append(turn)
    return turns


def _joined(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    calls = [*first.get("tool_calls", ()), *second.get("tool_calls", ())]
    thoughts = _paragraphs(turn.get("reasoning_content", "") for turn in (first, second))
    return {
        **first,
        "content": _paragraphs((first["content"], second["content"])),
        **({"tool_calls": calls} if calls else {}),
        **({"reasoning_content": thoughts} if thoughts else {}),
    }


def _paragraphs(texts: Any) -> str:
    return "\n\n".join(text for text in texts if text)


def _system_first(chat: Chat) -> Chat:
    """All system turns in front of the first user turn."""
    system = [turn["content"] for turn in chat if turn["role"] == "system"]
    others = [turn for turn in chat if turn["role"] != "system"]
    first = next(i for i, turn in enumerate(others) if turn["role"] == "user")
    user = others[first]
    return [*others[:first], {**user, "content": "\n\n".join([*system, user["content"]])}, *others[first + 1 :]]


def _with_system_folded(chat: Chat) -> Chat:
    """Each system turn in front of the user turn that follows it, the last ones behind the last user turn."""
    turns: Chat = []
    waiting: list[str] = []
    for turn in chat:
        if turn["role"] == "system":
            waiting.append(turn["content"])
        elif turn["role"] == "user" and waiting:
            turns.append({**turn, "content": _paragraphs([*waiting, turn["content"]])})
            waiting = []
        else:
            turns.append(turn)
    if waiting:
        last = max(i for i, turn in enumerate(turns) if turn["role"] == "user")
        turns[last] = {**turns[last], "content": _paragraphs([turns[last]["content"], *waiting])}
    return turns


def question_of(conversation: Sequence[Message]) -> str:
    """A conversation as one text, for models that read a pair of question and answer."""
    return "\n\n".join(turn["content"] for turn in with_tool_turns_as_text(to_chat(conversation)))


def with_tool_turns_as_text(chat: Chat) -> Chat:
    """Tool calls as text of the assistant's turns, tool results as text of the user's; turns alternate there."""
    fold: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {"assistant": _calls_as_text, "tool": _result_as_text}
    turns: Chat = []
    folded = False
    for turn in chat:
        tooled = turn["role"] == "tool" or bool(turn.get("tool_calls"))
        plain = fold[turn["role"]](turn) if tooled else turn
        if turns and (tooled or folded) and plain["role"] == turns[-1]["role"]:
            turns[-1] = _joined(turns[-1], plain)
        else:
            turns.append(plain)
        folded = tooled
    return turns


def _calls_as_text(turn: dict[str, Any]) -> dict[str, Any]:
    calls = [
        f"Tool call: {call['function']['name']}({json.dumps(call['function']['arguments'], ensure_ascii=False)})"
        for call in turn["tool_calls"]
    ]
    rest = {name: value for name, value in turn.items() if name != "tool_calls"}
    return {**rest, "content": _paragraphs([turn["content"], *calls])}


def _result_as_text(turn: dict[str, Any]) -> dict[str, Any]:
    name = f" of {turn['name']}" if turn.get("name") else ""
    return {"role": "user", "content": f"Tool result{name}: {turn['content']}"}


def tool_turns(name: str, result: str) -> Chat:
    """A conversation with one tool call and its result, to probe what a template renders of them."""
    # Nine letters: some templates require that length.
    call_id = "abcdefghi"
    call = {"type": "function", "id": call_id, "function": {"name": name, "arguments": {}}}
    return [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": result, "name": name, "tool_call_id": call_id},
    ]


def tool_named(name: str) -> dict[str, Any]:
    """A tool of this name, to probe what a template renders of it."""
    parameters = {"type": "object", "properties": {}}
    return {"type": "function", "function": {"name": name, "description": "x", "parameters": parameters}}
