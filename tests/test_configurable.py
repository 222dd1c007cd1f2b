"""Settings that a run's config may change, as LangChain's ``configurable_fields`` names them."""

from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import ConfigurableField
from langchain_core.runnables.utils import ConfigurableFieldMultiOption, ConfigurableFieldSingleOption

from darwin_align import DarwinChatModel, SearchConfig
from darwin_align.core.errors import ConfigError
from darwin_align.langchain.settings import ALIASES
from tests.test_structured import GOOD, Tea
from tests.test_tools import Says, heat, model_of

VALUES: dict[str, Any] = {
    "temperature": 0.25,
    "top_k": 7,
    "top_p": 0.5,
    "repetition_penalty": 1.5,
    "max_tokens": 5,
    "max_completion_tokens": 5,
    "max_new_tokens": 5,
    "seed": 9,
    "cycles": 2,
    "mutations": 3,
    "survivors": 1,
    "replacement_period": 3,
    "on_failure": "raise",
    "target_reward": 99.0,
    "selector": "none",
}


def configurable(**settings: Any) -> DarwinChatModel:
    model = model_of("Some tea is green, and some is not.").configurable_fields(**settings)
    assert isinstance(model, DarwinChatModel)
    return model


@pytest.mark.parametrize("name", VALUES)
async def test_every_setting_may_be_a_configurable_field(name: str) -> None:
    model, value = configurable(**{name: ConfigurableField(id="chosen")}), VALUES[name]
    own = ALIASES.get(name, name)
    config: Any = {"configurable": {"chosen": value, "thread_id": "1"}}
    expected = model_of("Some tea is green, and some is not.").invoke("Tea?", **{name: value})
    for answer in (
        model.invoke("Tea?", config),
        await model.ainvoke("Tea?", config),
        model.with_config(configurable={"chosen": value}).invoke("Tea?"),
        *model.batch(["Tea?", "Tea?"], config),
        (ChatPromptTemplate.from_template("{q}") | model).invoke({"q": "Tea?"}, config),
    ):
        assert told(answer) == told(expected)
    chunks = [chunk.text for chunk in model.stream("Tea?", config)]
    assert "".join(chunks) == expected.text
    assert "".join([chunk.text async for chunk in model.astream("Tea?", config)]) == expected.text
    [spec] = model.config_specs
    owner: Any = model.search.config if own in SearchConfig.model_fields else model.search.sampling
    assert (spec.id, spec.default) == ("chosen", getattr(owner, own))


def told(answer: Any) -> Any:
    darwin = {**answer.response_metadata["darwin"], "usage": None}
    return answer.text, darwin


def test_a_setting_of_the_call_comes_before_the_configs() -> None:
    model = configurable(max_tokens=ConfigurableField(id="length"))
    config: Any = {"configurable": {"length": 4}}
    assert model.invoke("Tea?", config).text == "Some"
    assert model.invoke("Tea?", config, max_completion_tokens=8).text == "Some tea"
    assert model.bind(max_tokens=8).invoke("Tea?", config).text == "Some tea"
    assert model.invoke("Tea?", config, max_tokens=None).text == "Some"
    assert model.invoke("Tea?").text == "Some tea is green, and some is not."
    assert model.invoke("Tea?", configurable={"length": 4}).text == "Some"


def test_tools_and_structured_output_follow_the_config() -> None:
    policy = Says([GOOD])
    field = ConfigurableField(id="t")
    model: Any = DarwinChatModel(policy=policy, scorer=lambda _, answers: [0.0 for _ in answers], cycles=0)
    model = model.configurable_fields(temperature=field)
    config: Any = {"configurable": {"t": 0.125}}
    assert model.with_structured_output(Tea).invoke("Tea?", config) == Tea(minutes=3)
    model.bind_tools([heat]).invoke("Tea?", config)
    assert [asked.sampling.temperature for asked in policy.asked] == [0.125, 0.125]


def test_options() -> None:
    single = ConfigurableFieldSingleOption(id="length", options={"short": 4, "long": 8}, default="short")
    model = configurable(max_tokens=single)
    assert model.invoke("Tea?").text == "Some"
    assert model.invoke("Tea?", {"configurable": {"length": "long"}}).text == "Some tea"
    with pytest.raises(ConfigError, match=r"configurable 'length' has no option 'lon': did you mean 'long'\?"):
        model.invoke("Tea?", {"configurable": {"length": "lon"}})
    several = ConfigurableFieldMultiOption(id="ends", options={"dot": ".", "space": " "}, default=["dot"])
    stopping: Any = model.configurable_fields(stop=several)
    config: Any = {"configurable": {"length": "long", "ends": ["dot", "space"]}}
    assert stopping.invoke("Tea?", config).text == "Some tea"
    stopping.invoke("Tea?", {"configurable": {"length": "long"}})
    stops = [asked.stop for asked in model.search.policy.asked]
    assert (stops.count((".", " ")) > 0, stops[-1]) == (True, (".",))
    assert {spec.id for spec in stopping.config_specs} == {"ends", "length"}


def test_fields_of_the_model_itself_come_along() -> None:
    model = configurable(max_tokens=ConfigurableField(id="length"))
    both: Any = model.configurable_fields(model_name=ConfigurableField(id="name"))
    answer = both.invoke("Tea?", {"configurable": {"length": 4, "name": "tea"}})
    assert (answer.text, answer.response_metadata["model_name"]) == ("Some", "tea")
    assert [spec.id for spec in both.config_specs] == ["length", "name"]


def test_configured_answers_are_cached_apart() -> None:
    model = configurable(max_tokens=ConfigurableField(id="length")).model_copy(update={"cache": InMemoryCache()})
    texts = [model.invoke("Tea?", {"configurable": {"length": length}}).text for length in (4, 8, 4)]
    assert texts == ["Some", "Some tea", "Some"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("temprature", r"^DarwinChatModel has no setting 'temprature': did you mean 'temperature'\?$"),
        ("scorer", r"^scorer is a part of the search: make the part itself configurable, e\.g\. scorer\.conf"),
    ],
)
def test_other_names_are_refused_in_a_sentence(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        model_of("Tea.").configurable_fields(**{name: ConfigurableField(id="chosen")})


def test_a_value_out_of_range_is_refused_in_a_sentence() -> None:
    model = configurable(temperature=ConfigurableField(id="t"))
    with pytest.raises(ConfigError, match=r"Sampling\.temperature = -1 is refused"):
        model.invoke("Tea?", {"configurable": {"t": -1}})


def test_the_embedded_pair_follows_a_config() -> None:
    model = DarwinChatModel(cycles=0, seed=1).configurable_fields(max_tokens=ConfigurableField(id="length"))
    answer = model.invoke("How do I brew green tea?", {"configurable": {"length": 3}})
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["output_tokens"] == 3
