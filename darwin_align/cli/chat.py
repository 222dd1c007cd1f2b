"""``darwin-align chat``: a conversation, each turn searched."""

from __future__ import annotations

import argparse
import sys
import textwrap
from typing import TYPE_CHECKING

from darwin_align.cli.activity import working
from darwin_align.cli.demo import summary_of
from darwin_align.cli.options import add_models, add_settings, build_search, has_own_policy
from darwin_align.cli.parsing import Commands, examples
from darwin_align.core import Message, Request, SearchResult
from darwin_align.core.errors import RequestError
from darwin_align.core.terminal import printable, printable_json

if TYPE_CHECKING:
    from darwin_align.search import DarwinSearch

__all__ = ["add_chat"]


def add_chat(commands: Commands) -> None:
    """Add the command to the program's."""
    chat = commands.add_parser(
        "chat",
        help="talk, with history; /reset forgets, /quit leaves",
        usage="%(prog)s [options] [QUESTION]",
        description="Talk, with history. /reset forgets the conversation, /quit leaves. A question is answered alone.",
        epilog=examples("""
            darwin-align chat --preset best_of_n
            darwin-align chat --pair small "How do I brew green tea?"
            darwin-align chat --policy FOLDER --reward FOLDER --set cycles=1 --set max_tokens=256
        """),
    )
    chat.add_argument("question", nargs="?", metavar="QUESTION", help="answer this and end, instead of talking")
    chat.add_argument("--json", action="store_true", help="print a line of JSON for each turn instead of text")
    add_models(chat)
    add_settings(chat, seed="drawn anew for each turn")
    chat.set_defaults(run=_chat, parser=chat)


def _chat(arguments: argparse.Namespace) -> int:
    search = build_search(arguments)
    if arguments.question is not None:
        _answer(search, Request.of(arguments.question), arguments)
        return 0
    turns: list[Message] = []
    if not arguments.json:
        print("Ask anything. /reset forgets the conversation, /quit leaves.")
    while (line := _read("" if arguments.json else "\nyou> ")) is not None and line != "/quit":
        if line == "/reset":
            turns = []
        elif line:
            request = Request(conversation=(*turns, Message(role="user", content=line)))
            try:
                result = _answer(search, request, arguments)
            except RequestError as error:
                print(printable(f"darwin-align: {error}"), file=sys.stderr)
                continue
            turns = [*request.conversation, Message(role="assistant", content=result.text)]
    return 0


def _answer(search: DarwinSearch, request: Request, arguments: argparse.Namespace) -> SearchResult:
    with working("searching"):
        result = search.invoke(request, seed=arguments.seed)
    _print_turn(result, arguments)
    return result


def _read(prompt: str) -> str | None:
    try:
        return input(prompt).strip()
    except EOFError:
        return None


def _print_turn(result: SearchResult, arguments: argparse.Namespace) -> None:
    if arguments.json:
        print(printable_json(summary_of(result, embedded=not has_own_policy(arguments))), flush=True)
        return
    if result.thoughts:
        print(f"[{len(result.thoughts.split())} words of thoughts: --json shows them]")
    print("\n".join(textwrap.fill(line, 100) for line in printable(result.text).split("\n")))
    first = result.first_response.reward
    print(f"[reward {_number(result.reward)}, plain sample {_number(first)}, seed {result.config.seed}]")


def _number(value: float | None) -> str:
    return "unscored" if value is None else f"{value:.2f}"
