"""Count the library's frames from ``DarwinChatModel.invoke`` to a sampled token, on the embedded pair.

``python -m benchmarks.frames`` prints the longest chain of the decoder: the frames of the calling thread down to the
engine's queue, then those of the engine's thread down to the sampler. Frames of LangChain, torch and the standard
library are not counted.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from traceback import FrameSummary, extract_stack
from typing import Any
from unittest.mock import patch

__all__ = ["AIM", "longest_chain", "main"]

AIM = 12
"""Frames that the chain should have at most."""
PACKAGE = Path(__file__).parents[1] / "darwin_align"
POLICY = str(PACKAGE / "backends" / "local" / "policy.py")


def longest_chain() -> list[FrameSummary]:
    """The library's frames of the longest chain in one short search, outermost first."""
    from darwin_align.backends.local.engine.engine import Engine
    from darwin_align.backends.local.sampling import Sampler
    from darwin_align.chat_model import DarwinChatModel
    from darwin_align.core import SearchConfig

    model = DarwinChatModel(config=SearchConfig(mutations=2, cycles=1, max_new_tokens=8, replacement_period=4))
    queued: list[list[FrameSummary]] = []
    sampled: list[list[FrameSummary]] = []
    with _stacks_of(Engine, "submit", queued), _stacks_of(Sampler, "draw", sampled):
        model.invoke("How do I brew green tea?", seed=1)
    decoder = [stack for stack in queued if any(frame.filename == POLICY for frame in stack)]  # others read rewards
    return [*max(decoder, key=len), *max(sampled, key=len)]


@contextmanager
def _stacks_of(owner: type, name: str, stacks: list[list[FrameSummary]]) -> Iterator[None]:
    """Record the library's frames whenever a method is called, its own included."""
    method: Callable[..., Any] = getattr(owner, name)

    def recorded(*args: Any, **kwargs: Any) -> Any:
        own = [frame for frame in extract_stack() if Path(frame.filename).is_relative_to(PACKAGE)]
        code = method.__code__
        stacks.append([*own, FrameSummary(code.co_filename, code.co_firstlineno, code.co_qualname)])
        return method(*args, **kwargs)

    with patch.object(owner, name, recorded):
        yield


def main() -> int:
    """Print the chain; the exit code is 1 if it is longer than the aim."""
    frames = longest_chain()
    for frame in frames:
        print(f"{Path(frame.filename).relative_to(PACKAGE)}:{frame.lineno}  {frame.name}")
    print(f"{len(frames)} frames (aim {AIM})")
    return int(len(frames) > AIM)


if __name__ == "__main__":
    sys.exit(main())
