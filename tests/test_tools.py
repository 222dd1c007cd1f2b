"""Tools: what is bound, what reaches the policy, and calls in answers, on scripted parts and on the embedded pair."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.tools import tool
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from darwin_align import DarwinChatModel, Request, Response, SearchConfig
from darwin_align.backends.endpoint import EndpointPolicy
from darwin_align.backends.local import LocalPolicy
from darwin_align.backends.scripted import ScriptedPolicy, ScriptedScorer
from darwin_align.core.errors import ConfigError, RequestError
from darwin_align.formats.tool_syntax import ToolSyntax
from darwin_align.langchain.tools import bound_tools
from darwin_align.operators import Continuation, Row, ToolCallScorer, WeightedSum
from darwin_align.pocket import policy_path
from tests.core.kit import ASKED


def heat(to: int, vessel: str = "pot") -> str:
    """Heat water."""
    return f"{vessel} at {to}"


class Steep(BaseModel):
    """Steep tea."""

    minutes: int = Field(gt=0)


class Pour(TypedDict):
    """Pour tea."""

    cups: int


@tool
def serve(guest: str) -> str:
    """Serve tea."""
    return f"served {guest}"


PLAIN = {"type": "function", "function": {"name": "stop", "parameters": {"type": "object", "properties": {}}}}


def rendered(calls: list[dict[str, Any]]) -> str:
    made = [{"name": c["function"]["name"], "arguments": c["function"]["arguments"]} for c in calls]
    return "".join(f"<call>{json.dumps(call)}</call>" for call in made)


def call(name: str, **arguments: Any) -> str:
    return f"<call>{json.dumps({'name': name, 'arguments': arguments})}</call>"


@dataclass
class Says:
    """A policy that says one of its texts, by the row's seed: a few letters at a time, as asked."""

    texts: Sequence[str]
    tool_syntax: ToolSyntax = field(default=ToolSyntax.found(rendered))
    asked: list[Request] = field(default_factory=list)
    enforces_formats: bool = False

    def generate(self, rows: Sequence[Row]) -> list[Continuation]:
        self.asked += [row.request for row in rows]
        return [self._continue(row) for row in rows]

    def _continue(self, row: Row) -> Continuation:
        own = self.texts[row.seed % len(self.texts)]
        whole = own if own.startswith(row.text) else next(t for t in self.texts if t.startswith(row.text))
        text = whole[: len(row.text) + row.max_tokens]
        ended = len(text) == len(whole)
        return Continuation(
            text=text, new_tokens=max(1, len(text) - len(row.text)), finish_reason="stop" if ended else None
        )


def model_of(*texts: str, reward: Any = len, **settings: Any) -> DarwinChatModel:
    config = SearchConfig(**{"mutator": "identity", "cycles": 1, "replacement_period": 7, "seed": 1, **settings})
    return DarwinChatModel(policy=Says(texts), scorer=ScriptedScorer(reward=reward), config=config)


# -- what is bound


def test_every_kind_of_tool_is_bound_in_openais_form() -> None:
    bound = bound_tools([heat, Steep, Pour, serve, PLAIN])
    assert [made["function"]["name"] for made in bound["tools"]] == ["heat", "Steep", "Pour", "serve", "stop"]
    assert all(made["type"] == "function" for made in bound["tools"])
    parameters = bound["tools"][0]["function"]["parameters"]
    assert (parameters["required"], parameters["properties"]["to"]["type"]) == (["to"], "integer")
    assert bound_tools([]) == {}


HEAT = {"type": "function", "function": {"name": "heat"}}


@pytest.mark.parametrize(
    ("choice", "bound"),
    [
        (None, None),
        (False, None),
        (True, "required"),
        ("any", "required"),
        ("required", "required"),
        ("auto", "auto"),
        ("none", "none"),
        ("heat", HEAT),
        (HEAT, HEAT),
    ],
)
def test_choices(choice: Any, bound: Any) -> None:
    assert bound_tools([heat, serve], choice).get("tool_choice") == bound


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tools": [heat], "tool_choice": "heet"}, r"'heet' is no tool that is bound: did you mean 'heat'\?"),
        ({"tools": [heat], "tool_choice": {"type": "tool", "name": "heat"}}, r"is not known: use 'auto'"),
        ({"tools": [heat], "tool_choice": 3}, r"tool_choice=3 is not known"),
        ({"tools": [], "tool_choice": "any"}, r"tool_choice='any' asks for a call, but there are no tools: bind some"),
        ({"tools": [{"type": "web_search"}]}, r"a tool of type 'web_search' runs on its provider's servers"),
        ({"tools": [5]}, r"cannot make a tool of 5"),
        ({"tools": [{"type": "object"}]}, r"cannot make a tool of .*'title'"),
        ({"tools": [heat], "parallel_tool_calls": "no"}, r"parallel_tool_calls = 'no': give True or False"),
        ({"tools": [{"name": "f", "strict": False, "parameters": {}}], "strict": True}, r"cannot make a tool of"),
    ],
)
def test_what_cannot_be_bound(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        model_of("Hi.").bind_tools(**arguments)


def test_strict_closes_schemas_and_says_so() -> None:
    [made] = bound_tools([heat], strict=True)["tools"]
    assert made["function"]["strict"] is True
    assert made["function"]["parameters"]["additionalProperties"] is False


def test_tools_and_history_reach_the_policy_word_for_word() -> None:
    model = model_of("Done.")
    turns = [
        HumanMessage("Heat it."),
        AIMessage("", tool_calls=[{"name": "heat", "args": {"to": 80}, "id": "abc123XYZ"}]),
        ToolMessage("pot at 80", tool_call_id="abc123XYZ", name="heat"),
    ]
    model.bind_tools([heat], tool_choice="auto", parallel_tool_calls=False).invoke(turns)
    [asked, *_] = model.search.policy.asked
    assert [message.role for message in asked.conversation] == ["user", "assistant", "tool"]
    assert (asked.conversation[1].tool_calls[0].id, asked.conversation[2].tool_call_id) == ("abc123XYZ", "abc123XYZ")
    assert asked.tools[0]["function"]["name"] == "heat"  # type: ignore[call-overload, index]
    assert (asked.tool_choice, asked.parallel_tool_calls) == ("auto", False)


# -- calls in answers


def test_calls_come_out_with_ids_that_repeat() -> None:
    both = "Sure. " + call("heat", to=80) + call("serve", guest="Zoë")
    model = model_of(both).bind_tools([heat, serve])
    answer = model.invoke("Tea, please.")
    assert (answer.content, answer.response_metadata["finish_reason"]) == ("Sure.", "tool_calls")
    assert [(made["name"], made["args"]) for made in answer.tool_calls] == [
        ("heat", {"to": 80}),
        ("serve", {"guest": "Zoë"}),
    ]
    ids = [made["id"] for made in answer.tool_calls]
    assert len(set(ids)) == 2
    assert all(len(one) == 9 and one.isalnum() for one in ids if one)
    assert [made["id"] for made in model.invoke("Tea, please.").tool_calls] == ids
    later = model.invoke([HumanMessage("Tea, please."), AIMessage("Which?"), HumanMessage("Green.")])
    assert not {made["id"] for made in later.tool_calls} & set(ids)
    assert not {made["id"] for made in model.invoke("Tea, please.", seed=2).tool_calls} & set(ids)


async def test_a_stream_carries_the_same_calls() -> None:
    texts = ("Sure. " + call("heat", to=80) + call("fly", high=True),)
    model = model_of(*texts).bind_tools([heat, serve])
    answer = model.invoke("Tea.")
    whole: Any = None
    for chunk in model.stream("Tea."):
        whole = chunk if whole is None else whole + chunk
    astreamed = [chunk async for chunk in model.astream("Tea.")]
    assert isinstance(whole, AIMessageChunk)
    assert whole.tool_calls == answer.tool_calls == astreamed[0].tool_calls  # type: ignore[attr-defined]
    assert [made["args"] for made in whole.invalid_tool_calls] == [made["args"] for made in answer.invalid_tool_calls]
    assert whole.content == answer.content
    assert whole.response_metadata["finish_reason"] == "tool_calls"


def test_what_cannot_be_called_is_told_as_invalid() -> None:
    texts = (call("fly", high=True), "<call>{'name'</call>", '<call>{"name": "heat", "argum')
    for text in texts:
        answer = model_of(text, max_new_tokens=len(text)).bind_tools([heat]).invoke("Tea.")
        assert not answer.tool_calls
        [invalid] = answer.invalid_tool_calls
        assert invalid["error"]
        assert invalid["args"]
        assert invalid["args"].startswith("<call>")
        assert invalid["id"]


def test_an_invalid_call_that_is_json_is_not_read_as_a_call_by_a_stream() -> None:
    def bare(calls: list[dict[str, Any]]) -> str:
        about = calls[0]["function"]
        return json.dumps({"name": about["name"], "parameters": about["arguments"]})

    model = model_of('{"name": "fly", "parameters": {}}')
    model.search.policy.tool_syntax = ToolSyntax.found(bare)
    bound = model.bind_tools([heat])
    answer = bound.invoke("Tea.")
    assert answer.invalid_tool_calls[0]["args"] == (
        'there is no tool \'fly\': the tools are heat: {"name": "fly", "parameters": {}}'
    )
    [chunk, *_] = bound.stream("Tea.")
    assert not chunk.tool_calls  # type: ignore[attr-defined]
    assert chunk.invalid_tool_calls[0]["name"] == "fly"  # type: ignore[attr-defined]


def test_without_tools_or_with_none_text_is_text() -> None:
    text = call("heat", to=80)
    model = model_of(text)
    assert model.invoke("Tea.").content == text
    assert model.bind_tools([heat], tool_choice="none").invoke("Tea.").content == text


def test_several_answers_have_their_own_calls() -> None:
    texts = [call("heat", to=to) for to in (70, 80, 90)]
    model = model_of(*texts, mutations=8, selector="none")
    bound: Any = bound_tools([heat])
    generations = model.generate([[HumanMessage("Tea.")]], n=3, **bound).generations[0]
    calls = [generation.message.tool_calls[0] for generation in generations]  # type: ignore[attr-defined]
    assert sorted(made["args"]["to"] for made in calls) == [70, 80, 90]
    assert len({made["id"] for made in calls}) == 3


# -- what the search makes of it


def test_a_call_that_cannot_be_made_loses_to_text_of_less_reward() -> None:
    model = model_of("No.", call("fly", high=True), mutations=8).bind_tools([heat])
    for seed in range(4):
        assert model.invoke("Tea.", seed=seed).content == "No."


def test_a_forced_call_loses_if_it_is_not_made() -> None:
    model = model_of("A long answer without any call at all, well rewarded.", call("heat", to=80), mutations=8)
    answer = model.bind_tools([heat, serve], tool_choice="any").invoke("Tea.")
    assert answer.tool_calls[0]["name"] == "heat"
    wrong = model_of(call("serve", guest="a very long name"), call("heat", to=80), mutations=8)
    assert wrong.bind_tools([heat, serve], tool_choice="heat").invoke("Tea.").tool_calls[0]["name"] == "heat"
    only = model_of(call("serve", guest="me")).bind_tools([heat, serve], tool_choice="heat").invoke("Tea.")
    assert (only.tool_calls, only.invalid_tool_calls[0]["error"]) == ([], "tool_choice asks for heat")


def test_strict_calls_keep_their_schema_or_cannot_be_made() -> None:
    # LangChain makes every argument of a strict tool a required one, as OpenAI wants it.
    bad, good = call("heat", to="very hot indeed", vessel="pot"), call("heat", to=80, vessel="pot")
    loose = model_of(bad, good, mutations=8).bind_tools([heat]).invoke("Tea.")
    assert loose.tool_calls[0]["args"] == {"to": "very hot indeed", "vessel": "pot"}
    strict = model_of(bad, good, mutations=8).bind_tools([heat], strict=True).invoke("Tea.")
    assert strict.tool_calls[0]["args"] == {"to": 80, "vessel": "pot"}
    only = model_of(bad).bind_tools([heat], strict=True).invoke("Tea.")
    assert (only.tool_calls, only.invalid_tool_calls[0]["error"]) == ([], "to is string and not integer")


def test_one_call_at_most_if_that_is_asked_for() -> None:
    two, one = call("heat", to=80) * 2, call("heat", to=80)
    model = model_of(two, one, mutations=8)
    assert len(model.bind_tools([heat]).invoke("Tea.").tool_calls) == 2
    assert len(model.bind_tools([heat], parallel_tool_calls=False).invoke("Tea.").tool_calls) == 1
    answer = model_of(two).bind_tools([heat], parallel_tool_calls=False).invoke("Tea.")
    assert len(answer.tool_calls) == 1
    assert "parallel_tool_calls=False" in (answer.invalid_tool_calls[0]["error"] or "")


def test_notes_say_why_a_beam_is_invalid() -> None:
    model = model_of(call("fly", high=True))
    result = model.search.invoke("Tea.", **bound_tools([heat]))
    assert any("is invalid: a tool call cannot be made: there is no tool 'fly'" in note for note in result.notes)


def test_who_cannot_read_calls_refuses_tools_before_anything_is_written() -> None:
    policy = ScriptedPolicy()
    model = DarwinChatModel(policy=policy, scorer=ScriptedScorer())
    with pytest.raises(RequestError, match="ScriptedPolicy has no tool_syntax to read tool calls with: use a LocalP"):
        model.bind_tools([heat]).invoke(ASKED)
    assert policy.calls == 0
    assert model.bind_tools([heat], tool_choice="none").invoke(ASKED).content
    assert (model.profile or {})["tool_calling"] is False


def test_two_tools_of_one_name_are_refused() -> None:
    def other(to: str) -> str:
        """Another."""
        return to

    other.__name__ = "heat"
    with pytest.raises(RequestError, match="two different tools are named 'heat'"):
        model_of("Hi.").bind_tools([heat, other]).invoke(ASKED)
    assert model_of("Hi.").bind_tools([heat, heat]).invoke(ASKED).content == "Hi."


def test_settings_may_be_given_to_the_model_one_by_one() -> None:
    parts: dict[str, Any] = {"policy": ScriptedPolicy(), "scorer": ScriptedScorer()}
    model = DarwinChatModel(**parts, max_tokens=9, temperature=0.2, cycles=1, seed=4, stop=["end"])
    assert (model.search.config.max_new_tokens, model.search.config.cycles, model.search.config.seed) == (9, 1, 4)
    assert (model.search.sampling.temperature, model.stop) == (0.2, ("end",))
    params = model._get_ls_params()
    assert (params["ls_temperature"], params["ls_max_tokens"], params["ls_stop"]) == (0.2, 9, ["end"])
    with pytest.raises(ConfigError, match="cycles is given twice, in config too: give it once"):
        DarwinChatModel(**parts, config=SearchConfig(cycles=2), cycles=1)
    with pytest.raises(ConfigError, match="max_new_tokens is given twice, as max_tokens too"):
        DarwinChatModel(**parts, max_tokens=1, max_completion_tokens=2)
    with pytest.raises(ConfigError, match="DarwinChatModel has no argument 'temprature': did you mean 'temperature'"):
        DarwinChatModel(**parts, temprature=1)
    with pytest.raises(ConfigError, match=r"search=… already holds its parts: leave out cycles"):
        DarwinChatModel(search=model.search, cycles=1)


# -- the scorer


@pytest.fixture(scope="module")
def policy() -> LocalPolicy:
    return LocalPolicy.from_pretrained(policy_path(), threads=1)


def written(name: str, **arguments: Any) -> Response:
    call = json.dumps({"name": name, "arguments": arguments})
    return Response(text=f"<tool_call>{call}</tool_call>")


def test_the_scorer_counts_calls_and_asks_a_function(policy: LocalPolicy) -> None:
    request = Request.of("Heat it to 80.", **bound_tools([heat]))
    two = Response(text=written("heat", to=1).text + written("fly").text)
    scorer = ToolCallScorer(policy=policy)
    cut = Response(text='<tool_call>{"name": "he')
    begun = cut.model_copy(update={"finished": False})
    answers = [written("heat", to=80), written("heat", to="hot"), written("fly"), two, cut, begun, Response(text="No.")]
    assert scorer.score(request, answers) == [1.0, 0.0, -1.0, 0.0, -1.0, 0.0, 0.0]
    assert scorer.score(Request.of("Hi"), answers) == [0.0] * 7

    async def wanted(request: Request, calls: Sequence[Any]) -> float:
        return 5.0 if calls[0].arguments == {"to": 80} else 0.0

    asking = ToolCallScorer(policy=policy, function=wanted)
    assert asking.score(request, answers)[:3] == [6.0, 0.0, -1.0]
    both = WeightedSum(scorers=(asking, asking), weights=(1.0, 2.0))
    assert both.score(request, answers[:1]).answer == [18.0]
    strict = Request.of("Heat it.", **bound_tools([heat], strict=True))
    assert scorer.score(strict, answers[1:2]) == [-1.0]


# -- the embedded pair


def turn_lamp(room: str) -> str:
    """Turn on a lamp."""
    return room


def test_the_embedded_pair_calls_tools_that_are_kept_to_their_schemas(policy: LocalPolicy) -> None:
    model = DarwinChatModel(cycles=1, mutations=2, max_tokens=64, seed=3)
    assert (model.profile or {})["structured_output"] is True
    forced = model.bind_tools([turn_lamp, Steep], tool_choice="any").invoke("Turn on the lamp in the kitchen.")
    assert forced.tool_calls[0]["name"] in ("turn_lamp", "Steep")
    scored = DarwinChatModel(
        scorer=ToolCallScorer(policy=policy), cycles=1, mutations=4, max_tokens=64, seed=3
    ).bind_tools([turn_lamp])
    free = scored.invoke("Turn on the lamp in the kitchen.")
    assert free.tool_calls
    assert not free.invalid_tool_calls
    done = scored.invoke(
        [
            HumanMessage("Turn on the lamp in the kitchen."),
            free,
            *(ToolMessage("on", tool_call_id=made["id"]) for made in free.tool_calls),
        ]
    )
    assert isinstance(done, AIMessage)


# -- a server


def set_lamp(room: str, color: str) -> str:
    """Set the color of the lamp in a room."""
    return f"{room}: {color}"


async def test_calls_are_read_from_a_servers_answers(llama: Any, policy: LocalPolicy) -> None:
    remote = EndpointPolicy(llama.url, tokenizer=policy_path())
    settings: dict[str, Any] = {"cycles": 1, "mutations": 2, "mutator": "identity", "max_new_tokens": 60, "seed": 1}
    model = DarwinChatModel(
        policy=remote, scorer=ToolCallScorer(policy=remote), config=SearchConfig(**settings), temperature=0.0
    )
    assert (model.profile or {})["structured_output"] is False
    bound = model.bind_tools([set_lamp])
    answer = await bound.ainvoke("Make the kitchen lamp red.")
    assert answer.tool_calls == bound.invoke("Make the kitchen lamp red.").tool_calls
    assert [(made["name"], made["args"]) for made in answer.tool_calls] == [
        ("set_lamp", {"room": "kitchen", "color": "red"})
    ]
    forced = model.bind_tools([set_lamp], tool_choice="any").invoke("Red, please.")
    assert [made["name"] for made in forced.tool_calls] == ["set_lamp"]


def test_tools_of_a_call_may_be_functions_too() -> None:
    model = model_of(call("heat", to=80))
    answers = [model.invoke(ASKED, tools=[heat]), model.bind_tools([heat]).invoke(ASKED)]
    assert [answer.tool_calls[0]["args"] for answer in answers] == [{"to": 80}] * 2
    asked = {json.dumps(request.tools) for request in model.search.policy.asked}
    assert asked == {json.dumps(bound_tools([heat])["tools"])}
