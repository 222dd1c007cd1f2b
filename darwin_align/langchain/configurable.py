"""Settings of a chat model that a run's config may change: ``config={"configurable": {...}}``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from langchain_core.runnables import ConfigurableField
from langchain_core.runnables.configurable import make_options_spec
from langchain_core.runnables.utils import (
    AnyConfigurableField,
    ConfigurableFieldMultiOption,
    ConfigurableFieldSingleOption,
    ConfigurableFieldSpec,
)

from darwin_align.core import Sampling, SearchConfig
from darwin_align.core.errors import ConfigError
from darwin_align.core.record import did_you_mean
from darwin_align.core.types import Request
from darwin_align.langchain.settings import ALIASES

__all__ = ["CONFIGURABLE", "chosen_settings", "setting_specs"]

_OWNERS = (SearchConfig, Sampling, Request)
_OF_A_CALL = frozenset({"grounded", "tool_choice", "parallel_tool_calls", "response_format"})
CONFIGURABLE = SearchConfig.model_fields.keys() | Sampling.model_fields.keys() | ALIASES.keys() | _OF_A_CALL
"""Names of the settings that :meth:`DarwinChatModel.configurable_fields
<darwin_align.chat_model.DarwinChatModel.configurable_fields>` takes beside the model's own fields."""


def setting_specs(
    fields: Mapping[str, AnyConfigurableField], current: Callable[[str], Any]
) -> list[ConfigurableFieldSpec]:
    """Describe configurable settings, as LangChain's ``config_specs`` do.

    Args:
        fields: a configurable field for each setting, by the setting's name.
        current: returns the value that a setting has without any config.
    """
    return [_spec(field, ALIASES.get(name, name), current) for name, field in fields.items()]


def _spec(field: AnyConfigurableField, name: str, current: Callable[[str], Any]) -> ConfigurableFieldSpec:
    if not isinstance(field, ConfigurableField):
        return make_options_spec(field, None)
    about = next(owner.model_fields[name] for owner in _OWNERS if name in owner.model_fields)
    return ConfigurableFieldSpec(
        id=field.id,
        name=field.name,
        description=field.description,
        annotation=field.annotation or about.annotation,
        default=current(name),
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
