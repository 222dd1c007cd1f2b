"""The base of scorers behind URLs: their servers, their keys, and notes that are reported once a search."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Self

from pydantic import ConfigDict, Field, PrivateAttr, SecretStr, field_validator

from darwin_align.backends.endpoint.client import Endpoint
from darwin_align.backends.endpoint.limits import Limits
from darwin_align.operators.base import Resource
from darwin_align.operators.policy import current_search
from darwin_align.operators.scorer import Scorer

__all__ = ["RemoteScorer", "State"]

logger = logging.getLogger(__name__)

_UNSHOWN = frozenset({"api_key", "base_url", "headers", "limits", "name"})


class State:
    """What a scorer detected at run time. A pickle or deep copy keeps the servers and detects the rest again."""

    def __init__(self, endpoint: Endpoint | None) -> None:
        self.endpoint = endpoint
        self.facts: dict[str, Any] = {}
        self.reported: set[tuple[str, str]] = set()
        """Search ids and the notes that were reported to them."""
        self.logged: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(State(None)), "endpoint": self.endpoint}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, State)  # two scorers are equal by their settings

    def __hash__(self) -> int:
        return hash(State)

    def notes(self, *sentences: str) -> tuple[str, ...]:
        """Log each sentence once, and return those that were not reported to the current search yet."""
        search = current_search.get()
        for sentence in sentences:
            if sentence not in self.logged:
                self.logged.add(sentence)
                logger.warning("%s", sentence)
        new = tuple(sentence for sentence in sentences if (search, sentence) not in self.reported)
        self.reported.update((search, sentence) for sentence in new)
        return new

    def release(self, search_id: str) -> None:
        """Forget what was reported to a search."""
        self.reported -= {(search, sentence) for search, sentence in list(self.reported) if search == search_id}


class RemoteScorer(Scorer):
    """A scorer behind base URLs. Its settings are frozen: ``model_copy(update=…)`` makes another one."""

    model_config = ConfigDict(frozen=True)
    server_role: ClassVar[str] = "reward"
    """What observers call its servers."""
    api_key: SecretStr | None = Field(None, repr=False)
    """Bearer token; see :class:`~darwin_align.backends.endpoint.client.Endpoint` for the environment."""
    headers: dict[str, SecretStr] = Field(default_factory=dict, repr=False)
    """Further headers; their values are secrets."""
    limits: Limits = Limits()
    """Requests in flight, attempts, deadlines."""
    _state: State = PrivateAttr()

    # Checked here, because pydantic's own messages would show the values.

    @field_validator("api_key", mode="before")
    @classmethod
    def _is_text(cls, value: Any) -> Any:
        if not isinstance(value, str | SecretStr | None):
            raise ValueError(f"api_key is a text, not {type(value).__name__}")
        return value

    @field_validator("headers", mode="before")
    @classmethod
    def _are_texts(cls, value: Any) -> Any:
        if not isinstance(value, Mapping) or not all(
            isinstance(name, str) and isinstance(one, str | SecretStr) for name, one in value.items()
        ):
            raise ValueError("headers are texts by name")
        return dict(value)

    def model_post_init(self, context: Any, /) -> None:
        """Create the endpoint."""
        super().model_post_init(context)
        self._state = State(self._servers())

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Copy it. Without an update the copy shares the servers' limit; with one it starts anew."""
        copied = super().model_copy(update=update, deep=deep)
        if update:
            copied._state = State(copied._servers())
        return copied

    @property
    def endpoint(self) -> Endpoint | None:
        """Its servers; ``None`` for a scorer without a URL."""
        return self._state.endpoint

    @property
    def resources(self) -> tuple[Resource, ...]:
        """The notes that it keeps for each search."""
        return (self._state,)

    def __hash__(self) -> int:
        return hash((type(self), str(self)))

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        yield from ((None, url) for url in self._urls(getattr(self, "base_url", None)))
        for name, field_info in type(self).model_fields.items():
            if name not in _UNSHOWN and (value := getattr(self, name)) != field_info.default:
                yield name, value

    def __str__(self) -> str:
        return repr(self)

    def _without_secrets(self, data: Any) -> Any:
        """A reply without the user's secrets, in case the server repeats them: errors quote replies."""
        own = self._state.endpoint._key if self._state.endpoint else None
        secrets = [one.get_secret_value() for one in (own, *self.headers.values()) if one is not None]
        text = json.dumps(data)
        for secret in filter(None, secrets):
            text = text.replace(json.dumps(secret)[1:-1], "***")
        return json.loads(text) if "***" in text else data

    @staticmethod
    def _urls(base_url: str | tuple[str, ...] | None) -> tuple[str, ...]:
        return (base_url,) if isinstance(base_url, str) else base_url or ()

    def _servers(self) -> Endpoint | None:
        """The endpoint of this scorer's base URLs, if it has any."""
        if (base_url := getattr(self, "base_url", None)) is None:
            return None
        return Endpoint(
            base_url,
            role=self.server_role,
            api_key=self.api_key,
            headers=self.headers,
            limits=self.limits,
            exact=self._calls_address(),
        )

    def _calls_address(self) -> bool:
        """Whether requests go to the base URL itself, without a path."""
        return False
