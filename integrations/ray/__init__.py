"""A batch on many machines: the job of ``darwin-align batch`` on Ray Data, from prompts to parquet.

The keys, the seeds and the answers are those of a local run. See README.md beside this file. Names load on first use:
the command says which extra it needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from darwin_align.lazy import lazy_getattr

if TYPE_CHECKING:
    from darwin_align.integrations.ray.answers_file import read_answers
    from darwin_align.integrations.ray.job import RayReport, answer_on_ray

__all__ = ["RayReport", "answer_on_ray", "read_answers"]

_HOMES = {"RayReport": "job", "answer_on_ray": "job", "read_answers": "answers_file"}

__getattr__ = lazy_getattr(__name__, {name: f"{__name__}.{home}" for name, home in _HOMES.items()})
