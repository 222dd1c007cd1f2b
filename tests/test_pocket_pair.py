"""The main job, end to end: the embedded pair through the chat model."""

import asyncio
import re
from typing import Any

import pytest
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate, PromptTemplate
from langchain_core.runnables import RunnableLambda

from darwin_align import DarwinChatModel, DarwinSearch, Request, Response, Sampling, SearchConfig
from darwin_align.backends.scripted import ScriptedPolicy
from darwin_align.core import Clause
from darwin_align.core.errors import ConfigError, ContextLengthError
from darwin_align.operators import ChatModelMutator, Decoder, FunctionScorer, PolicyMutator, TopKReplacement
from darwin_align.operators.prompts import MutationPrompt
from darwin_align.pocket import MUTATION_PROMPT, held_out, policy_path
from darwin_align.pocket.pair import pocket_config, pocket_search

TASKS = ["brew green tea", "bake bread"]


@pytest.fixture(scope="module")
def model() -> DarwinChatModel:
    return DarwinChatModel(config=SearchConfig(cycles=1, mutations=3, max_new_tokens=64, seed=5))


@pytest.mark.slow
def test_every_way_of_calling_gives_the_same_text(model: DarwinChatModel) -> None:
    prompt = ChatPromptTemplate([("system", "You are a helpful assistant."), ("human", "How do I {task}?")])
    chain = prompt | model | StrOutputParser()
    inputs = [{"task": TASKS[i % 2]} for i in range(4)]
    alone = [chain.invoke(inputs[0]), chain.invoke(inputs[1])]
    assert chain.batch(inputs) == alone * 2
    assert ["".join(chain.stream(given)) for given in inputs[:2]] == alone

    async def asynchronously() -> list[str]:
        return [await chain.ainvoke(inputs[0]), "".join([part async for part in chain.astream(inputs[1])])]

    assert asyncio.run(asynchronously()) == alone
    assert alone[0] != alone[1]


def test_the_answer_says_how_it_was_found(model: DarwinChatModel) -> None:
    answer = model.invoke("How do I brew green tea?")
    told = answer.response_metadata["darwin"]
    assert told["reward"] >= told["first_reward"]
    assert told["cycles"] == 1
    assert told["seed"] == 5
    assert told["stop_reason"] == "cycles"
    assert "green tea" in told["instruction"]
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["output_tokens"] == told["usage"]["decoded_tokens"] > 0
    assert told["usage"]["reward_tokens"] > 0


def test_per_call_settings_decide(model: DarwinChatModel) -> None:
    question = held_out(1)[0]
    short = model.invoke(question, max_tokens=8)
    assert short.response_metadata["finish_reason"] == "length"
    stopped = model.invoke(question, stop=["."])
    assert "." not in stopped.content
    assert model.bind(seed=6).invoke(question).content != model.invoke(question).content
    greedy = {model.invoke(question, temperature=0.0, cycles=0, seed=seed).content for seed in (1, 2)}
    assert len(greedy) == 1
    ranked = model.generate([[HumanMessage(question)]], n=2).generations[0]
    rewards = [generation.message.response_metadata["darwin"]["reward"] for generation in ranked]
    assert len(rewards) == 2
    assert rewards == sorted(rewards, reverse=True)


def test_a_search_of_its_own_seed_differs_and_repeats() -> None:
    search = pocket_search(SearchConfig(cycles=1, mutations=2, champions=1))
    result = search.invoke("How do I bake bread?")
    again = search.invoke("How do I bake bread?", seed=result.config.seed)
    assert again.text == result.text
    assert again.ranking == result.ranking


def test_the_prompt_is_the_one_that_the_policy_was_trained_on() -> None:
    search = pocket_search()
    assert isinstance(search.mutation_prompt, MutationPrompt)
    request, _ = search.request("How do I bake bread?", {})
    rendered = search.mutation_prompt.render(request, "How do I bake bread?", 5)
    assert rendered == MUTATION_PROMPT.format(instruction="How do I bake bread?")


def test_settings_by_hand_win_over_the_pairs_defaults() -> None:
    assert pocket_config(SearchConfig(replacement_period=7)).replacement_period == 7
    assert pocket_config().replacement_period == pocket_config(SearchConfig()).replacement_period != 40


def test_a_prompt_longer_than_the_context_is_refused(model: DarwinChatModel) -> None:
    with pytest.raises(ContextLengthError, match="context"):
        model.invoke("How do I brew green tea? " * 400)


def test_a_scorer_alone_takes_the_reward_models_place() -> None:
    def brevity(request: Request, responses: list[Response]) -> list[float]:
        return [-float(len(response.text)) for response in responses]

    told = DarwinChatModel(scorer=brevity, config=SearchConfig(cycles=1, seed=2)).invoke("How do I bake bread?")
    assert told.response_metadata["darwin"]["reward"] == -len(told.text)


def test_a_policy_without_a_scorer_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"DarwinSearch needs scorer=…"):
        DarwinChatModel(policy=ScriptedPolicy())


len_of = RunnableLambda(lambda prompt: float(len(prompt.to_string())))
PARTS: dict[str, Any] = {
    "name": "mine",
    "policy": ScriptedPolicy(),
    "scorer": lambda _, responses: [float(len(response.text)) for response in responses],
    "decoder": Decoder(policy=ScriptedPolicy()),
    "mutator": lambda request, instruction, n, seed: [f"{instruction} Please."] * n,
    "selector": TopKReplacement(survivors=1),
    "config": SearchConfig(cycles=1),
    "sampling": Sampling(temperature=0.5),
    "clauses": (Clause(text="Be brief."),),
    "grounded": "where_possible",
    "mutation_prompt": MutationPrompt("Reword this: {instruction}"),
    "guard": None,
    "progress": True,
}
SMALL: dict[str, Any] = {"cycles": 1, "mutations": 2, "max_tokens": 6, "seed": 1}


def test_every_field_of_a_search_is_looked_at_here() -> None:
    assert PARTS.keys() == DarwinSearch.model_fields.keys()


@pytest.mark.parametrize("name", PARTS)
def test_every_part_of_a_search_may_be_given_beside_the_embedded_pair(name: str) -> None:
    needed: dict[str, Any] = {"scorer": PARTS["scorer"]} if name in ("policy", "decoder") else {}
    if name in ("decoder", "clauses"):
        needed["mutator"] = "identity" if name == "decoder" else "clauses"
    single = {setting: value for setting, value in SMALL.items() if name != "config" or setting != "cycles"}
    model = DarwinChatModel(**{name: PARTS[name]}, **needed, **single)
    holder: Any = model if name == "name" else model.search
    if name == "clauses":
        assert model.search.config.clauses == PARTS[name]
    elif name not in ("config", "sampling"):
        assert getattr(holder, name) == PARTS[name]
    result = model.search.invoke("How do I bake bread?")
    assert result.text == model.invoke("How do I bake bread?").text != ""
    assert result.request.sampling == (PARTS[name] if name == "sampling" else Sampling())


@pytest.mark.parametrize("name", ["policy", "decoder"])
def test_what_the_embedded_reward_model_cannot_read_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"^DarwinSearch needs scorer=…$"):
        DarwinChatModel(**{name: PARTS[name]})


@pytest.mark.parametrize("name", ["policy", "decoder", "mutator", "selector", "guard"])
def test_no_part_is_none_at_all(name: str) -> None:
    model = DarwinChatModel(**{name: None}, **SMALL)
    assert model.invoke("How do I bake bread?").text


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("Reword this: {instruction}", MutationPrompt("Reword this: {instruction}")),
        ("Write {n}: {instruction}", MutationPrompt("Write {n}: {instruction}", one_per_reply=False)),
    ],
)
def test_a_template_is_a_mutation_prompt(given: str, meant: MutationPrompt) -> None:
    assert DarwinChatModel(mutation_prompt=given).search.mutation_prompt == meant
    parts: Any = {"policy": ScriptedPolicy(), "scorer": PARTS["scorer"]}
    assert DarwinSearch(**parts, mutation_prompt=given).mutation_prompt == meant
    assert PolicyMutator(policy=ScriptedPolicy(), prompt=given).prompt == meant
    writer = FakeListChatModel(responses=["1. Explain the baking of bread."])
    assert ChatModelMutator(model=writer, prompt=given).prompt == meant


def test_a_mutation_prompt_is_what_the_policy_is_asked_with() -> None:
    prompts = []

    class Asked(ScriptedPolicy):
        def generate(self, rows: Any) -> Any:
            prompts.extend(row.request.instruction for row in rows)
            return super().generate(rows)

    search = DarwinSearch(policy=Asked(), scorer=PARTS["scorer"], mutation_prompt="Reword this: {instruction}")
    search.invoke("How do I bake bread?", mutator="policy", cycles=1, mutations=1, max_tokens=6, seed=1)
    pattern = r"Reword this: <(request-[0-9a-f]{8})>\nHow do I bake bread\?\n</\1>"
    assert any(re.fullmatch(pattern, prompt) for prompt in prompts)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mutation_prompt": "Reword this."}, r"^a mutation prompt needs the placeholder \{instruction\}"),
        ({"mutation_prompt": "X {instruction}", "mutator": PARTS["mutator"]}, r"^mutation_prompt would be ignored"),
        ({"mutation_prompt": 5}, r"mutation_prompt = 5 is refused"),
    ],
)
def test_mutation_prompts_that_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DarwinChatModel(**arguments)


# -- a policy and a scorer that are given as they are


def brief(request: Request, responses: Any) -> list[float]:
    return [-float(len(response.text)) for response in responses]


@pytest.mark.parametrize(
    "reward",
    [
        brief,
        FunctionScorer(function=brief),
        RunnableLambda(lambda given: -float(len(given["response"]))),
        PromptTemplate.from_template("{response}") | len_of,
    ],
    ids=["function", "Scorer", "runnable", "chain"],
)
def test_a_loaded_policy_takes_any_scorer(reward: Any) -> None:
    model = DarwinChatModel.from_pretrained(policy_path(), reward, threads=1, **SMALL)
    assert model.model_name == str(policy_path())
    assert model.invoke("How do I bake bread?").response_metadata["darwin"]["reward"] is not None


def test_a_policy_may_be_an_object() -> None:
    model = DarwinChatModel.from_pretrained(ScriptedPolicy(), brief, **SMALL)
    assert model.invoke("How do I bake bread?").text
    assert model.model_name == "darwin"


@pytest.mark.parametrize(
    ("policy", "reward", "options", "message"),
    [
        (ScriptedPolicy(), "http://127.0.0.1:1", {}, r"reward='http.* give reward=EndpointScorer\(base_url='http"),
        ("https://127.0.0.1:1", brief, {}, r"policy='http.* give policy=EndpointPolicy\(base_url='http"),
        (ScriptedPolicy(), None, {}, r"^reward=None: give a folder, a hub id, or an object that serves as reward$"),
        (
            ScriptedPolicy(),
            brief,
            {"reward_options": {"device": "cpu"}},
            r"^reward_options would be ignored: rew",
        ),
        (ScriptedPolicy(), brief, {"device": "cpu"}, r"^device would be ignored: policy and reward are objects"),
        (ScriptedPolicy(), 5, {}, r"cannot use int 5 as scorer"),
    ],
)
def test_models_that_cannot_be_used(policy: Any, reward: Any, options: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DarwinChatModel.from_pretrained(policy, reward, **options)
