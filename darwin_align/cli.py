"""The command line, ``darwin-align``: ``demo``, ``chat``, ``batch``, ``check-scorer``, ``eval``, ``serve``.

Exit codes: 0 done, 1 a model or operator failed or the checked scorer has a problem, 2 bad input or settings,
130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from darwin_align.batch import command as batch
from darwin_align.core import PRESETS, Message, Request, SearchConfig, SearchResult, read_clauses
from darwin_align.core.errors import ConfigError, DarwinError, RequestError
from darwin_align.evaluation.commands import add_eval

if TYPE_CHECKING:
    from darwin_align.operators import Scorer
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
    except BrokenPipeError:  # whoever read our output stopped, e.g. head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (DarwinError, OSError) as error:
        return _fail(error, 1)
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130


def _fail(error: Exception, code: int) -> int:
    print("\n".join([f"darwin-align: {error}", *getattr(error, "__notes__", ())]), file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="darwin-align",
        description="Search for a well rewarded answer while decoding it (DARWIN, arXiv 2406.15193).",
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--preset", default="darwin", help=f"one of {', '.join(PRESETS)} (default: darwin)")
    shared.add_argument("--clauses", metavar="FILE", help="what --preset learned_clauses adds, kept by write_clauses")
    shared.add_argument("--seed", type=int, help="same seed, same answer (demo, batch: 0; chat: drawn anew)")
    shared.add_argument("--policy", metavar="MODEL", help="folder or hub id of a causal language model")
    shared.add_argument("--reward", metavar="MODEL", help="folder or hub id of a one-logit reward model")
    shared.add_argument("--json", action="store_true", help="print JSON instead of text")

    demo = commands.add_parser("demo", parents=[shared], help="one question: plain sample against searched answer")
    demo.add_argument("instruction", nargs="?", help="what to ask (default: a held-out question)")
    demo.add_argument("--html", metavar="FILE", help="also write the search as one page to look at")
    demo.add_argument("--topics", action="store_true", help="list what the embedded pair knows, and stop")
    demo.set_defaults(run=_demo)

    chat = commands.add_parser("chat", parents=[shared], help="talk, with history; /reset forgets, /quit leaves")
    chat.set_defaults(run=_chat)
    batch.add_parser(commands, [shared]).set_defaults(run=lambda arguments: batch.main(arguments, _search))
    _add_check(commands)
    add_eval(commands)
    _add_serve(commands)
    return parser


def _add_serve(commands: Any) -> None:
    from darwin_align.integrations.openai_server.command import add_arguments, run

    serve = commands.add_parser("serve", help="an OpenAI-compatible server for searches and rewards (extra serve)")
    add_arguments(serve)
    serve.set_defaults(run=run)


def _add_check(commands: Any) -> None:
    check = commands.add_parser(
        "check-scorer", help="is a scorer wired rightly? Pairs whose better answer is known tell"
    )
    check.add_argument(
        "--reward", metavar="MODEL", help="folder or hub id of a local model (default: the embedded one)"
    )
    check.add_argument("--url", help="a reward endpoint, or with --judge a chat endpoint, in place of a local model")
    check.add_argument("--dialect", metavar="NAME", help="what the reward endpoint speaks")
    check.add_argument("--model", metavar="NAME", help="the model's name at the URL")
    check.add_argument(
        "--tokenizer", metavar="MODEL", help="folder or hub id whose chat template renders the conversation"
    )
    check.add_argument("--api-key-env", metavar="NAME", help="environment variable that holds the key")
    check.add_argument("--judge", action="store_true", help="the URL is a chat model that judges answers")
    check.add_argument("--pairs", metavar="FILE", help='JSONL, a line: {"prompt": …, "better": …, "worse": …}')
    check.add_argument("--seed", type=int, default=0, help="of the shuffled prompts (default: 0)")
    check.add_argument("--json", action="store_true", help="print JSON instead of text")
    check.set_defaults(run=_check_scorer)


def _search(arguments: argparse.Namespace) -> DarwinSearch:
    learned = {"clauses": read_clauses(arguments.clauses)} if arguments.clauses else {}
    config = SearchConfig.preset(arguments.preset, **learned)
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
        _write_page(result, arguments.html)
        return 0
    from darwin_align.report import print_report, watched

    result, history = watched(search, instruction, seed)
    _write_page(result, arguments.html)
    print_report(
        result, history, _gold(result, result.text, embedded), _gold(result, result.first_response.text, embedded)
    )
    if embedded and not _knows(instruction):
        print(
            f"\nThe embedded pair knows {len(pocket.topics())} everyday topics only (--topics lists them): off them it "
            "writes confident nonsense."
        )
    return 0


def _write_page(result: SearchResult, path: str | None) -> None:
    if path is not None:
        from darwin_align.trace import write_html

        write_html(result, path)


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
        "failure": result.failure,
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


def _check_scorer(arguments: argparse.Namespace) -> int:
    _check_options(arguments)
    from darwin_align.evaluation import check, embedded_pairs, read_pairs

    pairs = None if arguments.pairs is None else read_pairs(arguments.pairs)
    own = pairs is None and arguments.url is None and arguments.reward is None
    if own:
        pairs = embedded_pairs(seed=arguments.seed)
    report = check(_scorer(arguments), pairs, seed=arguments.seed)
    if arguments.json:
        findings = [found._asdict() for found in report.findings]
        shown = {**report.model_dump(mode="json"), "passed": report.passed, "findings": findings}
        print(json.dumps(shown, ensure_ascii=False, indent=2))
    else:
        print(report)
        if own:
            print("\nThese were pairs of the embedded model's own world: it knows nothing else.")
    return 0 if report.passed else 1


def _check_options(arguments: argparse.Namespace) -> None:
    """Refuse options that contradict each other, before anything is loaded."""
    given = {
        f"--{name.replace('_', '-')}"
        for name in ("dialect", "model", "tokenizer", "api_key_env", "judge")
        if getattr(arguments, name)
    }
    if arguments.url is None and given:
        raise ConfigError(f"{min(given)} needs --url: it is for a scorer behind an endpoint")
    if arguments.url is not None and arguments.reward is not None:
        raise ConfigError("--reward is a local model and --url a remote one: give one of them")
    if arguments.judge and (alien := given & {"--dialect", "--tokenizer"}):
        raise ConfigError(f"{min(alien)} is for reward endpoints, and --judge is a chat model: leave one of them out")
    if arguments.judge and arguments.model is None:
        raise ConfigError("--judge needs --model: the name of the chat model at the URL")
    if arguments.api_key_env is not None and not os.environ.get(arguments.api_key_env):
        raise ConfigError(f"--api-key-env: the environment variable {arguments.api_key_env} is not set")


def _scorer(arguments: argparse.Namespace) -> Scorer:
    if arguments.url is None:
        from darwin_align.backends.local import LocalScorer
        from darwin_align.pocket import reward_path

        embedded = arguments.reward is None
        # One thread: for a model this small, more threads only wait for each other.
        return LocalScorer.from_pretrained(arguments.reward or reward_path(), threads=1 if embedded else None)
    from pydantic import SecretStr

    from darwin_align.backends.endpoint import EndpointScorer, JudgeScorer

    names = ("model",) if arguments.judge else ("dialect", "model", "tokenizer")
    options = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    if arguments.api_key_env is not None:
        options["api_key"] = SecretStr(os.environ[arguments.api_key_env])
    kind = JudgeScorer if arguments.judge else EndpointScorer
    scorer: Scorer = kind(base_url=arguments.url, **options)
    return scorer


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
