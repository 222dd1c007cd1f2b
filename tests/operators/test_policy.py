"""The contract of policies and scorers: what has a default, and how objects that are no subclass are adapted."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest

from darwin_align import DarwinSearch, Request, Response
from darwin_align.backends.endpoint import EndpointPolicy
from darwin_align.backends.local import LocalPolicy
from darwin_align.backends.scripted import ScriptedPolicy, ScriptedScorer
from darwin_align.core.errors import ConfigError, RequestError
from darwin_align.operators import Capabilities, Continuation, Decoder, Policy, Row, Scorer, WeightedSum, as_scorer
from darwin_align.operators.coerce import as_policy
from darwin_align.operators.portal import has_own_submit, submits
from darwin_align.pocket import policy_path
from tests.core.kit import ASKED, reword

ROW = Row(Request.of("Hi"), max_tokens=5, seed=1)
SMALL: dict[str, Any] = {"max_new_tokens": 8, "replacement_period": 4, "cycles": 1, "seed": 11}


def search(**parts: Any) -> DarwinSearch:
    return DarwinSearch(**{"policy": ScriptedPolicy(), "scorer": ScriptedScorer(), "mutator": reword, **parts})


class Plain(Policy):
    """A policy with nothing but what it must have."""

    def generate(self, rows: Sequence[Row]) -> list[Continuation]:
        return [Continuation("x", new_tokens=1, finish_reason="stop") for _ in rows]


class Async(Plain):
    async def generate(self, rows: Sequence[Row]) -> list[Continuation]:  # type: ignore[override]
        await asyncio.sleep(0)
        return super().generate(rows)


def test_a_policy_needs_generate() -> None:
    class Mute(Policy):
        pass

    with pytest.raises(TypeError, match="generate"):
        Mute()  # type: ignore[abstract]


@pytest.mark.parametrize("policy", [Plain(), Async()])
def test_everything_else_has_a_default(policy: Policy) -> None:
    assert policy.capabilities == Capabilities()
    assert (policy.refusal(ROW.request, 5), policy.context_length) == (None, None)
    assert (has_own_submit(policy), policy.has_own_refusal) == (False, False)
    policy.release("s")
    assert [one.text for one in policy.submit([ROW]).result()] == ["x"]
    assert search(policy=policy).invoke(ASKED, **SMALL).text == "x"


def test_capabilities_of_a_subclass_are_read_one_by_one_too() -> None:
    class Strict(Plain):
        capabilities = Capabilities(enforces_formats=True, enforces_grounding=True, supports_tools=False)

    policy = Strict()
    assert (policy.enforces_formats, policy.enforces_grounding, policy.supports_tools) == (True, True, False)
    made = search(policy=policy)
    assert made.invoke(ASKED, **SMALL, grounded=True).text == "x"
    with pytest.raises(RequestError, match=r"grounded=True is not enforced by Plain"):
        search(policy=Plain()).invoke(ASKED, **SMALL, grounded=True)


class Queueing(Plain):
    """A policy that is called by its own submit."""

    def __init__(self) -> None:
        self.queued = 0

    @submits
    def submit(self, rows: Sequence[Row]) -> Future[Any]:
        self.queued += 1
        done: Future[Any] = Future()
        done.set_result(self.generate(rows))
        return done

    def refusal(self, request: Request, max_new_tokens: int) -> str | None:
        return "too long" if "long" in request.instruction else None


@pytest.mark.parametrize("adapted", [False, True])
def test_what_a_policy_overrides_is_used_in_a_search(adapted: bool) -> None:
    own = Queueing()
    given: Any = own
    if adapted:
        given = SimpleNamespace(generate=own.generate, submit=own.submit, refusal=own.refusal)
    made = search(policy=given, guard=None, mutator=lambda request, instruction, n, seed: ["A long one"] * n)
    result = made.invoke(ASKED, **SMALL)
    assert own.queued == 1
    notes = [note for event in result.events for note in event.delta.notes]
    assert "refused 'A long one': too long" in notes


def test_an_objects_attributes_are_its_capabilities() -> None:
    given = SimpleNamespace(generate=Plain().generate)
    policy = as_policy(given)
    assert policy.capabilities == Capabilities()
    given.ranks_tokens = given.stops_in_time = given.enforces_formats = given.enforces_grounding = True
    given.supports_tools, given.context_length = False, 99
    assert policy.capabilities == Capabilities(True, True, True, True, supports_tools=False)
    assert policy.context_length == 99
    given.tool_syntax = object()
    assert as_policy(given).capabilities.reads_tool_calls
    given.capabilities = Capabilities(stops_in_time=True)
    assert policy.capabilities == given.capabilities
    assert as_policy(policy) is policy


def test_tool_syntax_is_not_read_where_it_might_need_a_request() -> None:
    class Asks:
        def generate(self, rows: Any) -> Any:
            return Plain().generate(rows)

        @property
        def tool_syntax(self) -> Any:
            raise AssertionError("read")

    assert as_policy(Asks()).capabilities.reads_tool_calls


def test_a_refusal_names_what_was_given() -> None:
    class Mine(SimpleNamespace):
        pass

    for given in (Mine(generate=Plain().generate), Plain()):
        with pytest.raises(ConfigError, match=rf"which .*{type(given).__name__}.* does not rank"):
            search(policy=given).invoke(ASKED, **{**SMALL, "replacement_period": 1}, decoding="candidates")


def test_built_in_policies_tell_what_they_can_do() -> None:
    local = LocalPolicy.from_pretrained(policy_path())
    assert local.capabilities == Capabilities(True, True, True, True, True, reads_tool_calls=True, stops_at_text=True)
    assert ScriptedPolicy().capabilities == Capabilities(ranks_tokens=True, supports_tools=True, rewords=False)
    unknown = EndpointPolicy("http://127.0.0.1:9")
    assert unknown.capabilities == Capabilities(enforces_grounding=True, reads_tool_calls=True)
    assert isinstance(unknown, Policy)
    assert unknown.context_length is None


# -- scorers


class Trial(Scorer):
    """A scorer that is to be tried, and notes for which search it let go."""

    released: list[str]
    tried: list[str]

    @property
    def needs_preflight(self) -> bool:
        return not self.tried

    async def try_out(self, request: Request) -> None:
        self.tried.append(request.instruction)

    def release(self, search_id: str) -> None:
        self.released.append(search_id)

    async def score(self, request: Request, responses: Sequence[Response]) -> list[float]:
        return [1.0 for _ in responses]


def test_a_scorers_defaults() -> None:
    scorer = ScriptedScorer()
    assert (scorer.needs_preflight, has_own_submit(scorer), scorer.components, scorer.resources) == (
        False,
        False,
        (),
        (),
    )
    assert scorer.submit(ROW.request, [Response(text="good good")]).result() == [2.0]
    scorer.release("s")
    asyncio.run(scorer.try_out(ROW.request))


def test_a_scorer_within_a_sum_is_tried_and_released() -> None:
    inner = Trial(released=[], tried=[])
    result = search(scorer=WeightedSum(scorers=(inner, ScriptedScorer()), weights=(1, 0))).invoke(ASKED, **SMALL)
    assert result.reward == 1.0
    assert (len(inner.tried), len(inner.released)) == (1, 1)


def test_an_object_that_scores_is_released() -> None:
    released: list[str] = []
    given = SimpleNamespace(score=lambda request, responses: [0.5 for _ in responses], release=released.append)
    made = search(scorer=given)
    assert made.invoke(ASKED, **SMALL).reward == 0.5
    assert len(released) == 1
    assert as_scorer(given).resources == (given,)


def test_operators_are_made_once() -> None:
    made = search(policy=SimpleNamespace(generate=Plain().generate))
    assert made.policy_for() is made.policy_for()
    first, again = (made.operators(made.config) for _ in range(2))
    assert all(first[name] is again[name] for name in ("decode", "score"))
    assert isinstance(first["decode"], Decoder)
