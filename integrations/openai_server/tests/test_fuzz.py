"""Requests that nobody would write, made from the server's own schema by schemathesis: none may end in a 500."""

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from schemathesis.checks import not_a_server_error

from .conftest import KEY, TEA

PATHS = ["/v1/chat/completions", "/v1/rewards", "/get_reward", "/classify", "/pooling"]
KNOWN = (200, 400, 404, 405, 408, 413, 415, 422, 429)


def fuzz(web: httpx.Client, path: str, examples: int) -> int:
    """Ask with so many valid and invalid bodies. Returns how many there were."""
    document = web.get("/openapi.json").json()
    operation = schemathesis.openapi.from_dict(document)[path]["POST"]
    base, count = str(web.base_url), 0

    for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):

        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.generate],
            verbosity=Verbosity.quiet,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask(case):
            nonlocal count
            count += 1
            if isinstance(case.body, dict) and count % 2:
                _make_it_answerable(path, case.body, count)
            reply = case.call(base_url=base, headers={"Authorization": f"Bearer {KEY}"}, timeout=120)
            case.validate_response(reply, checks=[not_a_server_error])
            assert reply.status_code in KNOWN, reply.text

        ask()
    return count


def _make_it_answerable(path: str, body: dict, turn: int) -> None:
    """Give a body what few have by chance: else nearly all would be refused before any model is called."""
    if path == PATHS[0]:
        body["model"] = "pocket:sample"
        if "max_completion_tokens" not in body:
            body["max_tokens"] = 4
    else:
        body.pop("model", None)
    if turn % 4 == 1 and "messages" in body:
        body["messages"] = [{"role": "user", "content": TEA}]
        body.pop("conversations", None)


@pytest.mark.parametrize("path", PATHS)
def test_no_body_makes_the_server_fail(web, path):
    assert fuzz(web, path, 5) >= 5
    assert web.get("/healthz").status_code == 200


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS)
def test_many_bodies_do_not_make_the_server_fail(web, path):
    assert fuzz(web, path, 150) >= 150
    assert web.get("/healthz").status_code == 200
