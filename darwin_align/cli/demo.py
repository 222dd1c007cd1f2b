"""``darwin-align demo``: one question, the plain sample against the searched answer."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from darwin_align.cli.activity import working
from darwin_align.cli.options import add_models, add_settings, build_search, check_models, has_own_policy, is_small
from darwin_align.cli.parsing import Commands, examples
from darwin_align.core import SearchResult
from darwin_align.core.errors import ConfigError
from darwin_align.core.figures import figures_of
from darwin_align.core.terminal import printable_json

if TYPE_CHECKING:
    from darwin_align.pocket import Gold

__all__ = ["add_demo", "summary_of"]

SMALL: dict[str, Any] = {"cycles": 1, "mutations": 3, "replacement_period": 32, "max_new_tokens": 96}
"""Settings for models of one's own, unless any are given: 135M parameters end in about a minute on two cores."""
_REWORDING_TOKENS = 128
"""With them: three rewordings of a question are shorter, and a small model's reply that is none may go on for ever."""


def add_demo(commands: Commands) -> None:
    """Add the command to the program's."""
    demo = commands.add_parser(
        "demo",
        help="one question: plain sample against searched answer",
        usage="%(prog)s [options] [INSTRUCTION]",
        description="Ask one question, and compare a plain sample with the answer that the search finds.",
        epilog=examples("""
            darwin-align demo "How do I brew green tea?"
            darwin-align demo "How do I brew green tea?" --preset best_of_n --set mutations=8 --html tea.html
            darwin-align demo "Why is the sky blue?" --policy FOLDER --reward FOLDER --set cycles=3 --set max_tokens=512
            darwin-align demo "Say something short." --reward scorer.py:score
        """),
    )
    demo.add_argument("instruction", nargs="?", metavar="INSTRUCTION", help="the question (default: a held-out one)")
    demo.add_argument("--html", metavar="FILE", help="also write the search as one page to look at")
    demo.add_argument("--topics", action="store_true", help="list the topics of the embedded pair, and stop")
    demo.add_argument("--json", action="store_true", help="print JSON instead of text")
    add_models(demo)
    add_settings(demo, seed="0")
    demo.set_defaults(run=_demo, parser=demo)


def _demo(arguments: argparse.Namespace) -> int:
    from darwin_align import pocket

    if arguments.topics:
        print("\n".join(topic.task for topic in pocket.topics()))
        return 0
    check_models(arguments)
    _check_page(arguments.html)
    if not arguments.json:
        import darwin_align.cli.report  # noqa: F401 - a missing rich is an error before models are loaded
    instruction = arguments.instruction if arguments.instruction is not None else pocket.held_out(2)[1]
    own = has_own_policy(arguments)
    small = own and not is_small(arguments) and not arguments.set and arguments.preset is None
    search = build_search(arguments, rewording_tokens=_REWORDING_TOKENS, **SMALL) if small else build_search(arguments)
    seed = 0 if arguments.seed is None else arguments.seed
    if arguments.json:
        with working("searching"):
            result = search.invoke(instruction, seed=seed)
        print(printable_json(summary_of(result, embedded=not own), indent=2))
        _write_page(result, arguments.html)
        return 0
    from darwin_align.cli.report import print_report, watched

    result, history = watched(search, instruction, seed)
    _write_page(result, arguments.html)
    gold, first_gold = (_gold(result, text, embedded=not own) for text in (result.text, result.first_response.text))
    print_report(result, history, gold, first_gold)
    _print_hints(instruction, own=own, small=small)
    return 0


def _print_hints(instruction: str, *, own: bool, small: bool) -> None:
    if small:
        settings = " ".join(f"{name}={value}" for name, value in SMALL.items())
        print(
            f"\nThis was a short search ({settings}), to end in about a minute on a small model. "
            "--preset darwin searches as long as the paper does; --set cycles=2 --set max_tokens=512 is between them."
        )
    elif not own and not _is_known(instruction):
        from darwin_align import pocket

        print(
            f"\nThe embedded pair knows {len(pocket.topics())} everyday topics only (--topics lists them): off them it "
            "writes confident nonsense."
        )


def _check_page(path: str | None) -> None:
    if path is not None and not (folder := Path(path).parent).is_dir():
        raise ConfigError(f"--html {path}: there is no folder {folder}")


def _write_page(result: SearchResult, path: str | None) -> None:
    if path is not None:
        from darwin_align.traces import write_html

        write_html(result, path)


def summary_of(result: SearchResult, *, embedded: bool) -> dict[str, Any]:
    """A search as plain data.

    Args:
        result: of the search.
        embedded: whether the embedded policy answered, so that the gold rule may cover the question.
    """
    gold, first_gold = (_gold(result, text, embedded=embedded) for text in (result.text, result.first_response.text))
    return {
        "instruction": result.request.instruction,
        "answer": result.text,
        **figures_of(result, "thoughts", "reward", "first_response", "first_reward"),
        "gold": gold and gold.total,
        "first_gold": first_gold and first_gold.total,
        "winning_instruction": result.instruction,
        **figures_of(result, "cycles", "stop_reason", "failure", "seed", "usage"),
    }


def _is_known(instruction: str) -> bool:
    from darwin_align.pocket.world import understand

    return understand(instruction) is not None


def _gold(result: SearchResult, text: str, *, embedded: bool) -> Gold | None:
    """The gold rule's verdict, where it covers the question."""
    from darwin_align.pocket import gold

    instruction = result.request.instruction
    return gold(instruction, text) if embedded and _is_known(instruction) else None
