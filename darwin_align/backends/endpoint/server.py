"""Identifies a server: its kind, and the models that it serves."""

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

__all__ = ["ServedModel", "ServerInfo", "identify_server"]

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
"""The tag of a model's name that has none in Ollama."""

_SIGNS = (
    ("/get_model_info", "model_path", "sglang"),
    ("/props", "default_generation_settings", "llama.cpp"),
    ("/info", "max_total_tokens", "tgi"),
    ("/info", "max_client_batch_size", "tei"),
    ("/api/version", "version", "ollama"),
    ("/version", "version", "vllm"),
)
"""Path, a field of its reply, and the kind of server that has it."""


@dataclass(frozen=True)
class ServedModel:
    """A model on a server."""

    id: str
    root: str | None = None
    """The folder or hub id that the server loaded it from, if it reports that."""
    context_length: int | None = None
    aliases: tuple[str, ...] = ()
    """Further names that the server accepts for it."""


@dataclass(frozen=True)
class ServerInfo:
    """A server's kind and models."""

    kind: str
    """"vllm", "sglang", "llama.cpp", "tgi", "tei", "ollama", "transformers", a provider's name, else "openai"."""
    models: tuple[ServedModel, ...] = ()

    def model(self, name: str | None, where: str) -> ServedModel:
        """Return the model of this name, or the only one.

        Raises:
            EndpointNotFoundError: the server has no such model.
            ConfigError: it has several, or does not list them, and ``name`` is ``None``.
        """
        names = [model.id for model in self.models]
        if name is None:
            if len(names) == 1:
                return self.models[0]
            listed = f"has {', '.join(names[:10])}" if names else "does not list its models"
            raise ConfigError(f"{where} {listed}: give model=…")
        found = next((model for model in self.models if name in (model.id, *model.aliases)), None)
        if found is None and names and self.kind not in PUBLIC.values() and self.kind != "transformers":
            raise EndpointNotFoundError(f"{where} has no model {name!r}: {did_you_mean(name, names)}", status=404)
        return found or ServedModel(name)


async def identify_server(endpoint: Endpoint) -> ServerInfo:
    """Identify a server by its host, by the owner of its models, or by a path that only this kind has.

    Raises:
        EndpointError: it cannot be reached, or the key is wrong.
    """
    listed = await _get(endpoint, _MODELS)
    data = listed.get("data")
    cards = [card for card in data if isinstance(card, Mapping) and "id" in card] if isinstance(data, list) else []
    models = tuple(_model_of_card(card) for card in cards)
    kind = PUBLIC.get(endpoint.host) or next((k for card in cards if (k := _kind_of(card))), None)
    if kind is None:
        return await _identify_by_paths(endpoint, models)
    return ServerInfo(kind, await _with_context_length(endpoint, kind, models))


def _kind_of(card: Mapping[str, Any]) -> str | None:
    return _OWNERS.get(str(card.get("owned_by")))


async def _identify_by_paths(endpoint: Endpoint, models: tuple[ServedModel, ...]) -> ServerInfo:
    for path, sign, kind in _SIGNS:
        answer = await _get(endpoint, path)
        if sign in answer:
            name = answer.get("model_id") or answer.get("model_path")
            known = models or ((ServedModel(str(name), str(name)),) if name else ())
            return ServerInfo(kind, await _with_context_length(endpoint, kind, known))
    paths = (await _get(endpoint, "/openapi.json")).get("paths")
    serves = isinstance(paths, Mapping) and {"/load_model", "/v1/completions"} <= paths.keys()
    return ServerInfo("transformers" if serves else "openai", models)


async def _with_context_length(
    endpoint: Endpoint, kind: str, models: tuple[ServedModel, ...]
) -> tuple[ServedModel, ...]:
    """Add the context length where another path reports it."""
    if kind == "llama.cpp":
        settings = (await _get(endpoint, "/props")).get("default_generation_settings")
        length = settings.get("n_ctx") if isinstance(settings, Mapping) else None
    elif kind in ("tgi", "tei"):
        info = await _get(endpoint, "/info")
        length = info.get("max_total_tokens") or info.get("max_input_length")
    else:
        return models
    return tuple(replace(model, context_length=int(length)) for model in models) if length else models


def _model_of_card(card: Mapping[str, Any]) -> ServedModel:
    length = next((card[name] for name in _LENGTHS if card.get(name)), None)
    root, name = card.get("root"), str(card["id"])
    others = card.get("aliases")
    aliases = [str(other) for other in others] if isinstance(others, list) else []
    if name.endswith(_OLLAMA_TAG):
        aliases.append(name.removesuffix(_OLLAMA_TAG))
    return ServedModel(name, str(root) if root else None, int(length) if length else None, tuple(aliases))


async def _get(endpoint: Endpoint, path: str) -> Mapping[str, Any]:
    """The JSON object at a path; empty if the server does not have it."""
    try:
        data = (await endpoint.get(path)).data
    except (EndpointNotFoundError, EndpointRequestError):
        return {}
    except EndpointServerError as error:
        # Some servers return a web page at every unknown path.
        if error.status != 500 and (error.status != 200 or path == _MODELS):
            raise
        return {}
    return data if isinstance(data, Mapping) else {"data": data}
