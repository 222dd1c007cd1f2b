"""The demo's screen: one search, explained to a newcomer. Needs rich (the extra ``cli``)."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from darwin_align.cli.activity import working
from darwin_align.core import Beam, Event, Population, SearchConfig, SearchResult
from darwin_align.core.errors import ConfigError
from darwin_align.core.terminal import printable

try:
    from rich.columns import Columns
    from rich.console import Console, Group
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text
except ImportError:
    raise ConfigError("the report needs rich: pip install 'darwin-align[cli]', or use --json") from None

if TYPE_CHECKING:
    from darwin_align.pocket import Gold
    from darwin_align.search import DarwinSearch

__all__ = ["print_report", "watched"]

_EXPLORES = {
    "auto": "a cycle rewords the instruction, or adds guidance to it, and decodes beams under each of the results",
    "aspects": "a cycle adds guidance sentences to the instruction and decodes beams under each of the results",
    "policy": "a cycle rewords the instruction and decodes beams under each rewording",
    "crossover": "a cycle rewords the instruction or combines the guidance of two, and decodes beams under the results",
    "fusion": "a cycle rewords the instruction, in one place shows the best answers, and decodes beams under each",
    "critique": "a cycle rewords the instruction, adds what a critique asks for, and decodes beams under the results",
    "clauses": "a cycle adds learned clauses to the instruction and decodes beams under each of the results",
    "identity": "a cycle decodes beams under the instruction as it is",
}
_EXPLOITS = {
    "none": "The answers are scored against the original instruction when they are finished.",
    "top_k": "After every {m} tokens all beams are scored against the original instruction, and those outside the best "
    "take the text of one of them.",
}
_OTHERS = (
    "After every {m} tokens all beams are scored against the original instruction, and {selector!r} says who goes on."
)
_DESCENDS = "Instructions that did better than their parent are the parents of the next cycle."

History = list[tuple[Event, Population]]


def watched(search: DarwinSearch, instruction: str, seed: int) -> tuple[SearchResult, History]:
    """Run a search under a live progress line and keep the populations that it went through."""
    history: History = []
    with working("searching") as update:

        def on_event(event: Event, population: Population) -> None:
            if event.answered:  # else the population is what an earlier event led to
                history.append((event, population))
            update(_progress(event, population, search.config.cycles))

        result = search.invoke(instruction, seed=seed, on_event=on_event)
    return result, history


def _progress(event: Event, population: Population, cycles: int) -> str:
    rewards = [beam.reward for beam in population.beams if beam.reward is not None]
    best = f" · best {max(rewards):.2f}" if rewards else ""
    return (
        f"cycle {event.cycle + 1}/{max(cycles, 1)} · step {event.step + 1} · {event.operator} · "
        f"{len(population.open)} of {len(population.beams)} beams decoding{best} · "
        f"{population.usage.decoded_tokens} tokens"
    )


def print_report(result: SearchResult, history: History, gold: Gold | None, first_gold: Gold | None) -> None:
    """Print plain sample against searched answer, then how it came about."""
    console = Console()
    console.print(Text.assemble(("You asked: ", "bold"), printable(result.request.instruction)), "")
    answers = [
        _answer("A plain sample", result.first_response, first_gold, "white"),
        _answer("DARWIN's answer", result.best, gold, "green"),
    ]
    wide = console.width >= 100
    console.print(Columns(answers, equal=True, expand=True, width=(console.width - 2) // 2) if wide else answers[0])
    if not wide:
        console.print(answers[1])
    if gold and first_gold:
        console.print(_breakdown(gold, first_gold))
    if tables := _cycles(history):
        console.print(Text(f"\nHow it got there: {_method(result.config)}", style="dim"))
        console.print(*tables, sep="\n")
    console.print(_story(result))


def _method(config: SearchConfig) -> str:
    exploits = _EXPLOITS.get(config.selector, _OTHERS).format(m=config.replacement_period, selector=config.selector)
    descends = [_DESCENDS] if config.cycles > 1 and config.mutator != "identity" else []
    return " ".join([f"{_EXPLORES[config.mutator]}.", exploits, *descends])


def _answer(title: str, beam: Beam, gold: Gold | None, colour: str) -> Panel:
    verdict = f"reward {beam.reward:.2f}" if beam.reward is not None else "unscored"
    if beam.thoughts:
        verdict += f" · behind {len(beam.thoughts.split())} words of thoughts"
    if gold:
        verdict += f" · gold {gold.total:.1f}"
    return Panel(
        Text(printable(beam.text) or "(empty)"), title=title, subtitle=verdict, border_style=colour, title_align="left"
    )


def _breakdown(gold: Gold, first: Gold) -> Group:
    title = Text("Gold: what each answer is really worth, by a rule that the search never sees", style="italic")
    table = Table(box=None, pad_edge=False)
    names = sorted({*gold.parts, *first.parts}, key=lambda name: -gold.parts.get(name, 0.0))
    table.add_column("")
    for name in (*names, "total"):
        table.add_column(name, justify="right")
    for label, verdict in (("plain", first), ("DARWIN", gold)):
        points = [f"{verdict.parts[name]:+.1f}" if name in verdict.parts else "·" for name in names]
        table.add_row(label, *points, f"{verdict.total:+.1f}")
    return Group(title, table)


def _cycles(history: History) -> list[Table]:
    """One table a cycle: each beam's instruction, whose state it took and when, its wins and its final reward."""
    taken: dict[tuple[int, int], list[str]] = defaultdict(list)
    last: dict[int, Population] = {}
    for event, population in history:
        last[event.cycle] = population
        if event.operator == "select":
            for i, changes in event.delta.beams.items():
                if "ancestor" in changes:
                    taken[event.cycle, i].append(f"{changes['ancestor']['beam'] + 1} (step {event.step + 1})")
    return [_cycle(cycle, population, taken) for cycle, population in last.items() if population.groups()]


def _cycle(cycle: int, population: Population, taken: dict[tuple[int, int], list[str]]) -> Table:
    steps = population.step.index + 1
    table = Table(
        title=_cell(f"Cycle {cycle + 1}, {steps} steps, from “{population.parent}”"),
        title_justify="left",
        box=None,
        pad_edge=False,
        expand=True,
    )
    table.add_column("beam", justify="right")
    table.add_column("decoded under", overflow="ellipsis", no_wrap=True, ratio=3)
    table.add_column("took the text of", overflow="ellipsis", no_wrap=True, ratio=2)
    table.add_column("wins", justify="right")
    table.add_column("reward", justify="right")
    contenders = [population.beams[i] for i in population.contenders]
    top = max((beam.reward for beam in contenders if beam.reward is not None), default=None)
    for i, beam in enumerate(population.beams):
        if not beam.first_response:
            reward = "·" if beam.reward is None else f"{beam.reward:.2f}"
            moves = ", ".join(taken[cycle, i]) or "–"
            style = "green" if beam.reward is not None and beam.reward == top else ""
            table.add_row(str(i + 1), _cell(beam.instruction), moves, str(beam.wins), reward, style=style)
    return table


def _cell(text: str) -> Text:
    """A line of any text: in a plain string, rich would read markup."""
    return Text(printable(text, single_line=True), overflow="ellipsis", no_wrap=True)


def _story(result: SearchResult) -> Text:
    usage = result.usage
    won = "the plain sample itself" if result.best.first_response else f"“{printable(result.instruction)}”"
    return Text.assemble(
        ("\nWon under: ", "bold"),
        won,
        f"\n{result.cycles} cycles · {usage.decoded_tokens} tokens decoded · {usage.reward_calls} responses scored · "
        f"{usage.seconds:.1f} s in models · stopped by {result.stop_reason} · seed {result.config.seed}",
        f"\n{printable(result.failure)}" if result.failure else "",
    )
