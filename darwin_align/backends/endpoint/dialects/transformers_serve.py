"""transformers serve (run against 5.23): strict and plain, one prompt and one choice a request."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar

from darwin_align.backends.endpoint.dialects.base import CompletionRequest, Dialect
from darwin_align.core.json_types import Json

__all__ = ["TransformersServe"]


class TransformersServe(Dialect):
    """transformers' own server. Seeds are global to it: they repeat only without other requests at the same time."""

    name: ClassVar[str] = "transformers"
    hub_models: ClassVar[bool] = True
    max_stop_strings: ClassVar[int] = 1000
    sampling_fields: ClassVar[Mapping[str, tuple[str, Json]]] = {
        "top_k": ("top_k", 0),
        "top_p": ("top_p", 1.0),
        "repetition_penalty": ("repetition_penalty", 1.0),
    }

    def common(self, request: CompletionRequest) -> dict[str, Any]:
        """Most settings travel inside a generation config; as separate fields they are refused."""
        body = super().common(request)
        greedy = request.sampling.temperature == 0
        settings: dict[str, Any] = {"do_sample": not greedy}
        for name, _ in self.sampling_fields.values():
            settings[name] = body.pop(name)
        if greedy:
            settings = {name: settings[name] for name in ("do_sample", "repetition_penalty")}
        else:
            settings["temperature"] = request.sampling.temperature
        given = body.get("generation_config", {})
        settings.update(json.loads(given) if isinstance(given, str) else given)
        return {**body, "generation_config": json.dumps(settings)}
