"""Settings of a chat model that a run's config may change: ``config={"configurable": {...}}``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

from langchain_core.runnables import ConfigurableField, RunnableConfig
from langchain_core.runnables.configurable import make_options_spec
from langchain_core.runnables.utils import (
    AnyConfigurableField,
    ConfigurableFieldMultiOption,
    ConfigurableFieldSingleOption,
    ConfigurableFieldSpec,
)
from pydantic import BaseModel

from darwin_align.core import Sampling, SearchConfig
from darwin_align.core.errors import ConfigError
from darwin_align.core.record import did_you_mean
from darwin_align.core.setting_names import explain_unknown
from darwin_align.core.types import Request
from darwin_align.langchain.settings import ALIASES

__all__ = ["setting_specs", "split_fields", "with_configured"]

_OWNERS = (SearchConfig, Sampling, Request)
_OF_A_CALL = frozenset({"grounded", "tool_choice", "parallel_tool_calls", "response_format"})
CONFIGURABLE = SearchConfig.model_fields.keys() | Sampling.model_fields.keys() | ALIASES.keys() | _OF_A_CALL
"""Names of the settings that :meth:`DarwinChatModel.configurable_fields
<darwin_align.chat_model.DarwinChatModel.configurable_fields>` takes beside the model's own fields."""


def split_fields(
    given: Mapping[str, AnyConfigurableField], own: Set[str], parts: Set[str]
) -> tuple[dict[str, AnyConfigurableField], dict[str, AnyConfigurableField]]:
    """Tell settings that are to be configurable from the model's own fields.

    Args:
        given: a configurable field for each name.
        own: names of the model's fields.
        parts: names of a search's fields.

    Raises:
        ConfigError: a name is neither.
    """
    settings = {name: field for name, field in given.items() if name in CONFIGURABLE}
    fields = {name: field for name, field in given.items() if name not in settings}
    for name in fields:
        if name in own:
            continue
        if name in parts:
            raise ConfigError(
                f"{name} is a part of the search: make the part itself configurable, e.g. "
                "scorer.configurable_alternatives(ConfigurableField(id='scorer'), other=…), or one setting of it"
            )
        hint = explain_unknown(name, CONFIGURABLE | own, "DarwinChatModel")
        raise ConfigError(f"DarwinChatModel has no setting {name!r}: {hint}")
    return settings, fields


def with_configured(
    fields: Mapping[str, AnyConfigurableField],
    operators: Iterable[str],
    config: RunnableConfig,
    given: Mapping[str, Any],
) -> dict[str, Any]:
    """Return a call's arguments with what its config chooses: LangChain gives a chat model's ``_generate`` no config.

    Args:
        fields: configurable fields by the settings' names.
        operators: ids that the operators read.
        config: the run's.
        given: the call's arguments; a setting among them comes before the config's.
    """
    configurable = {**config.get("configurable", {}), **given.get("configurable", {})}
    known = {ALIASES.get(name, name) for name, value in given.items() if value is not None}
    settings = chosen_settings(fields, configurable)
    settings = {name: value for name, value in settings.items() if ALIASES.get(name, name) not in known}
    of_operators = {name: configurable[name] for name in operators if name in configurable}
    ids = {field.id for field in fields.values()} - of_operators.keys()
    own = {name: value for name, value in given.get("configurable", {}).items() if name not in ids}
    chosen = {**of_operators, **own}
    return {**given, **settings, **({"configurable": chosen} if chosen or "configurable" in given else {})}


def setting_specs(
    fields: Mapping[str, AnyConfigurableField], owners: Sequence[BaseModel]
) -> list[ConfigurableFieldSpec]:
    """Describe configurable settings, as LangChain's ``config_specs`` do.

    Args:
        fields: a configurable field for each setting, by the setting's name.
        owners: objects with the values of settings without any config; the first one that has a setting counts.
    """
    return [_spec(field, ALIASES.get(name, name), owners) for name, field in fields.items()]


def _spec(field: AnyConfigurableField, name: str, owners: Sequence[BaseModel]) -> ConfigurableFieldSpec:
    if not isinstance(field, ConfigurableField):
        return make_options_spec(field, None)
    about = next(owner.model_fields[name] for owner in _OWNERS if name in owner.model_fields)
    return ConfigurableFieldSpec(
        id=field.id,
        name=field.name,
        description=field.description,
        annotation=field.annotation or about.annotation,
        default=next((getattr(owner, name) for owner in owners if name in type(owner).model_fields), None),
        is_shared=field.is_shared,
    )


def chosen_settings(fields: Mapping[str, AnyConfigurableField], configurable: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that a config chooses, by their names.

    Args:
        fields: a configurable field for each setting, by the setting's name.
        configurable: the config's values, by the fields' ids.

    Raises:
        ConfigError: an option that the field does not have.
    """
    chosen: dict[str, Any] = {}
    for name, field in fields.items():
        if isinstance(field, ConfigurableFieldSingleOption):
            chosen[name] = _option(field, configurable.get(field.id) or field.default)
        elif isinstance(field, ConfigurableFieldMultiOption):
            chosen[name] = [_option(field, option) for option in configurable.get(field.id, field.default)]
        elif field.id in configurable:
            chosen[name] = configurable[field.id]
    return chosen


def _option(field: ConfigurableFieldSingleOption | ConfigurableFieldMultiOption, option: str) -> Any:
    if option not in field.options:
        raise ConfigError(f"configurable {field.id!r} has no option {option!r}: {did_you_mean(option, field.options)}")
    return field.options[option]
