"""The launch script and the compose file: run with stand-ins for vLLM, and held against what the programs know."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from benchmarks.servers.launch import VLLM_PYTHON, free_port

FOLDER = Path(__file__).parents[1]
LAUNCH = FOLDER / "launch.sh"


def compose() -> dict[str, Any]:
    return yaml.safe_load((FOLDER / "compose.yaml").read_text())


def options(command: list[str]) -> set[str]:
    return {word.partition("=")[0] for word in command if word.startswith("--")}


def free_ports() -> tuple[int, int]:
    """Ports of the router, and of the first reward server with three free ones behind it."""
    while True:
        ports = free_port(), free_port()
        if len({ports[0], *range(ports[1], ports[1] + 4)}) == 5:
            return ports


@pytest.fixture
def launched(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], int, int]]:
    stub = tmp_path / "vllm"
    stub.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{Path(__file__).parent / "stand_in.py"}" "$@"\n')
    stub.chmod(0o755)
    port, reward = free_ports()
    settings = {"POLICY": "some/policy", "REWARD": "some/reward", "PORT": str(port), "REWARD_PORT": str(reward)}
    settings |= {"VLLM": str(stub), "ROUTER": str(Path(sys.executable).with_name("vllm-router")), "WAIT": "60"}
    settings |= {"POLICY_OPTIONS": "--seed 5", "REWARDS": "2", "DO_NOT_TRACK": "1"}
    settings |= {"HOST": "x86_64-conda-linux-gnu"}  # conda's compilers export it
    log = (tmp_path / "log").open("w")
    process = subprocess.Popen(  # noqa: S603
        [str(LAUNCH)], env={**os.environ, **settings}, stdout=log, stderr=log, text=True, start_new_session=True
    )
    try:
        with httpx.Client(trust_env=False, timeout=2) as client:
            while True:
                assert process.poll() is None, (tmp_path / "log").read_text()
                if "the router is ready" in (tmp_path / "log").read_text():
                    break
                time.sleep(0.1)
            assert client.get(f"http://127.0.0.1:{port}/health").status_code == 200
        yield process, port, reward
    finally:
        log.close()
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def alive(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False, timeout=2).status_code == 200
    except httpx.TransportError:
        return False


def test_replicas_share_the_router_and_all_end_together(launched: Any) -> None:
    process, port, reward = launched
    for port_of_reward in (reward, reward + 1):
        command = httpx.get(f"http://127.0.0.1:{port_of_reward}/v1/models", trust_env=False).json()["options"]
        assert command[:2] == ["serve", "some/reward"]
        assert ("--runner", "pooling") in pairwise(command)
        assert ("--host", "127.0.0.1") in pairwise(command)
    command = httpx.get(f"http://127.0.0.1:{reward + 2}/v1/models", trust_env=False).json()["options"]
    assert command[:2] == ["serve", "some/policy"]
    assert ("--seed", "5") in pairwise(command)
    answers = set()
    for i in range(40):
        body = {"model": "some/policy", "prompt": f"{i} " * 50}
        done = httpx.post(f"http://127.0.0.1:{port}/v1/completions", json=body, trust_env=False, timeout=10)
        answers.add(done.json()["choices"][0]["text"])
    assert answers <= {f"port {reward + 2}", f"port {reward + 3}"}
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143
    assert not any(alive(each) for each in (port, *range(reward, reward + 4)))


def test_what_is_missing_is_named() -> None:
    plain = {name: value for name, value in os.environ.items() if name not in ("POLICY", "REWARD")}
    done = subprocess.run([LAUNCH], env=plain, capture_output=True, text=True)  # noqa: S603, PLW1510
    assert done.returncode != 0
    assert "set POLICY to a folder or hub id" in done.stderr
    both = {**plain, "POLICY": "a", "REWARD": "b", "GPUS": "0 1 2", "REPLICAS": "2", "REWARDS": "2"}
    done = subprocess.run([LAUNCH], env=both, capture_output=True, text=True)  # noqa: S603, PLW1510
    assert (done.returncode, done.stderr) == (
        2,
        "GPUS names 3 devices: give 4, one for each replica and each reward server\n",
    )


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_finds_nothing() -> None:
    done = subprocess.run(["shellcheck", "-S", "warning", LAUNCH], capture_output=True, text=True)  # noqa: S603, S607, PLW1510
    assert done.returncode == 0, done.stdout


def test_the_compose_file_names_what_it_uses() -> None:
    services = compose()["services"]
    urls = [word for word in services["router"]["command"] if word.startswith("http://")]
    assert [url.removeprefix("http://").removesuffix(":8000") for url in urls] == ["policy-1", "policy-2"]
    assert services["router"]["depends_on"].keys() == {"policy-1", "policy-2"}
    assert "--runner=pooling" in services["reward"]["command"]
    devices = [
        services[name]["deploy"]["resources"]["reservations"]["devices"][0]["device_ids"]
        for name in ("policy-1", "policy-2", "reward")
    ]
    assert devices == [["0"], ["1"], ["2"]]
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert all(port.startswith("127.0.0.1:") for port in ports)
    assert {mount.partition(":")[0] for mount in services["reward"]["volumes"]} == compose()["volumes"].keys()


def test_the_router_knows_its_options() -> None:
    command = [str(Path(sys.executable).with_name("vllm-router")), "--help"]
    known = subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603
    used = options(compose()["services"]["router"]["command"]) | {"--host", "--port", "--policy", "--worker-urls"}
    assert used <= set(re.findall(r"--[a-z-]+", known))
    assert "cache_aware" in known


@pytest.mark.slow
def test_vllm_knows_its_options() -> None:
    # The build for the CPU goes by another name, for which the command `vllm` looks in vain.
    command = [str(VLLM_PYTHON), "-m", "vllm.entrypoints.openai.api_server", "--help=all"]
    known = subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603
    services = compose()["services"]
    used = options(services["policy-1"]["command"]) | options(services["reward"]["command"])
    script = re.sub(r"#.*", "", LAUNCH.read_text()).split('"$ROUTER"')[0]
    used |= set(re.findall(r" (--[a-z-]+)", script)) - {"--silent", "--fail", "--noproxy", "--output"}
    assert used >= {"--runner", "--max-model-len", "--enable-prefix-caching", "--host", "--port"}
    assert used <= set(re.findall(r"--[a-z0-9-]+", known))
