"""The command line: ``darwin-align demo`` and ``darwin-align chat``.

Exit codes: 0 done, 1 a model or operator failed, 2 bad input or settings, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from darwin_align.core import PRESETS, Message, Request, SearchConfig, SearchResult
from darwin_align.core.errors import ConfigError, DarwinError, RequestError

if TYPE_CHECKING:
    from darwin_align.pocket import Gold
    from darwin_align.search import DarwinSearch

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = _parser().parse_args(argv)
    try:
        code = int(arguments.run(arguments))
        sys.stdout.flush()
        return code
    except (ConfigError, RequestError) as error:
        return _fail(error, 2)
    except (DarwinError, FileNotFoundError) as error:
        return _fail(error, 1)
    except BrokenPipeError:  # whoever read our output stopped, e.g. head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130


def _fail(error: Exception, code: int) -> int:
    print(f"darwin-align: {error}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="darwin-align",
        description="Search for a well rewarded answer while decoding it (DARWIN, arXiv 2406.15193).",
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--preset", default="darwin", help=f"one of {', '.join(PRESETS)} (default: darwin)")
    shared.add_argument("--seed", type=int, help="same seed, same answer (demo: 0; chat: drawn anew)")
    shared.add_argument("--policy", metavar="MODEL", help="folder or hub id of a causal language model")
    shared.add_argument("--reward", metavar="MODEL", help="folder or hub id of a one-logit reward model")
    shared.add_argument("--json", action="store_true", help="print JSON instead of text")

    demo = commands.add_parser("demo", parents=[shared], help="one question: plain sample against searched answer")
    demo.add_argument("instruction", nargs="?", help="what to ask (default: a held-out question)")
    demo.add_argument("--topics", action="store_true", help="list what the embedded pair knows, and stop")
    demo.set_defaults(run=_demo)

    chat = commands.add_parser("chat", parents=[shared], help="talk, with history; /reset forgets, /quit leaves")
    chat.set_defaults(run=_chat)
    return parser


def _search(arguments: argparse.Namespace) -> DarwinSearch:
    config = SearchConfig.preset(arguments.preset)
    if (arguments.policy is None) != (arguments.reward is None):
        raise ConfigError("--policy and --reward go together: give both, or neither for the embedded pair")
    if arguments.policy is None:
        from darwin_align.pocket.pair import pocket_search

        return pocket_search(config)
    from darwin_align.chat_model import DarwinChatModel

    return DarwinChatModel.from_pretrained(arguments.policy, arguments.reward, config=config).search


def _demo(arguments: argparse.Namespace) -> int:
    from darwin_align import pocket

    if arguments.topics:
        print("\n".join(topic.task for topic in pocket.topics()))
        return 0
    instruction = arguments.instruction if arguments.instruction is not None else pocket.held_out(2)[1]
    search = _search(arguments)
    seed = 0 if arguments.seed is None else arguments.seed
    embedded = arguments.policy is None
    if arguments.json:
        result = search.invoke(instruction, seed=seed)
        print(json.dumps(_summary(result, embedded), ensure_ascii=False, indent=2))
        return 0
    from darwin_align.report import print_report, watched

    result, history = watched(search, instruction, seed)
    print_report(
        result, history, _gold(result, result.text, embedded), _gold(result, result.first_response.text, embedded)
    )
    if embedded and not _knows(instruction):
        print(
            f"\nThe embedded pair knows {len(pocket.topics())} everyday topics only (--topics lists them): off them it "
            "writes confident nonsense."
        )
    return 0


def _summary(result: SearchResult, embedded: bool) -> dict[str, Any]:
    gold, first_gold = (_gold(result, text, embedded) for text in (result.text, result.first_response.text))
    return {
        "instruction": result.request.instruction,
        "answer": result.text,
        "reward": result.reward,
        "first_response": result.first_response.text,
        "first_reward": result.first_response.reward,
        "gold": gold and gold.total,
        "first_gold": first_gold and first_gold.total,
        "winning_instruction": result.instruction,
        "cycles": result.cycles,
        "stop_reason": result.stop_reason,
        "seed": result.config.seed,
        "usage": result.usage.model_dump(),
    }


def _knows(instruction: str) -> bool:
    from darwin_align.pocket.world import understand

    return understand(instruction) is not None


def _gold(result: SearchResult, text: str, embedded: bool) -> Gold | None:
    """The gold rule's verdict, where it knows the question."""
    from darwin_align.pocket import gold

    instruction = result.request.instruction
    return gold(instruction, text) if embedded and _knows(instruction) else None


def _chat(arguments: argparse.Namespace) -> int:
    search = _search(arguments)
    turns: list[Message] = []
    if not arguments.json:
        print("Ask anything. /reset forgets the conversation, /quit leaves.")
    while (line := _read("" if arguments.json else "\nyou> ")) is not None and line != "/quit":
        if line == "/reset":
            turns = []
        elif line:
            request = Request(conversation=(*turns, Message(role="user", content=line)))
            try:
                result = search.invoke(request, seed=arguments.seed)
            except RequestError as error:
                _fail(error, 2)
                continue
            turns = [*request.conversation, Message(role="assistant", content=result.text)]
            _print_turn(result, arguments)
    return 0


def _read(prompt: str) -> str | None:
    try:
        return input(prompt).strip()
    except EOFError:
        return None


def _print_turn(result: SearchResult, arguments: argparse.Namespace) -> None:
    if arguments.json:
        print(json.dumps(_summary(result, arguments.policy is None), ensure_ascii=False), flush=True)
        return
    print("\n".join(textwrap.fill(line, 100) for line in result.text.splitlines()))
    first = result.first_response.reward
    print(f"[reward {_number(result.reward)}, plain sample {_number(first)}, seed {result.config.seed}]")


def _number(value: float | None) -> str:
    return "unscored" if value is None else f"{value:.2f}"


if __name__ == "__main__":
    sys.exit(main())
