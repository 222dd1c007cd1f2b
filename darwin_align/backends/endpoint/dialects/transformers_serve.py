"""transformers serve (run against 5.23): strict and plain, one prompt and one choice a request."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar

from darwin_align.backends.endpoint.dialects.base import CompletionRequest, Dialect

__all__ = ["TransformersServe"]


class TransformersServe(Dialect):
    """transformers' own server. Its seeds are global to the server: they repeat only while nobody else asks."""

    name: ClassVar[str] = "transformers"
    hub_models: ClassVar[bool] = True
    most_stops: ClassVar[int] = 1000
    knobs: ClassVar[Mapping[str, tuple[str, Any]]] = {
        "top_k": ("top_k", 0),
        "top_p": ("top_p", 1.0),
        "repetition_penalty": ("repetition_penalty", 1.0),
    }

    def common(self, asked: CompletionRequest) -> dict[str, Any]:
        """Most settings travel inside a generation config; as fields of their own they are refused."""
        body = super().common(asked)
        greedy = asked.sampling.temperature == 0
        settings: dict[str, Any] = {"do_sample": not greedy}
        for name, _ in self.knobs.values():
            settings[name] = body.pop(name)
        if greedy:
            settings = {name: settings[name] for name in ("do_sample", "repetition_penalty")}
        else:
            settings["temperature"] = asked.sampling.temperature
        given = body.get("generation_config", {})
        settings.update(json.loads(given) if isinstance(given, str) else given)
        return {**body, "generation_config": json.dumps(settings)}
