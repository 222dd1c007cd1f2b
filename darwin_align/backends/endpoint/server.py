"""What kind of server an endpoint is, and which models it has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from darwin_align.backends.endpoint.client import Endpoint
from darwin_align.core.errors import (
    ConfigError,
    EndpointNotFoundError,
    EndpointRequestError,
    EndpointServerError,
)
from darwin_align.core.record import did_you_mean

__all__ = ["About", "Served", "about"]

PUBLIC = {
    "openrouter.ai": "openrouter",
    "api.mistral.ai": "mistral",
    "api.deepseek.com": "deepseek",
    "api.together.xyz": "together",
    "api.together.ai": "together",
    "api.openai.com": "openai",
    "integrate.api.nvidia.com": "nim",
}
"""Providers, known by their host."""

_OWNERS = {"vllm": "vllm", "sglang": "sglang", "llamacpp": "llama.cpp", "library": "ollama"}

_MODELS = "/v1/models"
_LENGTHS = ("max_model_len", "context_length", "max_context_length")
_OLLAMA_TAG = ":latest"
"""What Ollama adds to a model's name without a tag."""

_SIGNS = (
    ("/get_model_info", "model_path", "sglang"),
    ("/props", "default_generation_settings", "llama.cpp"),
    ("/info", "max_total_tokens", "tgi"),
    ("/info", "max_client_batch_size", "tei"),
    ("/api/version", "version", "ollama"),
    ("/version", "version", "vllm"),
)
"""Path, a name in its answer, and whose it is."""


@dataclass(frozen=True)
class Served:
    """A model that a server has."""

    id: str
    root: str | None = None
    """Where the server loaded it from: a folder or hub id, if it says so."""
    context_length: int | None = None
    aliases: tuple[str, ...] = ()
    """Other names that the server takes for it."""


@dataclass(frozen=True)
class About:
    """What is known of a server."""

    kind: str
    """"vllm", "sglang", "llama.cpp", "tgi", "tei", "ollama", "transformers", a provider's name, else "openai"."""
    models: tuple[Served, ...] = ()

    def model(self, wanted: str | None, where: str) -> Served:
        """Choose the model: the one that is wanted, or the only one.

        Raises:
            EndpointNotFoundError: the server has no such model.
            ConfigError: it has several, or does not list them, and none is wanted.
        """
        names = [model.id for model in self.models]
        if wanted is None:
            if len(names) == 1:
                return self.models[0]
            listed = f"has {', '.join(names[:10])}" if names else "does not list its models"
            raise ConfigError(f"{where} {listed}: give model=…")
        found = next((model for model in self.models if wanted in (model.id, *model.aliases)), None)
        if found is None and names and self.kind not in PUBLIC.values() and self.kind != "transformers":
            raise EndpointNotFoundError(f"{where} has no model {wanted!r}: {did_you_mean(wanted, names)}", status=404)
        return found or Served(wanted)


async def about(endpoint: Endpoint) -> About:
    """Ask a server what it is. It is told by its host, by who owns its models, or by a path that only it has.

    Raises:
        EndpointError: it cannot be reached, or the key is wrong.
    """
    listed = await _asked(endpoint, _MODELS)
    data = listed.get("data")
    cards = [card for card in data if isinstance(card, Mapping) and "id" in card] if isinstance(data, list) else []
    models = tuple(_served(card) for card in cards)
    kind = PUBLIC.get(endpoint.host) or next((k for card in cards if (k := _kind_of(card))), None)
    if kind is None:
        return await _by_its_paths(endpoint, models)
    return About(kind, await _with_context(endpoint, kind, models))


def _kind_of(card: Mapping[str, Any]) -> str | None:
    return _OWNERS.get(str(card.get("owned_by")))


async def _by_its_paths(endpoint: Endpoint, models: tuple[Served, ...]) -> About:
    for path, sign, kind in _SIGNS:
        answer = await _asked(endpoint, path)
        if sign in answer:
            name = answer.get("model_id") or answer.get("model_path")
            known = models or ((Served(str(name), str(name)),) if name else ())
            return About(kind, await _with_context(endpoint, kind, known))
    paths = (await _asked(endpoint, "/openapi.json")).get("paths")
    serves = isinstance(paths, Mapping) and {"/load_model", "/v1/completions"} <= paths.keys()
    return About("transformers" if serves else "openai", models)


async def _with_context(endpoint: Endpoint, kind: str, models: tuple[Served, ...]) -> tuple[Served, ...]:
    """Add the context length where another path knows it."""
    if kind == "llama.cpp":
        settings = (await _asked(endpoint, "/props")).get("default_generation_settings")
        length = settings.get("n_ctx") if isinstance(settings, Mapping) else None
    elif kind in ("tgi", "tei"):
        info = await _asked(endpoint, "/info")
        length = info.get("max_total_tokens") or info.get("max_input_length")
    else:
        return models
    return tuple(replace(model, context_length=int(length)) for model in models) if length else models


def _served(card: Mapping[str, Any]) -> Served:
    length = next((card[name] for name in _LENGTHS if card.get(name)), None)
    root, name = card.get("root"), str(card["id"])
    others = card.get("aliases")
    aliases = [str(other) for other in others] if isinstance(others, list) else []
    if name.endswith(_OLLAMA_TAG):
        aliases.append(name.removesuffix(_OLLAMA_TAG))
    return Served(name, str(root) if root else None, int(length) if length else None, tuple(aliases))


async def _asked(endpoint: Endpoint, path: str) -> Mapping[str, Any]:
    """What a path answers; nothing if it is not there."""
    try:
        data = (await endpoint.get(path)).data
    except (EndpointNotFoundError, EndpointRequestError):
        return {}
    except EndpointServerError as error:
        # Some servers show a web page at every path that they do not know.
        if error.status != 500 and (error.status != 200 or path == _MODELS):
            raise
        return {}
    return data if isinstance(data, Mapping) else {"data": data}
