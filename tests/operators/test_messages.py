"""Conversion of messages in both directions without loss."""

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)

from darwin_align.core import Message, ToolCall
from darwin_align.core.errors import RequestError
from darwin_align.operators.messages import from_langchain, to_langchain

TEXT = st.text(max_size=9)
NAMES = st.none() | TEXT
BLOCKS = st.lists(
    st.fixed_dictionaries({"type": st.just("text"), "text": TEXT})
    | st.fixed_dictionaries({"type": st.just("image_url"), "image_url": st.fixed_dictionaries({"url": TEXT})}),
    max_size=3,
).map(tuple)
CALLS = st.builds(ToolCall, name=TEXT, arguments=st.dictionaries(TEXT, st.integers() | TEXT | st.lists(TEXT)), id=NAMES)
MESSAGES = st.one_of(
    st.builds(Message, role=st.sampled_from(["system", "user"]), content=TEXT | BLOCKS, name=NAMES),
    st.builds(Message, role=st.just("assistant"), content=TEXT, name=NAMES, tool_calls=st.lists(CALLS).map(tuple)),
    st.builds(Message, role=st.just("tool"), content=TEXT | BLOCKS, name=NAMES, tool_call_id=TEXT.filter(bool)),
)


@given(st.lists(MESSAGES, max_size=4).map(tuple))
def test_ours_to_langchain_and_back(conversation: tuple[Message, ...]) -> None:
    assert from_langchain(to_langchain(conversation)) == conversation


CALL = {"name": "book", "args": {"at": 8, "for": ["me"]}, "id": "c1", "type": "tool_call"}


@pytest.mark.parametrize(
    "message",
    [
        SystemMessage("Be kind."),
        HumanMessage("Hi", name="Ann"),
        HumanMessage([{"type": "text", "text": "What?"}, {"type": "image_url", "image_url": {"url": "data:x"}}]),
        AIMessage("Sure."),
        AIMessage("", tool_calls=[CALL], name="bot"),
        AIMessage("two", tool_calls=[CALL, {**CALL, "id": "c2"}]),
        ToolMessage("done", tool_call_id="c1", name="book"),
        ToolMessage([{"type": "text", "text": "done"}], tool_call_id="c1"),
    ],
)
def test_langchain_to_ours_and_back(message: BaseMessage) -> None:
    [again] = to_langchain(from_langchain([message]))
    assert again == message


def test_roles_and_fields() -> None:
    human, answer, result = from_langchain(
        [HumanMessage("Hi", name="Ann"), AIMessage("", tool_calls=[CALL]), ToolMessage("done", tool_call_id="c1")]
    )
    assert (human.role, human.text, human.name) == ("user", "Hi", "Ann")
    assert answer.tool_calls == (ToolCall(name="book", arguments={"at": 8, "for": ["me"]}, id="c1"),)
    assert (result.role, result.tool_call_id) == ("tool", "c1")


def test_a_list_of_strings_is_text() -> None:
    assert from_langchain([HumanMessage(["a", {"type": "text", "text": "b"}])])[0].text == "ab"


@pytest.mark.parametrize(("role", "ours"), [("user", "user"), ("assistant", "assistant"), ("developer", "system")])
def test_generic_chat_messages(role: str, ours: str) -> None:
    assert from_langchain([ChatMessage("Hi", role=role)])[0].role == ours


def test_streamed_answers_that_were_added_up() -> None:
    chunk = AIMessageChunk("Su") + AIMessageChunk("re.", chunk_position="last")
    assert from_langchain([chunk]) == (Message(role="assistant", content="Sure."),)


@pytest.mark.parametrize(
    ("message", "place"),
    [
        (HumanMessage([{"type": "image", "data": b"x"}]), r"content\..*data"),
        (AIMessage("", tool_calls=[{**CALL, "args": {"on": date(2020, 1, 1)}}]), r"arguments\.on"),
    ],
)
def test_what_json_cannot_hold_is_refused_by_place(message: BaseMessage, place: str) -> None:
    with pytest.raises(RequestError, match=rf"a message's {place}.* cannot be read: .*; give JSON values"):
        from_langchain([message])


def test_other_kinds_are_refused_by_name() -> None:
    with pytest.raises(RequestError, match=r"a message of role 'critic' cannot be answered: use system, human, ai"):
        from_langchain([ChatMessage("Hi", role="critic")])
    with pytest.raises(RequestError, match=r"a message of type 'remove' cannot be answered"):
        from_langchain([RemoveMessage(id="1")])
