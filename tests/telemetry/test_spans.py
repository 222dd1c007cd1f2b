"""Spans of searches over real servers: how they nest, what they are called, and that they show no text."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
from opentelemetry.semconv._incubating.metrics import gen_ai_metrics
from opentelemetry.semconv.attributes import error_attributes, http_attributes, server_attributes, url_attributes
from opentelemetry.trace import StatusCode
from starlette.responses import JSONResponse

from benchmarks.servers.launch import Server
from darwin_align import DarwinChatModel, DarwinSearch
from darwin_align.backends.scripted import ScriptedPolicy, ScriptedScorer
from darwin_align.core.errors import EndpointServerError
from darwin_align.operators.observers import observed_search
from darwin_align.telemetry import instrument, uninstrument
from tests.backends.endpoint.fixtures.wire import ReceivedRequest, scripted
from tests.telemetry.kit import CONFIG, MARK, Seen, remote, reward_server, rewarded, seen

QUESTION = f"How do I brew {MARK} tea?"
KNOWN = {
    value
    for module in (gen_ai_attributes, error_attributes, http_attributes, server_attributes, url_attributes)
    for name, value in vars(module).items()
    if name.isupper() and isinstance(value, str)
}


@pytest.fixture(scope="module")
def searched(llama: Server) -> Iterator[tuple[Seen, Any, Any]]:
    """One search: its spans and metrics, its result, and the requests that the reward server got."""
    with reward_server() as rewards, seen() as found:
        result = remote(llama.url, rewards.url).invoke(QUESTION)
        yield found, result, rewards


def test_requests_nest_below_operators_cycles_and_the_search(searched: tuple[Seen, Any, Any]) -> None:
    found, result, _ = searched
    paths = {tuple(found.path(span)) for span in found.spans}
    [decoding] = {span.name for span in found.spans if span.name.startswith("text_completion ")}
    cycle = ("invoke_workflow darwin", "darwin.cycle")
    assert {(*cycle, f"darwin.{name}") for name in ("mutate", "decode", "score", "select")} <= paths
    assert (*cycle, "darwin.decode", decoding) in paths
    assert (*cycle, "darwin.score", "POST /get_reward") in paths
    assert len({span.context.trace_id for span in found.spans}) == 1
    operators = [span for span in found.spans if "darwin.operator" in (span.attributes or {})]
    asked = [event.operator for event in result.events]
    assert [span.attributes["darwin.operator"] for span in operators if span.attributes] == asked


def test_the_searchs_span_has_its_figures(searched: tuple[Seen, Any, Any]) -> None:
    found, result, _ = searched
    shown = dict(found.spans[0].attributes or {})
    assert shown["gen_ai.request.model"] == "remote"
    assert shown["gen_ai.request.seed"] == CONFIG.seed
    assert shown["gen_ai.usage.output_tokens"] == result.usage.decoded_tokens
    assert shown["darwin.usage.reward_calls"] == result.usage.reward_calls
    assert shown["darwin.reward"] == result.reward
    assert shown["darwin.stop_reason"] == "cycles"
    [evaluation] = found.spans[0].events
    assert dict(evaluation.attributes or {})["gen_ai.evaluation.score.value"] == result.reward


def test_a_requests_span_has_the_servers_figures(searched: tuple[Seen, Any, Any]) -> None:
    found, _, _ = searched
    one = next(span for span in found.spans if span.name[:5] == "text_" and "darwin.decode" in found.path(span))
    shown = dict(one.attributes or {})
    assert one.kind is trace.SpanKind.CLIENT
    assert shown["gen_ai.operation.name"] == "text_completion"
    assert shown["gen_ai.request.max_tokens"] == CONFIG.replacement_period
    assert shown["gen_ai.usage.output_tokens"] in range(1, CONFIG.replacement_period + 1)
    assert shown["http.response.status_code"] == 200
    assert shown["server.address"] == "127.0.0.1"


def test_servers_can_join_the_trace(searched: tuple[Seen, Any, Any]) -> None:
    found, _, rewards = searched
    ours = {
        f"{span.context.trace_id:032x}-{span.context.span_id:016x}" for span in found.spans if span.name[:4] == "POST"
    }
    joined = {"-".join(one.headers["traceparent"].split("-")[1:3]) for one in rewards.received}
    assert joined == ours != set()


def test_names_are_the_conventions(searched: tuple[Seen, Any, Any]) -> None:
    found, _, _ = searched
    points = [point for metric in found.metrics.values() for point in metric.data.data_points]
    events = [event for span in found.spans for event in span.events]
    attributes = [dict(one.attributes or {}) for one in (*found.spans, *events, *points)]
    assert {name for one in attributes for name in one if not name.startswith("darwin.")} <= KNOWN
    operations = {one["gen_ai.operation.name"] for one in attributes if "gen_ai.operation.name" in one}
    assert operations <= set(values(gen_ai_attributes.GenAiOperationNameValues))
    providers = {one["gen_ai.provider.name"] for one in attributes if "gen_ai.provider.name" in one}
    assert providers <= set(values(gen_ai_attributes.GenAiProviderNameValues))
    conventional = {metric for metric in found.metrics if not metric.startswith("darwin.")}
    duration, tokens = gen_ai_metrics.GEN_AI_CLIENT_OPERATION_DURATION, gen_ai_metrics.GEN_AI_CLIENT_TOKEN_USAGE
    assert conventional == {duration, tokens}
    assert (found.metrics[duration].unit, found.metrics[tokens].unit) == ("s", "{token}")


def values(names: type[Enum]) -> list[str]:
    return [one.value for one in names]


def test_no_text_of_prompts_or_answers_is_shown(searched: tuple[Seen, Any, Any]) -> None:
    found, result, _ = searched
    shown = "".join(span.to_json() for span in found.spans) + repr(found.metrics)
    assert MARK not in shown
    assert result.text not in shown


def test_unless_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "span_only")
    with seen() as found:
        result = toy().invoke(QUESTION, seed=1)
    shown = dict(found.spans[0].attributes or {})
    [message] = json.loads(str(shown["gen_ai.input.messages"]))
    assert message == {"role": "user", "parts": [{"type": "text", "content": QUESTION}]}
    [answer] = json.loads(str(shown["gen_ai.output.messages"]))
    assert answer["parts"] == [{"type": "text", "content": result.text}]
    mutation = next(span for span in found.spans if span.name == "darwin.mutate")
    assert QUESTION in dict(mutation.attributes or {})["darwin.instructions"]  # type: ignore[operator]
    with seen(capture_content=False) as found:
        toy().invoke(QUESTION, seed=1)
    assert MARK not in "".join(span.to_json() for span in found.spans)


def toy() -> DarwinSearch:
    return DarwinSearch(policy=ScriptedPolicy(), scorer=ScriptedScorer(), config=CONFIG.replace(mutator="identity"))


def test_retries_are_events_of_the_request(llama: Server) -> None:
    busy = JSONResponse({"error": f"no time for {QUESTION}"}, status_code=503)

    async def answer(received: ReceivedRequest) -> Any:
        return busy if received.number < 2 else await rewarded(received)

    with reward_server(answer) as rewards, seen() as found:
        remote(llama.url, rewards.url).invoke(QUESTION)
    first = next(span for span in found.spans if span.name == "POST /get_reward")
    assert [event.name for event in first.events] == ["darwin.attempt.failed"] * 2
    failed = dict(first.events[1].attributes or {})
    assert (failed["darwin.outcome"], failed["darwin.attempt"]) == ("unavailable", 2)
    assert failed["http.response.status_code"] == 503
    assert dict(first.attributes or {})["http.request.resend_count"] == 2
    assert first.status.status_code is StatusCode.UNSET


@pytest.mark.parametrize("on_failure", ["raise", "best_so_far"])
def test_failures_are_marked_without_what_they_quote(llama: Server, on_failure: str) -> None:
    quoting = scripted(*[JSONResponse({"error": f"cannot read {QUESTION}"}, status_code=500)] * 9)
    raised = pytest.raises(EndpointServerError, match=MARK)  # also with the latter, for nothing was scored yet
    with reward_server(quoting) as rewards, seen() as found, raised:
        remote(llama.url, rewards.url, on_failure=on_failure).invoke(QUESTION)
    failed = [span for span in found.spans if span.status.status_code is StatusCode.ERROR]
    assert [span.name for span in failed] == ["invoke_workflow darwin", "darwin.score", "POST /get_reward"]
    assert {dict(span.attributes or {})["error.type"] for span in failed} == {"EndpointServerError"}
    assert MARK not in "".join(span.to_json() for span in found.spans)


def test_async_searches_keep_their_spans_apart(llama: Server) -> None:
    async def both(search: DarwinSearch) -> None:
        await asyncio.gather(search.ainvoke(QUESTION), search.ainvoke("Hi"))

    with reward_server() as rewards, seen() as found:
        asyncio.run(both(remote(llama.url, rewards.url)))
    assert len({span.context.trace_id for span in found.spans}) == 2
    for span in found.spans:
        if span.name == "POST /get_reward":
            assert found.path(span)[:3] == ["invoke_workflow darwin", "darwin.cycle", "darwin.score"]


def test_an_abandoned_stream_ends_its_spans(caplog: pytest.LogCaptureFixture) -> None:
    with seen() as found, caplog.at_level(logging.ERROR):
        steps = toy().steps(QUESTION, seed=1)
        next(steps)
        steps.close()

        async def leave() -> None:
            async for _ in (later := toy().asteps(QUESTION, seed=1)):
                break
            await later.aclose()

        asyncio.run(leave())
    ended = [span for span in found.spans if span.name == "invoke_workflow darwin"]
    assert [dict(span.attributes or {})["darwin.stop_reason"] for span in ended] == ["cancelled"] * 2
    assert caplog.records == []


def test_a_search_is_below_the_callers_span_and_named_by_the_chat_model() -> None:
    model = DarwinChatModel(search=toy(), model_name="mine")
    with seen() as found:
        tracer = trace.get_tracer("caller", tracer_provider=found.provider)
        with tracer.start_as_current_span("caller"):
            model.invoke(QUESTION, seed=1)
    search = next(span for span in found.spans if span.name == "invoke_workflow darwin")
    assert found.path(search) == ["caller", "invoke_workflow darwin"]
    assert dict(search.attributes or {})["gen_ai.request.model"] == "mine"


def test_a_second_call_replaces_the_first_and_none_is_left_behind() -> None:
    with seen() as first, seen() as second:
        toy().invoke(QUESTION, seed=1)
    assert first.spans == []
    assert second.spans != []
    uninstrument()
    with observed_search("x", None, None) as search:  # type: ignore[arg-type] # nobody looks
        assert type(search.observer).__name__ == "SearchObserver"


def test_without_an_sdk_it_changes_nothing() -> None:
    plain = toy().invoke(QUESTION, seed=1)
    instrument()
    try:
        assert toy().invoke(QUESTION, seed=1).text == plain.text
    finally:
        uninstrument()


def test_opentelemetry_instrument_finds_it() -> None:
    import tomllib

    from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined]

    from darwin_align.telemetry.instrumentor import DarwinInstrumentor

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    [entry] = project["entry-points"]["opentelemetry_instrumentor"].values()
    assert entry == f"{DarwinInstrumentor.__module__}:{DarwinInstrumentor.__name__}"
    assert issubclass(DarwinInstrumentor, BaseInstrumentor)
    with seen() as found:
        DarwinInstrumentor().instrument(tracer_provider=found.provider)
        toy().invoke(QUESTION, seed=1)
        DarwinInstrumentor().uninstrument()
        begun = len(found.spans)
        toy().invoke(QUESTION, seed=1)
    assert begun == len(found.spans) > 0
