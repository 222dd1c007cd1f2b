"""The benchmarks' own programs read our files, in a virtual environment of their own: ``make .venv-alpaca/.ready``."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from darwin_align.evaluation.alpaca_eval import answer
from darwin_align.evaluation.alpaca_verdicts import Template, compare, reference_outputs
from darwin_align.evaluation.chat_judge import ChatJudge
from darwin_align.evaluation.export import to_alpaca_eval
from darwin_align.evaluation.mt_bench import answer as converse
from darwin_align.evaluation.mt_grades import grade
from darwin_align.evaluation.official import instructions, questions
from darwin_align.evaluation.win_rates import win_rates
from tests.evaluation.kit import (
    CONTROLLED_BY_THE_PACKAGE,
    RAW_OF_THE_PACKAGE,
    annotations,
    judging,
    subject,
    write_difficulty,
    write_gamed,
    write_instructions,
    write_questions,
)

pytestmark = pytest.mark.slow

PYTHON = Path(__file__).parents[2] / ".venv-alpaca" / "bin" / "python"

METRICS = """
import json, sys
import pandas
from alpaca_eval.metrics import glm_winrate
glm_winrate.hf_hub_download = lambda **asked: sys.argv[2]  # the data set's file is not at hand here
with open(sys.argv[1]) as file:
    rows = json.load(file)
figures = {
    name: glm_winrate.get_length_controlled_winrate(pandas.DataFrame(rows), glm_name=name, save_weights_dir=None)
    for name in glm_winrate.GLM_INFO
}
print(json.dumps({name: {key: float(value) for key, value in one.items()} for name, one in figures.items()}))
"""

ANNOTATOR = """
judge:
  prompt_template: "{template}"
  fn_completions: "openai_completions"
  completions_kwargs:
    model_name: "gpt-4-rule"
    max_tokens: 1
    temperature: 1
    logprobs: true
    top_logprobs: 5
  fn_completion_parser: "logprob_parser"
  completion_parser_kwargs:
    numerator_token: "m"
    denominator_tokens: ["m", "M"]
    is_binarize: false
  completion_key: "completions_all"
  batch_size: 1
"""


@pytest.fixture(scope="module", autouse=True)
def python() -> Path:
    if not PYTHON.is_file():
        raise FileNotFoundError("alpaca_eval has a virtual environment of its own: run `make .venv-alpaca/.ready`")
    return PYTHON


def output_of(python: Path, script: str, *arguments: str | Path) -> Any:
    line = [str(python), "-W", "ignore", "-c", script, *map(str, arguments)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.mark.parametrize("n", [60, 200])
def test_its_figures_are_ours(tmp_path: Path, python: Path, n: int) -> None:
    rows, gamed = annotations(n), write_gamed(tmp_path / "df_gamed.csv", n)
    (tmp_path / "annotations.json").write_text(json.dumps(rows), encoding="utf-8")
    theirs = output_of(python, METRICS, tmp_path / "annotations.json", gamed)
    difficulty = write_difficulty(tmp_path / "difficulty.csv", n)
    given: dict[str, dict[str, Any]] = {
        "length_controlled_v1": {"gamed": gamed},
        "length_controlled_noreg": {"difficulty": difficulty},
        "length_controlled_minimal": {},
    }
    for name, files in given.items():
        ours = win_rates(rows, **files).to_dict()
        assert {key: ours[key] for key in theirs[name]} == pytest.approx(theirs[name], abs=1e-9)
    if n == 60:  # what the quick tests hold ours to
        assert {key: theirs["length_controlled_v1"][key] for key in RAW_OF_THE_PACKAGE} == RAW_OF_THE_PACKAGE
        for name, figures in CONTROLLED_BY_THE_PACKAGE.items():
            one = theirs[name]
            assert (one["length_controlled_winrate"], one["lc_standard_error"]) == pytest.approx(figures, abs=1e-9)


def test_the_package_judges_our_file_as_we_do(
    tmp_path: Path, python: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its own client, template and parser against a rule-made judge on this machine, and the same by our own."""
    prompts = instructions(write_instructions(tmp_path / "prompts.json", 40))
    out = tmp_path / "out"
    answers = answer(subject(), prompts, out, progress=False)
    reference = reference_outputs("first", answers)
    package = output_of(python, "import alpaca_eval, json; print(json.dumps(alpaca_eval.__path__[0]))")
    template = Path(package) / "evaluators_configs" / "alpaca_eval_clf_gpt4_turbo" / "alpaca_eval_clf.txt"
    config = tmp_path / "judge" / "configs.yaml"
    config.parent.mkdir()
    config.write_text(ANNOTATOR.replace("{template}", str(template)), encoding="utf-8")
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setenv("IS_ALPACA_EVAL_2", "False")  # the fit needs a file of the hub: the raw rate is compared
    with judging() as judge:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{judge.url}/v1")
        results = to_alpaca_eval(out, reference, python=python, annotators=str(config.parent))
        assert judge.received, capfd.readouterr().err
        rates = compare(
            answers,
            reference,
            ChatJudge(judge.url, "gpt-4-rule"),
            out,
            template=Template.of(str(template), "logprobs"),
            progress=False,
        )
    theirs = json.loads((results / "annotations.json").read_text(encoding="utf-8"))
    ours = json.loads((out / "annotations.json").read_text(encoding="utf-8"))
    assert [one["instruction"] for one in theirs] == [one["instruction"] for one in ours]
    for mine, other in zip(ours, theirs, strict=True):
        assert (other["output_2"], other["generator_2"]) == (mine["output_2"], "toy")
        assert other["preference"] == pytest.approx(mine["preference"], abs=1e-6)
    board = (results / "leaderboard.csv").read_text(encoding="utf-8").splitlines()
    row = dict(zip(board[0].split(","), board[1].split(","), strict=True))
    assert float(row["win_rate"]) == pytest.approx(rates.win_rate, abs=1e-4)
    assert float(row["standard_error"]) == pytest.approx(rates.standard_error, abs=1e-4)
    assert float(row["n_total"]) == rates.n_total == 40


def test_fastchat_shows_the_means_of_our_judgments(tmp_path: Path, python: Path) -> None:
    conversations = converse(subject(), questions(write_questions(tmp_path / "q.jsonl", 8)), tmp_path, progress=False)
    with judging() as judge:
        grades = grade(conversations, ChatJudge(judge.url, "gpt-4"), tmp_path, name="toy", progress=False)
    line = [str(python), "-W", "ignore", "-m", "fastchat.llm_judge.show_result", "--judge-model", "gpt-4"]
    shown = subprocess.run(line, cwd=tmp_path / "fastchat", capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    means = [float(row.split()[-1]) for row in shown.stdout.splitlines() if row.startswith("toy")]
    assert means == pytest.approx([grades.turns["1"], grades.turns["2"], grades.score], abs=1e-5)
