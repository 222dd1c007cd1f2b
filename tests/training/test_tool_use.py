import json
import random

from training import tool_use
from training.comparisons import groups
from training.tool_use import HOUSEHOLD, conversation, invented, is_unseen, listed, request

TAKEN = {"magic_function", "get_weather", "weather", "sum", "multiply", "calculator", "add", "search"}


def test_names_are_a_dozen_and_none_of_langchain_tests():
    names = {tool.name for tool in HOUSEHOLD}
    assert len(names) == len(HOUSEHOLD) >= 12
    assert not names & TAKEN
    assert not any(word in name for name in names for word in ("weather", "magic"))


def test_requests_name_every_argument():
    rng = random.Random(0)
    for tool in [*HOUSEHOLD, *(invented(rng) for _ in range(100))]:
        arguments = tool.draw(rng)
        for words in tool.requests:
            said = words.format(**arguments)
            assert all(str(value) in said for value in arguments.values())
        assert set(tool.schema()["function"]["parameters"]["properties"]) == set(arguments)


def test_training_never_shows_an_unseen_call():
    rng = random.Random(1)
    for _ in range(300):
        messages, tools = conversation(rng)
        calls = [call["function"] for message in messages for call in message.get("tool_calls", [])]
        assert not any(is_unseen(call["name"], call["arguments"]) for call in calls)
        assert {call["name"] for call in calls} <= {tool["function"]["name"] for tool in tools}
    tool, arguments, _ = request(rng, unseen=True, made_up=False)
    assert is_unseen(tool.name, arguments)


def test_listed_tools_contain_the_wanted_one_once():
    rng = random.Random(2)
    for _ in range(50):
        tool = rng.choice(HOUSEHOLD)
        assert [schema["function"]["name"] for schema in listed(tool, rng)].count(tool.name) == 1


def test_tool_groups_put_the_right_call_first():
    source = groups(random.Random(3))
    group = next(found for found in source if found.instruction is None)
    assert json.loads(group.replies[0].removeprefix("<tool_call>").removesuffix("</tool_call>"))["name"]
    assert group.values[0] == max(group.values)
    assert tool_use.NO_TOOL
