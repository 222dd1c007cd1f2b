"""What LangChain puts around a chat model: caches, limits, retries, fallbacks, and operators swapped run by run."""

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.exceptions import ModelConnectionError, ModelError
from langchain_core.language_models import BaseChatModel, FakeListChatModel
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.rate_limiters import BaseRateLimiter
from langchain_core.runnables import ConfigurableField, RunnableLambda
from pydantic import SecretStr

from darwin_align import DarwinChatModel, DarwinSearch, Request, Sampling, SearchConfig
from darwin_align.backends.endpoint import EndpointPolicy
from darwin_align.backends.scripted import ScriptedPolicy, ScriptedScorer
from darwin_align.core.errors import ConfigError, EndpointConnectionError
from darwin_align.langchain.identity import identity
from darwin_align.operators import (
    ClauseMutator,
    IdentityMutator,
    LexicalIntent,
    NoSelection,
    RuleMutator,
    SMCSelector,
    TopKReplacement,
    Tournament,
)
from darwin_align.operators.prompts import MutationPrompt
from tests.core.kit import ASKED, CLAUSES, Babbler, Letters, reword, search_of

SETTINGS: dict[str, Any] = {"max_new_tokens": 12, "replacement_period": 3, "cycles": 2, "seed": 5}


def model_of(**parts: Any) -> DarwinChatModel:
    own = {name: parts.pop(name) for name in list(parts) if name in DarwinChatModel.model_fields}
    return DarwinChatModel(search=search_of(**{"config": SearchConfig(**SETTINGS), **parts}), **own)


# Rate limits, retries, fallbacks


class Counting(BaseRateLimiter):
    def __init__(self) -> None:
        self.asked: list[str] = []

    def acquire(self, *, blocking: bool = True) -> bool:
        self.asked.append("sync")
        return True

    async def aacquire(self, *, blocking: bool = True) -> bool:
        self.asked.append("async")
        return True


async def test_a_rate_limiter_is_asked_once_a_call() -> None:
    limiter = Counting()
    model = model_of(rate_limiter=limiter)
    model.invoke(ASKED)
    list(model.stream(ASKED))
    await model.ainvoke(ASKED)
    assert [chunk async for chunk in model.astream(ASKED)]
    assert limiter.asked == ["sync", "sync", "async", "async"]
    model.batch([ASKED] * 3)
    assert limiter.asked[4:] == ["async"] * 3


class Flaky(Babbler):
    """Unreachable so many times."""

    def __init__(self, failures: int) -> None:
        super().__init__(ends=0.1)
        self.failures = failures

    def generate(self, rows: Any) -> Any:
        if self.failures:
            self.failures -= 1
            raise EndpointConnectionError("refused")
        return super().generate(rows)


def flaky(failures: int) -> DarwinChatModel:
    return model_of(policy=Flaky(failures))


async def test_retries() -> None:
    expected = model_of().invoke(ASKED).text
    settled = {"retry_if_exception_type": (ModelConnectionError,), "wait_exponential_jitter": False}
    assert flaky(2).with_retry(**settled, stop_after_attempt=3).invoke(ASKED).text == expected
    assert (await flaky(2).with_retry(**settled, stop_after_attempt=3).ainvoke(ASKED)).text == expected
    with pytest.raises(ModelConnectionError, match="refused"):
        flaky(3).with_retry(**settled, stop_after_attempt=3).invoke(ASKED)


async def test_fallbacks() -> None:
    spare = model_of(model_name="spare")
    model = flaky(99).with_fallbacks([spare], exceptions_to_handle=(ModelError,))
    assert model.invoke(ASKED).response_metadata["model_name"] == "spare"
    assert (await model.ainvoke(ASKED)).response_metadata["model_name"] == "spare"
    assert "".join(chunk.text for chunk in model.stream(ASKED)) == spare.invoke(ASKED).text
    assert "".join([chunk.text async for chunk in model.astream(ASKED)]) == spare.invoke(ASKED).text
    assert [answer.response_metadata["model_name"] for answer in model.batch([ASKED] * 3)] == ["spare"] * 3
    with pytest.raises(ConfigError):  # a mistake is nobody's outage
        model.invoke(ASKED, survivor=2)


# Batches


class Meeting(Babbler):
    """Knows how many calls of it run at once."""

    def __init__(self) -> None:
        super().__init__(ends=0.1)
        self.now, self.most, self.lock = 0, 0, threading.Lock()

    def generate(self, rows: Any) -> Any:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(0.002)
        with self.lock:
            self.now -= 1
        return super().generate(rows)


@pytest.mark.parametrize("how", ["batch", "abatch"])
@pytest.mark.parametrize("most", [1, 2, 5])
def test_max_concurrency_is_kept(how: str, most: int) -> None:
    policy = Meeting()
    model, config = model_of(policy=policy), {"max_concurrency": most}
    asked = [f"{ASKED} {i}" for i in range(8)]
    answers = model.batch(asked, config) if how == "batch" else asyncio.run(model.abatch(asked, config))
    assert [answer.text for answer in answers] == [model_of().invoke(one).text for one in asked]
    assert policy.most <= most
    if most > 1:
        assert policy.most > 1


@pytest.mark.parametrize("how", ["batch", "abatch"])
def test_one_that_fails_spoils_no_other(how: str) -> None:
    model = model_of()
    asked: list[Any] = [ASKED, [], "How do I bake bread?", "  ", ASKED]

    def run(**more: Any) -> list[Any]:
        return model.batch(asked, **more) if how == "batch" else asyncio.run(model.abatch(asked, **more))

    found = run(return_exceptions=True)
    assert [type(answer).__name__ for answer in found] == [
        "AIMessage",
        "RequestError",
        "AIMessage",
        "RequestError",
        "AIMessage",
    ]
    assert [found[i].text for i in (0, 2, 4)] == [model.invoke(asked[i]).text for i in (0, 2, 4)]
    with pytest.raises(Exception, match="the conversation is empty"):
        run()


def test_as_completed() -> None:
    model = model_of()
    asked = [f"{ASKED} {i}" for i in range(4)]
    found = dict(model.batch_as_completed(asked))
    assert [found[i].text for i in range(4)] == [model.invoke(one).text for one in asked]


# Operators swapped run by run

short, long = (ScriptedScorer(reward=lambda text, sign=sign: sign * len(text)) for sign in (-1.0, 1.0))
SWAPPED = {
    "scorer": long.configurable_alternatives(
        ConfigurableField(id="scorer"),
        default_key="long",
        short=short,
        judge=RunnableLambda(lambda given: -float(len(given["response"]))),
    ),
    "selector": TopKReplacement(survivors=3)
    .configurable_fields(survivors=ConfigurableField(id="survivors"))
    .configurable_alternatives(ConfigurableField(id="selector"), default_key="top_k", tournament=Tournament()),
}


def swapping(**own: Any) -> DarwinChatModel:
    return model_of(**SWAPPED, **own)


def reference(**parts: Any) -> str:
    return model_of(**{"scorer": long, "selector": TopKReplacement(survivors=3), **parts}).invoke(ASKED).text


CHOICES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"scorer": "short"}, {"scorer": short}),
    ({"scorer": "judge"}, {"scorer": short}),
    ({"selector": "tournament"}, {"selector": Tournament()}),
    ({"survivors": 1}, {"selector": TopKReplacement(survivors=1)}),
    ({"selector": "tournament", "scorer": "short"}, {"selector": Tournament(), "scorer": short}),
    ({"thread_id": "somebody else's"}, {}),
]


@pytest.mark.filterwarnings("ignore::langchain_core._api.beta_decorator.LangChainBetaWarning")
@pytest.mark.parametrize(
    ("choice", "parts"),
    [pytest.param(*one, marks=[] if i in (0, 5) else pytest.mark.slow) for i, one in enumerate(CHOICES)],
)
async def test_operators_are_swapped_by_the_config(choice: dict[str, Any], parts: dict[str, Any]) -> None:
    expected, model, config = reference(**parts), swapping(), {"configurable": choice}
    assert model.search.invoke(ASKED, config).text == expected
    assert (await model.search.ainvoke(ASKED, config)).text == expected
    chain = ChatPromptTemplate.from_template("{q}") | model
    through: Any = RunnableLambda(model.invoke)
    for runnable, given in ((model, ASKED), (chain, {"q": ASKED}), (through, ASKED), (model.bind(n=1), ASKED)):
        assert runnable.invoke(given, config).text == expected
        assert (await runnable.ainvoke(given, config)).text == expected
        assert runnable.with_config(config).batch([given] * 2)[1].text == expected
        assert "".join(chunk.text for chunk in runnable.stream(given, config)) == expected
        assert "".join([chunk.text async for chunk in runnable.astream(given, config)]) == expected
        events = [e async for e in runnable.astream_events(given, config, version="v2")]
        assert [e["data"]["output"].text for e in events if e["event"] == "on_chat_model_end"] == [expected]
    v3 = await model.astream_events(ASKED, config, version="v3")
    assert (await v3.output).text == expected
    assert model.stream_events(ASKED, config, version="v3").output.text == expected
    if choice.keys() <= {"scorer", "selector", "survivors"}:
        assert model.bind(configurable=choice).invoke(ASKED).text == expected


def test_the_choices_make_a_difference() -> None:
    assert len({reference(**parts) for _, parts in CHOICES}) > 3


def test_what_can_be_chosen_is_told() -> None:
    model = swapping()
    known = {"scorer", "selector", "survivors"}
    assert {spec.id for spec in model.search.config_specs} == known
    assert {spec.id for spec in model.config_specs} == known
    assert {spec.id for spec in (ChatPromptTemplate.from_template("{q}") | model).config_specs} == known
    with pytest.raises(ValueError, match="Unknown alternative: none"):
        model.invoke(ASKED, {"configurable": {"selector": "none"}})
    with pytest.raises(ConfigError, match=r"no operator has a configurable 'selectr': did you mean 'selector'\?"):
        model.invoke(ASKED, configurable={"selectr": "tournament"})
    assert model_of().config_specs == []


def test_fields_of_a_judges_chain_can_be_chosen() -> None:
    judge = FakeListChatModel(responses=["1"]).configurable_fields(responses=ConfigurableField(id="verdict"))
    model = model_of(scorer=ChatPromptTemplate.from_template("{response}") | judge | StrOutputParser())
    assert [spec.id for spec in model.config_specs] == ["verdict"]
    for verdict in ("1", "7"):
        answer = model.invoke(ASKED, {"configurable": {"verdict": [verdict]}})
        assert answer.response_metadata["darwin"]["reward"] == float(verdict)


def test_a_swapped_mutator_is_guarded_too() -> None:
    strays = RuleMutator(templates=("Tell me about Rome.",))
    mutator = IdentityMutator().configurable_alternatives(
        ConfigurableField(id="mutator"), default_key="same", strays=strays, made=lambda: strays
    )
    search = search_of(mutator=mutator, guard=LexicalIntent(), config=SearchConfig(**SETTINGS))
    for key in ("strays", "made"):
        result = search.invoke(ASKED, {"configurable": {"mutator": key}})
        assert any("leaves the topic" in note for note in result.notes)
        assert {beam.instruction for beam in result.ranking} == {ASKED}


def test_what_a_swapped_operator_holds_is_released_and_its_room_is_kept() -> None:
    class Roomy(ScriptedScorer):
        name: str = "roomy"
        most: int = 4
        released: list[str] = []  # noqa: RUF012 - pydantic copies it

        def max_response_tokens(self, request: Request) -> int:
            return self.most

        @property
        def resources(self) -> tuple[Any, ...]:
            return (self,)

        def release(self, search_id: str) -> None:
            self.released.append(search_id)

    roomy = Roomy()
    swapped = ScriptedScorer().configurable_alternatives(ConfigurableField(id="scorer"), roomy=roomy)
    for search, config in (
        (search_of(ends=0.0, scorer=swapped), {"configurable": {"scorer": "roomy"}}),
        (search_of(ends=0.0, scorer=roomy.with_retry()), None),
        (search_of(ends=0.0, scorer=ScriptedScorer().with_fallbacks([roomy])), None),
    ):
        roomy.released.clear()
        result = search.invoke(ASKED, config, **SETTINGS)
        assert len(result.text) == 4
        assert len(roomy.released) == 1
    assert len(search_of(ends=0.0, scorer=swapped).invoke(ASKED, **SETTINGS).text) == 12


# The drawing


def test_the_graph_draws_the_loop() -> None:
    graph = swapping().search.get_graph()
    edges = {(edge.source.partition(":")[0], edge.target.partition(":")[0]) for edge in graph.edges}
    assert edges == {
        ("messages", "mutate"),
        ("mutate", "decode"),
        ("decode", "score"),
        ("score", "select"),
        ("select", "decode"),
        ("select", "mutate"),
        ("select", "result"),
    }
    drawn = graph.draw_mermaid()
    assert "TopKReplacement" in drawn
    assert "next cycle" in drawn
    chosen = swapping().search.get_graph({"configurable": {"selector": "tournament"}})
    assert "Tournament" in chosen.draw_mermaid()
    assert len((RunnableLambda(str) | swapping().search | StrOutputParser()).get_graph().nodes) > 6


@pytest.mark.parametrize(
    ("preset", "edges"),
    [
        ("sample", "messages-decode decode-score score-result"),
        ("best_of_n", "messages-mutate mutate-decode decode-score score-result"),
        (
            "sample_replace",
            "messages-mutate mutate-decode decode-score score-select select-decode select-result",
        ),
    ],
)
def test_the_graph_leaves_out_what_the_settings_do(preset: str, edges: str) -> None:
    graph = search_of(mutator=None, config=SearchConfig.preset(preset)).get_graph()
    assert [f"{e.source.partition(':')[0]}-{e.target.partition(':')[0]}" for e in graph.edges] == edges.split()


# Cache keys


POLICY = ScriptedPolicy()
SCORER = ScriptedScorer(reward=Letters())
BASE: dict[str, Any] = {"policy": POLICY, "scorer": SCORER, "mutator": None, "config": SearchConfig(seed=5)}


VARIANTS: list[dict[str, Any]] = [
    {},
    {"model_name": "another"},
    {"bypass": bool},
    {"output_version": "v1"},
    {"stop": ("end",)},
    {"policy": ScriptedPolicy()},
    {"policy": Babbler(0.1)},
    {"policy": Babbler(0.2)},
    {"policy": EndpointPolicy("http://127.0.0.1:9", model="m", api_key="k")},
    {"policy": EndpointPolicy("http://127.0.0.1:9", model="n", api_key="k")},
    {"policy": EndpointPolicy("http://127.0.0.1:9", model="m", extra_body={"min_p": 0.1}, api_key="k")},
    {"policy": EndpointPolicy("http://127.0.0.1:9", model="m", chat_template="x" * 9000, api_key="k")},
    {"policy": EndpointPolicy("http://127.0.0.1:9", model="m", chat_template="x" * 8999 + "y", api_key="k")},
    {"scorer": ScriptedScorer()},
    {"scorer": ScriptedScorer(reward=Letters(7))},
    {"scorer": lambda request, responses: [0.0] * len(responses)},
    {"scorer": lambda request, responses: [0.0] * len(responses)},
    {"scorer": ScriptedScorer(reward=partial(max, 1))},
    {"scorer": ScriptedScorer(reward=partial(max, 2))},
    {"scorer": SCORER.with_retry()},
    {"scorer": RunnableLambda(lambda given: 1.0)},
    {"scorer": RunnableLambda(lambda given: 1.0)},
    {"scorer": SWAPPED["scorer"]},
    {"mutator": IdentityMutator()},
    {"mutator": RuleMutator(templates=("{instruction} a",))},
    {"mutator": RuleMutator(templates=("{instruction} b",))},
    {"clauses": CLAUSES},
    {"mutator": ClauseMutator(clauses=CLAUSES)},
    {"mutator": ClauseMutator(clauses=CLAUSES, most=1)},
    {"mutator": reword},
    {"mutation_prompt": MutationPrompt("Reword: {instruction}")},
    {"mutation_prompt": MutationPrompt("Reword: {instruction}", one_per_reply=False)},
    {"guard": LexicalIntent()},
    {"guard": LexicalIntent(ignore=("tea",))},
    {"selector": TopKReplacement(survivors=2)},
    {"selector": NoSelection()},
    {"selector": SMCSelector(temperature=0.5)},
    {"selector": Tournament(size=3)},
    {"sampling": Sampling(temperature=0.1)},
    {"sampling": Sampling(top_p=0.1)},
    {"grounded": True},
    {"grounded": "where_possible"},
    *(
        {"config": SearchConfig(**{"seed": 5, **changes})}
        for changes in (
            {"seed": 6},
            {"mutations": 8},
            {"beams_per_mutation": 2},
            {"survivors": 2},
            {"replacement_period": 7},
            {"cycles": 2},
            {"champions": 1},
            {"lookahead": 2},
            {"max_new_tokens": 9},
            {"mutator": "identity"},
            {"mutator": "clauses", "clauses": ({"text": "a"},)},
            {"mutator": "clauses", "clauses": ({"text": "b"},)},
            {"mutator": "clauses", "clauses": ({"text": "a", "worth": 0.5},)},
            {"selector": "smc"},
            {"budget": {"tokens": 100}},
            {"budget": {"reward_calls": 100}},
            {"on_failure": "raise"},
            {"choice": "soft"},
            {"choice": "soft", "reward_temperature": 0.5},
            {"selector": "smc", "resample_below": 0.1},
            {"selector": "speculative_rejection", "rejection": 0.25},
            {"patience": 2},
            {"patience": 2, "min_improvement": 0.5},
            {"target_reward": 3.0},
        )
    ),
    {"config": SearchConfig.preset("args", seed=5, reward_weight=2.0)},
]


def key(**variant: Any) -> str:
    return model_of(**{**BASE, **variant})._get_llm_string()


def test_different_settings_never_share_a_key_and_equal_ones_do() -> None:
    keys = [key(**variant) for variant in VARIANTS]
    assert len(set(keys)) == len(VARIANTS)
    assert [key(**variant) for variant in VARIANTS] == keys
    assert key(config=SearchConfig(seed=5, survivors=3)) == key()  # said or not, it is the same


def test_every_setting_is_among_the_variants() -> None:
    """A new field of the search, its settings or the chat model must be looked at here."""
    varied = {name for variant in VARIANTS for name in variant}
    assert varied == {*DarwinSearch.model_fields, "model_name", "bypass", "output_version", "stop"} - {
        "name",
        "decoder",
        "progress",
    }
    base = SearchConfig(seed=5)
    configs = [variant["config"] for variant in VARIANTS if "config" in variant]
    assert {n for c in configs for n in SearchConfig.model_fields if getattr(c, n) != getattr(base, n)} == set(
        SearchConfig.model_fields
    )
    own = DarwinChatModel.model_fields.keys() - BaseChatModel.model_fields.keys()
    assert own - {"search", "streaming", "configurable_settings"} == {"bypass", "model_name", "stop"}


def test_what_decides_nothing_is_in_no_key() -> None:
    named = {"policy": EndpointPolicy("http://127.0.0.1:9", model="m", api_key="one")}
    other = {"policy": EndpointPolicy("http://127.0.0.1:9", model="m", api_key="two")}
    assert key(**named) == key(**other)
    assert key(tags=["a"], metadata={"b": 1}, rate_limiter=Counting(), callbacks=[BaseCallbackHandler()]) == key()
    assert key(streaming=True) == key()
    model = model_of(**BASE)
    assert model._get_llm_string(on_event=print, seed=1) == model._get_llm_string(seed=1)


@pytest.mark.parametrize("how", ["invoke", "ainvoke", "batch", "chain"])
def test_the_cache_is_hit_by_equal_calls_alone(how: str) -> None:
    cache, policy = InMemoryCache(), ScriptedPolicy()
    model = DarwinChatModel(search=search_of(policy=policy, config=SearchConfig(**SETTINGS), **SWAPPED), cache=cache)

    def asks(config: dict[str, Any] | None = None, **call: Any) -> bool:
        calls = policy.calls
        {
            "invoke": lambda: model.invoke(ASKED, config, **call),
            "ainvoke": lambda: asyncio.run(model.ainvoke(ASKED, config, **call)),
            "batch": lambda: model.batch([ASKED], config, **call),
            "chain": lambda: (RunnableLambda(str) | model.bind(**call)).invoke(ASKED, config),
        }[how]()
        return policy.calls > calls

    calls: list[dict[str, Any]] = [
        {},
        {"seed": 6},
        {"n": 2},
        {"max_tokens": 7},
        {"temperature": 0.1},
        {"stop": ["x"]},
        {"budget": {"tokens": 9}},
        {"replay": model.search.invoke(ASKED).events[:3]},
        {"config": {"configurable": {"selector": "tournament"}}},
        {"config": {"configurable": {"survivors": 1}}},
        {"config": {"configurable": {"scorer": "short"}}},
    ]
    for call in calls:
        assert asks(**call), call
        assert not asks(**call), call
        assert not asks(**call, on_event=lambda *_: None), call
    assert not asks(config={"configurable": {"thread_id": "1"}, "tags": ["x"]})


def test_an_address_used_again_is_no_other_objects_key() -> None:
    seen = set()
    for _ in range(50):
        scorer: Callable[..., Any] = lambda request, responses: [0.0] * len(responses)  # noqa: E731
        seen.add(key(scorer=scorer))
        del scorer
        gc.collect(0)
    assert len(seen) == 50
    kept = lambda: 0  # noqa: E731
    known = weakref.ref(kept)
    assert identity(kept) == identity(kept)
    del kept
    gc.collect()
    assert known() is None  # to know it is not to keep it


def test_local_models_are_told_apart_by_their_options() -> None:
    from darwin_align.backends.local import LocalPolicy, LocalScorer
    from darwin_align.pocket import policy_path, reward_path

    load = partial(LocalPolicy.from_pretrained, policy_path(), device="cpu")
    policies = [load(), load(threads=1), load(chat_template=Path(policy_path()) / "chat_template.jinja")]
    assert len({key(policy=policy) for policy in policies}) == 3
    assert key(policy=load()) == key(policy=policies[0])
    scorer = partial(LocalScorer.from_pretrained, reward_path(), device="cpu")
    assert key(scorer=scorer()) == key(scorer=scorer()) != key(scorer=scorer(turn="open"))
    in_memory = LocalPolicy(policies[0]._loaded.model, policies[0]._loaded.tokenizer)
    assert key(policy=in_memory) == key(policy=in_memory) != key(policy=policies[0])


def test_identity_of_this_and_that() -> None:
    class Slotted:
        __slots__ = ()

    slotted, method = Slotted(), POLICY.generate
    for value in (slotted, method, len, {"b": {1, 2}, "a": SecretStr("k")}, frozenset("ab"), Path("x"), int, None):
        assert identity(value) == identity(value)
        assert " at 0x" not in identity(value)
    assert identity(slotted) != identity(Slotted())
    assert identity(POLICY.generate) == identity(method) != identity(ScriptedPolicy().generate)
    assert "k" not in identity(SecretStr("k")).replace("secret", "")
    assert identity({"a": 1, "b": 2}) == identity({"b": 2, "a": 1}) != identity({"a": 2, "b": 1})
    assert identity("x" * 500) != identity("x" * 501)


def test_a_whole_model_of_defaults_has_a_lasting_key() -> None:
    keys = {DarwinChatModel()._get_llm_string() for _ in range(2)}
    assert len(keys) == 1
    assert len(next(iter(keys))) < 6000
