"""Figures: they add up to the results', and every way of showing them shows the same."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from starlette.responses import JSONResponse

from benchmarks.servers.launch import Server, free_port
from darwin_align import DarwinSearch, EndpointScorer, Scorer
from darwin_align.backends.endpoint.limits import Limits
from darwin_align.backends.scripted import ScriptedPolicy, ScriptedScorer
from darwin_align.cli import batch
from darwin_align.cli.parsing import Parser
from darwin_align.core import Request
from darwin_align.core.errors import ConfigError, RewardError
from darwin_align.operators.observers import observing
from darwin_align.operators.portal import call
from darwin_align.telemetry.measurements import INSTRUMENTS, Instrument, Measuring
from darwin_align.telemetry.metrics import attribute_of
from darwin_align.telemetry.prometheus import PrometheusRecord, serving_metrics
from tests.backends.endpoint.fixtures.wire import ReceivedRequest
from tests.telemetry.kit import CONFIG, remote, reward_server, rewarded, seen

Key = tuple[str, tuple[tuple[str, str], ...]]


class Recorded:
    """Sums of what was recorded."""

    def __init__(self) -> None:
        self.sums: Counter[Key] = Counter()
        self.last: dict[Key, float] = {}

    def __call__(self, instrument: Instrument, value: float, labels: Mapping[str, str]) -> None:
        assert set(labels) == set(instrument.labels)
        key = instrument.name, tuple(sorted(labels.items()))
        self.sums[key] += value  # type: ignore[assignment]
        self.last[key] = value

    def sum(self, name: str, **labels: str) -> float:
        return sum(value for (one, has), value in self.sums.items() if one == name and labels.items() <= set(has))


def toy(**parts: Any) -> DarwinSearch:
    return DarwinSearch(policy=ScriptedPolicy(), scorer=ScriptedScorer(), name="toy", **parts)


def test_figures_are_those_of_the_result() -> None:
    found = Recorded()
    with observing(Measuring(found)):
        result = toy().invoke("Say something good.", seed=1, cycles=2)
    for kind in ("prefilled", "decoded", "reward"):
        assert found.sum("darwin.tokens", kind=kind) == getattr(result.usage, f"{kind}_tokens")
    assert found.sum("darwin.operator.duration") == pytest.approx(result.usage.seconds)
    assert found.sum("darwin.searches", model="toy", stop_reason="cycles") == 1
    assert found.sum("darwin.searches.in_flight") == 0
    assert found.sum("darwin.cycles") == 2
    assert result.reward is not None
    assert result.first_response.reward is not None
    assert found.sum("darwin.answer.reward", answer="best") == result.reward
    assert found.sum("darwin.reward.gain") == result.reward - result.first_response.reward
    explored = result.exploration
    assert explored is not None
    outcomes = ("accepted", "filled_by_aspects", "filled_by_parent")
    assert sum(found.sum("darwin.rewordings", outcome=one) for one in outcomes) == explored.places
    assert found.sum("darwin.rewordings", outcome="refused") == sum(explored.refused.values())
    assert found.sum("darwin.rewording.tokens", outcome="wasted") == explored.wasted_tokens


def test_a_replay_costs_nothing() -> None:
    recorded = toy().invoke("Say something good.", seed=1, cycles=1)
    found = Recorded()
    with observing(Measuring(found)):
        toy().invoke("Say something good.", seed=1, cycles=1, replay=recorded.events)
    assert found.sum("darwin.tokens") == 0
    assert found.sum("darwin.searches") == 1


def test_searches_that_fail_or_are_left_are_counted_as_such() -> None:
    def fails(request: Request, responses: Any) -> list[float]:
        raise RewardError("no")

    found = Recorded()
    with observing(Measuring(found)):
        with pytest.raises(RewardError):
            DarwinSearch(policy=ScriptedPolicy(), scorer=fails, name="toy").invoke("Say something good.", seed=1)
        steps = toy().steps("Say something good.", seed=1)
        next(steps)
        steps.close()
    assert found.sum("darwin.searches", stop_reason="error") == 1
    assert found.sum("darwin.searches", stop_reason="cancelled") == 1
    assert found.sum("darwin.searches.in_flight") == 0


def test_requests_retries_and_breakers_are_counted_by_server() -> None:
    async def answer(received: ReceivedRequest) -> Any:
        return JSONResponse({}, status_code=503) if received.number < 3 else await rewarded(received)

    found = Recorded()
    limits = Limits(attempts=5, backoff=0.01, max_backoff=0.02, breaker_failures=2, breaker_pause=0.05)
    with reward_server(answer) as server, observing(Measuring(found)):
        scorer = EndpointScorer(base_url=server.url, dialect="nim", model="m", limits=limits)
        endpoint = scorer._state.endpoint
        assert endpoint is not None
        was_open = []
        body = {"query": ["a"]}
        with observing(
            Measuring(lambda what, value, labels: found(what, value, labels) or was_open.append((what, value)))
        ):  # type: ignore[func-returns-value]
            call(endpoint.post, "/get_reward", body)
    labels = {"role": "reward", "server": server.url}
    assert found.sum("darwin.endpoint.requests", outcome="unavailable", **labels) == 3
    assert found.sum("darwin.endpoint.requests", outcome="answered", **labels) == 1
    assert found.sum("darwin.endpoint.retries", **labels) == 3
    breaker = [value for what, value in was_open if what.name == "darwin.endpoint.breaker_open"]
    assert breaker == [0, 1, 1, 0]
    assert found.sum("darwin.endpoint.requests.in_flight") == found.sum("darwin.endpoint.calls.in_flight") == 0


DECODED = {"model": "remote", "operator": "decode", "outcome": "answered"}


def is_decoding(point: Any) -> bool:
    return bool(point.attributes["darwin.operator"] == "decode")


def test_prometheus_and_opentelemetry_show_the_same(llama: Server) -> None:
    registry = CollectorRegistry()
    with reward_server() as rewards, seen() as found, observing(Measuring(PrometheusRecord(registry))):
        remote(llama.url, rewards.url).invoke("How do I brew green tea?")
    metrics, compared = found.metrics, 0
    for instrument in INSTRUMENTS:
        metric = metrics.get(instrument.name)
        for point in metric.data.data_points if metric else ():
            labels = {name: point.attributes[attribute_of(name)] for name in instrument.labels}
            name = instrument.prometheus_name + {"counter": "_total", "histogram": "_count"}.get(instrument.kind, "")
            shown = registry.get_sample_value(name, labels)
            assert shown == (point.count if instrument.kind == "histogram" else point.value), name
            compared += 1
    assert compared > 20
    assert registry.get_sample_value("darwin_operator_duration_seconds_sum", DECODED) == pytest.approx(
        next(point.sum for point in metrics["darwin.operator.duration"].data.data_points if is_decoding(point))
    )


def test_batch_serves_figures_while_it_runs(tmp_path: Path) -> None:
    pytest.importorskip("prometheus_client")
    port = free_port()
    scraped: list[str] = []

    class Scraping(Scorer):
        def score(self, request: Request, responses: Any) -> list[float]:
            scraped.append(httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text)
            return [float(len(response.text)) for response in responses]

    prompts = tmp_path / "in.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"Say {i}."}) + "\n" for i in range(3)))
    parser = Parser()
    batch.add_batch(parser.add_subparsers())
    line = [
        "batch",
        str(prompts),
        "--out",
        str(tmp_path / "out.jsonl"),
        "--concurrency",
        "1",
        "--metrics-port",
        str(port),
    ]
    search = DarwinSearch(
        policy=ScriptedPolicy(), scorer=Scraping(), config=CONFIG.replace(mutator="identity"), name="toy"
    )
    assert batch.run(parser.parse_args(line), lambda _: search) == 0
    last = {family.name: family for family in text_string_to_metric_families(scraped[-1])}
    [searches] = [sample for sample in last["darwin_searches"].samples if sample.name == "darwin_searches_total"]
    assert (searches.labels, searches.value) == ({"model": "toy", "stop_reason": "cycles"}, 2)
    assert any(sample.labels["operator"] == "decode" for sample in last["darwin_operator_duration_seconds"].samples)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False)


def test_a_port_that_is_taken_is_refused() -> None:
    port = free_port()
    with serving_metrics(port), pytest.raises(ConfigError, match="choose another port"), serving_metrics(port):
        pass
