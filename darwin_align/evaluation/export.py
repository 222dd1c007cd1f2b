"""The benchmarks' own programs, run on the files of a run: AlpacaEval's package and FastChat's judge."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from darwin_align.core.errors import ConfigError, DarwinError
from darwin_align.evaluation.alpaca_eval import Output
from darwin_align.evaluation.mt_bench import data_folder
from darwin_align.storage.atomic import write_atomically

__all__ = ["to_alpaca_eval", "to_fastchat"]


def to_alpaca_eval(
    out: str | Path,
    reference: Sequence[Output],
    *,
    python: str | Path | None = None,
    annotators: str | None = None,
    options: Sequence[str] = (),
) -> Path:
    """Run the ``alpaca_eval`` package on ``model_outputs.json``.

    Args:
        out: folder with the answers.
        reference: what they are compared with: written beside them, because the package's own download no longer
            works with recent versions of ``datasets``.
        python: interpreter that has the package; ``None`` takes this one.
        annotators: name or folder of the package's annotator; ``None`` takes AlpacaEval 2's.
        options: further options of its command line.

    Returns:
        The folder with its ``leaderboard.csv`` and ``annotations.json``.

    Raises:
        ConfigError: the package is not there.
        DarwinError: it failed.
    """
    out = Path(out)
    results = out / "alpaca_eval"
    results.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "reference_outputs.json", json.dumps(list(reference), indent=2) + "\n")
    command = ["--model_outputs", str(out / "model_outputs.json")]
    command += ["--reference_outputs", str(out / "reference_outputs.json"), "--output_path", str(results)]
    command += ["--annotators_config", annotators] if annotators else []
    _run(python, "alpaca_eval.main", ["evaluate", *command, *options], where=Path.cwd())
    return results


def to_fastchat(
    out: str | Path,
    name: str,
    *,
    judge: str = "gpt-4",
    python: str | Path | None = None,
    prompts: str | Path | None = None,
    references: str | Path | None = None,
    options: Sequence[str] = (),
) -> Path:
    """Let FastChat's judge grade the answers, by ``fastchat.llm_judge.gen_judgment``.

    Args:
        out: folder with the answers.
        name: what they go by.
        judge: one of FastChat's judges, by name.
        python: interpreter that has FastChat with its extra ``llm_judge``; ``None`` takes this one.
        prompts: FastChat's ``judge_prompts.jsonl``.
        references: reference answers for math, reasoning and coding.
        options: further options of ``gen_judgment``.

    Returns:
        The file with its judgments.

    Raises:
        ConfigError: FastChat is not there, or one of the two files is not given.
        DarwinError: it failed.
    """
    if prompts is None or references is None:
        raise ConfigError(
            "FastChat's judge needs its prompts and reference answers: give --judge-prompts and --references, each "
            "a file or 'official'"
        )
    data = data_folder(Path(out))
    (data / "reference_answer").mkdir(parents=True, exist_ok=True)
    shutil.copyfile(prompts, data.parent / "judge_prompts.jsonl")
    shutil.copyfile(references, data / "reference_answer" / f"{judge}.jsonl")
    command = ["--model-list", name, "--judge-model", judge, *options]
    _run(python, "fastchat.llm_judge.gen_judgment", command, where=data.parents[1], answers="\n")
    return data / "model_judgment" / f"{judge}_single.jsonl"


def _run(python: str | Path | None, module: str, arguments: Sequence[str], *, where: Path, answers: str = "") -> None:
    """Run a module of another program, with what it prints going where ours goes."""
    interpreter, package = str(python or sys.executable), module.partition(".")[0]
    try:
        there = subprocess.run(  # noqa: S603 - the user's own interpreter
            [interpreter, "-c", f"import {package}"], capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise ConfigError(f"--package-python {interpreter} cannot be run ({error.strerror})") from None
    if there.returncode:
        why = there.stderr.strip().rpartition("\n")[2]
        raise ConfigError(
            f"{interpreter} cannot import {package} ({why}): install it there, or give --package-python with an "
            "interpreter that has it"
        )
    sys.stdout.flush()
    command, environment = [interpreter, "-m", module, *arguments], {**os.environ, "PYTHONUTF8": "1"}
    done = subprocess.run(command, cwd=where, env=environment, input=answers, text=True, check=False)  # noqa: S603 - likewise
    if done.returncode:
        raise DarwinError(f"{module} failed with exit code {done.returncode}: see its output above")
