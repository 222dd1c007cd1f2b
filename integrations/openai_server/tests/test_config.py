"""The configuration file: what it takes, what it refuses and where, and what the command line makes of it."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from benchmarks.servers.launch import free_port
from darwin_align.cli.parsing import Parser
from darwin_align.integrations.openai_server import command
from darwin_align.integrations.openai_server.config import ModelConfig, ServeConfig, json_schema
from darwin_align.integrations.openai_server.settings import SearchLimits

from .conftest import KEY

DEPLOY = Path(__file__).parents[1] / "deploy"
TWO = """\
port: 9000
limits:
  cycles: 4
  seconds: 60
models:
  one:
    pair: embedded
    set: {cycles: 1, temperature: 0.7}
  two: {pair: embedded, preset: best_of_n, seed: 3}
"""


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch):
    monkeypatch.setenv(command.KEYS, "")


@pytest.fixture
def file(tmp_path):
    def written(text: str) -> str:
        path = tmp_path / "serve.yaml"
        path.write_text(text)
        return str(path)

    return written


def serving(*options: str) -> command._Serving:
    parser = Parser()
    command.add_arguments(parser)
    arguments = parser.parse_args(options)
    return command._serving(arguments, command.read_file(arguments.config))


def test_the_file_has_every_option_of_the_command_line():
    parser = Parser(add_help=False)
    command.add_arguments(parser)
    options = {action.dest.removeprefix("limit_") for action in parser._actions}
    known = {*ServeConfig.model_fields, *ModelConfig.model_fields, *SearchLimits.model_fields}
    assert options - known == {"config", "check", "schema", "name"}  # a name is a key of `models`


def test_several_models_each_with_its_settings(file):
    found = serving("--config", file(TWO))
    assert (found.settings.port, found.settings.limits.cycles, found.settings.limits.seconds) == (9000, 4, 60)
    assert found.models["one"].set == ["cycles=1", "temperature=0.7"]
    assert (found.models["two"].preset, found.models["two"].seed) == ("best_of_n", 3)


def test_options_replace_what_the_file_says(file):
    options = ["--port", "9001", "--limit-cycles", "5", "--presets", "darwin", "--open-metrics"]
    settings = serving("--config", file(TWO), *options).settings
    assert (settings.port, settings.limits.cycles, settings.limits.seconds) == (9001, 5, 60)
    assert (settings.presets, settings.open_metrics) == (("darwin",), True)


def test_options_change_the_only_model(file):
    one = file("models: {mine: {pair: embedded, preset: darwin, set: {cycles: 1, mutations: 4}}}")
    found = serving("--config", one, "--set", "cycles=2", "--preset", "best_of_n").models
    assert (found["mine"].set, found["mine"].preset) == (["mutations=4", "cycles=2"], "best_of_n")
    assert found["mine"].pair == "embedded"
    assert list(serving("--config", one, "--name", "yours").models) == ["yours"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("prot: 1", "serve.yaml:1: prot: there is no such setting: did you mean 'port'?"),
        ("port: 8000\nport: 8001", "serve.yaml:2: port stands on line 1 already"),
        ("port: 80000", "serve.yaml:1: port: Input should be less than or equal to 65535"),
        ("limits:\n  cycle: 1", "serve.yaml:2: limits.cycle: there is no such setting: did you mean 'cycles'?"),
        ("limits:\n  cycles: -1", "serve.yaml:2: limits.cycles: Input should be greater than or equal to 0"),
        ("limits: 5", "serve.yaml:1: limits: "),
        ("presets:\n  - darwin\n  - darwim", "serve.yaml:1: presets: unknown preset 'darwim': did you mean 'darwin'?"),
        ("host: 0.0.0.0", "there is no API key"),
        (
            "models:\n  a:\n    polcy_url: http://x",
            "serve.yaml:3: models.a.polcy_url: there is no such setting: did you mean 'policy_url'?",
        ),
        ("models:\n  a:\n    policy_url: http://x", "serve.yaml:2: models.a: --policy and --reward go together"),
        ("models:\n  a:\n    set: {cycle: 1}", "serve.yaml:3: models.a.set.cycle: --set 'cycle' is unknown"),
        ("models:\n  a:\n    seed: 1\n    preset: darwn", "serve.yaml:4: models.a.preset: unknown preset 'darwn'"),
        ("models:\n  a:\n    threads: many", "serve.yaml:3: models.a.threads: Input should be a valid integer"),
        ("models:\n  a:\n    policy_url: 5", "serve.yaml:3: models.a.policy_url: Input should be a valid string"),
        ("models:\n- a", "serve.yaml:1: models: Input should be a valid dictionary"),
        ("models: [1\n", "serve.yaml:2: this is no YAML"),
        ("- port", "write settings as in"),
        ("workers: 2\nmodels:\n  a: {pair: embedded}", "serve.yaml:3: models.a: --workers: the policy model runs in"),
    ],
)
def test_mistakes_are_named_with_their_line(file, text, sentence, capsys):
    assert command.main(["--config", file(text), "--check"]) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--port", "99999"], " --port: Input should be less than or equal to 65535"),
        (["--limit-seconds", "-4"], " --limit-seconds: Input should be greater than 0"),
    ],
)
def test_a_mistake_of_an_option_is_not_one_of_the_file(file, options, sentence, capsys):
    assert command.main(["--config", file(TWO), "--check", *options]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert "serve.yaml" not in error


def test_a_model_without_settings_has_the_defaults(file):
    assert (
        serving("--config", file("models:\n  toy:\n")).models == serving("--config", file("models: {toy: {}}")).models
    )


@pytest.mark.parametrize("text", [f"api_keys: [{KEY}]", f"models:\n  a:\n    api_key: {KEY}"])
def test_keys_in_the_file_are_refused_unseen(file, text, capsys):
    assert command.main(["--config", file(text), "--check"]) == 2
    error = capsys.readouterr().err
    assert "no key stands in this file" in error
    assert KEY not in error


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--preset", "darwin"], "--preset would change one model and the file has several"),
        (["--name", "x"], "--name would change one model"),
        (["--models", "os:environ", "--preset", "darwin"], "--models names its pairs"),
    ],
)
def test_options_that_no_model_of_the_file_can_take(file, options, sentence, capsys):
    assert command.main(["--config", file(TWO), *options]) == 2
    assert sentence in capsys.readouterr().err


def test_a_file_that_is_not_there(capsys, tmp_path):
    assert command.main(["--config", str(tmp_path / "none.yaml"), "--check"]) == 2
    assert "none.yaml cannot be read" in capsys.readouterr().err


def test_the_schema_takes_the_example_and_refuses_what_the_command_refuses(capsys):
    assert command.main(["--schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert schema == json_schema()
    example = yaml.safe_load((DEPLOY / "serve.yaml").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(example, schema)
    assert "api_keys" not in schema["properties"]
    for wrong in ({"prot": 1}, {"port": "x"}, {"models": {"a": {"polcy": "x"}}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**example, **wrong}, schema)


def test_check_asks_the_servers_and_serves_nothing(file, capsys, server):
    free = free_port()
    models = {"m": {"policy_url": server.url, "reward_url": f"http://127.0.0.1:{free}", "api_key_env": "THE_KEY"}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THE_KEY", KEY)
        assert command.main(["--config", file(yaml.safe_dump({"models": models})), "--check"]) == 2
        out = capsys.readouterr().out
        assert f"m:policy: {server.url} answers" in out
        assert f"m:reward: http://127.0.0.1:{free} does not answer: no connection" in out
        models["m"]["reward_url"] = [server.url, f"http://127.0.0.1:{free}"]  # one of them is enough
        assert command.main(["--config", file(yaml.safe_dump({"models": models})), "--check"]) == 0
        patch.setenv("THE_KEY", "a-wrong-key-of-some-length")
        assert command.main(["--config", file(yaml.safe_dump({"models": models})), "--check"]) == 2
        out = capsys.readouterr().out
    assert "it refuses the key (status 401)" in out
    assert KEY not in out


def test_check_load_has_each_model_answer(file, capsys):
    text = "presets: [sample]\nmodels:\n  toy: {pair: embedded, set: {mutations: 2}}"
    assert command.main(["--config", file(text), "--check", "load"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "http://127.0.0.1:8000, 1 process, no API key: this machine only",
        "toy: policy of the embedded pair, reward of the embedded pair, preset darwin, mutations=2",
        "served: toy, toy:sample, toy:reward",
        "toy: answers",
    ]
