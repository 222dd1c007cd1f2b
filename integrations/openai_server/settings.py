"""Settings of a server: where it listens, which keys it accepts, and how much a request may cost."""

from __future__ import annotations

import ipaddress
import re
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from darwin_align.core import PRESETS, Budget, SearchConfig
from darwin_align.core.record import did_you_mean

__all__ = ["HEALTH", "LOOPBACK_NAMES", "SHORTEST_KEY", "SearchLimits", "ServerSettings", "host_name"]

SHORTEST_KEY = 16
"""Letters of an API key at least."""


HEALTH = frozenset({"/health", "/healthz"})
"""Paths that say whether the server listens, whatever else it refuses."""
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
_HOST = re.compile(r"(?P<name>\[[0-9a-f:.%]+\]|[a-z0-9_.-]+)(:[0-9]*)?")


class _Settings(BaseModel):
    # Inputs stay out of error messages: keys are among them.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, use_attribute_docstrings=True)


class SearchLimits(_Settings):
    """Limits of a request. One that exceeds them is refused; defaults of a model are lowered to them at the start."""

    cycles: int = Field(8, ge=0)
    mutations: int = Field(32, gt=0)
    beams: int = Field(64, gt=0)
    """Mutations times beams under each of them."""
    lookahead: int = Field(256, ge=0)
    shortest_replacement_period: int = Field(1, gt=0)
    max_new_tokens: int = Field(4096, gt=0)
    """Tokens of one answer."""
    n: int = Field(16, gt=0)
    """Answers in one reply."""
    tokens: int | None = Field(None, gt=0)
    """Tokens that a whole search may decode; it then ends with the best answer so far."""
    reward_calls: int | None = Field(None, gt=0)
    """Responses that a whole search may score; likewise."""
    seconds: float = Field(120.0, gt=0)
    """Seconds that a search may take; likewise."""
    reward_inputs: int = Field(256, gt=0)
    """Responses that one request may have scored."""
    text_characters: int = Field(400_000, gt=0)
    """Characters of one text (a turn, a response, an input), whatever the model's context."""

    def lowered(self, config: SearchConfig) -> dict[str, Any]:
        """The settings that make a model's own config keep the limits."""
        most = {name: getattr(self, name) for name in ("cycles", "mutations", "lookahead", "max_new_tokens")}
        changes = {name: limit for name, limit in most.items() if getattr(config, name) > limit}
        mutations = changes.get("mutations", config.mutations)
        if mutations * config.beams_per_mutation > self.beams:
            changes["beams_per_mutation"] = max(1, self.beams // mutations)
            changes["mutations"] = min(mutations, self.beams)
        if config.replacement_period < self.shortest_replacement_period:
            changes["replacement_period"] = self.shortest_replacement_period
        return changes

    def bounded(self, budget: Budget) -> Budget:
        """A budget that keeps the limits, also where it has none of its own."""
        names = ("tokens", "reward_calls", "seconds")
        both = {name: (getattr(budget, name), getattr(self, name)) for name in names}
        return Budget(
            **{name: min((one for one in pair if one is not None), default=None) for name, pair in both.items()}
        )

    def excess(self, config: SearchConfig, n: int) -> tuple[str, str] | None:
        """What of a request is too much: the parameter, and a sentence; ``None`` if nothing is."""
        limited: dict[str, tuple[float | None, float | None]] = {
            "darwin.cycles": (config.cycles, self.cycles),
            "darwin.mutations": (config.mutations, self.mutations),
            "darwin.beams_per_mutation": (config.beams, self.beams),
            "darwin.lookahead": (config.lookahead, self.lookahead),
            "max_completion_tokens": (config.max_new_tokens, self.max_new_tokens),
            "n": (n, self.n),
            "darwin.budget.tokens": (config.budget.tokens, self.tokens),
            "darwin.budget.reward_calls": (config.budget.reward_calls, self.reward_calls),
            "darwin.budget.seconds": (config.budget.seconds, self.seconds),
        }
        for name, (value, limit) in limited.items():
            if value is not None and limit is not None and value > limit:
                what = "beams (mutations times beams_per_mutation)" if name == "darwin.beams_per_mutation" else name
                return name, f"{what} = {value} is more than this server allows: {limit} at most"
        if config.replaces and config.replacement_period < self.shortest_replacement_period:
            least = self.shortest_replacement_period
            return "darwin.replacement_period", f"darwin.replacement_period must be {least} or more on this server"
        return None


class ServerSettings(_Settings):
    """Settings of a server.

    Raises:
        ValidationError: an impossible value, a short key, or an address that others can reach without any key.
    """

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    """0 takes any free port, which is then in the log."""
    api_keys: tuple[SecretStr, ...] = ()
    """Any of them opens the server; without one it listens on loopback only."""
    allowed_hosts: tuple[str, ...] = ()
    """Names, without ports, by which requests may address the server beyond localhost, 127.0.0.1 and [::1]; others are
    refused (421). Without an API key this is always checked, or a web page could reach the server by DNS rebinding;
    with keys only if names are given."""
    open_metrics: bool = False
    """Whether ``/metrics`` needs no key."""
    presets: tuple[str, ...] = tuple(PRESETS)
    """Presets that are served of each model."""
    limits: SearchLimits = SearchLimits()
    max_searches: int = Field(32, gt=0)
    """Searches at the same time; further ones are refused, with the time after which to retry (429)."""
    max_scorings: int = Field(64, gt=0)
    """Requests for rewards at the same time."""
    max_searches_per_key: int | None = Field(None, gt=0)
    """Searches of one API key at the same time. By default half of ``max_searches`` where there are several keys."""
    max_scorings_per_key: int | None = Field(None, gt=0)
    """Requests for rewards of one API key at the same time; the default likewise."""
    max_requests_per_key: int | None = Field(None, gt=0)
    """Open requests of one API key, also those whose body is still arriving; by default half of ``max_connections``
    where there are several keys."""
    max_connections: int = Field(1024, gt=0)
    """Open connections: on more of them all but ``/health`` is refused (503), and on 64 more nothing is answered."""
    body_bytes: int = Field(1 << 20, gt=0)
    """Size of a request's body at most (413)."""
    body_seconds: float = Field(20.0, gt=0)
    """Time that a request's body may take to arrive (408)."""
    head_seconds: float = Field(20.0, gt=0)
    """Time that a request's head may take to arrive; then the connection is closed."""
    write_seconds: float = Field(60.0, gt=0)
    """A connection whose client reads nothing for so long is closed, and its search ends."""
    idle_seconds: int = Field(75, gt=0)
    """Time that a connection stays open without a request: longer than any ``Retry-After``, so that a client
    that retries does not find it closing."""
    late_seconds: float = Field(30.0, ge=0)
    """Time beyond ``limits.seconds`` after which a search that did not end by itself is cancelled (504)."""
    silence_seconds: float = Field(10.0, gt=0)
    """A stream without an answer yet sends a comment so often."""
    drain_seconds: int = Field(30, ge=0)
    """Time that requests have to finish when the server is terminated; new ones are refused meanwhile (503)."""

    def per_key(self, name: str) -> int:
        """The most that one key may have of ``max_searches``, ``max_scorings`` or ``max_connections``.

        Args:
            name: "searches", "scorings" or "requests".
        """
        given: int | None = getattr(self, f"max_{name}_per_key")
        most: int = getattr(self, "max_connections" if name == "requests" else f"max_{name}")
        if given is not None:
            return given
        return max(1, most // 2) if len(self.api_keys) > 1 else most

    @field_validator("api_keys")
    @classmethod
    def _are_long(cls, keys: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        if any(len(key.get_secret_value()) < SHORTEST_KEY for key in keys):
            raise ValueError(f"an API key has fewer than {SHORTEST_KEY} letters: make a longer one")
        if not all(key.get_secret_value().isascii() and key.get_secret_value().isprintable() for key in keys):
            raise ValueError("an API key holds letters that no header can carry: use printable ASCII")
        return keys

    @field_validator("allowed_hosts")
    @classmethod
    def _are_host_names(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        for host in hosts:
            if host_name(host) != host.lower().removesuffix("."):
                raise ValueError(
                    f"{host!r} is no host name: give it as in 'search.example.org' or '[::1]', without a port"
                )
        return tuple(host.lower().removesuffix(".") for host in hosts)

    @field_validator("presets")
    @classmethod
    def _are_known(cls, presets: tuple[str, ...]) -> tuple[str, ...]:
        for preset in presets:
            if preset not in PRESETS:
                raise ValueError(f"unknown preset {preset!r}: {did_you_mean(preset, PRESETS)}")
        return presets

    @model_validator(mode="after")
    def _is_closed_to_strangers(self) -> Self:
        if not self.api_keys and not _is_loopback(self.host):
            raise ValueError(
                f"host {self.host!r} can be reached by others and there is no API key: put keys into the environment "
                "variable DARWIN_ALIGN_SERVER_KEYS or a file (--api-keys-file), or listen on 127.0.0.1"
            )
        return self


def host_name(header: str) -> str | None:
    """The name in a ``Host`` header, in lower case and without its port; ``None`` if it is none.

    >>> host_name("LocalHost:8000"), host_name("[::1]:80"), host_name("a b")
    ('localhost', '[::1]', None)
    """
    found = _HOST.fullmatch(header.strip().lower())
    return found["name"].removesuffix(".") if found else None


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
