"""Requests: where the instruction is, what stays word for word, what cannot be answered."""

import pytest
from hypothesis import assume, given

from darwin_align import Request, Sampling
from darwin_align.core import Message, ToolCall
from darwin_align.core.errors import ConfigError, RequestError
from tests.core.test_nouns import REQUESTS, TEXT

USER = Message(role="user", content="Book a table.")
CALL = Message(role="assistant", tool_calls=(ToolCall(name="book", arguments={"at": 8}, id="1"),))
TOOL = Message(role="tool", content="done", tool_call_id="1")
ANSWER = Message(role="assistant", content="Sure.")
SYSTEM = Message(role="system", content="Be kind.")
IMAGE = {"type": "image", "url": "https://example.org/tea.png"}


@pytest.mark.parametrize(
    ("conversation", "message"),
    [
        ((), r"the conversation is empty: give at least one human message"),
        ((SYSTEM,), r"the conversation has no human message: add one, it is the instruction to follow"),
        ((SYSTEM, TOOL), r"the conversation has no human message"),
        ((USER, ANSWER), r"the conversation ends with an AI message: end it with a human message or a tool result"),
        ((USER, CALL), r"the conversation ends with open tool calls \(book\): append their tool results"),
        ((Message(role="user", content=" \n"),), r"the last human message has no text: there is no instruction"),
        ((USER, ANSWER, Message(role="user", content=(IMAGE,))), r"the last human message has no text"),
    ],
)
def test_conversations_that_cannot_be_answered(conversation: tuple[Message, ...], message: str) -> None:
    request = Request(conversation=conversation)
    for ask in (lambda: request.turn, lambda: request.instruction, lambda: request.with_instruction("x")):
        with pytest.raises(RequestError, match=message):
            ask()


def test_the_last_human_turn_is_reworded_and_its_tail_is_kept() -> None:
    request = Request(conversation=(SYSTEM, Message(role="user", content="Hi"), ANSWER, USER, CALL, TOOL))
    reworded = request.with_instruction("Reserve a table.")
    assert (request.turn, request.instruction) == (3, "Book a table.")
    assert reworded.instruction == "Reserve a table."
    assert reworded.conversation[:3] + reworded.conversation[4:] == request.conversation[:3] + request.conversation[4:]
    assert reworded.conversation[3].role == "user"


@given(REQUESTS, TEXT)
def test_rewording_changes_one_text_and_can_be_undone(request: Request, words: str) -> None:
    conversation = (*request.conversation, USER)
    request = request.model_copy(update={"conversation": conversation})
    assume(words.strip())
    reworded = request.with_instruction(words)
    assert reworded.instruction == words
    assert reworded.conversation[:-1] == request.conversation[:-1]
    assert reworded.with_instruction("Book a table.") == request


def test_blocks_that_are_no_text_stay_where_they_are() -> None:
    first, second = {"type": "text", "text": "What "}, {"type": "text", "text": "is this?"}
    turn = Message(role="user", content=(IMAGE, first, second, IMAGE))
    assert turn.text == "What is this?"
    assert turn.with_text("Name it.").content == (IMAGE, {"type": "text", "text": "Name it."}, IMAGE)
    assert Message(role="user", content=(IMAGE,)).with_text("Name it.").text == "Name it."


def test_the_same_words_give_the_same_request() -> None:
    request = Request(conversation=(Message(role="user", content=(IMAGE, {"type": "text", "text": "Hi"})),))
    assert request.with_instruction("Hi") is request


@pytest.mark.parametrize("temperature", [1e-300, 1e-5, 0.0099])
def test_a_temperature_that_only_overflows_is_refused(temperature: float) -> None:
    with pytest.raises(ConfigError, match=r"too small to divide by: use 0 to be greedy, or 0\.01 and more"):
        Sampling(temperature=temperature)
    assert Sampling(temperature=0.01).temperature == 0.01
