"""The application: routes, and the middleware before them."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from functools import lru_cache, partial
from importlib.util import find_spec
from typing import Annotated

from fastapi import Body, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import JsonValue
from starlette.exceptions import HTTPException
from starlette.responses import Response

import darwin_align
from darwin_align import DarwinChatModel, Scorer

from .chat import Chats
from .faults import Fault, fault_of, refusal, validation_fault
from .gate import ClientGone
from .metrics import Metrics
from .middleware import BoundedBody, HostAllowed, KeyRequired, PacedReads, Watched
from .readiness import Readiness, endpoints_of
from .rewards import Rewards
from .served import SearchModel, chosen, reward_models, search_models
from .settings import HEALTH, LOOPBACK_NAMES, ServerSettings
from .wire import ChatRequest, ClassifyRequest, GetRewardRequest, RewardsRequest

__all__ = ["create_app"]

logger = logging.getLogger(__name__)

_READY, _METRICS = "/readyz", "/metrics"


def create_app(
    settings: ServerSettings,
    models: Mapping[str, DarwinChatModel],
    rewards: Mapping[str, Scorer] | None = None,
) -> FastAPI:
    """Make the application.

    Args:
        settings: accepted keys, and how much a request may cost.
        models: pairs by name. ``{"pocket": …}`` is served as ``pocket`` (its own settings), ``pocket:darwin`` …
        rewards: reward models by name; ``None`` serves each pair's own, as ``pocket:reward``.

    Raises:
        ConfigError: nothing to serve, or names or settings that contradict each other.
    """
    metrics = Metrics()
    served = search_models(models, settings)
    chats = Chats(settings, metrics)
    scorers = Rewards(reward_models(models) if rewards is None else rewards, settings, metrics)
    # No pages with documentation: they load scripts from elsewhere. The schema is at /openapi.json.
    app = FastAPI(
        title="darwin_align", version=darwin_align.__version__, docs_url=None, redoc_url=None, openapi_url=None
    )
    app.state.chats = chats
    _watch(metrics, chats, scorers, models)
    if find_spec("llguidance") is None:
        logger.warning(
            "response_format and a forced tool_choice are answered by 501 where models run in this process, for the "
            "package llguidance is missing: pip install 'darwin-align[constrained]'"
        )
    _answer_faults(app)
    _route_chat(app, served, chats)
    _route_models(
        app, {**{name: one.card for name, one in served.items()}, **{n: scorers.card(n) for n in scorers.scorers}}
    )
    _route_rewards(app, scorers)
    app.state.registry = metrics.registry
    _route_operations(app, Readiness(endpoints_of(models, scorers.scorers)))
    _route_schema(app)
    free = {*HEALTH, _READY, *([_METRICS] if settings.open_metrics else [])}
    paths = {path for route in app.routes if "{" not in (path := getattr(route, "path", "{"))}
    app.add_middleware(BoundedBody, most=settings.body_bytes, seconds=settings.body_seconds)
    app.add_middleware(PacedReads, free=free)
    most_each = settings.per_key("requests")
    app.add_middleware(KeyRequired, keys=settings.api_keys, free=free, most_each=most_each)
    if settings.allowed_hosts or not settings.api_keys:
        names = {*LOOPBACK_NAMES, *settings.allowed_hosts}
        # Behind keys a probe may come by any address.
        app.add_middleware(HostAllowed, names=names, free={*HEALTH, _READY} if settings.api_keys else ())
    app.add_middleware(Watched, metrics=metrics, routes=paths)
    return app


def _watch(metrics: Metrics, chats: Chats, rewards: Rewards, models: Mapping[str, DarwinChatModel]) -> None:
    for kind, gate in (("search", chats.gate), ("reward", rewards.gate)):
        metrics.busy.labels(kind).set_function(partial(getattr, gate, "busy"))
    policies = {name: model.search.policy_for() for name, model in models.items()}
    for name, part in {**policies, **rewards.scorers}.items():
        metrics.watch_engine(name, part)


def _answer_faults(app: FastAPI) -> None:
    async def answered(request: Request, error: Exception) -> Response:
        return refusal(fault_of(error, request.state.request_id))

    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for it alone
        return refusal(validation_fault(error.errors()))

    async def lost(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101 - likewise
        hint = f"{error.detail}: see /openapi.json for what there is"
        return refusal(Fault(error.status_code, hint, headers=error.headers))

    async def unheard(_: Request, __: Exception) -> Response:
        return Response(status_code=499)

    app.add_exception_handler(Fault, answered)
    app.add_exception_handler(RequestValidationError, refused)
    app.add_exception_handler(HTTPException, lost)
    app.add_exception_handler(ClientGone, unheard)


def _route_chat(app: FastAPI, served: Mapping[str, SearchModel], chats: Chats) -> None:
    @app.post("/v1/chat/completions", response_model=None)
    async def chat(request: Request, body: Annotated[ChatRequest, Body()]) -> Response:
        """Search for a well rewarded answer."""
        return await chats.answer(request, chosen(served, body.model), body)


def _route_models(app: FastAPI, cards: Mapping[str, Mapping[str, JsonValue]]) -> None:
    created = int(time.time())

    def shown(name: str) -> dict[str, JsonValue]:
        return {"id": name, "object": "model", "created": created, "owned_by": "darwin_align", **cards[name]}

    @app.get("/v1/models")
    async def models() -> JSONResponse:
        """Every model name that the other calls take."""
        return JSONResponse({"object": "list", "data": [shown(name) for name in cards]})

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> JSONResponse:
        """One of them."""
        return JSONResponse(shown(chosen({one: one for one in cards}, name)))


def _route_rewards(app: FastAPI, rewards: Rewards) -> None:
    @app.post("/v1/rewards")
    async def v1_rewards(request: Request, body: Annotated[RewardsRequest, Body()]) -> JSONResponse:
        """Reward responses to a conversation."""
        return JSONResponse(await rewards.rewards(request, body))

    @app.post("/get_reward")
    async def get_reward(request: Request, body: Annotated[GetRewardRequest, Body()]) -> JSONResponse:
        """Reward rendered texts, in OpenRLHF's format."""
        return JSONResponse(await rewards.get_reward(request, body))

    @app.post("/classify")
    async def classify(request: Request, body: Annotated[ClassifyRequest, Body()]) -> JSONResponse:
        """Reward texts, token ids or a conversation, in vLLM's format."""
        return JSONResponse(await rewards.classify(request, body))

    @app.post("/pooling")
    async def pooling(request: Request, body: Annotated[ClassifyRequest, Body()]) -> JSONResponse:
        """The same by vLLM's other call."""
        return JSONResponse(await rewards.pooling(request, body))


def _route_schema(app: FastAPI) -> None:
    @lru_cache
    def rendered() -> bytes:  # anew for every request it would be tens of milliseconds of the event loop's time
        return json.dumps(app.openapi(), ensure_ascii=False, separators=(",", ":")).encode()

    @app.get("/openapi.json", include_in_schema=False)
    async def schema() -> Response:
        """What this server takes and gives."""
        return Response(rendered(), media_type="application/json")


def _route_operations(app: FastAPI, readiness: Readiness) -> None:
    async def health() -> JSONResponse:
        """Whether the server listens."""
        return JSONResponse({"status": "ok"})

    for path in sorted(HEALTH):
        app.add_api_route(path, health, operation_id=path[1:])

    @app.get(_READY)
    async def readyz() -> JSONResponse:
        """Whether the policy and reward servers behind it answer, too (503 if not)."""
        ready, backends = await readiness.verdict()
        content = {"status": "ready" if ready else "not ready", "backends": backends}
        return JSONResponse(content, status_code=200 if ready else 503)

    @app.get(_METRICS, response_class=Response)
    async def prometheus() -> Response:
        """What Prometheus reads."""
        return Response(generate_latest(app.state.registry), media_type=CONTENT_TYPE_LATEST)
