"""The endpoint answers while it is up, and this machine when it is down."""

from typing import Any

import pytest
from langchain_core.exceptions import ModelConnectionError

from benchmarks.servers.launch import llama_server
from darwin_align.core.errors import ConfigError, RequestError
from darwin_align.integrations.langchain import fallback


async def test_the_endpoint_answers_while_it_is_up(llama: Any) -> None:
    model = fallback.build(llama.url)
    answer = model.invoke(fallback.QUESTION)
    assert fallback.who(answer) == "endpoint"
    assert "green tea" in answer.text
    assert fallback.who(await model.ainvoke(fallback.QUESTION)) == "endpoint"
    assert [fallback.who(one) for one in model.batch([fallback.QUESTION] * 2)] == ["endpoint"] * 2


async def test_this_machine_answers_when_it_is_down() -> None:
    model, expected = fallback.build(fallback.DOWN), fallback.local().invoke(fallback.QUESTION)
    answer = model.invoke(fallback.QUESTION)
    assert (fallback.who(answer), answer.text) == ("local", expected.text)
    assert (await model.ainvoke(fallback.QUESTION)).text == expected.text
    assert "".join([chunk.text async for chunk in model.astream(fallback.QUESTION)]) == expected.text
    with pytest.raises(ModelConnectionError):
        fallback.remote(fallback.DOWN).invoke(fallback.QUESTION)


def test_this_machine_answers_what_the_endpoint_left_unfinished(embedded_gguf: Any) -> None:
    """The server dies after the first answer was scored; the whole search begins anew here."""
    with llama_server(embedded_gguf) as server:

        def kill(event: Any, population: Any) -> None:
            if event.operator == "score" and server.process.poll() is None:
                server.kill()

        answer = fallback.build(server.url).invoke(fallback.QUESTION, on_event=kill)
    assert (fallback.who(answer), answer.text) == ("local", fallback.local().invoke(fallback.QUESTION).text)


def test_a_mistake_is_no_outage(llama: Any) -> None:
    model = fallback.build(llama.url)
    with pytest.raises(ConfigError, match="did you mean 'survivors'"):
        model.invoke(fallback.QUESTION, survivor=2)
    with pytest.raises(RequestError, match="empty"):
        model.invoke([])


def test_main_says_who_answered(llama: Any, capsys: pytest.CaptureFixture[str]) -> None:
    fallback.main([])
    fallback.main(["--url", llama.url])
    shown = capsys.readouterr().out.splitlines()
    assert [line for line in shown if line.startswith("answered")] == ["answered  local", "answered  endpoint"]
