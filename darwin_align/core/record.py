"""What every record shares: frozen, without unknown fields, to JSON and back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from darwin_align.core.errors import ConfigError
from darwin_align.core.setting_names import explain_unknown
from darwin_align.core.suggestions import did_you_mean

__all__ = ["SCHEMA", "Record", "Settings", "did_you_mean", "plain_errors"]

SCHEMA = 1
"""Number of the JSON layout. It changes only when old files can no longer be read."""


class Record(BaseModel):
    """Plain frozen data that round-trips through JSON unchanged."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def to_json(self) -> str:
        """Return compact JSON with a schema number; :meth:`from_json` gives back an equal object."""
        data = self.model_dump(mode="json", exclude_defaults=True)
        return json.dumps({"schema": SCHEMA, **data}, ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Parse the output of :meth:`to_json`.

        Raises:
            ValueError: the text is no JSON object of this kind, or of a schema that this version cannot read.
        """
        data = json.loads(text)
        if not isinstance(data, dict) or (schema := data.pop("schema", None)) is None:
            raise ValueError(f"this is no {cls.__name__}: expected a JSON object with a 'schema' number")
        if schema != SCHEMA:
            raise ValueError(f"{cls.__name__} of schema {schema}; this version of darwin_align reads schema {SCHEMA}")
        return cls.model_validate(data)


class Settings(Record):
    """A record that users write by hand: a mistake raises one plain sentence, not pydantic's report."""

    def __init__(self, **settings: Any) -> None:
        with plain_errors(type(self)):
            super().__init__(**settings)


@contextmanager
def plain_errors(kind: type[BaseModel]) -> Iterator[None]:
    """Turn pydantic's report of a user's mistake into one :class:`ConfigError` of plain sentences."""
    try:
        yield
    except ValidationError as error:
        raise ConfigError("; ".join(_sentence(kind, detail) for detail in error.errors())) from None


def _sentence(kind: type[BaseModel], detail: ErrorDetails) -> str:
    name = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        hint = explain_unknown(name, kind.model_fields, kind.__name__)
        return f"unknown setting {name!r} for {kind.__name__}: {hint}"
    if detail["type"] == "missing":
        return f"{kind.__name__} needs {name}=…"
    if "error" in (context := detail.get("ctx", {})):
        return str(context["error"])
    return f"{kind.__name__}.{name} = {detail['input']!r} is refused: {detail['msg'].lower()}"
