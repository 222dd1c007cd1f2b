"""The engine: rows of many searches on one model, with every token read once.

``slot_manager``, ``buckets`` and ``admission`` make decisions on plain data. ``slots``, ``state`` and ``forward``
contain the tensors, and ``slot_store`` keeps them in one layout. ``scheduler`` moves ``rows`` through the slots, and
``decoding`` issues their steps. Callers use ``engine`` with ``sequences``; ``worker`` is its thread.
"""

from darwin_align.backends.local.engine.engine import Engine
from darwin_align.backends.local.engine.sequences import DecodeSequence, ReadSequence

__all__ = ["DecodeSequence", "Engine", "ReadSequence"]
