"""Thoughts of a reasoning model over the wire: in replies, in streams, and in the history."""

import json

import httpx
import pytest

from darwin_align import DarwinChatModel
from darwin_align.integrations.openai_server.app import create_app
from darwin_align.integrations.openai_server.settings import ServerSettings
from tests.test_reasoning import Thinker, count_good

CHAT = "/v1/chat/completions"
HI = [{"role": "user", "content": "Hi"}]
SETTINGS = {"mutator": "identity", "mutations": 3, "cycles": 1, "replacement_period": 4, "max_new_tokens": 30}


class Noting(Thinker):
    """Keeps the requests that it is given."""

    def generate(self, rows):
        self.seen = [row.request for row in rows]
        return super().generate(rows)


@pytest.fixture
def policy():
    return Noting(stops=True, length=24)


@pytest.fixture
async def web(policy):
    model = DarwinChatModel(policy=policy, scorer=count_good, **SETTINGS)
    app = create_app(ServerSettings(allowed_hosts=("toy",)), {"thinker": model})
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://toy") as client:
        yield client


async def test_thoughts_have_a_field_of_their_own(web):
    reply = await web.post(CHAT, json={"model": "thinker", "messages": HI, "seed": 3})
    message = reply.json()["choices"][0]["message"]
    assert message["reasoning_content"]
    assert message["content"]
    streamed = await web.post(CHAT, json={"model": "thinker", "messages": HI, "seed": 3, "stream": True})
    lines = [line.removeprefix("data: ") for line in streamed.text.splitlines() if line.startswith("data: {")]
    deltas = [choice["delta"] for line in lines for choice in json.loads(line)["choices"]]
    assert "".join(delta.get("reasoning_content") or "" for delta in deltas) == message["reasoning_content"]
    assert "".join(delta.get("content") or "" for delta in deltas) == message["content"]


async def test_thoughts_in_the_history_and_switches_reach_the_policy(web, policy):
    history = [*HI, {"role": "assistant", "content": "Hello!", "reasoning_content": "She greets."}, *HI]
    switches = {"enable_thinking": False}
    body = {"model": "thinker", "messages": history, "seed": 3, "chat_template_kwargs": switches}
    reply = await web.post(CHAT, json=body)
    assert reply.status_code == 200
    assert "x-darwin-ignored" not in reply.headers
    [_, answer, _] = policy.seen[0].conversation
    assert answer.content[0] == {"type": "reasoning", "reasoning": "She greets."}
    assert answer.text == "Hello!"
    assert policy.seen[0].chat_template_kwargs == switches
