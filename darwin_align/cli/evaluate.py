"""``darwin-align eval …``: each benchmark is a subcommand, added by a function of its own."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from darwin_align.cli.activity import working
from darwin_align.cli.evaluate_ifeval import add_ifeval
from darwin_align.cli.evaluate_pool import add_pool
from darwin_align.cli.evaluate_prompts import add_prompts
from darwin_align.cli.evaluate_world import add_world
from darwin_align.cli.options import UsageError, add_models, add_settings, build_search, check_models, model_name
from darwin_align.cli.parsing import Commands, examples
from darwin_align.core.errors import ConfigError
from darwin_align.core.terminal import printable, printable_json
from darwin_align.evaluation.options import count, need_packages

if TYPE_CHECKING:
    from darwin_align.evaluation.alpaca_eval import Answers
    from darwin_align.evaluation.mt_grades import Grades
    from darwin_align.evaluation.subject import Subject
    from darwin_align.evaluation.win_rates import WinRates

__all__ = ["add_eval"]


def add_eval(commands: Commands) -> None:
    """Add ``eval`` and its benchmarks to the commands of the program."""
    parser = commands.add_parser(
        "eval",
        help="benchmarks: your own prompts, IFEval, recorded pools, the embedded world, AlpacaEval 2, MT-Bench",
        usage="%(prog)s [-h] BENCHMARK …",
    )
    benchmarks = parser.add_subparsers(required=True, prog=parser.prog, metavar="BENCHMARK", title="benchmarks")
    for add in _BENCHMARKS:
        add(benchmarks)


# -- AlpacaEval


def _add_alpaca_eval(benchmarks: Commands) -> None:
    parser = benchmarks.add_parser(
        "alpaca_eval",
        help="AlpacaEval 2: 805 instructions, against a reference's answers",
        usage="%(prog)s [options]",
        epilog=examples("""
            darwin-align eval alpaca_eval --limit 20 --set cycles=1
            darwin-align eval alpaca_eval --policy FOLDER --reward FOLDER --judge-url URL --judge-model NAME
        """),
    )
    _add_common(parser, "AlpacaEval's instructions, JSON or JSONL (default: the official ones, from the hub)")
    judge = _add_judging(parser)
    judge.add_argument(
        "--reference",
        default="official",
        metavar="FILE",
        help="what is compared with: answers in the official format, 'official' for GPT-4 Turbo's, from the hub, or "
        "'first' for the plain samples that the searches began with (default: official)",
    )
    judge.add_argument(
        "--judge-mode",
        choices=("logprobs", "text"),
        default="logprobs",
        help="read verdicts from the first token's probabilities, as AlpacaEval 2 does, or from the reply's end",
    )
    judge.add_argument(
        "--template",
        metavar="FILE",
        help="the judge's prompt: a file, or 'official' for the alpaca_eval package's (default: our own)",
    )
    judge.add_argument(
        "--gamed",
        metavar="FILE",
        help="AlpacaEval's df_gamed.csv, for the leaderboard's length-controlled win rate, or 'official' to fetch it",
    )
    judge.add_argument("--difficulty", metavar="FILE", help="its instruction_difficulty.csv, where only that is there")
    judge.add_argument("--annotators-config", metavar="NAME", help="with --hand-over: the package's annotator")
    parser.set_defaults(run=_alpaca_eval, parser=parser)


def _alpaca_eval(arguments: argparse.Namespace) -> int:
    with working("starting"):
        from darwin_align.evaluation.alpaca_eval import answer
        from darwin_align.evaluation.alpaca_verdicts import Template, compare, reference_outputs
        from darwin_align.evaluation.chat_judge import judge_of
        from darwin_align.evaluation.export import to_alpaca_eval
        from darwin_align.evaluation.official import ALPACA_EVAL, found, instructions
        from darwin_align.evaluation.win_rates import WIN_RATES_NEED

    judge = judge_of(arguments)
    _check_judging(arguments, ("template", "gamed", "difficulty"), ("annotators_config",))
    if judge is not None:
        need_packages("win rates", *WIN_RATES_NEED)
    template = Template.of(arguments.template, arguments.judge_mode)
    gamed = found(arguments.gamed, ALPACA_EVAL["gamed"], "--gamed")
    difficulty = found(arguments.difficulty, ALPACA_EVAL["difficulty"], "--difficulty")
    prompts = instructions(arguments.prompts)
    _check_difficulties(arguments, prompts)
    subject = _subject(arguments)
    out = _out(arguments, "alpaca_eval", subject.name)
    answers = answer(subject, prompts, out, limit=arguments.limit, concurrency=arguments.concurrency)
    if arguments.hand_over:
        reference = reference_outputs(arguments.reference, answers)
        results = to_alpaca_eval(
            out, reference, python=arguments.package_python, annotators=arguments.annotators_config
        )
        return _print(arguments, {"out": str(out), "alpaca_eval": str(results)}, _answered(answers, out))
    if judge is None:
        return _print(arguments, {"out": str(out), "notes": answers.notes}, _answered(answers, out))
    rates = compare(
        answers,
        reference_outputs(arguments.reference, answers),
        judge,
        out,
        template=template,
        mode=arguments.judge_mode,
        seed=subject.seed,
        gamed=gamed,
        difficulty=difficulty,
        concurrency=arguments.judge_concurrency,
    )
    shown = {"out": str(out), **json.loads((out / "results.json").read_text(encoding="utf-8"))}
    return _print(arguments, shown, _win_rates(rates, out))


def _check_difficulties(arguments: argparse.Namespace, prompts: Sequence[Any]) -> None:
    """The official difficulties are known by places in the official file."""
    from darwin_align.evaluation.official import is_official

    for name in ("gamed", "difficulty"):
        if getattr(arguments, name) == "official" and not is_official(prompts):
            raise ConfigError(
                f"--{name} official belongs to AlpacaEval's 805 instructions, and these are others: leave it out"
            )


def _answered(answers: Answers, out: Path) -> str:
    return _lines(f"{len(answers.outputs)} answers in {out / 'model_outputs.json'}", answers.notes)


def _win_rates(rates: WinRates, out: Path) -> str:
    between = f", 95% {rates.interval[0]:.2f} to {rates.interval[1]:.2f}" if rates.interval else ""
    lines = [
        f"win rate                    {rates.win_rate:6.2f}  (standard error {_figure(rates.standard_error)}{between})",
        f"length-controlled win rate  {_figure(rates.length_controlled_winrate):>6}  "
        f"(standard error {_figure(rates.lc_standard_error)}, {rates.glm or 'none'})",
        f"wins, draws, losses         {rates.n_wins}, {rates.n_draws}, {rates.n_wins_base} of {rates.n_total}",
        f"characters                  {rates.avg_length}, the reference's {rates.avg_length_reference}",
        f"files                       {out}",
    ]
    return _lines("\n".join(lines), rates.notes)


# -- MT-Bench


def _add_mt_bench(benchmarks: Commands) -> None:
    parser = benchmarks.add_parser(
        "mt_bench",
        help="MT-Bench: 80 questions of two turns, graded from 1 to 10",
        usage="%(prog)s [options]",
        epilog=examples("""
            darwin-align eval mt_bench --limit 4 --preset sample
            darwin-align eval mt_bench --policy-url URL --reward-url URL --judge-url URL --judge-model NAME
        """),
    )
    _add_common(parser, "MT-Bench's questions, JSONL or JSON (default: the official ones, from the hub)")
    parser.add_argument(
        "--category-temperatures",
        action="store_true",
        help="answer each category at FastChat's own temperature, from 0 for math to 0.7 for writing",
    )
    judge = _add_judging(parser)
    judge.add_argument(
        "--references",
        metavar="FILE",
        help="reference answers for math, reasoning and coding: a file of FastChat's answers, or 'official'",
    )
    judge.add_argument(
        "--judge-prompts",
        metavar="FILE",
        help="FastChat's judge_prompts.jsonl, or 'official' to fetch it (default: our own prompts)",
    )
    parser.set_defaults(run=_mt_bench, parser=parser)


def _mt_bench(arguments: argparse.Namespace) -> int:
    with working("starting"):
        from darwin_align.evaluation.chat_judge import judge_of
        from darwin_align.evaluation.export import to_fastchat
        from darwin_align.evaluation.mt_bench import answer
        from darwin_align.evaluation.mt_grades import GRADES_NEED, GradingPrompts, grade, references
        from darwin_align.evaluation.official import MT_BENCH, found, questions

    judge = judge_of(arguments)
    _check_judging(arguments, (), ())
    if judge is not None:
        need_packages("grades' intervals", *GRADES_NEED)
    prompts = found(arguments.judge_prompts, MT_BENCH["judge_prompts"], "--judge-prompts")
    right = found(arguments.references, MT_BENCH["references"], "--references")
    if judge is None and not arguments.hand_over and (prompts or right):
        raise ConfigError("--judge-prompts and --references are for a judge: give --judge-url, or --hand-over")
    prompted = questions(arguments.prompts)
    subject = _subject(arguments)
    out = _out(arguments, "mt_bench", subject.name)
    conversations = answer(
        subject,
        prompted,
        out,
        limit=arguments.limit,
        category_temperatures=arguments.category_temperatures,
        concurrency=arguments.concurrency,
    )
    empty = sum(one.error is not None for one in conversations)
    notes = (f"{empty} questions have an empty answer: answers.jsonl says why",) if empty else ()
    answered = _lines(f"{len(conversations)} questions answered, in {out}", notes)
    if arguments.hand_over:
        file = to_fastchat(out, subject.name, python=arguments.package_python, prompts=prompts, references=right)
        return _print(arguments, {"out": str(out), "judgments": str(file)}, answered)
    if judge is None:
        return _print(arguments, {"out": str(out), "notes": notes}, answered)
    grades = grade(
        conversations,
        judge,
        out,
        name=subject.name,
        prompts=GradingPrompts.of(prompts, arguments.judge_prompts or "own"),
        right=references(right),
        concurrency=arguments.judge_concurrency,
    )
    shown = {"out": str(out), **json.loads((out / "results.json").read_text(encoding="utf-8"))}
    return _print(arguments, shown, _grades(grades, out))


def _grades(grades: Grades, out: Path) -> str:
    lines = [f"score     {_graded(grades.score, grades.interval)}"]
    lines += [f"turn {turn}    {_graded(mean, grades.turn_intervals[turn])}" for turn, mean in grades.turns.items()]
    lines += [f"  {category:18} {mean:5.2f}" for category, mean in grades.categories.items()]
    lines += [f"{grades.n_graded} answers graded; files in {out}"]
    return _lines("\n".join(lines), grades.notes)


def _graded(mean: float, interval: tuple[float, float] | None) -> str:
    return f"{mean:.2f}" + (f"  (95% {interval[0]:.2f} to {interval[1]:.2f})" if interval else "")


# -- shared


def _add_common(parser: argparse.ArgumentParser, prompts: str) -> None:
    parser.add_argument("--prompts", metavar="FILE", help=prompts)
    parser.add_argument("--limit", type=count, metavar="N", help="only the first N; may be raised later")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where the files go (default: results/BENCHMARK/NAME)")
    parser.add_argument(
        "--concurrency", type=count, default=8, metavar="N", help="prompts answered side by side (default: 8)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser.add_argument("--name", help="what the answers go by (default: from the policy and the preset)")
    add_models(parser)
    add_settings(parser, seed="0; every prompt's own is derived from it")


def _subject(arguments: argparse.Namespace) -> Subject:
    """Load the models and make the search that takes the benchmark.

    A benchmark needs whole searches: unless ``on_failure`` is set, a server that fails for good is an error and not a
    worse answer.
    """
    from darwin_align.evaluation.subject import Subject

    check_models(arguments)
    name = arguments.name or _name(arguments)
    if "/" in name or name.startswith("."):
        raise UsageError(f"--name {name!r} is to be a file's name: leave out slashes and a leading dot")
    search = build_search(arguments, on_failure="raise")
    models = {role: model_name(arguments, role) for role in ("policy", "reward")}
    return Subject(search, name, arguments.seed or 0, models)


def _name(arguments: argparse.Namespace) -> str:
    policy = Path(model_name(arguments, "policy").rstrip("/")).name or "policy"
    settings = [text.replace("=", "") for text in arguments.set]
    return "-".join([policy, arguments.preset or "darwin", *settings]).replace("/", "_")


def _add_judging(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    from darwin_align.evaluation.chat_judge import add_judge

    group = add_judge(parser)
    group.add_argument("--hand-over", action="store_true", help="let the benchmark's own program judge the files")
    group.add_argument("--package-python", metavar="PATH", help="with --hand-over: interpreter that has that program")
    return group


def _check_judging(arguments: argparse.Namespace, judges: Sequence[str], hands: Sequence[str]) -> None:
    if arguments.hand_over and arguments.judge_url is not None:
        raise UsageError("--hand-over lets the benchmark's own program judge, and --judge-url ours: give one of them")
    for name in judges:
        if getattr(arguments, name) is not None and arguments.judge_url is None:
            raise UsageError(f"--{name.replace('_', '-')} needs --judge-url: it is for our own comparison")
    for name in ("package_python", *hands):
        if getattr(arguments, name) is not None and not arguments.hand_over:
            raise UsageError(f"--{name.replace('_', '-')} needs --hand-over: it is for the benchmark's own program")


def _out(arguments: argparse.Namespace, benchmark: str, name: str) -> Path:
    given: Path | None = arguments.out
    return Path("results") / benchmark / name if given is None else given


def _print(arguments: argparse.Namespace, data: dict[str, Any], text: str) -> int:
    sys.stdout.write((printable_json(data, indent=2) if arguments.json else printable(text)) + "\n")
    return 0


def _lines(text: str, notes: Sequence[str]) -> str:
    return "\n".join([text, *(f"note: {note}" for note in notes)])


def _figure(value: float | None) -> str:
    return "none" if value is None else f"{value:.2f}"


_BENCHMARKS: tuple[Callable[[Commands], None], ...] = (
    add_prompts, add_ifeval, add_pool, add_world, _add_alpaca_eval, _add_mt_bench,
)  # fmt: skip
"""Another benchmark adds its function here."""
