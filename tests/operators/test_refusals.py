"""What cannot work is refused when a search is made, or at its start: nothing was reworded or decoded until then."""

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel, FakeListChatModel, FakeListLLM
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.prompts import ChatPromptTemplate, PromptTemplate
from langchain_core.runnables import ConfigurableField, RunnableLambda, RunnablePassthrough
from pydantic import Field

from darwin_align import DarwinSearch
from darwin_align.backends.endpoint import JudgeScorer
from darwin_align.backends.local import LocalPolicy
from darwin_align.backends.scripted import ScriptedPolicy, ScriptedScorer
from darwin_align.core.errors import ConfigError, EndpointServerError, RequestError, ScoreReplyError
from darwin_align.operators import ChainScorer, Decoder, PolicyMutator, ToolCallScorer, TopKReplacement, WeightedSum
from darwin_align.pocket import policy_path
from tests.core.kit import ASKED, Babbler, reword

MODEL = FakeListChatModel(responses=["3"])
SMALL: dict[str, Any] = {"max_new_tokens": 18, "replacement_period": 6, "cycles": 1, "seed": 11}


def search(**parts: Any) -> DarwinSearch:
    return DarwinSearch(**{"policy": Babbler(0.1), "scorer": ScriptedScorer(), "guard": None, **parts})


def drive(made: DarwinSearch, how: str, **settings: Any) -> Any:
    if how == "invoke":
        return made.invoke(ASKED, **{**SMALL, **settings})
    return asyncio.run(made.ainvoke(ASKED, **{**SMALL, **settings}))


class Mine:
    def score(self, request: Any, responses: Any) -> list[float]:
        return [0.0] * len(responses)


class Wrong:
    def score(self, text: str) -> float:
        return 0.0

    def __call__(self) -> None: ...


def describe(text: str) -> str:
    return "It is " + text


WRONG: list[tuple[str, Any, str]] = [
    (
        "scorer",
        lambda text: 0.0,
        r"<lambda>\(text\) as scorer: .* It is called with 2 positional arguments: score\(",
    ),
    (
        "scorer",
        lambda request, responses, *, key: [],
        r"required argument: 'key'.*score\(request, responses\)",
    ),
    ("scorer", Wrong(), r"Wrong.score\(text: str\) -> float as scorer: too many positional arguments"),
    (
        "mutator",
        lambda request, n: [],
        r"as mutator: .* 1 positional arguments: mutate\(context\) -> list",
    ),
    ("mutator", list, r"as mutator: .*mutate\(context\)"),
    ("selector", lambda rewards: rewards, r"as selector: .*select\(rewards, finished, weights, seed\) -> \(ancestors"),
    ("policy", lambda *, rows: [], r"as policy: .* 1 positional arguments: generate\(rows\) -> continuations"),
    ("policy", SimpleNamespace(generate=lambda prompt, tokens: []), r"as policy: .*generate\(rows\)"),
    ("guard", lambda text: None, r"as guard: .*guard\(request, mutation\) -> str | None"),
    ("scorer", MODEL, r"FakeListChatModel cannot be the scorer: .*JudgeScorer\(model=…\).*prompt \| model \| parser"),
    ("scorer", MODEL.bind(stop=["x"]), r"cannot be the scorer"),
    ("scorer", MODEL.with_retry(), r"cannot be the scorer"),
    ("scorer", FakeListLLM(responses=["3"]), r"FakeListLLM cannot be the scorer"),
    (
        "policy",
        MODEL,
        r"\(FakeListChatModel\) writes whole answers .*selector='top_k'.*_n'.*selector='none'.*EndpointPolicy\(",
    ),
    ("policy", MODEL.with_fallbacks([MODEL]), r"writes whole answers and cannot continue a part of one"),
    ("policy", MODEL.bind(tools=[{}]), r"tools is bound to the policy's chat model, .*bind it to the DarwinChatModel"),
    ("policy", FakeListLLM(responses=["3"]), r"FakeListLLM cannot be the policy: it completes texts"),
    (
        "policy",
        MODEL.configurable_fields(responses=ConfigurableField(id="x")),
        r"RunnableConfigurableFields cannot be the policy: .*configurable_alternatives",
    ),
    ("scorer", Mine, r"as scorer: this is the class: give an object of it, Mine\(…\)"),
    ("policy", ScriptedPolicy, r"as policy: this is the class: give an object of it, ScriptedPolicy\(…\)"),
    ("selector", TopKReplacement, r"as selector: this is the class: give an object of it, TopKReplacement\(…\)"),
    ("policy", "gpt2", r"as policy: give a Policy.*LocalPolicy.from_pretrained\('gpt2'\).*EndpointPolicy\(base_url="),
    ("scorer", "Skywork/R", r"as scorer: give a Scorer.*LocalScorer.from_pretrained\('Skywork/R'\).*JudgeScorer\(base"),
    ("mutator", "identity", r"as mutator: .*named in the settings: config=SearchConfig\(mutator=…\)"),
    ("selector", "smc", r"as selector: .*config=SearchConfig\(selector=…\)"),
    (
        "policy",
        5,
        r"cannot use int 5 as policy: give a Policy, a function, or an object with the method",
    ),
    ("scorer", 6, r"cannot use int 6 as scorer: give a Scorer"),
    ("policy", describe, r"cannot use describe as policy: it takes a text, .*EndpointPolicy\(.*LocalPolicy.from_pre"),
    ("policy", SimpleNamespace(generate=describe), r"cannot use describe as policy: it takes a text"),
    ("config", "darwin", r"name of a preset: give config=SearchConfig.preset\('darwin'\)"),
    ("config", "best_off_n", r"unknown preset 'best_off_n': did you mean 'best_of_n'\?"),
    ("config", 5, r"DarwinSearch.config = 5 is refused"),
]


@pytest.mark.parametrize(("role", "given", "message"), WRONG)
def test_what_cannot_work_is_refused_at_construction(role: str, given: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        search(**{role: given})


def test_models_of_other_libraries_are_refused_with_what_wraps_them() -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

    model = AutoModelForCausalLM.from_pretrained(policy_path())
    tokenizer = AutoTokenizer.from_pretrained(policy_path())
    writer = pipeline("text-generation", model=model, tokenizer=tokenizer)

    class Finetuned(type(model)):  # type: ignore[misc] # a class of a user's own
        pass

    for given in (model, writer, Finetuned(model.config)):
        with pytest.raises(ConfigError, match=r"as policy: it belongs to transformers; .*LocalPolicy\(model, tok"):
            search(policy=given)
        with pytest.raises(
            ConfigError,
            match=r"as scorer: it belongs to transformers; .*RewardModel\(model, tokenizer\)",
        ):
            search(scorer=given)
        with pytest.raises(ConfigError, match=r"as mutator: it belongs to transformers; a mutator is a function or"):
            search(mutator=given)


def test_modules_of_torch_are_refused_unless_they_have_the_method() -> None:
    import torch

    linear, several = torch.nn.Linear(2, 1), torch.nn.Sequential()
    for given in (linear, several):
        with pytest.raises(ConfigError, match=r"as scorer: it belongs to torch; .*RewardModel\(model, tokenizer\)"):
            search(scorer=given)
        with pytest.raises(ConfigError, match=r"as policy: it belongs to torch; .*LocalPolicy\(model, tokenizer\)"):
            search(policy=given)

    class Scores(torch.nn.Module):
        def score(self, request: Any, responses: Any) -> list[float]:
            return [1.5] * len(responses)

    assert drive(search(scorer=Scores()), "invoke").reward == 1.5


def test_operators_refuse_what_is_no_policy_as_a_search_does() -> None:
    for made in (Decoder, PolicyMutator):
        with pytest.raises(ConfigError, match=r"cannot use int 5 as policy"):
            made(policy=5)
        with pytest.raises(ConfigError, match=r"as policy: this is the class: give an object of it"):
            made(policy=ScriptedPolicy)


def test_a_function_that_rewards_tool_calls_is_checked_too() -> None:
    with pytest.raises(ConfigError, match=r"as scorer of tool calls: .*function\(request, calls\) -> float"):
        ToolCallScorer(policy=Babbler(0.1), function=lambda calls: 0.0)


def test_functions_with_more_arguments_than_they_need_are_taken() -> None:
    def score(request: Any, responses: Any, scale: float = 1.0, **more: Any) -> list[float]:
        return [scale] * len(responses)

    assert drive(search(scorer=score, mutator=lambda *given: [*reword(*given)]), "invoke").reward == 1.0


@pytest.mark.parametrize(
    ("role", "prompt", "message"),
    [
        (
            "scorer",
            "Rate {answer} to {question}.",
            r"requires \{answer\}, \{question\}, .*\{instruction\}, \{resp",
        ),
        ("scorer", "Rate {reponse} to {instruction}.", r"the scoring chain's prompt requires \{reponse\}"),
        (
            "mutator",
            "Reword {text}.",
            r"the rewording chain's prompt requires \{text\}, .*\{instruction\}, \{n\}",
        ),
        ("mutator", "Reword {instruction} as {response}.", r"requires \{response\}, which it is not given"),
    ],
)
def test_a_misnamed_prompt_variable_is_refused_at_construction(role: str, prompt: str, message: str) -> None:
    for template in (ChatPromptTemplate.from_template(prompt), PromptTemplate.from_template(prompt)):
        plain = template | MODEL | StrOutputParser()
        for chain in (plain, plain.with_retry(), {"prompt": template} | RunnableLambda(str)):
            with pytest.raises(ConfigError, match=message):
                search(**{role: chain})


def test_variables_that_are_filled_otherwise_are_taken() -> None:
    prompt = ChatPromptTemplate.from_template("Rate {response} by {rubric}.")
    for chain in (
        prompt.partial(rubric="length") | MODEL,
        RunnablePassthrough.assign(rubric=lambda given: "length") | prompt | MODEL,
        RunnableLambda(lambda given: {**given, "rubric": "length"}) | prompt | MODEL,
        ChatPromptTemplate([("placeholder", "{history}"), ("human", "{messages} {finished}")]) | MODEL,
    ):
        assert drive(search(scorer=chain), "invoke").reward == 3.0


# -- before the first token


class Counting(Babbler):
    """A policy that counts its calls."""

    def __init__(self) -> None:
        super().__init__(0.1)
        self.calls = 0

    def generate(self, rows: Any) -> Any:
        self.calls += 1
        return super().generate(rows)


class Judge(BaseChatModel):
    """Says the same of everything, and that it took 10 tokens."""

    says: str = "3"
    calls: list[str] = Field(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "judge"

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        self.calls.append(messages[-1].text)
        usage = {"input_tokens": 9, "output_tokens": 1, "total_tokens": 10}
        message = AIMessage(self.says, usage_metadata=usage)  # type: ignore[arg-type]
        return ChatResult(generations=[ChatGeneration(message=message)])


RATE = ChatPromptTemplate.from_template("Rate {response}.")
JUDGES: dict[str, Callable[[Judge], Any]] = {
    "chain": lambda model: RATE | model,
    "judge": lambda model: JudgeScorer(model=model),
    "part": lambda model: WeightedSum(scorers=(ScriptedScorer(), ChainScorer(chain=RATE | model)), weights=(1, 1)),
}


@pytest.mark.parametrize("how", ["invoke", "ainvoke"])
@pytest.mark.parametrize("form", JUDGES)
def test_a_judge_that_talks_is_found_before_anything_is_decoded(form: str, how: str) -> None:
    mutated: list[str] = []

    def mutate(*given: Any) -> list[str]:
        mutated.append("once")
        return reword(*given)

    policy = Counting()
    scorer = JUDGES[form](Judge(says="A lovely answer."))
    with pytest.raises((ScoreReplyError, EndpointServerError), match=r"A lovely answer\."):
        drive(search(scorer=scorer, policy=policy, mutator=mutate), how)
    assert (policy.calls, mutated) == (0, [])


@pytest.mark.parametrize("how", ["invoke", "ainvoke"])
@pytest.mark.parametrize("form", JUDGES)
def test_a_good_judge_is_tried_once_and_its_tokens_count(form: str, how: str) -> None:
    model = Judge(says="Score: 3" if form == "judge" else "3", calls=[])
    made = search(scorer=JUDGES[form](model))
    first = drive(made, how)
    assert "Yes." in model.calls[0]
    assert first.usage.reward_tokens == 10 * len(model.calls)
    before = len(model.calls)
    second = drive(made, how)
    assert second.usage.reward_tokens == 10 * (len(model.calls) - before) == first.usage.reward_tokens - 10
    assert (second.text, second.reward) == (first.text, first.reward)
    assert made.invoke(ASKED, **SMALL, replay=first.events).usage == first.usage


async def test_searches_that_begin_at_once_share_one_trial() -> None:
    model = Judge(says="3")
    made = search(scorer=RATE | model)
    await asyncio.gather(*(made.ainvoke(ASKED, **SMALL) for _ in range(4)))
    assert sum("Yes." in prompt for prompt in model.calls) == 1


@pytest.mark.parametrize("kind", ["chain", "judge"])
def test_the_trial_can_be_left_out(kind: str) -> None:
    model = Judge(says="talk")
    scorer = ChainScorer(chain=RATE | model, trial=False) if kind == "chain" else JudgeScorer(model=model, trial=False)
    policy = Counting()
    with pytest.raises((ScoreReplyError, EndpointServerError)):
        drive(search(scorer=scorer, policy=policy), "invoke")
    assert policy.calls > 0


def test_a_template_without_tools_is_refused_before_anything_is_reworded() -> None:
    bare = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
    mutated: list[int] = []

    def mutate(*given: Any) -> list[str]:
        mutated.append(1)
        return reword(*given)

    policy = LocalPolicy.from_pretrained(policy_path(), chat_template=bare)
    tool = {"type": "function", "function": {"name": "heat", "parameters": {"type": "object", "properties": {}}}}
    with pytest.raises(RequestError, match="the policy's chat template does not show tools"):
        drive(search(policy=policy, mutator=mutate), "invoke", tools=[tool])
    assert not mutated
