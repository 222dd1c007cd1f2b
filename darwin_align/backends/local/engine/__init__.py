"""The engine: rows of many searches on one model, every token read once.

``book`` and ``buckets`` decide as plain data; ``slots``, ``state`` and ``forward`` hold the tensors; ``engine`` is the
loop and ``worker`` its thread.
"""

from darwin_align.backends.local.engine.engine import Engine, Line, ReadLine

__all__ = ["Engine", "Line", "ReadLine"]
