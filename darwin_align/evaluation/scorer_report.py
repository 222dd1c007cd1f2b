"""What a scorer check measured, what that means, and how it reads.

In one file: each figure stands beside its limit and its sentence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from statistics import fmean
from textwrap import fill
from typing import Literal, NamedTuple, Self

from darwin_align.core.record import Record
from darwin_align.evaluation.scorer_outcomes import EASY, FEW, MATCHED, Outcome, Share, SubsetReport

__all__ = [
    "EMPTY",
    "FRACTIONS",
    "SPOT",
    "Finding",
    "Outcome",
    "Rewards",
    "ScorerReport",
    "Share",
    "SubsetReport",
    "shortened",
]

Severity = Literal["ok", "warning", "problem"]

FRACTIONS = (25, 50, 75)
"""Per cent of the words of both answers that are judged as partial answers."""
SPOT, EMPTY = 8, 3
"""Pairs that are scored again and alone, and pairs that are scored with an empty answer."""
SAME = 1e-3
"""Rewards on a scale of 1 or more that differ by no more are the same: another batch shape rounds differently."""
LEVELS = 11
"""A scorer with no more distinct rewards is coarse: as many as a judge has from 0 to 10."""
END = 0.01
"""A sigmoid comes so near to 0 and 1 for logits beyond 4.6."""


class Rewards(Record):
    """Where all rewards of the check lie."""

    n: int
    distinct: int
    lowest: float
    highest: float
    near_ends: float
    """Share of them within :data:`END` of 0 or 1."""
    whole: bool
    """All are whole numbers."""

    @classmethod
    def of(cls, rewards: Sequence[float]) -> Self:
        """Look at rewards."""
        return cls(
            n=len(rewards),
            distinct=len(set(rewards)),
            lowest=min(rewards),
            highest=max(rewards),
            near_ends=fmean(min(abs(reward), abs(1 - reward)) <= END for reward in rewards),
            whole=all(reward.is_integer() for reward in rewards),
        )

    @property
    def same(self) -> float:
        """A difference that is no more than rounding."""
        return SAME * min(1.0, self.highest - self.lowest)

    @property
    def coarse(self) -> bool:
        """Whether the same few rewards are given again and again."""
        return 1 < self.distinct <= LEVELS and self.n >= 3 * self.distinct


class Finding(NamedTuple):
    """One thing that was found: a search suffers from a "problem", and may suffer from a "warning"."""

    severity: Severity
    sentence: str


class ScorerReport(Record):
    """What a check measured, and what that means: print it."""

    scorer: str
    seed: int
    pairs: int
    accuracy: Share
    """Better above worse."""
    margin: float
    """Mean reward of better less worse."""
    effect: float | None
    """The margin in standard deviations of the differences (Cohen's d for pairs); ``None`` where all are equal."""
    sensitivity: Share | None
    """Better answer under its own prompt above the same under a shuffled one; a half: the prompt does not count."""
    partial: tuple[Share | None, ...]
    """Better above worse after each of :data:`FRACTIONS`."""
    empty_answer: str
    """How the scorer failed on an empty answer; empty where it did not."""
    rewards: Rewards
    repeated: float
    """Largest difference between two equal calls."""
    alone: float
    """Largest difference between a response by itself and the same beside others."""
    longer_wins: Share | None
    """Longer answer above shorter."""
    longer_better: Share | None
    """Among the same pairs: the longer answer is the better one."""
    matched: Share | None = None
    """Better above worse where both are of one length (:data:`MATCHED`): no liking for long or short ones helps."""
    subsets: tuple[SubsetReport, ...] = ()
    """The same by :attr:`Pair.subset <darwin_align.evaluation.Pair.subset>`; empty where no pair has one."""
    calls: int
    responses: int
    concurrency: int
    seconds_per_call: float
    """Median, with ``concurrency`` calls at a time."""
    responses_per_second: float
    notes: tuple[str, ...] = ()
    """What the scorer itself noted, each once."""
    outcomes: tuple[Outcome, ...]

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What was found, and what to do about it; problems first."""
        if self.rewards.distinct == 1:
            judges: tuple[Callable[[ScorerReport], Finding], ...] = (_on_rewards, _on_empty)
        else:
            judges = (
                _on_accuracy, _on_prompt, _on_partial, _on_empty, _on_rewards, _on_repeats, _on_batches, _on_length,
            )  # fmt: skip
        order = ("problem", "warning", "ok")
        return tuple(sorted((judge(self) for judge in judges), key=lambda found: order.index(found.severity)))

    @property
    def passed(self) -> bool:
        """Whether no problem was found."""
        return all(found.severity != "problem" for found in self.findings)

    def render(self) -> str:
        """Return the report as plain text of at most 100 columns."""
        return _render(self)

    def __str__(self) -> str:
        return self.render()


# What the measurements mean -------------------------------------------------------------------------------------------


def _ok(sentence: str) -> Finding:
    return Finding("ok", sentence)


def _warning(sentence: str) -> Finding:
    return Finding("warning", sentence)


def _problem(sentence: str) -> Finding:
    return Finding("problem", sentence)


def _on_accuracy(report: ScorerReport) -> Finding:
    share, fact = report.accuracy, f"The better answer is above the worse one in {report.accuracy}"
    match share.verdict:
        case "reversed":
            return _problem(
                f"{fact}: the order is upside down. A larger reward must be the better one: negate the reward, or see "
                "whether the answers of your pairs, or the labels of the classifier, are in the wrong places."
            )
        case "chance":
            return _problem(
                f"{fact}, no better than a coin. See whether the scorer reads the answer at all, with the chat "
                "template that it was trained with, and is a reward model and no base model with a new head."
            )
        case "few":
            return _warning(f"{fact}, but so few pairs cannot tell: give {FEW} or more.")
        case "weak":
            return _warning(
                f"{fact}: more than a coin, less than the {EASY:.0%} to expect on easy pairs. Read the pairs that are "
                "not in order below; where they are easy, a wrong template or a cut prompt is likely."
            )
        case "good":
            return _ok(f"{fact}.")


def _on_prompt(report: ScorerReport) -> Finding:
    share = report.sensitivity
    if share is None:
        return _warning(
            "All pairs ask the same: whether the scorer reads the prompt is unknown. Give other prompts too."
        )
    moved = max(abs(one.better - one.shuffled) for one in report.outcomes if one.shuffled is not None)
    if moved <= report.rewards.same:
        return _problem(
            "No reward changes when the prompts are shuffled: the scorer never sees the prompt. Pass it the whole "
            "conversation, not the answer alone."
        )
    fact = f"The better answer is worth more under its own prompt than under a shuffled one in {share}"
    if share.verdict in ("chance", "reversed"):
        return _problem(
            f"{fact}: the prompt hardly counts, and a search would drift off the topic. Pass the scorer the whole "
            "conversation by its own chat template; or give pairs whose prompts differ more."
        )
    if share.verdict == "good":
        return _ok(f"{fact}: the scorer reads the prompt.")
    why = f"so few pairs cannot tell: give {FEW} or more" if share.verdict == "few" else "less than to expect"
    return _warning(f"{fact}: {why}, unless your prompts are much alike.")


def _on_partial(report: ScorerReport) -> Finding:
    shares = [(percent, share) for percent, share in zip(FRACTIONS, report.partial, strict=True) if share]
    if not shares:
        return _warning(
            "The answers of each pair begin alike: nothing is known of partial answers. Give other pairs too."
        )
    fact = (
        f"Of answers cut after {', '.join(f'{p}% of the words {share.share:.0%}' for p, share in shares)} are in order"
    )
    verdicts = {percent: share.verdict for percent, share in shares}
    if "reversed" in verdicts.values():
        return _problem(
            f"{fact}: good beginnings are taken for bad ones, and replacement would spread the bad ones. Use the "
            "preset best_of_n or mutate_best_of_n, or a reward model that was trained on partial answers too."
        )
    late = [verdict for percent, verdict in verdicts.items() if percent >= 50]
    if "chance" in late or not late:
        return _warning(
            f"{fact}: partial answers cannot be judged, so that replacement is left to chance. Use the preset "
            "best_of_n or mutate_best_of_n, or a longer replacement_period."
        )
    if "few" in late:
        return _warning(f"{fact}, but so few pairs cannot tell: give {FEW} or more.")
    return _ok(f"{fact}: they can be judged.")


def _on_empty(report: ScorerReport) -> Finding:
    if not report.empty_answer:
        return _ok("An empty answer has a reward.")
    return _problem(
        "An empty answer makes the scorer fail, and a policy may end at once: give it a low reward. "
        f"The scorer said: {shortened(report.empty_answer, 200)}"
    )


def _on_rewards(report: ScorerReport) -> Finding:
    rewards = report.rewards
    if rewards.distinct == 1:
        return _problem(
            f"All {rewards.n} rewards are {rewards.lowest:.6g}: nothing can be selected by them. A softmax over a "
            "single label does this, and a judge whose reply is never understood."
        )
    fact = f"All {rewards.n} rewards lie between {rewards.lowest:.4g} and {rewards.highest:.4g}"
    if rewards.coarse:
        whole = ", all whole numbers" if rewards.whole else ""
        return _warning(
            f"{fact} and take only {rewards.distinct} values{whole}: a coarse scorer leaves ties to chance. Ask a "
            "judge for a finer scale, or take the mean of several."
        )
    if not 0 <= rewards.lowest <= rewards.highest <= 1:
        return _ok(f"{fact} and take {rewards.distinct} values: no sigmoid squashes them.")
    raw = 'vLLM: "use_activation": false; TEI: "raw_scores": true; Hugging Face endpoints: "function_to_apply": "none"'
    if rewards.near_ends >= 0.5:
        return _problem(
            f"{fact}, {rewards.near_ends:.0%} of them within {END} of 0 or 1: a sigmoid or softmax squashes them, and "
            f"good answers can hardly be told from very good ones. Ask for raw logits ({raw})."
        )
    return _warning(
        f"{fact}: a sigmoid or softmax is suspected. Where the scorer gives probabilities by design, leave it so; "
        f"otherwise ask for raw logits ({raw})."
    )


def _on_repeats(report: ScorerReport) -> Finding:
    if report.repeated <= report.rewards.same:
        return _ok(f"The same call twice gives the same rewards (largest difference {report.repeated:.2g}).")
    fact = f"The same call twice gives rewards up to {report.repeated:.3g} apart (mean margin {report.margin:.3g})"
    if report.repeated >= abs(report.margin):
        return _problem(
            f"{fact}: chance outweighs quality. Set a judge's temperature to 0, or take the mean of several."
        )
    return _warning(f"{fact}: the same seed will not give the same answer. Set a judge's temperature to 0.")


def _on_batches(report: ScorerReport) -> Finding:
    fact = f"A response alone and beside others is given rewards up to {report.alone:.2g} apart"
    if report.alone <= report.rewards.same:
        return _ok(f"{fact}: neighbours do not count.")
    if report.alone <= 2 * report.repeated:
        return _ok(f"{fact}, much as two equal calls are.")
    if report.alone < 0.1 * abs(report.margin):
        return _warning(f"{fact}: low precision (bfloat16) does this, and may tip close calls.")
    return _problem(
        f"{fact}: neighbours count, so that rewards of different calls cannot be compared. Do not rank, standardise or "
        "softmax within a batch, and see whether padding is masked and on the side that the model expects."
    )


def _on_length(report: ScorerReport) -> Finding:
    wins, better = report.longer_wins, report.longer_better
    if wins is None or better is None or wins.n < FEW:
        return _warning(f"Fewer than {FEW} pairs differ in length: a liking for long answers would not be seen.")
    fact = f"The longer answer wins in {wins.share:.0%} of the pairs and is the better one in {better.share:.0%}"
    if not 0.2 <= better.share <= 0.8:
        return _warning(f"{fact}: length and quality cannot be told apart. Balance which side is longer.")
    liking = "long" if wins.share > better.share else "short"
    if not 0.05 < wins.share < 0.95:
        return _problem(f"{fact}: length alone counts, {liking} answers win whatever they say.")
    if abs(wins.share - better.share) > 0.15 and not wins.low <= better.share <= wins.high:
        cure = " Put it into a LengthPenalty." if liking == "long" else ""
        return _warning(f"{fact}: the scorer likes {liking} answers.{cure}")
    return _ok(f"{fact}.")


# The report as text ---------------------------------------------------------------------------------------------------

_WIDTH = 100


def _render(report: ScorerReport) -> str:
    counts = Counter(found.severity for found in report.findings)
    verdict = "passed" if report.passed else "NOT PASSED"
    counted = [f"{n} {severity if severity == 'ok' else severity + 's' * (n > 1)}" for severity, n in counts.items()]
    lines = [
        f"Scorer check of {report.scorer}: {report.pairs} pairs, seed {report.seed}",
        f"{verdict} ({', '.join(counted)})",
        "",
        f"{'':44}{'share':>7}   {'95% interval':14}wins/ties/pairs",
        *_share_line("better answer above the worse one", report.accuracy),
        *(_share_line(f"  (of answers of one length, ±{MATCHED:.0%})", report.matched) if report.matched else ()),
        *_share_line("own prompt above a shuffled one", report.sensitivity),
        *(
            line
            for percent, share in zip(FRACTIONS, report.partial, strict=True)
            for line in _share_line(f"better above worse after {percent}% of the words", share)
        ),
        *_share_line("longer answer above the shorter one", report.longer_wins),
        *_share_line("  (longer one is the better one)", report.longer_better),
        *(line for one in report.subsets for line in _subset_lines(one)),
        "",
        *(f"{name:44}{value}" for name, value in _figures(report)),
        "",
        *(_paragraph(f"{severity:9}", sentence) for severity, sentence in report.findings),
    ]
    wrong = [(i, one) for i, one in enumerate(report.outcomes, 1) if one.better <= one.worse]
    if wrong:
        lines += ["", "Not in order (pair, reward of the better answer, of the worse one):"]
        lines += [_wrong(i, one) for i, one in wrong[:10]]
        lines += [f"… and {len(wrong) - 10} more"] if len(wrong) > 10 else []
    if report.notes:
        lines += ["", "The scorer noted:", *(_paragraph("- ", shortened(note, 300)) for note in report.notes[:5])]
    return "\n".join(lines)


def _figures(report: ScorerReport) -> list[tuple[str, str]]:
    rewards = report.rewards
    effect = "" if report.effect is None else f", {report.effect:.2f} standard deviations"
    return [
        ("mean reward of better less worse", f"{report.margin:+.4g}{effect}"),
        ("all rewards", f"{rewards.lowest:.4g} to {rewards.highest:.4g}, {rewards.distinct} distinct of {rewards.n}"),
        ("largest difference, same call twice", f"{report.repeated:.2g}"),
        ("largest difference, alone or beside others", f"{report.alone:.2g}"),
        (f"seconds a call (median, {report.concurrency} at a time)", f"{report.seconds_per_call:.3g}"),
        ("responses a second", f"{report.responses_per_second:,.1f}"),
        ("asked", f"{report.responses} responses in {report.calls} calls"),
    ]


def _share_line(name: str, share: Share | None) -> list[str]:
    if share is None:
        return [f"{name:44}      –"]
    interval = f"{share.low:.2f} to {share.high:.2f}"
    return [f"{name:44}{share.share:7.2f}   {interval:14}{share.wins}/{share.ties}/{share.n}"]


def _subset_lines(one: SubsetReport) -> list[str]:
    named = shortened(f"in {one.name}", 44)
    lines = ["", *_share_line(named, one.accuracy)]
    lines += _share_line("  of answers of one length", one.matched)
    return [*lines, *_share_line("  by length: the longer one is better", one.longer_better)]


def _wrong(i: int, one: Outcome) -> str:
    about = f"{one.about}: " if one.about else ""
    return f"{i:5}  {one.better:9.4g}  {one.worse:9.4g}  {shortened(about + one.instruction, _WIDTH - 32)}"


def shortened(text: str, width: int) -> str:
    """A text on one line, cut to a width."""
    text = " ".join(text.split())
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _paragraph(mark: str, text: str) -> str:
    return fill(text, _WIDTH, initial_indent=mark, subsequent_indent=" " * len(mark), break_on_hyphens=False)
