"""A request's span: one call to a server, its retries as events; and the conventions' metrics of such calls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit

from opentelemetry import metrics, propagate, trace
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer

from darwin_align.operators.observers import Attempt, CallObserver

__all__ = ["RequestInstruments", "RequestSpan"]

_OPERATIONS = {
    "/chat/completions": "chat",
    "/completions": "text_completion",
    "/completion": "text_completion",
    "/generate": "text_completion",
}
"""By the end of a call's path. Others are HTTP requests without a name in the conventions for generative AI."""
_PROVIDERS = {"api.mistral.ai": "mistral_ai", "api.deepseek.com": "deepseek"}
_SETTINGS = ("max_tokens", "temperature", "top_p", "top_k", "seed")
_COUNTS = {"input": ("prompt_tokens", "tokens_evaluated"), "output": ("completion_tokens", "tokens_predicted")}
"""Tokens as servers report them: OpenAI's names, and llama.cpp's."""
_SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864)


class RequestInstruments:
    """The conventions' metrics of a client, with their bounds."""

    def __init__(self, meter: metrics.Meter) -> None:
        self.duration = meter.create_histogram(
            "gen_ai.client.operation.duration",
            "s",
            "GenAI operation duration.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self.tokens = meter.create_histogram(
            "gen_ai.client.token.usage",
            "{token}",
            "Number of input and output tokens used.",
            explicit_bucket_boundaries_advisory=_TOKENS,
        )


class RequestSpan(CallObserver):
    """The span of one call, below the operator's.

    Args:
        tracer: makes it.
        instruments: of the conventions.
        role: "policy", "reward" or "judge".
        method: of HTTP.
        path: of the call.
        body: of the request.
        content: whether an error's message is shown.
    """

    def __init__(
        self,
        tracer: Tracer,
        instruments: RequestInstruments,
        *,
        role: str,
        method: str,
        path: str,
        body: Mapping[str, Any],
        content: bool,
    ) -> None:
        self._instruments, self._content = instruments, content
        self._began, self._attempts = perf_counter(), 0
        self._tokens: dict[str, int] = {}
        model = body.get("model")
        operation = next((name for end, name in _OPERATIONS.items() if path.endswith(end)), None)
        named = {"gen_ai.operation.name": operation, "gen_ai.request.model": model} if operation else {}
        self._common: dict[str, Any] = {key: value for key, value in named.items() if isinstance(value, str)}
        """Attributes of the span and of the metrics."""
        name = f"{operation} {model or ''}".strip() if operation else f"{method} {path}".strip()
        self._span: Span = tracer.start_span(name, kind=SpanKind.CLIENT, attributes=self._common)
        self._span.set_attributes({"http.request.method": method, "url.path": path, "darwin.role": role})
        if operation:
            settings = {name: body[name] for name in _SETTINGS if isinstance(body.get(name), (int, float))}
            self._span.set_attributes({f"gen_ai.request.{name}": value for name, value in settings.items()})
            if isinstance(count := body.get("n"), int) and count > 1:
                self._span.set_attribute("gen_ai.request.choice.count", count)

    def headers(self) -> dict[str, str]:
        """The trace's context, so that the server's spans join it."""
        carrier: dict[str, str] = {}
        propagate.inject(carrier, context=trace.set_span_in_context(self._span))
        return carrier

    def attempted(self, attempt: Attempt) -> None:
        """Note the server, and either what it answered or that the attempt failed."""
        self._attempts = attempt.number
        url = urlsplit(attempt.server)
        where: dict[str, Any] = {"server.address": url.hostname or ""}
        where["server.port"] = url.port or (443 if url.scheme == "https" else 80)
        if self._common:
            self._common |= {**where, "gen_ai.provider.name": _PROVIDERS.get(where["server.address"], "openai")}
        if attempt.status is not None:
            where["http.response.status_code"] = attempt.status
        self._span.set_attributes({**self._common, **where})
        if attempt.outcome == "answered":
            self._answered(attempt.data)
        else:
            failed: dict[str, Any] = {"darwin.outcome": attempt.outcome, "darwin.attempt": attempt.number}
            self._span.add_event(
                "darwin.attempt.failed", {**failed, "darwin.breaker_open": attempt.breaker_open, **where}
            )

    def _answered(self, data: Any) -> None:
        self._tokens = _tokens(data)
        self._span.set_attributes({f"gen_ai.usage.{kind}_tokens": count for kind, count in self._tokens.items()})
        if not isinstance(data, Mapping):
            return
        known = {f"gen_ai.response.{key}": data[key] for key in ("id", "model") if isinstance(data.get(key), str)}
        self._span.set_attributes(known)
        choices = data.get("choices")
        reasons = [one.get("finish_reason") for one in choices or () if isinstance(one, Mapping)]
        if reasons and all(isinstance(reason, str) for reason in reasons):
            self._span.set_attribute("gen_ai.response.finish_reasons", reasons)

    def ended(self, error: BaseException | None) -> None:
        """End the span and record the metrics."""
        if self._attempts > 1:
            self._span.set_attribute("http.request.resend_count", self._attempts - 1)
        failed = {} if error is None else {"error.type": type(error).__qualname__}
        if error is not None:
            self._span.set_attributes(failed)
            self._span.set_status(StatusCode.ERROR, str(error) if self._content else None)
        if "gen_ai.operation.name" in self._common:
            self._instruments.duration.record(perf_counter() - self._began, {**self._common, **failed})
            for kind, count in self._tokens.items():
                self._instruments.tokens.record(count, {**self._common, "gen_ai.token.type": kind})
        self._span.end()


def _tokens(data: Any) -> dict[str, int]:
    """Input and output tokens, as far as a reply reports them.

    >>> _tokens({"usage": {"prompt_tokens": 9, "completion_tokens": 2}})
    {'input': 9, 'output': 2}
    """
    found: Counter[str] = Counter()
    for reply in data if isinstance(data, list) else [data]:
        if isinstance(reply, Mapping):
            report = next(
                (one for name in ("usage", "meta_info") if isinstance(one := reply.get(name), Mapping)), reply
            )
            for kind, names in _COUNTS.items():
                found[kind] += sum(report[name] for name in names if isinstance(report.get(name), int))
    return {kind: count for kind, count in found.items() if count}
