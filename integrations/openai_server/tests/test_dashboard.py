"""The Grafana dashboard asks for nothing that the server does not expose, by PromQL's own parser."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import promql_parser
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.responses import JSONResponse

from darwin_align import DarwinChatModel
from darwin_align.integrations.openai_server.app import create_app
from darwin_align.integrations.openai_server.settings import ServerSettings
from tests.conftest import embedded_gguf, llama  # noqa: F401
from tests.telemetry.kit import remote, reward_server, rewarded

DASHBOARD = json.loads((Path(__file__).parents[1] / "grafana.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
TARGETS = [(panel["title"], target) for panel in PANELS for target in panel["targets"]]
VARIABLES = [variable for variable in DASHBOARD["templating"]["list"] if variable["type"] == "query"]


@pytest.fixture(scope="module")
def exposed(llama, pair) -> dict[str, set[str]]:  # noqa: F811
    """Labels of the samples of each name, once a search over servers, one of which failed once, is done."""
    import asyncio

    async def busy_once(received):
        return JSONResponse({}, status_code=503) if received.number == 0 else await rewarded(received)

    async def scraped(model: DarwinChatModel) -> str:
        app = create_app(ServerSettings(allowed_hosts=("toy",)), {"toy": model, "pocket": pair})
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://toy", timeout=120) as client:
            body = {"model": "toy", "messages": [{"role": "user", "content": "How do I brew green tea?"}]}
            assert (await client.post("/v1/chat/completions", json=body)).status_code == 200
            scored = {"model": "toy:reward", "messages": body["messages"], "responses": ["Boil water."]}
            assert (await client.post("/v1/rewards", json=scored)).status_code == 200
            return (await client.get("/metrics")).text

    with reward_server(busy_once) as rewards:
        text = asyncio.run(scraped(DarwinChatModel(search=remote(llama.url, rewards.url, mutator="policy"))))
    labels: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    return labels


def parsed(expression: str) -> promql_parser.Expr:
    known = {"$__rate_interval": "5m", "$model": ".*", "$server": ".*"}
    for name, value in known.items():
        expression = expression.replace(name, value)
    assert "$" not in expression
    return promql_parser.parse(expression)


def selectors(node) -> Iterator[promql_parser.VectorSelector]:
    """The metrics that an expression reads."""
    match node:
        case promql_parser.VectorSelector():
            yield node
        case promql_parser.MatrixSelector():
            yield node.vector_selector
        case promql_parser.Call():
            for argument in node.args:
                yield from selectors(argument)
        case promql_parser.AggregateExpr():
            yield from selectors(node.expr)
        case promql_parser.BinaryExpr():
            yield from selectors(node.lhs)
            yield from selectors(node.rhs)
        case promql_parser.NumberLiteral():
            return
        case _:
            raise AssertionError(f"a kind of expression that this test does not read: {type(node).__name__}")


@pytest.mark.parametrize(("title", "target"), TARGETS, ids=[f"{title}-{one['refId']}" for title, one in TARGETS])
def test_every_query_names_what_the_server_exposes(exposed, title, target):
    read = list(selectors(parsed(target["expr"])))
    assert read
    for one in read:
        assert one.name in exposed, one.name
        assert {matcher.name for matcher in one.matchers.matchers} <= exposed[one.name]
    labels = set.union(*(exposed[one.name] for one in read))
    grouped = {label.strip() for by in re.findall(r"by \(([^)]*)\)", target["expr"]) for label in by.split(",")}
    assert grouped <= labels
    assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= grouped


@pytest.mark.parametrize("variable", VARIABLES, ids=lambda one: one["name"])
def test_every_variable_is_a_label_that_the_server_exposes(exposed, variable):
    [(metric, label)] = re.findall(r"^label_values\((\w+), (\w+)\)$", variable["query"]["query"])
    assert label == variable["name"]
    assert label in exposed[metric]


def test_every_metric_of_ours_is_on_the_dashboard(exposed):
    read = {one.name for _, target in TARGETS for one in selectors(parsed(target["expr"]))}
    shown = {re.sub(r"_(bucket|count|sum|total|created)$", "", name) for name in read}
    ours = {name for name in exposed if name.startswith("darwin_")}
    assert {re.sub(r"_(bucket|count|sum|total|created)$", "", name) for name in ours} <= shown
