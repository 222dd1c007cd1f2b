"""Writers that kill themselves at each system call in turn, each in a folder of its own.

One process forks them all, so that Python starts once. ``before-3`` dies before its third system call; ``within-3``
dies in the middle of its third ``os.write``, half of whose bytes are in the file.
"""

import os
import signal
import sys
from itertools import count
from pathlib import Path
from typing import Any

from darwin_align.storage.atomic import write_atomically
from darwin_align.storage.journal import Journal

LINES = [b'{"n":%d,"text":"%s"}' % (n, b"x" * 20) for n in range(4)]
OLD, NEW = b"old\n" * 3, b"new\n" * 3

_open, _write = os.open, os.write


def main(folder: Path) -> None:
    for kind in ("before", "within"):
        for moment in count(1):
            if not _killed(kind, moment, folder / f"{kind}-{moment}"):
                break


def _killed(kind: str, moment: int, folder: Path) -> bool:
    folder.mkdir()
    if not (child := os.fork()):
        _arm(kind, moment)
        _work(folder)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert status == 0 or os.WTERMSIG(status) == signal.SIGKILL, (folder, status)
    return status != 0


def _arm(kind: str, moment: int) -> None:
    left = [moment]

    def counted(name: str) -> None:
        call = getattr(os, name)

        def armed(*args: Any, **named: Any) -> Any:
            left[0] -= 1
            if not left[0]:
                if kind == "within":
                    file, data = args
                    call(file, data[: len(data) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **named)

        setattr(os, name, armed)

    for name in ("write",) if kind == "within" else ("open", "mkdir", "write", "fsync", "ftruncate", "replace"):
        counted(name)


def _work(folder: Path) -> None:
    """Append lines and write a file twice; ``done`` gets a byte for each that returned, by calls that are not armed."""
    done = _open(folder / "done", os.O_WRONLY | os.O_CREAT)
    with Journal(folder / "deep" / "journal.jsonl") as journal:
        for line in LINES:
            journal.append(line)
            _write(done, b"j")
    for data in (OLD, NEW):
        write_atomically(folder / "file", data)
        _write(done, b"f")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
