"""The engine: rows of many searches on one model, every token read once.

``slot_manager``, ``buckets`` and ``admission`` decide as plain data; ``slots``, ``state`` and ``forward`` hold the
tensors; ``engine`` is the loop, ``rows`` its work in hand and ``worker`` its thread; callers give it
``sequences``.
"""

from darwin_align.backends.local.engine.engine import Engine
from darwin_align.backends.local.engine.sequences import DecodeSequence, ReadSequence

__all__ = ["DecodeSequence", "Engine", "ReadSequence"]
